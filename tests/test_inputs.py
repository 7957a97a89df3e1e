"""core/inputs.py and core/names.py: what comes from outside is right, or one sentence that names it."""
import json
import os
import re
import warnings
import zipfile
from numbers import Real

import numpy as np
import pytest

from core.errors import DataError
from core.inputs import (
    COUNT,
    csv_rows,
    fault,
    parsed,
    read_bytes,
    read_json,
    read_lines,
    read_npy,
    read_npz,
    read_table,
    read_text,
)
from core.names import cell, markdown, name_fault, text_of_cell


def said(function, *arguments, **options):
    """The sentence of the DataError that a call raises."""
    with pytest.raises(DataError) as found:
        function(*arguments, **options)
    return str(found.value)


# --- files and text ------------------------------------------------------------------------------------------

def test_what_is_no_file_is_neither_waited_for_nor_read_without_end(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "large").write_bytes(b"12345")
    for name, words in {"pipe": "not a regular file", "zero": "not a regular file", "none": "No such file",
                        "loop": "Too many levels of symbolic", ".": "Is a directory",
                        "large": "5 bytes, more than 4"}.items():
        sentence = said(read_text, tmp_path / name, "mend it", most=4)
        assert words in sentence and sentence.startswith(str(tmp_path / name)) and sentence.endswith(": mend it")
    assert read_bytes(tmp_path / "large", most=5) == b"12345"
    assert "more than 9 bytes" in said(read_text, "/proc/self/status", most=9)  # its size is 0
    assert len(read_bytes("/proc/self/status")) > 9


def test_what_is_refused_stays_not_open(tmp_path):
    (tmp_path / "large").write_bytes(b"12345")
    before = os.listdir("/proc/self/fd")
    for path in (tmp_path, tmp_path / "large", "/dev/null"):
        with pytest.raises(OSError):
            read_bytes(path, most=4)
    assert os.listdir("/proc/self/fd") == before


def test_text_is_utf_8_and_its_lines_end_where_lines_end(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(b"\xef\xbb\xbfa\r\nb \xe2\x80\xa8c\x0bd\x85"[:-1] + "\x85e\n\n".encode())
    assert read_lines(path) == ["a", "b \u2028c\x0bd\x85e", ""]
    path.write_bytes(b"a\nb\n\xff")
    assert said(read_lines, path, "write it again") == (
        f"{path} row 3: not UTF-8: save the file as UTF-8, or write it again")


# --- JSON ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("value, shape, words", [
    ({"a": 1, "more": None}, {"a": int}, None), ({"a": True}, {"a": int}, "a is not a whole number"),
    ({"a": 1.0}, {"a": int}, "a is not a whole number"), ({"a": 10**19}, {"a": int}, "a is not a whole number"),
    ({"a": float("nan")}, {"a": float}, "a is not a finite number"), ({"a": 1}, {"a": float}, None),
    ({"b": 1}, {"a": int}, "its content has no a"), ([], {"a": int}, "its content is not a dictionary"),
    ({"a": [1, "x"]}, {"a": [int]}, "a[1] is not a whole number"), ({"a": {"b": "c"}}, {str: {str: str}}, None),
    ({"a": None}, {"a": (None, str)}, None), ({"a": 3}, {"a": (None, str)}, "a is not text"),
    ({"a": [{"b": [1, None, "x", True]}]}, object, None), ({"a": "\ud800"}, {"a": str}, "a is not text"),
    ({"a": [float("inf")]}, object, "a[0] is not a finite number"),
    ({"a": float("nan")}, {"a": Real}, None), ({"a": True}, {"a": Real}, "a is not a number"),
    ({"a": 0}, {"a": COUNT}, "a is not a whole number from 1 to 2147483647"), ({"a": 1}, {"a": COUNT}, None),
    ({"a": "b"}, {"a": ("c", "b")}, None), ({"a": "d"}, {"a": ("c", "b")}, "a is not b"),
    ({"a": 1, "b": "x"}, {"a": int, str: str}, None), ({"a": 1, "b\n": 1}, {"a": int, str: str}, "'b\\n' is not text"),
    ({"b": "x"}, {"a": int, str: str}, "its content has no a"),
    ([{"a": 1}, {"a": "x"}], [{"a": int}], "a of its content[1] is not a whole number"),
    ({"a": [{"b\n": {"c": 1}}]}, {"a": [{str: {"c": str}}]}, "c of 'b\\n of a[0]' is not text"),
    ({"a": [[{"b\n": 1}]]}, {"a": [[{str: str}]]}, "'b\\n of a[0][0]' is not text"),
])
def test_shapes(value, shape, words):
    assert fault(value, shape) == words


@pytest.mark.parametrize("text, words", [
    ("[" * 100000, "not JSON: too deep"), ("[" * 40 + "]" * 40, "is too deep"), ("{", "not JSON: Expecting"),
    ("1" * 10000, "not JSON: Exceeds the limit"), ("1e999", "its content is not a finite number"),
    ("", "not JSON: Expecting value"), ('[{"a": 1, "b": 2, "a": 1}]', "not JSON: 'a' stands there twice")])
def test_json_that_is_none(tmp_path, text, words):
    path = tmp_path / "x.json"
    path.write_text(text)
    sentence = said(read_json, path, object, "write it again")
    assert sentence.startswith(f"{path} is damaged (") and words in sentence and sentence.endswith(": write it again")
    assert len(sentence) < 400 + len(str(path))


def test_json_is_what_was_written(tmp_path):
    content = {"a": [1, 2.5, None, "é", {"b": True}]}
    assert parsed(json.dumps(content), object, "x") == content


# --- CSV -----------------------------------------------------------------------------------------------------

def test_tables(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes('video,frames\r\n"a,b",3\r\n\r\n\x85,4\r\n'.encode())
    assert read_table(path, ("video", "frames")) == [{"video": "a,b", "frames": "3"}, {"video": "\x85", "frames": "4"}]
    for content, words in {"video\na\n": "row 1: expected the columns video,frames, got 'video'",
                           "video,frames\na,1\nb\n": "row 3: 1 fields, not 2", "": "row 1: expected the columns",
                           "video,frames\n\"a,1\n": "row 2: not a row of CSV",
                           f"video,frames\n{'x' * 131073},1\n": "row 2: not a row of CSV"}.items():
        path.write_text(content)
        assert words in said(read_table, path, ("video", "frames"))


def test_rows_are_numbered_as_an_editor_shows_them():
    assert list(csv_rows("a,1\n\nb,2\n", "x", "")) == [(1, ["a", "1"]), (3, ["b", "2"])]


# --- arrays --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("array", [np.arange(6, dtype="f4").reshape(2, 3), np.zeros((0, 3), "f4"), np.arange(4),
                                   np.array(["é $x$", "\U0001f600"]), np.array("{}")])
def test_arrays_are_what_was_saved(tmp_path, array):
    np.save(tmp_path / "x.npy", array)
    np.savez(tmp_path / "x.npz", a=array, b=array)
    kind = "U" if array.dtype.kind == "U" else array.dtype.str, array.ndim
    found = [read_npy(tmp_path / "x.npy", *kind), *read_npz(tmp_path / "x.npz", {"a": kind, "b": kind}).values()]
    for one in found:
        assert one.dtype == array.dtype and np.array_equal(one, array) and one.flags.writeable


def test_text_in_archives_is_text(tmp_path):
    names = np.array(["Run/v 1", "é\U0001f600", ""])
    np.savez(tmp_path / "x.npz", names=names, one=json.dumps({"a": 1}))
    found = read_npz(tmp_path / "x.npz", {"names": ("U", 1), "one": ("U", 0)})
    assert found["names"].tolist() == names.tolist() and json.loads(str(found["one"])) == {"a": 1}
    np.savez(tmp_path / "x.npz", names=np.array([0x110000], np.uint32).view("<U1"))
    assert "names in" in said(read_npz, tmp_path / "x.npz", {"names": ("U", 1)})
    np.savez(tmp_path / "x.npz", names=np.array([b"bytes"]))
    assert "is not an array of 1 dimensions" in said(read_npz, tmp_path / "x.npz", {"names": ("U", 1)})


def header(text):
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


WHOLE = header("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }") + bytes(8)


@pytest.mark.parametrize("data, words", [
    (WHOLE[:-1], "cut short"), (WHOLE + b"x", "cut short, or more"), (b"", "is not an array"), (b"\x93NUMPY", "is not"),
    (header("{'descr': '<f4', 'fortran_order': False, 'shape': (70368744177664,), }"), "cut short"),
    (header("{'descr': '|O', 'fortran_order': False, 'shape': (2,), }") + bytes(16), "is not an array"),
    (header("{'descr': '<f4', 'fortran_order': True, 'shape': (2,), }") + bytes(8), "is not an array"),
    (header("{'descr': '<f4', 'fortran_order': False, 'shape': (" + "(" * 4000 + "), }"), "is not an array"),
    (header("{'descr': '<f4', 'fortran_order': False, 'shape': (-2,), }") + bytes(8), "is not an array"),
    (WHOLE[:-4] + np.float32(np.nan).tobytes(), "not finite"),
    (WHOLE[:8] + b"\xff\xff" + WHOLE[10:], "is not an array")])
def test_arrays_that_are_none(tmp_path, data, words):
    path = tmp_path / "x.npy"
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert words in said(read_npy, path, "<f4", 1)


@pytest.mark.parametrize("code, words", [(0x110000, "no text"), (0xd800, "no text"), (0x10ffff, None)])
def test_arrays_of_what_is_no_text(tmp_path, code, words):
    text = header("{'descr': '<U1', 'fortran_order': False, 'shape': (1,), }") + code.to_bytes(4, "little")
    (tmp_path / "x.npy").write_bytes(text)
    if words is None:
        assert read_npy(tmp_path / "x.npy", "U", 1).tolist() == [chr(code)]
    else:
        assert words in said(read_npy, tmp_path / "x.npy", "U", 1)


def test_archives_that_are_none(tmp_path):
    path = tmp_path / "x.npz"
    path.write_bytes(b"PK")
    assert "is not an .npz file" in said(read_npz, path, {"a": ("<f4", 1)})
    np.savez(path, a=np.zeros(40000, "f4"))  # an error would echo the long name that its header says there is
    path.write_bytes(path.read_bytes().replace(b"\x05\x00\x14\x00a.npy", b"\xff\xff\x14\x00a.npy", 1))
    assert len(said(read_npz, path, {"a": ("<f4", 1)})) < 500 + len(str(path))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", bytes(10**7))
    assert "a is compressed" in said(read_npz, path, {"a": ("<f4", 1)})
    assert re.search("is not an .npz file.*b.npy", said(read_npz, path, {"b": ("<f4", 1)}))


# --- names ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, words", [
    ("v_ApplyEyeMakeup_g01_c01", None), ("a b $x$ 'é' =1 \U0001f600", None), (" x ", None), ("", "empty"),
    ("..", "folder"),
    ("a\rb", "'\\r'"), ("a\t", "'\\t'"), ("a\nb", "'\\n'"), ("a\x85", "'\\x85'"), ("a\u2028b", "'\\u2028'"),
    ("a/b", "slash"), ("a\udcff", "UTF-8"), ("é" * 128, "256 bytes"), ("é" * 127, None)])
def test_names(name, words):
    found = name_fault(name)
    assert found is None if words is None else words in found


def test_names_in_tables_are_text():
    for name in ("=x", "'=x", "''@", "'x", "x", "-", ""):
        assert text_of_cell(cell(name)) == name
    assert cell("=1+1") == "'=1+1" and cell("@x")[0] == "'" and cell("a=1") == "a=1"
    assert markdown("<b>|`$x$`\n[a](b)") == "&lt;b&gt;\\|\\`\\$x\\$\\` \\[a\\]\\(b\\)"

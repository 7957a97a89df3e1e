"""The doors of core/inputs.py on damaged files."""
import io
import json
from collections.abc import Mapping

import numpy as np
import pytest
from fuzz import cases, damaged, in_sentence
from hypothesis import given

from core.errors import DataError
from core.inputs import read_json, read_lines, read_npy, read_npz, read_table
from core.names import name_fault

RESULT = json.dumps({"flags": {"net": "r3d", "lr": 0.003, "resize": [128, 171], "resume": None},
                     "results": {"R@1": 0.5}, "names": ["Run", "air drumming"]}, indent=1).encode()
SHAPE = {"flags": {str: object}, "results": {str: float}, "names": [str]}
TABLE = 'video,frames,fps\n"Run/v, 1",25,29.97\nRun/é,7,25\n'.encode()
COLUMNS = ("video", "frames", "fps")


def saved(save, *arrays, **named):
    file = io.BytesIO()
    save(file, *arrays, **named)
    return file.getvalue()


ARRAY = saved(np.save, np.arange(12, dtype="<f4").reshape(3, 4))
ARCHIVE = saved(np.savez, a=np.arange(12, dtype="<f4").reshape(3, 4), b=np.arange(3))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "file"


@cases()
@given(damaged(RESULT))
def test_fuzz_json(path, data):
    path.write_bytes(data)
    found = in_sentence(read_json, path, SHAPE)
    if not isinstance(found, DataError):
        assert isinstance(found, Mapping) and all(isinstance(name, str) for name in found["names"])
        assert all(np.isfinite(float(value)) for value in found["results"].values())
        json.dumps(found, allow_nan=False)
    assert path.read_bytes() == data


@cases()
@given(damaged(TABLE))
def test_fuzz_tables(path, data):
    path.write_bytes(data)
    found = in_sentence(read_table, path, COLUMNS)
    if not isinstance(found, DataError):
        assert all(tuple(row) == COLUMNS and all(type(field) is str for field in row.values()) for row in found)
    assert path.read_bytes() == data


@cases()
@given(damaged(TABLE))
def test_fuzz_lines(path, data):
    path.write_bytes(data)
    found = in_sentence(read_lines, path)
    if not isinstance(found, DataError):
        assert "\n".join(found).replace("\r", "") == data.decode("utf-8-sig").removesuffix("\n").replace("\r", "")
        for line in found:
            name_fault(line)


@cases()
@given(damaged(ARRAY))
def test_fuzz_arrays(path, data):
    path.write_bytes(data)
    found = in_sentence(read_npy, path, "<f4", 2)
    if not isinstance(found, DataError):
        assert found.dtype == np.float32 and found.ndim == 2 and found.nbytes < len(data) and np.isfinite(found).all()


@cases()
@given(damaged(ARCHIVE))
def test_fuzz_archives(path, data):
    path.write_bytes(data)
    found = in_sentence(read_npz, path, {"a": ("<f4", 2), "b": ("<i8", 1)})
    if not isinstance(found, DataError):
        assert found["a"].ndim == 2 and found["b"].dtype == np.int64

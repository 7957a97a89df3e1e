"""What comes from outside, through one door for each kind: bytes, text, lines, JSON, CSV, arrays.

What is not as it must be raises DataError with one sentence, whose end is the `hint`: what to do about it. Sizes are
checked before memory is taken. Names are checked by core/names.py, checkpoints by models/weights/checkpoint.py, JPEGs
and videos by dataset/reader.py and dataset/storage.py.
"""
import csv
import io
import json
import math
import os
import re
import stat
import struct
import sys
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from .errors import DataError
from .names import printable, quoted, shown

if TYPE_CHECKING:
    import numpy as np

MIB = 2**20
PIECE = 4 * MIB  # of a file that is hashed
MOST = 256 * MIB  # of a file of text
CHUNK = 2**16
SURROGATE = re.compile("[\ud800-\udfff]")  # half a character, which JSON can hold and no file
DEEPEST = 32  # lists and dictionaries within each other
TEXT = re.compile(r"\{'descr': '([<>]U[1-9][0-9]{0,3})'")  # what begins the header of an array of text
REMOVE = "remove it, and run what wrote it again"
# what reading a damaged zip raises, encrypted or of a later version too
BAD_ZIP = (zipfile.BadZipFile, KeyError, RuntimeError, EOFError, ValueError, struct.error)


# --- bytes and text ------------------------------------------------------------------------------------------

def open_file(path: str | Path, most: int) -> IO[bytes]:
    """Open a regular file of at most `most` bytes, unbuffered. OSError where it cannot be read or is none, or larger.

    What is no file is not waited for, as a pipe would be, nor read without end, as /dev/zero.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and found.st_size <= most:
        return io.FileIO(descriptor)
    os.close(descriptor)
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(21, "Is a directory", str(path))
    raise OSError(None, f"{found.st_size} bytes, more than {most} are not expected" if stat.S_ISREG(found.st_mode)
                  else "not a regular file", str(path))


def hash_of(path: str | Path, digest: Any, most: int) -> str:
    """What a new digest of hashlib says of a file, of which a piece is in memory at a time. OSError as open_file."""
    with open_file(path, most) as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()


def read_bytes(path: str | Path, most: int = MOST) -> bytes:
    """Content of a file. OSError as open_file."""
    with open_file(path, most) as file:
        data = file.read(os.fstat(file.fileno()).st_size + 1)
        while len(data) <= most and (more := file.read(min(most + 1 - len(data), max(CHUNK, len(data))))):
            data += more
    if len(data) > most:  # a file of /proc says that it has no bytes
        raise OSError(None, f"more than {most} bytes are not expected", str(path))
    return data


def fill(memory: memoryview, file: IO[bytes], name: str, hint: str) -> None:
    """Read as many bytes as `memory` has from a file called `name` into it. Raises DataError where there are less."""
    position = 0
    while position < len(memory):
        if not (count := file.readinto(memory[position:position + 2**30])):  # type: ignore[attr-defined]
            raise DataError(f"{name} is cut short: {hint}")
        position += count


def read_text(path: str | Path, hint: str = REMOVE, most: int = MOST) -> str:
    """A UTF-8 file, with or without byte order mark, its line ends as they are.

    Raises DataError where it is not there, cannot be read, is too large or not UTF-8, naming the row then.
    """
    try:
        data = read_bytes(path, most)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): {hint}") from error
    return decoded(data, path, hint)


def decoded(data: bytes, path: str | Path, hint: str) -> str:
    """The text of a file called `path`. Raises DataError, naming the row, where it is not UTF-8."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path} row {row}: not UTF-8: save the file as UTF-8, or {hint}") from error


def read_lines(path: str | Path, hint: str = REMOVE) -> list[str]:
    """Lines of a text file, ended by \\n or \\r\\n and by nothing else that Python takes for a line's end."""
    lines = read_text(path, hint).replace("\r\n", "\n").split("\n")
    return lines[:-1] if not lines[-1] else lines


# --- JSON ----------------------------------------------------------------------------------------------------

def read_json(path: str | Path, shape: Any, hint: str = REMOVE, most: int = MOST) -> Any:
    """The content of a JSON file, of a `shape` as `fault` takes it. Raises DataError where it is another."""
    return parsed(read_text(path, hint, most), shape, str(path), hint)


def parsed(text: str, shape: Any, where: str, hint: str = REMOVE) -> Any:
    """The content of a JSON text, of a `shape` as `fault` takes it. Raises DataError, naming `where`."""
    try:
        found = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        said = "too deep" if isinstance(error, RecursionError) else str(error)
        raise DataError(f"{where} is damaged (not JSON: {said[:120]}): {hint}") from error
    if wrong := fault(found, shape):
        raise DataError(f"{where} is damaged ({wrong}): {hint}")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A dictionary of JSON. ValueError where a key stands there twice: readers differ in which of the two counts."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"{quoted(twice)} stands there twice")
    return found


COUNT = range(1, 2**31)  # a shape, of what there is at least one of
KINDS: dict[Any, str] = {
    float: "a finite number", Real: "a number", int: "a whole number", str: "text", bool: "true or false", None: "null",
    dict: "a dictionary", list: "a list", object: "of a plain type"}


def fault(value: Any, shape: Any, name: str = "its content", depth: int = 0) -> str | None:
    """What of a value is not of a shape, which is made of plain types -> text, or None.

    shape: str, bool, None, int (of 64 bits), a range, float (any finite number) or Real (any number); a text for
    itself; object, whatever plain value; (shape, ...) for one of several; [shape] for a list; {"key": shape, ...} for a
    dictionary with these keys at least, in which str stands for every other one.
    """
    said = printable(name[:80])
    if depth > DEEPEST:
        return f"{said} is too deep"
    if isinstance(shape, tuple):
        faults = [fault(value, one, name, depth) for one in shape]
        return None if None in faults else faults[-1]
    if shape is object:
        shape = plain_shape(value)
    kind = type(shape) if isinstance(shape, (list, dict)) else shape
    if not is_of(value, kind):
        return f"{said} is not {described(kind)}"
    if isinstance(shape, dict) and str in shape and not all(type(key) is str for key in value):
        return f"{said} has a key that is not text"
    parts: Iterable[tuple[str, Any, Any]] = ()
    if isinstance(shape, list):
        parts = ((f"{name}[{i}]", x, shape[0]) for i, x in enumerate(value))
    elif isinstance(shape, dict):
        if missing := [key for key in shape if key is not str and key not in value]:
            return f"{said} has no {', '.join(missing)}"
        whose = f" of {said}" if name.endswith("]") else ""  # an entry of a list has no name of its own
        parts = ((f"{key[:80]}{whose}", x, shape[key if key in shape else str]) for key, x in value.items()
                 if key in shape or str in shape)
    return next((text for part, x, one in parts if (text := fault(x, one, part, depth + 1))), None)


def described(kind: Any) -> str:
    """What a value of a kind that `is_of` takes is called."""
    if isinstance(kind, range):
        return f"a whole number from {kind.start} to {kind.stop - 1}"
    return kind if isinstance(kind, str) else KINDS[kind]


def plain_shape(value: Any) -> Any:
    """The shape of whatever plain value, whose numbers are finite; object where it is of another type."""
    kind = type(value)
    if kind in (dict, list):
        return {str: object} if kind is dict else [object]
    return float if kind in (int, float) else None if value is None else kind if kind in (str, bool) else object


def is_of(value: Any, kind: Any) -> bool:
    """Whether a value is of a type, as `fault` takes it."""
    if kind is float:
        return type(value) is int and abs(value) < 2**63 or type(value) is float and math.isfinite(value)
    if kind is str:
        return type(value) is str and not SURROGATE.search(value)
    if isinstance(kind, range):
        return type(value) is int and value in kind
    if kind is int:
        return type(value) is int and abs(value) < 2**63
    if kind is Real or isinstance(kind, str):
        return is_of(value, int) or type(value) is float if kind is Real else value == kind
    return value is None if kind is None else type(value) is kind


# --- CSV -----------------------------------------------------------------------------------------------------

def csv_rows(text: str, path: str | Path, hint: str) -> Iterator[tuple[int, list[str]]]:
    """Yields (number from 1, fields) of the rows of a CSV file that are not blank. Raises DataError, naming the row.

    text: of the file called `path`. A row over several lines counts once.
    """
    row = 0
    try:
        for row, fields in enumerate(csv.reader(io.StringIO(text, newline=""), strict=True), 1):
            if fields and (len(fields) > 1 or fields[0].strip()):
                yield row, fields
    except csv.Error as error:
        raise DataError(f"{path} row {row + 1}: not a row of CSV ({error}): {hint}") from error


def long_table(path: Path, columns: Sequence[str], hint: str = REMOVE) -> Iterator[list[str]]:
    """The fields of the rows of a CSV file whose first row names exactly these columns, one at a time: any number of
    them takes no memory. A last line that is not whole is left out; a file that is not there has no rows.

    Raises DataError, naming the row.
    """
    if not path.exists():
        return
    number = 0
    try:
        with open_file(path, 2**62) as raw, io.BufferedReader(raw) as file:  # type: ignore[type-var]
            whole = (line.decode("utf-8") for line in file if line.endswith(b"\n"))
            for number, fields in enumerate(csv.reader(whole, strict=True), 1):
                if number == 1 and fields != list(columns) or len(fields) != len(columns):
                    raise DataError(f"{path} row {number} is damaged ({len(fields)} fields): {hint}")
                if number > 1:
                    yield fields
    except csv.Error as error:
        raise DataError(f"{path} row {number + 1} is damaged ({error}): {hint}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is damaged (not UTF-8): {hint}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): {hint}") from error


def read_table(path: str | Path, columns: Sequence[str], hint: str = REMOVE) -> list[dict[str, str]]:
    """The rows of a CSV file whose first row names exactly these columns. Raises DataError, naming the row."""
    rows = csv_rows(read_text(path, hint), path, hint)
    if (head := next(rows, (1, []))[1]) != list(columns):
        raise DataError(f"{path} row 1: expected the columns {','.join(columns)}, got {quoted(','.join(head))}: {hint}")
    found = []
    for number, fields in rows:
        if len(fields) != len(columns):
            raise DataError(f"{path} row {number}: {len(fields)} fields, not {len(columns)}: {hint}")
        found.append(dict(zip(columns, fields, strict=True)))
    return found


# --- arrays --------------------------------------------------------------------------------------------------

def read_npy(path: str | Path, dtype: str, ndim: int, hint: str = REMOVE) -> "np.ndarray":
    """The array of an .npy file. dtype: "f4", "i8", ..., of the machine's byte order, or "U", text of any length; ndim:
    its dimensions.

    Raises DataError where it is another, cut short, or holds values that are not finite or no text. Memory is taken for
    as many bytes as the file has, whatever its header says.
    """
    try:
        with open_file(path, most=2**50) as file:
            return _npy(file, os.fstat(file.fileno()).st_size, dtype, ndim, str(path), hint)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): {hint}") from error


def map_npy(path: str | Path, hint: str = REMOVE) -> "np.ndarray":
    """A float32 table in an .npy file, mapped into memory: (N, D), not read before it is used. DataError as read_npy.

    Its values are not looked at.
    """
    import numpy as np
    try:
        with open_file(path, most=2**62) as file:
            header, length = _npy_header(file)
            size = os.fstat(file.fileno()).st_size - 10 - length
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): {hint}") from error
    found = re.fullmatch(r"\{'descr': '<f4', 'fortran_order': False, 'shape': \((\d{1,12}), (\d{1,7})\), *\} *\n",
                         header)
    if not found or 4 * int(found[1]) * int(found[2]) > size:
        raise DataError(f"{path} is damaged, or no table of float32: {hint}")
    shape = int(found[1]), int(found[2])
    return np.memmap(path, "<f4", "r", 10 + length, shape) if all(shape) else np.zeros(shape, np.float32)


def read_npz(path: str | Path, arrays: Mapping[str, tuple[str, int]], hint: str = REMOVE) -> "dict[str, np.ndarray]":
    """Arrays of an .npz file as np.savez writes it: {name: (dtype, ndim)} as read_npy takes them -> {name: array}."""
    try:
        with open_file(path, most=2**50) as file, zipfile.ZipFile(file) as archive:
            found = {}
            for name, (dtype, ndim) in arrays.items():
                entry = archive.getinfo(f"{name}.npy")
                if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > os.fstat(file.fileno()).st_size:
                    raise DataError(f"{path}: {name} is compressed, or larger than the file: {hint}")
                with archive.open(entry) as member:
                    found[name] = _npy(member, entry.file_size, dtype, ndim, f"{name} in {path}", hint)
            return found
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): {hint}") from error
    except DataError:
        raise
    except BAD_ZIP as error:
        raise DataError(f"{path} is not an .npz file as it must be ({shown(error)}): {hint}") from error


def _npy_header(file: IO[bytes]) -> tuple[str, int]:
    """-> (a line of Python of at most 4 kB, "" where the file is of another kind; how many bytes it should have)"""
    start = file.read(10)
    length = int.from_bytes(start[8:10], "little")
    return file.read(min(length, 4096)).decode("latin1") if start[:8] == b"\x93NUMPY\x01\x00" else "", length


def _npy(file: IO[bytes], size: int, dtype: str, ndim: int, name: str, hint: str) -> "np.ndarray":
    import numpy as np

    text, length = _npy_header(file)
    length_of_text = TEXT.match(text) if dtype == "U" else None
    wanted = np.dtype(length_of_text[1] if length_of_text else dtype)
    ahead, _, shape = text.partition("'shape': (")
    shape, closed, rest = shape.partition(")")
    numbers = [part.strip() for part in shape.split(",") if part.strip()]
    whole = (len(text) == length and closed and ahead.strip() == f"{{'descr': '{wanted.str}', 'fortran_order': False,"
             and rest.strip() in ("}", ", }") and all(part.isascii() and part.isdigit() for part in numbers))
    if not whole or len(numbers) != ndim or any(len(part) > 15 for part in numbers):
        raise DataError(f"{name} is not an array of {ndim} dimensions of {wanted.name} in C order: {hint}")
    sizes = [int(part) for part in numbers]
    if math.prod(sizes) * wanted.itemsize != size - 10 - length:
        raise DataError(f"{name} is cut short, or more than its header says ({size} bytes): {hint}")
    found = np.empty(sizes, wanted)
    fill(found.reshape(-1).view(np.uint8).data, file, name, hint)
    if dtype == "U":
        codes = found.reshape(-1).view(np.uint32)
        valid = (codes <= sys.maxunicode) & (codes >> 11 != 0xd800 >> 11)  # half a character is none
    else:
        valid = np.isfinite(found)
    if not valid.all():
        raise DataError(f"{name} holds values that are {'no text' if dtype == 'U' else 'not finite'}: {hint}")
    return found

"""Files that are whole or not there, folders that one run writes at a time, JSON."""
import csv
import errno
import fcntl
import hashlib
import io
import json
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from .errors import DataError, FolderTaken
from .names import LONGEST_NAME

if TYPE_CHECKING:
    import numpy as np

TEMPORARY = ".partial_"  # what the name of a file begins with until it is whole
FULL = (errno.ENOSPC, errno.EDQUOT)  # what the system says of a full disk


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A temporary path to write to, which becomes `path` when all went well: the file is whole or as it was.

    An OSError, as of a full disk, names `path`.
    """
    with whole_files([path]) as (temporary,):
        yield temporary


@contextmanager
def whole_files(paths: Iterable[str | Path]) -> Iterator[list[Path]]:
    """As whole_file for several files: either all of them are written or, short of a crash amid the renames, none.

    An OSError names the file that could not be written, or the folder of all of them where that is not known.
    """
    targets = [Path(path) for path in paths]
    for path in targets:
        path.parent.mkdir(parents=True, exist_ok=True)
    temporaries = [path.with_name(temporary_name(path.name)) for path in targets]
    try:
        for path in temporaries:
            if not path.is_dir() or path.is_symlink():
                path.unlink(missing_ok=True)  # of a run that was killed; or a link or pipe, which would lead elsewhere
        yield temporaries
        for temporary in temporaries:
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
        for temporary, path in zip(temporaries, targets, strict=True):
            os.replace(temporary, path)
    except OSError as error:
        target = dict(zip(map(str, temporaries), map(str, targets), strict=True)).get(error.filename)
        reason = error.strerror or str(error)  # numpy's, of an array that was not written whole, has no number
        raise OSError(error.errno, reason, target or os.path.commonpath(targets)) from error
    finally:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)


@contextmanager
def named(path: str | Path) -> Iterator[None]:
    """An OSError within names `path`: that of writing to an open file, as where the disk is full, names none."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """A temporary folder to write files to, which becomes `path` when all went well: it is whole or not there.

    Raises DataError where something is at `path` already, but an empty folder. An OSError names `path`.
    """
    path = Path(path)
    check_new_folder(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(temporary_name(path.name))
    if temporary.is_dir() and not temporary.is_symlink():  # of a program that was killed
        shutil.rmtree(temporary)
    try:
        with named(path):
            temporary.mkdir()
            yield temporary
            for name in sorted(temporary.iterdir()):
                with open(name, "rb+") as file:
                    os.fsync(file.fileno())
            os.rename(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_new_folder(path: Path) -> None:
    """Raise DataError unless there is nothing at `path`, or an empty folder."""
    if path.is_symlink() or path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise DataError(f"{path} is there already, and is no empty folder: name another, or remove it")


def append_to(path: str | Path) -> IO[str]:
    """Open a text file to add to it, made if need be. Raises DataError where a pipe or device is there, which may hang.
    """
    check_regular(path, follow=True)
    return open(path, "a", encoding="utf-8", errors="backslashreplace")


def check_regular(path: str | Path, follow: bool = False) -> None:
    """Raise DataError where something else than a file, or a link if not `follow`, is where a file is to be written."""
    try:
        mode = os.stat(path, follow_symlinks=follow).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise DataError(f"{path} is no regular file, and one is to be written there: remove it, or choose another "
                        "folder")


def temporary_name(name: str) -> str:
    """What a file called `name` is called until it is whole: one name for each, at most as long as names may be."""
    if len(os.fsencode(temporary := TEMPORARY + name)) <= LONGEST_NAME:
        return temporary
    return f"{TEMPORARY}{hashlib.sha256(os.fsencode(name)).hexdigest()}{Path(name).suffix[-8:]}"


def take_lock(folder: str | Path, name: str) -> IO[str]:
    """Keep a second run out of a folder, made if need be; -> the open file that holds the lock while it is open.

    Raises FolderTaken, calling the folder `name`, where another run holds it.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    check_regular(Path(folder) / ".lock")
    lock = open(Path(folder) / ".lock", "a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise FolderTaken(f"{name} {folder}: another run is writing there; wait for it to end") from None
    return lock


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Within it no other process is within it for the same folder, which must exist: one waits for the other."""
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def write_json(path: str | Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=1) + "\n")


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 file. Of a path's bytes that are not UTF-8, their numbers are written."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")


def csv_lines(rows: Iterable[Iterable[Any]]) -> str:
    """Rows of text and numbers as CSV that carries any text exactly."""
    text = io.StringIO()
    for row in map(list, rows):
        # Python before 3.13 takes a carriage return for harmless
        all_fields = any("\r" in str(field) for field in row)
        csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL if all_fields else csv.QUOTE_MINIMAL).writerow(row)
    return text.getvalue()


def write_npy(path: str | Path, values: "np.ndarray") -> None:
    """What np.save writes; unlike its own OSError, this one says why."""
    import numpy as np
    values = np.ascontiguousarray(values)
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(values))
        file.write(values.data)

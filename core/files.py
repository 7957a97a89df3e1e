"""Files that are whole or not there, folders that one run writes at a time, JSON."""
import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from .errors import DataError

TEMPORARY = ".partial_"  # what the name of a file begins with until it is whole


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
    temporaries = [path.with_name(TEMPORARY + path.name) for path in targets]
    try:
        yield temporaries
        for temporary in temporaries:
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
        for temporary, path in zip(temporaries, targets, strict=True):
            os.replace(temporary, path)
    except OSError as error:
        named = dict(zip(map(str, temporaries), map(str, targets), strict=True)).get(error.filename)
        raise OSError(error.errno, error.strerror, named or os.path.commonpath(targets)) from error
    finally:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)


def take_lock(folder: str | Path, name: str) -> IO[str]:
    """Keep a second run out of a folder, made if need be; -> the open file that holds the lock while it is open.

    Raises DataError, calling the folder `name`, where another run holds it.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    lock = open(Path(folder) / ".lock", "w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise DataError(f"{name} {folder}: another run is writing there; wait for it to end") from None
    return lock


def write_json(path: str | Path, content: Any) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def read_json(path: Path, *keys: str) -> dict[str, Any]:
    """A result's file, a dictionary with these keys at least. Raises DataError where it is not."""
    try:
        found = json.loads(path.read_text())
        if missing := [key for key in keys if key not in found]:
            raise ValueError(f"no {', '.join(missing)}")
        return found
    except (ValueError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error}): remove it, and run its stage again") from error

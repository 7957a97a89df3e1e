"""Files that are whole or not there, folders that one run writes at a time, JSON."""
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from .errors import DataError


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A temporary path to write to, which becomes `path` when all went well: the file is whole or as it was.

    An OSError, as of a full disk, names `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".partial_{path.name}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def take_lock(folder: str | Path, name: str) -> TextIO:
    """Keep a second run out of a folder, made if need be -> an open file, which holds the lock until it is closed.

    Raises DataError, in which the folder is called `name`, where another run holds the lock.
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
    """A result's file, a dictionary with at least these keys. Raises DataError where it is not one."""
    try:
        found = json.loads(path.read_text())
        if missing := [key for key in keys if key not in found]:
            raise ValueError(f"no {', '.join(missing)}")
        return found
    except (ValueError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error}): remove it, and run its stage again") from error

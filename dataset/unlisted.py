"""Videos without lists or classes: found in folders of any depth, looked at once, read by their paths.

What is known of a file stands in a table, with the file's size and time of change: a file that has neither changed is
not looked at again.
"""
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from core.dist import rank
from core.errors import DataError
from core.files import csv_lines, write_text
from core.inputs import long_table
from core.names import path_fault

from .by_time import movie_seconds
from .loader import PatientDataset, surviving_items
from .video import MOST_RATE, BrokenVideo, VideoFiles, content_hash, open_video

# endings of files that are taken from folders
SUFFIXES = {".avi", ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".flv", ".wmv", ".asf", ".mpg", ".mpeg", ".ts", ".mts",
            ".m2ts", ".3gp", ".vob"}
# Seconds of the processor's time after which a decoder is taken to find no end, far beyond what large videos take.
PATIENCE, PATIENCE_PER_BYTE, PATIENCE_PER_SECOND = 600.0, 60e-6, 60.0
FAULTS = (DataError, MemoryError, cv2.error)  # of one file
OF_FILES = ("file", "bytes", "changed")


# --- which videos --------------------------------------------------------------------------------------------

class Found(NamedTuple):
    """In a folder: paths of its videos; {folder that cannot be read: why}; how many other files there are."""

    paths: list[str]
    faults: dict[str, str]
    others: int


def videos_below(folder: str) -> Found:
    """Videos of a folder in any depth, by their suffixes. Links are followed; what is hidden is left out."""
    paths: list[str] = []
    faults: dict[str, str] = {}
    seen, others = set(), 0
    for place, folders, names in os.walk(folder, followlinks=True, onerror=lambda error: faults.update(
            {os.path.abspath(error.filename): f"the folder cannot be read ({error.strerror})"})):
        seen.add(os.path.realpath(place))
        folders[:] = sorted(name for name in folders if not name.startswith(".")
                            and os.path.realpath(os.path.join(place, name)) not in seen)
        own = [name for name in sorted(names)
               if os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")]
        paths += [os.path.join(place, name) for name in own]
        others += len(names) - len(own)
    return Found(paths, faults, others)


def fault_of(path: str) -> str | None:
    """Why a path cannot stand in a list -> text or None"""
    try:
        path.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8: rename it"
    wrong = path_fault(path)
    return wrong and f"{wrong}: rename it"


class UnlistedVideos(VideoFiles):
    """Original videos, called by their paths below a folder, suffix and all."""

    def path(self, video: str) -> str:
        return os.path.join(self.root, video)


# --- what is known of them -----------------------------------------------------------------------------------

class Known(NamedTuple):
    """A file as it was when it was looked at."""

    bytes: int
    changed: int  # nanoseconds
    facts: Any  # a NamedTuple


class Fault(NamedTuple):
    """Why a file cannot be read, in the place of facts about it."""

    reason: str

    @classmethod
    def of(cls, fields: Sequence[str]) -> "Fault":
        """From the fields of a table."""
        return cls(*fields)


def with_fault(reason: str, size: int = -1, changed: int = -1) -> Known:
    """What is known of a file that cannot be read; without size and time: it is tried again each time."""
    return Known(size, changed, Fault(reason))


def fault_in(error: Exception) -> dict[str, Any]:
    """One of FAULTS as it stands in an item: {"error"; "lasting": whether the file itself is at fault, and not the
    disk, the file's rights or the memory of the machine}"""
    return {"error": str(error), "lasting": isinstance(error, DataError) and not isinstance(error.__cause__, OSError)}


class Counted(NamedTuple):
    """Of a video: a hash of its content, frames a second by its header (0: none), frames that can be decoded, and that
    its header announces (0: none)."""

    hash: str
    fps: float
    frames: int
    announced: int = 0

    @classmethod
    def of(cls, fields: Sequence[str]) -> "Counted":
        """From the fields of a table. Raises ValueError."""
        found = cls(fields[0], float(fields[1]), *map(int, fields[2:]))
        if not (0 <= found.fps < MOST_RATE and 0 < found.frames < 2**31 and 0 <= found.announced < 2**31):
            raise ValueError(f"rate {found.fps}, {found.frames} frames, {found.announced} announced")
        return found


def count_frames(path: str) -> Counted:
    """Decodes the whole file, as extract_frame.py does. Raises BrokenVideo."""
    frames = 0
    with open_video(path) as capture:
        fps, announced = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
        while capture.grab():
            if not frames and not capture.retrieve()[0]:
                break
            frames += 1
    if not frames:
        raise BrokenVideo(path, "holds no frame that can be decoded")
    fps = fps if 0 < fps < MOST_RATE else 0.0
    announced = min(announced, movie_seconds(path) * fps) if fps and 0 < announced < 2**31 else 0
    return Counted(content_hash(path), fps, frames, round(announced))


class Looks(PatientDataset):
    """What must be known of videos, by their paths: item i -> {"index", "facts": look(path) or None, "error"}, and
    "lasting" where there is an error.
    """

    def __init__(self, paths: Sequence[str], look: Callable[[str], Any]) -> None:
        self.paths, self.look = np.array(paths, object), look

    def __len__(self) -> int:
        return len(self.paths)

    def patience(self, index: int) -> float:
        try:
            return PATIENCE + PATIENCE_PER_BYTE * os.stat(str(self.paths[index])).st_size
        except OSError:  # `look` says so
            return PATIENCE

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            return {"index": index, "facts": self.look(str(self.paths[index])), "error": ""}
        except FAULTS as error:
            return {"index": index, "facts": None, **fault_in(error)}


def look_at_files(paths: Sequence[str], known: Mapping[str, Known], look: Callable[[str], Any], workers: int,
                  description: str) -> Iterator[tuple[str, Known]]:
    """Yields (path, what is known of the file: its facts, or a Fault), those that have changed at last.

    A file that ends the program that decodes it costs itself alone, where `workers` decode.
    """
    new = {}
    for path in paths:
        try:
            now = os.stat(path)
        except OSError as error:
            yield path, with_fault(f"cannot be read ({error.strerror})")
            continue
        if path in known and known[path][:2] == (now.st_size, now.st_mtime_ns):
            yield path, known[path]
        else:
            new[path] = now
    names = list(new)
    items = surviving_items(Looks(names, look), min(workers, len(new)))
    for item in tqdm(items, description, len(new), unit="video", leave=False, disable=None if rank() == 0 else True):
        path = names[item["index"]]
        stamp = new[path].st_size, new[path].st_mtime_ns
        if item["error"]:
            yield path, with_fault(item["error"], *(stamp if item["lasting"] else ()))
        else:
            yield path, Known(*stamp, item["facts"])


def read_known(path: Path, columns: Sequence[str], facts: Callable[[Sequence[str]], Any],
               hint: str = "remove the file") -> dict[str, Known]:
    """{path: what is known of that file}. Raises DataError where the table is damaged.

    facts: makes them of the fields called `columns`, or raises ValueError
    """
    found = {}
    for number, (file, size, changed, *fields) in enumerate(long_table(path, (*OF_FILES, *columns), hint), 2):
        try:
            found[file] = Known(int(size), int(changed), facts(fields))
        except ValueError as error:
            raise DataError(f"{path} row {number} is damaged ({error}): {hint}") from error
    return found


def write_known(path: Path, columns: Sequence[str], known: Mapping[str, Known]) -> None:
    """As `read_known` takes it."""
    write_text(path, csv_lines([(*OF_FILES, *columns), *((file, one.bytes, one.changed, *one.facts)
                                                         for file, one in known.items())]))

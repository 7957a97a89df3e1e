"""The vectors of windows of many videos, in a folder that grows and can be searched:

    vectors.npy      (N, D) float32; can be mapped into memory while it grows
    segments.csv     a row for each: row of vectors.npy, file, hash of its content, start and end (seconds), frames a
                     second of the file, fingerprint of the weights
    index.json       whose vectors they are: weights, clips, windows, versions
    files.csv        what is known of each file, so that it need not be read again as long as it does not change
    unreadable.csv   files, and why they could not be read, or from when on

Vectors are written first, then their segments, then the number of rows in the header: what a kill leaves beyond the
segments is written again. The header's rows are never taken away, as others may have mapped them into memory.
"""
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from core.errors import DataError
from core.files import check_regular, csv_lines, named, take_lock, whole_file, write_json
from core.inputs import long_table, map_npy, read_json
from dataset.by_time import VideoFacts
from dataset.unlisted import Fault, Known, read_known, write_known

VECTORS, SEGMENTS, MANIFEST, FILES, UNREADABLE = ("vectors.npy", "segments.csv", "index.json", "files.csv",
                                                  "unreadable.csv")
COLUMNS = ("row", "file", "hash", "start", "end", "fps", "weights")
HEADER = 128  # bytes before the vectors
AGAIN = "make the index anew in another folder"
SHAPE = {"weights": str, "dim": range(1, 2**20), "windows": {"window": float, "hop": float, "frames": int},
         "clips": {"resize": [range(1, 2**14)], "img_dim": range(1, 2**14)}, "flags": {str: object}}


class Segment(NamedTuple):
    """A window of a video: its row among the vectors, file, hash of its content, seconds, frames a second."""

    row: int
    file: str
    hash: str
    start: float
    end: float
    fps: float
    weights: str

    def fields(self) -> list[str]:
        """As they stand in segments.csv."""
        return [str(self.row), self.file, self.hash, f"{self.start:.3f}", f"{self.end:.3f}", f"{self.fps:.6g}",
                self.weights]


# --- reading -------------------------------------------------------------------------------------------------

def segments_of(folder: Path) -> Iterator[Segment]:
    """The segments of an index, in the order of their rows. Raises DataError where one is damaged."""
    last = -1
    for number, fields in enumerate(long_table(folder / SEGMENTS, COLUMNS, AGAIN), 2):
        try:
            row, file, content, start, end, fps, weights = fields
            found = Segment(int(row), file, content, float(start), float(end), float(fps), weights)
        except ValueError as error:
            raise DataError(f"{folder / SEGMENTS} row {number} is damaged ({error}): {AGAIN}") from error
        if not last < found.row or not 0 <= found.start <= found.end < np.inf:
            raise DataError(f"{folder / SEGMENTS} row {number} is damaged (its row or times): {AGAIN}")
        last = found.row
        yield found


def read_manifest(folder: Path) -> dict[str, Any]:
    """index.json. Raises DataError where it is not there, or not as `Index` writes it."""
    found = read_json(folder / MANIFEST, SHAPE, AGAIN)
    if len(found["clips"]["resize"]) != 2:
        raise DataError(f"{folder / MANIFEST} is damaged: resize is no height and width: {AGAIN}")
    return found


def read_files(folder: Path) -> dict[str, Known]:
    """{path: what is known of that file, its facts being VideoFacts}"""
    return read_known(folder / FILES, VideoFacts._fields, VideoFacts.of)


def read_unreadable(folder: Path) -> dict[str, Known]:
    """{path: what is known of a file that could not be read, its facts being a Fault}"""
    return read_known(folder / UNREADABLE, Fault._fields, Fault.of)


# --- writing -------------------------------------------------------------------------------------------------

class Index:
    """An index that one program writes, at its end; a context manager, which holds the folder's lock.

    manifest: what index.json says or must say. Raises DataError where the folder holds another index, or a damaged
    one.
    Attribute: `done`: {file: (hash of its content, number of windows)}.
    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any], same: Sequence[str]) -> None:
        self.folder, self.dim, self.weights = folder, int(manifest["dim"]), str(manifest["weights"])
        for name in (VECTORS, SEGMENTS, MANIFEST, FILES, UNREADABLE):
            check_regular(folder / name)
        self.lock = take_lock(folder, "index")
        try:
            self._open(manifest, same)
        except BaseException:
            self.lock.close()
            raise

    def _open(self, manifest: Mapping[str, Any], same: Sequence[str]) -> None:
        if (self.folder / MANIFEST).exists():
            there = read_manifest(self.folder)
            if other := [name for name in same if there.get(name) != manifest[name]]:
                raise DataError(f"{self.folder} is an index of other {', '.join(other)} ("
                                + ", ".join(f"{name} {there.get(name)!r} there, {manifest[name]!r} here"
                                            for name in other) + "): choose another --out")
        elif any((self.folder / name).exists() for name in (VECTORS, SEGMENTS)):
            raise DataError(f"{self.folder} holds {VECTORS} or {SEGMENTS} without {MANIFEST}: choose another --out")
        else:
            write_json(self.folder / MANIFEST, manifest)
        if (self.folder / VECTORS).exists() and not (self.folder / SEGMENTS).exists():
            raise DataError(f"{self.folder} holds {VECTORS} without {SEGMENTS}: {AGAIN}")
        self.done: dict[str, tuple[str, int]] = {}
        rows = 0
        for segment in segments_of(self.folder):
            content, count = self.done.get(segment.file, (segment.hash, 0))
            self.done[segment.file] = segment.hash, count + 1 if content == segment.hash else 1
            rows = segment.row + 1
        begun = (self.folder / VECTORS).exists() and (self.folder / VECTORS).stat().st_size
        stated = len(map_npy(self.folder / VECTORS, AGAIN)) if begun else 0
        self.segments = open(self.folder / SEGMENTS, "r+b" if (self.folder / SEGMENTS).exists() else "w+b", buffering=0)
        self.vectors = open(self.folder / VECTORS, "r+b" if (self.folder / VECTORS).exists() else "w+b")
        there = max(self.vectors.seek(0, os.SEEK_END) - HEADER, 0) // (4 * self.dim)
        if there < rows:
            self.close()
            raise DataError(f"{self.folder / VECTORS} has {there} rows, and {SEGMENTS} names {rows}: {AGAIN}")
        self._cut_last_line()
        self.rows = max(rows, stated)
        self._keep(self.rows)

    def _cut_last_line(self) -> None:
        """Take away a line that a kill has left unfinished, and write the head of a new file."""
        end = self.segments.seek(0, os.SEEK_END)
        while end:
            start = max(end - 2**16, 0)
            self.segments.seek(start)
            if (place := self.segments.read(end - start).rfind(b"\n")) >= 0:
                end = start + place + 1
                break
            end = start
        self.segments.truncate(end)
        self.segments.seek(end)
        if not end:
            self._write_segments(csv_lines([COLUMNS]))

    def _write_segments(self, lines: str) -> None:
        """Add lines to segments.csv, or none where the disk is full: who reads it may do so then."""
        end, rest = self.segments.tell(), lines.encode()
        with named(self.folder / SEGMENTS):
            try:
                while rest:
                    rest = rest[self.segments.write(rest):]
                os.fsync(self.segments.fileno())
            except OSError:
                self.segments.truncate(end)
                raise

    def _keep(self, rows: int) -> None:
        """Have vectors.npy say that it has so many rows, and end there."""
        head = io.BytesIO()
        np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": (rows, self.dim)})
        text = head.getvalue()  # its last byte is the newline; spaces before it bring it to length
        text = text[:-1].ljust(HEADER - 1) + b"\n"
        text = text[:8] + (HEADER - 10).to_bytes(2, "little") + text[10:]
        self.vectors.seek(0)
        self.vectors.write(text)
        self.vectors.truncate(HEADER + 4 * self.dim * rows)
        self.vectors.seek(0, os.SEEK_END)
        self.vectors.flush()

    def append(self, file: str, facts: VideoFacts, spans: np.ndarray, vectors: np.ndarray) -> None:
        """Add windows of a file: spans (n, 2) seconds, vectors (n, D) float32."""
        content, count = self.done.get(file, (facts.hash, 0))
        assert content == facts.hash and vectors.shape == (len(spans), self.dim)
        lines = csv_lines(Segment(self.rows + i, file, facts.hash, start, end, facts.fps, self.weights).fields()
                          for i, (start, end) in enumerate(spans.tolist()))
        with named(self.folder / VECTORS):
            self.vectors.write(np.ascontiguousarray(vectors, "<f4").tobytes())
            self.vectors.flush()
            os.fsync(self.vectors.fileno())
        self._write_segments(lines)
        self.rows += len(spans)
        self.done[file] = facts.hash, count + len(spans)
        self._keep(self.rows)

    def drop(self, files: Iterable[str]) -> None:
        """Take the segments of files away that have changed or are gone. Their vectors stay; nothing names them."""
        gone = {*files} & self.done.keys()
        if not gone:
            return
        with whole_file(self.folder / SEGMENTS) as temporary, open(temporary, "w", encoding="utf-8") as out:
            out.write(csv_lines([COLUMNS]))
            out.writelines(csv_lines([segment.fields()]) for segment in segments_of(self.folder)
                           if segment.file not in gone)
        self.segments.close()
        self.segments = open(self.folder / SEGMENTS, "r+b", buffering=0)
        self.segments.seek(0, os.SEEK_END)
        for file in gone:
            del self.done[file]

    def write_files(self, known: Mapping[str, Known], unreadable: Mapping[str, Known]) -> None:
        """files.csv and unreadable.csv."""
        write_known(self.folder / FILES, VideoFacts._fields, known)
        write_known(self.folder / UNREADABLE, Fault._fields, unreadable)

    def close(self) -> None:
        with closing(self.lock), closing(self.vectors):
            self.segments.close()

    def __enter__(self) -> "Index":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            self.close()
        except OSError:
            if kind is None:  # or what is on its way says more
                raise

"""Where frames come from: folders of JPEGs, packed files, original videos (video.py); each is a reader.Source.

No file stays open between two calls of `read`, so any number of forked workers, processes and machines may read at the
same time, also from a read-only folder.

A packed video is a zip without compression, <root>/<class>/<video>.zip, which holds its JPEGs image_00001.jpg, ... in
order and nothing else. Its entries have no extra fields, so that its directory, at the end of the file, is an array of
records of one length. Any zip program can read it, and it has a checksum for each frame. benchmarks/storage.py
compares it with LMDB, HDF5 and tar.
"""
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from core.errors import DataError
from core.inputs import open_file

from .reader import FRAME_NAME, MOST_BYTES, FrameFolders, Source
from .video import VideoFiles

PACKED_SUFFIX = ".zip"
MOST_FRAMES = 0xFFFE  # with more, a zip needs its 64-bit format, and with more bytes
MOST_PACKED = 2**32
NAME_LENGTH = len(FRAME_NAME.format(1))
LOCAL_HEADER = 30 + NAME_LENGTH  # bytes before each frame
# an entry of the directory
ENTRY = np.dtype([("signature", "<u4"), ("made_by", "<u2"), ("needs", "<u2"), ("flags", "<u2"), ("method", "<u2"),
                  ("time", "<u2"), ("date", "<u2"), ("crc", "<u4"), ("stored", "<u4"), ("size", "<u4"),
                  ("name_length", "<u2"), ("extra_length", "<u2"), ("comment_length", "<u2"), ("disk", "<u2"),
                  ("internal", "<u2"), ("external", "<u4"), ("offset", "<u4"), ("name", f"S{NAME_LENGTH}")])
END = struct.Struct("<4s4H2LH")  # signature, disk, disk, entries, entries, bytes and offset of the directory, comment
TAIL = 1 << 15  # bytes at the end of the file that are read first: they hold the directory of up to 536 frames


class Packed:
    """One packed video, open for reading; a context manager.

    entries: its directory, an array (N,) of ENTRY. Raises DataError where the file is missing, cut short or not as
    pack.py writes it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = path
        try:
            self.file = open_file(path, MOST_PACKED)
        except OSError as error:
            raise DataError(f"packed video {path} cannot be read ({error.strerror})") from error
        try:
            self.entries = self._directory()
        except DataError:
            self.file.close()
            raise

    def _directory(self) -> np.ndarray:
        size = os.fstat(self.file.fileno()).st_size
        tail = self._pread(min(size, TAIL), max(size - TAIL, 0))
        end = END.unpack(tail[-END.size:]) if len(tail) >= END.size else (b"",) * 8
        count, length, start = end[4:7]
        if end[0] != b"PK\5\6" or end[7] or start + length + END.size != size or length != count * ENTRY.itemsize:
            raise DataError(f"packed video {self.path} is not whole, or not as pack.py writes it ({size} bytes)")
        if length + END.size > TAIL:
            tail = self._pread(length + END.size, start)
        entries = np.frombuffer(tail, ENTRY, count, len(tail) - length - END.size)
        starts = np.append(entries["offset"], start).astype(np.int64)
        if np.any(entries["signature"] != 0x02014B50) or np.any(entries["method"]) or np.any(
                entries["size"] > MOST_BYTES) or np.any(starts[:-1] + LOCAL_HEADER + entries["size"] != starts[1:]):
            raise DataError(f"packed video {self.path} has a damaged directory")
        return entries

    def _pread(self, length: int, offset: int) -> bytes:
        try:
            data = os.pread(self.file.fileno(), length, offset)
        except OSError as error:
            raise DataError(f"packed video {self.path} cannot be read ({error.strerror})") from error
        if len(data) != length:
            raise DataError(f"packed video {self.path} ends within a frame")
        return data

    def read(self, offset: int, size: int) -> bytes:
        """The JPEG of `size` bytes whose local header starts at `offset`."""
        return self._pread(size, offset + LOCAL_HEADER)

    def __enter__(self) -> "Packed":
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()


class PackedFrames:
    """Packed videos: <root>/<class>/<video>.zip."""

    def __init__(self, root: str | Path) -> None:
        self.root = os.fspath(root)

    def path(self, video: str) -> str:
        return os.path.join(self.root, video + PACKED_SUFFIX)

    def read(self, video: str, indices: Sequence[int], count: int | None = None) -> Iterator[tuple[bytes, str]]:
        """Yields (bytes of a JPEG, its name), as Source says."""
        with Packed(self.path(video)) as packed:
            count = len(packed.entries)
            entries = packed.entries[[index for index in indices if index < count]]
            fields = entries[["name", "offset", "size", "crc"]].tolist()
            for position, index in enumerate(indices):
                name = FRAME_NAME.format(index + 1)
                found, offset, size, crc = fields[position] if position < len(fields) else (b"", 0, 0, 0)
                if found != name.encode():
                    raise DataError(f"packed video {packed.path} has no {name}, of {count} frames")
                data = packed.read(offset, size)
                if zlib.crc32(data) != crc:
                    raise DataError(f"packed video {packed.path} is damaged: the checksum of {name} in it is wrong")
                yield data, f"{name} in {packed.path}"


# --storage -> how the frames of a data set are read
SOURCES: dict[str, Callable[[str | Path], Source]] = {
    "frames": FrameFolders, "packed": PackedFrames, "video": VideoFiles}


def repair_hint(storage: str, dataset: str) -> str:
    """End of the sentence about a frame that cannot be read: what to do about it."""
    tool = "python process_data/src/{} --dataset " + dataset
    return {"frames": f": {tool.format('verify.py')} finds all such files",
            "packed": f": remove the file if it is there, and {tool.format('pack.py')} packs it again; "
                      f"{tool.format('verify.py')} --storage packed finds all such files",
            "video": ": mend the file, or take the video out of the lists"}[storage]

"""Where frames come from: folders of JPEGs, packed files, original videos; each is a reader.Source.

No file stays open between two calls of `read`, so any number of forked workers, processes and machines may read at the
same time, also from a read-only folder.

A packed video is a zip without compression, <root>/<class>/<video>.zip, which holds its JPEGs image_00001.jpg, ... in
order and nothing else. Its entries have no extra fields, so that its directory, at the end of the file, is an array of
records of one length. Any zip program can read it, and it has a checksum for each frame. benchmarks/storage.py
compares it with LMDB, HDF5 and tar.
"""
import math
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from core.errors import DataError
from core.inputs import open_file

from .reader import FRAME_NAME, MOST_BYTES, MOST_PIXELS, FrameFolders, Source

VIDEO_SUFFIXES = (".avi", ".mp4", ".mkv", ".webm", ".mov")
PARTS = ("train", "val", "validate", "test")  # folders above the classes in copies of Kinetics

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

    def read(self, video: str, indices: Sequence[int]) -> Iterator[tuple[bytes, str]]:
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


# How a file begins in which a video lies whole, whatever its suffix. FFmpeg would also take texts that name other files
# (playlists, ffconcat, sdp): a video must never be read from elsewhere. It holds to the same formats, and follows the
# references of MP4 to other files only where it is told to (enable_drefs).
CONTAINER = re.compile(
    rb"RIFF.{4}AVI |.{4}(?:ftyp|moov|mdat|free|wide|skip|pnot)|\x1aE\xdf\xa3"  # AVI; MP4, MOV; MKV, WebM
    rb"|FLV\x01|\x30\x26\xb2\x75\x8e\x66\xcf\x11|\0\0\x01\xba|\x47.{187}\x47", re.DOTALL)  # FLV, WMV, MPEG, its TS
FFMPEG_OPTIONS = "format_whitelist;avi,mov,matroska,flv,asf,mpeg,mpegts|protocol_whitelist;file"

# not OpenCV's reader of pictures, which takes a name with a number for the first of a series of files
BACKENDS = (cv2.CAP_FFMPEG, cv2.CAP_GSTREAMER, cv2.CAP_OPENCV_MJPEG)


class BrokenVideo(DataError):
    """`video <path> <reason>`; reason: why no frame of it can be decoded."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"video {path} {reason}")
        self.reason = reason


@contextmanager
def open_video(path: str | Path) -> Iterator[cv2.VideoCapture]:
    """cv2.VideoCapture of a file, with one thread. Raises BrokenVideo where it is no video or no decoder can open it.

    No other file is opened, whatever this one says.
    """
    try:
        file = open_file(path, most=2**62)
    except OSError as error:
        raise BrokenVideo(path, f"cannot be read ({error.strerror})") from error
    with file:
        if not CONTAINER.match(start := file.read(189)):
            raise BrokenVideo(path, f"is no AVI, MP4, MOV, MKV or WebM: it begins with {start[:12]!r}")
        os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", FFMPEG_OPTIONS)
        # by number: OpenCV crashes at a name that is not UTF-8, and takes others for protocols
        capture = _capture(f"/proc/self/fd/{file.fileno()}")
        try:
            if not capture.isOpened():
                raise BrokenVideo(path, "cannot be opened by any decoder")
            size = [int(capture.get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)]
            if math.prod(size) > MOST_PIXELS:
                raise BrokenVideo(path, f"has a header that says {size[0]} x {size[1]} pixels")
            yield capture
        finally:
            capture.release()


def _capture(name: str) -> cv2.VideoCapture:
    """That of the first of BACKENDS which can open the file, or one that is not open."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    try:
        capture = cv2.VideoCapture()
        any(capture.open(name, backend, [cv2.CAP_PROP_N_THREADS, 1]) for backend in BACKENDS)
        return capture
    finally:
        cv2.utils.logging.setLogLevel(level)


class VideoFiles:
    """Original videos, <root>/[<part>/]<class>/<video>.<suffix>, decoded from the start to the last frame wanted.

    A video that no folder of its class has may lie in <root> itself, as those of Something-Something v2 do. Frame i is
    the i-th that can be decoded, as in extract_frame.py; it has the video's own size.
    """

    SUFFIXES = "|".join(map(re.escape, VIDEO_SUFFIXES))

    def __init__(self, root: str | Path) -> None:
        self.root = os.fspath(root)
        # class -> [(folder, names of its files)]: the names are one string, as millions of strings take much memory
        self.classes: dict[str, list[tuple[str, str]]] = {}
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # silent: errors are reported by the methods below

    def _folders(self, label: str) -> list[tuple[str, str]]:
        if label not in self.classes:
            folders = [os.path.join(self.root, part, label) for part in ("", *PARTS)]
            try:
                self.classes[label] = [(folder, "\n".join(name for name in os.listdir(folder) if "\n" not in name))
                                       for folder in folders if os.path.isdir(folder)]
            except OSError as error:
                raise DataError(f"folder {error.filename} cannot be read ({error.strerror})") from error
        return self.classes[label]

    def path(self, video: str) -> str:
        """File of a video, which lists name without its suffix. Raises DataError unless there is exactly one."""
        label, _, stem = video.partition("/")
        pattern = re.compile(rf"^{re.escape(stem)}(?i:{self.SUFFIXES})$", re.MULTILINE)
        found = [os.path.join(folder, name) for folder, names in self._folders(label)
                 for name in pattern.findall(names)]
        if not found:
            places = (os.path.join(self.root, stem + suffix) for suffix in VIDEO_SUFFIXES)
            found = [path for path in places if os.path.isfile(path)]
        if len(found) != 1:
            raise DataError(f"video {video} has {len(found) or 'no'} file{'s' if found else ''} in {self.root} "
                            f"({', '.join(found) or 'looked for ' + ' '.join(VIDEO_SUFFIXES)})")
        return found[0]

    def read(self, video: str, indices: Sequence[int]) -> Iterator[tuple[np.ndarray, str]]:
        """Yields (picture (H, W, 3) uint8 RGB, its name), as Source says."""
        path = self.path(video)
        with open_video(path) as capture:
            count = 0
            for index in indices:
                while count <= index and capture.grab():
                    count += 1
                there, picture = capture.retrieve() if count > index else (False, None)
                if not there or picture is None:
                    raise DataError(f"frame {index + 1} of video {path} cannot be decoded, {count} before it can")
                yield cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), f"{index + 1} of video {path}"


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

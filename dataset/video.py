"""Original videos: any frame by its number, as OpenCV decodes it.

A number counts the frames that can be decoded, from the start on, as process_data/src/extract_frame.py does. To get at
a late frame, decoding begins at the nearest frame before it that needs no other. Where that is, and which frame comes
out, is told by the times of the packets, which are read without being decoded; frames that are not shown at the time
that they should be are decoded from the start on instead.
"""
import hashlib
import math
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from core.errors import DataError
from core.inputs import hash_of, open_file

from .reader import MOST_PIXELS

VIDEO_SUFFIXES = (".avi", ".mp4", ".mkv", ".webm", ".mov")
PARTS = ("train", "val", "validate", "test")  # folders above the classes in copies of Kinetics

LEAD = 16  # frames before the one that is asked for, at which OpenCV at least begins to decode
NEAR = 8  # frames that are sooner decoded than jumped over
WORTH = 32  # frames from which on it is worth to read the packets first
SAME = 1e-3  # milliseconds
FEW = 0.9  # a video that has less than this share of the frames in its header is named
MOST_RATE = 1e4  # frames a second; a header that says more is wrong
MOST_KNOWN = 2**22  # frames whose times are kept, of all videos

# How a file begins in which a video lies whole, whatever its suffix. FFmpeg would also take texts that name other files
# (playlists, ffconcat, sdp): a video must never be read from elsewhere. It holds to the same formats, and follows the
# references of MP4 to other files only where it is told to (enable_drefs).
CONTAINER = re.compile(
    rb"RIFF.{4}AVI |.{4}(?:ftyp|moov|mdat|free|wide|skip|pnot)|\x1aE\xdf\xa3"  # AVI; MP4, MOV; MKV, WebM
    # FLV, WMV, MPEG, its TS, and that of cameras, with times before the packets
    rb"|FLV\x01|\x30\x26\xb2\x75\x8e\x66\xcf\x11|\0\0\x01\xba|\x47.{187}\x47|.{4}\x47.{191}\x47", re.DOTALL)
FFMPEG_OPTIONS = "format_whitelist;avi,mov,matroska,flv,asf,mpeg,mpegts|protocol_whitelist;file"

ERRORS = 2  # OpenCV's LOG_LEVEL_ERROR
# not OpenCV's reader of pictures, which takes a name with a number for the first of a series of files
BACKENDS = (cv2.CAP_FFMPEG, cv2.CAP_GSTREAMER, cv2.CAP_OPENCV_MJPEG)


class BrokenVideo(DataError):
    """`video <path> <reason>`; reason: why no frame of it can be decoded."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"video {path} {reason}")
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple[type, tuple[str | Path, str]]:
        """From process to process."""
        return type(self), (self.path, self.reason)


@contextmanager
def open_video(path: str | Path, packets: bool = False) -> Iterator[cv2.VideoCapture]:
    """cv2.VideoCapture of a file, with one thread. Raises BrokenVideo where it is no video or no decoder can open it.

    packets: gives these, as they are stored, and not frames. No other file is opened, whatever this one says.
    """
    try:
        file = open_file(path, most=2**62)
    except OSError as error:
        raise BrokenVideo(path, f"cannot be read ({error.strerror})") from error
    with file:
        if not CONTAINER.match(start := file.read(197)):
            raise BrokenVideo(path, f"is no AVI, MP4, MOV, MKV, WebM, FLV, WMV or MPEG: it begins with {start[:12]!r}")
        os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", FFMPEG_OPTIONS)
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # silent: errors are reported by who reads
        # by number: OpenCV crashes at a name that is not UTF-8, and takes others for protocols
        capture = _capture(f"/proc/self/fd/{file.fileno()}", [cv2.CAP_PROP_FORMAT, -1] if packets else [])
        try:
            if not capture.isOpened():
                raise BrokenVideo(path, "cannot be opened by any decoder")
            size = [int(capture.get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)]
            if math.prod(size) > MOST_PIXELS:
                raise BrokenVideo(path, f"has a header that says {size[0]} x {size[1]} pixels")
            yield capture
        finally:
            capture.release()


def _capture(name: str, settings: Sequence[int]) -> cv2.VideoCapture:
    """That of the first of BACKENDS which can open the file, or one that is not open."""
    level = cv2.getLogLevel()
    cv2.setLogLevel(ERRORS)
    try:
        capture = cv2.VideoCapture()
        any(capture.open(name, backend, [cv2.CAP_PROP_N_THREADS, 1, *settings]) for backend in BACKENDS)
        return capture
    finally:
        cv2.setLogLevel(level)

# --- going to a frame ----------------------------------------------------------------------------------------

class FrameTimes(NamedTuple):
    """When the frames of a video are shown, by its packets.

    times: (N,) float64 milliseconds, ascending; keys: (K,) int, numbers of the frames that need no others
    """

    times: np.ndarray
    keys: np.ndarray

    def start(self, number: int) -> int:
        """Number of the frame at which OpenCV begins to decode for a frame."""
        earlier = self.keys[self.keys <= number - LEAD]
        return int(earlier[-1]) if len(earlier) else 0


class AstrayError(Exception):
    """The frames of a video are not shown at the times that its packets say."""


def packets(path: str | Path) -> Iterator[tuple[float, bool]]:
    """Yields (when it is shown, milliseconds; whether it needs no others) of each frame of a video, as they are stored.

    None is decoded. Raises BrokenVideo as `open_video`.
    """
    with open_video(path, packets=True) as capture:
        while capture.grab():
            yield capture.get(cv2.CAP_PROP_POS_MSEC), capture.get(cv2.CAP_PROP_LRF_HAS_KEY_FRAME) > 0


def frame_times(path: str | Path) -> FrameTimes:
    """From the packets of a video. Raises BrokenVideo as `open_video`."""
    times, keys = np.array(list(packets(path)), np.float64).reshape(-1, 2).T
    order = np.argsort(times, kind="stable")
    return FrameTimes(times[order], np.flatnonzero(keys[order]))


def go_to(capture: cv2.VideoCapture, found: FrameTimes, delay: float, number: int) -> int:
    """Grab a frame, or one shortly before it -> number of the frame that was grabbed. Raises AstrayError.

    delay: milliseconds by which frames are late to the times of their packets
    """
    times, last = found.times + delay, found.times[-1]
    steps = np.diff(times, prepend=-np.inf, append=np.inf)
    alone = (np.minimum(steps[:-1], steps[1:]) > SAME) & (times < last + SAME)  # told from all others by its time
    sure = np.flatnonzero(alone[:number + 1])
    if not len(sure):
        raise AstrayError
    target, rate = int(sure[-1]), capture.get(cv2.CAP_PROP_FPS) / 1000
    for place in (target, found.start(target + LEAD)):  # OpenCV counts on from a key frame, at times beyond the target
        capture.set(cv2.CAP_PROP_POS_FRAMES, round((times[place] - times[0]) * rate))
        shown = -math.inf
        while shown < times[target] - SAME and capture.grab():
            shown = capture.get(cv2.CAP_PROP_POS_MSEC)
        if abs(shown - times[target]) < SAME:
            return target
    raise AstrayError


def decoded(path: str | Path, numbers: Sequence[int], found: FrameTimes | None) -> Iterator[np.ndarray]:
    """Pictures (H, W, 3) uint8 BGR of frames, whose numbers ascend from 0.

    found: those of this video; None: decode from the start on. Raises DataError at a frame that cannot be decoded,
    and AstrayError if there is `found`.
    """
    with open_video(path) as capture:
        count = delay = 0
        if found is not None and capture.grab():
            count, delay = 1, capture.get(cv2.CAP_PROP_POS_MSEC) - found.times[0]
            if abs(delay) > SAME and np.ptp(np.diff(found.times)) > SAME:  # a stream without times, and with gaps
                raise AstrayError
        for number in numbers:
            if found is not None and found.start(number) > count + NEAR:
                count = go_to(capture, found, delay, number) + 1
            while count <= number and capture.grab():
                count += 1
            there, picture = capture.retrieve() if count > number else (False, None)
            if not there or picture is None:
                if found is not None:
                    raise AstrayError
                raise DataError(f"frame {number + 1} of video {path} cannot be decoded, {count} before it can")
            yield picture


def content_hash(path: str | Path) -> str:
    """Of all bytes of a file. Raises BrokenVideo where it cannot be read."""
    try:
        return hash_of(path, hashlib.blake2b(digest_size=16), most=2**62)
    except OSError as error:
        raise BrokenVideo(path, f"cannot be read ({error.strerror})") from error


class VideoFiles:
    """Original videos, <root>/[<part>/]<class>/<video>.<suffix>.

    A video that no folder of its class has may lie in <root> itself, as those of Something-Something v2 do. Frame i is
    the i-th that can be decoded, as in extract_frame.py; it has the video's own size.
    """

    SUFFIXES = "|".join(map(re.escape, VIDEO_SUFFIXES))

    def __init__(self, root: str | Path) -> None:
        self.root = os.fspath(root)
        # class -> [(folder, names of its files)]: the names are one string, as millions of strings take much memory
        self.classes: dict[str, list[tuple[str, str]]] = {}
        self.known: dict[str, FrameTimes | None] = {}
        self.frames_known = 0

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

    def read(self, video: str, indices: Sequence[int], count: int | None = None) -> Iterator[tuple[np.ndarray, str]]:
        """Yields (picture (H, W, 3) uint8 RGB, its name), as Source says.

        count: of the frames that the list says; None: decode from the start on
        """
        path, done = self.path(video), 0
        found = self._times(path, count) if count and max(indices, default=0) >= WORTH else None
        for known in (found, None):
            try:
                for picture in decoded(path, indices[done:], known):
                    name = f"{indices[done] + 1} of video {path}"
                    done += 1
                    yield cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), name
                return
            except AstrayError:
                self.known[path] = None
                print(f"note: video {path} is decoded from its start each time: its frames are not shown when its "
                      "packets say", file=sys.stderr)

    def _times(self, path: str, count: int) -> FrameTimes | None:
        """None where the packets are not as many as the frames, so that they cannot be told from each other."""
        if path not in self.known:
            try:
                found = frame_times(path)
            except BrokenVideo:  # the decoder that opens it gives no packets
                found = None
            if found is not None and len(found.times) != count:
                found = None
            if self.frames_known > MOST_KNOWN:
                self.known.clear()
                self.frames_known = 0
            self.known[path] = found
            self.frames_known += len(found.times) if found else 0
        return self.known[path]


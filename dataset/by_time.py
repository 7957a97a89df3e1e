"""A video by time, whatever its frame rate: what must be known of a file, and the frames shown at any times."""
import math
import os
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from core.inputs import open_file

from .video import MOST_RATE, BrokenVideo, content_hash, open_video, packets

TOLERANCE = 5e-4  # seconds by which a frame may be early
TAIL = 0.5  # seconds before the end that is announced, from which on frames are kept: the last ones may not decode
EARLY = (0.5, 3.0, 15.0, 90.0, math.inf)  # seconds before the first frame wanted, at which decoding begins
NEAR = 2.5  # usual times of a frame before a wanted time, from which on frames are kept
LONGEST, LONGEST_GAP = 1e7, 3600  # seconds of a video, and between two of its frames
MOST_BOXES = 1000  # of an MP4, among which its header is looked for
REORDERED = 16  # frames that may be stored before one that is shown before them
END = 2000  # milliseconds before the end that packets announce, from which on it is decoded to see where it is


class VideoFacts(NamedTuple):
    """Of a file: a hash of its content, frames a second by its header, when its first frame is shown by the decoder
    (milliseconds), its last after that (seconds), and how long the header says that it is shown (seconds; 0: it does
    not)."""

    hash: str
    fps: float
    begin: float
    last: float
    announced: float = 0.0

    @classmethod
    def of(cls, fields: Sequence[str]) -> "VideoFacts":
        """From the fields of a table. Raises ValueError."""
        found = cls(fields[0], *map(float, fields[1:]))
        if not (0 < found.fps < math.inf and abs(found.begin) < math.inf and 0 <= found.last < math.inf
                and 0 <= found.announced < math.inf):
            raise ValueError(f"rate {found.fps}, begin {found.begin}, last {found.last}, announced {found.announced}")
        return found

    @property
    def seconds(self) -> float:
        """How long the video is: its last frame is shown as long as others."""
        return self.last + 1 / self.fps


def look_at_video(path: str) -> VideoFacts:
    """Reads the whole file, of which the first frame and the last seconds are decoded. Raises BrokenVideo."""
    digest = content_hash(path)
    with open_video(path) as capture:
        if not capture.grab():
            raise BrokenVideo(path, "holds no frame that can be decoded")
        begin, fps = capture.get(cv2.CAP_PROP_POS_MSEC), capture.get(cv2.CAP_PROP_FPS)
        frames = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    first, last, gap, back = math.inf, -math.inf, 0.0, 0.0
    for time, _ in packets(path):
        gap = max(gap, time - max(first, last))
        back = max(back, last - time)
        first, last = min(first, time), max(last, time)
    if not 0 < fps < MOST_RATE or not 0 <= last - first < 1000 * LONGEST:
        raise BrokenVideo(path, "does not say when its frames are shown: `ffmpeg -i FILE -c copy NEW.mp4` may mend "
                                "that")
    if back > 1000 * max(2, REORDERED / fps):
        raise BrokenVideo(path, "has time stamps that start again, as files have that were joined: "
                                "`ffmpeg -i FILE NEW.mp4` may mend that")
    if gap > 1000 * LONGEST_GAP:
        raise BrokenVideo(path, f"shows no new frame for {gap / 3.6e6:.3g} hours, {LONGEST_GAP / 3600:g} at most: cut "
                                "it there")
    announced = min(frames / fps, movie_seconds(path)) if 0 < frames < LONGEST * fps else 0.0
    return VideoFacts(digest, fps, begin, last_shown(path, begin, last - first) / 1000, announced)


def movie_seconds(path: str) -> float:
    """How long an MP4 or MOV says that it is shown, without what its edit lists hide; inf where it does not say."""
    try:
        with open_file(path, most=2**62) as file:
            place, end = 0, file.seek(0, os.SEEK_END)
            for _ in range(MOST_BOXES):
                file.seek(place)
                start = file.read(56).ljust(56, b"\0")  # of a box; moov begins with the box mvhd
                size, kind, long_size = struct.unpack_from(">I4sQ", start)
                if kind == b"moov":
                    units, length = struct.unpack_from(">IQ" if start[16] else ">II", start, 36 if start[16] else 28)
                    return length / units if start[12:16] == b"mvhd" and units and length else math.inf
                size = long_size if size == 1 else size
                if not 8 <= size < end - place:
                    break
                place += size
    except OSError as error:
        raise BrokenVideo(path, f"cannot be read ({error.strerror})") from error
    return math.inf


def last_shown(path: str, begin: float, announced: float) -> float:
    """When the last frame that can be decoded is shown, milliseconds after the first; announced: by the packets."""
    starts = [announced - END] if announced > 2 * END else []
    for start in [*starts, None]:
        with open_video(path) as capture:
            if start is not None:
                capture.set(cv2.CAP_PROP_POS_MSEC, begin + start)
            last = -1.0
            while capture.grab():
                last = max(last, capture.get(cv2.CAP_PROP_POS_MSEC) - begin)
            if start is None or last >= start:
                break
    return max(last, 0.0)


def cut_short(facts: VideoFacts) -> str | None:
    """That a file's header announces far more than can be decoded, as where a copy was stopped -> text or None"""
    if facts.announced <= facts.seconds + max(1.0, 0.1 * facts.announced):
        return None
    return (f"ends at {facts.seconds:.1f} s, and its header announces {facts.announced:.1f} s: it was cut off, or is "
            "damaged there, which `ffmpeg -i FILE NEW.mp4` may mend")


def frames_at(path: str, facts: VideoFacts, seconds: np.ndarray) -> Iterator[np.ndarray]:
    """The frame (H, W, 3) uint8 BGR that is shown at each of `seconds` (N,), which ascend. Raises BrokenVideo.

    Decoding begins shortly before the first of them; earlier, and at last at the start, where the file leads beyond it.
    """
    wanted, done = np.minimum(seconds, facts.last).tolist(), 0
    for every in (False, True):  # whether each frame is kept until the next is there
        try:
            for picture in _frames_at(path, facts, wanted[done:], every):
                yield picture
                done += 1
            return
        except _GapError:
            pass


class _GapError(Exception):
    """A frame was shown longer than others, and has not been kept."""


def _frames_at(path: str, facts: VideoFacts, wanted: Sequence[float], every: bool) -> Iterator[np.ndarray]:
    for early in EARLY:
        start = wanted[0] - early
        with open_video(path) as capture:
            if start > 0:
                capture.set(cv2.CAP_PROP_POS_MSEC, facts.begin + 1000 * start)
            shown = _grab(capture, facts)
            if start <= 0 or shown is not None and shown <= wanted[0] + TOLERANCE:
                yield from _following(capture, path, facts, wanted, shown, every)
                return


def _grab(capture: cv2.VideoCapture, facts: VideoFacts) -> float | None:
    """Grab the next frame -> when it is shown, seconds after the first; None at the end."""
    return (capture.get(cv2.CAP_PROP_POS_MSEC) - facts.begin) / 1000 if capture.grab() else None


def _following(capture: cv2.VideoCapture, path: str, facts: VideoFacts, wanted: Sequence[float], shown: float | None,
               every: bool) -> Iterator[np.ndarray]:
    """As `frames_at`, from the frame that was grabbed on, which is shown at `shown`. Raises _GapError.

    every: keep each frame, and not only those after which the next wanted time is near: to keep one costs as much as to
    decode it.
    """
    place, last, picture = 0, 0.0, None
    while shown is not None:
        last = shown = max(shown, last)  # the last frames of some streams have no time
        while wanted[place] < shown - TOLERANCE:  # the frame before this one is shown until now
            if picture is None:
                raise _GapError
            yield picture
            place += 1
            if place == len(wanted):
                return
        picture = None
        if every or wanted[place] - shown < NEAR / facts.fps or shown > facts.last - TAIL:
            there, picture = capture.retrieve()
            if not there:
                raise BrokenVideo(path, f"has a frame at {shown:.2f} s that cannot be decoded")
        shown = _grab(capture, facts)
    if picture is None or wanted[-1] > last + TAIL:
        raise BrokenVideo(path, f"ends at {last:.1f} s, and is {facts.last:.1f} s long")
    for _ in wanted[place:]:  # the last frame
        yield picture

"""Frames of a video, read from where they are stored and scaled."""
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import simplejpeg

from core.errors import DataError
from core.inputs import MIB
from core.inputs import read_bytes as read_file

FRAME_NAME = "image_{:05d}.jpg"  # numbered from 1
MOST_PIXELS = 2**26  # of a frame: a damaged header may ask for gigabytes
MOST_BYTES = 64 * MIB  # of a frame's file
HARMLESS = re.compile(r"\d+ extraneous bytes before marker 0xd9")  # padding after the last block of the picture


def decode_jpeg(data: bytes, name: str | Path, height: int = 0, width: int = 0) -> np.ndarray:
    """Bytes of a JPEG -> (H, W, 3) uint8 RGB, of the JPEG's size or, if height and width are given, perhaps smaller.

    The decoder can shrink a picture to 1/2, 3/8, 1/4 or 1/8 in less time than it takes to decode it whole. It takes
    the smallest of these that still has 9/10 of `height` and `width`: 240 pixels high for 128 becomes 120. Raises
    DataError, in which the frame is called `name`, where it is no JPEG, cut short or visibly damaged.
    """
    def decode(strict: bool) -> np.ndarray:
        # without the decoder's fast but inexact options: the pixels are those of libjpeg and OpenCV
        return simplejpeg.decode_jpeg(data, "RGB", False, False, -(-9 * height // 10), -(-9 * width // 10), 2, None,
                                      strict)

    try:
        shape = simplejpeg.decode_jpeg_header(data)[:2]
        if math.prod(shape) > MOST_PIXELS:
            raise ValueError(f"its header says {shape[0]} x {shape[1]} pixels")
        return decode(strict=True)
    except ValueError as error:
        if HARMLESS.search(str(error)):
            return decode(strict=False)
        raise DataError(f"frame {name} is not a whole JPEG ({len(data)} bytes; {error})") from error


def read_bytes(path: str | Path) -> bytes:
    """Content of a frame's file. Raises DataError where it cannot be read."""
    try:
        return read_file(path, MOST_BYTES)
    except OSError as error:
        raise DataError(f"frame {path} cannot be read ({error.strerror})") from error


def read_frame(path: str | Path) -> np.ndarray:
    """JPEG file -> (H, W, 3) uint8 RGB. Raises DataError where the file is missing, cut short or not a picture."""
    return decode_jpeg(read_bytes(path), path)


def scale(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8 -> (height, width, 3) uint8; `picture` itself where it has that size."""
    if picture.shape[:2] == (height, width):
        return picture
    # of the two filters, area averaging is the one without aliasing when a picture shrinks
    method = cv2.INTER_AREA if picture.shape[0] > height else cv2.INTER_LINEAR
    return cv2.resize(picture, (width, height), interpolation=method)


class Source(Protocol):
    """One way in which the frames of videos are stored; storage.py has the others."""

    def read(self, video: str, indices: Sequence[int],
             count: int | None = None) -> Iterator[tuple[bytes | np.ndarray, str]]:
        """Yields (frame, its name for messages) for each of `indices`, which ascend from 0.

        count: how many frames the video has by its list, where that is known. A frame is the bytes of a JPEG, or a
        picture (H, W, 3) uint8 RGB. Raises DataError on reaching a frame that cannot be read.
        """


class FrameFolders:
    """Numbered JPEGs: <root>/<class>/<video>/image_00001.jpg."""

    def __init__(self, root: str | Path) -> None:
        self.root = os.fspath(root)

    def read(self, video: str, indices: Sequence[int], count: int | None = None) -> Iterator[tuple[bytes, str]]:
        """Yields (bytes of a JPEG, its path), as Source says."""
        for index in indices:
            path = f"{self.root}/{video}/{FRAME_NAME.format(index + 1)}"
            yield read_bytes(path), path


class FrameReader:
    """Reads frames of videos under one root, scaled to `resize`.

    root: folder of the videos; resize: (height, width) in pixels; repair_hint: end of the sentence about a frame that
    cannot be read, which says what to do; source: how frames are stored, a class of storage.SOURCES.
    """

    def __init__(self, root: str | Path, resize: tuple[int, int], repair_hint: str = ": extract its video again",
                 source: Callable[[str | Path], Source] = FrameFolders) -> None:
        self.source, self.repair_hint = source(root), repair_hint
        self.height, self.width = resize

    def read(self, video: str, indices: np.ndarray,
             count: int | None = None) -> tuple[Iterator[np.ndarray], np.ndarray]:
        """Frames of `video` by their indices (any shape, int, 0-based) -> (pictures, which).

        pictures: iterator over the distinct frames, each decoded and scaled once, (H, W, 3) uint8 RGB; it raises
        DataError at a frame that cannot be read. which: number of the picture, from 0, that shows each of `indices`,
        in their shape. count: of all its frames, by its list: with it, late frames of video files are found sooner.
        """
        distinct, which = np.unique(indices, return_inverse=True)
        return self._pictures(video, distinct.tolist(), count), which.reshape(np.shape(indices))

    def _pictures(self, video: str, indices: Sequence[int], count: int | None) -> Iterator[np.ndarray]:
        try:
            for frame, name in self.source.read(video, indices, count):
                if isinstance(frame, bytes):
                    frame = decode_jpeg(frame, name, self.height, self.width)
                yield scale(frame, self.height, self.width)
        except DataError as error:
            raise DataError(f"{error}{self.repair_hint}") from error

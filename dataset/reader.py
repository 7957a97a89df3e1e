"""Frames of a video from numbered JPEGs."""
from pathlib import Path

import cv2
import numpy as np

from .lists import DataError

FRAME_NAME = "image_{:05d}.jpg"  # numbered from 1
JPEG_END = b"\xff\xd9"


def read_bytes(path):
    """A frame's JPEG. Raises DataError where it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"frame {path} cannot be read ({error.strerror})") from error


def read_frame(path):
    """JPEG file -> (H, W, 3) uint8 RGB. Raises DataError where it cannot be read or is no whole JPEG."""
    return cv2.cvtColor(decode_jpeg(read_bytes(path), path), cv2.COLOR_BGR2RGB)


def decode_jpeg(data, name, height=0, width=0):
    """JPEG bytes -> (H, W, 3) uint8 BGR; with a size that is wanted, perhaps decoded at 1/2, 1/4 or 1/8 of its own.

    The decoder averages over whole pixels then, in less time than it takes to decode all of them. Raises DataError,
    calling the picture `name`. OpenCV fills the rest of a truncated JPEG with grey and says nothing, so the end marker
    is checked here.
    """
    picture = None
    if data.rstrip(b"\0")[-2:] == JPEG_END:
        try:
            picture = cv2.imdecode(np.frombuffer(data, np.uint8), reduction(data, height, width))
        except cv2.error:  # a size beyond OpenCV's limit
            picture = None
    if picture is None:
        raise DataError(f"frame {name} is not a whole JPEG ({len(data)} bytes)")
    return picture


def reduction(data, height, width):
    """OpenCV's flag for the smallest decoding that has 9/10 of the wanted size: 240 high for 128 is halved."""
    own = jpeg_size(data) if height else None
    for factor, flag in ((8, cv2.IMREAD_REDUCED_COLOR_8), (4, cv2.IMREAD_REDUCED_COLOR_4),
                         (2, cv2.IMREAD_REDUCED_COLOR_2)):
        if own and 10 * own[0] >= 9 * factor * height and 10 * own[1] >= 9 * factor * width:
            return flag
    return cv2.IMREAD_COLOR


def jpeg_size(data):
    """(height, width) that a JPEG's header says, or None where it has none."""
    at = 2
    while data[at:at + 1] == b"\xff" and len(data) > at + 9:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of a frame
            return int.from_bytes(data[at + 5:at + 7], "big"), int.from_bytes(data[at + 7:at + 9], "big")
        at += 2 + int.from_bytes(data[at + 2:at + 4], "big")
    return None


class FrameReader:
    """Reads frames of videos under one root, scaled to `resize`.

    root: folder of class/video/image_00001.jpg; resize: (height, width) in pixels; advice: what to do about a
    frame that cannot be read, for the error.
    """

    def __init__(self, root, resize, advice=": extract its video again"):
        self.root, self.advice = Path(root), advice
        self.height, self.width = resize

    def read(self, video, indices):
        """Frames `indices` (any shape, int, 0-based) of `video` -> (*indices.shape, H, W, 3) uint8 RGB.

        Each distinct frame is decoded and scaled once. Raises DataError where one cannot be read.
        """
        distinct, inverse = np.unique(indices, return_inverse=True)
        frames = np.empty((len(distinct), self.height, self.width, 3), np.uint8)
        for picture, index in zip(frames, distinct, strict=True):
            path = self.root / video / FRAME_NAME.format(index + 1)
            try:
                scale(decode_jpeg(read_bytes(path), path, self.height, self.width), picture)
            except DataError as error:
                raise DataError(f"{error}{self.advice}") from error
        return frames[inverse.reshape(np.shape(indices))]


def scale(picture, out):
    """(H, W, 3) uint8 BGR -> `out` (height, width, 3) uint8, in its size and RGB."""
    if picture.shape != out.shape:
        # area averaging is the antialiased filter of the two when a picture shrinks
        method = cv2.INTER_AREA if picture.shape[0] > out.shape[0] else cv2.INTER_LINEAR
        picture = cv2.resize(picture, out.shape[1::-1], interpolation=method)
    cv2.cvtColor(picture, cv2.COLOR_BGR2RGB, dst=out)

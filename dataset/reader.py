"""Frames of a video, read from where they are stored and scaled."""
from pathlib import Path

import cv2
import numpy as np

from .lists import DataError

FRAME_NAME = "image_{:05d}.jpg"  # numbered from 1
JPEG_END = b"\xff\xd9"


def decode_jpeg(data, name):
    """Bytes of a JPEG -> (H, W, 3) uint8 RGB. Raises DataError, calling the frame `name`, where they are none.

    OpenCV fills the rest of a truncated JPEG with grey and says nothing, so the end marker is checked here.
    """
    picture = None
    if data.rstrip(b"\0")[-2:] == JPEG_END:
        try:
            picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        except cv2.error:  # a size beyond OpenCV's limit
            picture = None
    if picture is None:
        raise DataError(f"frame {name} is not a whole JPEG ({len(data)} bytes)")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def read_bytes(path):
    """The whole of a frame's file. Raises DataError where it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"frame {path} cannot be read ({error.strerror})") from error


def read_frame(path):
    """JPEG file -> (H, W, 3) uint8 RGB. Raises DataError where the file is missing, cut short or not a picture."""
    return decode_jpeg(read_bytes(path), path)


def scale(frame, height, width):
    """(H, W, 3) uint8 -> (height, width, 3) uint8."""
    # area averaging is the antialiased filter of the two when a picture shrinks
    shrinks = frame.shape[0] > height
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(frame, (width, height), interpolation=method)


class FrameFolders:
    """Numbered JPEGs: <root>/<class>/<video>/image_00001.jpg."""

    def __init__(self, root):
        self.root = Path(root)

    def read(self, video, indices):
        """Yields (bytes of the JPEG, its path) for each of `indices` (0-based) in turn; DataError as it comes."""
        for index in indices:
            path = self.root / video / FRAME_NAME.format(index + 1)
            yield read_bytes(path), path


class FrameReader:
    """Reads frames of videos under one root, scaled to `resize`.

    root: folder of the videos; resize: (height, width) in pixels; advice: what to do about a frame that cannot be
    read, for the error; source: how they are stored, a class of dataset/storage.py.
    """

    def __init__(self, root, resize, advice=": extract its video again", source=FrameFolders):
        self.source, self.advice = source(root), advice
        self.height, self.width = resize

    def read(self, video, indices):
        """Frames `indices` (any shape, int, 0-based) of `video` -> (*indices.shape, H, W, 3) uint8 RGB.

        Each distinct frame is decoded and scaled once. Raises DataError where one cannot be read.
        """
        distinct, inverse = np.unique(indices, return_inverse=True)
        frames = np.empty((len(distinct), self.height, self.width, 3), np.uint8)
        try:
            for i, (frame, name) in enumerate(self.source.read(video, distinct)):
                picture = decode_jpeg(frame, name) if isinstance(frame, bytes) else frame
                frames[i] = scale(picture, self.height, self.width)
        except DataError as error:
            raise DataError(f"{error}{self.advice}") from error
        return frames[inverse.reshape(np.shape(indices))]

"""Frames of a video from numbered JPEGs."""
from pathlib import Path

import cv2
import numpy as np

from .lists import DataError

FRAME_NAME = "image_{:05d}.jpg"  # numbered from 1
JPEG_END = b"\xff\xd9"


def read_frame(path):
    """JPEG file -> (H, W, 3) uint8 RGB. Raises DataError where the file is missing, cut short or not a picture.

    OpenCV fills the rest of a truncated JPEG with grey and says nothing, so the end marker is checked here.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"frame {path} cannot be read ({error.strerror})") from error
    picture = None
    if data.rstrip(b"\0")[-2:] == JPEG_END:
        try:
            picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        except cv2.error:  # a size beyond OpenCV's limit
            picture = None
    if picture is None:
        raise DataError(f"frame {path} is not a whole JPEG ({len(data)} bytes)")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


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
        for i, index in enumerate(distinct):
            try:
                frame = read_frame(self.root / video / FRAME_NAME.format(index + 1))
            except DataError as error:
                raise DataError(f"{error}{self.advice}") from error
            # area averaging is the antialiased filter of the two when a picture shrinks
            shrinks = frame.shape[0] > self.height
            method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            frames[i] = cv2.resize(frame, (self.width, self.height), interpolation=method)
        return frames[inverse.reshape(np.shape(indices))]

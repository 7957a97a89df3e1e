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
        raise DataError(f"frame {path} cannot be read ({error.strerror}): run extract_frame.py "
                        "again") from error
    picture = None
    if data.rstrip(b"\0")[-2:] == JPEG_END:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise DataError(f"frame {path} is not a whole JPEG ({len(data)} bytes): remove its folder and run "
                        "extract_frame.py again")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


class FrameReader:
    """Reads frames of videos under one root, scaled to `resize`.

    root: folder of class/video/image_00001.jpg; resize: (height, width) in pixels.
    """

    def __init__(self, root, resize):
        self.root = Path(root)
        self.height, self.width = resize

    def read(self, video, indices):
        """Frames `indices` (any shape, int, 0-based) of `video` -> (*indices.shape, H, W, 3) uint8 RGB.

        Each distinct frame is decoded and scaled once.
        """
        distinct, inverse = np.unique(indices, return_inverse=True)
        frames = np.empty((len(distinct), self.height, self.width, 3), np.uint8)
        for i, index in enumerate(distinct):
            frame = read_frame(self.root / video / FRAME_NAME.format(index + 1))
            # area averaging is the antialiased filter of the two when a picture shrinks
            shrinks = frame.shape[0] > self.height
            method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            frames[i] = cv2.resize(frame, (self.width, self.height), interpolation=method)
        return frames[inverse.reshape(np.shape(indices))]

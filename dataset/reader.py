"""Frames of a video, read from where they are stored and scaled."""
import os

import cv2
import numpy as np

from .lists import DataError

FRAME_NAME = "image_{:05d}.jpg"  # numbered from 1
JPEG_END = b"\xff\xd9"
# OpenCV's "reduced" flags with RGB in place of their grey
REDUCED = ((8, cv2.IMREAD_REDUCED_GRAYSCALE_8 | cv2.IMREAD_COLOR_RGB),
           (4, cv2.IMREAD_REDUCED_GRAYSCALE_4 | cv2.IMREAD_COLOR_RGB),
           (2, cv2.IMREAD_REDUCED_GRAYSCALE_2 | cv2.IMREAD_COLOR_RGB))


def decode_jpeg(data, name, height=0, width=0):
    """Bytes of a JPEG -> (H, W, 3) uint8 RGB; where a size is wanted perhaps at 1/2, 1/4 or 1/8 of the picture's.

    The decoder averages over whole pixels then, in less time than it takes to decode all of them. Raises DataError,
    calling the frame `name`, where it is no picture or cut short: OpenCV fills the rest of a truncated JPEG with grey
    and says nothing, so the end marker is checked here.
    """
    picture = None
    if data.rstrip(b"\0")[-2:] == JPEG_END:
        try:
            picture = cv2.imdecode(np.frombuffer(data, np.uint8), decoding(data, height, width))
        except cv2.error:  # a size beyond OpenCV's limit
            picture = None
    if picture is None:
        raise DataError(f"frame {name} is not a whole JPEG ({len(data)} bytes)")
    return picture


def decoding(data, height, width):
    """OpenCV's flag for the smallest decoding that has 9/10 of the wanted size: 240 high for 128 is halved."""
    own = jpeg_size(data) if height else None
    for factor, flag in REDUCED if own else ():
        if 10 * own[0] >= 9 * factor * height and 10 * own[1] >= 9 * factor * width:
            return flag
    return cv2.IMREAD_COLOR_RGB


def jpeg_size(data):
    """(height, width) that a JPEG's header says, or None where it has none."""
    at = 2
    while data[at:at + 1] == b"\xff" and len(data) > at + 9:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of a frame
            return int.from_bytes(data[at + 5:at + 7], "big"), int.from_bytes(data[at + 7:at + 9], "big")
        at += 2 + int.from_bytes(data[at + 2:at + 4], "big")
    return None


def read_bytes(path):
    """The whole of a frame's file. Raises DataError where it cannot be read."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError as error:
        raise DataError(f"frame {path} cannot be read ({error.strerror})") from error


def read_frame(path):
    """JPEG file -> (H, W, 3) uint8 RGB. Raises DataError where the file is missing, cut short or not a picture."""
    return decode_jpeg(read_bytes(path), path)


def scale(picture, height, width):
    """(H, W, 3) uint8 -> (height, width, 3) uint8; the same where it has that size."""
    if picture.shape[:2] == (height, width):
        return picture
    # area averaging is the antialiased filter of the two when a picture shrinks
    method = cv2.INTER_AREA if picture.shape[0] > height else cv2.INTER_LINEAR
    return cv2.resize(picture, (width, height), interpolation=method)


class FrameFolders:
    """Numbered JPEGs: <root>/<class>/<video>/image_00001.jpg."""

    def __init__(self, root):
        self.root = os.fspath(root)

    def read(self, video, indices):
        """Yields (bytes of the JPEG, its path) for each of `indices` (0-based) in turn; DataError as it comes."""
        for index in indices:
            path = f"{self.root}/{video}/{FRAME_NAME.format(index + 1)}"
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
        """Frames `indices` (any shape, int, 0-based) of `video` -> (pictures, which).

        pictures: list of the distinct frames, each decoded and scaled once, (H, W, 3) uint8 RGB; which: for each of
        `indices` the picture that shows it, in the shape of `indices`. Raises DataError where a frame cannot be read.
        """
        distinct, which = np.unique(indices, return_inverse=True)
        pictures = []
        try:
            for frame, name in self.source.read(video, distinct.tolist()):
                if isinstance(frame, bytes):
                    frame = decode_jpeg(frame, name, self.height, self.width)
                pictures.append(scale(frame, self.height, self.width))
        except DataError as error:
            raise DataError(f"{error}{self.advice}") from error
        return pictures, which.reshape(np.shape(indices))

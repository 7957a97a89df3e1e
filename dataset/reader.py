"""Frames of a video, read from where they are stored and scaled."""
import math
import os
import re

import cv2
import numpy as np
import simplejpeg

from core.errors import DataError

FRAME_NAME = "image_{:05d}.jpg"  # numbered from 1
MOST_PIXELS = 2**26  # of a frame: a damaged header may ask for gigabytes
HARMLESS = re.compile(r"\d+ extraneous bytes before marker 0xd9")  # bytes too many after the last block


def decode_jpeg(data, name, height=0, width=0):
    """Bytes of a JPEG -> (H, W, 3) uint8 RGB; where a size is wanted perhaps at 1/2 or less of the picture's.

    The decoder takes the smallest of 1/2, 3/8, 1/4 and 1/8 that has 9/10 of the wanted size (240 high for 128 is
    halved) and averages over whole pixels, in less time than it takes to decode all of them. Raises DataError, calling
    the frame `name`, where it is no picture, cut short or damaged so that the decoder notices.
    """
    def decode(strict):
        # neither the fast inverse transform nor the fast upsampling: the pixels are libjpeg's and OpenCV's
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

        pictures: iterator over the distinct frames, each decoded and scaled once, (H, W, 3) uint8 RGB; it raises
        DataError where a frame cannot be read. which: for each of `indices` the picture that shows it, in their shape.
        """
        distinct, which = np.unique(indices, return_inverse=True)
        return self._pictures(video, distinct.tolist()), which.reshape(np.shape(indices))

    def _pictures(self, video, indices):
        try:
            for frame, name in self.source.read(video, indices):
                if isinstance(frame, bytes):
                    frame = decode_jpeg(frame, name, self.height, self.width)
                yield scale(frame, self.height, self.width)
        except DataError as error:
            raise DataError(f"{error}{self.advice}") from error

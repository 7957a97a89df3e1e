"""Pictures of a piece of a video, made in a process that may crash: a still, or an animation that any browser plays."""
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from core.errors import DataError
from dataset.by_time import VideoFacts, frames_at

WIDEST = 4  # times the height: wider ones are squeezed
ONE = 0.2  # seconds for which the only picture of an animation is shown


class Wanted(NamedTuple):
    """A picture: the frames of a video that are shown at `times` (N,), seconds, `height` pixels high, as a file. Of one
    that is `moving` an animation in WebP of all of them, else the first as JPEG.
    """

    video: str
    facts: VideoFacts
    times: np.ndarray
    height: int
    moving: bool
    target: Path


def make(wanted: Wanted) -> DataError | OSError | None:
    """Write a picture -> why it could not be made, or None"""
    times = wanted.times
    try:
        pictures = [small(picture, wanted.height) for picture in frames_at(wanted.video, wanted.facts, times)]
        if wanted.moving:
            step = float(np.mean(np.diff(times))) if len(times) > 1 else ONE
            pictures[0].save(wanted.target, "WEBP", save_all=True, append_images=pictures[1:], loop=0, quality=60,
                             duration=round(1000 * step))
        else:
            pictures[0].save(wanted.target, "JPEG", quality=80)
    except OSError as error:
        return error
    except (DataError, MemoryError, cv2.error) as error:
        return DataError(str(error) if isinstance(error, DataError) else
                         f"video {wanted.video} cannot be shown ({type(error).__name__})")
    return None


def small(picture: np.ndarray, height: int) -> Image.Image:
    """A frame (H, W, 3) uint8 BGR, scaled to a height."""
    width = max(1, min(round(picture.shape[1] * height / picture.shape[0]), WIDEST * height))
    return Image.fromarray(cv2.cvtColor(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA),
                                        cv2.COLOR_BGR2RGB))

"""A video -> the clips that the network beside this file takes: (CLIPS, 3, FRAMES, SIZE, SIZE) float32.
Use: python preprocess.py VIDEO clips.npy [RATE]; VIDEO: a file, or a folder of pictures by name, RATE a second"""
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np

FRAMES, STRIDE, CLIPS, FPS = 16, 4, 10, None  # of a clip; from one to the next, of FPS a second; clips of a video
HEIGHT, WIDTH, SIZE = 128, 171, 112  # of a whole frame, in pixels; side of the square that is cut from its middle
MEAN, STD = np.array([(0.485, 0.456, 0.406), (0.229, 0.224, 0.225)], np.float32)  # of red, green, blue in 0..1


def clips_of(source: Any, clips: int = CLIPS, rate: float = 0) -> np.ndarray:
    """A video's file, or a folder or list of all its frames (files, or uint8 RGB), `rate` of them a second -> clips."""
    if isinstance(source, (str, Path)) and Path(source).is_dir():
        source = sorted(Path(source).glob("[!.]*"))
    count = len(source) if isinstance(source, list) else sum(1 for _ in decoded(source))
    rate = rate or (cv2.VideoCapture(str(source)).get(cv2.CAP_PROP_FPS) if FPS else 1)
    assert count and rate > 0, f"{source} holds no frames, or says not how many there are a second: RATE, or rate="
    steps = np.floor(np.arange(FRAMES + 1) * STRIDE * rate / (FPS or rate) + 1e-6).astype(int)
    starts = np.arange(clips) * max(count - max(steps[-1], steps[-2] + 1), 0) // max(clips - 1, 1)
    numbers = np.minimum(starts[:, None] + steps[:-1], count - 1)
    distinct, which = np.unique(numbers, return_inverse=True)
    frames = (picture(source[i]) for i in distinct) if isinstance(source, list) else decoded(source, set(distinct))
    return np.ascontiguousarray(np.stack([*map(normalised, frames)])[which.reshape(clips, -1)].transpose(0, 4, 1, 2, 3))


def decoded(path: Any, wanted: set[int] | None = None) -> Any:
    """The frames of a video file, RGB, those whose number is wanted; where none is named, None for each."""
    video, number = cv2.VideoCapture(str(path)), 0
    assert video.isOpened(), f"{path} is no video that can be read"
    while video.grab():
        if wanted is None or number in wanted:
            yield None if wanted is None else video.retrieve()[1][..., ::-1]
        number += 1


def picture(source: Any) -> np.ndarray:
    """A picture's file, or RGB -> RGB. A JPEG is decoded at the smallest of 1/8, 1/4, 1/2 that has 9/10 of the size."""
    found, flags = source, ("REDUCED_COLOR_8", "REDUCED_COLOR_4", "REDUCED_COLOR_2", "COLOR")
    for flag in () if isinstance(source, np.ndarray) else flags:
        found = cv2.imread(str(source), getattr(cv2, f"IMREAD_{flag}") | cv2.IMREAD_IGNORE_ORIENTATION)[..., ::-1]
        if found.shape[0] * 10 >= HEIGHT * 9 and found.shape[1] * 10 >= WIDTH * 9:
            break
    return found


def normalised(frame: np.ndarray) -> np.ndarray:  # (H, W, 3) uint8 RGB -> its middle (SIZE, SIZE, 3) float32
    method = cv2.INTER_AREA if frame.shape[0] > HEIGHT else cv2.INTER_LINEAR
    frame = cv2.resize(np.ascontiguousarray(frame), (WIDTH, HEIGHT), interpolation=method)
    top, left = round((HEIGHT - SIZE) / 2), round((WIDTH - SIZE) / 2)
    return (frame[top:top + SIZE, left:left + SIZE].astype(np.float32) / 255 - MEAN) / STD


if __name__ == "__main__":
    sys.argv[2:] or sys.exit(__doc__)
    np.save(sys.argv[2], clips_of(sys.argv[1], CLIPS, *map(float, sys.argv[3:])))

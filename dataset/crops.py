"""Crops: the same window for all frames of a clip."""
from collections.abc import Callable, Iterable

import numpy as np

Corners = Callable[[tuple[int, ...]], list[tuple[int, int]]]


def resize_for(img_dim: int) -> tuple[int, int]:
    """Frame size before a crop of `img_dim`: (height, width), 128 x 171 for 112, in proportion otherwise."""
    return round(128 * img_dim / 112), round(171 * img_dim / 112)


def crop_clips(pictures: Iterable[np.ndarray], which: np.ndarray, size: int, corners: Corners) -> np.ndarray:
    """Square windows of `size` pixels, one for each clip -> (clips, T, size, size, 3).

    pictures: (H, W, 3), all of one size, numbered from 0 as they come; which: (clips, T) int, the number of the
    picture that each frame of a clip shows; corners: (H, W) -> (top, left) of each clip's window. Each picture is
    copied to all clips that show it at once, while it is in the processor's cache.
    """
    clips, length = which.shape
    frames_of: list[list[int]] = [[] for _ in range(int(which.max()) + 1)]  # of each picture, counted over all clips
    for frame, number in enumerate(which.ravel().tolist()):
        frames_of[number].append(frame)
    out, windows = np.empty(0), list[tuple[slice, slice]]()
    for picture, frames in zip(pictures, frames_of, strict=True):
        if not windows:
            out = np.empty((clips * length, size, size, 3), picture.dtype)
            windows = [np.s_[top:top + size, left:left + size] for top, left in corners(picture.shape[:2])]
        for frame in frames:
            out[frame] = picture[windows[frame // length]]
    return out.reshape(clips, length, size, size, 3)


class RandomCrop:
    """One random window for each view, drawn independently."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, pictures: Iterable[np.ndarray], which: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """pictures: (H, W, 3) each; which: (V, T) int, numbers of each view's pictures -> (V, T, size, size, 3)"""
        def corners(shape: tuple[int, ...]) -> list[tuple[int, int]]:
            ends = np.subtract(shape, self.size - 1)
            return rng.integers(ends, size=(len(which), 2)).tolist()

        return crop_clips(pictures, which, self.size, corners)


class FixedCrops:
    """`crops` windows of every clip: 1: the centre; 5: the corners too; 10: these five and their mirror images."""

    def __init__(self, size: int, crops: int = 1) -> None:
        self.size, self.crops = size, crops

    def __call__(self, pictures: Iterable[np.ndarray], which: np.ndarray,
                 rng: np.random.Generator | None = None) -> np.ndarray:
        """As RandomCrop -> (V * crops, T, size, size, 3), the crops of a clip one after another"""
        count = 1 if self.crops == 1 else 5

        def corners(shape: tuple[int, ...]) -> list[tuple[int, int]]:
            bottom, right = (length - self.size for length in shape)
            windows = [(round(bottom / 2), round(right / 2)), (0, 0), (0, right), (bottom, 0), (bottom, right)]
            return windows[:count] * len(which)

        out = crop_clips(pictures, which.repeat(count, axis=0), self.size, corners)
        if self.crops == 10:
            out = np.stack([out, out[:, :, :, ::-1]], axis=1).reshape(-1, *out.shape[1:])
        return out

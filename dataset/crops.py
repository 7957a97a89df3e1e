"""Where a clip is cut from its frames: the same window for all frames of a clip."""
import numpy as np


def resize_for(img_dim):
    """Frame size before a crop of `img_dim`: (height, width), 128 x 171 for 112, in proportion otherwise."""
    return round(128 * img_dim / 112), round(171 * img_dim / 112)


def cut(pictures, which, corners, size):
    """Windows of `size` at `corners`, one (top, left) for each clip -> (clips, T, size, size, 3).

    pictures: list of (H, W, 3); which: (clips, T) int, the pictures that make each clip.
    """
    out = np.empty((*which.shape, size, size, 3), pictures[0].dtype)
    for clip, frames, (top, left) in zip(out, which.tolist(), corners, strict=True):
        for window, frame in zip(clip, frames, strict=True):
            window[:] = pictures[frame][top:top + size, left:left + size]
    return out


class RandomCrop:
    """One random window for each view, drawn independently."""

    def __init__(self, size):
        self.size = size

    def __call__(self, pictures, which, rng):
        """pictures: list of (H, W, 3); which: (V, T) int, those of each view -> (V, T, size, size, 3)"""
        height, width = pictures[0].shape[:2]
        corners = rng.integers((height - self.size + 1, width - self.size + 1), size=(len(which), 2))
        return cut(pictures, which, corners.tolist(), self.size)


class FixedCrops:
    """`crops` windows of every clip: 1 the centre, 5 the corners too, 10 all of them mirrored as well."""

    def __init__(self, size, crops=1):
        self.size, self.crops = size, crops

    def __call__(self, pictures, which, rng=None):
        """As RandomCrop -> (V * crops, T, size, size, 3), the crops of a clip together"""
        bottom, right = (length - self.size for length in pictures[0].shape[:2])
        corners = [(round(bottom / 2), round(right / 2)), (0, 0), (0, right), (bottom, 0), (bottom, right)]
        windows = corners[:1] if self.crops == 1 else corners
        out = cut(pictures, which.repeat(len(windows), axis=0), windows * len(which), self.size)
        if self.crops == 10:
            out = np.stack([out, out[:, :, :, ::-1]], axis=1).reshape(-1, *out.shape[1:])
        return out

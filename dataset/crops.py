"""Where a clip is cut from its frames: the same window for all frames of a clip."""
import numpy as np


def resize_for(img_dim):
    """Frame size before a crop of `img_dim`: (height, width), 128 x 171 for 112, in proportion otherwise."""
    return round(128 * img_dim / 112), round(171 * img_dim / 112)


def _cut(clip, top, left, size):
    return clip[:, top:top + size, left:left + size]


class RandomCrop:
    """One random window for each view, drawn independently."""

    def __init__(self, size):
        self.size = size

    def __call__(self, views, rng):
        """(V, T, H, W, 3) uint8 -> (V, T, size, size, 3)"""
        height, width = views.shape[2:4]
        corners = rng.integers((height - self.size + 1, width - self.size + 1), size=(len(views), 2))
        return np.stack([_cut(view, top, left, self.size) for view, (top, left) in zip(views, corners, strict=True)])


class FixedCrops:
    """`crops` windows of every clip: 1 the centre, 5 the corners too, 10 all of them mirrored as well."""

    def __init__(self, size, crops=1):
        self.size, self.crops = size, crops

    def __call__(self, clips, rng=None):
        """(V, T, H, W, 3) uint8 -> (V * crops, T, size, size, 3), the crops of a clip together"""
        bottom, right = clips.shape[2] - self.size, clips.shape[3] - self.size
        corners = [(round(bottom / 2), round(right / 2)), (0, 0), (0, right), (bottom, 0), (bottom, right)]
        windows = corners[:1] if self.crops == 1 else corners
        out = [_cut(clip, top, left, self.size) for clip in clips for top, left in windows]
        if self.crops == 10:
            out = [picture for window in out for picture in (window, window[:, :, ::-1])]
        return np.stack(out)

"""Where a clip is cut from its frames: the same window for all frames of a clip."""
import numpy as np


def resize_for(img_dim):
    """Frame size before a crop of `img_dim`: (height, width), 128 x 171 for 112, in proportion otherwise."""
    return round(128 * img_dim / 112), round(171 * img_dim / 112)


def cut(pictures, which, size, corners):
    """Windows of `size` of clips -> (clips, T, size, size, 3).

    pictures: iterable of (H, W, 3), all of one size, each of which is cut while it is in the processor's cache;
    which: (clips, T) int, the pictures that make each clip; corners: (H, W) -> one (top, left) for each clip.
    """
    places = [[] for _ in range(int(which.max()) + 1)]
    for place, picture in enumerate(which.ravel().tolist()):
        places[picture].append(place)
    out = None
    for picture, shown in zip(pictures, places, strict=True):
        if out is None:
            out, length = np.empty((which.size, size, size, 3), picture.dtype), which.shape[1]
            windows = [np.s_[top:top + size, left:left + size] for top, left in corners(picture.shape[:2])]
        for place in shown:
            out[place] = picture[windows[place // length]]
    return out.reshape(*which.shape, size, size, 3)


class RandomCrop:
    """One random window for each view, drawn independently."""

    def __init__(self, size):
        self.size = size

    def __call__(self, pictures, which, rng):
        """pictures: iterable of (H, W, 3); which: (V, T) int, those of each view -> (V, T, size, size, 3)"""
        def corners(shape):
            most = np.subtract(shape, self.size - 1)
            return rng.integers(most, size=(len(which), 2)).tolist()

        return cut(pictures, which, self.size, corners)


class FixedCrops:
    """`crops` windows of every clip: 1 the centre, 5 the corners too, 10 all of them mirrored as well."""

    def __init__(self, size, crops=1):
        self.size, self.crops = size, crops

    def __call__(self, pictures, which, rng=None):
        """As RandomCrop -> (V * crops, T, size, size, 3), the crops of a clip together"""
        count = 1 if self.crops == 1 else 5

        def corners(shape):
            bottom, right = (length - self.size for length in shape)
            windows = [(round(bottom / 2), round(right / 2)), (0, 0), (0, right), (bottom, 0), (bottom, right)]
            return windows[:count] * len(which)

        out = cut(pictures, which.repeat(count, axis=0), self.size, corners)
        if self.crops == 10:
            out = np.stack([out, out[:, :, :, ::-1]], axis=1).reshape(-1, *out.shape[1:])
        return out

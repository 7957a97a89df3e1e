"""Augmentation: parameters drawn for each sample in the loader, applied to batches on the device.

The same factors go to all frames of a clip. A clip's parameters are a row of floats:
order of the four jitter operations (4), their factors (4), jitter?, sigma, blur?, mirror?
"""
import numpy as np
import torch
import torchvision.transforms.v2.functional as tv

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ORDER, FACTORS, JITTER, SIGMA, BLUR, MIRROR = slice(0, 4), slice(4, 8), 8, 9, 10, 11
LENGTH = 12
BLUR_TAPS = 13  # kernel that holds three standard deviations of the widest blur
# brightness, contrast, saturation, hue in torchvision's terms, the operations a row's order permutes
OPERATIONS = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)


def draw_jitter(row, rng, strength=0.8, hue=0.2):
    """Fill in random order and factors: brightness, contrast, saturation in 1 +- strength, hue within +- hue."""
    row[ORDER] = rng.permutation(4)
    row[FACTORS] = [*rng.uniform(1 - strength, 1 + strength, 3), rng.uniform(-hue, hue)]


class PretrainDraw:
    """Random parameters of a pretraining sample, and the order of its segments.

    Colour jitter with probability 0.8 * 0.8 and blur with 0.5, each view for itself; view 1 goes without
    either with probability 0.2.
    """

    def __init__(self, n_series):
        self.n_series = n_series

    def __call__(self, views, rng):
        """-> {"augment": (views, LENGTH) float32, "permutation": (n_series,) int64}"""
        rows = np.zeros((views, LENGTH), np.float32)
        for row in rows:
            draw_jitter(row, rng)
            row[JITTER] = rng.random() < 0.8 * 0.8
            row[SIGMA] = rng.uniform(0.1, 2.0)
            row[BLUR] = rng.random() < 0.5
        if rng.random() < 0.2:
            rows[0, [JITTER, BLUR]] = 0
        return {"augment": rows, "permutation": rng.permutation(self.n_series)}


class FinetuneDraw:
    """Random parameters of a training clip: pretraining's colour jitter and a mirror flip (p = 0.5), if asked for."""

    def __init__(self, color_jitter, hflip):
        self.color_jitter, self.hflip = color_jitter, hflip

    def __call__(self, views, rng):
        """-> {"augment": (views, LENGTH) float32}"""
        rows = np.zeros((views, LENGTH), np.float32)
        for row in rows:
            draw_jitter(row, rng)
            row[JITTER] = self.color_jitter and rng.random() < 0.8 * 0.8
            row[MIRROR] = self.hflip and rng.random() < 0.5
        return {"augment": rows}


def augment_clip(clip, row):
    """One clip (T, 3, H, W) in [0, 1] with the parameters of its row (a list of LENGTH floats) -> the same shape."""
    if row[JITTER]:
        for operation in row[ORDER]:
            clip = OPERATIONS[int(operation)](clip, row[FACTORS][int(operation)])
    if row[BLUR]:
        clip = tv.gaussian_blur(clip, [BLUR_TAPS, BLUR_TAPS], [row[SIGMA], row[SIGMA]])
    return clip.flip(-1) if row[MIRROR] else clip


def prepare(clips, augment=None):
    """Loader's clips -> network's input, on the device of `clips`.

    clips: (B, V, T, H, W, 3) uint8; augment: (B, V, LENGTH) on the CPU, or None for none.
    Returns (B, V, 3, T, H, W) float32, ImageNet-normalised.
    """
    clips = clips.permute(0, 1, 2, 5, 3, 4).float() / 255
    if augment is not None:
        flat = [augment_clip(clip, row) for clip, row in
                zip(clips.flatten(0, 1), augment.flatten(0, 1).tolist(), strict=True)]
        clips = torch.stack(flat).view_as(clips)
    mean, std = (clips.new_tensor(x)[:, None, None] for x in (MEAN, STD))
    return ((clips - mean) / std).transpose(2, 3).contiguous()

"""Augmentation: parameters drawn for each sample in the loader, applied to batches on the device.

The same factors go to all frames of a clip. A clip's parameters are a row of floats:
order of the four jitter operations (4), their factors (4), jitter?, sigma, blur?, mirror?
"""
import numpy as np
import torch
import torch.nn.functional as F

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ORDER, FACTORS, JITTER, SIGMA, BLUR, MIRROR = slice(0, 4), slice(4, 8), 8, 9, 10, 11
LENGTH = 12
BLUR_TAPS = 13  # kernel that holds three standard deviations of the widest blur


def draw_jitter(row, rng, strength=0.8, hue=0.2):
    """Fill in random order and factors: brightness, contrast, saturation in 1 +- strength, hue within +- hue."""
    row[ORDER] = rng.permutation(4)
    row[FACTORS] = [*rng.uniform(1 - strength, 1 + strength, 3), rng.uniform(-hue, hue)]


class PretrainDraw:
    """Random parameters of a pretraining sample, and the order of its segments.

    Colour jitter with probability 0.8 * 0.8 and blur with 0.5, each view for itself; view 1 goes without
    either with probability 0.2. The blur's sigma is for crops of 112 pixels and shrinks with them.
    """

    def __init__(self, n_series, img_dim=112):
        self.n_series, self.blur = n_series, img_dim / 112

    def __call__(self, views, rng):
        """-> {"augment": (views, LENGTH) float32, "permutation": (n_series,) int64}"""
        rows = np.zeros((views, LENGTH), np.float32)
        for row in rows:
            draw_jitter(row, rng)
            row[JITTER] = rng.random() < 0.8 * 0.8
            row[SIGMA] = rng.uniform(0.1, 2.0) * self.blur
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


def blend(clips, other, factors):
    return (factors * clips + (1 - factors) * other).clamp_(0, 1)


def grey(clips):
    r, g, b = clips.unbind(2)
    return (0.2989 * r + 0.587 * g + 0.114 * b).unsqueeze(2)


def adjust_brightness(clips, factors):
    return (factors * clips).clamp_(0, 1)


def adjust_contrast(clips, factors):
    return blend(clips, grey(clips).mean(dim=(2, 3, 4), keepdim=True), factors)


def adjust_saturation(clips, factors):
    return blend(clips, grey(clips), factors)


def adjust_hue(clips, shifts):
    """Turn the hue by `shifts` of a full circle, value and saturation kept."""
    r, g, b = clips.unbind(2)
    value = clips.amax(dim=2)
    chroma = value - clips.amin(dim=2)
    safe = torch.where(chroma == 0, 1.0, chroma)
    sixths = torch.where(value == r, (g - b) / safe,
                         torch.where(value == g, 2 + (b - r) / safe, 4 + (r - g) / safe)) + 6 * shifts[:, :, 0]
    # channel n of the colour with this hue is value - chroma * clamp(min(k, 4 - k), 0, 1), k = (n + hue) mod 6
    turned = [(sixths + n).remainder_(6) for n in (5, 3, 1)]
    return torch.stack([value - chroma * torch.minimum(k, 4 - k).clamp_(0, 1) for k in turned], dim=2)


# in the order of a row's factors
OPERATIONS = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)


def jitter(clips, rows):
    """Colour jitter of clips (N, T, 3, H, W) in [0, 1] by their rows (N, LENGTH), each in its own order."""
    for position in range(4):
        for number, operation in enumerate(OPERATIONS):
            chosen = torch.nonzero(rows[:, ORDER][:, position] == number).flatten()
            if len(chosen):
                factors = rows[chosen, FACTORS.start + number].to(clips.device)[:, None, None, None, None]
                chosen = chosen.to(clips.device)
                clips[chosen] = operation(clips[chosen], factors)
    return clips


def gaussian_blur(clips, sigmas):
    """Blur clips (N, T, 3, H, W) with their sigmas (N,) in pixels, reflecting at the edges."""
    n, t, c, h, w = clips.shape
    taps = torch.arange(BLUR_TAPS, device=clips.device) - BLUR_TAPS // 2
    kernels = torch.exp(-0.5 * (taps / sigmas[:, None]) ** 2)
    kernels = (kernels / kernels.sum(dim=1, keepdim=True)).repeat_interleave(t * c, dim=0)[:, None, None]
    pad = BLUR_TAPS // 2
    flat = F.pad(clips.reshape(1, n * t * c, h, w), (pad, pad, pad, pad), mode="reflect")
    flat = F.conv2d(flat, kernels, groups=n * t * c)
    return F.conv2d(flat, kernels.transpose(2, 3), groups=n * t * c).view_as(clips)


def augment_clips(clips, rows):
    """Clips (N, T, 3, H, W) in [0, 1] on any device, changed in place by their rows (N, LENGTH) on the CPU.

    Colour operations are torchvision's, applied to all clips at once.
    """
    for column, apply in ((JITTER, jitter), (BLUR, lambda x, row: gaussian_blur(x, row[:, SIGMA].to(x.device))),
                          (MIRROR, lambda x, row: x.flip(-1))):
        chosen = torch.nonzero(rows[:, column]).flatten()
        if len(chosen):
            there = chosen.to(clips.device)
            clips[there] = apply(clips[there], rows[chosen])
    return clips


def prepare(clips, augment=None):
    """Loader's clips -> network's input, on the device of `clips`.

    clips: (B, V, T, H, W, 3) uint8; augment: (B, V, LENGTH) on the CPU, or None for none.
    Returns (B, V, 3, T, H, W) float32, ImageNet-normalised.
    """
    clips = clips.permute(0, 1, 2, 5, 3, 4).float() / 255
    if augment is not None:
        clips = augment_clips(clips.flatten(0, 1), augment.flatten(0, 1)).view_as(clips)
    mean, std = (clips.new_tensor(x)[:, None, None] for x in (MEAN, STD))
    return ((clips - mean) / std).transpose(2, 3).contiguous()

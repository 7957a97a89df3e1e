"""Augmentation: parameters drawn for each sample in the loader, applied to batches on the device.

All frames of a clip get the same factors. A clip's parameters are a row of floats: the order of the four jitter
operations (4), their factors (4), jitter or not, the blur's sigma, blur or not, mirror or not.
"""
import functools
import math
from collections.abc import Callable
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ORDER, FACTORS, JITTER, SIGMA, BLUR, MIRROR = slice(0, 4), slice(4, 8), 8, 9, 10, 11
LENGTH = 12
MOST_SIGMA = 2.0  # of the blur, in pixels of a crop of 112


def draw_jitter(row: np.ndarray, rng: np.random.Generator, strength: float = 0.8, hue: float = 0.2) -> None:
    """Fill in random order and factors: brightness, contrast, saturation in 1 +- strength, hue within +- hue."""
    row[ORDER] = rng.permutation(4)
    row[FACTORS] = [*rng.uniform(1 - strength, 1 + strength, 3), rng.uniform(-hue, hue)]


def blur_reach(side: int) -> int:
    """Pixels that a kernel reaches to each side: three standard deviations of the widest blur of a crop, at least 6."""
    return max(6, math.ceil(3 * MOST_SIGMA * side / 112))


class PretrainDraw:
    """Random parameters of a pretraining sample, and the order of its segments.

    Each view by itself gets colour jitter with probability 0.8 * 0.8 and blur with 0.5; with probability 0.2 view 1
    gets neither. The blur's sigma is in proportion to the side of the crop, `img_dim` pixels: 0.1 to 2 at 112. All
    orders of the segments are equally likely, with `changed` all but that in which they stood.
    Raises ValueError where one segment is to be changed.
    """

    def __init__(self, n_series: int, img_dim: int = 112, changed: bool = False) -> None:
        if changed and n_series < 2:
            raise ValueError("one segment has no other order")
        self.n_series, self.blur, self.changed = n_series, img_dim / 112, changed

    def __call__(self, views: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """-> {"augment": (views, LENGTH) float32, "permutation": (n_series,) int64}"""
        rows = np.zeros((views, LENGTH), np.float32)
        for row in rows:
            draw_jitter(row, rng)
            row[JITTER] = rng.random() < 0.8 * 0.8
            row[SIGMA] = rng.uniform(0.1, MOST_SIGMA) * self.blur
            row[BLUR] = rng.random() < 0.5
        if rng.random() < 0.2:
            rows[0, [JITTER, BLUR]] = 0
        permutation = rng.permutation(self.n_series)
        while self.changed and (permutation == np.arange(self.n_series)).all():
            permutation = rng.permutation(self.n_series)
        return {"augment": rows, "permutation": permutation}


class FinetuneDraw:
    """Random parameters of a training clip: pretraining's colour jitter and a mirror flip (p = 0.5), each optional."""

    def __init__(self, color_jitter: bool, hflip: bool) -> None:
        self.color_jitter, self.hflip = color_jitter, hflip

    def __call__(self, views: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """-> {"augment": (views, LENGTH) float32}"""
        rows = np.zeros((views, LENGTH), np.float32)
        for row in rows:
            draw_jitter(row, rng)
            row[JITTER] = self.color_jitter and rng.random() < 0.8 * 0.8
            row[MIRROR] = self.hflip and rng.random() < 0.5
        return {"augment": rows}


def grey(clips: torch.Tensor) -> torch.Tensor:
    """Luminance (N, T, H, W) of clips (N, 3, T, H, W)."""
    r, g, b = clips.unbind(1)
    return (0.2989 * r).add_(g, alpha=0.587).add_(b, alpha=0.114)


def adjust_brightness(clips: torch.Tensor, factors: torch.Tensor) -> None:
    clips.mul_(factors).clamp_(0, 1)


def adjust_contrast(clips: torch.Tensor, factors: torch.Tensor) -> None:
    means = grey(clips.mean(dim=(3, 4), keepdim=True))[:, None]  # mean luminance of each frame
    clips.mul_(factors).add_((1 - factors) * means).clamp_(0, 1)


def adjust_saturation(clips: torch.Tensor, factors: torch.Tensor) -> None:
    other = grey(clips)[:, None].mul_(1 - factors)
    clips.mul_(factors).add_(other).clamp_(0, 1)


def adjust_hue(clips: torch.Tensor, shifts: torch.Tensor) -> None:
    """Turn the hue by `shifts` of a full circle; value and saturation stay."""
    r, g, b = clips.unbind(1)
    low, value = torch.minimum(r, g), torch.maximum(r, g)
    torch.minimum(low, b, out=low)
    torch.maximum(value, b, out=value)
    chroma = value - low
    # hue in sixths of the circle: 0 red, 2 green, 4 blue
    hue = torch.where(value == r, g - b, torch.where(value == g, (b - r).add_(chroma, alpha=2),
                                                     (r - g).add_(chroma, alpha=4)))
    hue.div_(chroma.clamp_min(1e-12)).add_(6 * shifts[:, 0])
    hue.sub_(torch.floor(hue / 6).mul_(6))
    # a channel is at full chroma within a sixth of the circle of its own hue, and falls to zero over the next sixth
    for plane, near, sign in ((r, 3, 1), (g, 2, -1), (b, 4, -1)):
        torch.sub(hue, near, out=value).abs_()
        value = value.sub_(1) if sign > 0 else value.neg_().add_(2)
        torch.addcmul(low, chroma, value.clamp_(0, 1), out=plane)


# in the order of a row's factors; each changes clips (N, 3, T, H, W) in [0, 1] in place by factors (N, 1, 1, 1, 1)
OPERATIONS = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)


def jitter(clips: torch.Tensor, rows: torch.Tensor) -> None:
    """Colour jitter by rows (N, LENGTH), each clip in its own order."""
    for position in range(4):
        for number, operation in enumerate(OPERATIONS):
            chosen = rows[:, ORDER][:, position] == number
            factors = rows[chosen, FACTORS.start + number, None, None, None, None]
            apply_to(clips, chosen, operation, factors.to(clips.device))


def blur(clips: torch.Tensor, rows: torch.Tensor) -> None:
    """Gaussian blur with the rows' sigmas, frames being reflected at their edges."""
    n, c, t, h, w = clips.shape
    sigmas = rows[:, SIGMA, None]
    pad = min(blur_reach(min(h, w)), math.ceil(4 * sigmas.max().item()))  # further out the kernel is practically zero
    kernels = torch.exp(-0.5 * (torch.arange(-pad, pad + 1) / sigmas) ** 2)
    kernels = (kernels / kernels.sum(dim=1, keepdim=True)).to(clips.device)
    kernels = kernels.repeat_interleave(c * t, dim=0)[:, None, None]
    flat = F.pad(clips.reshape(1, n * c * t, h, w), (pad, pad, pad, pad), mode="reflect")
    flat = F.conv2d(flat, kernels, groups=n * c * t)
    clips.copy_(F.conv2d(flat, kernels.transpose(2, 3), groups=n * c * t).view_as(clips))


def mirror(clips: torch.Tensor, rows: torch.Tensor) -> None:
    clips.copy_(clips.flip(-1))


def apply_to(clips: torch.Tensor, chosen: torch.Tensor, operation: Callable[[torch.Tensor, torch.Tensor], None],
             parameters: torch.Tensor) -> None:
    """operation(those of the clips that a mask (N,) bool on the CPU chooses, parameters), which works in place."""
    if chosen.all():
        operation(clips, parameters)
    elif chosen.any():
        where = torch.nonzero(chosen).flatten().to(clips.device)
        part = clips[where]
        operation(part, parameters)
        clips[where] = part


def augment_clips(clips: torch.Tensor, rows: torch.Tensor) -> None:
    """Clips (N, 3, T, H, W) in [0, 1] on any device, changed in place by their rows (N, LENGTH) on the CPU.

    The operations are those of torchvision.
    """
    for column, operation in ((JITTER, jitter), (BLUR, blur), (MIRROR, mirror)):
        chosen = rows[:, column] != 0
        apply_to(clips, chosen, operation, rows[chosen])


def prepare_plainly(frames: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
    """frames (N, T, H, W, 3) uint8, rows (N, LENGTH) on the CPU or None -> (N, T, H, W, 3) float32, normalised.

    On a CPU one clip after another, as one clip fits into its cache; on a GPU all at once. A channel's values stand
    together meanwhile, which these operations are faster on.
    """
    n, *shape, _ = frames.shape
    size = n if frames.is_cuda else 1
    out = torch.empty(frames.shape, dtype=torch.float32, device=frames.device)
    planes = torch.empty(size, 3, *shape, dtype=torch.float32, device=frames.device)
    for first in range(0, n, size):
        part = slice(first, first + size)
        planes.copy_(frames[part].movedim(-1, 1)).div_(255)
        if rows is not None:
            augment_clips(planes, rows[part])
        for channel in range(3):
            out[part, ..., channel] = planes[:, channel].sub_(MEAN[channel]).div_(STD[channel])
    return out


@functools.cache
def gpu_kernels(device: torch.device) -> ModuleType | None:
    """dataset/augment_cuda.py, tried on a GPU; None, and the reason is printed, where Triton does not run there."""
    try:
        from . import augment_cuda
        augment_cuda.prepare(torch.zeros(1, 1, 8, 8, 3, dtype=torch.uint8, device=device), None)
    except Exception as error:  # no Triton, no C compiler for it, a GPU too old for it, a cache that is not writable
        reason = f"{error}".strip().partition("\n")[0]
        print(f"note: the augmentation runs without its Triton kernels, slower, on {device}: "
              f"{type(error).__name__}: {reason}")
        return None
    return augment_cuda


def prepare(clips: torch.Tensor, augment: torch.Tensor | None = None) -> torch.Tensor:
    """Clips of the loader -> input of the network, on the device of `clips`.

    clips: (B, V, T, H, W, 3) uint8; augment: parameters (B, V, LENGTH) on the CPU, or None for no augmentation. Pinned
    ones reach a GPU without a wait.
    Returns (B, V, 3, T, H, W) float32, ImageNet-normalised, each clip in the channels-last layout.
    """
    frames, rows = clips.flatten(0, 1), None if augment is None else augment.flatten(0, 1)
    kernels = gpu_kernels(clips.device) if clips.is_cuda else None
    out = kernels.prepare(frames, rows) if kernels else prepare_plainly(frames, rows)
    return out.movedim(-1, 1).unflatten(0, clips.shape[:2])

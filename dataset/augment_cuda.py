"""The augmentation of dataset/augment.py on a GPU, in Triton: at most four launches a batch, whatever was drawn.

    frame_means     mean luminance of each frame, which contrast needs
    jitter_clips    bytes -> clips in [0, 1] with their colours changed, mirrored
    blur_clips      those with a blur, blurred along one axis; launched for the rows, then for the columns

A kernel runs as many small programs at once. Each finds its block of values by `tl.program_id`, loads its clip's row of
parameters and branches on it, so that the host never waits. A pointer plus a number is an address counted in values.
Clips keep the loader's order (N, T, H, W, 3), which seen as (N, 3, T, H, W) is the networks' channels-last layout.

Where the variable TRITON_INTERPRET is 1 when this file is imported, the kernels run on a CPU, slowly.
"""
from typing import Any

import torch
import triton
import triton.language as tl

from . import augment

# a kernel sees no other values of its module
LENGTH, ORDER, FACTORS = (tl.constexpr(x) for x in (augment.LENGTH, augment.ORDER.start, augment.FACTORS.start))
JITTER, SIGMA, BLUR, MIRROR = (tl.constexpr(x) for x in (augment.JITTER, augment.SIGMA, augment.BLUR, augment.MIRROR))
BRIGHTNESS, CONTRAST, _, HUE = (tl.constexpr(x) for x in range(4))  # as in augment.OPERATIONS
R_MEAN, G_MEAN, B_MEAN = (tl.constexpr(x) for x in augment.MEAN)
R_STD, G_STD, B_STD = (tl.constexpr(x) for x in augment.STD)
BLOCK = 1024  # pixels or values of a program


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Start a kernel on the GPU of its first argument; all are started here."""
    with torch.cuda.device_of(arguments[0]):
        kernel[grid](*arguments, **constants, BLOCK=BLOCK)


def prepare(frames: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
    """frames (N, T, H, W, 3) uint8 on a GPU, rows (N, LENGTH) on the CPU or None for no augmentation.

    Returns (N, T, H, W, 3) float32, ImageNet-normalised. The host waits for nothing where the rows are pinned.
    """
    n, t, h, w, _ = frames.shape
    blurred = rows is not None and bool(rows[:, augment.BLUR].any())
    rows = (torch.zeros(n, augment.LENGTH, device=frames.device) if rows is None else
            rows.to(frames.device, non_blocking=True))
    clips = torch.empty(frames.shape, dtype=torch.float32, device=frames.device)
    means = torch.empty(n, t, dtype=torch.float32, device=frames.device)
    launch(frame_means, (t, n), frames, rows, means, h * w)
    launch(jitter_clips, (triton.cdiv(t * h * w, BLOCK), n), frames, rows, means, clips, t, h, w)
    if blurred:
        half = torch.empty_like(clips)  # blurred along the rows of its frames, not yet along the columns
        size, reach = t * h * w * 3, augment.blur_reach(min(h, w))
        launch(blur_clips, (triton.cdiv(size, BLOCK), n), clips, rows, half, size, 3, w, reach,
               NORMALISE=False)
        launch(blur_clips, (triton.cdiv(size, BLOCK), n), half, rows, clips, size, 3 * w, h, reach,
               NORMALISE=True)
    return clips


@triton.jit
def load_pixels(frames: tl.tensor, pixel: tl.tensor, inside: tl.tensor) -> Any:
    """Red, green and blue in [0, 1]; 0 for those not inside."""
    r = tl.load(frames + 3 * pixel, inside, other=0).to(tl.float32) / 255
    g = tl.load(frames + 3 * pixel + 1, inside, other=0).to(tl.float32) / 255
    b = tl.load(frames + 3 * pixel + 2, inside, other=0).to(tl.float32) / 255
    return r, g, b


@triton.jit
def add(x: tl.tensor, y: tl.tensor) -> Any:
    return x + y


@triton.jit
def grey(r: tl.tensor, g: tl.tensor, b: tl.tensor) -> Any:
    return 0.2989 * r + 0.587 * g + 0.114 * b


@triton.jit
def adjust_hue(r: tl.tensor, g: tl.tensor, b: tl.tensor, shift: tl.tensor) -> Any:
    low, value = tl.minimum(tl.minimum(r, g), b), tl.maximum(tl.maximum(r, g), b)
    chroma = value - low
    hue = tl.where(value == r, g - b, tl.where(value == g, b - r + 2 * chroma, r - g + 4 * chroma))
    hue = hue / tl.maximum(chroma, 1e-12) + 6 * shift
    hue -= 6 * tl.floor(hue / 6)  # in sixths of the circle
    return (low + chroma * tl.clamp(tl.abs(hue - 3) - 1, 0.0, 1.0),
            low + chroma * tl.clamp(2 - tl.abs(hue - 2), 0.0, 1.0),
            low + chroma * tl.clamp(2 - tl.abs(hue - 4), 0.0, 1.0))


@triton.jit
def jitter(r: tl.tensor, g: tl.tensor, b: tl.tensor, row: tl.tensor, count: tl.tensor, mean: tl.tensor) -> Any:
    """The first `count` operations in the row's order; mean: luminance of each pixel's frame, for contrast."""
    for position in range(count):
        operation = tl.load(row + ORDER + position).to(tl.int32)
        factor = tl.load(row + FACTORS + operation)
        if operation == HUE:
            r, g, b = adjust_hue(r, g, b, factor)
        else:  # a mix with black, the frame's grey or the pixel's
            other = grey(r, g, b)
            if operation == BRIGHTNESS:
                other = 0 * other
            elif operation == CONTRAST:
                other = mean
            other = (1 - factor) * other
            r = tl.clamp(factor * r + other, 0.0, 1.0)
            g = tl.clamp(factor * g + other, 0.0, 1.0)
            b = tl.clamp(factor * b + other, 0.0, 1.0)
    return r, g, b


@triton.jit
def frame_means(frames: tl.tensor, rows: tl.tensor, means: tl.tensor, size: tl.tensor, BLOCK: tl.constexpr) -> None:
    """Program (t, n): of a frame of `size` pixels, as the operations before contrast leave it."""
    frame, clip = tl.program_id(0), tl.program_id(1).to(tl.int64)
    row, frame = rows + clip * LENGTH, clip * tl.num_programs(0) + frame
    if tl.load(row + JITTER) != 0:
        before = 0
        for position in range(4):
            if tl.load(row + ORDER + position) == CONTRAST:
                before = position
        total = tl.full([BLOCK], 0.0, tl.float32)
        for start in range(0, size, BLOCK):
            pixel = start + tl.arange(0, BLOCK)
            r, g, b = load_pixels(frames + frame * size * 3, pixel, pixel < size)
            r, g, b = jitter(r, g, b, row, before, r)
            total += tl.where(pixel < size, grey(r, g, b), 0.0)
        tl.store(means + frame, tl.reduce(total, 0, add) / size)


@triton.jit
def jitter_clips(frames: tl.tensor, rows: tl.tensor, means: tl.tensor, clips: tl.tensor, T: tl.tensor, H: tl.tensor,
                 W: tl.tensor, BLOCK: tl.constexpr) -> None:
    """Program (i, n): block i of a clip's pixels, normalised unless a blur follows."""
    clip, size = tl.program_id(1).to(tl.int64), T * H * W
    row, start = rows + clip * LENGTH, clip * size * 3
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside, source = pixel < size, pixel
    if tl.load(row + MIRROR) != 0:
        source = pixel + W - 1 - 2 * (pixel % W)
    r, g, b = load_pixels(frames + start, source, inside)
    if tl.load(row + JITTER) != 0:
        r, g, b = jitter(r, g, b, row, 4, tl.load(means + clip * T + pixel // (H * W), inside, other=0))
    if tl.load(row + BLUR) == 0:
        r, g, b = (r - R_MEAN) / R_STD, (g - G_MEAN) / G_STD, (b - B_MEAN) / B_STD
    tl.store(clips + start + 3 * pixel, r, inside)
    tl.store(clips + start + 3 * pixel + 1, g, inside)
    tl.store(clips + start + 3 * pixel + 2, b, inside)


@triton.jit
def blur_clips(source: tl.tensor, rows: tl.tensor, out: tl.tensor, size: tl.tensor, step: tl.tensor, length: tl.tensor,
               most: tl.tensor, NORMALISE: tl.constexpr, BLOCK: tl.constexpr) -> None:
    """Program (i, n): block i of a clip's `size` values, along an axis of `length` values that are `step` apart; the
    kernel reaches `most` of them to each side."""
    clip = tl.program_id(1).to(tl.int64)
    row, start = rows + clip * LENGTH, clip * size
    if tl.load(row + BLUR) != 0:
        value = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        inside, position = value < size, value // step % length
        sigma = tl.load(row + SIGMA)
        reach = tl.minimum(most, tl.ceil(4 * sigma).to(tl.int32))  # further out the kernel is practically zero
        total, weights = tl.full([BLOCK], 0.0, tl.float32), 0.0
        for offset in range(-reach, reach + 1):
            weight = tl.exp(-0.5 * (offset / sigma) * (offset / sigma))
            other = tl.abs(position + offset)  # frames are reflected at their edges
            other = length - 1 - tl.abs(length - 1 - other)
            total += weight * tl.load(source + start + value + (other - position) * step, inside, other=0)
            weights += weight
        total /= weights
        if NORMALISE:
            channel = value % 3
            mean = tl.where(channel == 0, R_MEAN, tl.where(channel == 1, G_MEAN, B_MEAN))
            total = (total - mean) / tl.where(channel == 0, R_STD, tl.where(channel == 1, G_STD, B_STD))
        tl.store(out + start + value, total, inside)

"""The video in asset/overview.png: a shape that turns before a drifting background."""
from dataclasses import dataclass

import cv2
import numpy as np

SPRITE = 96  # side of the shape's own picture in pixels; the shape fills its inscribed circle


@dataclass(frozen=True)
class Appearance:
    """Lengths are in picture heights, angles in turns, both per video. The radius is middle * growth**size."""

    sprite: np.ndarray  # (SPRITE, SPRITE, 4) float32 BGR premultiplied by alpha, alpha in 0..1
    background: np.ndarray  # (2H, 2W, 3) float32 BGR, periodic
    drift: np.ndarray  # (2,) x, y: way of the background
    place: np.ndarray  # (2,) x, y: where the shape starts
    angle: float
    middle: float
    growth: float
    size: float
    turns: float


def outline(kind):
    """Corners of a shape without rotational symmetry, in the unit disc: (K, 2) float."""
    phi = np.linspace(0, 2 * np.pi, 73)[:-1]
    if kind == "drop":
        return np.stack([np.cos(phi), 0.8 * np.sin(phi) * np.sin(phi / 2)], 1)
    if kind == "wedge":
        edge = np.linspace(0.28, 1.36, 40) * np.pi
        return np.concatenate([[[0.15, 0]], np.stack([np.cos(edge), np.sin(edge)], 1)])
    if kind == "bean":
        radius = 0.72 + 0.28 * np.cos(phi) - 0.2 * np.cos(2 * phi + 1)
        return np.stack([radius * np.cos(phi), radius * np.sin(phi)], 1)
    corners = {
        "arrow": [(1, 0), (0.1, 0.85), (0.1, 0.35), (-0.9, 0.35), (-0.9, -0.35), (0.1, -0.35), (0.1, -0.85)],
        "hook": [(-0.6, -0.8), (-0.05, -0.8), (-0.05, 0.25), (0.8, 0.25), (0.8, 0.6), (-0.6, 0.8)],
        "shard": [(1, 0), (-0.75, 0.6), (-0.4, 0), (-0.6, -0.75)],
    }
    return np.array(corners[kind], float)


SHAPES = ("arrow", "bean", "drop", "hook", "shard", "wedge")


def bgr(hue, saturation, value):
    """Hue, saturation and value in 0..1 -> (3,) float32 BGR in 0..255."""
    colour = np.array([[[hue % 1 * 360, saturation, value]]], np.float32)
    return cv2.cvtColor(colour, cv2.COLOR_HSV2BGR)[0, 0] * 255


def make_sprite(rng):
    """The shape's own picture, striped and with a spot of another colour: (SPRITE, SPRITE, 4) float32."""
    scale = 4  # drawn larger, then averaged
    side = SPRITE * scale
    half = (side - 1) / 2
    points = outline(SHAPES[rng.integers(len(SHAPES))])
    alpha = np.zeros((side, side), np.float32)
    cv2.fillPoly(alpha, [np.round(half + 0.92 * half * points).astype(np.int32)], 1.0)
    y, x = (np.mgrid[:side, :side] - half).astype(np.float32) / half
    hue, tilt, period = rng.random(), rng.random() * 2 * np.pi, rng.uniform(0.4, 0.7)
    body = bgr(hue, rng.uniform(0.5, 0.9), rng.uniform(0.85, 1))
    spot = bgr(hue + rng.uniform(0.3, 0.7), rng.uniform(0.5, 0.9), rng.uniform(0.5, 1))
    stripes = 1 + rng.uniform(0.08, 0.2) * np.sin((x * np.cos(tilt) + y * np.sin(tilt)) * 2 * np.pi / period)
    picture = body * stripes[..., None]
    spot_at = points[0] * 0.7
    picture[np.hypot(x - spot_at[0], y - spot_at[1]) < 0.34] = spot
    picture = np.dstack([np.clip(picture, 0, 255) * alpha[..., None], alpha]).astype(np.float32)
    small = cv2.resize(picture, (SPRITE, SPRITE), interpolation=cv2.INTER_AREA)
    return cv2.GaussianBlur(small, (0, 0), 0.7, borderType=cv2.BORDER_CONSTANT)  # for smooth edges when it shrinks


def make_background(rng, height, width):
    """Smooth dark texture between two colours, periodic: (2 height, 2 width, 3) float32 BGR."""
    frequency = np.hypot(np.fft.fftfreq(2 * height)[:, None], np.fft.rfftfreq(2 * width)) * height  # cycles a height
    centre = rng.uniform(1.5, 3.5)
    noise = np.fft.rfft2(rng.normal(size=(2 * height, 2 * width))) * np.exp(-((frequency - centre) / 1.5) ** 2)
    noise = np.fft.irfft2(noise, (2 * height, 2 * width))
    mix = 1 / (1 + np.exp(-1.5 * noise / noise.std()))
    low, high = 0.1, 0.3
    hue = rng.random()
    dark = bgr(hue, rng.uniform(0.1, 0.6), low)
    light = bgr(hue + rng.uniform(-0.2, 0.2), rng.uniform(0.1, 0.6), high)
    return (dark + (light - dark) * mix[..., None]).astype(np.float32)


def make_appearance(seed, group, height, width):
    """The look of a group."""
    rng = np.random.default_rng([seed, group])
    sprite, background = make_sprite(rng), make_background(rng, height, width)
    way, direction = rng.uniform(0.05, 0.2), rng.random() * 2 * np.pi
    return Appearance(
        sprite, background, drift=way * np.array([np.cos(direction), np.sin(direction)]), place=rng.random(2),
        angle=rng.random(), middle=0.29 * np.exp(rng.uniform(-0.08, 0.08)), growth=rng.uniform(2.1, 2.4),
        size=rng.uniform(-0.5, 0.5), turns=rng.uniform(1.5, 2.0))


def render_frame(look, u, height, width):
    """The frame at time u in 0..1: (height, width, 3) uint8 BGR."""
    x, y = look.place
    angle, radius = look.angle + look.turns * u, look.middle * look.growth ** look.size  # y points down: clockwise
    # The world repeats every `height` pixels both ways: each square window holds the whole shape once.
    over = 2  # samples a pixel and direction
    down, right = (np.arange(over * height) + 0.5) / (over * height), (np.arange(over * width) + 0.5) / (over * height)
    dx = ((right - x + 0.5) % 1 - 0.5)[None].astype(np.float32)
    dy = ((down - y + 0.5) % 1 - 0.5)[:, None].astype(np.float32)
    cos, sin = (np.float32(f(2 * np.pi * angle) / radius * SPRITE / 2) for f in (np.cos, np.sin))
    centre = np.float32((SPRITE - 1) / 2)
    shape = cv2.remap(look.sprite, dx * cos + dy * sin + centre, dy * cos - dx * sin + centre, cv2.INTER_LINEAR)
    shape = cv2.resize(shape, (width, height), interpolation=cv2.INTER_AREA)
    shift = look.drift * u * height
    drifted = cv2.warpAffine(look.background, np.array([[1, 0, shift[0]], [0, 1, shift[1]]]), (width, height),
                             flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    frame = drifted * (1 - shape[..., 3:]) + shape[..., :3]
    return np.clip(np.rint(frame), 0, 255).astype(np.uint8)


def render_video(seed, group, frames, height, width):
    """(frames, height, width, 3) uint8 BGR."""
    look = make_appearance(seed, group, height, width)
    return np.stack([render_frame(look, u, height, width) for u in np.linspace(0, 1, frames)])

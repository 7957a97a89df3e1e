"""Render the built-in data set `demo`: video files in which only the order of time tells the class.

    python process_data/src/render_demo.py
    python process_data/src/extract_frame.py --dataset demo
    python process_data/src/write_csv.py --dataset demo

Eight classes in four pairs: Grow / Shrink, SpinClockwise / SpinAnticlockwise, FastThenSlow / SlowThenFast (the
second plays the first backwards) and UpThenLeft / LeftThenUp (from and to the same places round different corners).
One appearance, a group, is rendered in every class, so a look says nothing about the class; nor does a place,
an angle or a size: all start uniformly, and stay so at every time, because a shape that leaves on one side enters on
the other and one that has grown large starts over small. Groups 1 to --test_groups are the test list.
"""
import itertools
import json
import os
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from core.errors import UsageError
from core.exits import run
from dataset.local_dataset import DATA
from process_data.src.common import (
    GO_ON,
    Parser,
    WorkerDied,
    available_cores,
    check_range,
    plural,
    run_jobs,
    write_files,
)

CLASSES = ("FastThenSlow", "Grow", "LeftThenUp", "Shrink", "SlowThenFast", "SpinAnticlockwise", "SpinClockwise",
           "UpThenLeft")
BACKWARDS = {"Shrink": "Grow", "SpinAnticlockwise": "SpinClockwise", "SlowThenFast": "FastThenSlow"}
FPS = 25
SPRITE = 96  # side of the shape's own picture in pixels; the shape fills its inscribed circle
SETTINGS = ".render_demo.json"  # in --videos: what all videos there were rendered with


@dataclass(frozen=True)
class Appearance:
    """All that the clips of a group share. Lengths are in picture heights, angles in turns, both per video.

    The radius is middle * growth**size, size in [-1/2, 1/2], which stays below half a height.
    """

    sprite: np.ndarray  # (SPRITE, SPRITE, 4) float32 BGR premultiplied by alpha, alpha in 0..1
    background: np.ndarray  # (2H, 2W, 3) float32 BGR, periodic
    drift: np.ndarray  # (2,) x, y: way of the background
    place: np.ndarray  # (2,) x, y: where the shape starts
    angle: float
    middle: float
    growth: float
    size: float
    turns: float
    travel: float  # way of a moving shape
    heading: float  # direction of FastThenSlow


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


def make_appearance(seed, group, clip, height, width):
    """The look of a group, and the small differences of its clips; clip 1 is without."""
    rng = np.random.default_rng([seed, group])
    sprite, background = make_sprite(rng), make_background(rng, height, width)
    way, direction = rng.uniform(0.05, 0.2), rng.random() * 2 * np.pi
    values = dict(
        drift=way * np.array([np.cos(direction), np.sin(direction)]), place=rng.random(2), angle=rng.random(),
        middle=0.29 * np.exp(rng.uniform(-0.08, 0.08)), growth=rng.uniform(2.1, 2.4), size=rng.uniform(-0.5, 0.5),
        turns=rng.uniform(1.5, 2.0), travel=rng.uniform(1.3, 1.6), heading=rng.random())
    if clip > 1:
        rng = np.random.default_rng([seed, group, clip])
        values["place"] = values["place"] + rng.uniform(-0.1, 0.1, 2)
        values["angle"] += rng.uniform(-0.08, 0.08)
        values["size"] = (values["size"] + 0.5 + rng.uniform(-0.08, 0.08)) % 1 - 0.5
        background = np.roll(background, rng.integers(0, 2 * height, 2), (0, 1))
    return Appearance(sprite, background, **values)


def pose(look, class_name, u):
    """Where the shape is at time u in 0..1 -> (x, y, angle, radius), lengths in heights, the angle in turns."""
    (x, y), angle, size = look.place, look.angle, look.size
    if class_name == "Grow":
        size = (size + 0.5 + u) % 1 - 0.5  # when it is largest, it starts over from its smallest
    elif class_name == "SpinClockwise":
        angle = angle + look.turns * u  # y points down, so a growing angle turns clockwise
    elif class_name == "FastThenSlow":
        way = look.travel * (1.6 * min(u, 0.5) + 0.4 * max(u - 0.5, 0))
        x, y = x + way * np.cos(2 * np.pi * look.heading), y + way * np.sin(2 * np.pi * look.heading)
    else:
        before, after = look.travel * min(u, 0.5), look.travel * max(u - 0.5, 0)
        left, up = (before, after) if class_name == "LeftThenUp" else (after, before)
        x, y = x - left, y - up
    return x, y, angle, look.middle * look.growth ** size


def render_frame(look, class_name, u, height, width):
    """The frame at time u in 0..1 of a class that is not in BACKWARDS: (height, width, 3) uint8 BGR."""
    x, y, angle, radius = pose(look, class_name, u)
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


def render_clip(seed, class_name, group, clip, frames, height, width):
    """(frames, height, width, 3) uint8 BGR."""
    look = make_appearance(seed, group, clip, height, width)
    forwards = BACKWARDS.get(class_name, class_name)
    clip = np.stack([render_frame(look, forwards, u, height, width) for u in np.linspace(0, 1, frames)])
    return clip[::-1] if class_name in BACKWARDS else clip


def is_whole(path, frames, height, width):
    """Whether the video decodes to all its frames."""
    if not os.path.exists(path):
        return False
    capture, count = cv2.VideoCapture(str(path)), 0
    while True:
        there, frame = capture.read()
        if not there:
            return count == frames
        if frame.shape[:2] != (height, width):
            return False
        count += 1


def video_name(class_name, group, clip):
    return f"{class_name}/v_{class_name}_g{group:02d}_c{clip:02d}.avi"


def write_video(job, root, seed, frames, height, width):
    """Render one video if it is not there. job: (class, group, clip) -> (rendered or not, error or None)."""
    cv2.setNumThreads(1)
    path = root / video_name(*job)
    if is_whole(path, frames, height, width):
        return False, None
    temporary = path.with_name(f".{path.name}.partial.avi")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = cv2.VideoWriter(str(temporary), cv2.CAP_OPENCV_MJPEG, cv2.VideoWriter_fourcc(*"MJPG"), FPS,
                                 (width, height))
        writer.set(cv2.VIDEOWRITER_PROP_QUALITY, 95)
        for frame in render_clip(seed, *job, frames, height, width):
            writer.write(frame)
        writer.release()
        if not is_whole(temporary, frames, height, width):  # the writer says nothing of a full disk
            return False, f"{path} could not be written: is the disk full, or the folder read-only?"
        os.replace(temporary, path)
        return True, None
    except OSError as error:
        return False, str(error)
    finally:
        temporary.unlink(missing_ok=True)


def split_lists(groups, clips, test_groups):
    """Texts of the lists, in the format of UCF101: {file name: text}."""
    lists = {"classInd.txt": [], "trainlist01.txt": [], "testlist01.txt": []}
    for number, name in enumerate(CLASSES, 1):
        lists["classInd.txt"].append(f"{number} {name}")
        for group, clip in itertools.product(range(1, groups + 1), range(1, clips + 1)):
            video = video_name(name, group, clip)
            if group <= test_groups:
                lists["testlist01.txt"].append(video)
            else:
                lists["trainlist01.txt"].append(f"{video} {number}")
    return {name: "".join(f"{line}\n" for line in lines) for name, lines in lists.items()}


def check_settings(root, settings):
    """Raises UsageError where the folder holds videos rendered otherwise: two sorts in one folder are no data set."""
    path = root / SETTINGS
    if not path.exists():
        return
    before = json.loads(path.read_text())
    for flag, value in settings.items():
        if before.get(flag) != value:
            raise UsageError(f"--{flag} {value}: the videos in {root} were rendered with --{flag} {before.get(flag)}; "
                             "give that, another --videos, or remove the folder")


def parse(argv):
    parser = Parser(description="Render the demo data set as video files and write its split lists.")
    parser.add_argument("--videos", type=Path, default=DATA / "demo" / "videos", help="folder of <class>/<video>.avi")
    parser.add_argument("--splits", type=Path, default=DATA / "demo" / "splits", help="folder of the split lists")
    parser.add_argument("--groups", type=int, default=100, help="appearances, each rendered in every class")
    parser.add_argument("--clips", type=int, default=1, help="videos a class and group")
    parser.add_argument("--test_groups", type=int, default=20, help="groups 1 to this are the test list")
    parser.add_argument("--frames", type=int, default=40, help=f"frames a video, at {FPS} a second")
    parser.add_argument("--size", default="72x96", help="HEIGHTxWIDTH in pixels")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same videos")
    parser.add_argument("--workers", type=int, default=available_cores(), help="processes")
    args = parser.parse_args(argv)
    check_range("--groups", args.groups, 2, 999)
    check_range("--clips", args.clips, 1, 99)
    check_range("--test_groups", args.test_groups, 1, args.groups - 1)
    check_range("--frames", args.frames, 2, 10000)
    check_range("--seed", args.seed, 0, 2**32 - 1)
    check_range("--workers", args.workers, 1, 1024)
    try:
        args.height, args.width = map(int, args.size.split("x"))
    except ValueError:
        raise UsageError(f"--size {args.size}: give HEIGHTxWIDTH in pixels, such as 72x96") from None
    check_range("--size: height", args.height, 16, 2160, "pixels")
    check_range("--size: width", args.width, 16, 3840, "pixels")
    return args


def main(argv):
    args, start = parse(argv), time.perf_counter()
    settings = {"seed": args.seed, "frames": args.frames, "size": f"{args.height}x{args.width}"}
    check_settings(args.videos, settings)
    write_files({args.videos / SETTINGS: json.dumps(settings) + "\n"})
    jobs = list(itertools.product(CLASSES, range(1, args.groups + 1), range(1, args.clips + 1)))
    work = partial(write_video, root=args.videos, seed=args.seed, frames=args.frames, height=args.height,
                   width=args.width)
    rendered, present, errors = 0, 0, []
    for job, result in tqdm(run_jobs(work, jobs, args.workers), total=len(jobs), unit="video", disable=None):
        new, error = (False, f"{video_name(*job)}: {result.reason}") if isinstance(result, WorkerDied) else result
        rendered += new
        present += not new and not error
        errors += [error] if error else []
    if errors:
        print(f"error: {plural(len(errors), 'video')} not rendered, no list written: {errors[0]}", file=sys.stderr)
        return 1
    lists = split_lists(args.groups, args.clips, args.test_groups)
    write_files({args.splits / name: text for name, text in lists.items()})
    print(f"{rendered} videos rendered, {present} already there, {len(CLASSES)} classes, "
          f"{args.groups - args.test_groups} train and {args.test_groups} test groups, "
          f"{time.perf_counter() - start:.1f} s; videos in {args.videos}, lists in {args.splits}")
    return 0


if __name__ == "__main__":
    run(main, stopped=GO_ON)

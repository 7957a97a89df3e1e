"""Render the built-in data set `demo`: video files in which only the order of the frames tells the class.

    python process_data/src/render_demo.py
    python process_data/src/extract_frame.py --dataset demo
    python process_data/src/write_csv.py --dataset demo

Vertical bars move over a dark ground, with noise and flicker. Every eight frames they pass through the same eight
positions, an eighth of their distance apart; the class is the order of the positions. There are four orders (ORDERS),
each forwards and backwards. The videos of a group (one brightness, first position, noise and flicker) hold exactly the
same frames in all classes, so neither a frame nor the mean of a video tells the class, and no group is in both lists.
This holds for videos of a multiple of eight frames. Groups 1 to --test_groups are the test list.
"""
import itertools
import json
import os
import sys
import time
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import core  # noqa: F401  # before what takes seconds to import

# isort: split
import cv2
import numpy as np
from tqdm import tqdm

from core.errors import UsageError
from core.exits import run
from core.files import take_lock
from core.inputs import read_json
from core.jobs import WorkerDied, run_jobs
from core.parser import new_parser
from dataset.local_dataset import DATA
from dataset.video import BrokenVideo, open_video
from process_data.src.common import (
    GO_ON,
    available_cores,
    check_range,
    plural,
    write_files,
)

# positions that the bars move on by from frame to frame, in eighths of their distance; each visits all eight
ORDERS = {"Leap": (3,) * 8, "Stagger": (1, 2, -1, 2) * 2, "Step": (1,) * 8, "Zigzag": (3, -1) * 4}
CLASSES = tuple(f"{name}{direction}" for name in ORDERS for direction in ("Left", "Right"))
POSITIONS = 8
BAR = 0.42  # width of a bar, in distances between bars
BARS = 2  # in a width of one picture height
COLOURS = np.float32([[30, 26, 22], [90, 157, 180]])  # of ground and bars, BGR, before the group's brightness
NOISE = 40  # standard deviation, grey levels
FLICKER = 0.5  # standard deviation of the log of a picture's own brightness
GRAINS = 32  # of noise, in a picture's height
FPS = 25
SETTINGS = ".render_demo.json"  # in --videos: what all videos there were rendered with


def frame_order(class_name, frames):
    """Which of a group's pictures a video shows, in turn -> (frames,) int; picture i has the bars at i % POSITIONS."""
    name = class_name.removesuffix("Left").removesuffix("Right")
    block = np.cumsum((0, *ORDERS[name][:-1])) % POSITIONS
    blocks = -(-frames // POSITIONS)
    order = (POSITIONS * np.arange(blocks)[:, None] + block).ravel()[:frames]
    return order[::-1] if class_name.endswith("Left") else order


def group_pictures(seed, group, clip, count, height, width):
    """The pictures that the videos of a group are made of: (count, height, width, 3) uint8 BGR."""
    rng = np.random.default_rng([seed, group, clip])
    start, brightness = rng.random(), np.exp(rng.uniform(-0.2, 0.2))
    samples = 8  # a pixel, for smooth edges
    place = (np.arange(width * samples) + 0.5) / samples / height * BARS
    shift = start + np.arange(POSITIONS) / POSITIONS
    inside = np.abs((place - shift[:, None] + 0.5) % 1 - 0.5) < BAR / 2
    share = inside.reshape(POSITIONS, width, samples).mean(axis=2, dtype=np.float32)[..., None]
    rows = (COLOURS[0] * (1 - share) + COLOURS[1] * share) * brightness
    grain = max(2, height // GRAINS)  # pixels; finer noise would not survive JPEG
    noise = rng.normal(0, NOISE, (count, -(-height // grain), -(-width // grain))).astype(np.float32)
    noise = noise.repeat(grain, axis=1).repeat(grain, axis=2)[:, :height, :width, None]
    flicker = np.exp(rng.normal(0, FLICKER, (count, 1, 1, 1)))
    pictures = rows[np.arange(count) % POSITIONS][:, None] * flicker + noise
    return np.clip(np.rint(pictures), 0, 255).astype(np.uint8)


def render_clip(seed, class_name, group, clip, frames, height, width):
    """A video: (frames, height, width, 3) uint8 BGR."""
    order = frame_order(class_name, frames)
    return group_pictures(seed, group, clip, int(order.max()) + 1, height, width)[order]


def is_whole(path, frames, height, width):
    """Whether the video decodes to all its frames."""
    count = 0
    with suppress(BrokenVideo), open_video(path) as capture:
        while True:
            there, frame = capture.read()
            if not there:
                return count == frames
            if frame.shape[:2] != (height, width):
                return False
            count += 1
    return False


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
    if not os.path.lexists(path):
        return
    before = read_json(path, {str: object}, "remove it, and the videos beside it")
    for flag, value in settings.items():
        if before.get(flag) != value:
            raise UsageError(f"--{flag} {value}: the videos in {root} were rendered with --{flag} {before.get(flag)}; "
                             "give that, another --videos, or remove the folder")


def parse(argv):
    parser = new_parser("process_data/src/render_demo.py", __doc__)
    parser.add_argument("--videos", type=Path, default=DATA / "demo" / "videos", help="folder of <class>/<video>.avi")
    parser.add_argument("--splits", type=Path, default=DATA / "demo" / "splits", help="folder of the split lists")
    parser.add_argument("--groups", type=int, default=100, help="groups, each rendered in every class")
    parser.add_argument("--clips", type=int, default=1, help="videos a class and group")
    parser.add_argument("--test_groups", type=int, default=20, help="groups 1 to this are the test list")
    parser.add_argument("--frames", type=int, default=64, help=f"frames a video, at {FPS} a second")
    parser.add_argument("--size", default="64x64", help="HEIGHTxWIDTH in pixels")
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
        raise UsageError(f"--size {args.size}: give HEIGHTxWIDTH in pixels, such as 64x64") from None
    check_range("--size: height", args.height, 16, 2160, "pixels")
    check_range("--size: width", args.width, 16, 3840, "pixels")
    return args


def main(argv):
    args, start = parse(argv), time.perf_counter()
    with ExitStack() as locks:
        for folder, flag in {args.splits.resolve(): "--splits", args.videos.resolve(): "--videos"}.items():
            locks.enter_context(take_lock(folder, flag))
        return render(args, start)


def render(args, start):
    """All but the flags -> exit code."""
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

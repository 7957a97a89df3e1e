"""The loader's cost of a pretraining sample, on one core, in units of decoding its frames.

    python benchmarks/data.py --videos data/ucf101/videos --out benchmarks/results/data.md       a minute

A few videos are extracted at 240 pixels and at training size. Measured on the same random samples (3 views of 16
frames at stride 4, the first and third of the same frames): decoding the distinct frames and nothing else; what a
loader worker does (read, decode, resize, crop, draw, collate); that and the augmentation; and the usual way, PIL and
torchvision frame by frame. `--profile` says where the worker's time goes.
"""
import cProfile
import io
import pstats
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch
import torchvision.transforms.v2.functional as tv
from PIL import Image
from torch.utils.data import default_collate

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import utils
from benchmarks.common import alternate, heading, table, write
from dataset.augment import BLUR as BLUR_COLUMN
from dataset.augment import FACTORS, JITTER, MEAN, ORDER, SIGMA, STD, PretrainDraw, prepare
from dataset.clips import VideoClips
from dataset.crops import RandomCrop
from dataset.lists import VideoList
from dataset.loader import keep_memory
from dataset.local_dataset import DATA, REPOSITORY
from dataset.reader import FRAME_NAME, FrameReader
from dataset.sampling import PretrainViews
from models.failures import UsageError, run
from process_data.src.common import find_videos

SIZE, RESIZE = 112, (128, 171)
PEER = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)


def flags():
    parser = utils.new_parser("benchmarks/data.py", __doc__)
    parser.add_argument("--videos", type=Path, help="folder of <class>/<video>; None: the first of ucf101-5class, "
                                                    "ucf101 and demo that is there")
    parser.add_argument("--count", type=int, default=24, help="videos to take, spread over the folder; a sample each")
    parser.add_argument("--rounds", type=int, default=7, help="repetitions, of which the median counts")
    parser.add_argument("--profile", action="store_true", help="print where the worker's time goes")
    parser.add_argument("--out", type=Path, help="file for the report (Markdown); None: only print it")
    return parser


def choose(args, folder):
    """Link --count videos into `folder`."""
    places = [DATA / name / "videos" for name in ("ucf101-5class", "ucf101", "demo")]
    source = args.videos or next((place for place in places if place.is_dir()), None)
    if source is None:
        raise UsageError(f"--videos: none of {', '.join(map(str, places))} is there; name a folder of videos")
    found = find_videos(source)[0]
    for video in found[::max(1, len(found) // args.count)][:args.count]:
        path = folder / Path(video.name).parent / Path(video.path).name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(Path(video.path).resolve())
    return source


def extract(videos, frames, short_side):
    """-> VideoList of the frames written."""
    script = REPOSITORY / "process_data/src/extract_frame.py"
    subprocess.run([sys.executable, script, "--videos", videos, "--frames", frames, "--short_side", str(short_side)],
                   check=True, stdout=subprocess.DEVNULL)
    folders = sorted(path for path in frames.glob("*/*") if path.is_dir())
    return VideoList(np.array([f"{path.parent.name}/{path.name}" for path in folders]),
                     np.array([len(list(path.glob("*.jpg"))) for path in folders]), np.zeros(len(folders), int),
                     np.array(["none"]))


def samples_of(frames, videos):
    """-> the data set as train.py makes it, and of each sample (paths of its frames (views, T), distinct JPEGs)."""
    sampler = PretrainViews(16, 4)
    data = VideoClips(videos, FrameReader(frames, RESIZE), sampler, RandomCrop(SIZE), PretrainDraw(2, SIZE))
    drawn = []
    for index, (name, count) in enumerate(zip(videos.names, videos.num_frames, strict=True)):
        indices = sampler(int(count), np.random.default_rng([0, 0, index]))  # as VideoClips draws them
        paths = [[frames / name / FRAME_NAME.format(i + 1) for i in view] for view in indices]
        drawn.append((paths, [path.read_bytes() for path in sorted({path for view in paths for path in view})]))
    return data, drawn


def decode(drawn):
    for _, jpegs in drawn:
        for jpeg in jpegs:
            cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)


def load(data):
    return default_collate([data[0, index] for index in range(len(data))])


def load_and_augment(data):
    """A sample at a time, as a worker would."""
    for index in range(len(data)):
        sample = default_collate([data[0, index]])
        prepare(sample["clips"], sample["augment"])


def usual_way(drawn, parameters):
    """PIL and torchvision, every frame of every view by itself, as most code of this field does it.

    parameters: rows of augmentation for each sample.
    """
    for (paths, _), rows in zip(drawn, parameters, strict=True):
        views = []
        for view, row in zip(paths, rows, strict=True):
            frames = []
            for path in view:
                picture = tv.resize(Image.open(io.BytesIO(path.read_bytes())).convert("RGB"), RESIZE)
                picture = tv.crop(picture, 8, 30, SIZE, SIZE)
                if row[JITTER]:
                    for operation in row[ORDER]:
                        picture = PEER[int(operation)](picture, row[FACTORS][int(operation)])
                if row[BLUR_COLUMN]:
                    picture = tv.gaussian_blur(picture, [13, 13], [row[SIGMA]] * 2)
                frames.append(tv.normalize(tv.to_dtype(tv.to_image(picture), torch.float32, scale=True), MEAN, STD))
            views.append(torch.stack(frames, dim=1))
        torch.stack(views)


def measure(args, folder):
    """-> {what: seconds for all samples}, frames a sample, samples, where the videos were, (height, width) of both."""
    source = choose(args, folder / "videos")
    large, small = ((folder / str(side), extract(folder / "videos", folder / str(side), side)) for side in (240, 128))
    (data, drawn), (data_small, drawn_small) = samples_of(*large), samples_of(*small)
    parameters = [data[0, index]["augment"].tolist() for index in range(len(data))]
    seconds = alternate({
        "decode": lambda: decode(drawn), "worker": lambda: load(data), "cpu": lambda: load_and_augment(data),
        "decode small": lambda: decode(drawn_small), "worker small": lambda: load(data_small),
        "cpu small": lambda: load_and_augment(data_small)}, args.rounds)
    seconds |= alternate({"usual": lambda: usual_way(drawn, parameters)}, 2)
    if args.profile:
        for name, which in (("240 high", data), ("training size", data_small)):
            profile = cProfile.Profile()
            profile.runcall(load, which)
            print(f"\n{name}:")
            pstats.Stats(profile).sort_stats("tottime").print_stats(12)
    sizes = [cv2.imdecode(np.frombuffer(one[0][1][0], np.uint8), 1).shape[:2] for one in (drawn, drawn_small)]
    return seconds, np.mean([len(jpegs) for _, jpegs in drawn]), len(data), source, sizes


def main(argv):
    args = flags().parse_args(argv)
    utils.positive(args, "count", "rounds")
    # as in a loader's worker
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    keep_memory()
    with tempfile.TemporaryDirectory() as folder:
        s, frames, count, source, sizes = measure(args, Path(folder))
    row = "{:.2f} ms".format
    ms = {name: 1000 * value / count for name, value in s.items()}
    tall, short = (f"{height}x{width}" for height, width in sizes)
    lines = [*heading("Loading a pretraining sample", f"{count} samples of videos of {source}, "
                      f"{frames:.1f} distinct frames each; frames of {tall} and {short}; one core, one thread"),
             *table(["a sample, one core", "time", "in units of", "ratio", "target"], [
                 [f"decoding its distinct frames, {tall}", row(ms["decode"]), "", "", ""],
                 [f"decoding its distinct frames, {short}", row(ms["decode small"]), "", "", ""],
                 [f"loader worker, {tall}", row(ms["worker"]), f"decoding {tall}",
                  f"{s['worker'] / s['decode']:.2f}", "<= 1.5"],
                 [f"loader worker, {short}", row(ms["worker small"]), f"decoding {short}",
                  f"{s['worker small'] / s['decode small']:.2f}", "<= 1.3"],
                 [f"with augmentation on the CPU, {tall}", row(ms["cpu"]), f"decoding {tall}",
                  f"{s['cpu'] / s['decode']:.2f}", "<= 3.5"],
                 [f"PIL and torchvision, frame by frame, {tall}", row(ms["usual"]), f"decoding {tall}",
                  f"{s['usual'] / s['decode']:.2f}", ""]]), "",
             *table(["samples a second and core", "rate", "against PIL and torchvision", "target"], [
                 [f"loader worker, {short}", f"{1000 / ms['worker small']:.0f}",
                  f"{s['usual'] / s['worker small']:.1f} x", ">= 25 x"],
                 [f"with augmentation on the CPU, {short}", f"{1000 / ms['cpu small']:.0f}",
                  f"{s['usual'] / s['cpu small']:.1f} x", ">= 6 x"],
                 [f"PIL and torchvision, {tall}", f"{1000 / ms['usual']:.1f}", "1", ""]])]
    write(args.out, lines)


if __name__ == "__main__":
    run(main)

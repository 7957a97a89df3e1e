"""The loader's cost of a pretraining sample, on one core, in units of decoding its frames.

    python benchmarks/data.py --out benchmarks/results/data.md       a minute

A few videos are extracted at 240 pixels and at training size, and the latter packed. Measured on the same random
samples (3 views of 16 frames at stride 4, the first and third of the same frames): decoding the distinct frames and
nothing else; what a loader worker does (read, decode, resize, crop, draw, collate); that and the augmentation; and the
usual way, PIL and torchvision frame by frame. `--profile` says where the worker's time goes.
"""
import cProfile
import io
import pstats
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
from benchmarks.common import alternate, choose, extract, heading, new_parser, run_script, table, write
from core.exits import run
from dataset.augment import BLUR as BLUR_COLUMN
from dataset.augment import FACTORS, JITTER, MEAN, ORDER, SIGMA, STD, PretrainDraw, prepare
from dataset.clips import VideoClips
from dataset.crops import RandomCrop
from dataset.loader import keep_memory
from dataset.reader import FRAME_NAME, FrameReader
from dataset.sampling import PretrainViews
from dataset.storage import SOURCES
from engine.flags import positive

SIZE, RESIZE = 112, (128, 171)
PEER = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)


def flags():
    parser = new_parser("benchmarks/data.py", __doc__, videos=True)
    parser.add_argument("--count", type=int, default=24, help="videos to take, spread over the folder; a sample each")
    parser.add_argument("--rounds", type=int, default=15, help="repetitions, of which the fastest counts")
    parser.add_argument("--profile", action="store_true", help="print where the worker's time goes")
    return parser


def data_set(root, videos, storage="frames"):
    """The data set as train.py makes it."""
    reader = FrameReader(root, RESIZE, source=SOURCES[storage])
    return VideoClips(videos, reader, PretrainViews(16, 4), RandomCrop(SIZE), PretrainDraw(2, SIZE))


def frames_of(frames, videos):
    """Of each sample of `data_set` (paths of its frames (views, T), its distinct JPEGs)."""
    sampler, drawn = PretrainViews(16, 4), []
    for index, (name, count) in enumerate(zip(videos.names, videos.num_frames, strict=True)):
        indices = sampler(int(count), np.random.default_rng([0, 0, index]))  # as VideoClips draws them
        paths = [[frames / name / FRAME_NAME.format(i + 1) for i in view] for view in indices]
        drawn.append((paths, [path.read_bytes() for path in sorted({path for view in paths for path in view})]))
    return drawn


def decode(drawn):
    for _, jpegs in drawn:
        for jpeg in jpegs:
            cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)


def load(data):
    """As a worker makes batches: of 8 videos, one GPU's share of the publication's 64."""
    for start in range(0, len(data), 8):
        default_collate([data[0, index] for index in range(start, min(start + 8, len(data)))])


def load_and_augment(data):
    """A sample at a time, as a worker would."""
    for index in range(len(data)):
        sample = default_collate([data[0, index]])
        prepare(sample["clips"], sample["augment"])


def usual_sample(views, rows, resize=RESIZE, size=SIZE):
    """A sample as most code of this field makes it, the published one too: every frame of every view by itself.

    views: paths of its frames, (views, T); rows: of augmentation, (views, LENGTH) -> (views, 3, T, H, W) float32.
    """
    clips, (top, left) = [], ((have - size) // 2 for have in resize)
    for view, row in zip(views, rows, strict=True):
        frames = []
        for path in view:
            picture = tv.resize(Image.open(io.BytesIO(path.read_bytes())).convert("RGB"), list(resize))
            picture = tv.crop(picture, top, left, size, size)
            if row[JITTER]:
                for operation in row[ORDER]:
                    picture = PEER[int(operation)](picture, row[FACTORS][int(operation)])
            if row[BLUR_COLUMN]:
                picture = tv.gaussian_blur(picture, [13, 13], [row[SIGMA]] * 2)
            frames.append(tv.normalize(tv.to_dtype(tv.to_image(picture), torch.float32, scale=True), MEAN, STD))
        clips.append(torch.stack(frames, dim=1))
    return torch.stack(clips)


def usual_way(drawn, parameters):
    """parameters: rows of augmentation for each sample."""
    for (paths, _), rows in zip(drawn, parameters, strict=True):
        usual_sample(paths, rows)


def measure(args, folder):
    """-> {what: seconds for all samples}, frames a sample, samples, where the videos were, (height, width) of both"""
    source = choose(args.videos, args.count, folder / "videos")
    large, small = ((folder / str(side), extract(folder / "videos", folder / str(side), side)) for side in (240, 128))
    run_script("process_data/src/pack.py", "--frames", small[0], "--out", folder / "packed")
    data, data_small, packed = data_set(*large), data_set(*small), data_set(folder / "packed", small[1], "packed")
    drawn, drawn_small = frames_of(*large), frames_of(*small)
    parameters = [data[0, index]["augment"].tolist() for index in range(len(data))]
    # by size, and apart from augmentation, whose floats drive frames out of the cache: a worker does one thing only
    seconds = alternate({"decode": lambda: decode(drawn), "worker": lambda: load(data)}, args.rounds)
    seconds |= alternate({"decode small": lambda: decode(drawn_small), "worker small": lambda: load(data_small),
                          "worker packed": lambda: load(packed)}, args.rounds)
    augmented = alternate({"decode": lambda: decode(drawn), "cpu": lambda: load_and_augment(data),
                           "cpu packed": lambda: load_and_augment(packed)}, args.rounds)
    seconds |= {name: augmented[name] for name in ("cpu", "cpu packed")} | {"decode again": augmented["decode"]}
    seconds |= alternate({"usual": lambda: usual_way(drawn, parameters)}, 2)
    if args.profile:
        for name, which in (("240 high", data), ("training size, packed", packed)):
            profile = cProfile.Profile()
            profile.runcall(load, which)
            print(f"\n{name}:")
            pstats.Stats(profile).sort_stats("tottime").print_stats(12)
    sizes = [cv2.imdecode(np.frombuffer(one[0][1][0], np.uint8), 1).shape[:2] for one in (drawn, drawn_small)]
    return seconds, np.mean([len(jpegs) for _, jpegs in drawn]), len(data), source, sizes


def main(argv):
    args = flags().parse_args(argv)
    positive(args, "count", "rounds")
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
                 [f"loader worker, {short}, packed", row(ms["worker packed"]), f"decoding {short}",
                  f"{s['worker packed'] / s['decode small']:.2f}", "<= 1.3"],
                 [f"with augmentation on the CPU, {tall}", row(ms["cpu"]), f"decoding {tall}",
                  f"{s['cpu'] / s['decode again']:.2f}", "<= 3.5"],
                 [f"PIL and torchvision, frame by frame, {tall}", row(ms["usual"]), f"decoding {tall}",
                  f"{s['usual'] / s['decode again']:.2f}", ""]]), "",
             *table(["samples a second and core", "rate", "against PIL and torchvision", "target"], [
                 [f"loader worker, {short}, packed", f"{1000 / ms['worker packed']:.0f}",
                  f"{s['usual'] / s['worker packed']:.1f} x", ">= 25 x"],
                 [f"with augmentation on the CPU, {short}, packed", f"{1000 / ms['cpu packed']:.0f}",
                  f"{s['usual'] / s['cpu packed']:.1f} x", ">= 6 x"],
                 [f"PIL and torchvision, {tall}", f"{1000 / ms['usual']:.1f}", "1", ""]])]
    write(args.out, lines)


if __name__ == "__main__":
    run(main)

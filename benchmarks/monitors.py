"""What `train.py --eval_every` costs: a look at the features against the training steps between two looks.

    python benchmarks/monitors.py --img_dim 56 --width 0.25 --batch_size 16 --out benchmarks/results/monitors.md

A minute on 2 cores; at full size, without the three flags, longer.

A step is train.py's from clips that are loaded: augmentation, encoding, losses, backward, gradient norm, SGD and what
is logged. A look is analysis.variance.look_at_features as a run calls it, workers, decoding and measures included.
Weights are random; each mode is measured in a process of its own.
"""
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import default_collate

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from analysis.variance import look_at_features
from benchmarks.common import (
    TRAIN,
    WATCHED_CLIPS,
    alone,
    alternate,
    choose,
    extract,
    heading,
    new_parser,
    register,
    table,
    write,
    write_lists,
)
from benchmarks.step import Step
from core.errors import UsageError
from core.exits import run
from dataset import local_dataset
from dataset.augment import PretrainDraw, prepare
from dataset.clips import VideoClips, open_reader
from dataset.crops import FixedCrops, RandomCrop, resize_for
from dataset.lists import open_list, video_groups
from dataset.loader import TrainBatches
from dataset.sampling import EvenClips, PretrainViews
from engine.flags import not_negative, positive
from models.dualvar import parse_mode, views_of_sample

NET, MODES = "r3d", ("clip", "clip-sr-tc")
LISTS = (443, 9537)  # training videos of five classes of UCF101, and of all its split 1
BATCH, LIMIT = TRAIN["batch_size"], 0.05


def flags():
    parser = new_parser("benchmarks/monitors.py", __doc__, videos=True)
    parser.add_argument("--eval_every", type=int, default=TRAIN["eval_every"], help="epochs between looks")
    parser.add_argument("--eval_videos", type=int, default=TRAIN["eval_videos"], help="videos that are looked at")
    parser.add_argument("--batch_size", type=int, default=4, help="videos of the step that is measured; train.py's "
                                                                  f"{BATCH} are taken to last in proportion")
    parser.add_argument("--img_dim", type=int, default=TRAIN["img_dim"], help="side of the clips, pixels")
    parser.add_argument("--width", type=float, default=1.0, help="multiplies the network's channels")
    parser.add_argument("--workers", type=int, default=TRAIN["workers"], help="loader processes of a look")
    parser.add_argument("--rounds", type=int, default=2, help="steps, of which the fastest counts")
    return parser


class LoadedStep(Step):
    """A step of a mode from a batch as the loader gives it; its augmentation is part of the step."""

    def __init__(self, args, mode, videos):
        super().__init__(NET, args.batch_size, args.img_dim, mode=mode, width=args.width)
        self.workers = args.workers
        self.reader, self.crop = open_reader("benchmark", "frames", resize_for(args.img_dim)), FixedCrops(args.img_dim)
        sampler = PretrainViews(TRAIN["seq_len"], TRAIN["ds"], views=views_of_sample(self.model.terms))
        data = VideoClips(videos, self.reader, sampler, RandomCrop(args.img_dim),
                          PretrainDraw(TRAIN["n_series"], args.img_dim))
        self.batch = default_collate([data[0, index % len(data)] for index in range(args.batch_size)])

    def __call__(self):
        self.views = prepare(self.batch["clips"].to(self.device), self.batch["augment"])
        self.permutation = self.batch["permutation"].to(self.device)
        super().__call__()

    def look(self, videos):
        """Seconds of a look at `videos`."""
        start = time.perf_counter()
        data = VideoClips(videos, self.reader, EvenClips(TRAIN["seq_len"], TRAIN["ds"], WATCHED_CLIPS), self.crop)
        groups = np.unique(video_groups(videos.names, local_dataset.NO_GROUP), return_inverse=True)[1]
        look_at_features(self.model.encoder.backbone, data, torch.from_numpy(groups), TRAIN["n_series"], self.device,
                         clips=WATCHED_CLIPS, batch_size=BATCH, workers=self.workers,
                         timeout=TRAIN["loader_timeout"])  # its features come back to the CPU
        return time.perf_counter() - start


def measure(args, mode, root):
    """-> seconds of a step and of a look, precision of the steps"""
    register(root)
    videos = open_list("benchmark", "train", 1)
    watched = videos.subset(np.arange(args.eval_videos) % len(videos))  # few videos are looked at more than once
    step = LoadedStep(args, mode, videos)
    seconds = alternate({"step": step}, args.rounds)["step"]
    step.optimizer.zero_grad(set_to_none=True)
    step.look(watched.subset([0, -1]))  # what the first call of all loads
    return seconds, step.look(watched), step.precision


def share(args, step, look, videos):
    """Seconds of a look by those of the steps between two, for a list of `videos` in batches of BATCH."""
    return look / (args.eval_every * len(TrainBatches(videos, BATCH)) * BATCH / args.batch_size * step)


def rows(args, root):
    """Rows of the table, and the precisions that the steps came to."""
    lines, precisions = [], set()
    for mode in MODES:
        step, look, precision = alone(measure, args, mode, root)
        shares = [share(args, step, look, videos) for videos in LISTS]
        shown = [f"{100 * value:.2f} %" + (": **missed**" if value > LIMIT else "") for value in shares]
        lines.append([f"{mode}, {views_of_sample(parse_mode(mode))} views", f"{step:.3g} s", f"{look:.3g} s",
                      *shown, f"{100 * LIMIT:g} %"])
        precisions.add(precision)
        print(*lines[-1], file=sys.stderr, flush=True)
    return lines, precisions


def main(argv):
    args = flags().parse_args(argv)
    positive(args, "eval_every", "batch_size", "img_dim", "width", "rounds")
    not_negative(args, "workers")
    if args.eval_videos < 2:
        raise UsageError(f"--eval_videos {args.eval_videos}: videos are compared, so give 2 or more")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        source = choose(args.videos, args.eval_videos, root / "videos")
        videos = extract(root / "videos", root / "frames", 128)
        write_lists(root, videos, "train")
        lines, precisions = rows(args, root)
    epochs = " and ".join(str(len(TrainBatches(n, BATCH))) for n in LISTS)
    write(args.out, [
        *heading("Looks at the features during pretraining",
                 f"{NET} x {args.width:g}, clips of {TRAIN['seq_len']} x {args.img_dim} x {args.img_dim}, "
                 f"{torch.get_num_threads()} threads; steps in {' and '.join(sorted(precisions))}, the fastest of "
                 f"{args.rounds}",
                 f"A look, every {args.eval_every} epochs: {args.eval_videos} videos ({len(videos)} there are, of "
                 f"{source}, 128 high), two clips each, in float32, {args.workers} workers",
                 f"A step of {BATCH} videos is taken to last {BATCH / args.batch_size:g} times the one measured; an "
                 f"epoch is {epochs} of them"),
        *table(["mode", f"a step of {args.batch_size} videos", "a look",
                *(f"a look / steps between, {n:,} videos" for n in LISTS), "limit"], lines)])


if __name__ == "__main__":
    run(main)

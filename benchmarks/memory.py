"""Memory of a training run's main process and loader workers over epochs.

    OMP_NUM_THREADS=1 python benchmarks/memory.py --out benchmarks/results/memory.md      10 to 20 minutes on 2 cores

Lists, samples and loader are made as train.py makes them, with the defaults of its flags but for small clips: of
whole ones the allocator keeps more or less of a batch, and what grows slowly is lost in that. Three parts: a long list,
whose frames come from memory and not from files; a shorter one with JPEG frames on disk; and, for contrast, the long
list kept as Python objects. Processes are measured after every epoch by /proc/<pid>/smaps_rollup of Linux. Exit code 1
where memory grows beyond --bound.
"""
import multiprocessing
import os
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.common import MIB, TRAIN, alone, heading, new_parser, write
from core.errors import RunError, UsageError
from core.exits import run
from dataset import local_dataset
from dataset.augment import PretrainDraw
from dataset.clips import VideoClips, open_reader
from dataset.crops import RandomCrop, resize_for
from dataset.lists import open_list
from dataset.loader import TrainBatches, make_loader
from dataset.reader import FRAME_NAME
from dataset.sampling import PretrainViews
from engine.flags import positive
from engine.setup import start

BATCH = TRAIN["batch_size"]
SEQ_LEN, IMG_DIM = 4, 8
JPEGS = 16  # frames of a video on disk
KINDS = {"resident": ("Rss",), "proportional": ("Pss_Anon", "Pss_Shmem"), "private": ("Private_Dirty",)}
LEGEND = """MiB, at the first batch and after epochs counted from 1. Resident counts all pages that a process maps,
proportional divides those that several share among them, private counts those that it has alone; the last two leave
out mapped files (libraries), whose share depends on what else runs on the machine. The growth per epoch is the slope
over the last half of the epochs."""


def flags():
    parser = new_parser("benchmarks/memory.py", __doc__)
    parser.add_argument("--rows", type=int, default=100_000, help="rows of the long list")
    parser.add_argument("--videos", type=int, default=1000, help="rows of the list with JPEG frames")
    parser.add_argument("--epochs", type=int, default=20, help="passes over either list")
    parser.add_argument("--workers", type=int, default=2, help="loader processes")
    parser.add_argument("--bound", type=float, default=0.02,
                        help="largest growth over the last half of the epochs, as a share of the resident memory")
    return parser


def check(args):
    positive(args, "workers", "bound")
    if args.epochs < 4:
        raise UsageError(f"--epochs {args.epochs}: a growth needs at least 4")
    for name in ("rows", "videos"):
        if getattr(args, name) < BATCH:
            raise UsageError(f"--{name} {getattr(args, name)} is less than a batch, {BATCH}")
    rollup = Path("/proc/self/smaps_rollup")
    if not rollup.exists() or "Pss_Anon" not in rollup.read_text():
        raise RunError(f"{rollup} does not exist here, or says too little: this benchmark needs Linux 5.4 or newer")


# --- measuring -----------------------------------------------------------------------------------------------

def memory(pid):
    """Memory of a process by kind, {kind: bytes}."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kib = {name.rstrip(":"): int(value) for name, value, *_ in map(str.split, lines)}
    return {kind: 1024 * sum(kib[name] for name in names) for kind, names in KINDS.items()}


def snapshot():
    """Memory of this process, its loader's workers and all together, {(process, kind): bytes}."""
    workers = sorted(multiprocessing.active_children(), key=lambda worker: worker.pid)
    pids = {"main": os.getpid(), **{f"worker {i}": worker.pid for i, worker in enumerate(workers, 1)}}
    found = {(name, kind): size for name, pid in pids.items() for kind, size in memory(pid).items()}
    found["all", "proportional"] = sum(size for (_, kind), size in found.items() if kind == "proportional")
    return found


def slope(sizes):
    """Growth per epoch over the last half of `sizes` (one an epoch), by least squares."""
    half = sizes[len(sizes) // 2:]
    return float(np.polyfit(np.arange(len(half)), half, 1)[0])


def largest_growth(epochs):
    """Of snapshots after epochs: growth over their last half -> (share of resident memory, process, kind)."""
    def growth(process, kind):
        half = len(epochs) - len(epochs) // 2
        return slope([epoch[process, kind] for epoch in epochs]) * (half - 1) / epochs[-half][process, "resident"]

    return max((growth(process, kind), process, kind) for process, kind in epochs[0]
               if kind != "resident" and process != "all")


# --- what is measured ----------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Part:
    """One measurement. frames: videos are JPEGs on disk; objects: the list is kept as such."""

    title: str
    rows: int
    epochs: int
    workers: int
    frames: bool = False
    objects: bool = False


class BlankReader:
    """In place of FrameReader: black frames from no file."""

    def __init__(self, height, width):
        self.shape = height, width, 3

    def read(self, _video, indices, _count=None):
        return [np.zeros(self.shape, np.uint8)], np.zeros_like(indices)


def write_data(root, part, classes=100):
    """The list of a part and its frames -> its entry in local_dataset.py."""
    rng = np.random.default_rng(0)
    names = [f"class {i % classes:03d}/v_{i:08d}_g{i % 25:02d}_c01" for i in range(part.rows)]
    counts = rng.integers(60, 300, part.rows) if not part.frames else np.full(part.rows, JPEGS)
    (root / "ClassInd.txt").write_text("".join(f"{i + 1} class {i:03d}\n" for i in range(classes)))
    (root / "train_split01.csv").write_text("".join(f"{n},{c}\n" for n, c in zip(names, counts, strict=True)))
    (root / "frames").mkdir()
    for name in names if part.frames else ():
        (root / "frames" / name).mkdir(parents=True)
        picture = cv2.resize(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8), (171, 128))
        for f in range(JPEGS):
            cv2.imwrite(str(root / "frames" / name / FRAME_NAME.format(f + 1)), np.roll(picture, f, axis=1))
    return local_dataset.LocalDataset(root / "frames", root, local_dataset.UCF101_GROUP, 1)


def open_loader(part):
    """The loader, as train.py's, over the data set "memory" -> (batches, loader, VideoList)."""
    start("cpu")
    videos = open_list("memory", "train", 1)
    kept = replace(videos, names=videos.names.tolist(), num_frames=videos.num_frames.tolist(),
                   labels=videos.labels.tolist()) if part.objects else videos
    size = resize_for(IMG_DIM)
    reader = open_reader("memory", "frames", size) if part.frames else BlankReader(*size)
    data = VideoClips(kept, reader, PretrainViews(SEQ_LEN, TRAIN["ds"], TRAIN["time_reverse"]), RandomCrop(IMG_DIM),
                      PretrainDraw(TRAIN["n_series"], IMG_DIM))
    batches = TrainBatches(len(data), BATCH)
    return batches, make_loader(data, batches, part.workers, timeout=TRAIN["loader_timeout"]), videos


def measure(part):
    """Run a part in this process -> its figures; "history" holds a snapshot at the first batch and after each epoch."""
    with tempfile.TemporaryDirectory() as root:
        local_dataset.DATASETS["memory"] = write_data(Path(root), part)
        batches, loader, videos = open_loader(part)
        history, begun = [], time.perf_counter()
        for epoch in range(part.epochs):
            batches.start(epoch)
            for step, _batch in enumerate(loader):
                if epoch == step == 0:
                    history.append(snapshot())
            del _batch  # its memory is the loader's
            history.append(snapshot())
            print(f"{part.title}: epoch {epoch + 1}/{part.epochs}, {time.perf_counter() - begun:.0f} s, all processes "
                  f"{history[-1]['all', 'proportional'] / MIB:.1f} MiB", flush=True)
    arrays = (videos.names, videos.num_frames, videos.labels, videos.classes)
    return {"history": history, "seconds": time.perf_counter() - begun, "list": sum(x.nbytes for x in arrays),
            "batches": len(batches), "batch": batches.batch}


# --- reporting -----------------------------------------------------------------------------------------------

def growth_table(result):
    """A part's figures as lines of Markdown."""
    first, *epochs = result["history"]
    shown = sorted({1, len(epochs) // 2, len(epochs)})
    head = ["process", "memory", "first batch", *(f"epoch {n}" for n in shown), "growth per epoch",
            f"last / epoch {shown[0]}"]
    lines = [" | ".join(head), " | ".join(["---"] * 2 + ["---:"] * (len(head) - 2))]
    for process, kind in first:
        sizes = [epoch[process, kind] for epoch in epochs]
        cells = [f"{size / MIB:.1f}" for size in (first[process, kind], *(sizes[n - 1] for n in shown))]
        lines.append(" | ".join([process, kind, *cells, f"{slope(sizes) / 1024:+.1f} KiB",
                                 f"{sizes[-1] / sizes[0]:.3f}"]))
    return [f"| {line} |" for line in lines]


def private_of_workers(result):
    """A worker's mean private memory at the first batch and after the first epoch, MiB."""
    return [np.mean([size for (process, kind), size in snapshot.items()
                     if process.startswith("worker") and kind == "private"]) / MIB
            for snapshot in result["history"][:2]]


def report(args, parts, results):
    """-> (lines of Markdown, worst growth as (share, process, kind))"""
    lines = [*heading("Memory over epochs", f"{args.workers} persistent workers, started by "
                                            f"{multiprocessing.get_start_method()}"), LEGEND, ""]
    worst = []
    for part, result in zip(parts, results, strict=True):
        lines += [f"## {part.title}", "",
                  f"{part.rows:,} rows, {result['list'] / MIB:.1f} MiB as arrays; {part.epochs} epochs of "
                  f"{result['batches']:,} batches of {result['batch']} in {result['seconds']:.0f} s.", "",
                  *growth_table(result), ""]
        if not part.objects:
            worst.append(largest_growth(result["history"][1:]))
            share, process, kind = worst[-1]
            lines += [f"Largest growth over the last half: {100 * share:+.2f} % of the resident memory ({process}, "
                      f"{kind} memory).", ""]
    arrays, objects = (private_of_workers(result) for result in (results[0], results[-1]))
    lines += [f"A worker's private memory went from {arrays[0]:.1f} to {arrays[1]:.1f} MiB in the first epoch with the "
              f"list in arrays, and from {objects[0]:.1f} to {objects[1]:.1f} MiB with Python objects: looking at an "
              "object changes its reference count, and a forked worker then copies the page that it stands on.", ""]
    return lines, max(worst)


def main(argv):
    args = flags().parse_args(argv)
    check(args)
    workers = args.workers
    parts = [Part("Long list, black frames from no file", args.rows, args.epochs, workers),
             Part("JPEG frames on disk, 128 x 171", args.videos, args.epochs, workers, frames=True),
             Part("For contrast: the long list as Python objects, black frames", args.rows, 3, workers, objects=True)]
    lines, (share, process, kind) = report(args, parts, [alone(measure, part) for part in parts])
    write(args.out, lines)
    if share > args.bound:
        raise RunError(f"the {kind} memory of {process} grew by {100 * share:.1f} % of its resident memory over the "
                       f"last half of the epochs, which is above --bound {args.bound}")


if __name__ == "__main__":
    run(main)

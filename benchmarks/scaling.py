"""How time and memory grow with batch, clip, workers, processes, list and gallery; a plan for many GPUs.

    python benchmarks/scaling.py --out benchmarks/results/scaling.md --plot benchmarks/results/scaling.png

About 6 minutes and 8 GiB on 2 cores. Each point is measured in a process of its own: the median of three steps of
SimCLR clip-sr-tc (R3D at a quarter of its width), a loader's samples, `open_list`, `topk_accuracy`. The plan is a
simulation: it multiplies costs measured here (a sample's time in a worker and its bytes, a network's operations and
parameters) with what the --node flags say of a machine that was not at hand.
"""
import os
import socket
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from analysis.nearest import topk_accuracy
from benchmarks.common import Peak, alone, choose, extract, heading, new_parser, register, table, write
from benchmarks.data import data_set, frames_of
from benchmarks.evaluate import count_operations
from benchmarks.memory import MIB, snapshot
from benchmarks.step import Step
from core.exits import run
from dataset.lists import open_list
from dataset.loader import TrainBatches, make_loader
from engine.flags import positive
from models import build_backbone

K400 = 240_000  # training videos
BATCH, T, SIZE, WIDTH = 4, 16, 56, 0.25
SAMPLES = 192  # that the loader makes at each point


def flags():
    parser = new_parser("benchmarks/scaling.py", __doc__, videos=True)
    parser.add_argument("--nodes", type=int, default=8, help="plan: machines")
    parser.add_argument("--node_gpus", type=int, default=8, help="plan: GPUs of one")
    parser.add_argument("--node_cores", type=int, default=96, help="plan: cores of one")
    parser.add_argument("--node_disk", type=float, default=2.0, help="plan: GB/s that one reads")
    parser.add_argument("--node_network", type=float, default=200, help="plan: Gbit/s between machines, each way")
    parser.add_argument("--gpu_tflops", type=float, default=60, help="plan: TFLOP/s that a GPU reaches over a whole "
                                                                     "step in bf16, an assumption")
    parser.add_argument("--gpu_batch", type=int, default=16, help="plan: videos of a step on each GPU")
    parser.add_argument("--plot", type=Path, help="file for a picture of the tables")
    return parser


# --- points: each is measured in a fresh process -> (seconds, MiB) ---------------------------------------------

def step(batch=BATCH, frames=T, size=SIZE):
    """A training step."""
    one = Step("r3d", batch, size, precision="fp32", width=WIDTH, seq_len=frames)
    one()
    seconds = []
    with Peak() as peak:
        for _ in range(3):
            start = time.perf_counter()
            one()
            seconds.append(time.perf_counter() - start)
    return float(np.median(seconds)), peak.mib


def step_of_process(rank, world, port, batch):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1",
                      MASTER_PORT=str(port))
    torch.set_num_threads(max(1, torch.get_num_threads() // world))
    return step(batch)


def processes(world, batch=8):
    """A step of the same global batch in `world` processes; memory of all."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with ProcessPoolExecutor(world, get_context("spawn")) as pool:
        found = list(pool.map(step_of_process, range(world), [world] * world, [port] * world, [batch] * world))
    return max(seconds for seconds, _ in found), sum(mib for _, mib in found)


def loader(workers, frames, videos):
    """A sample of the loader with `workers`; memory of all processes together."""
    many = videos.subset(np.arange(SAMPLES) % len(videos))
    batches = TrainBatches(len(many), 8)
    batch = iter(make_loader(data_set(frames, many), batches, workers))
    next(batch)
    start = time.perf_counter()
    for _ in range(len(batches) - 2):
        next(batch)
    seconds = time.perf_counter() - start
    return seconds / 8 / (len(batches) - 2), snapshot()["all", "proportional"] / MIB


def rows(count):
    """Reading a list of `count` videos, and the order of an epoch."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "frames").mkdir()
        (root / "ClassInd.txt").write_text("".join(f"{i + 1} class{i:03d}\n" for i in range(400)))
        with open(root / "train_split01.csv", "w") as file:
            for i in range(count):
                file.write(f"class{i % 400:03d}/video_{i:09d},{60 + i % 240}\n")
        register(root)
        with Peak() as peak:
            start = time.perf_counter()
            videos = open_list("benchmark", "train", 1)
            next(iter(TrainBatches(len(videos), 64)))
            seconds = time.perf_counter() - start
    return seconds, peak.mib


def gallery(size, queries=1000, dim=512):
    """Nearest neighbours; memory beyond the features."""
    torch.manual_seed(0)
    features, query = torch.randn(size, dim), torch.randn(queries, dim)
    labels = torch.arange(size) % 400
    topk_accuracy(query[:64], labels[:64], features[:4096], labels[:4096], (50,))  # what is loaded at first use
    with Peak() as peak:
        start = time.perf_counter()
        topk_accuracy(query, labels[:queries], features, labels, (50,))
        seconds = time.perf_counter() - start
    return seconds, peak.mib


# --- tables --------------------------------------------------------------------------------------------------

def axes(frames, videos):
    """-> {title: (what is varied, its values, point(value))}"""
    most = torch.cuda.device_count() or 4  # a GPU takes one process
    return {
        "Videos of a step": ("videos", [2, 4, 8, 16], lambda n: alone(step, n)),
        "Frames of a clip": ("frames", [8, 16, 32, 64], lambda n: alone(step, BATCH, n)),
        "Side of a clip": ("pixels", [40, 56, 80, 112], lambda n: alone(step, BATCH, T, n)),
        "Processes, the same 8 videos": ("processes", [n for n in (1, 2, 4) if n <= most], processes),
        "Loader, a sample": ("workers", [1, 2, 4, 8], lambda n: alone(loader, n, frames, videos)),
        "Opening a list": ("rows", [10**4, 10**5, 10**6, 10**7], lambda n: alone(rows, n)),
        "1,000 queries in a gallery": ("rows", [10**4, 10**5, 10**6], lambda n: alone(gallery, n))}


def rows_of(values, points):
    """Lines of one axis' table: growth from each value to the next as the power that makes it."""
    lines = []
    for i, (value, (seconds, mib)) in enumerate(zip(values, points, strict=True)):
        powers = ["", ""]
        if i:
            ratio = np.log(value / values[i - 1])
            powers = [f"{np.log(max(now, 1e-9) / max(before, 1e-9)) / ratio:.2f}"
                      for now, before in zip(points[i], points[i - 1], strict=True)]
        lines.append([f"{value:,}", f"{seconds:.3g}", powers[0], f"{mib:,.0f}", powers[1]])
    return lines


def draw(path, found):
    """One panel for each axis: time and memory over what is varied, both logarithmic."""
    import matplotlib
    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    figure, panels = plt.subplots(2, 4, figsize=(15, 7), layout="constrained")
    for panel, (title, (unit, values, points)) in zip(panels.flat, found.items(), strict=False):
        seconds, mib = (np.maximum(column, floor) for column, floor in zip(zip(*points, strict=True), (1e-6, 1),
                                                                         strict=True))
        other = panel.twinx()
        helps = unit in ("processes", "workers")  # to share the same work
        ideal = seconds[0] * (np.array(values) / values[0]) ** (-1 if helps else 1)
        lines = [*panel.plot(values, seconds, "o-", color="#0072b2", label="seconds (left)"),
                 *other.plot(values, mib, "s--", color="#d55e00", label="MiB (right)"),
                 *panel.plot(values, ideal, ":", color="0.5", label="seconds, in proportion or shared ideally")]
        panel.set(title=title, xlabel=unit, xscale="log")
        for axis, color, shown in ((panel, "#0072b2", np.append(seconds, ideal)), (other, "#d55e00", mib)):
            middle, spread = np.sqrt(shown.min() * shown.max()), max(np.sqrt(shown.max() / shown.min()), 3) * 1.3
            axis.set(yscale="log", ylim=(middle / spread, middle * spread))
            axis.yaxis.set_major_locator(LogLocator(10, (1, 2, 5) if spread < 30 else (1,)))
            axis.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
            axis.yaxis.set_minor_locator(LogLocator(10, ()))
            axis.tick_params(axis="y", labelcolor=color)
        panel.set_xticks(values, [f"{value:,}" for value in values] if max(values) < 1000 else
                         [f"10{'⁰¹²³⁴⁵⁶⁷⁸⁹'[int(np.log10(value))]}" for value in values])
        panel.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    panels.flat[-1].axis("off")
    panels.flat[-1].legend(handles=lines, loc="center", frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


# --- the plan ------------------------------------------------------------------------------------------------

def plan(args, sample_seconds, sample_bytes):
    """Rows of the plan: what a network's step needs of a machine, and which of it is short."""
    lines = []
    for net in ("r21d", "r3d", "s3d"):
        with torch.inference_mode():
            backbone = build_backbone(net).eval()
            clip = torch.zeros(1, 3, 16, 112, 112)
            operations = count_operations(backbone, backbone, clip)
        gradient = 4 * sum(p.numel() for p in backbone.parameters())
        # 4 encoded clips a video; a backward pass takes twice the operations of a forward pass
        compute = args.gpu_batch * 4 * 3 * operations / args.gpu_tflops / 1e12
        samples = args.node_gpus * args.gpu_batch  # of a machine's step
        times = {"GPU": compute, "cores": samples * sample_seconds / args.node_cores,
                 "disk": samples * sample_bytes / args.node_disk / 1e9,
                 # all-reduce among machines: each sends and receives the gradient twice but for its own share
                 "network": 2 * gradient * (args.nodes - 1) / args.nodes * 8 / args.node_network / 1e9}
        bound = max(times, key=times.get)
        whole = K400 / (samples * args.nodes) * times[bound] / 3600
        lines.append([net, *(f"{1000 * value:.1f}" for value in times.values()), bound,
                      f"{samples / times[bound]:,.0f}", f"{samples / times[bound] * sample_seconds:.0f}",
                      f"{samples / times[bound] * sample_bytes / 1e6:,.0f}", f"{3600 * whole:.0f}",
                      f"{200 * whole:.1f}"])
    return lines


def main(argv):
    args = flags().parse_args(argv)
    positive(args, "nodes", "node_gpus", "node_cores", "node_disk", "node_network", "gpu_tflops", "gpu_batch")
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        source = choose(args.videos, 12, root / "videos")
        videos = extract(root / "videos", root / "frames", 128)
        for title, (unit, values, point) in axes(root / "frames", videos).items():
            points = []
            for value in values:
                points.append(point(value))
                print(f"{title}: {value:,} {unit}, {points[-1][0]:.3g} s, {points[-1][1]:,.0f} MiB", file=sys.stderr,
                      flush=True)
            found[title] = unit, values, points
        sample_bytes = np.mean([sum(map(len, jpegs)) for _, jpegs in frames_of(root / "frames", videos)])
    sample_seconds = found["Loader, a sample"][2][0][0]
    lines = heading("How time and memory grow", f"{torch.get_num_threads()} threads; videos of {source}")
    lines += ["The power is that of the growth since the line above: 1 is linear. Memory is what the step, the list or "
              "the search adds, that of the loader all of its processes'.", ""]
    for title, (unit, values, points) in found.items():
        lines += [f"## {title}", "", *table([unit, "seconds", "power", "MiB", "power"], rows_of(values, points)), ""]
    gpus = args.nodes * args.node_gpus
    lines += [f"## Simulated plan: Kinetics-400 on {args.nodes} x {args.node_gpus} GPUs", "",
              f"**A simulation, no such machine was at hand.** Measured here: {1000 * sample_seconds:.1f} ms of a "
              f"worker's core a sample and {sample_bytes / 1000:.0f} kB of JPEGs, 128 high; operations and parameters "
              f"of the networks. Assumed: {args.gpu_batch} videos a GPU ({args.gpu_batch * gpus} a step), "
              f"{args.gpu_tflops:g} TFLOP/s reached by each, {args.node_cores} cores like this one's, "
              f"{args.node_disk:g} GB/s from disk and {args.node_network:g} Gbit/s of network a machine; {K400:,} "
              "videos; all of it overlapping, so that the longest decides.", "",
              *table(["network", "GPU, ms a step", "cores", "disk", "network", "bound by", "samples/s a machine",
                      "cores busy", "MB/s from disk", "seconds an epoch", "hours of 200"],
                     plan(args, sample_seconds, sample_bytes)), ""]
    write(args.out, lines)
    if args.plot:
        draw(args.plot, found)


if __name__ == "__main__":
    run(main)

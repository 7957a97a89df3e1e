"""What a run costs before it learns anything: `train.py --dry_run`, and the start of an epoch.

    python benchmarks/start.py --out benchmarks/results/start.md      a minute

The dry run is of the publication's recipe (R(2+1)D, 16 x 112 x 112); the start of an epoch is the time until its first
batch is on the device, in a short run of a thin network with two workers.
"""
import re
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.common import choose, extract, heading, new_parser, run_script, table, write, write_lists
from core.exits import run
from engine.flags import positive

EPOCHS = 4


def flags():
    parser = new_parser("benchmarks/start.py", __doc__, videos=True)
    parser.add_argument("--rounds", type=int, default=3, help="dry runs, after one that is not counted")
    return parser


def train(root, *more):
    """Seconds that train.py takes, and what it prints."""
    start = time.perf_counter()
    text = run_script("train.py", "--dataset", "folder", "--log_dir", root / "log", "--batch_size", 4, "--workers", 2,
                      *more, DUALVAR_DATA=str(root), DUALVAR_LISTS=str(root))
    return time.perf_counter() - start, text


def main(argv):
    args = flags().parse_args(argv)
    positive(args, "rounds")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        source = choose(args.videos, 24, root / "videos")
        videos = extract(root / "videos", root / "folder" / "frames", 128)
        write_lists(root / "folder", videos, "train")
        dry = [train(root, "--dry_run")[0] for _ in range(args.rounds + 1)][1:]
        _, text = train(root, "--net", "r3d", "--width", "0.0625", "--img_dim", "48", "--epochs", str(EPOCHS),
                        "--print_freq", "1", "--mode", "clip")
    waits = [float(x) for x in re.findall(r"^epoch \d+ step 1/.* time/data ([\d.]+)", text, re.MULTILINE)]
    later = [float(x) for x in re.findall(r"^epoch \d+ step [23]/.* time/data ([\d.]+)", text, re.MULTILINE)]
    write(args.out, [*heading("Fixed costs", f"{len(videos)} videos of {source}, 128 high"), *table(
        ["", "seconds", "target"], [
            ["`train.py --dry_run`", f"{np.median(dry):.1f}", "<= 6"],
            ["first epoch's first batch: workers begin", f"{waits[0]:.2f}", ""],
            ["any later epoch's first batch", f"{np.median(waits[1:]):.2f}", "<= 1"],
            ["for comparison, any other batch", f"{np.median(later):.2f}", ""]])])


if __name__ == "__main__":
    run(main)

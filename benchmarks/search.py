"""Exact search in indices of a million and of 100,000 vectors, against the matrix-vector product alone.

    python benchmarks/search.py --out benchmarks/results/search.md      a minute and 2.2 GB of disk

A query of `python -m search` compares one vector with all others, which lie in a file that is mapped into memory, and
takes the best 60. The limit is the product of the same file with a vector. Opening the index is timed too.
"""
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from analysis.index import Index
from benchmarks.common import alternate, heading, new_parser, resident, table, write
from core.errors import UsageError
from core.exits import run
from dataset.by_time import VideoFacts
from engine.flags import positive
from search.library import Library, Query

PIECE = 20_000  # vectors that are written at a time


def flags():
    parser = new_parser("benchmarks/search.py", __doc__)
    parser.add_argument("--vectors", type=int, nargs="+", default=[1_000_000, 100_000], metavar="COUNT")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5, help="repetitions, of which the fastest counts")
    parser.add_argument("--note", action="append", default=[], help="what else is to be known of the measurement")
    return parser


def make(folder, count, dim):
    """An index of random vectors of so many videos with PIECE windows each."""
    rng = np.random.default_rng(0)
    manifest = {"weights": "random", "dim": dim, "windows": {"window": 2.0, "hop": 1.0, "frames": 16},
                "clips": {"resize": [128, 171], "img_dim": 112}, "flags": {}}
    with Index(folder, manifest, ["weights"]) as index:
        for first in range(0, count, PIECE):
            number = min(PIECE, count - first)
            starts = np.arange(number, dtype=float)
            index.append(f"/videos/{first // PIECE}.mp4", VideoFacts("h", 25.0, 0.0, float(number)),
                         np.stack([starts, starts + 2], axis=1), rng.standard_normal((number, dim), np.float32))


def measured(count, dim, rounds):
    """Lines of the report about an index of so many vectors."""
    with tempfile.TemporaryDirectory() as name:
        make(Path(name), count, dim)
        start = time.perf_counter()
        library = Library(Path(name))
        opened = time.perf_counter() - start
        start = time.perf_counter()
        Library(Path(name))
        again = time.perf_counter() - start
        start = time.perf_counter()
        library.map()
        mapped = time.perf_counter() - start
        query = Query(library.of([count // 2]), library.of([]))
        vector = np.ascontiguousarray(query.like[0])
        found = alternate({"product": lambda: library.vectors @ vector,
                           "search": lambda: library.best(library.cosines(query), 60)}, rounds)
    return [f"## {count:,} vectors", "", *table(["", "time", "ratio", "target"], [
        ["matrix-vector product alone", f"{1000 * found['product']:.0f} ms", "1", ""],
        ["a query, the best 60 of all", f"{1000 * found['search']:.0f} ms", f"{found['search'] / found['product']:.2f}",
         "<= 1.2"],
        ["opening the index the first time", f"{opened:.1f} s", "", ""],
        ["opening it again", f"{again:.1f} s", "", ""],
        ["its map, the first time", f"{mapped:.1f} s", "", ""]]), ""]


def main(argv):
    args = flags().parse_args(argv)
    for count in args.vectors:
        if count < 1:
            raise UsageError(f"--vectors {count}: give numbers above 0")
    positive(args, "dim", "rounds")
    parts = [line for count in args.vectors for line in measured(count, args.dim, args.rounds)]
    write(args.out, [*heading("Search in an index", f"Vectors of {args.dim} numbers, float32, mapped into memory and "
                              "in the system's cache", *args.note),
                     *parts, f"Largest resident memory, the mapped file included: {resident('VmHWM'):.0f} MiB."])


if __name__ == "__main__":
    run(main)

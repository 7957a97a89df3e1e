"""Nearest neighbours in a large gallery: time against the bare matrix product, memory beyond the features.

    python benchmarks/retrieval.py --out benchmarks/results/retrieval.md      4 to 6 minutes and 4 GiB on 2 cores

Calls topk_accuracy, as retrieval.py does, on random features, in a process of its own, whose largest resident memory
is read from /proc/self/status (Linux). The bare product is made of the same chunks, into one buffer, and nothing is
done with it: half of it before the search and half after, so that a slow minute of the machine hits both.
"""
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from analysis.nearest import KS, topk_accuracy
from benchmarks.common import MIB, Peak, alone, heading, new_parser, table, write
from core.errors import UsageError
from core.exits import run
from engine.flags import positive

QUERIES, CHUNK = 2048, 4096  # as analysis.nearest's


def flags():
    parser = new_parser("benchmarks/retrieval.py", __doc__)
    parser.add_argument("--gallery", type=int, default=1_000_000, help="rows of the gallery")
    parser.add_argument("--queries", type=int, default=10_000, help="rows that are looked up")
    parser.add_argument("--dim", type=int, default=512, help="length of a feature")
    parser.add_argument("--threads", type=int, help="threads of torch; None: the cores")
    return parser


def product(query, gallery):
    """Seconds of query @ gallery.T in chunks."""
    buffer = query.new_empty(QUERIES * CHUNK)
    start = time.perf_counter()
    for rows in query.split(QUERIES):
        for columns in gallery.split(CHUNK):
            torch.mm(rows, columns.T, out=buffer[:len(rows) * len(columns)].view(len(rows), len(columns)))
    return time.perf_counter() - start


def measure(gallery_size, queries, dim, threads):
    """-> {"product", "search": seconds; "extra", "features": MiB; "accuracy": {k: share}}"""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    gallery, query = torch.randn(gallery_size, dim), torch.randn(queries, dim)
    labels, query_labels = torch.arange(gallery_size) % 400, torch.arange(queries) % 400
    topk_accuracy(query[:64], query_labels[:64], gallery[:8192], labels[:8192], KS)  # what is loaded at first use
    halves = F.normalize(query, dim=1).chunk(2)
    seconds = product(halves[0], gallery)
    with Peak() as peak:
        start = time.perf_counter()
        accuracy = topk_accuracy(query, query_labels, gallery, labels, KS)
        search = time.perf_counter() - start
    return {"product": seconds + product(halves[1], gallery), "search": search, "extra": peak.mib,
            "features": 4 * dim * (gallery_size + queries) / MIB, "accuracy": accuracy}


def main(argv):
    args = flags().parse_args(argv)
    positive(args, "queries", "dim")
    if args.gallery < 8192:
        raise UsageError(f"--gallery {args.gallery}: too small to measure, give 8192 or more")
    threads = args.threads or torch.get_num_threads()
    found = alone(measure, args.gallery, args.queries, args.dim, threads)
    operations = 2 * args.gallery * args.queries * args.dim
    rows = [["bare matrix product", f"{found['product']:.1f}", f"{operations / found['product'] / 1e9:.0f}", "1.00"],
            ["R@1 to R@50 by retrieval.py", f"{found['search']:.1f}", f"{operations / found['search'] / 1e9:.0f}",
             f"{found['search'] / found['product']:.2f}"]]
    write(args.out, [
        *heading("Nearest neighbours", f"{args.gallery:,} x {args.dim} gallery, {args.queries:,} queries, float32, "
                                       f"k = {max(KS)}, {threads} threads"),
        *table(["", "seconds", "GFLOP/s", "ratio"], rows), "",
        f"Target: at most 1.30. Memory beyond the features ({found['features']:,.0f} MiB): "
        f"{found['extra']:,.0f} MiB at most (target: 1,024; the whole matrix of similarities would take "
        f"{4 * args.gallery * args.queries / MIB:,.0f} MiB).",
        "", f"Random features of 400 classes: R@1 {found['accuracy'][1]:.4f}, R@50 {found['accuracy'][50]:.3f}, where "
        f"chance is {1 / 400:.4f} and {1 - (1 - 1 / 400) ** 50:.3f}."])


if __name__ == "__main__":
    run(main)

"""Table of paper_scripts/run/evidence.sh: each mode's measures, mean and deviation over seeds.

    python -m analysis.evidence log/evidence [--out FILE]      Markdown; --out also writes FILE and FILE's .csv
"""
import argparse
import re
from pathlib import Path

import numpy as np
import pandas as pd

from core.errors import UsageError
from core.exits import run
from core.files import read_json, whole_file
from engine.log import log_rows

from .page import markdown

ORDER = ("thumbnail", "random", "clip", "clip-sr", "clip-sr-tc", "tc", "sr-tc", "sr", "clip-tc")
CELL = re.compile(rf"(?P<mode>{'|'.join(ORDER)})_(?P<dataset>.+)_split(?P<split>\d)(?:_seed(?P<seed>\d+))?")
MONITORS = {"variance/between_video": "between videos", "variance/within_video": "within a video",
            "variance/within_clip": "within a clip", "order/shuffled": "order", "effective_rank": "rank",
            "top1_permuted/sr_view1": "SR top-1, permuted"}


def measures(log, name):
    """What there is of a cell -> {column: value}."""
    found = {}
    if (path := log / "retrieval" / name / "results.json").exists():
        found |= {k: v for k, v in read_json(path, "results")["results"].items() if k in ("R@1", "R@5", "R@10")}
    if (path := log / "features" / name / "probe.json").exists():
        found["linear probe"] = float(np.mean(read_json(path, "linear")["linear"]))
    if (path := log / "test" / name / "results.json").exists():
        found["fine-tuned"] = list(read_json(path, "results")["results"].values())[-1]["top1"]
    looked = [row for row in log_rows(log / "pretrain" / name) if "variance/within_video" in row]
    return found | {text: looked[-1][key] for key, text in MONITORS.items() if looked and key in looked[-1]}


def collect(log):
    """-> a row for each cell there is, as a DataFrame."""
    names = sorted({path.name for path in (log / "retrieval").glob("*") if CELL.fullmatch(path.name)})
    return pd.DataFrame([{"name": name, **CELL.fullmatch(name).groupdict(), **measures(log, name)} for name in names])


def summary(cells):
    """Of a data set's and split's cells: a row for each mode, mean and deviation over its seeds -> DataFrame."""
    columns = [name for name in cells.columns if name not in ("name", "mode", "dataset", "split", "seed")
               and cells[name].notna().any()]
    rows = []
    for mode in sorted(cells["mode"].unique(), key=ORDER.index):
        mine = cells[cells["mode"] == mode]
        rows.append({"mode": mode, "seeds": len(mine), **{name: over_seeds(mine[name].dropna()) for name in columns}})
    return pd.DataFrame(rows)


def over_seeds(values):
    """"0.512 ± 0.013" of several seeds, "0.512" of one, "" of none."""
    if values.empty:
        return ""
    return f"{values.mean():.3f}" + (f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else "")


def main(argv):
    parser = argparse.ArgumentParser("python -m analysis.evidence", description=__doc__.splitlines()[0],
                                     allow_abbrev=False)
    parser.add_argument("log", type=Path, help="<log_dir>/evidence")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table there, and all cells to its .csv")
    args = parser.parse_args(argv)
    cells = collect(args.log)
    if cells.empty:
        raise UsageError(f"{args.log} holds no results of paper_scripts/run/evidence.sh yet")
    text = "\n".join(f"{dataset}, split {split}\n\n{markdown(summary(rows))}"
                     for (dataset, split), rows in cells.groupby(["dataset", "split"]))
    print(text)
    if args.out:
        with whole_file(args.out) as path:
            path.write_text(text)
        with whole_file(args.out.with_suffix(".csv")) as path:
            cells.drop(columns="name").to_csv(path, index=False)


if __name__ == "__main__":
    run(main)

"""Table of paper_scripts/run/evidence.sh: each mode's measures, mean and deviation over seeds.

    python paper_scripts/evidence.py log/evidence [--out FILE]      Markdown; --out also writes FILE and FILE's .csv
"""
import argparse
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd

CELL = re.compile(r"(?P<mode>thumbnail|random|[a-z-]+)_(?P<dataset>.+)_split(?P<split>\d)(?:_seed(?P<seed>\d+))?")
ORDER = ("thumbnail", "random", "clip", "clip-sr", "clip-sr-tc", "tc", "sr-tc", "sr", "clip-tc")
MONITORS = {"variance/between_video": "between videos", "variance/within_video": "within a video",
            "variance/within_clip": "within a clip", "order/shuffled": "order", "effective_rank": "rank",
            "top1_permuted/sr_view1": "SR top-1, permuted"}


def measures(log, name):
    """What there is of a cell -> {column: value}."""
    found = {}
    if (path := log / "retrieval" / name / "results.json").exists():
        found |= {k: v for k, v in json.loads(path.read_text())["results"].items() if k in ("R@1", "R@5", "R@10")}
    if (path := log / "features" / name / "probe.json").exists():
        found["linear probe"] = float(np.mean(json.loads(path.read_text())["linear"]))
    if (path := log / "test" / name / "results.json").exists():
        found["fine-tuned"] = list(json.loads(path.read_text())["results"].values())[-1]["top1"]
    if (path := log / "pretrain" / name / "log.jsonl").exists():
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        looked = [row for row in rows if "variance/within_video" in row]
        found |= {text: looked[-1][key] for key, text in MONITORS.items() if looked and key in looked[-1]}
    return found


def collect(log):
    """-> a row for each cell there is, as a DataFrame."""
    names = sorted({path.name for path in (log / "retrieval").glob("*") if CELL.fullmatch(path.name)})
    return pd.DataFrame([{**CELL.fullmatch(name).groupdict(), **measures(log, name)} for name in names])


def table(cells):
    """Markdown lines of each data set and split: a row for each mode."""
    lines = []
    for (dataset, split), rows in cells.groupby(["dataset", "split"]):
        columns = [name for name in rows.columns if name not in ("mode", "dataset", "split", "seed")
                   and rows[name].notna().any()]
        lines += ["", f"{dataset}, split {split}", "", "| mode | seeds | " + " | ".join(columns) + " |",
                  "|---|" + "---:|" * (len(columns) + 1)]
        for mode in sorted(rows["mode"].unique(), key=ORDER.index):
            mine = rows[rows["mode"] == mode]
            cells_of_mode = [mode, str(len(mine)), *(shown(mine[name].dropna()) for name in columns)]
            lines.append(f"| {' | '.join(cells_of_mode)} |")
    return lines[1:]


def shown(values):
    """"0.512 +- 0.013" of several seeds, "0.512" of one, "" of none."""
    if values.empty:
        return ""
    return f"{values.mean():.3f}" + (f" +- {values.std(ddof=1):.3f}" if len(values) > 1 else "")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("log", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    cells = collect(args.log)
    if cells.empty:
        parser.error(f"{args.log} holds no results of paper_scripts/run/evidence.sh yet")
    text = "\n".join(table(cells)) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text)
        cells.to_csv(args.out.with_suffix(".csv"), index=False)


if __name__ == "__main__":
    main()

"""One page about what a folder of runs holds: results, the paper's beside them, curves, pictures, flags.

    python -m analysis.report log/dualvar --experiment demo
    python -m analysis.report log/evidence --dataset ucf101-5class

Writes <log>/report/<experiment, data set or all>/: index.html, which needs no other file and no network; tables/ with
each table as Markdown, LaTeX and CSV; pictures/ as PNG, PDF and SVG. What is not there is said on the page.
"""
import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from core.errors import UsageError
from core.exits import run
from core.parser import new_parser

from . import evidence, figures, paper
from .modes import unknown_modes
from .page import Page
from .report_pictures import draw_pictures, pictures_to_draw
from .report_tables import by_stage, comparison_table, data_table, not_run, results_table, runs_table
from .runs import APART, Run, Runs, all_runs, find_runs
from .temporal_output import draw, joined, read_results, tables


def flags() -> argparse.ArgumentParser:
    parser = new_parser("python -m analysis.report", __doc__)
    parser.add_argument("log", type=Path, help="folder of runs: <log_dir>/<prefix>")
    parser.add_argument("--experiment", help="only what is called so, or so and _ and more")
    parser.add_argument("--dataset", help="only what was tested, or trained, on this data set")
    parser.add_argument("--planned", nargs="*", default=[], metavar="STAGE/NAME",
                        help="what there should be: what is not there is said")
    parser.add_argument("--no_frames", action="store_true",
                        help="leave out pictures that show frames of videos, as where these may not be published")
    parser.add_argument("--dry_run", action="store_true", help="say what would be in it, write nothing")
    parser.add_argument("--out", type=Path, help="folder; default: <log>/report/<experiment, data set or all>")
    return parser


# --- sections of the page ------------------------------------------------------------------------------------

def write_head(page: Page, runs: Sequence[Run], log: Path) -> None:
    versions = sorted({f"torch {own.facts['torch']}, OpenCV {own.facts['opencv']}, Python {own.facts['python']}, "
                       f"commit {own.facts['commit']}" for own in runs})
    page.text(f"Made {time.strftime('%Y-%m-%d %H:%M')} from {log}. {'; '.join(versions)}.", quiet=True)


def write_results(page: Page, found: Runs, cells: pd.DataFrame) -> None:
    """cells: the rows of evidence.collect that are of these runs."""
    page.section("Results")
    for (dataset, split), rows in cells.groupby(["dataset", "split"]) if len(cells) else ():
        for of_time, name in ((False, "evidence"), (True, "time")):
            if (table := evidence.summary(rows, of_time)).shape[1] > 2:
                apart = any(column.endswith(APART) for column in table.columns)
                page.table(f"{name}_{dataset}_split{split}", table,
                           f"{dataset}, split {split}: means over the seeds of training, ± their standard deviation."
                           + " Apart: without training videos of recordings that the test list has." * apart)
            if len(table := evidence.differences(rows, "clip", of_time)):
                page.table(f"{name}_{dataset}_split{split}_differences", table, "Differences from clip, paired by "
                           "seed, with the 95 % interval over seeds (Student's t).")
    if unknown := unknown_modes(result.name for result in found["retrieval"]):
        page.items(unknown)
    table = results_table(found)
    if len(table):
        page.table("results", table, "Every result there is. R@k, top-k: shares of the test videos. Linear probe of "
                   "features: mean and deviation over draws of held-out recordings, the features being the same.")
    else:
        page.text("No retrieval and no test yet.")


def write_time(page: Page, log: Path, dataset: str | None, experiment: str | None) -> None:
    """What analysis.temporal measured; no section where it did not."""
    found = {path.parent.name: read_results(path) for path in sorted((log / "temporal").glob("*/results.json"))}
    found = {name: own for name, own in found.items() if dataset in (None, own["flags"]["dataset"])
             and (experiment is None or name == experiment or name.startswith(f"{experiment}_"))}
    if not found:
        return
    page.section("Time")
    page.text("What frozen features know of time, by python -m analysis.temporal; docs/temporal.md says what each task "
              "can show.")
    for number, results in enumerate(joined(found)):
        flags, name = results["flags"], f"time_{number}"
        page.text(f"{flags['dataset']}, split {flags['split']}: clips of {flags['seq_len']} frames of "
                  f"{flags['img_dim']} px.")
        picture, *_ = figures.save(draw(results), page.folder / "pictures" / name)
        page.picture(picture, "Linear probes of each task, with intervals of 95 %; floors as ticks.",
                     "python -m analysis.temporal, with the flags in results.json")
        for kind, table, caption in tables(results):
            page.table(f"{name}_{kind}", table, caption)


def write_comparison(page: Page, found: Runs) -> None:
    page.section("Beside the paper")
    page.text("The paper's figures are its own, not measured here. What differs in protocol stands beside them; where "
              "the data set differs, the two numbers are not comparable.")
    table, common = comparison_table(found)
    if len(table):
        page.table("beside_the_paper", table, "Per cent; of runs that differ in the seed alone, the first.")
        for stage, texts in common.items():
            page.text(f"Ours for the paper's, in every {stage}: {by_stage(texts) or 'no flag differs'}.")
    columns = ["method", "pretrained on", "UCF101", "HMDB51"]
    finetuned = pd.DataFrame(paper.FINETUNED, columns=columns).astype({"UCF101": str, "HMDB51": str})
    page.table("paper_finetuned", finetuned,
               "The paper's table of fine-tuned accuracy, split 1, per cent.")
    searched = [{"method": method, **{f"R@{k}": str(value) for k, value in row.items()}}
                for method, row in paper.RETRIEVAL.items()]
    page.table("paper_retrieval", pd.DataFrame(searched),
               "The paper's table of retrieval on UCF101, per cent; its abstract says 46.1 for DualVar's R@1.")


def write_runs(page: Page, found: Runs) -> None:
    page.section("Runs")
    table = runs_table(found)
    if len(table):
        page.table("runs", table, "Training runs; lr is the highest; training: steps times their mean duration.")
    page.section("Data")
    table, missing = data_table(found)
    if len(table):
        page.table("data", table, "Lists as they are now.")
    page.items(missing)


def write_flags(page: Page, runs: Sequence[Run]) -> None:
    page.section("Flags")
    for own in runs:
        page.folded(f"{own.stage}/{own.name}", "\n".join(f"--{k} {v}" for k, v in sorted(own.flags.items())))


def main(argv: Sequence[str]) -> None:
    args = flags().parse_args(argv)
    found = find_runs(args.log, args.experiment, args.dataset)
    runs = all_runs(found)
    if not runs:
        raise UsageError(f"{args.log} holds no runs" + (f" of {args.experiment}" if args.experiment else "")
                         + (f" on {args.dataset}" if args.dataset else "")
                         + ": name <log_dir>/<prefix>, or run a stage first")
    pictures = list(pictures_to_draw(found, sorted({own.dataset for own in runs})))
    left_out = [picture.name for picture in pictures if args.no_frames and picture.shows_frames]
    pictures = [picture for picture in pictures if picture.name not in left_out]
    if args.dry_run:
        print("Report of " + ", ".join(f"{own.stage}/{own.name}" for own in runs))
        print("pictures: " + ", ".join(picture.name for picture in pictures))
        return
    name = args.experiment or args.dataset or "all"
    page = Page(f"DualVar: {name}", args.out or args.log / "report" / name)
    write_head(page, runs, args.log)
    write_results(page, found, evidence.collect(args.log, {result.name for result in found["retrieval"]}))
    write_time(page, args.log, args.dataset, args.experiment)
    write_comparison(page, found)
    page.section("Pictures")
    if left_out:
        page.text(f"Left out, as they show frames of videos (--no_frames): {', '.join(left_out)}.")
    failed = draw_pictures(page, pictures)
    write_runs(page, found)
    page.section("Not run")
    page.items(not_run(found, args.planned) + failed)
    write_flags(page, runs)
    for sentence in failed:
        print(f"note: {sentence}")
    print(f"report: {page.write()}")


if __name__ == "__main__":
    run(main)

"""Table of what an experiment's stages measured, from their results.json.

    python -m analysis.summary log/dualvar demo
"""
import glob
from collections.abc import Iterator
from pathlib import Path

from core.errors import UsageError
from core.exits import run
from core.names import name_fault
from core.parser import new_parser

from .runs import Run

Row = tuple[str, str, int, dict[str, float], int]  # stage, data set, videos tested, {measure: value}, classes


def retrieval_rows(log: Path, experiment: str) -> Iterator[Row]:
    """Of the floors first: mean pictures and random weights."""
    experiment = glob.escape(experiment)
    for name in (f"{experiment}_thumbnail", f"{experiment}_random", f"{experiment}_clip", experiment,
                 f"{experiment}_split*"):
        for path in sorted((log / "retrieval").glob(f"{name}/results.json")):
            found = Run(path, "retrieval").facts
            weights = {"thumbnail": "mean pictures", "random": "random weights"}.get(
                found["flags"]["pretrain"], f"pretrained{mode_of(log, path.parent.name)}")
            measures = {k: found["results"][k] for k in ("R@1", "R@5") if k in found["results"]}
            yield f"retrieval, {weights}", found["flags"]["dataset"], found["queries"], measures, found["classes"]


def mode_of(log: Path, name: str) -> str:
    """" clip-sr-tc" of a pretraining run that is in the same folder of runs, else ""."""
    path = log / "pretrain" / name / "flags.json"
    return f" {Run(path, 'pretrain').flags['mode']}" if path.is_file() else ""


def test_rows(log: Path, experiment: str) -> Iterator[Row]:
    for label, stage in (("linear probe", "last"), ("fine-tuned", "ft")):
        for path in sorted((log / "test").glob(f"{glob.escape(experiment)}_{stage}_on_*/results.json")):
            found = Run(path, "test").facts
            last = list(found["results"].values())[-1]
            yield (f"{label}, {found['flags']['clips']}-clip test", found["flags"]["dataset"], int(last["videos"]),
                   {"top-1": last["top1"], "top-5": last["top5"]}, found["classes"])


def main(argv: list[str]) -> None:
    parser = new_parser("python -m analysis.summary", __doc__, defaults=False)
    parser.add_argument("log", type=Path, help="folder of runs: <log_dir>/<prefix>")
    parser.add_argument("experiment", help="name of the experiment")
    args = parser.parse_args(argv)
    if wrong := name_fault(args.experiment):
        raise UsageError(f"experiment {args.experiment!a} is no name: {wrong}")
    rows = [*retrieval_rows(args.log, args.experiment), *test_rows(args.log, args.experiment)]
    if not rows:
        raise UsageError(f"{args.log} holds no results of {args.experiment}: name <log_dir>/<prefix> and an experiment "
                         "that was measured")
    print(f"\n{'':<33} {'data set':<14} {'videos':>6}  {'chance':>6}")
    for label, dataset, videos, measures, classes in rows:
        values = "   ".join(f"{name} {value:.3f}" for name, value in measures.items())
        print(f"{label:<33} {dataset:<14} {videos:>6}  {1 / classes:>6.3f}   {values}")


if __name__ == "__main__":
    run(main)

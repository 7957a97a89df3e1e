"""Pictures of tests and of training runs: confusion matrix, accuracy of each class, curves over epochs."""
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from core.errors import DataError
from engine.log import log_rows
from models.dualvar import TERMS

from . import figures

SEED = re.compile(r"_seed\d+$")


def without_seed(name: str) -> str:
    """Name of a run without the seed at its end: what runs that differ in the seed alone share."""
    return SEED.sub("", name)


def default_measures() -> list[str]:
    """Measures of log.jsonl that curves show: each term's first loss, accuracies, and what features keep."""
    losses = [f"loss/{term.names[0]}" for term in TERMS.values()]
    permuted = [f"top1_permuted/{term.names[0]}" for term in TERMS.values() if term.shuffles]
    return [*losses, "loss", "retrieval/R@1", "top1", *permuted, "ratio/within_video", "ratio/within_clip",
            "effective_rank"]


def confusion(folder: Path) -> Figure:
    """Confusion matrix of a test."""
    table = read_table(split_folder(folder) / "confusion.csv")
    if len(table) != len(table.columns):
        raise DataError(f"--test: {folder}: confusion.csv is not square: test again")
    counts = table.to_numpy()
    return figures.confusion(counts / counts.sum(axis=1, keepdims=True).clip(1), table.columns)


def classes(tests: Mapping[str, Path]) -> Figure:
    """Accuracy of each class in one test or several, in the order in which the first differs from the last.

    tests: {title: folder of a test, or of one of its splits}
    """
    tables = {title: read_table(split_folder(folder) / "classes.csv", "accuracy")["accuracy"]
              for title, folder in tests.items()}
    first = next(iter(tables.values()))
    for title, table in tables.items():
        if not table.index.equals(first.index):
            raise DataError(f"--test: {title} has other classes than {next(iter(tables))}")
    return figures.class_bars(first.index.to_numpy(), {title: table.to_numpy() for title, table in tables.items()})


def curves(runs: Mapping[str, Path], measures: Sequence[str] | None = None) -> Figure:
    """Losses, R@1 and other measures of several runs over their epochs; runs called ..._seed<N> look the same.

    runs: {title: folder of a training run}; measures: of log.jsonl, None: those of default_measures that it has
    """
    logs = [(without_seed(title), read_log(folder)) for title, folder in runs.items()]
    known = {name for _, rows in logs for row in rows for name in row}
    shown = measures or [name for name in default_measures() if name in known]
    missing = [name for name in shown if name not in known]
    if missing or not shown:
        raise DataError(f"--measures {' '.join(missing or default_measures())}: in none of the logs; there are "
                        f"{', '.join(sorted(known))}")
    return figures.curves({measure: [
        (title, *np.array([(row["epoch"] + 1, row[measure]) for row in rows if measure in row]).T)
        for title, rows in logs if any(measure in row for row in rows)] for measure in shown})


def read_table(path: Path, *columns: str) -> pd.DataFrame:
    """A CSV file of test.py -> DataFrame of numbers, its first column as index; DataError where it is damaged."""
    try:
        table = pd.read_csv(path, index_col=0).astype(float)
        if missing := [name for name in columns if name not in table]:
            raise ValueError(f"no column {', '.join(missing)}")
        if table.empty:
            raise ValueError("no rows")
    except (ValueError, TypeError) as error:
        raise DataError(f"--test: {path} is damaged ({str(error).strip()}): test again") from error
    return table


def read_log(folder: Path) -> list[dict[str, float]]:
    """Rows of a run's log.jsonl, at least one; DataError where there is none."""
    if not (folder / "log.jsonl").is_file():
        raise DataError(f"--runs: {folder / 'log.jsonl'} does not exist: name folders of train.py's or finetune.py's "
                        "runs")
    rows = log_rows(folder)
    if not rows:
        raise DataError(f"--runs: {folder / 'log.jsonl'} has no epoch yet")
    return rows


def split_folder(folder: Path) -> Path:
    """The folder of a test's first split, or the folder itself where it is one."""
    found = next((path for path in (folder, *sorted(folder.glob("split*"))) if (path / "classes.csv").is_file()), None)
    if found is None:
        raise DataError(f"--test: {folder} holds no results of test.py")
    return found

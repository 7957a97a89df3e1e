"""Pictures of tests and of training runs: confusion matrix, accuracy of each class, curves over epochs."""
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from core.errors import DataError
from core.inputs import csv_rows, read_text
from core.names import text_of_cell
from engine.log import log_rows
from models.dualvar import TERMS

from . import figures
from .modes import without_seed

NUMBER = re.compile(r"([0-9]{1,15}(\.[0-9]{1,20})?(e-[0-9]{1,2})?)?")  # of videos, a share of them, or nothing


def default_measures() -> list[str]:
    """Measures of log.jsonl that curves show: each term's first loss, accuracies, and what features keep."""
    losses = [f"loss/{term.names[0]}" for term in TERMS.values()]
    permuted = [f"top1_permuted/{term.names[0]}" for term in TERMS.values() if term.shuffles]
    return [*losses, "loss", "retrieval/R@1", "recording/R@1", "top1", *permuted, "ratio/within_video",
            "ratio/within_clip", "effective_rank"]


def confusion(folder: Path) -> Figure:
    """Confusion matrix of a test."""
    path = split_folder(folder) / "confusion.csv"
    columns, names, counts = read_numbers(path)
    if columns != names:
        raise DataError(f"--test: {path} is damaged (its rows are not of the classes of its columns): test again")
    return figures.confusion(counts / counts.sum(axis=1, keepdims=True).clip(1), names)


def classes(tests: Mapping[str, Path]) -> Figure:
    """Accuracy of each class in one test or several, in the order in which the first differs from the last.

    tests: {title: folder of a test, or of one of its splits}
    """
    accuracies, of_first = {}, None
    for title, folder in tests.items():
        path = split_folder(folder) / "classes.csv"
        columns, names, values = read_numbers(path)
        own = values[:, columns.index("accuracy")] if "accuracy" in columns else None
        if own is None or np.nanmax(own, initial=0) > 1:
            raise DataError(f"--test: {path} is damaged (no shares of videos in a column accuracy): test again")
        if names != (of_first := of_first or names):
            raise DataError(f"--test: {title} has other classes than {next(iter(tests))}")
        accuracies[title] = own
    return figures.class_bars(np.array(of_first), accuracies)


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


def read_numbers(path: Path) -> tuple[list[str], list[str], np.ndarray]:
    """A CSV file of test.py, its first column of names -> (its other columns (C,), names (N,), numbers (N, C) float64).

    An empty field is nan. Raises DataError where it is damaged.
    """
    again = "test again"
    try:
        rows = list(csv_rows(read_text(path, again), path, again))
        found = []
        for number, fields in rows[1:]:
            if len(fields) != len(rows[0][1]) or not all(NUMBER.fullmatch(field) for field in fields[1:]):
                raise DataError(f"{path} row {number} is damaged (not a name and {len(rows[0][1]) - 1} numbers): "
                                f"{again}")
            found.append([float(field or "nan") for field in fields[1:]])
        if not found or not found[0]:
            raise DataError(f"{path} is damaged (no numbers): {again}")
    except DataError as error:
        raise DataError(f"--test: {error}") from error
    return ([text_of_cell(field) for field in rows[0][1][1:]], [text_of_cell(fields[0]) for _, fields in rows[1:]],
            np.array(found))


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

"""Labels that are given to windows by hand, and what a linear probe makes of them."""
import threading

import numpy as np

from core.errors import DataError
from core.files import csv_lines, write_text
from core.inputs import read_table

from .library import Library

LABELS = "labels.csv"
COLUMNS = ("file", "hash", "start", "end", "label")
HINT = "remove it, or mend it"
STRENGTH = 1.0  # C of the logistic regression, on unit vectors times sqrt(D)
PARTS = 10  # of the files, for the accuracy
LONGEST = 60  # characters of a label


class Labels:
    """Labels of segments, kept in labels.csv of the index: {position: label}. Safe for several threads.

    A label belongs to the content of a file: copies have the same ones, and so has a file with another name.
    """

    def __init__(self, library: Library) -> None:
        self.path, self.library, self.lock = library.folder / LABELS, library, threading.Lock()
        self.of: dict[int, str] = {}
        self.others: list[list[str]] = []  # of contents that are not in the index any more
        names, content = np.unique(library.hashes, return_inverse=True)
        self.content = content[library.file]
        order = np.argsort(self.content, kind="stable")
        parts = np.split(order, np.searchsorted(self.content[order], np.arange(1, len(names))))
        self.places = dict(zip(names.tolist(), parts, strict=True))
        self.windows: dict[str, dict[tuple[str, str], list[int]]] = {}  # of the contents that were asked for
        for row in read_table(self.path, COLUMNS, HINT) if self.path.exists() else ():
            if same := self._same(row["hash"], row["start"], row["end"]):
                self.of.update(dict.fromkeys(same, row["label"]))
            else:
                self.others.append(list(row.values()))

    def _content(self, place: int) -> tuple[str, str, str]:
        """Hash of a segment's file, its start and its end, as they stand in the table."""
        library = self.library
        return library.hashes[library.file[place]], f"{library.start[place]:.3f}", f"{library.end[place]:.3f}"

    def _same(self, content: str, start: str, end: str) -> list[int]:
        """Segments of that content and these times, one in each copy of the file."""
        if content not in self.windows:
            found = self.windows[content] = dict[tuple[str, str], list[int]]()
            for place in self.places[content].tolist() if content in self.places else ():
                found.setdefault(self._content(place)[1:], []).append(place)
        return self.windows[content].get((start, end), [])

    def set(self, places: list[int], label: str) -> list[int]:
        """Give segments a label, or none by "" -> these and the same ones in copies of their files. The file is written
        whole, or nothing changes.
        """
        label, library = " ".join(label.split())[:LONGEST], self.library
        with self.lock:
            same = sorted({one for place in places for one in self._same(*self._content(place))})
            new = {**self.of, **dict.fromkeys(same, label)}
            new = {place: own for place, own in new.items() if own}
            rows = [(library.files[library.file[place]], *self._content(place), own)
                    for place, own in sorted(new.items())]
            write_text(self.path, csv_lines([COLUMNS, *self.others, *rows]))
            self.of = new
        return same

    def guesses(self) -> tuple[list[str], np.ndarray, float | None]:
        """A linear probe of the labels -> (labels, probability of each for every segment (N, L), accuracy on files
        whose content it was not trained on, None where the labels are of too few files).

        Raises DataError where there are fewer than two labels.
        """
        from sklearn.linear_model import LogisticRegression
        own = self.of  # which `set` replaces, and does not change
        names = sorted(set(own.values()))
        if len(names) < 2:
            raise DataError("a probe needs windows with two labels or more: give them by the keys 1 to 9")
        library = self.library
        places = np.array(sorted(own))
        units = library.unit(library.of(places))
        truth = np.array([names.index(own[place]) for place in places.tolist()])
        scale = units.shape[1] ** 0.5

        def fit(chosen: np.ndarray) -> LogisticRegression:
            return LogisticRegression(C=STRENGTH, max_iter=1000).fit(units[chosen] * scale, truth[chosen])

        files, right, asked = self.content[places], 0, 0
        parts = np.array_split(np.random.default_rng(0).permutation(np.unique(files)), PARTS)
        for part in parts if len(np.unique(files)) > 1 else ():  # leave a tenth of the files out
            out = np.isin(files, part)
            if out.any() and len(np.unique(truth[~out])) == len(names):
                right += int((fit(~out).predict(units[out] * scale) == truth[out]).sum())
                asked += int(out.sum())
        probe = fit(np.ones(len(places), bool))
        weights, bias = probe.coef_.astype(np.float32), probe.intercept_.astype(np.float32)
        found = np.empty((len(library), len(names)), np.float32)
        for first in range(0, len(library), 2**14):
            part = np.arange(first, min(first + 2**14, len(library)))
            scores = library.unit(library.of(part)) * scale @ weights.T + bias
            if len(names) == 2:
                scores = np.concatenate([np.zeros_like(scores), scores], axis=1)
            scores = np.exp(scores - scores.max(axis=1, keepdims=True))
            found[part] = scores / scores.sum(axis=1, keepdims=True)
        return names, found, right / asked if asked else None

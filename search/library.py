"""An index as it is looked through: its segments, exact search among their vectors, a map, near-duplicates."""
import os
import threading
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from analysis.index import AGAIN, SEGMENTS, VECTORS, read_files, read_manifest, segments_of
from core.errors import DataError
from core.files import whole_file
from core.inputs import map_npy, read_npz
from dataset.by_time import VideoFacts
from dataset.unlisted import Known

BLOCK = 2**16  # vectors that are read at a time
TINY = 1e-12
MOST_POINTS = 50_000  # of the map
MOST_PAIRS = 5_000_000  # that are near-duplicates
MOST_ALL_PAIRS = 60_000  # vectors among which all pairs are compared
OWN = ".search"  # folder in the index for what is made to look through it


class Query(NamedTuple):
    """What windows are to be like: vectors (P, D), less like others (M, D)."""

    like: np.ndarray
    unlike: np.ndarray


class Library:
    """An index in a folder, as it was when it was opened.

    Attributes: `files`: paths; `hashes`: of their contents, as they were embedded; `file`: (N,) number of each
    segment's file; `start`, `end`: (N,) seconds; `row`: (N,) of the vectors; `known`: {path: Known}. Positions count
    the segments from 0. own: folder for what is made to look through it; None: one in the index. Raises DataError where
    it is damaged, or holds nothing.
    """

    def __init__(self, folder: Path, own: Path | None = None) -> None:
        self.folder, self.manifest = Path(os.path.abspath(folder)), read_manifest(folder)
        self.own = self.folder / OWN if own is None else own
        self.stamp = (folder / SEGMENTS).stat().st_mtime_ns if (folder / SEGMENTS).exists() else 0
        numbers: dict[str, int] = {}
        self.hashes: list[str] = []
        rows, files, starts, ends = array("q"), array("l"), array("d"), array("d")
        for segment in segments_of(folder):
            rows.append(segment.row)
            files.append(numbers.setdefault(segment.file, len(numbers)))
            if files[-1] == len(self.hashes):
                self.hashes.append(segment.hash)
            starts.append(segment.start)
            ends.append(segment.end)
        if not rows:
            raise DataError(f"{folder} holds no windows: embed.py writes them")
        self.files = list(numbers)
        self.row, self.file = np.array(rows), np.array(files)
        self.start, self.end = np.array(starts), np.array(ends)
        self.known: dict[str, Known] = read_files(folder)
        self.vectors, self.lock = map_npy(folder / VECTORS, AGAIN), threading.Lock()
        there = int(np.searchsorted(self.row, len(self.vectors)))  # embed.py may be writing the next ones
        self.row, self.file, self.start, self.end = (x[:there] for x in (self.row, self.file, self.start, self.end))
        if not there:
            raise DataError(f"{folder / VECTORS} has no vectors of the windows in {SEGMENTS}")
        self.mean, self.norm = self._statistics()

    def __len__(self) -> int:
        return len(self.row)

    def known_of(self, place: int) -> Known | None:
        """What is known of a segment's file; None: that is of another content by now."""
        number = self.file[place]
        known = self.known.get(self.files[number])
        return known if known and known.facts.hash == self.hashes[number] else None

    def facts(self, place: int) -> VideoFacts | None:
        known = self.known_of(place)
        return known.facts if known else None

    def _statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """-> (mean of the vectors (D,), length of each without it (rows,)), kept beside the index"""
        place = self.own / "norms.npz"
        stamp = np.array([self.stamp, len(self.vectors)])
        try:
            kept = read_npz(place, {"mean": ("f4", 1), "norm": ("f4", 1), "stamp": ("i8", 1)})
            if np.array_equal(kept["stamp"], stamp) and len(kept["mean"]) == self.vectors.shape[1]:
                return kept["mean"], kept["norm"]
        except DataError:  # not there, or of another index
            pass
        total = np.zeros(self.vectors.shape[1])
        for first in range(0, len(self), BLOCK):  # rows of former contents of files have no segment
            total += self.vectors[self.row[first:first + BLOCK]].sum(axis=0, dtype=np.float64)
        mean = (total / len(self)).astype(np.float32)
        norm = np.empty(len(self.vectors), np.float32)
        for first, block in self._blocks():
            norm[first:first + len(block)] = np.sqrt(np.square(block - mean).sum(axis=1))
        if not np.isfinite(norm).all():
            raise DataError(f"{self.folder / VECTORS} holds values that are not finite: {AGAIN}")
        norm = np.maximum(norm, TINY)
        self._keep(place, mean=mean, norm=norm, stamp=stamp)
        return mean, norm

    def _keep(self, place: Path, **arrays: np.ndarray) -> None:
        """Keep arrays beside the index, where that can be written to."""
        try:
            self.own.mkdir(exist_ok=True)
            with whole_file(place) as temporary, open(temporary, "wb") as file:
                np.savez(file, **arrays)
        except OSError as error:
            print(f"note: {self.own} cannot be written ({error.strerror}): what is made is not kept")

    def _blocks(self):
        for first in range(0, len(self.vectors), BLOCK):
            yield first, np.asarray(self.vectors[first:first + BLOCK])

    def unit(self, vectors: np.ndarray) -> np.ndarray:
        """(P, D) as they are -> centred, of unit length."""
        centred = vectors.astype(np.float32) - self.mean
        return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), TINY)

    def of(self, positions: Sequence[int]) -> np.ndarray:
        """Vectors of segments (P, D)."""
        return np.asarray(self.vectors[self.row[list(positions)]], np.float32)

    def cosines(self, query: Query) -> np.ndarray:
        """Cosine of every segment to the mean of what it is to be like, less the mean of what it is not, (N,)."""
        wanted = self.unit(query.like).mean(axis=0)
        if len(query.unlike):
            wanted = wanted - self.unit(query.unlike).mean(axis=0)
        wanted = wanted / max(float(np.linalg.norm(wanted)), TINY)
        scores = np.empty(len(self.vectors), np.float32)
        for first in range(0, len(self.vectors), BLOCK):
            np.dot(self.vectors[first:first + BLOCK], wanted, out=scores[first:first + BLOCK])
        scores -= float(self.mean @ wanted)
        scores /= self.norm
        return scores[self.row] if len(self.row) < len(scores) else scores

    def best_of_files(self, scores: np.ndarray, allowed: np.ndarray | None = None) -> np.ndarray:
        """(N,) bool: the segment with the highest score of each file, among those allowed."""
        values = scores if allowed is None else np.where(allowed, scores, -np.inf)
        order = np.lexsort((-values, self.file))  # stable: of equal ones the first
        first = np.flatnonzero(np.diff(self.file[order], prepend=-1))
        chosen = np.zeros(len(self), bool)
        chosen[order[first]] = True
        return chosen if allowed is None else chosen & allowed

    def best(self, scores: np.ndarray, count: int, allowed: np.ndarray | None = None) -> np.ndarray:
        """Positions of the highest scores among those allowed, best first, of equal ones the lower."""
        places = np.flatnonzero(allowed) if allowed is not None else None
        values = scores if places is None else scores[places]
        count = min(count, len(values))
        if count < len(values):
            edge = np.partition(values, len(values) - count)[len(values) - count]
            chosen = np.flatnonzero(values >= edge)
        else:
            chosen = np.arange(len(values))
        chosen = chosen[np.argsort(-values[chosen], kind="stable")][:count]
        return chosen if places is None else places[chosen]

    def allowed(self, folder: str = "", after: float = 0, before: float = np.inf) -> np.ndarray | None:
        """(N,) bool: segments of files below a folder, within seconds of their files; None: all."""
        if not folder and after <= 0 and before == np.inf:
            return None
        inside = np.array([path == folder or path.startswith(os.path.join(folder, "")) for path in self.files])
        chosen = inside[self.file] if folder else np.ones(len(self), bool)
        return chosen & (self.end > after) & (self.start < before)

    def folders(self) -> list[tuple[str, int]]:
        """(folder, segments in it and below), all that hold files, sorted"""
        counts: dict[str, int] = {}
        for path, count in zip(self.files, np.bincount(self.file, minlength=len(self.files)).tolist(), strict=True):
            while (parent := os.path.dirname(path)) != path and parent != "/":
                counts[parent] = counts.get(parent, 0) + count
                path = parent
        return sorted(counts.items())

    def map(self) -> tuple[np.ndarray, np.ndarray]:
        """-> (positions of the segments that are shown, (P,); where they lie, (P, 2) in 0..1). Kept beside the index.

        Principal components; of more segments than MOST_POINTS every n-th.
        """
        with self.lock:
            return self._map()

    def _map(self) -> tuple[np.ndarray, np.ndarray]:
        shown = np.unique(np.linspace(0, len(self) - 1, min(len(self), MOST_POINTS)).round().astype(int))
        place, stamp = self.own / "map.npz", np.array([self.stamp, len(self)])
        try:
            kept = read_npz(place, {"points": ("f4", 2), "stamp": ("i8", 1)})
            if np.array_equal(kept["stamp"], stamp) and kept["points"].shape == (len(shown), 2):
                return shown, kept["points"]
        except DataError:  # not there, or of another index
            pass
        vectors = self.unit(self.of(shown))
        _, basis = np.linalg.eigh(np.cov(vectors.T)) if len(shown) > 2 else (0, np.eye(vectors.shape[1]))
        points = vectors @ basis[:, -2:][:, ::-1].astype(np.float32)
        low, high = np.quantile(points, (0.001, 0.999), axis=0)
        points = np.clip((points - low) / np.maximum(high - low, TINY), 0, 1).astype(np.float32)
        self._keep(place, points=points, stamp=stamp)
        return shown, points

    def duplicates(self, least: float, allowed: np.ndarray | None = None) -> list[list[int]]:
        """Groups of segments that are like each other by a cosine of `least` or more and do not overlap in a file.

        Raises DataError where there are too many to compare all pairs.
        """
        places = np.arange(len(self)) if allowed is None else np.flatnonzero(allowed)
        if len(places) > MOST_ALL_PAIRS:
            raise DataError(f"{len(places)} windows are too many to compare all pairs: choose a folder with "
                            f"{MOST_ALL_PAIRS} or fewer")
        if not len(places):
            return []
        from scipy.sparse import coo_matrix
        from scipy.sparse.csgraph import connected_components
        too_many = DataError(f"more than {MOST_PAIRS:,} pairs are as similar as that, as where a camera stands still: "
                             "choose a folder")
        units, pairs, found = self.unit(self.of(places)), [], 0
        for first in range(0, len(places), 512):
            alike = units[first:first + 512] @ units[first:].T >= least
            if np.count_nonzero(alike) > 2 * MOST_PAIRS:  # half of them may be of overlapping windows
                raise too_many
            one, other = np.nonzero(alike)
            one, other = places[one + first], places[other + first]
            apart = (self.file[one] != self.file[other]) | (self.end[one] <= self.start[other]) | (
                self.end[other] <= self.start[one])
            apart &= one < other
            pairs.append(np.stack([one[apart], other[apart]]))
            found += int(apart.sum())
            if found > MOST_PAIRS:
                raise too_many
        one, other = np.concatenate(pairs, axis=1)
        _, root = connected_components(coo_matrix((np.ones(len(one), bool), (one, other)), (len(self), len(self))))
        groups: dict[int, list[int]] = {}
        for place in np.unique([one, other]).tolist():
            groups.setdefault(int(root[place]), []).append(place)
        return sorted((group for group in groups.values() if len(group) > 1), key=len, reverse=True)

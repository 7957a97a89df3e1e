"""Modes by name: how they are ordered in tables, and which result folders are cells of the table by mode.

A mode is made of terms of models.dualvar.TERMS. Two more stand where no mode was trained: `thumbnail`, mean pictures,
and `random`, untrained weights. TERMS is looked up at each call, so that a new term needs no change here.
"""
import re
from collections.abc import Iterable
from dataclasses import dataclass

from models.dualvar import TERMS, parse_mode

UNTRAINED = ("thumbnail", "random")
SEED = re.compile(r"_seed(\d+)$")


@dataclass(frozen=True)
class Cell:
    """A result of the table by mode, as the name of its folder says: <mode>_<dataset>_split<N>[_seed<S>]."""

    name: str
    mode: str
    dataset: str
    split: str
    seed: str | None

    @property
    def known(self) -> bool:
        """Whether the mode is one of this version."""
        return mode_position(self.mode) is not None


def parse_cell(name: str) -> Cell | None:
    """The cell that a folder's name stands for, its mode known or not; None where the name has another form."""
    term = "|".join(map(re.escape, TERMS))  # which may hold underscores; an unknown mode ends at the first
    match = re.fullmatch(rf"(?P<mode>(?:{term})(?:-(?:{term}))*|[^_]+)_(?P<dataset>.+)"
                         r"_split(?P<split>\d+)(?:_seed(?P<seed>\d+))?", name)
    return Cell(name, **match.groupdict()) if match else None


def without_seed(name: str) -> str:
    """Name of a run without the seed at its end: what runs that differ in the seed alone share."""
    return SEED.sub("", name)


def mode_position(mode: str) -> tuple[int, ...] | None:
    """What modes are sorted by: thumbnail, random, then by number of terms and by TERMS' order; None if unknown."""
    if mode in UNTRAINED:
        return (0, UNTRAINED.index(mode))
    try:
        terms = parse_mode(mode)
    except ValueError:
        return None
    return (len(terms), *(list(TERMS).index(name) for name in terms))


def unknown_modes(names: Iterable[str]) -> list[str]:
    """A sentence for each of these result names that has a cell's form and an unknown mode."""
    return [f"{name} is not in the table by mode: {cell.mode} is neither {' nor '.join(UNTRAINED)} nor made of the "
            f"terms {', '.join(TERMS)}, each once and joined by '-'"
            for name in names if (cell := parse_cell(name)) and not cell.known]

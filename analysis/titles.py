"""Names of runs and weights in pictures and tables."""
import argparse
from collections.abc import Sequence
from pathlib import Path

from core.errors import UsageError
from engine.folders import weights_name


def add_titles(one: argparse.ArgumentParser) -> None:
    one.add_argument("--titles", nargs="+", help="names in the picture; default: of the folders")


def panel_titles(titles: Sequence[str] | None, paths: Sequence[str | Path]) -> list[str]:
    """--titles, or the names of runs that `paths` are of, with as many folders before them as tell them apart."""
    if titles is None:
        named = [Path(weights_name(path)) if Path(path).is_file() else Path(path) for path in paths]
        for depth in range(1, max(len(path.parts) for path in named) + 1):
            found = ["/".join(path.parts[-depth:]) for path in named]
            if len(set(found)) == len(found):
                return found
    found = list(titles or map(str, paths))
    if len(found) != len(paths) or len(set(found)) < len(found):
        raise UsageError(f"--titles: {len(set(found))} different ones for {len(paths)} panels, give one each")
    return found

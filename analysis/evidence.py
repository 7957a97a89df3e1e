"""Tables of paper_scripts/run/evidence.sh: what each mode reached, and how far it is from plain contrast.

    python -m analysis.evidence log/evidence [--out FILE]      Markdown; --out also writes FILE and FILE's .csv
    python -m analysis.evidence log/changes --variants --base published

The first has means and deviations over seeds. The second has differences from mode --base, paired by seed, with the
95 % interval of Student's t: it holds the chance in seeds, not that in the choice of test videos. A row is
made of the results called <mode>_<dataset>_split<N>[_seed<S>], see analysis/modes.py; with --variants, of those called
<name>[_seed<S>], whatever that is.
"""
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from core.errors import UsageError
from core.exits import run
from core.files import write_text
from core.inputs import read_json
from core.names import shown
from core.parser import new_parser
from engine.log import log_rows
from models.dualvar import TERMS

from .modes import SEED, Cell, mode_position, parse_cell, unknown_modes, without_seed
from .page import csv_text, markdown
from .runs import Run, read_probe
from .temporal_output import SAME, protocol_of, read_results

TIME = "time: "  # what columns of analysis.temporal begin with, which have a table of their own
CELL_COLUMNS = ("name", "mode", "dataset", "split", "seed")
LOOKS = {"variance/between_video": "between videos", "variance/within_video": "within a video",
         "variance/within_clip": "within a clip", "order/shuffled": "order", "effective_rank": "rank"}
BUDGET = {"epochs": False, "batch_size": False, "lr": True}  # flags, and whether modes may have other ones
CLIPS = ("seq_len", "ds", "fps", "img_dim", "resize", "clips", "crops")  # flags of what is measured
LAST = 5  # epochs of a training whose mean is taken of what is measured in every step
SURE = 0.95  # confidence of the intervals of differences


def looks_in(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Rows of a log.jsonl that hold measures of features."""
    return [row for row in rows if LOOKS.keys() & row.keys()]


def monitored(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of the rows of a log.jsonl -> {column: value}: measures of features in the last epoch that has them, and of terms
    that shuffle segments the top-1 of those that moved, mean over their losses and the last LAST epochs.
    """
    looks = looks_in(rows)
    found = {column: looks[-1][name] for name, column in LOOKS.items() if looks and name in looks[-1]}
    for name, term in TERMS.items():
        values = [row[key] for row in rows[-LAST:] for loss in term.names if (key := f"top1_permuted/{loss}") in row]
        if term.shuffles and values:
            found[f"{name.upper()} top-1, permuted"] = float(np.mean(values))
    return found


def differing(cells: pd.DataFrame, facts: Callable[[str, str], Mapping[Hashable, Any]]) -> Iterator[tuple[Any, ...]]:
    """Where cells of one data set differ from the first of it that has a fact; facts: of a name and its mode

    -> (data set, which fact, name, value, name of the first, its value)
    """
    for (dataset, _), rows in cells.groupby(["dataset", "split"]):
        seen: dict[Hashable, tuple[Any, str]] = {}
        for name, mode in zip(rows["name"], rows["mode"], strict=True):
            for what, own in facts(name, mode).items():
                value, first = seen.setdefault(what, (own, name))
                if own != value:
                    yield dataset, what, name, own, first, value


def budgets(log: Path, cells: pd.DataFrame) -> list[str]:
    """That cells of one data set were pretrained for other numbers of epochs or with other batches, or those of one
    mode at other learning rates -> sentences
    """
    def facts(name: str, mode: str) -> dict[Hashable, Any]:
        path = log / "pretrain" / name / "flags.json"
        flags = read_json(path, {"flags": {str: object}})["flags"] if path.exists() else {}
        return {(flag, mode if BUDGET[flag] else ""): flags[flag] for flag in BUDGET.keys() & flags.keys()}

    return [f"{dataset}: {name} was pretrained with --{what[0]} {own}, and {first} with {value}"
            for dataset, what, name, own, first, value in differing(cells, facts)]


def protocols(log: Path, cells: pd.DataFrame) -> list[str]:
    """That results of one data set were measured on other clips, or with other draws, than the first -> sentences"""
    return [f"{dataset}: {what} {own} in {name}, and {value} in {first}"
            for dataset, what, name, own, first, value in differing(cells, lambda name, _: protocol_facts(log, name))]


def protocol_facts(log: Path, name: str) -> dict[Hashable, Any]:
    """What the measures of a result were made with, that others should have too -> {words: value}"""
    found: dict[Hashable, Any] = {}
    for stage in ("retrieval", "test"):
        path = log / stage / name / "results.json"
        flags = read_json(path, {"flags": {str: object}})["flags"] if path.exists() else {}
        found |= {f"{stage} with --{flag}": flags[flag] for flag in CLIPS if flag in flags}
    found |= {f"{measure}, draws:": len(values) for measure, values in read_probe(log / "features" / name).items()}
    if (path := log / "temporal" / name / "results.json").exists():
        asked = read_results(path)
        found |= {f"questions about time with --{flag}": asked["flags"][flag] for flag in SAME}
        found |= {f"{task['title']} with stride": task["stride"] for task in asked["tasks"].values()}
    return found


def early_look(log: Path, name: str) -> str | None:
    """That a pretraining's features were last measured before its last epoch -> sentence or None"""
    rows = log_rows(log / "pretrain" / name)
    looks = looks_in(rows)
    if not looks or looks[-1] is rows[-1]:
        return None
    look, end = (f"{row['epoch'] + 1:.0f}" for row in (looks[-1], rows[-1]))
    return f"{name}: variances and order are of epoch {look} of {end}, the last in which --eval_every had them measured"


def cell_measures(log: Path, name: str, asked: Mapping[str, Any] | None) -> dict[str, float]:
    """What the stages measured of the result `name` -> {column: value}, without the stages that were not run.

    asked: its results of analysis.temporal
    """
    found: dict[str, float] = {}
    if (path := log / "retrieval" / name / "results.json").exists():
        results = read_json(path, {"results": {str: float}})["results"]
        found |= {k: v for k, v in results.items() if k in ("R@1", "R@5", "R@10")}
    found |= {measure: float(np.mean(values)) for measure, values in read_probe(log / "features" / name).items()}
    if (path := log / "test" / name / "results.json").exists():
        found["fine-tuned"] = list(Run(path, "test").facts["results"].values())[-1]["top1"]
    if asked:
        own = asked["measures"][asked["networks"][0]]["tasks"]
        found |= {f"{TIME}{facts['title']} ({facts['chance']:.3f})": own[task]["clips"]["linear"]["mean"]
                  for task, facts in asked["tasks"].items() if own[task]["at_chance"]["linear"]}
    return found | monitored(log_rows(log / "pretrain" / name))


def result_names(log: Path) -> list[str]:
    """Names of the retrieval results in a folder of runs."""
    return sorted(path.name for path in (log / "retrieval").glob("*") if path.is_dir())


def variant(log: Path, name: str) -> Cell:
    """Any result as a cell, whose name without its seed takes the place of a mode."""
    flags = read_json(log / "retrieval" / name / "results.json", {"flags": {"dataset": str, "split": int}})["flags"]
    seed = SEED.search(name)
    return Cell(name, without_seed(name), flags["dataset"], str(flags["split"]), seed[1] if seed else None)


def collect(log: Path, names: Iterable[str] | None = None, variants: bool = False) -> pd.DataFrame:
    """A row for each result whose name is that of a cell of known mode: CELL_COLUMNS and its measures.

    names: of results, None: of all there are; variants: of any name, whatever clips they were asked about time with
    """
    names = result_names(log) if names is None else sorted(names)
    cells = [variant(log, name) for name in names] if variants else [
        cell for name in names if (cell := parse_cell(name)) and cell.known]
    asked = {cell.name: read_results(path) for cell in cells
             if (path := log / "temporal" / cell.name / "results.json").exists()}
    if not variants:
        check_protocols(cells, asked)
    measured = ((cell, cell_measures(log, cell.name, asked.get(cell.name))) for cell in cells)
    return pd.DataFrame([{**asdict(cell), **measures} for cell, measures in measured if measures])


def check_protocols(cells: Iterable[Cell], asked: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise UsageError where cells of one data set were asked about time by different protocols; asked: by their names.
    """
    first: dict[tuple[str, str], str] = {}
    for cell in (cell for cell in cells if cell.name in asked):
        name = first.setdefault((cell.dataset, cell.split), cell.name)
        if protocol_of(asked[cell.name]) != protocol_of(asked[name]):
            raise UsageError(f"temporal/{cell.name} was asked with other clips or tasks than {name}: ask it again with "
                             "the same flags, or move it away")


def summary(cells: pd.DataFrame, time: bool = False) -> pd.DataFrame:
    """Rows of `collect` of one data set and split -> a row for each mode: mean and deviation over its seeds.

    time: what analysis.temporal measured, instead of all else; without a column but these two where it has not
    """
    columns = measure_columns(cells, time)
    rows: list[dict[str, Any]] = []
    for mode in modes_in_order(cells):
        own = cells[cells["mode"] == mode]
        rows.append({"mode": mode, "seeds": len(own),
                     **{name.removeprefix(TIME): over_seeds(own[name].dropna(), len(own) * time) for name in columns}})
    return pd.DataFrame(rows)


def measure_columns(cells: pd.DataFrame, time: bool) -> list[str]:
    return [name for name in cells.columns if name not in CELL_COLUMNS and name.startswith(TIME) == time
            and cells[name].notna().any()]


def modes_in_order(cells: pd.DataFrame) -> list[str]:
    return sorted(cells["mode"].unique(), key=lambda mode: mode_position(mode) or ())


def differences(cells: pd.DataFrame, base: str, time: bool = False) -> pd.DataFrame:
    """Rows of `collect` of one data set and split -> a row for each mode that shares two seeds or more with `base`.

    Its differences from `base`, seed by seed, as in `with_interval`; time: as in `summary`
    """
    by_seed = {mode: cells[cells["mode"] == mode].dropna(subset="seed").set_index("seed")
               for mode in modes_in_order(cells)}
    columns, rows = measure_columns(cells, time), []
    for mode, own in by_seed.items() if base in by_seed else ():
        shared = own.index.intersection(by_seed[base].index)
        if mode != base and len(shared) > 1:
            rows.append({f"mode, less {base}": mode, "seeds": len(shared), **{
                name.removeprefix(TIME): with_interval((own[name] - by_seed[base][name])[shared].dropna(), len(shared))
                for name in columns}})
    table = pd.DataFrame(rows)
    return table.loc[:, (table != "").any()]


def with_interval(values: pd.Series, seeds: int) -> str:
    """"+0.031 (-0.010 to 0.072)" of differences: mean and interval by Student's t; "" of fewer than two.

    With ", 2" where there should be more `seeds`.
    """
    if len(values) < 2:
        return ""
    from scipy.stats import t
    reach = t.ppf((1 + SURE) / 2, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return (f"{values.mean():+.3f} ({values.mean() - reach:.3f} to {values.mean() + reach:.3f}"
            + (f", {len(values)})" if len(values) < seeds else ")"))


def over_seeds(values: pd.Series, seeds: int = 0) -> str:
    """"0.512 ± 0.013" of several seeds, "0.512" of one, "" of none; with "(2)" where there should be more `seeds`."""
    if values.empty:
        return ""
    text = f"{values.mean():.3f}" + (f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else "")
    return text + (f" ({len(values)})" if len(values) < seeds else "")


def main(argv: Sequence[str]) -> None:
    parser = new_parser("python -m analysis.evidence", __doc__, defaults=False)
    parser.add_argument("log", type=Path, help="<log_dir>/evidence")
    parser.add_argument("--base", default="clip", help="mode that the others are compared with; default: clip")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table there, and all cells to its .csv")
    parser.add_argument("--variants", action="store_true", help="rows are results of any name, less _seed<S>")
    args = parser.parse_args(argv)
    if not args.variants and mode_position(args.base) is None:
        raise UsageError(f"--base {shown(args.base)} is no mode: give clip, or another that was run")
    cells = collect(args.log, variants=args.variants)
    unknown = [] if args.variants else unknown_modes(result_names(args.log))
    if args.variants and args.base not in set(cells.get("mode", ())):
        raise UsageError(f"--base {shown(args.base)} is no result in {args.log}: name one, without its seed")
    if cells.empty:
        raise UsageError(f"{args.log} holds no results of paper_scripts/run/evidence.sh yet"
                         + "".join(f"; {sentence}" for sentence in unknown))
    text = "\n".join(f"{dataset}, split {split}{', time' if time else ''}\n\n{markdown(table)}"
                     for (dataset, split), rows in cells.groupby(["dataset", "split"]) for time in (False, True)
                     for table in (summary(rows, time), differences(rows, args.base, time)) if table.shape[1] > 2)
    print(text)
    early = [sentence for name in cells["name"] if (sentence := early_look(args.log, name))]
    for sentence in [*unknown, *budgets(args.log, cells), *protocols(args.log, cells), *early]:
        print(f"note: {sentence}")
    if args.out:
        write_text(args.out, text)
        write_text(args.out.with_suffix(".csv"), csv_text(cells.drop(columns="name")))


if __name__ == "__main__":
    run(main)

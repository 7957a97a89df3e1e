"""Tables and the picture of what analysis.temporal measured, from its results as JSON holds them."""
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from core.errors import DataError
from core.files import write_text
from core.inputs import COUNT, read_json

from . import figures
from .modes import without_seed
from .page import csv_text, latex, markdown

HOWS = {"linear": "linear probe", "neighbours": "vote of 10 neighbours"}
BY_VOTE = ", vote"  # ends the name of a share of classes that the neighbours told, not the linear probe
FEWEST_RECORDINGS = 10  # for an interval over recordings
KINDS = {"clips": "clips", "control": "control", "single": "one frame", "mean": "mean of single frames"}
WITHHELD = "control not at chance"
Shares = Mapping[str, Any]  # a Measured of temporal_probe.py, as JSON holds it

SHARE = {"mean": float, "low": float, "high": float, "error": float}
SHAPE = {"networks": [str], "class_chance": float, "recordings": COUNT,
         "tasks": {str: {"title": str, "chance": float, "stride": COUNT, "train": COUNT, "test": COUNT}},
         "measures": {str: {"classes": {str: SHARE},
                            "tasks": {str: {**dict.fromkeys(KINDS, dict.fromkeys(HOWS, SHARE)), "shots": {str: SHARE},
                                            "at_chance": dict.fromkeys(HOWS, bool),
                                            "above_floors": dict.fromkeys(HOWS, bool)}}}},
         "flags": {"dataset": str, "split": COUNT, "seq_len": COUNT, "ds": COUNT, "img_dim": COUNT, "resize": [COUNT],
                   "draws": COUNT, "videos": COUNT, "storage": str, "seed": int, str: object}}
SAME = ("dataset", "split", "seq_len", "ds", "img_dim", "resize", "draws", "videos", "storage")  # of one table


def read_results(path: Path) -> dict[str, Any]:
    """results.json of analysis.temporal. Raises DataError where it is damaged."""
    hint = "remove it, and run analysis.temporal again"
    found = read_json(path, SHAPE, hint)
    measures = found["measures"]
    if not found["tasks"] or not found["networks"] or not set(found["networks"]) <= set(measures) or any(
            own["tasks"].keys() != found["tasks"].keys() for own in measures.values()):
        raise DataError(f"{path} is damaged (its networks and tasks are not those that were measured): {hint}")
    return found


def protocol_of(results: Mapping[str, Any]) -> str:
    """What results must have in common to stand in one table."""
    return repr([{flag: results["flags"][flag] for flag in SAME}, results["tasks"]])


def joined(parts: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Results by name -> those of one protocol and the same tasks as one, whose networks are called by these names.

    Where a result is of several networks, theirs follow its name. Floors are the first one's; where another --seed drew
    the others' clips, theirs differ by that.
    """
    groups: dict[str, dict[str, Any]] = {}
    for name, found in parts.items():
        key = protocol_of(found)
        several = len(found["networks"]) > 1
        called = {own: f"{name}, {own}" if several else name for own in found["networks"]}
        measures = {called[own]: found["measures"][own] for own in found["networks"]}
        floors = {own: value for own, value in found["measures"].items() if own not in called}
        whole = groups.setdefault(key, {**found, "networks": [], "measures": floors})
        whole["measures"] = {**whole["measures"], **measures}
        whole["networks"] = [*whole["networks"], *measures]
    for whole in groups.values():  # networks first
        whole["measures"] = {**{own: whole["measures"][own] for own in whole["networks"]}, **whole["measures"]}
    return list(groups.values())


def plus_minus(share: Shares) -> str:
    """Mean and half of the interval of 95 %."""
    return f"{share['mean']:.3f} ± {(share['high'] - share['low']) / 2:.3f}"


def cell(results: Mapping[str, Any], name: str, task: str, how: str) -> str:
    """A network's share of right answers, with a * where it is above chance and all floors."""
    found = results["measures"][name]["tasks"][task]
    if not found["at_chance"][how]:
        return WITHHELD
    return plus_minus(found["clips"][how]) + (" *" if found["above_floors"][how] else "")


def by_task(results: Mapping[str, Any], rows: Mapping[str, Mapping[str, str]]) -> pd.DataFrame:
    """A table whose columns are the tasks, by their titles; rows: {title: {task: text}}. What guessing gives is first.
    """
    chance = {task: f"{facts['chance']:.3f}" for task, facts in results["tasks"].items()}
    titles = {task: facts["title"] for task, facts in results["tasks"].items()}
    return pd.DataFrame([{"features": row, **{titles[task]: texts[task] for task in titles}}
                         for row, texts in {"chance": chance, **rows}.items()])


def answers_table(results: Mapping[str, Any], how: str) -> pd.DataFrame:
    """A row for each network and each floor, a column for each task."""
    return by_task(results, {name: {task: cell(results, name, task, how) for task in results["tasks"]}
                             for name in results["measures"]})


def shares_table(results: Mapping[str, Any], wanted: Iterable[tuple[str, str, str, str]]) -> pd.DataFrame:
    """Shares as they are, of shots those of tasks that are not withheld; wanted: (title of the row, network or floor,
    kind, classifier or number of videos).
    """
    return by_task(results, {title: {
        task: plus_minus(found[kind][which]) if kind != "shots" or found["at_chance"]["linear"] else WITHHELD
        for task, found in results["measures"][name]["tasks"].items()} for title, name, kind, which in wanted})


def classes_table(results: Mapping[str, Any], how: str) -> pd.DataFrame:
    """A row for each network and floor: top-1 of the classes by one classifier, by what the test clips are."""
    return pd.DataFrame([{"features": name, **shares} for name, found in results["measures"].items() if (shares := {
        clip.removesuffix(BY_VOTE): plus_minus(share) for clip, share in found["classes"].items()
        if by(clip) == how})])


def by(clip: str) -> str:
    """Which of HOWS told the classes of a clip, by its name among the classes."""
    return "neighbours" if clip.endswith(BY_VOTE) else "linear"


def tables(results: Mapping[str, Any]) -> Iterator[tuple[str, pd.DataFrame, str]]:
    """Yields (name, table, caption)."""
    drawn = "recordings" if results["recordings"] >= FEWEST_RECORDINGS else "videos, as the recordings are few"
    for how, words in HOWS.items():
        yield how, answers_table(results, how), (
            f"Share of right answers, {words}, ± half of its 95 % interval over {results['recordings']} recordings "
            f"(drawn anew: {drawn}). *: above chance and every floor by a paired test, 5 % over all questions of a "
            "network.")
    everything = results["measures"]
    for how, words in HOWS.items():
        yield f"control_{how}", shares_table(results, [(name, name, "control", how) for name in everything]), (
            f"Controls, {words}: they should be at chance.")
    yield "frames", shares_table(results, [(f"{name}, {KINDS[kind]}", name, kind, "linear")
                                           for name in results["networks"] for kind in ("single", "mean")]), (
        "Linear probe of single frames, as the networks see them (first draw).")
    few = [(f"{name}, {k} videos", name, "shots", k) for name, found in everything.items()
           for k in next(iter(found["tasks"].values()))["shots"]]
    if few:
        yield "shots", shares_table(results, few), "Linear probes trained on the clips of a few videos alone."
    for how, words in HOWS.items():
        if len(table := classes_table(results, how)):  # earlier results have no vote
            lost = "; true - ...: what is lost, on the same videos" if "true - still" in table else ""
            yield f"classes_{how}", table, (
                f"Top-1 of a {words} of the classes, trained on clips as they are and shown such clips (true), the "
                "same reversed, with shuffled frames, or one frame repeated (still); \"itself\": trained on such "
                f"clips{lost}. The commonest class is {results['class_chance']:.3f} of the test videos.")


def long_table(results: Mapping[str, Any]) -> pd.DataFrame:
    """Every number there is, a row each."""
    rows = [{"features": name, "task": task, "of": KINDS[kind], "by": HOWS[how], "chance": facts["chance"], **share,
             "control at chance": found["tasks"][task]["at_chance"][how]}
            for name, found in results["measures"].items() for task, facts in results["tasks"].items()
            for kind in KINDS for how, share in found["tasks"][task][kind].items()]
    rows += [{"features": name, "task": task, "of": KINDS["clips"], "by": f"linear probe of {k} videos",
              "chance": facts["chance"], **share, "control at chance": found["tasks"][task]["at_chance"]["linear"]}
             for name, found in results["measures"].items() for task, facts in results["tasks"].items()
             for k, share in found["tasks"][task]["shots"].items()]
    rows += [{"features": name, "task": "classes", "of": clip.removesuffix(BY_VOTE), "by": HOWS[by(clip)], **share}
             for name, found in results["measures"].items() for clip, share in found["classes"].items()]
    return pd.DataFrame(rows)


def write_tables(folder: Path, results: Mapping[str, Any]) -> None:
    """tables.md and tables.tex, as `tables` orders them, and all numbers as tables.csv."""
    found = list(tables(results))
    write_text(folder / "tables.md", "\n".join(f"{caption}\n\n{markdown(table)}" for _, table, caption in found))
    write_text(folder / "tables.tex", "\n".join(f"% {caption}\n{latex(table)}" for _, table, caption in found))
    write_text(folder / "tables.csv", csv_text(long_table(results), "%.6g"))


def draw(results: Mapping[str, Any]) -> Figure:
    """The linear probe's answers: a dot with its interval for each network, floors as ticks and hollow dots.

    Networks called ..._seed<N> look the same.
    """
    rows = []
    for task, facts in results["tasks"].items():
        own = {name: found["tasks"][task] for name, found in results["measures"].items()}
        dots = {name: tuple(own[name]["clips"]["linear"][part] for part in ("mean", "low", "high"))
                if own[name]["at_chance"]["linear"] else WITHHELD for name in results["networks"]}
        ticks = {name: found["clips"]["linear"]["mean"] for name, found in own.items() if name not in dots}
        frames = {name: max(own[name][kind]["linear"]["mean"] for kind in ("single", "mean"))
                  for name, dot in dots.items() if dot != WITHHELD}
        rows.append((facts["title"], facts["chance"], dots, ticks, frames))
    return figures.dots(rows, "share of right answers, linear probe", "its own single frames, or their mean",
                        {name: without_seed(name) for name in results["networks"]})

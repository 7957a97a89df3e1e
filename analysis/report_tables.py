"""Tables of the report: results, the paper's figures beside ours, runs, data; and what was not run."""
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from core.errors import DataError, UsageError
from dataset.lists import open_list
from models.protocol import spacing

from . import paper
from .modes import without_seed
from .runs import STAGES, Run, Runs, all_runs, read_probe, training_behind

TESTED = {"last": "linear probe, test", "ft": "fine-tuned, test"}

Differences = list[tuple[str, str]]  # (stage, "flag ours for theirs")


# --- results -------------------------------------------------------------------------------------------------

def results_table(found: Runs) -> pd.DataFrame:
    """A row for each result: of a retrieval, and of each split of a test."""
    rows = [retrieval_row(result) for result in found["retrieval"]]
    for result in found["test"]:
        kind = TESTED.get(Path(result.flags["checkpoint"] or "").parent.parent.parent.name, "test")
        for split, values in result.facts["results"].items():
            rows.append({"run": result.name, "what": kind, "data set": f"{result.dataset} {split}",
                         "videos": int(values["videos"]), "chance": 1 / result.facts["classes"],
                         "top-1": values["top1"], "top-5": values["top5"], "mean class": values["mean_class"]})
    return pd.DataFrame(rows)


def retrieval_row(result: Run) -> dict:
    row = {"run": result.name, "what": "retrieval", "data set": result.dataset_and_split,
           "videos": result.facts["queries"], "chance": 1 / result.facts["classes"],
           **{k: v for k, v in result.facts["results"].items() if k in ("R@1", "R@5", "R@10")}}
    if folder := result.features():
        row |= {f"{measure} of features": f"{np.mean(values):.3f} ± {np.std(values):.3f}"
                for measure, values in read_probe(folder).items()}
    return row


# --- beside the paper ----------------------------------------------------------------------------------------

class Compared(NamedTuple):
    """A result of ours with the paper's of the same measures."""

    measures: list[str]
    ours: list[float | None]  # shares
    theirs: list[float]  # per cent
    dataset: str  # the paper's, for evaluation
    pretrained: str  # the paper's, for pretraining


def compare(result: Run, before: Run) -> Compared | None:
    """The paper's figures for a retrieval, or a fine-tuned network's test, of `before`'s weights; None: it has none."""
    if result.stage == "retrieval":
        theirs = paper.RETRIEVAL["DualVar"]
        measures = [f"R@{k}" for k in (1, 5, 10)]
        return Compared(measures, [result.facts["results"].get(name) for name in measures],
                        [theirs[int(name[2:])] for name in measures], "UCF101", "UCF101")
    method = "DualVar (MoCo)" if before.flags["framework"] == "moco" else "DualVar (SimCLR)"
    pretrained = "K400" if before.dataset == "k400" else "UCF101"
    dataset = "HMDB51" if result.dataset == "hmdb51" else "UCF101"
    accuracies = {row[:2]: dict(zip(("UCF101", "HMDB51"), row[2:], strict=True)) for row in paper.FINETUNED}
    if (method, pretrained) not in accuracies:
        return None
    ours = result.facts["results"][f"split{result.first_split:02d}"]["top1"]
    return Compared(["fine-tuned top-1"], [ours], [accuracies[method, pretrained][dataset]], dataset, pretrained)


def comparison_table(found: Runs) -> tuple[pd.DataFrame, dict[str, Differences]]:
    """A row for the first seed of each retrieval and fine-tuned test, with the paper's figures.

    -> (table, {stage of a result: what differs from the paper's protocol in all its rows})
    """
    rows: list[dict] = []
    differ: dict[str, list[Differences]] = {"retrieval": [], "test": []}
    for result in [*first_seeds(found["retrieval"]), *first_seeds(found["test"])]:
        trained, before = training_behind(result, found)
        if before is None or trained is not None and trained.stage == "last":  # the paper has no linear probes
            continue
        if (compared := compare(result, before)) is None:
            continue
        rows.append({"run": result.name, "measure": ", ".join(compared.measures),
                     "ours": ", ".join("–" if own is None else f"{100 * own:.1f}" for own in compared.ours),
                     "paper's": ", ".join(f"{value:.1f}" for value in compared.theirs), "on": compared.dataset})
        differ[result.stage].append(differences(result, trained, before, compared))
    common = {stage: [text for text in texts[0] if all(text in own for own in texts)]
              for stage, texts in differ.items() if texts}
    for row, (stage, own) in zip(rows, ((stage, own) for stage, texts in differ.items() for own in texts), strict=True):
        row["differs also in"] = by_stage([text for text in own if text not in common[stage]])
    return pd.DataFrame(rows), common


def differences(result: Run, trained: Run | None, before: Run, compared: Compared) -> Differences:
    """Data sets and flags of a result, and of the runs behind it, that differ from the paper's."""
    weights = {"clip_weight": 0.125 if before.flags["framework"] == "simclr" else 1.0}
    found = [(stage, f"data set {own} for {theirs}") for stage, own, theirs in (
        ("evaluation", result.dataset, compared.dataset), ("pretraining", before.dataset, compared.pretrained))
        if own != theirs.lower()]
    stages = [("evaluation", result, paper.PROTOCOL[result.stage]),
              ("pretraining", before, {**paper.PROTOCOL["pretrain"], **weights})]
    if trained is not None:
        after = "finetune_k400" if compared.pretrained == "K400" else "finetune"
        stages.insert(1, ("fine-tuning", trained, paper.PROTOCOL[after]))
    for stage, run_of_stage, protocol in stages:
        for flag, theirs in protocol.items():
            own = run_of_stage.flags.get(flag)
            if own is not None and own != theirs and not (flag == "split" and own == "all"):
                found.append((stage, f"{flag} {own}" + f" for {theirs}" * (theirs is not None)))
    return found


def by_stage(differing: Differences) -> str:
    """[(stage, text)] -> "stage: text, text; stage: text" """
    stages: dict[str, list[str]] = {}
    for stage, text in differing:
        stages.setdefault(stage, []).append(text)
    return "; ".join(f"{stage}: {', '.join(texts)}" for stage, texts in stages.items())


def first_seeds(runs: Iterable[Run]) -> list[Run]:
    """The first of those runs that differ in their seed alone."""
    first: dict[str, Run] = {}
    for run in runs:
        first.setdefault(without_seed(run.name), run)
    return list(first.values())


# --- runs and data -------------------------------------------------------------------------------------------

def runs_table(found: Runs) -> pd.DataFrame:
    """A row for each training run."""
    rows = []
    for stage, text in STAGES.items():
        for run in found[stage]:
            own, facts = run.flags, run.facts
            before = training_behind(run, found)[1]  # says what a classifier takes from its checkpoint
            net, width = (own[name] if own[name] is not None or before is None else before.flags[name]
                          for name in ("net", "width"))
            steps = int(facts["videos"]) // facts["effective_batch"]
            seconds = sum(row.get("time/step", 0) for row in run.rows) * steps
            rows.append({
                "run": run.name, "stage": text, "data": f"{run.dataset_and_split}, {facts['videos']} videos",
                "mode": own.get("mode", own.get("train_what")), "network": f"{net} × {width or 1:g}",
                "clip": f"{own['seq_len']} at {spacing(own['ds'], own['fps'])}, {own['img_dim']} px",
                "epochs": f"{len(run.rows)}/{own['epochs']}", "batch": facts["effective_batch"],
                "lr": f"{own['lr']:g}", "seed": own["seed"], "training": f"{seconds / 60:.1f} min",
                "on": facts["gpu"] or "CPU", "processes": facts["processes"], "commit": facts["commit"]})
    return pd.DataFrame(rows)


def data_table(found: Runs) -> tuple[pd.DataFrame, list[str]]:
    """Videos, classes and frames of each list that was used -> table, sentences about those that are not here."""
    rows, missing = [], []
    for dataset, split, storage in sorted({(run.dataset, int(run.flags["split"]), run.flags["storage"])
                                           for run in all_runs(found) if run.flags["split"] not in ("all", None)}):
        for part in ("train", "test"):
            try:
                videos = open_list(dataset, part, split, storage)
            except (DataError, UsageError) as error:
                missing.append(str(error))
                continue
            low, middle, high = np.percentile(videos.num_frames, [0, 50, 100]).astype(int)
            per_class = np.bincount(videos.labels, minlength=len(videos.classes))
            rows.append({"data set": dataset, "split": str(split), "list": part, "videos": len(videos),
                         "classes": len(videos.classes), "videos a class": f"{per_class.min()} - {per_class.max()}",
                         "frames: least": low, "median": middle, "most": high})
    return pd.DataFrame(rows), missing


def not_run(found: Runs, planned: Sequence[str]) -> list[str]:
    """Sentences about what was planned and is not there, or is not finished. planned: ["stage/name"]"""
    done = {f"{stage}/{run.name}" for stage, runs in found.items() for run in runs}
    missing: dict[str, list[str]] = {}
    for name in planned:
        if name not in done:
            missing.setdefault(name.partition("/")[2], []).append(name.partition("/")[0])
    lines = [f"{name}: not run ({', '.join(stages)})" for name, stages in missing.items()]
    for stage in STAGES:
        for run in found[stage]:
            epochs = len(run.rows)
            if epochs < run.flags["epochs"]:
                lines.append(f"{stage}/{run.name}: {epochs} of {run.flags['epochs']} epochs, not its end")
    lines += [f"retrieval/{run.name}: features without those of single clips (--per_clip), so not among the t-SNE"
              for run in found["retrieval"] if run.features() and not run.has_clip_features()]
    if not any(run.facts["gpu"] for run in all_runs(found)):
        lines.append("no GPU: everything here ran on CPUs")
    return lines

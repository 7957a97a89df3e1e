"""One page about what a folder of runs holds: results, the paper's beside them, curves, pictures, flags.

    python -m analysis.report log/dualvar --experiment demo
    python -m analysis.report log/evidence --dataset ucf101-5class

Writes <log>/report/<experiment, data set or all>/: index.html, which needs no other file and no network; tables/ with
each table as Markdown, LaTeX and CSV; pictures/ as PNG, PDF and SVG. What is not there is said on the page.
"""
import argparse
import functools
import shlex
import time
from pathlib import Path

import numpy as np
import pandas as pd

from core.errors import CheckpointError, DataError, RunError, UsageError
from core.exits import explain, run
from core.files import read_json
from dataset.lists import open_list
from engine.folders import weights_name
from engine.log import log_rows

from . import evidence, paper, pictures
from .modes import mode_position, parse_cell, unknown_modes
from .page import Page

STAGES = {"pretrain": "pretraining", "last": "linear probe", "ft": "fine-tuning"}
TESTED = {"last": "linear probe, test", "ft": "fine-tuned, test"}
MOST_PANELS = 4  # of pictures side by side


def flags():
    parser = argparse.ArgumentParser("python -m analysis.report", description=__doc__.splitlines()[0],
                                     allow_abbrev=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("log", type=Path, help="folder of runs: <log_dir>/<prefix>")
    parser.add_argument("--experiment", help="only what is called so, or so and _ and more")
    parser.add_argument("--dataset", help="only what was tested, or trained, on this data set")
    parser.add_argument("--planned", nargs="*", default=[], metavar="STAGE/NAME",
                        help="what there should be: what is not there is said")
    parser.add_argument("--dry_run", action="store_true", help="say what would be in it, write nothing")
    parser.add_argument("--out", type=Path, help="folder; default: <log>/report/<experiment, data set or all>")
    return parser


# --- what there is -------------------------------------------------------------------------------------------

class Run:
    """A folder that a stage wrote: name, stage, flags, the rest of its JSON file, and where it lies."""

    def __init__(self, path, stage):
        self.folder, self.name, self.stage = path.parent, path.parent.name, stage
        self.facts = read_json(path, "flags", "torch", "opencv", "python", "commit", "gpu", "processes")
        self.flags = self.facts["flags"]

    @functools.cached_property
    def rows(self):
        """Of log.jsonl, a dictionary an epoch."""
        return log_rows(self.folder)

    def features(self):
        """Folder of the features that a retrieval saved, also where all was moved; None where there is none."""
        saved = Path(self.flags.get("save_features") or "")
        beside = self.folder.parents[1] / "features" / self.name
        return next((path for path in (saved, beside) if (path / "protocol.json").is_file()), None)


def find(log, experiment, dataset):
    """-> {"pretrain", "last", "ft", "retrieval", "test": [Run]} of a folder, by name."""
    found = {}
    for stage, file in [*((stage, "flags.json") for stage in STAGES), ("retrieval", "results.json"),
                        ("test", "results.json")]:
        runs = [Run(path, stage) for path in sorted((log / stage).glob(f"*/{file}"))]
        runs.sort(key=lambda one: (mode_position(one.name.partition("_")[0]) or (-1,), one.name))
        found[stage] = [one for one in runs
                        if (experiment is None or one.name == experiment or one.name.startswith(f"{experiment}_"))
                        and (dataset is None or one.flags["dataset"] == dataset)]
    return found


def chain(one, found):
    """The runs behind a test or a retrieval: (fine-tuning or probe or None, pretraining or None), if they are found."""
    trained = None
    if one.stage == "test":
        name = weights_name((one.flags["checkpoint"] or "").replace("{split}", str(first_split(one))))
        trained = next((run for stage in ("ft", "last") for run in found[stage] if run.name == name), None)
    weights = (trained or one).flags.get("pretrain") or ""
    return trained, next((run for run in found["pretrain"] if run.name == weights_name(weights)), None)


def first_split(one):
    """Number of the first split that a test was of."""
    return int(min(name for name in one.facts["results"] if name.startswith("split"))[5:])


def results(found):
    """A row for each result -> DataFrame."""
    rows = []
    for one in found["retrieval"]:
        row = {"run": one.name, "what": "retrieval", "data set": where(one), "videos": one.facts["queries"],
               "chance": 1 / one.facts["classes"],
               **{k: v for k, v in one.facts["results"].items() if k in ("R@1", "R@5", "R@10")}}
        if (folder := one.features()) and (folder / "probe.json").is_file():
            linear = read_json(folder / "probe.json", "linear")["linear"]
            row["linear probe of features"] = f"{np.mean(linear):.3f} ± {np.std(linear):.3f}"
        rows.append(row)
    for one in found["test"]:
        kind = TESTED.get(Path(one.flags["checkpoint"] or "").parent.parent.parent.name, "test")
        for split, values in one.facts["results"].items():
            rows.append({"run": one.name, "what": kind, "data set": f"{one.flags['dataset']} {split}",
                         "videos": int(values["videos"]), "chance": 1 / one.facts["classes"], "top-1": values["top1"],
                         "top-5": values["top5"], "mean class": values["mean_class"]})
    return pd.DataFrame(rows)


def where(one):
    return f"{one.flags['dataset']} split{int(one.flags['split']):02d}"


def beside_the_paper(found):
    """A row for the first seed of each retrieval and fine-tuned test, with the paper's figures.

    -> (DataFrame, {kind of row: what differs in all of them, as `differences` gives it})
    """
    rows, differ = [], {"retrieval": [], "test": []}
    for one in [*first_seeds(found["retrieval"]), *first_seeds(found["test"])]:
        trained, before = chain(one, found)
        if before is None or trained is not None and trained.stage == "last":  # of linear probes the paper has none
            continue
        if one.stage == "retrieval":
            theirs, dataset, pretrained = paper.RETRIEVAL["DualVar"], "UCF101", "UCF101"
            measures = [f"R@{k}" for k in (1, 5, 10)]
            figures = [(one.facts["results"].get(name), theirs[int(name[2:])]) for name in measures]
        else:
            method = "DualVar (MoCo)" if before.flags["framework"] == "moco" else "DualVar (SimCLR)"
            pretrained, dataset = (("K400" if before.flags["dataset"] == "k400" else "UCF101"),
                                   "HMDB51" if one.flags["dataset"] == "hmdb51" else "UCF101")
            theirs = {row[:2]: dict(zip(("UCF101", "HMDB51"), row[2:], strict=True)) for row in paper.FINETUNED}
            if (method, pretrained) not in theirs:
                continue
            measures = ["fine-tuned top-1"]
            own = one.facts["results"][f"split{first_split(one):02d}"]["top1"]
            figures = [(own, theirs[method, pretrained][dataset])]
        rows.append({"run": one.name, "measure": ", ".join(measures),
                     "ours": ", ".join("-" if own is None else f"{100 * own:.1f}" for own, _ in figures),
                     "paper's": ", ".join(f"{value:.1f}" for _, value in figures), "on": dataset})
        differ[one.stage].append(differences(one, trained, before, dataset, pretrained))
    common = {stage: [text for text in texts[0] if all(text in own for own in texts)]
              for stage, texts in differ.items() if texts}
    for row, (stage, own) in zip(rows, ((stage, own) for stage, texts in differ.items() for own in texts), strict=True):
        row["differs also in"] = grouped([text for text in own if text not in common[stage]])
    return pd.DataFrame(rows), common


def differences(one, trained, before, dataset, pretrained):
    """Data sets and flags of a result, and of the runs behind it, that differ from the paper's.

    -> [(stage, "flag ours for theirs")]
    """
    weights = {"clip_weight": 0.125 if before.flags["framework"] == "simclr" else 1.0}
    found = [(stage, f"data set {own} for {theirs}") for stage, own, theirs in (
        ("evaluation", one.flags["dataset"], dataset), ("pretraining", before.flags["dataset"], pretrained))
        if own != theirs.lower()]
    stages = [("evaluation", one, paper.PROTOCOL[one.stage]),
              ("pretraining", before, {**paper.PROTOCOL["pretrain"], **weights})]
    if trained is not None:
        after = "finetune_k400" if pretrained == "K400" else "finetune"
        stages.insert(1, ("fine-tuning", trained, paper.PROTOCOL[after]))
    for stage, run_of_stage, protocol in stages:
        for flag, theirs in protocol.items():
            own = run_of_stage.flags.get(flag)
            if own is not None and own != theirs and not (flag == "split" and own == "all"):
                found.append((stage, f"{flag} {own} for {theirs}"))
    return found


def grouped(differing):
    """[(stage, text)] -> "stage: text, text; stage: text" """
    stages = {}
    for stage, text in differing:
        stages.setdefault(stage, []).append(text)
    return "; ".join(f"{stage}: {', '.join(texts)}" for stage, texts in stages.items())


def runs_table(found):
    rows = []
    for stage, text in STAGES.items():
        for one in found[stage]:
            log, own = one.rows, one.flags
            before = chain(one, found)[1]  # says what a classifier takes from its checkpoint
            net, width = (own[name] if own[name] is not None or before is None else before.flags[name]
                          for name in ("net", "width"))
            steps = int(one.facts["videos"]) // one.facts["effective_batch"]
            seconds = sum(row.get("time/step", 0) for row in log) * steps
            rows.append({
                "run": one.name, "stage": text, "data": f"{where(one)}, {one.facts['videos']} videos",
                "mode": own.get("mode", own.get("train_what")), "network": f"{net} × {width or 1:g}",
                "clip": f"{own['seq_len']} at stride {own['ds']}, {own['img_dim']} px",
                "epochs": f"{len(log)}/{own['epochs']}", "batch": one.facts["effective_batch"],
                "lr": f"{own['lr']:g}",
                "seed": own["seed"], "training": f"{seconds / 60:.1f} min", "on": one.facts["gpu"] or "CPU",
                "processes": one.facts["processes"], "commit": one.facts["commit"]})
    return pd.DataFrame(rows)


def data_table(found):
    """Videos, classes and frames of each list that was used -> DataFrame, sentences about those that are not here."""
    rows, missing = [], []
    for dataset, split, storage in sorted({(one.flags["dataset"], int(one.flags["split"]), one.flags["storage"])
                                           for runs in found.values() for one in runs if one.flags["split"] != "all"}):
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


def not_run(found, planned):
    """Sentences about what there should be and is not, or is not finished."""
    done = {f"{stage}/{one.name}" for stage, runs in found.items() for one in runs}
    missing = {}
    for name in planned:
        if name not in done:
            missing.setdefault(name.partition("/")[2], []).append(name.partition("/")[0])
    lines = [f"{name}: not run ({', '.join(stages)})" for name, stages in missing.items()]
    for stage in STAGES:
        for one in found[stage]:
            epochs = len(one.rows)
            if epochs < one.flags["epochs"]:
                lines.append(f"{stage}/{one.name}: {epochs} of {one.flags['epochs']} epochs, not its end")
    lines += [f"retrieval/{one.name}: features without those of single clips (--per_clip), so not among the t-SNE"
              for one in found["retrieval"] if one.features() and not has_clips(one)]
    if not any(one.facts["gpu"] for runs in found.values() for one in runs):
        lines.append("no GPU: everything here ran on CPUs")
    return lines


def has_clips(one):
    return (one.features() / "train_clips.npy").is_file()


# --- pictures ------------------------------------------------------------------------------------------------

def first_seeds(runs):
    """Of runs that differ in their seed alone the first."""
    first = {}
    for one in runs:
        first.setdefault(pictures.SEED.sub("", one.name), one)
    return list(first.values())


def representatives(runs):
    """What stands side by side: first seeds, without the thumbnail floor; random weights where little else is there."""
    chosen = [one for one in first_seeds(runs) if one.flags.get("pretrain") != "thumbnail"]
    trained = [one for one in chosen if one.flags.get("pretrain") != "random"]
    return (trained if len(trained) > 2 else chosen)[:MOST_PANELS]


def titles(runs):
    """Short names for panels: the modes of evidence cells, or the runs' names where those say more."""
    cells = [parse_cell(one.name) for one in runs]
    modes = [cell.mode if cell and cell.known else None for cell in cells]
    return modes if None not in modes and len(set(modes)) == len(modes) else [one.name for one in runs]


def wanted(found, datasets):
    """Pictures to draw: (file, caption, arguments of analysis.pictures)."""
    for stage, text in STAGES.items():
        if begun := [one for one in found[stage] if one.rows]:
            note = " (R@1 among training videos of other recordings)" if stage == "pretrain" else ""
            yield (f"curves_{stage}", f"{text.capitalize()}: what was measured over the epochs{note}.",
                   ["curves", "--runs", *(str(one.folder) for one in begun)])
    for dataset in datasets:
        of_set = {stage: [one for one in runs if one.flags["dataset"] == dataset] for stage, runs in found.items()}
        yield from of_features(dataset, [one for one in of_set["retrieval"] if one.features()])
        if tests := representatives(of_set["test"]):
            pair = [tests[0], tests[-1]] if len(tests) > 1 else tests
            yield (f"classes_{dataset}", f"{dataset}: accuracy of each class, in the order in which the runs differ.",
                   ["classes", "--test", *(str(one.folder) for one in pair), "--titles", *titles(pair)])
            yield (f"confusion_{dataset}", f"{dataset}, {tests[-1].name}: confusion of the test.",
                   ["confusion", "--test", str(tests[-1].folder)])
        if trained := representatives(of_set["pretrain"]):
            yield from of_videos(dataset, trained)


def of_features(dataset, searched):
    """The pictures of a data set's features, for `wanted`."""
    if clips := representatives([one for one in searched if has_clips(one)]):
        yield (f"tsne_{dataset}", f"{dataset}: t-SNE of training features, one point a clip, coloured by class. Clips "
               "of one video that fall on one point have lost their differences.",
               ["tsne", "--features", *(str(one.features()) for one in clips), "--titles", *titles(clips)])
    if some := representatives(searched):
        last = some[-1]
        yield (f"gallery_{dataset}", f"{dataset}, {last.name}: test videos and the five nearest training videos, with "
               "cosines; ✓ same class, ✗ another.",
               ["gallery", "--features", str(last.features()), *data_flags(last)])


def of_videos(dataset, trained):
    """The pictures of a data set's videos as pretraining sees them, for `wanted`."""
    own = data_flags(trained[-1]) + ["--n_series", str(trained[-1].flags["n_series"])]
    seen = own + ["--time_reverse", str(trained[-1].flags["time_reverse"])]
    yield f"views_{dataset}", f"{dataset}: augmented views of training videos, as in epoch 0.", ["views", *seen]
    yield (f"segments_{dataset}", f"{dataset}: view 3 and its segments as shuffle-rank shuffles them.",
           ["segments", *seen])
    weights = {one: one.folder / "model" / "backbone.pth.tar" for one in trained}
    if there := [one for one, path in weights.items() if path.is_file()]:
        yield (f"timeline_{dataset}", f"{dataset}: cosine between the segments of the longest test video, each encoded "
               "alone, centred by the mean of other videos.",
               ["timeline", *own, "--pretrain", *(str(weights[one]) for one in there), "--titles", *titles(there)])


def data_flags(one):
    """How a run read its videos, as flags."""
    found = []
    for name in ("dataset", "split", "storage", "seq_len", "ds", "img_dim", "seed"):
        found += [f"--{name}", str(one.flags[name])]
    return found + ["--resize", "x".join(map(str, one.flags["resize"]))]


def draw(page, found, datasets):
    """Draw all pictures into the page -> sentences about those that could not be drawn."""
    failed = []
    for name, caption, argv in wanted(found, datasets):
        argv += ["--out", str(page.folder / "pictures" / name)]
        try:
            pictures.main(argv)
        except (DataError, UsageError, CheckpointError, RunError, OSError) as error:
            failed.append(f"picture {name}: {explain(error) or error}")
            continue
        page.picture(page.folder / "pictures" / f"{name}.png", caption,
                     "python -m analysis.pictures " + shlex.join(argv))
    return failed


# --- the page ------------------------------------------------------------------------------------------------

def write_results(page, found, cells):
    page.section("Results")
    for (dataset, split), rows in cells.groupby(["dataset", "split"]) if len(cells) else ():
        page.table(f"evidence_{dataset}_split{split}", evidence.summary(rows),
                   f"{dataset}, split {split}: means over the seeds of training, ± their standard deviation.")
    if unknown := unknown_modes(one.name for one in found["retrieval"]):
        page.items(unknown)
    table = results(found)
    if len(table):
        page.table("results", table, "Every result there is. R@k, top-k: shares of the test videos. Linear probe of "
                   "features: mean and deviation over draws of held-out recordings, the features being the same.")
    else:
        page.text("No retrieval and no test yet.")


def write_comparison(page, found):
    page.section("Beside the paper")
    page.text("The paper's figures are its own, not measured here. What differs in protocol stands beside them; where "
              "the data set differs, the two numbers are not comparable.")
    table, common = beside_the_paper(found)
    if len(table):
        page.table("beside_the_paper", table, "Per cent; of runs that differ in the seed alone, the first.")
        for stage, texts in common.items():
            page.text(f"Ours for the paper's, in every {stage}: {grouped(texts) or 'no flag differs'}.")
    columns = ["method", "pretrained on", "UCF101", "HMDB51"]
    finetuned = pd.DataFrame(paper.FINETUNED, columns=columns).astype({"UCF101": str, "HMDB51": str})
    page.table("paper_finetuned", finetuned,
               "The paper's table of fine-tuned accuracy, split 1, per cent.")
    searched = [{"method": method, **{f"R@{k}": str(value) for k, value in row.items()}}
                for method, row in paper.RETRIEVAL.items()]
    page.table("paper_retrieval", pd.DataFrame(searched),
               "The paper's table of retrieval on UCF101, per cent; its abstract says 46.1 for DualVar's R@1.")


def write_runs(page, found):
    page.section("Runs")
    table = runs_table(found)
    if len(table):
        page.table("runs", table, "Training runs; lr is the highest; training: steps times their mean duration.")
    page.section("Data")
    table, missing = data_table(found)
    if len(table):
        page.table("data", table, "Lists as they are now.")
    page.items(missing)


def main(argv):
    args = flags().parse_args(argv)
    found = find(args.log, args.experiment, args.dataset)
    everything = [one for runs in found.values() for one in runs]
    if not everything:
        raise UsageError(f"{args.log} holds no runs" + (f" of {args.experiment}" if args.experiment else "")
                         + (f" on {args.dataset}" if args.dataset else "")
                         + ": name <log_dir>/<prefix>, or run a stage first")
    datasets = sorted({one.flags["dataset"] for one in everything})
    if args.dry_run:
        print("Report of " + ", ".join(f"{stage}/{one.name}" for stage, runs in found.items() for one in runs))
        print("pictures: " + ", ".join(name for name, _, _ in wanted(found, datasets)))
        return
    name = args.experiment or args.dataset or "all"
    page = Page(f"DualVar: {name}", args.out or args.log / "report" / name)
    versions = sorted({f"torch {one.facts['torch']}, OpenCV {one.facts['opencv']}, Python {one.facts['python']}, "
                       f"commit {one.facts['commit']}" for one in everything})
    page.text(f"Made {time.strftime('%Y-%m-%d %H:%M')} from {args.log}. {'; '.join(versions)}.", quiet=True)
    cells = evidence.collect(args.log)
    if len(cells):
        names = {one.name for one in found["retrieval"]}
        cells = cells[[name in names for name in cells["name"]]]
    write_results(page, found, cells)
    write_comparison(page, found)
    page.section("Pictures")
    failed = draw(page, found, datasets)
    write_runs(page, found)
    page.section("Not run")
    page.items(not_run(found, args.planned) + failed)
    page.section("Flags")
    for one in everything:
        page.folded(f"{one.stage}/{one.name}", "\n".join(f"--{k} {v}" for k, v in sorted(one.flags.items())))
    print(f"report: {page.write()}")


if __name__ == "__main__":
    run(main)

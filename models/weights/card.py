"""The card of shared weights, README.md as the Hugging Face hub reads it: what they are, and what is known of them.

Data, recipe and results come from the folder of the run. A result counts where it says, by its fingerprint, that it is
of these very weights.
"""
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from core.errors import DataError
from core.inputs import COUNT, fault, read_json
from core.names import markdown, shown
from dataset.augment import MEAN, STD

from .. import options_of_others
from ..dualvar import TERMS
from ..protocol import Protocol, spacing
from .runs import MOVE, Run
from .sources import is_remote

PAPER = "https://arxiv.org/abs/2107.01194"
# flags that say where and on what a run was made, and nothing of what came out; paths are nobody else's business
OF_MACHINE = {"workers", "loader_timeout", "log_dir", "prefix", "name", "device", "dry_run", "resume", "override",
              "save_freq", "save_steps", "keep", "keep_epoch", "print_freq", "checkpointing", "compile", "eval_every",
              "eval_videos", "videos"}
USUAL = {"retrieval": "nearest-neighbour retrieval (retrieval.py)",
         "last": "linear probe (finetune.py --train_what last)", "ft": "fine-tuning (finetune.py)",
         "temporal": "questions about time (analysis.temporal)"}
FLOORS = {"thumbnail": "mean pictures", "random": "random weights"}
CLIPS = {"dataset": str, "seq_len": COUNT, "ds": COUNT, "fps": (None, float), "img_dim": COUNT, "resize": [COUNT]}
ASKED = {"clips": {"linear": {"mean": float, "error": float}}, "above_floors": {"linear": bool},
         "at_chance": {"linear": bool}}  # of a question about time
BEHIND = {"weights": str, "pretrained": (None, str), "train_what": (None, str)}  # of a classifier that was tested


class Measured(NamedTuple):
    """A result: its kind, of USUAL, "test" or "floor"; what it is called; {measure: share of the videos}."""

    kind: str
    title: str
    dataset: str
    videos: int
    clips: str
    values: dict[str, float]
    chance: float


# --- what is known -------------------------------------------------------------------------------------------

def results_of(run: Run, own: Iterable[str],
               net: tuple[str, float]) -> tuple[list[Measured], list[dict[str, Any]], int]:
    """-> (results of the weights of these fingerprints, and floors measured like them; those of questions about time;
    how many others there are that do not say which weights they are of).

    net: network and width, of which random weights are a floor. Raises DataError, naming the file, where a result is
    damaged.
    """
    own, nameless = {*own}, 0
    found: list[Measured] = []
    floors: list[Measured] = []
    temporal: list[dict[str, Any]] = []
    for path in sorted(run.log.glob("*/*/results.json")) if run.log else ():
        stage = path.parents[1].name
        if stage not in ("retrieval", "test", "temporal"):
            continue
        content = read_json(path, {"flags": {str: object}, str: object}, MOVE)
        flags = content["flags"] = {"fps": None, **content["flags"]}  # which results before it do not say
        weights = content.get("weights")
        nameless += "weights" not in content
        if stage == "retrieval":
            floor = flags.get("pretrain") == "thumbnail" or flags.get("pretrain") == "random" and net == (
                flags.get("net"), flags.get("width") or 1)
            if floor:
                floors.append(_retrieval(content, path, f"floor, {FLOORS[flags['pretrain']]}"))
            elif isinstance(weights, str) and weights in own:
                found.append(_retrieval(content, path))
                found += _probe(content, path, found[-1])
        elif isinstance(weights, dict):
            if stage == "test":
                found += _tests(content, path, own)
            elif titles := [title for title, one in weights.items() if isinstance(one, str) and one in own]:
                temporal.append({**_shaped(content, {
                    "flags": {**CLIPS, "split": COUNT}, "tasks": {str: {"title": str, "chance": float}},
                    "measures": {titles[0]: {"tasks": {str: ASKED}}}}, path), "title": titles[0]})
    there = {(one.dataset, one.clips) for one in found if one.kind == "retrieval"}
    found += [one for one in floors if (one.dataset, one.clips) in there]
    return [one for place, one in enumerate(found) if one not in found[:place]], temporal, nameless


def _shaped(content: dict[str, Any], shape: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """A result's content, of a shape as core.inputs.fault takes it. DataError, naming the file, where it is not."""
    if wrong := fault(content, shape):
        raise DataError(f"{path} is damaged ({wrong}): {MOVE}")
    return content


def _clips(flags: Mapping[str, Any], crops: int = 1) -> str:
    """The clips of an evaluation as text."""
    size = " x ".join(map(str, flags["resize"][:2]))
    return (f"{flags['clips']} clips{f' x {crops} crops' if crops > 1 else ''} of {flags['seq_len']} frames at "
            f"{spacing(flags['ds'], flags['fps'])}, {flags['img_dim']} px of frames of {size}")


def _retrieval(content: dict[str, Any], path: Path, floor: str = "") -> Measured:
    _shaped(content, {"flags": {**CLIPS, "clips": COUNT, "split": COUNT}, "results": {str: float}, "classes": COUNT,
                      "queries": COUNT, "gallery": COUNT}, path)
    flags, title = content["flags"], f"retrieval among {content['gallery']} training videos"
    return Measured("floor" if floor else "retrieval", f"{floor}: {title}" if floor else title,
                    f"{shown(flags['dataset'])} split {flags['split']}", content["queries"], _clips(flags),
                    content["results"], 1 / content["classes"])


def _probe(content: Mapping[str, Any], path: Path, retrieval: Measured) -> list[Measured]:
    """What analysis.probe found on the features that a retrieval saved, if they are still those; [] or one."""
    flags, beside = content["flags"], path.parents[2] / "features" / path.parent.name
    saved, log = flags.get("save_features"), Path(str(flags.get("log_dir")), str(flags.get("prefix")))
    start = Path() if log.is_absolute() else Path(*path.parts[:-3 - len(log.parts)])  # where the retrieval was started
    for folder in [start / saved, beside] if isinstance(saved, str) else []:
        if (folder / "probe.json").is_file():
            probe = read_json(folder / "probe.json", {"linear": [float], "train": COUNT, str: object}, MOVE)
            if probe["linear"] and content.get("features") and content["features"] == probe.get("features"):
                return [retrieval._replace(kind="probe", title=f"linear probe on {probe['train']} features", values={
                    "top1": sum(probe["linear"]) / len(probe["linear"])})]
    return []


def _tests(content: dict[str, Any], path: Path, own: set[str]) -> list[Measured]:
    """A test's result for each split whose classifier has these weights, or was trained from them."""
    _shaped(content, {"flags": {**CLIPS, "clips": COUNT, "crops": COUNT}, "classes": COUNT,
                      "results": {str: {"videos": float, str: float}}, "weights": {str: BEHIND}}, path)
    flags, found = content["flags"], []
    for split, behind in content["weights"].items():
        values = content["results"].get(split)
        if values is None or not own & {behind["weights"], behind["pretrained"]}:
            continue
        kind = "test" if behind["weights"] in own else "last" if behind["train_what"] == "last" else "ft"
        title = {"test": "test of this classifier", "last": "linear probe, test", "ft": "fine-tuned, test"}[kind]
        number = shown(split.removeprefix("split").lstrip("0"))
        found.append(Measured(kind, title, f"{shown(flags['dataset'])} split {number}", int(values["videos"]),
                              _clips(flags, flags["crops"]),
                              {name: value for name, value in values.items() if name != "videos"},
                              1 / content["classes"]))
    return found


# --- the card ------------------------------------------------------------------------------------------------

def card(config: Mapping[str, Any], numbers: int, run: Run, state: Mapping[str, Any], foreign: bool,
         own: Iterable[str], license: str | None = None) -> str:
    """The text of README.md.

    config: what config.json says; numbers: that the network has; run: as `run_of`; state: the checkpoint, of which
    epoch and step are told; own: fingerprints of the weights.
    """
    results, temporal, nameless = results_of(run, own, (config["network"], config["width"]))
    classes = (config["heads"] or {}).get("kind") == "classes"
    dataset = shown(run.flags["dataset"]) if isinstance(run.flags.get("dataset"), str) else None
    mode, framework = run.flags.get("mode"), run.flags.get("framework")
    how = config["origin"] if foreign else "whose training is not known here"
    if classes or "train_what" in run.flags:
        number = f" {config['heads']['num_classes']}" if classes else ""
        what = "its last layer" if run.flags.get("train_what") == "last" else "fine-tuned and"
        how = f"{what} trained to tell{number} classes"
    elif mode is not None:
        how = f"pretrained by DualVar ({shown(framework)}, {shown(mode)})"
    before = run.flags.get("pretrain")  # of a classifier
    if not isinstance(before, str) or before == "random":
        before = None
    title = f"{config['network']} x {config['width']:g}, {how}" + (f", on {dataset}" if dataset else "")
    named = dataset if run.flags.get("videos") is None else None  # a folder is no data set of the hub
    if before and run.flags.get("train_what") == "last" and not classes:
        named = None  # the backbone alone did not learn from it
    text = [_front(config, named, results, title, classes, mode is not None, license), f"# {markdown(title)}", "",
            f"A video network with {numbers:,} numbers, "
            + ("its backbone alone." if config["heads"] is None else f"backbone and heads ({config['heads']['kind']}).")
            + (f" [The method]({PAPER}) is described in the paper; these weights are not its authors'." if mode else "")
            + (f" By the names in the file that they come from, these weights are {markdown(config['origin'])}: "
               "whoever made them says under which licence they may be used." if foreign else "")
            + (f" Their training began with the weights {markdown(without_folders(before))}, whose licence holds for "
               "them too." if before else "")
            + (" The backbone was not trained on these classes: it is that of those weights."
               if before and run.flags.get("train_what") == "last" else ""), ""]
    if config["untrained"]:
        text += [f"**{len(config['untrained'])} of its tensors were never trained**: the file that they were to come "
                 "from lacked them.", ""]
    if config["dropped"]:
        text += [f"**This is a part of another network**: {len(config['dropped'])} tensors of the file that it comes "
                 "from have no place in it and were dropped.", ""]
    text += ["## Use", "", "With a checkout of the DualVar project, in its folder:", "", "```python",
             "from models import from_pretrained", "", 'network = from_pretrained("owner/name")  # or this folder',
             "features = network(clips)  # (B, 3, T, H, W) float -> (B, channels, t, h, w)", "```", ""]
    text += _protocol_lines(config["protocol"])
    text += _data_and_recipe(run, dataset, state)
    text += _result_lines(results, temporal)
    text += _missing_lines(run, state, results, temporal, nameless)
    versions = config["versions"]
    text += ["## Files", "", f"`model.safetensors` has the SHA-256 `{config['sha256']}`; `config.json` says so too, "
             f"and what the network is. Written by commit {markdown(str(versions['commit']))} with torch "
             f"{versions['torch']}, Python {versions['python']}.", ""]
    if license is None:
        text += ["No licence of these weights was stated. Their owner adds `license:` to the lines at the top.", ""]
    return "\n".join(text)


def _front(config: Mapping[str, Any], dataset: str | None, results: Sequence[Measured], title: str, classes: bool,
           pretrained: bool, license: str | None) -> str:
    """What the hub reads, YAML. All texts are quoted as JSON is, which YAML takes as it is."""
    results = [one for one in results if one.kind != "floor"]
    lines = ["---"]
    if license is not None:
        lines.append(f"license: {json.dumps(license)}")
    lines += ["library_name: dualvar", "tags:", *(f"- {json.dumps(tag)}" for tag in (
        "video", *(["self-supervised"] if pretrained else []), "dualvar", "pytorch", config["network"]))]
    if classes:
        lines.append("pipeline_tag: video-classification")
    if dataset:
        lines += ["datasets:", f"- {json.dumps(dataset)}"]
    if results:
        lines += ["model-index:", f"- name: {json.dumps(title)}", "  results:"]
    for result in results:
        lines += ["  - task:", "      type: video-classification", f"      name: {json.dumps(result.title)}",
                  "    dataset:", *(f"      {key}: {json.dumps(result.dataset)}" for key in ("type", "name")),
                  "    metrics:"]
        for name, value in result.values.items():
            lines += ["    - type: accuracy", f"      value: {value:.4f}",
                      f"      name: {json.dumps(f'{shown(name)} ({result.clips})')}"]
    return "\n".join([*lines, "---"])


def _protocol_lines(values: Mapping[str, Any]) -> list[str]:
    clips = Protocol.read(values, "the clip protocol")
    height, width = clips.frame_size
    return ["## Clips", "", f"{clips.seq_len} frames at {clips.spacing}, scaled to {height} x {width} pixels "
            f"and cropped to {clips.img_dim} x {clips.img_dim}. The network takes clips normalised with the mean "
            f"{MEAN} and standard deviation {STD} of red, green and blue in 0..1"
            + (f", and itself converts them to its own, {list(clips.mean)} and {list(clips.std)}." if clips.converts
               else "."), ""]


def _data_and_recipe(run: Run, dataset: str | None, state: Mapping[str, Any]) -> list[str]:
    if not run.flags:
        return ["## Data and recipe", "", "Not known: the checkpoint does not say, and it did not lie in the folder of "
                "a run.", ""]
    videos = run.facts.get("videos")
    split = run.flags.get("split")
    lines = ["## Data", "", f"Trained on {markdown(shown(dataset))}"
             + (", without labels" if run.flags.get("videos") else f", split {markdown(shown(split))}")
             + (f", {videos} videos" if isinstance(videos, int) else "") + ".", "", "## Recipe", "",
             "| flag | value |", "|---|---|"]
    for name, value in used_flags(run.flags).items():
        if name in ("pretrain", "checkpoint") and isinstance(value, str):
            value = without_folders(value)
        if name not in OF_MACHINE and name.isidentifier() and value is not None:
            lines.append(f"| `{name}` | {markdown(shown(value))} |")
    own = state.get("versions")
    versions = own if isinstance(own, dict) else run.facts
    known = [f"{name} {markdown(shown(versions[name]))}" for name in ("commit", "torch", "python", "gpu", "processes")
             if versions.get(name) is not None]
    return [*lines, "", *([f"Trained with {', '.join(known)}.", ""] if known else [])]


def without_folders(path: str) -> str:
    """A path of weights as others may see it: <run>/model/<file> of a run, the file's name, or hf:... as it is."""
    if is_remote(path):
        return path
    parts = Path(path).parts
    return "/".join(parts[-3:] if parts[-2:-1] == ("model",) else parts[-1:])


def used_flags(flags: Mapping[str, Any]) -> dict[str, Any]:
    """A run's flags, without those of other frameworks and of loss terms that its mode has not."""
    others = options_of_others(flags["framework"]) if "framework" in flags else set()
    if isinstance(mode := flags.get("mode"), str):
        others |= {f"{term}_weight" for term in TERMS if term not in mode.split("-")}
    return {name: value for name, value in flags.items() if name not in others}


def _result_lines(results: Sequence[Measured], temporal: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = ["## Results", ""]
    if not results and not temporal:
        return [*lines, "None was measured with these weights.", ""]
    if results:
        lines += ["Of these very weights, and of floors on the same clips. Shares of the test videos; ± is one "
                  "standard error of so many videos.", "",
                  "| what | data | videos | clips of a video | chance at 1 | result |", "|---|---|---:|---|---:|---|"]
    for one in results:
        values = ", ".join(f"{markdown(shown(name))} {value:.3f} ± {_error(value, one.videos):.3f}"
                           for name, value in one.values.items())
        lines.append(f"| {markdown(one.title)} | {markdown(one.dataset)} | {one.videos} | {one.clips} | "
                     f"{one.chance:.3f} | {values} |")
    for content in temporal:
        flags, measures = content["flags"], content["measures"][content["title"]]["tasks"]
        dataset = markdown(shown(flags["dataset"]))
        lines += ["", f"Questions about time to the frozen features, linear probe, {dataset}, clips of "
                  f"{flags['seq_len']} frames, {flags['img_dim']} px:", "",
                  "| question | chance | accuracy | above all floors |", "|---|---:|---|---|"]
        lines += [_question(task, measures[name]) for name, task in content["tasks"].items() if name in measures]
    return [*lines, ""]


def _question(task: Mapping[str, Any], measures: Mapping[str, Any]) -> str:
    """A row of the table of questions about time."""
    own, above = measures["clips"]["linear"], measures["above_floors"]["linear"]
    found = f"{own['mean']:.3f} ± {own['error']:.3f}"
    if not measures["at_chance"]["linear"]:
        found = "withheld: its control is not at chance"
    return f"| {markdown(shown(task['title']))} | {task['chance']:.3f} | {found} | {'yes' if above else 'no'} |"


def _error(share: float, videos: int) -> float:
    """One standard error of a share of so many videos."""
    return (max(share * (1 - share), 0) / max(videos, 1)) ** 0.5


def _missing_lines(run: Run, state: Mapping[str, Any], results: Sequence[Measured],
                   temporal: Sequence[Mapping[str, Any]], nameless: int) -> list[str]:
    """What was not measured."""
    there = {one.kind for one in results} | ({"temporal"} if temporal else set())
    if "test" in there:  # a classifier's own test is that of the training that made it
        there.add(str(run.flags.get("train_what")))
    lines = [f"- {name}: not measured" for kind, name in USUAL.items() if kind not in there]
    if not fault({**state, **run.flags}, {"epoch": int, "step": int, "steps": int, "epochs": int}):
        place, end = (state["epoch"] + 1, state["step"]), (run.flags["epochs"], state["steps"])
        if place != end:
            lines.append(f"- the end of training: these weights are of epoch {place[0]} of {end[0]}, step {place[1]} "
                         f"of {end[1]}")
    tested = sorted({one.dataset for one in results} | {
        f"{shown(one['flags']['dataset'])} split {one['flags']['split']}" for one in temporal})
    lines += [f"- any data but {markdown(', '.join(tested))}" if tested else "- any data",
              "- the spread over seeds: this is one run" + (
                  f", of seed {markdown(shown(run.flags['seed']))}" if "seed" in run.flags else ""),
              "- robustness, fairness, and videos of another kind than those it was trained on"]
    if nameless:
        lines.append(f"- what {nameless} of the results beside the run may say, which do not name their weights")
    return ["## What was not measured", "", *lines, ""]

"""The runs and results in a folder <log_dir>/<prefix>, and which training is behind a result."""
import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.errors import DataError
from core.inputs import COUNT, fault, read_json
from core.names import quoted
from dataset.storage import SOURCES
from engine.folders import weights_name
from engine.log import log_rows

from .features import PROBED
from .modes import mode_position

STAGES = {"pretrain": "pretraining", "last": "linear probe", "ft": "fine-tuning"}  # those that train
RESULTS = ("retrieval", "test")  # those that measure
SPLIT = re.compile("split[0-9]{2}")
SHOTS = re.compile("[1-9][0-9]{0,8}")
APART = ", apart"  # behind the names of what analysis.probe --apart measured


# Shapes, as core.inputs.fault takes them, of what is used of a run: its flags, and the rest of its file
WEIGHTS = (None, str)
FLAGS = {"dataset": str, "split": ("all", COUNT), "storage": tuple(SOURCES), "seq_len": COUNT, "ds": COUNT,
         "img_dim": COUNT, "resize": [COUNT], "seed": range(2**63), "net": (None, str), "width": (None, float),
         str: object}
TRAINED = {"epochs": COUNT, "lr": float}
FLAGS_OF_STAGE: dict[str, dict[str, Any]] = {
    "pretrain": {**TRAINED, "split": (None, COUNT), "framework": str, "mode": str, "n_series": COUNT,
                 "time_reverse": float},
    "last": {**TRAINED, "train_what": str, "pretrain": WEIGHTS},
    "ft": {**TRAINED, "train_what": str, "pretrain": WEIGHTS},
    "retrieval": {"clips": COUNT, "pretrain": WEIGHTS, "save_features": WEIGHTS},
    "test": {"clips": COUNT, "checkpoint": WEIGHTS}}
FACTS = {"torch": str, "opencv": str, "python": str, "commit": str, "gpu": (None, str), "processes": COUNT}
TESTED = {"top1": float, "top5": float, "mean_class": float, "videos": float}
FACTS_OF_STAGE: dict[str, dict[str, Any]] = {
    **dict.fromkeys(STAGES, {"videos": COUNT, "effective_batch": COUNT}),
    "retrieval": {"results": {str: float}, "queries": COUNT, "classes": COUNT},
    "test": {"results": {str: TESTED}, "classes": COUNT}}


class Run:
    """A folder that a stage wrote: name, stage, flags, the rest of its JSON file, and where it lies.

    Raises DataError, naming file and field, where the file is damaged.
    """

    def __init__(self, path: Path, stage: str):
        self.folder, self.name, self.stage = path.parent, path.parent.name, stage
        hint = f"move the folder {path.parent} away, or run the stage again"
        self.facts = read_json(path, {**FACTS, **FACTS_OF_STAGE[stage], "flags": {**FLAGS, **FLAGS_OF_STAGE[stage]}},
                               hint)
        self.flags = {"fps": None, **self.facts["flags"]}  # which runs before it did not write
        splits = set(self.facts["results"]) - {"mean"} if stage == "test" else {"split01"}
        if (len(self.flags["resize"]) != 2 or fault(self.flags["fps"], (None, float)) or not splits
                or not all(map(SPLIT.fullmatch, splits)) or self.flags["split"] == "all" and stage != "test"):
            raise DataError(f"{path} is damaged (no results of a split, --resize of other than two numbers, or a "
                            f"wrong --fps): {hint}")

    @functools.cached_property
    def rows(self) -> list[dict[str, float]]:
        """Of log.jsonl, a dictionary an epoch."""
        return log_rows(self.folder)

    @property
    def dataset(self) -> str:
        return self.flags["dataset"]

    @property
    def dataset_and_split(self) -> str:
        split = self.flags["split"]
        return self.dataset if split is None else f"{self.dataset} split{int(split):02d}"  # --videos has none

    @property
    def first_split(self) -> int:
        """Number of the first split that a test was of."""
        return int(min(set(self.facts["results"]) - {"mean"})[5:])

    def features(self) -> Path | None:
        """Folder of the features that a retrieval saved, also where all was moved; None where there is none."""
        saved = Path(self.flags.get("save_features") or "")
        beside = self.folder.parents[1] / "features" / self.name
        return next((path for path in (saved, beside) if (path / "protocol.json").is_file()), None)

    def has_clip_features(self) -> bool:
        """Whether the features of single clips were saved too."""
        folder = self.features()
        return folder is not None and (folder / "train_clips.npy").is_file()


def read_probe(folder: Path) -> dict[str, list[float]]:
    """Top-1 of the probes of a folder of features -> {"linear probe": [of each seed], "5-shot": [of each draw], ...};
    those of analysis.probe --apart are called "linear probe, apart", and "R@1, apart" is beside them.

    {} where there is no probe.json, and no shots where none were asked for.
    """
    found: dict[str, list[float]] = {}
    for name, behind in zip(PROBED, ("", APART), strict=True):
        if (path := folder / name).exists():
            found |= {measure + behind: values for measure, values in _read_probe(path, bool(behind)).items()}
    return found


def _read_probe(path: Path, votes: bool) -> dict[str, list[float]]:
    hint = "remove it, and run analysis.probe again"
    written = {"shots": {}, "vote": {}, **read_json(path, {"linear": [float]}, hint)}  # not in earlier versions' files
    wrong = fault(written["shots"], {str: [float]}, "shots") or fault(written["vote"], {str: float}, "vote")
    found = {"linear probe": written["linear"]}
    for k, values in written["shots"].items() if not wrong else ():
        if not SHOTS.fullmatch(k):
            wrong = f"{quoted(k)} is no number of shots"
        found[f"{k}-shot"] = values
    if not wrong and votes and "1" in written["vote"]:
        found["R@1"] = [written["vote"]["1"]]
    if wrong := wrong or next((f"{name} is empty" for name, values in found.items() if not values), None):
        raise DataError(f"{path} is damaged ({wrong}): {hint}")
    return found


Runs = dict[str, list[Run]]  # by stage, those of STAGES and RESULTS


def find_runs(log: Path, experiment: str | None = None, dataset: str | None = None) -> Runs:
    """All runs in a folder, of each stage in the order of modes and names.

    experiment: only what is called so, or so and _ and more; dataset: only what was trained or tested on it
    """
    found = {}
    for stage in (*STAGES, *RESULTS):
        file = "flags.json" if stage in STAGES else "results.json"
        runs = [Run(path, stage) for path in sorted((log / stage).glob(f"*/{file}"))]
        runs.sort(key=lambda run: (mode_position(run.name.partition("_")[0]) or (-1,), run.name))
        found[stage] = [run for run in runs
                        if (experiment is None or run.name == experiment or run.name.startswith(f"{experiment}_"))
                        and (dataset is None or run.dataset == dataset)]
    return found


def all_runs(found: Mapping[str, list[Run]]) -> list[Run]:
    """The runs of all stages, one after the other."""
    return [run for runs in found.values() for run in runs]


def training_behind(result: Run, found: Runs) -> tuple[Run | None, Run | None]:
    """-> (fine-tuning or probe, pretraining) that a result's or classifier's weights come from, None if not found."""
    trained = None
    if result.stage == "test":
        path = Path((result.flags["checkpoint"] or "").replace("{split}", str(result.first_split)))
        stage, name = path.parent.parent.parent.name, weights_name(path)  # <stage>/<name>/model/<file>
        stages = (stage,) if stage in ("ft", "last") else ("ft", "last")
        trained = next((run for stage in stages for run in found[stage] if run.name == name), None)
    weights = (trained or result).flags.get("pretrain") or ""
    return trained, next((run for run in found["pretrain"] if run.name == weights_name(weights)), None)

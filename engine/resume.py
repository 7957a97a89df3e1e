"""Going on with a run: which checkpoint, and whether it is of the run that the flags describe."""
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from core.dist import rank, world_size
from core.errors import CheckpointError, UsageError
from core.names import shown
from dataset.lists import VideoList
from models import options_of_others
from models.backbones import BACKBONES
from models.backbones.base import Backbone
from models.weights.checkpoint import (
    epoch_copies,
    fingerprint,
    read_checkpoint,
    read_last_good,
    saved_checkpoints,
)
from models.weights.training import check_training_state, check_training_tensors

from .precision import PRECISIONS, check_precision

# flags that a run may change when it goes on; --epochs so that it can be made longer
FREE_FLAGS = {"workers", "loader_timeout", "skip_bad_samples", "device", "log_dir", "prefix", "name", "resume",
              "storage", "override", "save_freq", "save_steps", "keep", "keep_epoch", "print_freq", "dry_run", "epochs",
              "checkpointing", "eval_every", "eval_videos", "videos"}

# what runs did before there were these flags
BEFORE = {"precision": "fp32", "accumulate": 1, "compile": False, "centres": "any", "permutations": "any",
          "segment_gap": 0, "fps": None, "holdout": 0.0}


@dataclass(frozen=True)
class Resume:
    """A checkpoint to go on from."""

    state: dict[str, Any]  # its content
    path: Path
    precision: str  # the run's, which it keeps on whatever machine it goes on
    aside: dict[Path, str] = field(default_factory=dict)  # files to rename before the run writes: {path: prefix}
    named: bool = False  # by the user, so that it need not be the latest of the run

    def __str__(self) -> str:
        return f"{self.path}: epoch {self.state['epoch']}, {self.state['step']} steps of it"


def fingerprints(videos: VideoList, backbone: Backbone | None = None) -> dict[str, str]:
    """What a training run reads, told apart by content -> {name: text}."""
    inputs = {"training list": videos.fingerprint()}
    if backbone is not None:
        inputs["pretrained weights"] = fingerprint(backbone.state_dict(), backbone.protocol)
    return inputs


def find_resume(folder: Path, flags: Mapping[str, Any], config: Mapping[str, Any], inputs: Mapping[str, str],
                model: nn.Module, steps: int) -> Resume | None:
    """The checkpoint that --resume asks for, read and compared with a run's flags; None to begin.

    folder: the run's; flags: all of them, as plain types; config: what the model is built with; inputs: `fingerprints`;
    model: whose weights it will take, untouched here; steps: of an epoch.
    A run is never begun over another's checkpoints: UsageError. Raises CheckpointError where the checkpoint is of a
    run with other flags, which it would neither continue nor repeat, unless --override, or where any part of it is not
    what a run of this model writes.
    """
    saved = saved_checkpoints(folder / "model")
    if flags["resume"] is None:
        if saved and not flags["dry_run"]:
            raise UsageError(f"{folder} holds a run already: go on with --resume auto, or choose another --name")
        return None
    if flags["resume"] == "auto":
        if not saved:
            return None
        state, path, damaged = read_last_good(folder / "model")
        aside = dict.fromkeys(damaged, "damaged")  # or it would take the place of a whole one
        if damaged and rank() == 0:
            print(f"warning: {'; '.join(damaged.values())}: going on from {path}", file=sys.stderr)
        check_training_state(state, path)
    else:
        path = Path(flags["resume"])
        state = read_checkpoint(path)
        check_training_state(state, path)
        # copies of epochs to come are another try's, and must not be taken for this one's
        done = state["epoch"] if state["step"] == state["steps"] else state["epoch"] - 1
        aside = {path: "former" for epoch, path in epoch_copies(folder / "model").items() if epoch > done}
    flags_there = {**BEFORE, **state["flags"]}
    precision = flags["precision"]
    if precision in (None, "auto"):
        precision = flags_there["precision"]
        if precision not in PRECISIONS[1:]:
            raise CheckpointError(f"--resume {path} is not a training checkpoint of this program: its precision is "
                                  "unknown")
        check_precision(precision, flags["device"])
    net = config.get("net")
    config, config_there = (_without_sizes(its, net) for its in (config, state["config"]))
    ours, theirs = (its.get("framework") for its in (config, config_there))
    if (ours == theirs or None in (ours, theirs)) and (foreign := set(config) - set(config_there)):
        raise CheckpointError(f"--resume {path} is of another stage or program: its model has no "
                              f"{', '.join(sorted(foreign))}")
    differences = list(dict.fromkeys([
        *_differing_flags({**flags, "precision": precision}, flags_there, state["versions"]),
        *_differences(config, config_there), *_differences(inputs, state["inputs"]),
        *_differences({"steps of an epoch": steps}, {"steps of an epoch": state["steps"]})]))
    if differences and not flags["override"]:
        raise CheckpointError(f"--resume {path} is of another run: {'; '.join(differences)}; repeat its "
                              "flags, choose another --name (PREFIX= of the launchers), or insist with --override")
    if differences and rank() == 0:
        print(f"warning: --override: {'; '.join(differences)}", file=sys.stderr)
    check_training_tensors(state, path, model)
    return Resume(state, path, precision, aside, named=flags["resume"] != "auto")


def _without_sizes(config: Mapping[str, Any], net: str | None) -> dict[str, Any]:
    """A config with the normalisation alone of its clip protocol: the flags say the rest, and there are more of them.

    Where it says none it is that of `net`, as in runs before there was another.
    """
    said = config.get("protocol") or (
        BACKBONES[net].protocol.values() if isinstance(net, str) and net in BACKBONES else {})
    normalised = {name: said.get(name) if isinstance(said, dict) else said for name in ("mean", "std")}
    return {**{name: value for name, value in config.items() if name != "protocol"}, **normalised}


def _differences(here: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    """What is not the same, such as "lr 0.003 there, 0.1 here"."""
    return [f"{key} {shown(there.get(key))} there, {shown(here[key])} here" for key in here
            if there.get(key) != here[key]]


def _differing_flags(here: dict[str, Any], there: dict[str, Any], versions: Mapping[str, Any]) -> list[str]:
    """`_differences` of flags, without those that a run may change and those of frameworks that it does not use."""
    for flags in (here, there):  # frames packed or not are the same pixels, those of the videos are not
        flags["pixels"] = "of the videos" if flags.get("storage") == "video" else "of extracted frames"
    if here["bn"] != "sync":  # each process takes batch statistics of its own
        here["processes"], there["processes"] = world_size(), versions.get("processes")
    free = FREE_FLAGS - ({"epochs"} if here["cosine"] else set())
    free |= options_of_others(here.get("framework"))
    return _differences({key: value for key, value in here.items() if key not in free}, there)

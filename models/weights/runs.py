"""The run that a checkpoint is of, by what it holds and by flags.json beside it, and the clips of its training."""
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from core.inputs import fault, read_json

from ..backbones import BACKBONES
from ..protocol import Protocol
from .identify import template
from .match import Match
from .origins import config_of, matched, protocol_of

MOVE = "move its folder away, or make it again"
CLIPS = {"seq_len": int, "ds": int, "fps": (None, float), "img_dim": int, "resize": [int]}  # flags of a run


class Run(NamedTuple):
    """What is known of the training: its flags, what its flags.json says beside them, and the folder of all stages."""

    flags: dict[str, Any]
    facts: dict[str, Any]
    log: Path | None


def run_of(path: str | Path, checkpoint: Mapping[str, Any], net: str, width: float) -> Run:
    """The run of a checkpoint of this network, where it says so or lies in the model/ of a run of this network."""
    place = Path(path).absolute()
    folder = place.parent.parent
    written = folder / "flags.json"
    facts: dict[str, Any] = {}
    if place.is_file() and place.parent.name == "model" and written.is_file():
        facts = read_json(written, {"flags": {str: object}, str: object}, MOVE)
        own = facts["flags"]
        if own.get("net") not in (None, net) or own.get("width") not in (None, width):
            facts = {}
    flags = checkpoint.get("flags")
    if not isinstance(flags, dict) or fault(flags, {str: object}):
        flags = facts.get("flags", {})
    return Run(flags, facts, folder.parents[1] if facts and len(folder.parents) > 2 else None)


def clips_of(checkpoint: Mapping[str, Any], net: str, width: float, path: str | Path,
             result: Match | None = None) -> Protocol:
    """What clips weights for `net` expect: as the checkpoint says, or as its run was trained, or as others' are.

    result: the Match with the network, where it is known. Raises CheckpointError where the file says nonsense.
    """
    if (own := config_of(checkpoint).get("protocol")) is not None:
        return Protocol.read(own, f"checkpoint {path}")
    found = protocol_of(checkpoint, result or matched(checkpoint, template(net, 1.0)), BACKBONES[net].published,
                        f"checkpoint {path}")
    flags = {"fps": None, **run_of(path, checkpoint, net, width).flags}
    if fault(flags, CLIPS) or len(flags["resize"]) != 2:
        return found
    trained = found.of_clips(flags["seq_len"], flags["ds"], flags["img_dim"], tuple(flags["resize"]),
                             flags["fps"])
    return Protocol.read(trained.values(), f"the flags of {path}")

"""A network as a folder that others load in one line.

    model.safetensors    its tensors in our names: of the backbone alone, or of the heads too
    config.json          network, width, heads, clip protocol, SHA-256 of the tensors' file, versions
    README.md            its card: data, recipe, results, and what was not measured

What is read is checked to be that and nothing else, before memory is taken; nothing in such a folder is run.
"""
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import CheckpointError, RunError
from core.inputs import fault, read_json
from core.names import path_fault, quoted, shown

from ..backbones import BACKBONES
from ..backbones.base import Backbone
from ..classifier import Classifier
from ..dualvar import HEADS, DualEncoder
from ..protocol import Protocol
from . import hub
from .identify import MAX_WIDTH
from .match import load_strict
from .tensors import bytes_of, read_tensors

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
FILES = (CONFIG, WEIGHTS, CARD)
FORMAT = "dualvar 1"
LARGEST_CONFIG = 2**20  # bytes
LARGEST_WEIGHTS = 2**33  # bytes; a network here of width 4 has a quarter of that
SAVE = "python -m models.weights save"

SIZE = range(1, 2**16)  # of a head
SHAPE = {"format": FORMAT, "network": str, "width": float, "heads": (None, {"kind": str}), "protocol": {str: object},
         "untrained": [str], "sha256": str, "versions": {str: object}}
OF_HEADS: dict[str, dict[str, Any]] = {  # {kind: what config.json says of heads, with which they are built}
    "pretraining": {"dim": SIZE, "n_series": SIZE, "series_dim": SIZE, "heads": [tuple(HEADS)]},
    "classes": {"num_classes": SIZE, "dropout": float, "final_bn": bool, "l2_norm": bool, "train_what": ("ft", "last")}}


# --- reading -------------------------------------------------------------------------------------------------

def from_pretrained(source: str | Path, heads: bool = False, net: str | None = None) -> nn.Module:
    """The network that `save` wrote, in evaluation mode, its features those of the checkpoint bit for bit.

    source: a folder, or "owner/name" of the Hugging Face hub, also with "@revision". -> the Backbone, whose `protocol`
    says which clips it expects; with heads the whole of which it is a part, where its heads were kept: a DualEncoder or
    a Classifier, whose `backbone` it is. net: the name of the network that it must be. Raises CheckpointError or
    DataError where it is another, or not what `save` writes.
    """
    folder, inside = _folder_of(source)
    config = read_config(folder, inside)
    if net not in (None, config["network"]):
        raise CheckpointError(f"{source} is of network {config['network']}, not {net}")
    if heads and config["heads"] is None:
        raise CheckpointError(f"{source} holds a backbone alone: its heads were not kept (--heads of {SAVE})")
    state = _state(config, folder, inside)
    model = build(config["network"], config["width"], config["heads"])
    load_strict(model, state, str(source))
    backbone = model if isinstance(model, Backbone) else model.backbone
    backbone.protocol = Protocol.read(config["protocol"], str(source))
    return (model if heads else backbone).eval()


def _folder_of(source: str | Path) -> tuple[Path, Path | None]:
    """-> (a folder on this machine, as `read_folder` takes it, where its links may lead)"""
    named = not path_fault(str(source))
    if named and Path(source).is_dir():
        return Path(source), None
    if isinstance(source, str) and hub.NAME.fullmatch(source):
        try:
            return downloaded(source)
        except (CheckpointError, RunError) as error:
            raise CheckpointError(f"{error}; and there is no folder {quoted(source)} here") from error
    hint = f": {SAVE} makes such a folder of a checkpoint" if named and Path(source).is_file() else ""
    raise CheckpointError(f"{quoted(str(source))} is neither a folder that is there nor owner/name of the Hugging Face "
                          f"hub{hint}")


def downloaded(name: str) -> tuple[Path, Path]:
    """The files of "owner/name" of the Hugging Face hub -> (their folder in its cache, where its links lead).

    Sizes are looked at before anything is downloaded. Raises CheckpointError as models.weights.hub does.
    """
    repository = hub.Repository(name)
    folder = repository.fetch(CONFIG, LARGEST_CONFIG)
    config = read_config(folder, repository.cache)
    other = repository.fetch(WEIGHTS, bytes_of(shapes(config, folder)))
    if other != folder:
        raise CheckpointError(f"{name} has changed while it was downloaded: try again")
    return folder, repository.cache


def read_folder(folder: Path, inside: Path | None = None) -> dict[str, Any]:
    """What `save` wrote -> as read_checkpoint gives it, with "state_dict" and "config".

    inside: the folder out of which links must not lead; None: `folder`. Raises CheckpointError or DataError, naming
    the file, where anything is another than it would be.
    """
    config = read_config(folder, inside)
    heads = {name: value for name, value in (config["heads"] or {}).items() if name != "kind"}
    lacks = {ours: config[name] for ours, name in (("partial", "untrained"), ("unused", "dropped")) if config[name]}
    whose = {"origin": config["project"]} if isinstance(config.get("project"), str) else {}
    return {"state_dict": _state(config, folder, inside), **whose, "config": {
        "net": config["network"], "width": config["width"], **heads, **lacks, "protocol": config["protocol"]}}


def read_config(folder: Path, inside: Path | None = None) -> dict[str, Any]:
    """The content of config.json. Raises CheckpointError or DataError where anything in it makes no sense."""
    path = file_of(folder, CONFIG, inside)
    if not path.exists():
        raise CheckpointError(f"{folder} has no {CONFIG}: it is no folder that {SAVE} wrote")
    config = {"dropped": [], **read_json(path, SHAPE, _hint(folder), most=LARGEST_CONFIG)}  # older ones lack it
    kind = (config["heads"] or {}).get("kind")
    wrong = None
    if config["network"] not in BACKBONES:
        wrong = f"network {quoted(config['network'])} is not one of {', '.join(BACKBONES)}"
    elif not 0 < config["width"] <= MAX_WIDTH:
        wrong = f"width {shown(config['width'])} is not above 0 and at most {MAX_WIDTH}"
    elif kind is not None and kind not in OF_HEADS:
        wrong = f"heads are of kind {quoted(kind)}, not {' or '.join(OF_HEADS)}"
    elif kind is not None:
        others = sorted(config["heads"].keys() - {"kind", *OF_HEADS[kind]})
        wrong = fault(config["heads"], {"kind": str, **OF_HEADS[kind]}, "heads") or (
            f"heads has {shown(others[0])}, which heads of this kind have not" if others else
            None if 0 <= config["heads"].get("dropout", 0) < 1 else "dropout is no probability")
    if wrong := wrong or fault(config["dropped"], [str], "dropped"):
        raise CheckpointError(f"{path}: {wrong}: {_hint(folder)}")
    Protocol.read(config["protocol"], str(path))
    return config


def build(network: str, width: float, heads: Mapping[str, Any] | None) -> Backbone | DualEncoder | Classifier:
    """The network of a config.json that was read, with weights of which nothing is promised.

    Draws of the caller's are not touched.
    """
    own = {name: value for name, value in (heads or {}).items() if name != "kind"}
    with torch.random.fork_rng(devices=[]):
        if heads is None:
            return BACKBONES[network](width)
        return (DualEncoder if heads["kind"] == "pretraining" else Classifier)(network, width=width, **own)


def shapes(config: Mapping[str, Any], folder: Path) -> dict[str, Tensor]:
    """The state dict that the config.json of a folder speaks of, on the meta device: names, shapes, no values.

    Raises CheckpointError where it is larger than weights of networks here are.
    """
    with torch.device("meta"):
        state = build(config["network"], config["width"], config["heads"]).state_dict()
    if (size := sum(value.nbytes for value in state.values())) > LARGEST_WEIGHTS:
        raise CheckpointError(f"{folder / CONFIG} speaks of weights of {size / 1e9:.3g} GB, and no network here has so "
                              "many: the sizes of its heads make no sense")
    return state


def _state(config: Mapping[str, Any], folder: Path, inside: Path | None) -> dict[str, Tensor]:
    return read_tensors(file_of(folder, WEIGHTS, inside), shapes(config, folder), config["sha256"], _hint(folder))


def file_of(folder: Path, name: str, inside: Path | None = None) -> Path:
    """A file of a folder. Raises CheckpointError where it is a link that leads out of it, or of `inside`."""
    real = Path(os.path.realpath(folder / name))
    if not real.is_relative_to(os.path.realpath(inside or folder)):
        raise CheckpointError(f"{folder / name} is a link that leads out of its folder, and is not followed")
    return folder / name


def _hint(folder: Path) -> str:
    return f"write {folder} again with {SAVE}, or download it again"

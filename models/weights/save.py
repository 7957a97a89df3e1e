"""A checkpoint as a folder for others, and that folder to the Hugging Face hub: `save` and `push` of the commands."""
import argparse
import hashlib
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.errors import CheckpointError
from core.files import check_new_folder, whole_folder, write_json, write_text
from core.imports import optional
from core.inputs import fault, hash_of
from core.names import shown
from core.versions import versions

from ..dualvar import parse_mode
from . import export, hub
from .card import card
from .checkpoint import fingerprint
from .convert import add_choice_flags, check_width
from .identify import kind, network_of
from .match import check_fit, load_strict
from .origins import OTHERS, lacking, project_of
from .runs import clips_of, run_of
from .share import CARD, CONFIG, FILES, FORMAT, OF_HEADS, WEIGHTS, build, file_of, read_config, read_folder
from .sources import read_weights
from .tensors import TYPES


def add_flags(commands: Any) -> None:
    """The two commands, among the others of python -m models.weights."""
    saver = commands.add_parser("save", help="write a checkpoint's network as a folder that others load in one line")
    saver.add_argument("file", metavar="CHECKPOINT", type=Path, help="checkpoint")
    saver.add_argument("folder", metavar="DIR", type=Path, help="folder to write, new or empty")
    saver.add_argument("--heads", action="store_true", help="keep the heads too; default: the backbone alone")
    saver.add_argument("--license", metavar="ID", help="of the weights, as the Hugging Face hub calls it, e.g. mit")
    add_choice_flags(saver)
    saver.set_defaults(does=save)
    pusher = commands.add_parser("push", help="upload a folder that `save` wrote, with its exported files")
    pusher.add_argument("folder", metavar="DIR", type=Path, help="folder that `save` wrote")
    pusher.add_argument("name", metavar="OWNER/NAME", help="repository on the hub, made if need be")
    pusher.add_argument("--private", action="store_true", help="into a private repository alone")
    pusher.add_argument("--dry_run", action="store_true", help="check the folder, say what would be uploaded, stop")
    pusher.set_defaults(does=push)


def save(args: argparse.Namespace) -> None:
    check_width(args.width)
    check_new_folder(args.folder)
    safetensors = optional("safetensors.torch", "save")
    checkpoint = read_weights(args.file, args.entry)
    net, width, result = network_of(checkpoint, args.file, args.net, args.width, args.prefix)
    check_fit(result, f"checkpoint {args.file}", hint="; nothing is written")
    run = run_of(args.file, checkpoint, net, width)
    heads = heads_of(checkpoint["config"], args.file) if args.heads else None
    model = build(net, width, heads)
    if heads is None:
        model.load_state_dict(result.tensors)
    else:
        load_strict(model, whole_of(checkpoint["state_dict"], heads), f"checkpoint {args.file}")
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    if odd := {str(value.dtype) for value in state.values()} - {str(dtype) for dtype in TYPES}:
        raise CheckpointError(f"checkpoint {args.file}: tensors of {', '.join(sorted(odd))} are not saved")
    data = safetensors.save(state, {"format": "pt"})
    project = project_of(checkpoint, result)
    found, protocol = versions(), clips_of(checkpoint, net, width, args.file, result)
    config = {
        "format": FORMAT, "network": net, "width": float(width), "heads": heads,
        "protocol": protocol.values(),
        "origin": kind(checkpoint, result), **({"project": project} if project in OTHERS else {}),
        "untrained": lacking(checkpoint, "partial", args.file),
        "dropped": lacking(checkpoint, "unused", args.file),
        "sha256": hashlib.sha256(data).hexdigest(),
        "versions": {**{name: found[name] for name in ("commit", "python", "torch")},
                     "safetensors": metadata.version("safetensors")}}
    backbone = state if heads is None else {
        name.removeprefix("backbone."): value for name, value in state.items() if name.startswith("backbone.")}
    foreign = project not in ("ours", None)
    text = card(config, sum(value.numel() for value in state.values()), run, checkpoint, foreign,
                {fingerprint(tensors, protocol) for tensors in (backbone, state)}, args.license)
    with whole_folder(args.folder) as folder:
        (folder / WEIGHTS).write_bytes(data)
        write_json(folder / CONFIG, config)
        write_text(folder / CARD, text)
        check_equal(read_folder(folder)["state_dict"], state, args.folder)
    print(f"{args.file}: {net} x {width:g}, {len(state)} tensors, " + (
        "the backbone alone" if heads is None else f"with the heads of {heads['kind']}")
        + f"\nwritten to {args.folder}: {', '.join(FILES)}; read the card, {CARD}, before you give it away")


def heads_of(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """What config.json says of the heads of a checkpoint of ours, by its config. CheckpointError where it has none."""
    if "num_classes" in config:
        own = {"dropout": 0.0, "final_bn": False, "l2_norm": False, "train_what": "ft", **config}
        kind = "classes"
    elif "framework" in config and isinstance(config.get("mode"), str):
        try:
            used = {term.head for term in parse_mode(config["mode"]).values()}
        except ValueError as error:
            raise CheckpointError(f"checkpoint {path} is damaged: its mode is {shown(config['mode'])}") from error
        own, kind = {**config, "heads": sorted(used)}, "pretraining"
    else:
        raise CheckpointError(f"--heads: checkpoint {path} says of no heads: save a checkpoint of train.py or "
                              "finetune.py (model/latest.pth.tar), or leave --heads out")
    heads = {"kind": kind, **{name: own.get(name) for name in OF_HEADS[kind]}}
    if wrong := fault(heads, {"kind": str, **OF_HEADS[kind]}, "its config"):
        raise CheckpointError(f"checkpoint {path} is damaged: {wrong}")
    return heads


def whole_of(state: Mapping[str, Tensor], heads: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a checkpoint that are those of `build` with these heads."""
    prefix = "encoder." if heads["kind"] == "pretraining" else ""  # beside it, a momentum encoder and queues
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def check_equal(read: Mapping[str, Tensor], state: Mapping[str, Tensor], folder: Path) -> None:
    """Raise CheckpointError unless what was read back is what was to be written, bit for bit."""
    if read.keys() != state.keys() or not all(
            torch.equal(read[name].view(-1).view(torch.uint8), value.view(-1).view(torch.uint8))
            for name, value in state.items()):
        raise CheckpointError(f"{folder}: what was written reads back as something else, and is not kept")


def push(args: argparse.Namespace) -> None:
    name, revision = hub.parts_of(args.name)
    read_folder(args.folder)
    config = read_config(args.folder)
    files = [*FILES, *exported(args.folder, config)]
    for file in files:
        if not file_of(args.folder, file).is_file():
            raise CheckpointError(f"{args.folder} has no {file}, which belongs to it: save or export it again")
    tops = {Path(file).parts[0] for file in files}
    others = sorted(path.name for path in args.folder.iterdir() if path.name not in tops)
    print(f"{args.folder}: {config['network']} x {config['width']:g} to {hub.PREFIX}{name}"
          + (f", revision {revision}" if revision else ""))
    for file in files:
        print(f"  {file:<28} {(args.folder / file).stat().st_size:,} bytes")
    if others:
        print(f"  left out: {', '.join(map(shown, others))}")
    if args.dry_run:
        return
    print(f"uploaded: {hub.push(args.name, args.folder, files, args.private)}")


def exported(folder: Path, config: Mapping[str, Any]) -> list[str]:
    """The files that `export` has written into a folder, by its config.json.

    Raises CheckpointError where one is not as that says.
    """
    found = config.get("exports", {})
    if wrong := fault(found, {str: {"sha256": str, "page_sha256": str}}, "exports"):
        raise CheckpointError(f"{folder / CONFIG} is damaged ({wrong}): export again")
    files = []
    for form, said in found.items():
        if form not in export.FILES:
            raise CheckpointError(f"{folder / CONFIG} is damaged (exports has {shown(form)}): export again")
        for name, digest in ((export.FILES[form], said["sha256"]), (export.PAGE.name, said["page_sha256"])):
            path = file_of(folder, f"{form}/{name}")
            try:
                found_digest = hash_of(path, hashlib.sha256(), most=2**40)
            except OSError as error:
                raise CheckpointError(f"{path} cannot be read ({error.strerror}): export again") from error
            if found_digest != digest:
                raise CheckpointError(f"{path} is damaged: its SHA-256 is not that of {CONFIG}: export again")
            files.append(f"{form}/{name}")
    return files

"""What a checkpoint of anybody's holds, and its backbone as a file of ours: `inspect` and `convert` of the commands.

Every tensor of the backbone must be in the file, in its shape, and the file must hold no more of a backbone than
that, unless --allow_partial. Heads, queues and key encoders are left aside.
"""
import argparse
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from core.errors import CheckpointError, UsageError
from core.names import path_fault, quoted, shown

from ..backbones import BACKBONES
from .checkpoint import write_checkpoint
from .identify import comparisons, initial, kind, nets_in, network_of, several
from .match import Match, by_part, check_fit, is_plain, listed
from .origins import LACKS, MAX_WIDTH, OTHERS, lacking, project_of, protocol_of, whose_names
from .sources import read_weights


def add_flags(commands: Any) -> None:
    """The two commands, among the others of python -m models.weights."""
    inspector = commands.add_parser("inspect", help="what a checkpoint holds, and which of our networks it fits")
    converter = commands.add_parser("convert", help="write a checkpoint's backbone as a file of ours")
    for command, does in ((inspector, inspect), (converter, convert)):
        command.add_argument("file", metavar="FILE", type=Path,
                             help="checkpoint, folder of `save`, or hf:owner/name")
        command.set_defaults(does=does)
    add_entry_flag(inspector)
    inspector.add_argument("--all", action="store_true", help="list every name, not the first few")
    converter.add_argument("out", metavar="OUT", type=Path, help="file to write, for --pretrain of the other scripts")
    add_choice_flags(converter)
    converter.add_argument("--allow_partial", action="store_true",
                           help="leave tensors that the file does not give as they are initialised (seed 0)")
    converter.add_argument("--force", action="store_true", help="replace OUT if it exists")


def add_entry_flag(command: argparse.ArgumentParser) -> None:
    command.add_argument("--entry", help="which of the file's dictionaries holds the weights, e.g. model.state_dict; "
                         "default: found")


def add_choice_flags(command: argparse.ArgumentParser) -> None:
    """What `network_of` and `read_weights` are told of a file."""
    command.add_argument("--net", choices=list(BACKBONES), help="network; default: what the file says or shows")
    command.add_argument("--width", type=float, help="multiplies the channels; default: what the file says or shows")
    add_entry_flag(command)
    command.add_argument("--prefix", type=dotted,
                         help="what stands before the backbone's names, e.g. encoder_k.0.; default: found")


def dotted(prefix: str) -> str:
    """A prefix of names, of which the dot at its end may be left out."""
    return prefix if not prefix or prefix.endswith(".") else f"{prefix}."


def matched_text(result: Match) -> str:
    given = len(result.tensors) - len(result.filled)
    return f"{given} of {result.total} matched, " + ", ".join(
        f"{len(names)} {name}" for name, names in result.problems.items()
        if names or name in ("missing", "unexpected", "misshapen")) + f", {len(result.aside)} left aside"


def entry(value: object) -> str:
    """A checkpoint's entry beside its state dict, as text."""
    if isinstance(value, dict) and any(not isinstance(x, (dict, torch.Tensor)) for x in value.values()):
        value = ", ".join(f"{key}={brief(x)}" for key, x in value.items())
    return shown(brief(value), 1000)


def brief(value: object) -> object:
    return type(value).__name__ if isinstance(value, (dict, torch.Tensor)) else value


def print_names(title: str, names: Iterable[str]) -> None:
    for name in names:
        print(f"    {title:<12} {shown(name, 1000)}")


def inspect(args: argparse.Namespace) -> None:
    checkpoint = read_weights(args.file, args.entry)
    state, found = checkpoint["state_dict"], comparisons(checkpoint)
    nets = nets_in(found)
    best = nets[0] if nets else max(found, key=lambda net: len(found[net][1].tensors))
    plain = [value for value in state.values() if is_plain(value)]
    width, result = found[best]
    print(f"{args.file}: {kind(checkpoint, result)}" + (f"; network {best} x {width:g}" if result.fits else ""))
    for name, value in checkpoint.items():
        if not (name == "state_dict" or isinstance(value, torch.Tensor) or isinstance(value, dict) and not value):
            print(f"  {shown(name):<12} {entry(value)}")
    print(f"  {'tensors':<12} {len(plain)}, {sum(value.numel() for value in plain):,} numbers, " + ", ".join(
        f"{count} {str(dtype).removeprefix('torch.')}" for dtype, count in Counter(v.dtype for v in plain).items()))
    if len(plain) < len(state):
        print(f"  {'no tensors':<12} {listed([name for name, value in state.items() if not is_plain(value)], 5)}")
    print(f"  {'prefixes':<12} {by_part(state)}")
    if len(nets) > 1:
        print(f"  {'several':<12} networks, {several(found, nets)}: name one with --net, or --prefix of convert")
    print("Our networks:")
    for net, (width, result) in found.items():
        verdict = "fits" if result.fits else "does not fit"
        print(f"  {net:<11} x {width:<6.4g} {verdict:<12} {matched_text(result)}")
        if not (args.all or net == best and result.family != "unknown"):
            continue
        print(f"    {'names':<12} {whose_names(result.family)}"
              + (f" under {shown(result.prefix)}" if result.prefix else ""))
        for title, names in {"matched": list(result.pairs), **result.problems}.items():
            if names:
                print_names(title, names if args.all else [listed(names, 4)])
        if result.aside:
            print_names("left aside", result.aside if args.all else [by_part(result.aside)])
        if result.other is not None:
            print_names("not it", [result.other])
        if result.rivals:
            print_names("several", [f"such networks under {result.prefixes}: choose one with --prefix of convert"])
        print_names("clips", [clips_text(checkpoint, net, result, args.file)])
        print_names("note", result.notes)


def clips_text(checkpoint: Mapping[str, Any], net: str, result: Match, path: Path) -> str:
    """What clips the weights of a Match with `net` expect, or why that cannot be told."""
    try:
        return str(protocol_of(checkpoint, result, BACKBONES[net].published, f"checkpoint {path}"))
    except CheckpointError as error:
        return str(error)


def check_width(width: float | None) -> None:
    if width is not None and not 0 < width <= MAX_WIDTH:
        raise UsageError(f"--width must be above 0 and at most {MAX_WIDTH}, got {width}")


def check(args: argparse.Namespace) -> None:
    check_width(args.width)
    for name in (str(args.out), args.prefix or "-"):
        if wrong := path_fault(name):
            raise UsageError(f"{quoted(name)}: {wrong}, give another")
    if args.out.is_dir():
        raise CheckpointError(f"{args.out} is a folder: name the file to write")
    if args.out.exists() and args.file.exists() and args.out.samefile(args.file):
        raise CheckpointError(f"{args.out} is the file to convert: name another to write")
    if args.out.exists() and not args.force:
        raise CheckpointError(f"{args.out} exists: name another file, or replace it with --force")


def convert(args: argparse.Namespace) -> None:
    check(args)
    checkpoint = read_weights(args.file, args.entry)
    net, width, result = network_of(checkpoint, args.file, args.net, args.width, args.prefix)
    print(f"{args.file}: {kind(checkpoint, result)}\n{net} x {width:g} from {whose_names(result.family)}"
          + (f" under {shown(result.prefix)}" if result.prefix else "") + f": {matched_text(result)}")
    print_names("matched", [f"{key} -> {name}" if key != name else key for key, name in result.pairs.items()])
    for title, names in {**result.problems, "left aside": result.aside, "note": result.notes}.items():
        print_names(title, names)
    forgiven = ("missing", "unexpected", "misshapen") if args.allow_partial and result.pairs else ()
    check_fit(result, f"checkpoint {args.file}", forgiven, hint="; nothing is written")
    backbone = initial(net, width)
    own = backbone.state_dict()
    backbone.load_state_dict(own | result.tensors)
    protocol = protocol_of(checkpoint, result, backbone.published, f"checkpoint {args.file}")
    config = {"net": net, "width": width, **protocol.entry(backbone.published)}
    print_names("clips", [str(protocol)])
    before = {name: lacking(checkpoint, name, args.file) for name in LACKS}
    untrained = list(dict.fromkeys([*before["partial"], *result.missing, *result.misshapen]))
    lacks = {"partial": untrained, "unused": [*before["unused"], *result.unexpected]}
    config |= {name: names for name, names in lacks.items() if names}
    if untrained:
        print(f"{len(untrained)} tensors are as initialised with seed 0, untrained: {listed(untrained, len(own))}")
    if result.unexpected:
        print(f"{len(result.unexpected)} tensors of {args.file} have no place and are dropped")
    project = project_of(checkpoint, result)
    write_checkpoint(args.out, {"state_dict": backbone.state_dict(), "config": config,
                                **({"origin": project} if project in OTHERS else {})})
    print(f"written to {args.out}")

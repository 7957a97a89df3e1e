"""Weights under others' names: the release's, CoCLR's, MoCo's, torchvision's and ours, loaded strictly.

    python -m models.pretrained inspect FILE                   what a checkpoint holds, and which networks it fits
    python -m models.pretrained convert FILE OUT --net r21d    its backbone, as a file of ours

Every tensor of the backbone must be in the file, in its shape, and the file must hold no more of a backbone than
that, unless --allow_partial. Heads, queues and key encoders are left aside.
"""
import argparse
import functools
from collections import Counter
from pathlib import Path

import torch

from core.errors import CheckpointError
from core.exits import run

from . import build_backbone
from .backbones import BACKBONES
from .classifier import Classifier
from .dualvar import Pretrainer
from .moco import MoCo
from .weights.checkpoint import read_checkpoint, strip_module, write_checkpoint
from .weights.match import check_fit, is_plain, listed, load_strict, match, printable
from .weights.names import locate, name_tables

HEAD_RULES = {
    "simclr": [("encoder_q.2.", "encoder.clip_head.layers.0."), ("encoder_q.4.", "encoder.clip_head.layers.2."),
               ("series_proj_head.", "encoder.segment_head.layers.")],
    "moco": [("encoder_q.2.", "encoder.clip_head.layers.0."), ("encoder_q.4.", "encoder.clip_head.layers.2."),
             ("encoder_k.2.", "key_encoder.clip_head.layers.0."), ("encoder_k.4.", "key_encoder.clip_head.layers.2."),
             ("series_proj_head_q.", "encoder.segment_head.layers."),
             ("series_proj_head_k.", "key_encoder.segment_head.layers.")],
}
MAX_WIDTH = 4  # what a file says or seems to say of its width is not believed beyond
OWNERS = {"ours": "our names", "release": "the release's names", "torchvision": "torchvision's names",
          "unknown": "no names known here"}


# --- loading -------------------------------------------------------------------------------------------------

def load_backbone(backbone, checkpoint, path):
    """All backbone tensors of a checkpoint from read_checkpoint, in any known names, into `backbone` -> Match.

    Raises CheckpointError, with the backbone untouched, where one is missing, misshapen or not finite, or where
    the file has more of a backbone than this one.
    """
    result = match(checkpoint["state_dict"], backbone.state_dict())
    check_fit(result, f"checkpoint {path}", hint=f"; python -m models.pretrained inspect {path} shows what it holds")
    backbone.load_state_dict(result.tensors)
    return result


def load_classifier(model, checkpoint, path):
    """A whole classifier, backbone and linear layer, of ours or the release's; CheckpointError if it does not fit."""
    released = any(key.startswith("final_fc.") for key in checkpoint["state_dict"])
    (load_released if released else load_strict)(model, checkpoint["state_dict"], f"checkpoint {path}")


def load_released(model, state_dict, source="the state dict"):
    """Load a state dict in the release's names into a backbone, a pretrainer or a classifier, strictly.

    A backbone takes its tensors from a state dict of any of the three. Every tensor of the model must be
    given, in its shape, and none left over; raises CheckpointError, with the model untouched, otherwise.
    """
    state_dict = strip_module(state_dict)
    if isinstance(model, Pretrainer):
        state_dict = _convert_pretrainer(state_dict, model, source)
    elif isinstance(model, Classifier):
        head = {key.replace("final_fc.0.", "fc."): value for key, value in state_dict.items()
                if not key.startswith("backbone.")}
        state_dict = head | _renamed(state_dict, model.backbone, "backbone.", "backbone.", source)
    else:
        state_dict = _renamed(state_dict, model, None, "", source)
    load_strict(model, state_dict, source)


def _renamed(state_dict, backbone, old, new, source):
    """A backbone's tensors under prefix `old` (None: found out), in our names under prefix `new`."""
    result = match(state_dict, backbone.state_dict(), old)
    check_fit(result, source)
    return {new + name: value for name, value in result.tensors.items()}


def _convert_pretrainer(state_dict, model, source):
    moco = isinstance(model, MoCo)
    converted = _renamed(state_dict, model.encoder.backbone, "encoder_q.0.", "encoder.backbone.", source)
    if moco:
        converted |= _renamed(state_dict, model.encoder.backbone, "encoder_k.0.", "key_encoder.backbone.", source)
    for key, value in state_dict.items():
        if key.startswith(("encoder_q.0.", "encoder_k.0.")):
            continue
        for old, new in HEAD_RULES["moco" if moco else "simclr"]:
            if key.startswith(old):
                # the release writes a linear layer as a 1 x 1 x 1 convolution
                key, value = new + key[len(old):], value.flatten(1) if value.ndim == 5 else value
                break
        converted[key] = value
    if moco and {"queue", "series_queue", "queue_ptr"} <= converted.keys():
        converted["queue"] = converted["queue"].T
        converted["segment_queue"] = converted.pop("series_queue").T.unflatten(1, (model.segment_queue.shape[1], -1))
        converted["queue_position"] = converted.pop("queue_ptr").reshape(())
    return converted


# --- which network a file is of ------------------------------------------------------------------------------

def initial(net, width):
    """The network with the weights of a fixed seed; draws of the caller's are not touched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_backbone(net, width)


@functools.cache
def template(net, width):
    """{name: tensor without values} of a network."""
    return {name: torch.empty_like(value, device="meta") for name, value in initial(net, width).state_dict().items()}


def stated(config):
    """Network and width that a checkpoint's config names, each None where it does not, or names none of ours."""
    net, width = config.get("net"), config.get("width")
    believable = isinstance(width, (int, float)) and 0 < width <= MAX_WIDTH
    return net if isinstance(net, str) and net in BACKBONES else None, width if believable else None


def guess_width(state_dict, net):
    """The simplest width that gives a state dict's shapes to `net`; 1.0 where they say nothing."""
    own = template(net, 1.0)
    tables = name_tables(own)
    family, prefix, _ = locate(state_dict, tables)
    theirs = {name: state_dict.get(prefix + key) for key, name in tables.get(family, {}).items()}
    # a batch norm's channels grow with the width, but between the two steps of a factored convolution
    norms = [(len(own[name]), len(value)) for name, value in theirs.items()
             if is_plain(value) and value.ndim == own[name].ndim == 1
             and name.endswith("weight") and not (net == "r21d" and name.endswith(".bn.weight"))]
    if not norms or 2 * sum(value is not None for value in theirs.values()) < len(own):
        return 1.0
    # channels = max(4, round(full * width))
    bounds = [((channels - 0.5) / full if channels > 4 else 0, (channels + 0.5) / full) for full, channels in norms]
    low, high = max(low for low, _ in bounds), min(high for _, high in bounds)
    if low >= high:  # the shapes are not of one width
        low, high = bounds[norms.index(max(norms))]
    for denominator in (1, 2, 4, 5, 8, 10, 16, 20, 32, 64, 100, 128, 1000, 10000):
        width = (int(low * denominator) + 1) / denominator
        if low < width < high:
            return width if width <= MAX_WIDTH else 1.0
    return 1.0


def comparisons(checkpoint, nets=tuple(BACKBONES), width=None, prefix=None):
    """{net: (width, Match)} of a checkpoint's tensors against networks of ours."""
    net, own_width = stated(checkpoint["config"])
    result = {}
    for name in nets:
        w = width or (own_width if name == net else None) or guess_width(checkpoint["state_dict"], name)
        result[name] = w, match(checkpoint["state_dict"], template(name, w), prefix)
    return result


def best_net(found):
    """The network of `comparisons` that a file is of, by what fits and is left over; None where that is undecided."""
    score = {net: (len(result.tensors) - len(result.filled), -len(result.missing), -len(result.unexpected))
             for net, (_, result) in found.items()}
    best = max(score, key=score.get)
    told = 2 * score[best][0] >= found[best][1].total and list(score.values()).count(score[best]) == 1
    return best if told else None


def kind(checkpoint, result):
    """What a checkpoint seems to be, as text; result: the Match with its network."""
    state, config = checkpoint["state_dict"], checkpoint["config"]
    parts = {name for key in state for name in key.split(".")[:3]}
    if result.family == "ours":
        if "num_classes" in config or "fc.weight" in state:
            return "a classifier of ours"
        if "clip_head" in parts:
            return f"a pretrainer of ours, {'MoCo' if 'key_encoder' in parts else 'SimCLR'}"
        return "a backbone of ours" + (", partly untrained" if "partial" in config else "")
    if result.family == "release":
        if "series_proj_head_q" in parts:
            return "a pretrainer of the release, MoCo"
        if "series_proj_head" in parts:
            return "a pretrainer of the release, SimCLR"
        if "sampler" in parts:
            return "a pretrainer of CoCLR"
        if "final_fc" in parts:
            return "a classifier of the release, or of CoCLR"
    moco = " inside MoCo" if {"encoder_q", "encoder_k"} & parts else ""
    return {"release": "a backbone in the release's or CoCLR's names", "torchvision": "a video ResNet of torchvision",
            "unknown": "not known here"}[result.family] + moco


# --- the command ---------------------------------------------------------------------------------------------

def flags():
    parser = argparse.ArgumentParser("python -m models.pretrained", description=__doc__.partition("\n")[0],
                                     allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    inspect = commands.add_parser("inspect", help="what a checkpoint holds, and which of our networks it fits")
    convert = commands.add_parser("convert", help="write a checkpoint's backbone as a file of ours")
    for command in (inspect, convert):
        command.add_argument("file", metavar="FILE", type=Path, help="checkpoint")
    inspect.add_argument("--all", action="store_true", help="list every name, not the first few")
    convert.add_argument("out", metavar="OUT", type=Path, help="file to write, for --pretrain of the other scripts")
    convert.add_argument("--net", choices=list(BACKBONES), help="network; default: what the file says or shows")
    convert.add_argument("--width", type=float, help="multiplies the channels; default: what the file says or shows")
    convert.add_argument("--prefix", help="what stands before the backbone's names, e.g. encoder_k.0.; default: found")
    convert.add_argument("--allow_partial", action="store_true",
                         help="leave tensors that the file does not give as they are initialised (seed 0)")
    convert.add_argument("--force", action="store_true", help="replace OUT if it exists")
    return parser


def counts(result):
    given = len(result.tensors) - len(result.filled)
    return f"{given} of {result.total} matched, " + ", ".join(
        f"{len(names)} {name}" for name, names in result.problems.items()
        if names or name in ("missing", "unexpected", "misshapen")) + f", {len(result.aside)} left aside"


def by_part(names):
    """Names counted by their first part, e.g. "encoder_q. 154, queue 1"."""
    parts = Counter(name.partition(".")[0] + ("." if "." in name else "") for name in names)
    return ", ".join(f"{printable(part)} {count}" for part, count in parts.items())


def entry(value):
    """A checkpoint's entry beside its state dict, as text."""
    if isinstance(value, dict) and all(not isinstance(x, (dict, torch.Tensor)) for x in value.values()):
        value = ", ".join(f"{key}={x}" for key, x in value.items())
    elif isinstance(value, (dict, torch.Tensor)):
        value = type(value).__name__
    text = printable(value)
    return text if len(text) <= 1000 else text[:1000] + "..."


def print_names(title, names):
    for name in names:
        print(f"    {title:<12} {printable(name)}")


def inspect(args):
    checkpoint = read_checkpoint(args.file)
    state, found = checkpoint["state_dict"], comparisons(checkpoint)
    best = best_net(found) or max(found, key=lambda net: len(found[net][1].tensors))
    plain = [value for value in state.values() if is_plain(value)]
    print(f"{args.file}: {kind(checkpoint, found[best][1])}")
    for name, value in checkpoint.items():
        if name != "state_dict" and not (isinstance(value, dict) and not value):
            print(f"  {printable(name):<12} {entry(value)}")
    print(f"  {'tensors':<12} {len(plain)}, {sum(value.numel() for value in plain):,} numbers, " + ", ".join(
        f"{count} {str(dtype).removeprefix('torch.')}" for dtype, count in Counter(v.dtype for v in plain).items()))
    if len(plain) < len(state):
        print(f"  {'no tensors':<12} {listed([name for name, value in state.items() if not is_plain(value)], 5)}")
    print(f"  {'prefixes':<12} {by_part(state)}\nOur networks:")
    for net, (width, result) in found.items():
        verdict = "fits" if result.fits else "does not fit"
        print(f"  {net:<5} x {width:<6.4g} {verdict:<12} {counts(result)}")
        if not (args.all or net == best and result.family != "unknown"):
            continue
        print(f"    {'names':<12} {OWNERS[result.family]}"
              + (f" under {printable(result.prefix)}" if result.prefix else ""))
        for title, names in {"matched": list(result.pairs), **result.problems}.items():
            if names:
                print_names(title, names if args.all else [listed(names, 4)])
        if result.aside:
            print_names("left aside", result.aside if args.all else [by_part(result.aside)])
        print_names("note", result.notes)


def check_out(args):
    if args.out.is_dir():
        raise CheckpointError(f"{args.out} is a folder: name the file to write")
    if args.out.exists() and args.file.exists() and args.out.samefile(args.file):
        raise CheckpointError(f"{args.out} is the file to convert: name another to write")
    if args.out.exists() and not args.force:
        raise CheckpointError(f"{args.out} exists: name another file, or replace it with --force")


def chosen_network(args, checkpoint):
    """-> (net, width, Match) by the flags, the file's config, or what fits."""
    net, width = stated(checkpoint["config"])
    for name, own in (("net", net), ("width", width)):
        given = getattr(args, name)
        if given is not None and own is not None and given != own:
            raise CheckpointError(f"--{name} {given}: checkpoint {args.file} was trained with --{name} {own}")
    net = args.net or net
    found = comparisons(checkpoint, [net] if net else tuple(BACKBONES), args.width, args.prefix)
    net = net or best_net(found)
    if net is None:
        raise CheckpointError(f"--net: checkpoint {args.file} does not show which network it is of, name it; "
                              f"python -m models.pretrained inspect {args.file} shows what it holds")
    return net, *found[net]


def convert(args):
    check_out(args)
    checkpoint = read_checkpoint(args.file)
    net, width, result = chosen_network(args, checkpoint)
    print(f"{args.file}: {kind(checkpoint, result)}\n{net} x {width:g} from {OWNERS[result.family]}"
          + (f" under {printable(result.prefix)}" if result.prefix else "") + f": {counts(result)}")
    print_names("matched", [f"{key} -> {name}" if key != name else key for key, name in result.pairs.items()])
    for title, names in {**result.problems, "left aside": result.aside, "note": result.notes}.items():
        print_names(title, names)
    forgiven = ("missing", "unexpected", "misshapen") if args.allow_partial and result.pairs else ()
    check_fit(result, f"checkpoint {args.file}", forgiven, hint="; nothing is written")
    backbone = initial(net, width)
    own = backbone.state_dict()
    backbone.load_state_dict(own | result.tensors)
    config = {"net": net, "width": width}
    partial = checkpoint["config"].get("partial")  # of an earlier conversion
    untrained = list(dict.fromkeys([*(partial if isinstance(partial, list) else []), *result.missing,
                                    *result.misshapen]))
    if untrained:
        config["partial"] = untrained
        print(f"{len(untrained)} tensors are as initialised with seed 0, untrained: {listed(untrained, len(own))}")
    if result.unexpected:
        config["unused"] = result.unexpected
        print(f"{len(result.unexpected)} tensors of {args.file} have no place and are dropped")
    write_checkpoint(args.out, {"state_dict": backbone.state_dict(), "config": config})
    print(f"written to {args.out}")


def main(argv):
    parser = flags()
    args = parser.parse_args(argv)
    if args.command == "inspect":
        return inspect(args)
    if args.width is not None and not 0 < args.width < float("inf"):
        parser.error(f"argument --width: must be above 0, got {args.width}")
    convert(args)


if __name__ == "__main__":
    run(main)

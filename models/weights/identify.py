"""Which network a checkpoint is of, how wide it is, and what else it seems to be."""
import functools
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from core.errors import UsageError
from core.names import shown

from ..backbones import BACKBONES
from ..backbones.base import Backbone, scaled
from .match import Match, is_plain
from .names import is_copy, locate, name_tables
from .origins import MAX_WIDTH, config_of, first_words, matched, project_of, trained_in, whose_names

DISPLAYED = {"moco": "MoCo", "simclr": "SimCLR"}  # frameworks as people write them


def initial(net: str, width: float) -> Backbone:
    """The network with the weights of a fixed seed; draws of the caller's are not touched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return BACKBONES[net](width)


@functools.cache
def template(net: str, width: float) -> Backbone:
    """The network without values, on torch's meta device: names, shapes and types."""
    with torch.device("meta"):
        return BACKBONES[net](width)


def stated(checkpoint: Mapping[str, Any]) -> tuple[str | None, float | None]:
    """Network and width that a checkpoint's config names, None where it is no config of ours."""
    own = config_of(checkpoint)
    net, width = own.get("net"), own.get("width")
    return net, width if width is None or width <= MAX_WIDTH else None


def guess_width(state_dict: Mapping[str, Any], net: str, prefix: str | None = None) -> float:
    """The simplest width that gives a state dict's shapes to `net`; 1.0 where they say nothing. prefix: as in `match`.
    """
    full = template(net, 1.0)
    own, tables = full.state_dict(), name_tables(full)
    family, prefix, _ = locate(state_dict, tables, prefix)
    theirs = {name: state_dict.get(prefix + key) for key, name in tables.get(family, {}).items()}
    norms = [(len(own[name]), len(value)) for name, value in theirs.items()
             if is_plain(value) and value.ndim == own[name].ndim == 1
             and name.endswith("weight") and full.follows_width(name)]
    if not norms or 2 * sum(value is not None for value in theirs.values()) < len(own):
        return 1.0
    # channels = max(4, round(full * width))
    bounds = [((channels - 0.5) / full if channels > 4 else 0, (channels + 0.5) / full) for full, channels in norms]
    low, high = max(low for low, _ in bounds), min(high for _, high in bounds)
    if low >= high:  # the shapes are not of one width
        low, high = bounds[norms.index(max(norms))]
    for denominator in (1, 2, 4, 5, 8, 10, 16, 20, 32, 64, 100, 128, 1000, 10000):
        width = (int(low * denominator) + 1) / denominator
        # a half is rounded to the even number, so that the bound itself may be the width
        if low < width < high or width == high and all(scaled(full, width) == channels for full, channels in norms):
            return width if width <= MAX_WIDTH else 1.0
    return 1.0


def comparisons(checkpoint: Mapping[str, Any], nets: Sequence[str] | None = None, width: float | None = None,
                prefix: str | None = None) -> dict[str, tuple[float, Match]]:
    """{net: (width, Match)} of a checkpoint's tensors against networks of ours, all of them where None are named."""
    net, own_width = stated(checkpoint)
    result = {}
    for name in nets or BACKBONES:
        w = width or (own_width if name == net else None) or guess_width(
            checkpoint["state_dict"], name, prefix)
        result[name] = w, matched(checkpoint, template(name, w), prefix)
    return result


def nets_in(found: Mapping[str, tuple[float, Match]]) -> list[str]:
    """The networks of `comparisons` that a file is of, by what fits and is left over, the best first.

    None where that is undecided; several where other tensors are of another network, but for copies of an encoder.
    """
    matches = {net: result for net, (_, result) in found.items()}
    score = {net: (len(one.pairs) + len(one.broken) + len(one.negative), -len(one.missing), -len(one.unexpected))
             for net, one in matches.items()}
    told = [net for net, one in matches.items() if 2 * score[net][0] >= one.total]
    told = [net for net in told if not is_copy(matches[net].prefix)] or told
    nets: list[str] = []
    for net in sorted(told, key=lambda net: score[net], reverse=True):
        if all(matches[net].pairs.keys().isdisjoint(matches[other].pairs) for other in nets):
            nets.append(net)
    undecided = nets and [score[net] for net in told].count(score[nets[0]]) > 1 == len(nets)
    return [] if undecided else nets


def network_of(checkpoint: Mapping[str, Any], path: str | Path, net: str | None, width: float | None,
               prefix: str | None = None) -> tuple[str, float, Match]:
    """Which network a checkpoint is of, by its own word, the flags, or what fits -> (net, width, Match).

    net, width, prefix: the flags, None where not given. Raises UsageError where they contradict the checkpoint, or
    neither says which network it is of.
    """
    own_net, own_width = stated(checkpoint)
    check_stated(path, net, width, own_net, own_width)
    net = net or own_net
    found = comparisons(checkpoint, [net] if net else None, width, prefix)
    nets = [net] if net else nets_in(found)
    if len(nets) != 1:
        what = f"holds several networks, {several(found, nets)}" if nets else "does not show which network it is of"
        raise UsageError(f"--net: checkpoint {path} {what}: name it; python -m models.weights inspect {path} shows "
                         "what it holds")
    return nets[0], *found[nets[0]]


def several(found: Mapping[str, tuple[float, Match]], nets: Sequence[str]) -> str:
    """Networks in a file and where their names stand, as text."""
    return ", ".join(f"{net} under {shown(found[net][1].prefix)}*" for net in nets)


def check_stated(path: str | Path, net: str | None, width: float | None, own_net: str | None,
                 own_width: float | None) -> None:
    """Raise UsageError where flags say another network or width than the weights themselves."""
    for name, given, own in (("net", net, own_net), ("width", width, own_width)):
        if given is not None and own is not None and given != own:
            raise UsageError(f"--{name} {given}: checkpoint {path} was trained with --{name} {own}")


def kind(checkpoint: Mapping[str, Any], result: Match) -> str:
    """What a checkpoint seems to be, as text; result: the Match with its network."""
    state, config = checkpoint["state_dict"], config_of(checkpoint)
    parts = first_words(checkpoint)
    if result.family == "unknown":
        return "not known here"
    project, inside = project_of(checkpoint, result), trained_in(checkpoint, result)
    untrained = (", partly untrained" if config.get("partial") else "") + (
        ", a part of another network" if config.get("unused") else "")
    if project == "ours":
        if "num_classes" in config or "fc.weight" in state:
            return "a classifier of ours"
        if "clip_head" in parts:
            said = config.get("framework") or ("moco" if "key_encoder" in parts else None)
            return "a pretrainer of ours" + (
                f", {DISPLAYED.get(said, shown(said))}" if isinstance(said, str) else "")
        return f"a backbone of ours{untrained}"
    if project == "the release":
        if "series_proj_head_q" in parts:
            return "a pretrainer of the release, MoCo"
        if "series_proj_head" in parts:
            return "a pretrainer of the release, SimCLR"
        if "final_fc" in parts:
            return "a classifier of the release, or of CoCLR"
        if not inside:
            return "a backbone in the release's or CoCLR's names"
    if project == "CoCLR" and "sampler" in parts:
        return "a pretrainer of CoCLR"
    whose = f"of {project}" if project else f"in {whose_names(result.family)}"
    if inside:
        return f"a backbone {whose}, inside {inside}"
    return f"a {'classifier' if classifies(state, result.prefix) else 'backbone'} {whose}{untrained}"


def classifies(names: Container[str], prefix: str) -> bool:
    """Whether a backbone found under a prefix stands in a classifier, by the names of others for its last layer."""
    beside = prefix.removesuffix("backbone.").removesuffix("encoder.")
    return any(start + name in names for start in (prefix, beside) for name in (
        "fc.weight", "linear.weight", "classifier.1.weight", "head.weight", "head.1.weight", "head.projection.weight",
        "blocks.5.proj.weight", "cls_head.fc_cls.weight"))

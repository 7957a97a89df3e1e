"""Whose weights a checkpoint holds, what clips they expect, and whether its names hide another network.

A backbone is found by names and shapes (match.py), which show no strides, dilations or order of colours. Where a
project is known to give one set of names to several networks, what else is in its files tells them apart.
"""
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.errors import CheckpointError
from core.inputs import fault
from dataset.augment import MEAN, STD

from ..backbones import BACKBONES
from ..backbones.base import Backbone
from ..protocol import Protocol
from .match import Match, match

FAMILIES = {"ours": "our names", "release": "the release's names", "slowfast": "SlowFast's names",
            "rspnet": "RSPNet's names", "unknown": "no names known here"}
# projects, where not called as their family
PROJECTS = {"slowfast": "SlowFast", "rspnet": "RSPNet", "release": "the release"}
# what clips their weights expect, where that is not what the network's class publishes
CLIPS = {
    "RSPNet": Protocol(16, 1, 112, (112, 149)),  # config/pretrain, 112 pixels; tested on a whole centre square
    "CoCLR": Protocol(32, 1, 128),  # main_nce.py and README.md; tested on 224 of 256 pixels, scaled to 128
    "mmaction2": Protocol(8, 8, 224),  # configs/recognition/slowonly: crops of 224 of a shorter side of 256
    "torchvision": Protocol(16, 2, 112, None, (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)),
}
OTHERS = {*CLIPS, *PROJECTS.values(), "pytorchvideo"}
RSPNET_NETWORKS = ("c3d", "r2plus1d-vcop", "s3dg")  # as `arch` of its files
COCLR_NETWORKS = ("S3D", "S3DG")  # classes here
TORCHVISION_HEADS = {"fc.weight", "classifier.1.weight", "head.1.weight", "head.weight"}
KINETICS_CLASSES = 400
LACKS = ("partial", "unused")  # of a config, after a conversion with --allow_partial: tensors as initialised, dropped
MAX_WIDTH = 4  # what a file says or seems to say of its width is not believed beyond
AVA_CLASSES = 80  # of SlowFast's detectors of actions
LONGEST = 10**6  # characters of a file's configuration that are read


def matched(checkpoint: Mapping[str, Any], backbone: Backbone, prefix: str | None = None) -> Match:
    """`match` of a checkpoint from read_checkpoint, which knows networks that only look like the backbone."""
    result = match(checkpoint["state_dict"], backbone, prefix)
    result.other = other_network(checkpoint, result)
    return result


def whose_names(family: str) -> str:
    """A family of names as text."""
    return FAMILIES.get(family, f"{family}'s names")


# --- whose ---------------------------------------------------------------------------------------------------

def project_of(checkpoint: Mapping[str, Any], result: Match) -> str | None:
    """Whose weights a checkpoint seems to hold: ours, the release, CoCLR, RSPNet, SlowFast, torchvision, ...

    None where they are in names that others use as well: torchvision's, under a prefix.
    """
    parts = first_words(checkpoint)
    if isinstance(said := checkpoint.get("origin"), str) and said in OTHERS:  # by `convert`, `save`, torchvision_zoo
        return said
    if result.family == "release":
        arch = checkpoint.get("arch")
        if result.prefix.endswith("encoder_q.encoder.") or isinstance(arch, str) and arch in RSPNET_NETWORKS:
            return "RSPNet"
        # the release's MoCo without segments is called as CoCLR's, which has no other networks
        alike = {"encoder_q", "queue"} <= parts and "series_proj_head_q" not in parts
        if "sampler" in parts or alike and result.network in COCLR_NETWORKS:
            return "CoCLR"
    if result.native and config_of(checkpoint):
        return "ours"
    if result.family == "torchvision" and not is_published(checkpoint["state_dict"], result):
        return None
    return PROJECTS.get(result.family, result.family)


def is_published(state: Mapping[str, Any], result: Match) -> bool:
    """Whether a file in torchvision's names may be one that it publishes: of its own networks, without a prefix, and of
    Kinetics-400.
    """
    heads = {name.replace(".bias", ".weight") for name in result.aside}
    theirs = not heads or len(heads) == 1 and heads <= TORCHVISION_HEADS and all(
        getattr(state[name], "shape", ())[:1] == (KINETICS_CLASSES,) for name in result.aside)
    return not result.prefix and (result.native or not result.fits) and theirs


def trained_in(checkpoint: Mapping[str, Any], result: Match) -> str:
    """What a backbone was trained in, by the names beside it: MoCo, BYOL, ..., or "" where nothing shows it."""
    parts = first_words(checkpoint)
    if {"predictor", "predictors"} & parts:
        return "BYOL"
    if "swav_prototypes" in parts:
        return "SwAV"
    if {"encoder_q", "encoder_k", "backbone_hist", "backbone_mmt"} & parts:
        return "MoCo"
    # a head of several layers, and nothing else
    return "SimCLR" if f"{result.prefix}head.projection.projection.0.weight" in checkpoint["state_dict"] else ""


def config_of(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a file of ours says of its model: network and width at least. {} where others wrote its config."""
    config = checkpoint.get("config", {})
    net, width = config.get("net"), config.get("width")
    ours = isinstance(net, str) and net in BACKBONES and type(width) in (int, float) and 0 < width < math.inf
    return config if ours else {}


def lacking(checkpoint: Mapping[str, Any], kind: str, path: str | Path) -> list[str]:
    """Names of tensors that a conversion with --allow_partial left as they were or dropped; kind: one of LACKS."""
    names = config_of(checkpoint).get(kind, [])
    if wrong := fault(names, [str], kind):
        raise CheckpointError(f"checkpoint {path} is damaged: {wrong} in its config")
    return names


def first_words(checkpoint: Mapping[str, Any]) -> set[str]:
    """The first three words of the names of a checkpoint's tensors."""
    return {part for name in checkpoint["state_dict"] for part in name.split(".", 3)[:3]}


# --- clips ---------------------------------------------------------------------------------------------------

def protocol_of(checkpoint: Mapping[str, Any], result: Match, published: Protocol, source: str) -> Protocol:
    """What clips the weights of a checkpoint expect: by its own word, or as their owners state it.

    published: of the network's class. Where it is not known whose weights they are, our loader's normalisation is kept.
    Raises CheckpointError, naming `source`, where the file says nonsense.
    """
    said = config_of(checkpoint).get("protocol")
    if said is None:
        project = project_of(checkpoint, result)
        clips = published if result.native else CLIPS.get(project or "", published)
        if project is None:
            clips = replace(clips, mean=MEAN, std=STD)
        said = clips.values() | _stated_clips(checkpoint, result)
    return Protocol.read(said, source)


def _stated_clips(checkpoint: Mapping[str, Any], result: Match) -> dict[str, Any]:
    """What a file of SlowFast or mmaction2 says of its clips in its configuration, by the fields of Protocol."""
    if result.family in ("slowfast", "pytorchvideo"):
        settings = slowfast_settings(checkpoint)
        said = {ours: [number(text) for text in settings.get(f"DATA.{theirs}", [])] for theirs, ours in (
            ("NUM_FRAMES", "seq_len"), ("SAMPLING_RATE", "ds"), ("TRAIN_CROP_SIZE", "img_dim"), ("MEAN", "mean"),
            ("STD", "std"))}
        return {name: values if name in ("mean", "std") else values[0] for name, values in said.items() if values}
    if result.family == "mmaction2":
        text = mmaction2_config(checkpoint)
        found = {ours: set(re.findall(rf"\b{theirs}=(\d+)\b", text))
                 for theirs, ours in (("clip_len", "seq_len"), ("frame_interval", "ds"))}
        return {name: number(values.pop()) for name, values in found.items() if len(values) == 1}
    return {}


def number(text: str) -> int | float | str:
    """A number of a configuration; the text itself where it is none."""
    try:
        return int(text) if text.isdecimal() else float(text)
    except ValueError:
        return text


def slowfast_settings(checkpoint: Mapping[str, Any]) -> dict[str, list[str]]:
    """{"DATA.MEAN": ["0.45", ...], ...} of the YAML text that SlowFast writes into its files; {} where there is none.

    Lists in lists are one list.
    """
    text = checkpoint.get("cfg")
    found: dict[str, list[str]] = {}
    section, name = "", ""
    for line in text[:LONGEST].splitlines() if isinstance(text, str) else ():
        if key := re.fullmatch(r"(\w+):(.*)", line):
            section, name = key[1], ""
        elif key := re.fullmatch(r"  (\w+):(.*)", line):
            name = f"{section}.{key[1]}"
            found[name] = re.findall(r"[^\s\[\],]+", key[2])
        elif name and (item := re.fullmatch(r"  ((?:- |  )*)(\S+)", line)):
            found[name].append(item[2])
    return found


def mmaction2_config(checkpoint: Mapping[str, Any]) -> str:
    """The Python text of the configuration in a file of mmaction2, "" where there is none."""
    meta = checkpoint.get("meta")
    text = meta.get("cfg") if isinstance(meta, dict) else ""
    return text[:LONGEST] if isinstance(text, str) else ""


# --- networks that only look the same ------------------------------------------------------------------------

def other_network(checkpoint: Mapping[str, Any], result: Match) -> str | None:
    """Why what a Match found is of a network that computes something else, as text, or None."""
    state, prefix = checkpoint["state_dict"], result.prefix
    if result.family in ("slowfast", "pytorchvideo"):
        settings = slowfast_settings(checkpoint)
        for name, usual in (("RESNET.SPATIAL_DILATIONS", ["1"] * 4), ("RESNET.SPATIAL_STRIDES", ["1", "2", "2", "2"]),
                            ("RESNET.STRIDE_1X1", ["false"]), ("DATA.REVERSE_INPUT_CHANNEL", ["false"]),
                            ("AVA.BGR", ["false"])):
            if (there := settings.get(name, usual)) != usual:
                return f"its {name} is {' '.join(there)[:80]}, not {' '.join(usual)}"
        head = state.get(f"{prefix}head.projection.weight")
        if "detection_head" in first_words(checkpoint):
            return "a detector, whose last stage is dilated"
        if not settings and getattr(head, "shape", ())[:1] == (AVA_CLASSES,):
            return (f"its head has the {AVA_CLASSES} classes of AVA, whose detectors dilate the last stage; without "
                    "the head it is taken")
    elif result.family == "mmaction2":
        text = mmaction2_config(checkpoint)
        if "roi_head" in first_words(checkpoint) or "spatial_strides=(1, 2, 2, 1)" in text:
            return "a detector, whose last stage has no stride in space"
        if "to_bgr=True" in text:
            return "trained on frames in the order blue, green, red"
    elif result.family == "torchvision" and prefix.endswith("0."):
        beside = prefix.removesuffix("0.") + "1."
        if all(beside + name in state for name in ("fc1.weight", "bn1.weight", "fc2.weight", "bn2.weight")):
            return "TCLR's, whose last stage is dilated in time where torchvision's has a stride"
    return None

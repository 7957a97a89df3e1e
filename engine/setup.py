"""Before the first step: the device and the processes, seeds, the model on its device, weights to start from."""
import argparse
import math
import warnings
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from core.dist import announced, join, plan_for, rank, world_size
from core.errors import UsageError
from core.imports import first_line
from core.names import shown
from dataset.loader import keep_memory
from models import build_backbone
from models.backbones import BACKBONES
from models.backbones.base import Backbone
from models.batchnorm import sync_batchnorm
from models.protocol import CLIP_FLAGS, Protocol
from models.weights import torchvision_zoo
from models.weights.identify import check_stated, kind, network_of, stated, template
from models.weights.loading import load_backbone
from models.weights.match import by_part
from models.weights.origins import LACKS, config_of, lacking, matched, project_of
from models.weights.runs import clips_of
from models.weights.sources import is_remote, read_weights

# --- devices and processes -----------------------------------------------------------------------------------


def start(device: str = "auto", loader_timeout: float = 0, plan: int | None = None) -> torch.device:
    """Join the process group that torchrun announces, if any -> torch.device of this process.

    device: auto (cuda where there is one), cpu or cuda; loader_timeout: as of --loader_timeout, which is shorter than
    the time for which processes wait for each other; plan: processes that a dry run in one process is to check for.
    Raises UsageError where there is no such device, and as `announced`.
    """
    kind = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch sees no CUDA device here")
    local, processes = announced()
    if kind == "cuda":
        if local >= torch.cuda.device_count():
            raise UsageError(f"process {local} of this machine has no GPU: it has {torch.cuda.device_count()}; "
                             "start as many processes as GPUs")
        torch.cuda.set_device(local)
        torch.backends.cudnn.benchmark = True
    plan_for(plan or 1)
    if processes > 1 and plan and plan > 1:
        raise UsageError(f"--dry_run {plan} is one process that checks for {plan}: start it without torchrun")
    if processes > 1:
        if kind == "cuda":
            join("nccl", loader_timeout, torch.device("cuda", local))
        else:
            join("gloo", loader_timeout)
    cv2.setNumThreads(1)
    if kind == "cpu":
        keep_memory()
    return torch.device(kind, local) if kind == "cuda" else torch.device("cpu")


def seed_everything(*numbers: int) -> None:
    """Seed torch from several integers; called before each step, so that a resumed run draws the same."""
    torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1))


def distribute(model: nn.Module, device: torch.device, bn: str) -> tuple[nn.Module, nn.Module]:
    """Move to the device and, with several processes, wrap in DistributedDataParallel -> (module to call, model).

    bn: "sync" takes batch statistics over all processes.
    """
    if bn == "sync" and world_size() > 1:
        model = sync_batchnorm(model)
    # the layout in which 3-D convolutions are fastest, on CPUs and GPUs
    model = model.to(device).to(memory_format=torch.channels_last_3d)
    if world_size() == 1 or not any(p.requires_grad for p in model.parameters()):
        return model, model
    # every process fills MoCo's queues alike and keeps its own batch statistics: no buffer is sent around
    ids = [device.index] if device.type == "cuda" else None
    with warnings.catch_warnings():  # newer versions rename the argument, older ones know no other
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated")
        return nn.parallel.DistributedDataParallel(model, device_ids=ids, broadcast_buffers=False), model


def compile_backbones(backbones: list[Backbone], device: torch.device) -> None:
    """torch.compile each; UsageError, with torch's reason, where that does not work on this machine."""
    try:
        torch.compile(torch.nn.functional.silu)(torch.zeros(8, device=device))
    except Exception as error:  # whatever a compiler that is not there makes torch stumble over
        raise UsageError(f"--compile: torch.compile does not work here ({first_line(error)}); leave it out") from error
    for backbone in backbones:
        backbone.compile(dynamic=False)


# --- networks and weights ------------------------------------------------------------------------------------


def feature_map(net: str, seq_len: int, img_dim: int) -> tuple[tuple[int, ...], float]:
    """What the network, made thin, gives for a clip (1, 3, T, H, W) of this size -> (shape (1, feature_dim, t, h, w),
    the fewest values a channel that a batch norm in it gets; inf where it has none).

    Raises RuntimeError where the clip is too small for the network.
    """
    # only the small do not fit: where a smaller clip does, a larger one need not be tried, which takes seconds for some
    for most in ((32, 128), (64, 256)):
        size = min(seq_len, most[0]), min(img_dim, most[1])
        try:
            found = _feature_map(net, *size)
        except RuntimeError:
            if size == (seq_len, img_dim) or most == (64, 256):
                raise
        else:
            if found[1] > 1:
                break
    return found


def _feature_map(net: str, seq_len: int, img_dim: int) -> tuple[tuple[int, ...], float]:
    least = math.inf

    def look(_: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        nonlocal least
        least = min(least, inputs[0][0, 0].numel())

    with torch.inference_mode(), torch.random.fork_rng(devices=[]):
        network = BACKBONES[net](width=1 / 64).eval()
        for layer in network.modules():
            if isinstance(layer, _BatchNorm):
                layer.register_forward_pre_hook(look)
        shape = tuple(network(torch.zeros(1, 3, seq_len, img_dim, img_dim)).shape)
    if len(shape) != 5 or shape[1] != network.feature_dim:
        raise ValueError(f"backbone {net} gives a feature map {shape}; its contract is (B, {network.feature_dim}, t, "
                         f"h, w), {network.feature_dim} being its feature_dim")
    return shape, least


def check_shapes(net: str, seq_len: int, img_dim: int, clips: int | None = None) -> None:
    """Raise UsageError where clips of this size do not fit a network: some need a minimum of frames or pixels.

    clips: in training, how many share batch statistics. What is to be known of clips of this size is printed.
    """
    try:
        _, least = feature_map(net, seq_len, img_dim)
    except NotImplementedError:  # of an unfinished network
        raise
    except RuntimeError as error:
        raise UsageError(f"--net {net} cannot take clips of --seq_len {seq_len} and --img_dim {img_dim}: "
                         f"{first_line(error)}") from error
    if clips == 1 and least == 1:
        raise UsageError("--batch_size: there is one clip at a time, and its feature map has one value: batch norm "
                         "needs more, as in a larger batch, --seq_len or --img_dim, fewer parts, or --bn sync")
    if (note := BACKBONES[net].size_note(seq_len, img_dim)) and rank() == 0:
        print(f"note: --net {net} with clips of --seq_len {seq_len} --img_dim {img_dim}: {note}")


def takes_segments(net: str, seq_len: int, img_dim: int, n_series: int) -> bool:
    """Whether a network can take one of the n segments of a clip as a clip of its own."""
    try:
        feature_map(net, seq_len // n_series, img_dim)
    except RuntimeError:
        return False
    return True


@dataclass(frozen=True)
class Weights:
    """What --pretrain or --checkpoint names: the checkpoint, None where there is none, and network and width."""

    path: str
    checkpoint: dict[str, Any] | None
    net: str
    width: float

    @cached_property
    def clips(self) -> Protocol:
        """The clips that they were trained on; without weights, those of the network's published ones."""
        if self.checkpoint is None:
            return BACKBONES[self.net].published
        return clips_of(self.checkpoint, self.net, self.width, self.path)

    @cached_property
    def of_nobody_known(self) -> bool:
        """Whether nothing tells whose weights they are, so that their clips are those of the network's class."""
        if self.checkpoint is None or "protocol" in config_of(self.checkpoint):
            return False
        return project_of(self.checkpoint, matched(self.checkpoint, template(self.net, self.width))) is None

    @property
    def are_papers(self) -> bool:
        """Whether they are of one of the paper's networks and of its stride, and no classifier."""
        classifies = self.checkpoint is not None and "num_classes" in config_of(self.checkpoint)
        papers_stride = self.clips.flags()["ds"] == Protocol.ds
        return BACKBONES[self.net].published == Protocol() and papers_stride and not classifies

    def backbone(self, seq_len: int, img_dim: int) -> Backbone:
        """The backbone with these weights, or with new ones, for clips of this size."""
        check_shapes(self.net, seq_len, img_dim)
        backbone = build_backbone(self.net, self.width)
        if self.checkpoint:
            load_pretrained(backbone, self.checkpoint, self.path)
        return backbone


def take_clips(args: argparse.Namespace, weights: Sequence[Weights], ds: int) -> None:
    """Flags of clips that were not given become those that weights were trained on, or the paper's.

    ds: the paper's stride in this stage, for its own networks where they were pretrained at its stride of 4. What is
    taken over, and where flags that were given are others, is printed. Raises UsageError where the weights were
    trained on different clips.
    """
    known = [one for one in weights if one.checkpoint] or list(weights)
    missing, usual = {name for name in CLIP_FLAGS if getattr(args, name) is None}, Protocol(ds=ds).flags(args.img_dim)
    if not {"ds", "fps"} <= missing:  # one of them says how far frames are apart
        missing -= {"ds", "fps"}
    clips = [one.clips.flags(args.img_dim) | ({"ds": ds} if one.are_papers else {}) for one in known]
    first = clips[0] if clips else usual
    for one, own in zip(known, clips, strict=True):
        if differing := {name for name in missing if own[name] != first[name]}:
            raise UsageError(f"{known[0].path} was trained on clips of {flag_text(first, differing)}, {one.path} of "
                             f"{flag_text(own, differing)}: give these flags, the same for all")
    notes = []
    if taken := {name for name in missing if first[name] != usual[name]}:
        told = known[0].checkpoint and not known[0].of_nobody_known
        whose = known[0].path if told else f"--net {known[0].net}"
        notes.append(f"{flag_text(first, taken)}: the clips of {whose}; give other flags for others")
    if known and known[0].checkpoint:
        trained = known[0].clips.flags()
        if known[0].of_nobody_known:
            notes.append(f"nothing in {known[0].path} tells on which clips it was trained: taken to be "
                         f"{known[0].clips}")
        elif other := {name for name in CLIP_FLAGS if getattr(args, name) not in (None, trained[name])}:
            notes.append(f"{known[0].path} was trained on clips of {flag_text(trained, other)}")
        if "ds" in missing and first["ds"] != trained["ds"]:
            notes.append(f"--ds {ds}, the paper's stride here; {known[0].path} was pretrained at its {trained['ds']}")
    for note in notes if rank() == 0 else ():
        print(f"note: {note}")
    vars(args).update({name: first[name] for name in missing})


def flag_text(flags: Mapping[str, Any], names: Set[str]) -> str:
    """Some of these flags, as they stand in a command; of --ds and --fps the one that counts, where one is asked for.
    """
    if names & {"ds", "fps"}:
        names = (names | {"ds", "fps"}) - {"ds" if flags["fps"] is not None else "fps"}
    return " ".join(f"--{name} {'x'.join(map(str, value)) if isinstance(value, tuple) else value}"
                    for name, value in flags.items() if name in names)


def open_weights(path: str, net: str | None, width: float | None, dry_run: bool = False) -> Weights:
    """The weights that `path` names; untrained ones for `random`, or in a dry run before the file is there.

    Network and width are a checkpoint's own word, which the flags must not contradict, or else the flags', or what its
    names and shapes show. Raises UsageError where nothing says which network it is.
    """
    if path.startswith(torchvision_zoo.PREFIX):
        published, url = torchvision_zoo.named(path)
        check_stated(path, net, width, published, 1.0)  # before anything is downloaded
        if dry_run and not torchvision_zoo.place_of(url).exists():
            print(f"{path} is not downloaded yet: a dry run goes on without it")
            return Weights(path, None, published, 1.0)
    if dry_run and path != "random" and not is_remote(path) and not Path(path).exists():
        print(f"{path} is not there yet: a dry run goes on without it, and with the paper's clips where no flags are "
              "given")
        path = "random"
    if path == "random" and net is None:
        raise UsageError("--net: name the network, no checkpoint says which")
    checkpoint = None if path == "random" else read_weights(path)
    if checkpoint is None:
        assert net is not None
        return Weights(path, None, net, 1.0 if width is None else width)
    said, (found, its_width, _) = stated(checkpoint), network_of(checkpoint, path, net, width)
    seen = [f"--net {found}"] if {net, said[0]} == {None} else []
    seen += [f"--width {its_width:g}"] if {width, said[1]} == {None} and its_width != 1 else []
    if seen and rank() == 0:
        print(f"note: {' '.join(seen)}, which has the names and shapes in {path}")
    return Weights(path, checkpoint, found, its_width)


def load_pretrained(backbone: Backbone, checkpoint: dict[str, Any], path: str) -> None:
    """load_backbone; what is to be known of the weights is printed."""
    result = load_backbone(backbone, checkpoint, path)
    notes = list(result.notes)
    if project_of(checkpoint, result) != "ours" or not config_of(checkpoint) or backbone.protocol.converts:
        notes.append(f"{path} holds {kind(checkpoint, result)}" + (
            f" (names under {shown(result.prefix)})" if result.prefix else "") + (
            f"; left aside: {by_part(result.aside)}" if result.aside else "") + (
            f"; clips are normalised as it expects, {backbone.protocol.normalisation}"
            if backbone.protocol.converts else ""))
    for note in notes if rank() == 0 else ():
        print(f"note: {note}")
    note_partial(checkpoint, path)


def note_partial(checkpoint: dict[str, Any], path: str) -> None:
    """Say where some of a checkpoint's tensors were never trained, or some of its network's were dropped."""
    partial, unused = (lacking(checkpoint, name, path) for name in LACKS)
    if partial and rank() == 0:
        print(f"note: {len(partial)} tensors of {path} are untrained, it was converted with --allow_partial")
    if unused and rank() == 0:
        print(f"note: {path} lacks {len(unused)} tensors of what it was converted from, with --allow_partial: it is "
              "another network")

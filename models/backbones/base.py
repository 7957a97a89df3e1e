"""The contract of every backbone, and what all of them share."""
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import ClassVar

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..batchnorm import running_statistics_kept
from ..protocol import Protocol

Rules = Sequence[tuple[str, str | Callable[[re.Match], str]]]  # (pattern, replacement), applied in turn


def scaled(channels: int, width: float) -> int:
    """Channels of a layer under `width`: at least 4."""
    return max(4, round(channels * width))


class ProtocolOfWeights:
    """The attribute `protocol` of a backbone: its class's until it is set. Setting it changes how clips are converted.
    """

    def __get__(self, backbone: "Backbone | None", kind: "type[Backbone]") -> Protocol:
        return kind.published if backbone is None else backbone.__dict__.get("_protocol", kind.published)

    def __set__(self, backbone: "Backbone", protocol: Protocol) -> None:
        backbone.__dict__["_protocol"] = protocol
        device = next((p.device for p in backbone.parameters()), None)
        scale, shift = protocol.conversion() if protocol.converts else (None, None)
        for name, values in (("input_scale", scale), ("input_shift", shift)):
            # not among the tensors of a checkpoint, whose config says the protocol
            backbone.register_buffer(name, None if values is None else torch.tensor(
                values, device=device).view(1, 3, 1, 1, 1), persistent=False)


class Backbone(nn.Module):
    """A video network: clips (B, 3, T, H, W) float -> feature map (B, feature_dim, t, h, w).

    A network of your own needs a file with a class that keeps this contract and one line in BACKBONES; the tests
    of tests/test_backbones.py then check it.

    - It is built with `width`, which multiplies the channels of every layer (`scaled`).
    - `feature_dim` is the number of channels of the feature map.
    - `parts()` gives its modules in order. They run one after the other, in low precision where asked (`low`), and
      are what --checkpointing keeps activations between.
    - `foreign_names(name)` gives the names that others have for one of its tensors; most networks set `rules`. `names`
      says whose its own names are, where it has those of another project.
    - `follows_width(name)` says which batch norms have `scaled(channels, width)` channels; all but a few do.
    - `published` says what clips the published weights of a network of others expect, and `size_note` what is to be
      known where clips of another size are given.
    - `compared` are the kinds of its layers that low precision is compared with float32 on: all that compute in it.

    low: torch.bfloat16 or torch.float16 to compute in under autocast, None for the weights' own dtype; the feature map
    is float32 either way. checkpointing: keep only what passes between parts for the backward pass, which computes the
    rest again. protocol: what clips the weights expect; where they are normalised in another way than our loader's,
    the clips are converted first.
    """

    feature_dim: int
    compared: ClassVar[tuple[type[nn.Module], ...]] = (nn.Conv3d, nn.Linear)
    published: ClassVar[Protocol] = Protocol()
    protocol = ProtocolOfWeights()
    input_scale: Tensor | None  # (1, 3, 1, 1, 1)
    input_shift: Tensor | None
    low: torch.dtype | None = None
    checkpointing: bool = False
    names: ClassVar[str] = "ours"  # whose names its tensors have
    rules: ClassVar[dict[str, Rules]] = {}  # {family: rules from our name of a tensor to theirs}

    def __init__(self, width: float = 1.0):
        super().__init__()
        self.protocol = self.published

    def parts(self) -> Sequence[nn.Module]:
        """Modules, in order, each given what the one before returns."""
        raise NotImplementedError(f"{type(self).__name__} does not define `parts`")

    @classmethod
    def foreign_names(cls, name: str) -> dict[str, list[str]]:
        """{family: its names of our tensor `name`}, by `rules`. Families: release, torchvision, ..."""
        found = {}
        for family, rules in cls.rules.items():
            theirs = name
            for pattern, replacement in rules:
                theirs = re.sub(pattern, replacement, theirs)
            found[family] = [theirs]
        return found

    def follows_width(self, name: str) -> bool:
        """Whether the batch norm weight `name` has max(4, round(channels * width)) values."""
        return True

    @classmethod
    def size_note(cls, seq_len: int, img_dim: int) -> str | None:
        """What a user should know who gives clips of this size, as the end of a sentence; None where nothing is."""
        return None

    def forward(self, clips: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, feature_dim, t, h, w)"""
        clips = self.converted(clips)
        if self.low is None:
            return self._run(clips)
        with torch.autocast(clips.device.type, self.low):
            features = self._run(clips)
        return features.float()

    def converted(self, clips: Tensor) -> Tensor:
        """Clips as our loader normalises them -> as the weights expect them; the same tensor where that is the same."""
        if self.input_scale is None or self.input_shift is None:
            return clips
        return torch.addcmul(self.input_shift, clips, self.input_scale)

    def _run(self, x: Tensor) -> Tensor:
        for part in self.parts():
            if self.checkpointing and torch.is_grad_enabled():
                # the second pass must not count in the running statistics; nothing in the parts is random
                x = checkpoint(part, x, use_reentrant=False, preserve_rng_state=False,
                               context_fn=partial(_both_passes, part))
            else:
                x = part(x)
        return x


def _both_passes(part: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    return nullcontext(), running_statistics_kept(part)


def average_pool(features: Tensor) -> Tensor:
    """Feature map (N, C, t, h, w) -> mean over t, h and w (N, C).

    Taken of the channels-last view, so that the gradient that it passes back is channels last.
    """
    return features.movedim(1, -1).flatten(1, 3).mean(dim=1)


class SpatialConv(nn.Conv3d):
    """1 x k x k convolution without bias, the same values computed as a 2-D convolution of all frames.

    In the channels-last layout the frames are a view, and the 2-D kernels are the better ones: on a CPU with AVX2 the
    backward pass of R(2+1)D's widest such layers takes less than half as long.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1):
        super().__init__(c_in, c_out, (1, kernel, kernel), (1, stride, stride), (0, kernel // 2, kernel // 2),
                         bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_contiguous(memory_format=torch.channels_last_3d):
            return super().forward(x)
        frames = x.transpose(1, 2).flatten(0, 1)
        out = F.conv2d(frames, self.weight.squeeze(2), None, self.stride[1:], self.padding[1:])
        return out.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)

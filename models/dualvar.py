"""DualVar: an encoder with a clip head and a segment head, the segment shuffle, and the table of loss terms.

A mode such as clip-sr-tc names terms of TERMS. A framework (simclr.py, moco.py) encodes the views of a sample and
says what a clip is contrasted with; a term says which embeddings are compared, and how.
"""
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .backbones import BACKBONES
from .backbones.base import Backbone, average_pool
from .heads import ClipHead, SegmentHead
from .losses import info_nce, nt_xent, shuffle_rank, temporal_coherent, temporal_coherent_queue

HEADS = ("clip", "segment")

# --- encoder ---------------------------------------------------------------------------------------------------


class DualEncoder(nn.Module):
    """Backbone - global average pool - clip head and segment head.

    Both heads are always there, so that a checkpoint has the same keys in every mode; `heads` names those in
    use ("clip", "segment"), the other is frozen and not computed.
    """

    def __init__(self, net: str, width: float = 1.0, dim: int = 128, n_series: int = 2, series_dim: int = 64,
                 heads: Iterable[str] = ("clip", "segment")):
        super().__init__()
        self.backbone = BACKBONES[net](width)
        self.clip_head = ClipHead(self.backbone.feature_dim, dim)
        self.segment_head = SegmentHead(self.backbone.feature_dim, n_series, series_dim)
        self.heads = [name for name in HEADS if name in heads]
        for name in HEADS:
            self.head(name).requires_grad_(name in heads)

    def head(self, name: str) -> ClipHead | SegmentHead:
        heads: dict[str, ClipHead | SegmentHead] = {"clip": self.clip_head, "segment": self.segment_head}
        return heads[name]

    def forward(self, views: Tensor) -> dict[str, Tensor]:
        """views (B, V, 3, T, H, W), encoded in one batch -> {"clip": (B, V, dim), "segment": (B, V, n, d)}.

        Of the heads in use. The batch is sample-major: all views of a sample stand together.
        """
        h = average_pool(self.backbone(as_batch(views)))
        return {name: self.head(name)(h).unflatten(0, views.shape[:2]) for name in self.heads}


def as_batch(views: Tensor) -> Tensor:
    """(B, V, 3, T, H, W) -> (B * V, 3, T, H, W), channels last: the layout in which networks are fast.

    Only what is a part of a larger batch, or in another layout, is copied.
    """
    clips = views.movedim(2, -1).flatten(0, 1).movedim(-1, 1)
    return clips.contiguous(memory_format=torch.channels_last_3d)


# --- segment shuffle -------------------------------------------------------------------------------------------


def random_permutation(batch: int, n: int, device: torch.device | None = None,
                       generator: torch.Generator | None = None) -> Tensor:
    """Uniform random segment orders, identity included -> (batch, n) long."""
    return torch.rand(batch, n, generator=generator, device=device).argsort(dim=1)


def shuffle_segments(clips: Tensor, permutation: Tensor) -> Tensor:
    """clips (B, 3, T, H, W), permutation (B, n), n divides T: segment j of the result is segment permutation[j].

    Channels-last clips stay so. Raises ValueError where n does not divide T.
    """
    n = permutation.shape[1]
    if clips.shape[2] % n:
        raise ValueError(f"clips of {clips.shape[2]} frames cannot be cut into {n} segments of equal length")
    segments = clips.movedim(1, -1).unflatten(1, (n, -1))  # (B, n, T / n, H, W, 3)
    sample = torch.arange(len(clips), device=clips.device)[:, None]
    return segments[sample, permutation].flatten(1, 2).movedim(-1, 1)


def restore_segments(segments: Tensor, permutation: Tensor) -> Tensor:
    """Segment embeddings (B, n, d) of a shuffled clip, put back in the order of the unshuffled one."""
    return segments.gather(1, permutation.argsort(dim=1)[:, :, None].expand_as(segments))


# --- loss terms ------------------------------------------------------------------------------------------------


@dataclass
class Embedded:
    """Embeddings of one head, L2-normalised, (B, dim) or (B, n, d).

    Views that no term of the mode needs stay None; Pretrainer.forward looks before it asks a term for its losses.
    """

    head: str
    view1: Tensor
    view2: Tensor = None  # type: ignore[assignment]  # MoCo: by the key encoder, without gradient
    view3: Tensor = None  # type: ignore[assignment]  # the frames of view 1 with an augmentation of their own
    restored: Tensor = None  # type: ignore[assignment]  # of the shuffled view 3, embeddings put back in order


VIEWS = {field.name for field in fields(Embedded)} - {"head"}
Losses = dict[str, tuple[Tensor, Tensor | None]]  # name -> (scalar loss, logits with the positive in column 0 or None)


def clip_loss(framework: "Pretrainer", embedded: Embedded) -> Losses:
    return {"clip": framework.contrast(embedded, nt_xent, info_nce)}


def tc_loss(framework: "Pretrainer", embedded: Embedded) -> Losses:
    return {"tc": framework.contrast(embedded, temporal_coherent, temporal_coherent_queue)}


def sr_loss(framework: "Pretrainer", embedded: Embedded) -> Losses:
    """L_SR = 0.5 (view 1, x') + 0.5 (view 3, x'), x' being the shuffled view 3."""
    found: Losses = {}
    for name, view in (("sr_view1", embedded.view1), ("sr_view3", embedded.view3)):
        loss, logits = shuffle_rank(view, embedded.restored, framework.theta, framework.sr_clamp)
        found[name] = 0.5 * loss, logits
    return found


@dataclass(frozen=True)
class Term:
    """A loss term. `--mode` switches it on, `--<term>_weight` weighs all its losses.

    head: the embeddings it compares, of HEADS; views: those it needs, fields of Embedded; loss: (framework, Embedded)
    -> Losses; names: of the losses that it returns; weight: default of its flag; contrasts: whether it calls
    framework.contrast, so that its logits are similarities over the temperature.
    Raises ValueError where head, views or names cannot be right.
    """

    head: str
    views: tuple[str, ...]
    loss: Callable[["Pretrainer", Embedded], Losses]
    names: tuple[str, ...]
    weight: float = 1.0
    contrasts: bool = False

    def __post_init__(self) -> None:
        if self.head not in HEADS:
            raise ValueError(f"head {self.head!r} of a term is not one of {', '.join(HEADS)}")
        for field, value in (("views", self.views), ("names", self.names)):
            if isinstance(value, str) or not value:
                raise ValueError(f"{field} of a term is a tuple of names, not {value!r}")
        if unknown := set(self.views) - VIEWS:
            raise ValueError(f"views {', '.join(sorted(unknown))} of a term are not of {', '.join(sorted(VIEWS))}")
        if "restored" in self.views and self.head != "segment":
            raise ValueError(f"head {self.head!r} of a term has no view `restored`: segments have one")

    @property
    def shuffles(self) -> bool:
        """Whether it needs the shuffled view."""
        return "restored" in self.views


TERMS: dict[str, Term] = {
    "clip": Term("clip", ("view1", "view2"), clip_loss, ("clip",), contrasts=True),
    "sr": Term("segment", ("view1", "view3", "restored"), sr_loss, ("sr_view1", "sr_view3")),
    "tc": Term("segment", ("view1", "view2"), tc_loss, ("tc",), contrasts=True),
}


def parse_mode(mode: str) -> dict[str, Term]:
    """"clip-sr-tc" -> its entries of TERMS, in TERMS' order. ValueError for an unknown, repeated or missing term."""
    names = mode.split("-")
    if not set(names) <= set(TERMS) or len(set(names)) != len(names):
        raise ValueError(f"mode {mode!r} is not made of different terms of {', '.join(TERMS)}, joined by '-'")
    return {name: term for name, term in TERMS.items() if name in names}


def views_needed(terms: Mapping[str, Term]) -> set[str]:
    """Fields of Embedded that these terms need."""
    return {view for term in terms.values() for view in term.views}


def needs_view3(terms: Mapping[str, Term]) -> bool:
    """Whether these terms need view 3, shuffled or not."""
    return bool(views_needed(terms) & {"view3", "restored"})


def views_of_sample(terms: Mapping[str, Term]) -> int:
    """Views that the loader makes of each video."""
    return 3 if needs_view3(terms) else 2


def term_of(loss: str) -> str:
    """Name of the term that makes the loss called `loss`. Raises ValueError where none does."""
    found = [name for name, term in TERMS.items() if loss in term.names]
    if not found:
        raise ValueError(f"loss {loss!r} is of no term: name it in models/dualvar.py, TERMS")
    return found[0]


def total_loss(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Sum of the losses (by name), each times the weight of its term (by term).

    Raises ValueError for a loss that no weight names: it would silently not be trained on.
    """
    terms = {name: term_of(name) for name in losses}
    for name, term in terms.items():
        if term not in weights:
            raise ValueError(f"loss {name!r}: no weight for term {term!r}")
    return torch.stack([weights[terms[name]] * loss for name, loss in losses.items()]).sum()


# --- frameworks ------------------------------------------------------------------------------------------------


@dataclass
class Output:
    """What a pretrainer returns for a batch."""

    losses: dict[str, Tensor]  # scalars by name, with gradient
    logits: dict[str, Tensor]  # (rows, candidates) by name, the positive in column 0, detached
    embeddings: dict[str, Tensor]  # of view 1, by head, (B, dim) and (B, n, d), detached


@dataclass(frozen=True)
class Option:
    """An argument of a framework's constructor that has a flag of its own. within: the least and the largest value."""

    name: str
    flag: str
    default: Any
    help: str
    within: tuple[float, float] = (-math.inf, math.inf)

    @property
    def dest(self) -> str:
        """The flag's name among the parsed flags."""
        return self.flag.lstrip("-").replace("-", "_")

    def check(self, value: float) -> None:
        """Raise ValueError, naming the flag, where `value` is not within its bounds."""
        low, high = self.within
        if not low <= value <= high or math.isinf(value):
            raise ValueError(f"{self.flag} {value} is not between {low:g} and {high:g}")


ContrastiveLoss = Callable[..., tuple[Tensor, Tensor]]  # one of losses.py: (embeddings..., temperature) -> loss, logits
Encode = Callable[[nn.Module, Tensor], dict[str, Tensor]]  # (encoder, views (B, V, 3, T, H, W)) -> its embeddings


def encode_whole(encoder: nn.Module, views: Tensor) -> dict[str, Tensor]:
    """The whole batch at once."""
    return encoder(views)


class Pretrainer(nn.Module):
    """Base of the frameworks: holds encoder and terms, makes the losses from what a framework embeds.

    A framework defines `embed` and `contrast`, and may have options of its own.
    """

    options: ClassVar[tuple[Option, ...]] = ()
    default_sr_clamp: ClassVar[float | None] = None
    shuffles_keys: ClassVar[bool] = False  # whether the constructor takes `shuffle_keys` (--bn shuffle)

    def __init__(self, encoder: DualEncoder, terms: Mapping[str, Term], temperature: float = 0.07,
                 theta: float = 0.05, sr_clamp: float | None = None):
        super().__init__()
        self.encoder = encoder
        self.terms = dict(terms)
        self.needed = views_needed(terms)
        self.needs_view3 = needs_view3(terms)
        self.temperature, self.theta, self.sr_clamp = temperature, theta, sr_clamp

    @classmethod
    def option_names(cls) -> set[str]:
        """Keyword arguments that the constructor takes beside those of every framework."""
        return {option.name for option in cls.options} | ({"shuffle_keys"} if cls.shuffles_keys else set())

    @classmethod
    def check(cls, batch_size: int, **options: Any) -> None:
        """Raise ValueError, naming the flag, where the framework's options do not fit a global batch."""

    @property
    def encodes(self) -> set[int]:
        """Numbers of views of a sample that are encoded together, such as {3, 1} for three and then one."""
        raise NotImplementedError(f"{type(self).__name__} does not define `encodes`")

    def backbones(self) -> list[Backbone]:
        """The trained backbone first, then others, as of a momentum encoder."""
        return [self.encoder.backbone]

    def embed(self, views: Tensor, permutation: Tensor | None, encode: Encode) -> dict[str, Embedded]:
        """views (B, V, 3, T, H, W), permutation (B, n) -> what self.needed names, by head in use."""
        raise NotImplementedError(f"{type(self).__name__} does not define `embed`")

    def contrast(self, embedded: Embedded, in_batch: ContrastiveLoss,
                 against_queue: ContrastiveLoss) -> tuple[Tensor, Tensor | None]:
        """Loss of views 1 and 2 against other videos, and logits (None where there are none, as without negatives).

        in_batch: a loss such as nt_xent, of pairs (B, 2, ...); against_queue: the same such as info_nce, of
        queries, keys and a queue. A framework uses the one that fits it. A loss over the whole batch takes its
        embeddings through models.gather.gather, so that it does not depend on the number of processes.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define `contrast`")

    def forward(self, views: Tensor, permutation: Tensor | None = None, encode: Encode = encode_whole) -> Output:
        """Losses of a batch.

        views: (B, V, 3, T, H, W) float, V = 3 (2 where no term needs view 3); permutation: (B, n) long, random
        where None; encode: how a batch of views passes an encoder (engine/gradcache.py does it in parts).
        """
        embedded = self.embed(views, permutation, encode)
        losses: dict[str, Tensor] = {}
        logits: dict[str, Tensor] = {}
        for name, term in self.terms.items():
            for view in term.views:
                if getattr(embedded[term.head], view) is None:
                    raise ValueError(f"term {name!r} needs {view}, which framework {type(self).__name__} does not "
                                     "embed")
            found = term.loss(self, embedded[term.head])
            if set(found) != set(term.names):
                raise ValueError(f"term {name!r} makes losses {sorted(found)}, TERMS names {sorted(term.names)}")
            for key, (loss, rows) in found.items():
                if key in losses:
                    raise ValueError(f"two terms of the mode make a loss {key!r}: give them names of their own")
                losses[key] = loss
                if rows is not None:
                    logits[key] = rows.detach()
        self.after_losses(embedded)
        return Output(losses, logits, {head: own.view1.detach() for head, own in embedded.items()})

    def after_losses(self, embedded: dict[str, Embedded]) -> None:
        """What a framework does once the losses are taken, such as to fill a queue."""

    def shuffled_view(self, view: Tensor, permutation: Tensor | None) -> tuple[Tensor, Tensor]:
        """Shuffle view 3 (B, 3, T, H, W) by `permutation` or a random one -> (x', the permutation used)."""
        if permutation is None:
            permutation = random_permutation(len(view), self.encoder.segment_head.shape[0], view.device)
        return shuffle_segments(view, permutation), permutation


def normalised(embeddings: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each embedding at unit length."""
    return {head: F.normalize(x, dim=-1) for head, x in embeddings.items()}

"""The encoder with its two heads, the segment shuffle, and the loss terms that SimCLR and MoCo share."""
import torch
import torch.nn as nn

from .backbones import BACKBONES
from .heads import ClipHead, SegmentHead
from .losses import shuffle_rank

TERMS = ("clip", "sr", "tc")


def parse_mode(mode):
    """"clip-sr-tc" -> {"clip", "sr", "tc"}. Raises ValueError for an unknown, repeated or missing term."""
    terms = mode.split("-")
    if not set(terms) <= set(TERMS) or len(set(terms)) != len(terms):
        raise ValueError(f"mode {mode!r} is not made of the terms clip, sr and tc joined by '-'")
    return frozenset(terms)


class DualEncoder(nn.Module):
    """Backbone - global average pool - clip head and segment head.

    Both heads are always there, so that a checkpoint has the same keys in every mode; `heads` names those in
    use ("clip", "segment"), the other is frozen and not computed.
    """

    def __init__(self, net, width=1.0, dim=128, n_series=2, series_dim=64, heads=("clip", "segment")):
        super().__init__()
        self.backbone = BACKBONES[net](width)
        self.clip_head = ClipHead(self.backbone.feature_dim, dim)
        self.segment_head = SegmentHead(self.backbone.feature_dim, n_series, series_dim)
        self.heads = frozenset(heads)
        for name, head in (("clip", self.clip_head), ("segment", self.segment_head)):
            head.requires_grad_(name in self.heads)

    def forward(self, views):
        """views (B, V, 3, T, H, W), encoded in one batch -> clip (B, V, dim) or None, segments (B, V, n, d) or None.

        The batch is sample-major: all views of a sample stand together.
        """
        h = self.backbone(views.flatten(0, 1)).mean(dim=(2, 3, 4))
        z = self.clip_head(h) if "clip" in self.heads else None
        s = self.segment_head(h) if "segment" in self.heads else None
        return tuple(None if x is None else x.unflatten(0, views.shape[:2]) for x in (z, s))


def random_permutation(batch, n, device=None, generator=None):
    """Uniform random segment orders, identity included -> (batch, n) long."""
    return torch.rand(batch, n, generator=generator).argsort(dim=1).to(device)


def shuffle_segments(clips, permutation):
    """clips (B, 3, T, H, W), permutation (B, n), n divides T: segment j of the result is segment permutation[j]."""
    n = permutation.shape[1]
    if clips.shape[2] % n:
        raise ValueError(f"clips of {clips.shape[2]} frames cannot be cut into {n} segments of equal length")
    segments = clips.unflatten(2, (n, -1))
    index = permutation[:, None, :, None, None, None].expand_as(segments)
    return segments.gather(2, index).flatten(2, 3)


def restore_segments(segments, permutation):
    """Segment embeddings (B, n, d) of a shuffled clip, put back in the order of the unshuffled one."""
    return segments.gather(1, permutation.argsort(dim=1)[:, :, None].expand_as(segments))


class Pretrainer(nn.Module):
    """What SimCLR and MoCo share: terms in use, temperatures, checks, and the shuffle-rank terms."""

    def __init__(self, encoder, terms, temperature, theta, sr_clamp):
        super().__init__()
        self.encoder = encoder
        self.terms = terms
        self.temperature, self.theta, self.sr_clamp = temperature, theta, sr_clamp
        self.cache = None  # a gradcache.GradCache, where the batch is encoded in parts

    def encode(self, encoder, views):
        """`encoder`'s embeddings of views (B, V, 3, T, H, W), as DualEncoder.forward gives them."""
        return encoder(views) if self.cache is None else self.cache.encode(encoder, views)

    def shuffled_view(self, view, permutation):
        """Shuffle view 3 (B, 3, T, H, W) by `permutation` or a random one -> (x', the permutation used)."""
        n = self.encoder.segment_head.n_series
        if permutation is None:
            permutation = random_permutation(len(view), n, view.device)
        return shuffle_segments(view, permutation), permutation

    def rank_terms(self, segments1, segments3, shuffled):
        """L_SR = 0.5 (view 1, x') + 0.5 (view 3, x'); segment sets (B, n, d), x' already put back in order."""
        losses, logits = {}, {}
        for name, segments in (("sr_view1", segments1), ("sr_view3", segments3)):
            loss, logits[name] = shuffle_rank(segments, shuffled, self.theta, self.sr_clamp)
            losses[name] = 0.5 * loss
        return losses, logits


def output(losses, logits, clip, segments):
    """What a pretrainer returns: loss terms by name, their logits, and view 1's embeddings for monitoring."""
    embeddings = {"clip": clip, "segments": segments}
    return {**losses,
            "logits": {name: x.detach() for name, x in logits.items()},
            "embeddings": {name: x.detach() for name, x in embeddings.items() if x is not None}}

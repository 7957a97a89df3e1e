"""DualVar on SimCLR: negatives are the other videos of the batch."""
from .dualvar import Pretrainer, output, restore_segments
from .gather import gather
from .losses import nt_xent, temporal_coherent


class SimCLR(Pretrainer):
    @property
    def encodes(self):
        """How many views of a sample are encoded together, in each encoding."""
        return {3, 1} if "sr" in self.terms else {2}

    def backbones(self):
        return [self.encoder.backbone]

    def forward(self, views, permutation=None):
        """Loss terms of a batch.

        views: (B, V, 3, T, H, W) float, V = 3 (2 is enough without shuffle-rank); permutation: (B, n) long,
        random where None. Returns {clip, tc, sr_view1, sr_view3 (factor 0.5 included): scalar, "logits":
        {term: logits}, "embeddings": {"clip": (B, dim), "segments": (B, n, d)} of view 1}, the terms of the
        mode only.

        As in the release, the views are encoded in one batch and the shuffled view in a second: batch
        statistics depend on it.
        """
        rank = "sr" in self.terms
        z, s = self.encode(self.encoder, views[:, :3 if rank else 2])
        losses, logits = {}, {}
        if "clip" in self.terms:
            losses["clip"], logits["clip"] = nt_xent(gather(z[:, :2]), self.temperature)
        if "tc" in self.terms:
            losses["tc"], logits["tc"] = temporal_coherent(gather(s[:, :2]), self.temperature)
        if rank:
            shuffled, permutation = self.shuffled_view(views[:, 2], permutation)
            _, back = self.encode(self.encoder, shuffled[:, None])
            terms = self.rank_terms(s[:, 0], s[:, 2], restore_segments(back[:, 0], permutation))
            losses.update(terms[0])
            logits.update(terms[1])
        return output(losses, logits, None if z is None else z[:, 0], None if s is None else s[:, 0])

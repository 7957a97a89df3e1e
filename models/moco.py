"""DualVar on MoCo: negatives come from queues of keys made by a momentum encoder."""
import copy

import torch
import torch.nn.functional as F

from .dualvar import Pretrainer, output, restore_segments
from .gather import gather, shuffled, unshuffled
from .losses import info_nce, temporal_coherent_queue


class MoCo(Pretrainer):
    def __init__(self, encoder, terms, temperature, theta, sr_clamp, queue_size, momentum, shuffle_keys):
        super().__init__(encoder, terms, temperature, theta, sr_clamp)
        self.key_encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.momentum = momentum
        self.shuffle_keys = shuffle_keys
        dim = encoder.clip_head.layers[-1].out_features
        n = encoder.segment_head.n_series
        series_dim = encoder.segment_head.layers[-1].out_features // n
        self.register_buffer("queue", F.normalize(torch.randn(queue_size, dim), dim=-1))
        self.register_buffer("segment_queue", F.normalize(torch.randn(queue_size, n, series_dim), dim=-1))
        self.register_buffer("queue_position", torch.zeros((), dtype=torch.long))

    @property
    def encodes(self):
        """How many views of a sample are encoded together, in each encoding."""
        return {1, 2} if "sr" in self.terms else {1}

    def backbones(self):
        """The trained one first."""
        return [self.encoder.backbone, self.key_encoder.backbone]

    @torch.no_grad()
    def update_key_encoder(self):
        """key parameters <- m * key + (1 - m) * query; batch-norm statistics are the key encoder's own."""
        torch._foreach_lerp_(list(self.key_encoder.parameters()), list(self.encoder.parameters()), 1 - self.momentum)

    @torch.no_grad()
    def keys(self, view):
        """Key embeddings of view 2 (B, 3, T, H, W) -> clip (B, dim) or None, segments (B, n, d) or None.

        With `shuffle_keys` samples change places (and processes) while they are encoded, so that no batch
        statistics tie a query to its key.
        """
        if not (self.shuffle_keys and self.training):
            z, s = self.encode(self.key_encoder, view[:, None])
            return tuple(None if x is None else x[:, 0] for x in (z, s))
        view, order = shuffled(view)
        z, s = self.encode(self.key_encoder, view[:, None])
        return tuple(None if x is None else unshuffled(x[:, 0], order) for x in (z, s))

    @torch.no_grad()
    def enqueue(self, z, s):
        """Replace the oldest keys by the whole batch's, from all processes; ValueError where B does not divide K."""
        size = len(self.queue)
        for queue, keys in ((self.queue, z), (self.segment_queue, s)):
            if keys is None:
                continue
            keys = gather(keys)
            if size % len(keys):
                raise ValueError(f"a queue of {size} cannot take batches of {len(keys)}: make it divisible by them")
            # the position stays on the device: to read it would make the host wait
            queue.index_copy_(0, self.queue_position + torch.arange(len(keys), device=queue.device), keys)
            end = self.queue_position + len(keys)
        self.queue_position.copy_(end % size)

    def forward(self, views, permutation=None):
        """Loss terms of a batch; arguments and result as in SimCLR.forward.

        As in the release, view 1 is encoded alone, then views 3 and x' in one batch, view 2 by the key encoder.
        In training mode the key encoder is updated first and the keys enter the queues last.
        """
        z, s = self.encode(self.encoder, views[:, :1])
        losses, logits = {}, {}
        if self.terms & {"clip", "tc"}:
            if self.training:
                self.update_key_encoder()
            key_z, key_s = self.keys(views[:, 1])
            if "clip" in self.terms:
                losses["clip"], logits["clip"] = info_nce(z[:, 0], key_z, self.queue.clone(), self.temperature)
            if "tc" in self.terms:
                losses["tc"], logits["tc"] = temporal_coherent_queue(
                    s[:, 0], key_s, self.segment_queue.clone(), self.temperature)
        if "sr" in self.terms:
            x, permutation = self.shuffled_view(views[:, 2], permutation)
            _, both = self.encode(self.encoder, torch.stack([views[:, 2], x], dim=1))
            terms = self.rank_terms(s[:, 0], both[:, 0], restore_segments(both[:, 1], permutation))
            losses.update(terms[0])
            logits.update(terms[1])
        if self.training and self.terms & {"clip", "tc"}:
            self.enqueue(key_z, key_s)
        return output(losses, logits, None if z is None else z[:, 0], None if s is None else s[:, 0])

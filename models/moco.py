"""DualVar on MoCo (He et al. 2020): negatives come from queues of keys made by a momentum encoder."""
import copy
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from .backbones.base import Backbone
from .dualvar import (
    ContrastiveLoss,
    DualEncoder,
    Embedded,
    Encode,
    Option,
    Pretrainer,
    Term,
    encode_whole,
    normalised,
    restore_segments,
)
from .gather import gather, shuffled, unshuffled

QUEUES = {"clip": "queue", "segment": "segment_queue"}  # buffer of each head


class MoCo(Pretrainer):
    options = (Option("queue_size", "--moco-k", 16384, "entries of the queue (K), divisible by the batch",
                      (1, 2**31 - 1)),
               Option("momentum", "--moco-m", 0.999, "momentum of the key encoder", (0, 1)))
    shuffles_keys = True

    queue: Tensor  # (K, dim)
    segment_queue: Tensor  # (K, n, d)
    queue_position: Tensor  # scalar, of the oldest keys

    def __init__(self, encoder: DualEncoder, terms: Mapping[str, Term], temperature: float = 0.07, theta: float = 0.05,
                 sr_clamp: float | None = None, queue_size: int = 16384, momentum: float = 0.999,
                 shuffle_keys: bool = False):
        """queue_size: K, divisible by the global batch; shuffle_keys: encode keys in a random order over processes."""
        super().__init__(encoder, terms, temperature, theta, sr_clamp)
        self.key_encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.momentum = momentum
        self.shuffle_keys = shuffle_keys
        for head, queue in QUEUES.items():
            self.register_buffer(queue, F.normalize(torch.randn(queue_size, *encoder.head(head).shape), dim=-1))
        self.register_buffer("queue_position", torch.zeros((), dtype=torch.long))

    @classmethod
    def check(cls, batch_size: int, queue_size: int, momentum: float) -> None:  # type: ignore[override]
        if queue_size < 1:
            raise ValueError(f"--moco-k {queue_size}: the queue needs entries, a multiple of --batch_size {batch_size}")
        if queue_size % batch_size:
            raise ValueError(f"--moco-k {queue_size} is not divisible by --batch_size {batch_size}")

    @property
    def encodes(self) -> set[int]:
        return {1, 2} if "restored" in self.needed else {1}

    def backbones(self) -> list[Backbone]:
        return [self.encoder.backbone, self.key_encoder.backbone]

    @torch.no_grad()
    def update_key_encoder(self) -> None:
        """key parameters <- m * key + (1 - m) * query; batch-norm statistics are the key encoder's own."""
        torch._foreach_lerp_(list(self.key_encoder.parameters()), list(self.encoder.parameters()), 1 - self.momentum)

    @torch.no_grad()
    def keys(self, view: Tensor, encode: Encode = encode_whole) -> dict[str, Tensor]:
        """Key embeddings of view 2 (B, 3, T, H, W) -> {head: (B, ...)}.

        With `shuffle_keys` samples change places (and processes) while they are encoded, so that no batch
        statistics tie a query to its key.
        """
        if not (self.shuffle_keys and self.training):
            return {head: x[:, 0] for head, x in normalised(encode(self.key_encoder, view[:, None])).items()}
        view, order = shuffled(view.movedim(1, -1))  # as channels-last clips are in memory
        mixed = normalised(encode(self.key_encoder, view.movedim(-1, 1)[:, None]))
        return {head: unshuffled(x[:, 0], order) for head, x in mixed.items()}

    def embed(self, views: Tensor, permutation: Tensor | None, encode: Encode) -> dict[str, Embedded]:
        """As in the release: view 1 alone, view 2 by the key encoder, view 3 and its shuffled self in one batch.

        In training mode the key encoder is updated first.
        """
        alone = normalised(encode(self.encoder, views[:, :1]))
        found = {head: Embedded(head, x[:, 0]) for head, x in alone.items()}
        if "view2" in self.needed:
            if self.training:
                self.update_key_encoder()
            for head, key in self.keys(views[:, 1], encode).items():
                found[head].view2 = key
        if "restored" in self.needed:
            shuffled_view, permutation = self.shuffled_view(views[:, 2], permutation)
            pairs = torch.stack([view.movedim(1, -1) for view in (views[:, 2], shuffled_view)], dim=1)
            both = normalised(encode(self.encoder, pairs.movedim(-1, 2)))
            for head, x in both.items():
                found[head].view3 = x[:, 0]
            found["segment"].restored = restore_segments(both["segment"][:, 1], permutation)
        elif self.needs_view3:
            for head, x in normalised(encode(self.encoder, views[:, 2:3])).items():
                found[head].view3 = x[:, 0]
        return found

    def contrast(self, embedded: Embedded, in_batch: ContrastiveLoss,
                 against_queue: ContrastiveLoss) -> tuple[Tensor, Tensor]:
        # a copy: the keys of this batch enter the queue before the backward pass reads it
        queue = self.get_buffer(QUEUES[embedded.head]).clone()
        return against_queue(embedded.view1, embedded.view2, queue, self.temperature)

    @torch.no_grad()
    def after_losses(self, embedded: dict[str, Embedded]) -> None:
        """In training, replace the oldest keys by the whole batch's, from all processes.

        Raises ValueError where the batch does not divide the queue.
        """
        if not self.training or "view2" not in self.needed:
            return
        batch = 0
        for own in embedded.values():
            queue, new = self.get_buffer(QUEUES[own.head]), gather(own.view2)
            batch = len(new)
            if len(queue) % batch:
                raise ValueError(f"a queue of {len(queue)} cannot take batches of {batch}: make it divisible by them")
            # the position stays on the device: to read it would make the host wait
            places = (self.queue_position + torch.arange(batch, device=queue.device)) % len(queue)
            queue.index_copy_(0, places, new)
        self.queue_position.copy_((self.queue_position + batch) % len(self.queue))

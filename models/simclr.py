"""DualVar on SimCLR (Chen et al. 2020): negatives are the other videos of the batch."""
from collections.abc import Callable

import torch
from torch import Tensor

from .dualvar import Embedded, Encode, Pretrainer, normalised, restore_segments
from .gather import gather


class SimCLR(Pretrainer):
    default_sr_clamp = 5.0  # the release's, for SimCLR alone

    @classmethod
    def check(cls, batch_size: int) -> None:  # type: ignore[override]  # it has no options
        if batch_size < 2:
            raise ValueError("--batch_size must be at least 2: SimCLR's negatives are the batch's other videos")

    @property
    def encodes(self) -> set[int]:
        return {3, 1} if "restored" in self.needed else {2}

    def embed(self, views: Tensor, permutation: Tensor | None, encode: Encode) -> dict[str, Embedded]:
        """As in the release, views 1 to 3 are encoded in one batch, x' in a second: batch statistics depend on it."""
        count = 3 if self.needed & {"view3", "restored"} else 2
        together = normalised(encode(self.encoder, views[:, :count]))
        found = {head: Embedded(head, *x.unbind(1)) for head, x in together.items()}
        if "restored" in self.needed:
            shuffled, permutation = self.shuffled_view(views[:, 2], permutation)
            alone = normalised(encode(self.encoder, shuffled[:, None]))
            found["segment"].restored = restore_segments(alone["segment"][:, 0], permutation)
        return found

    def contrast(self, embedded: Embedded, in_batch: Callable[..., tuple[Tensor, Tensor]],
                 against_queue: Callable[..., tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Over the whole batch of all processes."""
        return in_batch(gather(torch.stack([embedded.view1, embedded.view2], dim=1)), self.temperature)

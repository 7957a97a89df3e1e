"""DualVar on SimCLR (Chen et al. 2020): negatives are the other videos of the batch."""
import torch
from torch import Tensor

from .dualvar import ContrastiveLoss, Embedded, Encode, Pretrainer, normalised, restore_segments
from .gather import gather


class SimCLR(Pretrainer):
    default_sr_clamp = 5.0  # the release's, for SimCLR alone

    @classmethod
    def check(cls, batch_size: int) -> None:  # type: ignore[override]  # it has no options
        if batch_size < 2:
            raise ValueError("--batch_size must be at least 2: SimCLR's negatives are the batch's other videos")

    @property
    def encodes(self) -> set[int]:
        together = {3 if self.needs_view3 else 2}
        return together | {1} if "restored" in self.needed else together

    def embed(self, views: Tensor, permutation: Tensor | None, encode: Encode) -> dict[str, Embedded]:
        """As in the release, views 1 to 3 are encoded in one batch, the shuffled view 3 in a second.

        Batch statistics depend on it.
        """
        together = normalised(encode(self.encoder, views[:, :3 if self.needs_view3 else 2]))
        found = {head: Embedded(head, *x.unbind(1)) for head, x in together.items()}
        if "restored" in self.needed:
            shuffled, permutation = self.shuffled_view(views[:, 2], permutation)
            alone = normalised(encode(self.encoder, shuffled[:, None]))
            found["segment"].restored = restore_segments(alone["segment"][:, 0], permutation)
        return found

    def contrast(self, embedded: Embedded, in_batch: ContrastiveLoss,
                 against_queue: ContrastiveLoss) -> tuple[Tensor, Tensor]:
        """Over the whole batch of all processes."""
        return in_batch(gather(torch.stack([embedded.view1, embedded.view2], dim=1)), self.temperature)

"""Forward and backward of a contrastive batch, also in parts: the memory of one part, the loss of the whole batch."""
from collections.abc import Callable, Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from core.dist import world_size
from models.batchnorm import running_statistics_kept
from models.dualvar import Output, Pretrainer, total_loss


def forward_backward(model: torch.nn.Module, cache: "GradCache | None", views: Tensor, permutation: Tensor,
                     weights: Mapping[str, float],
                     scale: Callable[[Tensor], Tensor] = lambda loss: loss) -> tuple[Output, Tensor]:
    """A batch's output and total loss, which replace the parameters' gradients by their own -> (output, loss).

    model: the pretrainer, or what DistributedDataParallel made of it; cache: a GradCache of the pretrainer, if the
    batch is passed in parts; views, permutation: as the pretrainer takes them; weights: of each term; scale: what is
    differentiated, as a function of the loss (torch.amp.GradScaler.scale).
    """
    out = (cache or model)(views, permutation)
    loss = total_loss(out.losses, weights)
    model.zero_grad(set_to_none=True)
    (cache.backward if cache else torch.autograd.backward)(scale(loss))
    return out, loss


class GradCache:
    """Gradient caching (Gao et al. 2021, arXiv 2101.06983) around a pretrainer.

    The batch is encoded without gradient, part by part, and the loss of the whole batch is taken from the embeddings
    and differentiated with respect to them; then each part is encoded again, with gradient, and passes the gradient of
    its embeddings on to the parameters. Loss and gradients are those of the undivided batch, but for batch norm, whose
    statistics are those of a part (as --bn_splits makes them): each part counts in the running statistics once, in the
    momentum of `models.batchnorm.count_in_parts`.

    model: the pretrainer itself, not what DistributedDataParallel made of it: gradients are averaged over the
    processes here, once a step. parts: a divisor of the samples of a process.
    """

    def __init__(self, model: Pretrainer, parts: int):
        self.model, self.parts = model, parts
        self.encoded: list[tuple] = []  # (encoder, views, embeddings by head, which are leaves) of the step

    def __call__(self, views: Tensor, permutation: Tensor) -> Output:
        """The pretrainer's forward; `backward` must follow before the next."""
        self.encoded.clear()
        return self.model(views, permutation, encode=self.encode)

    def encode(self, encoder: torch.nn.Module, views: Tensor) -> dict[str, Tensor]:
        """Embeddings of views (B, V, 3, T, H, W), one part at a time, as the pretrainer asks for them."""
        with torch.no_grad():
            parts = [encoder(part) for part in views.chunk(self.parts)]
        found = {head: torch.cat([part[head] for part in parts]) for head in parts[0]}
        if torch.is_grad_enabled():
            found = {head: x.requires_grad_() for head, x in found.items()}
            self.encoded.append((encoder, views, found))
        return found

    def backward(self, loss: Tensor) -> None:
        """Gradients of `loss`, made from what `__call__` returned, summed into the parameters' `grad`."""
        loss.backward()
        for encoder, views, embeddings in self.encoded:
            gradients = {head: x.grad.chunk(self.parts) for head, x in embeddings.items() if x.grad is not None}
            with running_statistics_kept(encoder):
                for number, part in enumerate(views.chunk(self.parts)):
                    again = encoder(part)
                    torch.autograd.backward([again[head] for head in gradients],
                                            [gradient[number] for gradient in gradients.values()])
        self.encoded.clear()
        average_gradients(list(self.model.parameters()))


@torch.no_grad()
def average_gradients(parameters: list[torch.nn.Parameter]) -> None:
    """Replace gradients by their mean over all processes, as DistributedDataParallel does."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if world_size() == 1 or not gradients:
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    pieces = (flat / world_size()).split([gradient.numel() for gradient in gradients])
    torch._foreach_copy_(gradients, [piece.view_as(x) for piece, x in zip(pieces, gradients, strict=True)])

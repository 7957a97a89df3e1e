"""A contrastive batch encoded in parts, so that the memory is that of one part and the loss that of the whole batch."""
import torch
import torch.distributed as dist

from core.dist import world_size
from models.batchnorm import running_statistics_kept


class GradCache:
    """Gradient caching (GradCache, Gao et al. 2021, arXiv 2101.06983) around a pretrainer; with 1 part, nothing.

    The batch is encoded without gradient, part by part, and the loss of the whole batch is taken from the embeddings
    and differentiated with respect to them; then each part is encoded again, with gradient, and passes the gradient of
    its embeddings on to the parameters. Loss and gradients are those of the undivided batch, but for batch norm, whose
    statistics are those of a part (as --bn_splits makes them): each part counts in the running statistics once.

    call: the pretrainer or what DistributedDataParallel made of it; model: the pretrainer itself; parts: a divisor of
    the samples of a process.
    """

    def __init__(self, call, model, parts):
        self.call, self.model, self.parts = call, model, parts
        self.encoded = []  # (views, clip embeddings, segment embeddings) of the step, the embeddings being leaves
        model.cache = self if parts > 1 else None

    def __call__(self, views, permutation):
        """The pretrainer's forward; `backward` must follow before the next."""
        self.encoded.clear()
        # the processes' gradients are averaged in `backward`, once: DistributedDataParallel has nothing to do
        return (self.model if self.parts > 1 else self.call)(views, permutation)

    def encode(self, encoder, views):
        """Embeddings of views (B, V, 3, T, H, W), one part at a time, as the pretrainer asks for them."""
        with torch.no_grad():
            parts = [encoder(part) for part in views.chunk(self.parts)]
        found = [None if parts[0][i] is None else torch.cat([part[i] for part in parts]) for i in range(2)]
        if torch.is_grad_enabled():
            found = [x if x is None else x.requires_grad_() for x in found]
            self.encoded.append((views, *found))
        return tuple(found)

    def backward(self, loss):
        """Gradients of `loss`, made from what `__call__` returned, summed into the parameters' `grad`."""
        loss.backward()
        if self.parts == 1:
            return
        encoder = self.model.encoder
        with running_statistics_kept(encoder):
            for views, *embeddings in self.encoded:
                used = [i for i, x in enumerate(embeddings) if x is not None and x.grad is not None]
                gradients = [embeddings[i].grad.chunk(self.parts) for i in used]
                for views_of_part, *gradients_of_part in zip(views.chunk(self.parts), *gradients, strict=True):
                    again = encoder(views_of_part)
                    torch.autograd.backward([again[i] for i in used], gradients_of_part)
        self.encoded.clear()
        average_gradients(encoder.parameters())


@torch.no_grad()
def average_gradients(parameters):
    """Replace gradients by their mean over all processes, as DistributedDataParallel does."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if world_size() == 1 or not gradients:
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    pieces = (flat / world_size()).split([gradient.numel() for gradient in gradients])
    torch._foreach_copy_(gradients, [piece.view_as(x) for piece, x in zip(pieces, gradients, strict=True)])

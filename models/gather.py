"""Collecting embeddings from all processes, with gradient. Identity in a single process."""
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from core.dist import rank, world_size


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.stack(parts, dim=1).flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.clone(memory_format=torch.contiguous_format)  # autograd may hand the same tensor to others
        dist.all_reduce(grad)  # every process computed a loss from x: their gradients add up
        return own_share(grad)


def own_share(whole: Tensor) -> Tensor:
    """Of samples of the whole batch, in its order, those that this process has: every W-th."""
    return whole[rank()::world_size()]


def gather(x: Tensor) -> Tensor:
    """(B, ...) on each of W processes -> (W * B, ...) on all of them, in the whole batch's order, differentiable.

    That order is the one TrainBatches deals samples in: sample i is with process i % W.

    When every process derives the same whole-batch loss from the result, x's gradient comes out W times too
    large, and DistributedDataParallel's mean over processes makes the parameter gradients exactly those of
    one process with the whole batch.
    """
    return x if world_size() == 1 else _Gather.apply(x)


@torch.no_grad()
def shuffled(x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Exchange samples between processes at random, as MoCo does to its keys.

    x: (B, ...) on each process. Returns this process's share of the shuffled whole batch, (B, ...), and
    the order: position i of the shuffled batch holds sample order[i].
    """
    whole = gather(x)
    order = torch.randperm(len(whole), generator=generator, device=x.device)  # made there: a copy would be waited for
    if world_size() > 1:
        dist.broadcast(order, src=0)
    return whole[own_share(order)], order


@torch.no_grad()
def unshuffled(x: Tensor, order: Tensor) -> Tensor:
    """Undo `shuffled` on values computed from its samples: (B, ...) -> (B, ...) for this process's own."""
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order), device=order.device)
    return gather(x)[own_share(back)]

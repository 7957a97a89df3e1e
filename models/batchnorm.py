"""Batch statistics over the batches of all processes, or over parts of a batch as several devices would take them."""
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from core.dist import world_size

# --- over all processes ---------------------------------------------------------------------------------------


class SyncBatchNorm(_BatchNorm):
    """Batch norm that, in training, takes the statistics of the batches of all processes together.

    Input (N, C, ...), N differing between processes and zero on some if need be. The same on NCCL and gloo. A layer
    costs one all-reduce forward and one backward, and the host waits for neither on a GPU.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float
    former_class: type[nn.Module]

    def _check_input_dim(self, x: Tensor) -> None:
        """For the forward of torch's class, in evaluation: any number of dimensions will do."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        mean, var, count = self.statistics(as_4d(x.detach()))
        weight = torch.ones_like(mean) if self.weight is None else self.weight
        return _Normalise.apply(x, weight, self.bias, mean, var, count, self.eps)

    @torch.no_grad()
    def statistics(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of all processes' x (N, C, ...), which also count in the running ones.

        -> mean (C,), biased variance (C,), both of the parameters' dtype, and number of values a channel, a scalar.
        """
        sums = moments(x)
        if world_size() > 1:
            dist.all_reduce(sums)
        count = sums[-1]
        both = (sums[:-1] / count).view(2, -1)
        both[1].addcmul_(both[0], both[0], value=-1).clamp_min_(0)
        mean, var = both.to(self.running_mean.dtype)
        unbiased = var * (count / (count - 1).clamp_min_(1))
        self.num_batches_tracked.add_(1)
        torch._foreach_lerp_([self.running_mean, self.running_var], [mean, unbiased], self.momentum)
        return mean, var, count


def as_4d(x: Tensor) -> Tensor:
    """Of channels-last tensors torch's CUDA kernels know the 2-D kind alone, others take a slow way."""
    return x.flatten(2, 3) if x.dim() == 5 else x


def moments(x: Tensor) -> Tensor:
    """Sums over all but dimension 1 of x (N, C, ...): of x, of x squared, and the count -> (2C + 1,) float64.

    They are made from mean and variance, which torch's operator takes in float32 or better and without cancellation;
    float64 then keeps what their sums over processes could lose.
    """
    channels = x.shape[1]
    if not x.numel():
        return x.new_zeros(2 * channels + 1, dtype=torch.float64)
    # the operator's own running statistics are not used; their dtype is that of the results
    unused = x.new_zeros(2, channels, dtype=torch.promote_types(x.dtype, torch.float32))
    sums = torch.cat(torch.batch_norm_update_stats(x, unused[0], unused[1], 0.0)).double()
    sums[channels:].addcmul_(sums[:channels], sums[:channels])
    return F.pad(sums, (0, 1), value=1).mul_(x.numel() // channels)


class _Normalise(torch.autograd.Function):
    """Batch norm with given statistics, and the gradient that passes through these to all processes' inputs.

    Gradients of weight and bias are this process's own, as of any other parameter: DistributedDataParallel averages
    them.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, mean: Tensor, var: Tensor, count: Tensor,
                eps: float) -> Tensor:
        ctx.save_for_backward(x, weight, mean, var, count)
        ctx.eps = eps
        # no view to autograd: networks add to it in place, and the gradient of that to a view would lose its layout
        return torch.ops.aten._unsafe_view(F.batch_norm(as_4d(x), mean, var, weight, bias, False, 0.0, eps), x.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """dL/dx = w / s * (g - mean(g) - x' mean(g x')), g = dL/dy, x' = (x - mean) / s (Ioffe and Szegedy 2015)."""
        saved, weight, mean, var, count = ctx.saved_tensors
        x = as_4d(saved)
        last = x.is_contiguous(memory_format=torch.channels_last)
        grad = as_4d(grads[0]).contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
        inverse = (var + ctx.eps).rsqrt()
        if x.numel():
            # of batch norm with fixed statistics; CPUs take `mean, var`, CUDA `mean, inverse`
            own = torch.ops.aten.native_batch_norm_backward(
                grad, x, weight, mean, var, mean, inverse, False, ctx.eps, (False, True, True))[1:]
        else:
            own = weight.new_zeros(2, len(weight)).unbind()
        total = torch.stack(own)  # sums of g x' and of g: gradients of weight and bias
        if world_size() > 1:
            dist.all_reduce(total)
        scale = weight * inverse
        slope, shift = total.div_(count).mul_(-scale)
        grad_x = F.batch_norm(x, mean, var, slope, shift, False, 0.0, ctx.eps)
        grad_x.addcmul_(grad, scale.view(1, -1, *[1] * (x.dim() - 2)))
        return grad_x.view(saved.shape), own[0], own[1] if ctx.needs_input_grad[2] else None, None, None, None, None


def sync_batchnorm(module: nn.Module) -> nn.Module:
    """Make every BatchNorm1d and BatchNorm3d of `module` a SyncBatchNorm, with the names and tensors that it has."""
    for layer in module.modules():
        if type(layer) in (nn.BatchNorm1d, nn.BatchNorm3d):
            layer.former_class = type(layer)  # type: ignore[assignment]
            layer.__class__ = SyncBatchNorm
    return module


# --- over parts of a batch ------------------------------------------------------------------------------------


class SplitBatchNorm3d(nn.BatchNorm3d):
    """BatchNorm3d that, in training, normalises each of `splits` consecutive parts of the batch by itself.

    Running statistics take the mean over the parts. Raises ValueError where `splits` does not divide the batch.
    """

    # BatchNorm3d may have none of these; one made with its defaults has all
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def __init__(self, channels: int, splits: int, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__(channels, eps, momentum)
        self.splits = splits

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.splits == 1:
            return super().forward(x)
        if len(x) % self.splits:
            raise ValueError(f"a batch of {len(x)} clips cannot be divided into {self.splits} equal parts "
                             "(--bn_splits)")
        means, variances = (running.repeat(self.splits, 1) for running in (self.running_mean, self.running_var))
        # a part is a view, channels last as x is
        parts = [F.batch_norm(part, mean, var, self.weight, self.bias, True, self.momentum, self.eps)
                 for part, mean, var in zip(x.chunk(self.splits), means, variances, strict=True)]
        self.running_mean.copy_(means.mean(dim=0))
        self.running_var.copy_(variances.mean(dim=0))
        self.num_batches_tracked.add_(1)
        return torch.cat(parts)


def split_batchnorm(module: nn.Module, splits: int) -> nn.Module:
    """Replace every BatchNorm3d inside `module` by a SplitBatchNorm3d with its settings, weights and statistics."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm3d):
            assert child.momentum is not None
            new = SplitBatchNorm3d(child.num_features, splits, child.eps, child.momentum)
            new.load_state_dict(child.state_dict())
            setattr(module, name, new)
        else:
            split_batchnorm(child, splits)
    return module


def undivided(module: nn.Module) -> None:
    """Have batch norms inside `module` take their statistics over whole batches, whose size `splits` may not divide."""
    for layer in module.modules():
        if isinstance(layer, SplitBatchNorm3d):
            layer.splits = 1


# --- running statistics ---------------------------------------------------------------------------------------


@contextmanager
def running_statistics_kept(module: nn.Module) -> Iterator[None]:
    """After it, the running statistics of batch norms inside `module` are what they were before.

    For clips that pass a second time, only to get their gradient.
    """
    # .data, which autograd does not watch: it has saved these buffers
    buffers = [buffer.data for layer in batch_norms(module) for buffer in layer.buffers(recurse=False)]
    by_type = {dtype: [buffer for buffer in buffers if buffer.dtype == dtype] for dtype in {b.dtype for b in buffers}}
    former = {dtype: [torch.empty_like(buffer) for buffer in some] for dtype, some in by_type.items()}
    for dtype, some in by_type.items():
        torch._foreach_copy_(former[dtype], some)  # all of a type in one launch on a GPU
    try:
        yield
    finally:
        for dtype, some in by_type.items():
            torch._foreach_copy_(some, former[dtype])


def batch_norms(module: nn.Module) -> Iterator[_BatchNorm]:
    return (layer for layer in module.modules() if isinstance(layer, _BatchNorm))


def count_in_parts(module: nn.Module, parts: int) -> None:
    """Have the running statistics of batch norms inside `module` forget as much in `parts` updates as now in one.

    For batches that pass in parts, each of which updates them. One part changes nothing, not even by rounding.
    """
    for layer in batch_norms(module) if parts > 1 else ():
        assert layer.momentum is not None
        layer.momentum = 1 - (1 - layer.momentum) ** (1 / parts)


M = TypeVar("M", bound=nn.Module)


def own_statistics(module: M) -> M:
    """Have synchronised batch norms inside `module` take this process's statistics, without asking the others."""
    for layer in module.modules():
        if isinstance(layer, SyncBatchNorm):
            layer.__class__ = layer.former_class  # type: ignore[assignment]
    return module

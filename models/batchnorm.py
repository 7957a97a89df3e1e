"""Batch statistics over parts of a batch, as several devices would each take their own."""
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm


class SplitBatchNorm3d(nn.BatchNorm3d):
    """BatchNorm3d that, in training, normalises each of `splits` consecutive parts of the batch by itself.

    Running statistics take the mean over the parts. Raises ValueError where `splits` does not divide the batch.
    """

    # BatchNorm3d may have none of these; one made with its defaults has all
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def __init__(self, channels: int, splits: int):
        super().__init__(channels)
        self.splits = splits

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.splits == 1:
            return super().forward(x)
        n, c, *size = x.shape
        if n % self.splits:
            raise ValueError(f"a batch of {n} clips cannot be divided into {self.splits} equal parts (--bn_splits)")
        mean, var = (running.repeat(self.splits) for running in (self.running_mean, self.running_var))
        # part p, channel c becomes channel p * C + c of a batch n / splits times as long
        parts = x.unflatten(0, (self.splits, -1)).transpose(0, 1).flatten(1, 2)
        out = F.batch_norm(parts, mean, var, self.weight.repeat(self.splits), self.bias.repeat(self.splits),
                           True, self.momentum, self.eps)
        self.running_mean.copy_(mean.view(self.splits, c).mean(dim=0))
        self.running_var.copy_(var.view(self.splits, c).mean(dim=0))
        self.num_batches_tracked.add_(1)
        return out.unflatten(1, (self.splits, c)).transpose(0, 1).reshape(n, c, *size)


def split_batchnorm(module: nn.Module, splits: int) -> nn.Module:
    """Replace every BatchNorm3d inside `module` by a SplitBatchNorm3d with the same weights and statistics."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm3d):
            new = SplitBatchNorm3d(child.num_features, splits)
            new.load_state_dict(child.state_dict())
            setattr(module, name, new)
        else:
            split_batchnorm(child, splits)
    return module


@contextmanager
def running_statistics_kept(module: nn.Module) -> Iterator[None]:
    """After it, the running statistics of batch norms inside `module` are what they were before.

    For clips that pass a second time, only to get their gradient.
    """
    buffers = [buffer for layer in module.modules() if isinstance(layer, _BatchNorm)
               for buffer in layer.buffers(recurse=False)]
    former = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        for buffer, value in zip(buffers, former, strict=True):
            buffer.data.copy_(value)  # of .data, which autograd does not watch: it has saved these buffers


M = TypeVar("M", bound=nn.Module)


def own_statistics(module: M) -> M:
    """Have synchronised batch norms inside `module` take this process's statistics, without asking the others."""
    for layer in module.modules():
        if isinstance(layer, nn.SyncBatchNorm):
            layer.__class__ = nn.BatchNorm3d  # type: ignore[assignment]
    return module

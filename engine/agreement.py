"""What the processes of a run tell each other beside gradients: counts at every step, and that they run the same."""
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from core.dist import cpu_group, world_size
from core.errors import RunError


class Exchange:
    """Sums of a few numbers over all processes at every step, on the CPU and a step late: no GPU waits for them."""

    def __init__(self, count: int):
        self.group = cpu_group() if world_size() > 1 else None
        self.nothing: list[int] = [0] * count
        self.pending: tuple | None = None

    def __call__(self, *values: int) -> Sequence[int]:
        """-> the sums of these values (one process), or of those in the call before (several)."""
        if self.group is None:
            return values
        sums = self.drain()
        mine = torch.tensor(values)
        self.pending = dist.all_reduce(mine, group=self.group, async_op=True), mine
        return sums

    def drain(self) -> Sequence[int]:
        """-> the sums of the last call that have not been returned yet. All processes must call it."""
        if self.pending is None:
            return self.nothing
        (work, sums), self.pending = self.pending, None
        work.wait()
        return sums.tolist()


def check_agreement(device: torch.device, **numbers: int) -> None:
    """Raise RunError, naming it, where a number is not the same on all processes: a folder or list is not shared."""
    if world_size() == 1:
        return
    mine = torch.tensor(list(numbers.values()), device=device)
    low, high = mine.clone(), mine.clone()
    dist.all_reduce(low, op=dist.ReduceOp.MIN)
    dist.all_reduce(high, op=dist.ReduceOp.MAX)
    for name, a, b in zip(numbers, low.tolist(), high.tolist(), strict=True):
        if a != b:
            raise RunError(f"the processes disagree on the {name.replace('_', ' ')}, {a} and {b}: all machines must "
                           "see the same log folder, lists and frames")


def of_all_processes(value: Any) -> list:
    """-> [every process's value], in rank order."""
    if world_size() == 1:
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def of_first_process(value: Any) -> Any:
    """-> the first process's value"""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]

"""This process among all processes of the run."""
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from .environment import PROCESSES, text_variable, whole_number_variable
from .errors import UsageError

# How much longer than for a batch of its own a process waits for the others: one whose loader hangs says so first, and
# the first one may write checkpoints and pictures meanwhile, or another be slower over a whole list.
PATIENCE = timedelta(minutes=30)
FOR_EVER = timedelta(days=7)

_patience: timedelta | None = None  # of the process group; torch has it no more for further groups
_planned = 1


def plan_for(processes: int) -> None:
    """Have this process check a run of so many, of which it is the first: `world_size` answers so."""
    global _planned
    _planned = processes


@contextmanager
def alone() -> Iterator[None]:
    """Without a process group: within it nothing is gathered from processes that are only planned for."""
    global _planned
    former, _planned = _planned, 1
    try:
        yield
    finally:
        _planned = former


def join(backend: str, loader_timeout: float, device: torch.device | None = None) -> None:
    """Join the process group that torchrun announces.

    loader_timeout: seconds that a process waits for a batch, 0: for ever; the others wait longer for it. device: of
    this process, where it is a GPU.
    """
    global _patience
    longest = FOR_EVER.total_seconds()
    _patience = PATIENCE + timedelta(seconds=loader_timeout if 0 < loader_timeout < longest else longest)
    dist.init_process_group(backend, timeout=_patience, device_id=device)


def cpu_group() -> dist.ProcessGroup:
    """Another group of all processes, for tensors on the CPU."""
    group = dist.new_group(backend="gloo", timeout=_patience)
    assert isinstance(group, dist.ProcessGroup)  # this process is in it
    return group


def local_processes() -> int:
    """Processes of this run on this machine, by what torchrun sets. Raises UsageError where that is no such number."""
    return whole_number_variable("LOCAL_WORLD_SIZE", 1, 1, PROCESSES, "the number of this machine's processes")


def announced() -> tuple[int, int]:
    """(number of this process on its machine, number of all processes), by what torchrun sets.

    Raises UsageError where these, or what several processes need to find each other, are not set as they must be.
    """
    processes = whole_number_variable("WORLD_SIZE", 1, 1, PROCESSES, "the number of processes of the run")
    local = whole_number_variable("LOCAL_RANK", 0, 0, PROCESSES - 1, "the number of this process on its machine")
    if processes > 1:
        torchrun = f"(torchrun sets it, with WORLD_SIZE={processes}; unset that for one process alone)"
        whole_number_variable("RANK", None, 0, processes - 1, f"the number of this process {torchrun}")
        whole_number_variable("MASTER_PORT", None, 1, 65535, f"a port of the first machine {torchrun}")
        if not text_variable("MASTER_ADDR"):
            raise UsageError(f"MASTER_ADDR is not set in the environment: it is the first machine {torchrun}")
    return local, processes


def initialised() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Number of this process, from 0; 0 without a process group."""
    return dist.get_rank() if initialised() else 0


def world_size() -> int:
    """Number of processes; 1 without a process group, or what a dry run plans for."""
    return dist.get_world_size() if initialised() else _planned

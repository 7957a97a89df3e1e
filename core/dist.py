"""This process among all processes of the run."""
import torch.distributed as dist


def initialised() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Number of this process, from 0; 0 without a process group."""
    return dist.get_rank() if initialised() else 0


def world_size() -> int:
    """Number of processes; 1 without a process group."""
    return dist.get_world_size() if initialised() else 1

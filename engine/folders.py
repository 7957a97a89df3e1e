"""Where runs are written, what they need of disk and shared memory, and whether that is there."""
import math
import os
import re
import shutil
from pathlib import Path

from torch import nn

from core.dist import local_processes
from core.errors import UsageError
from dataset.loader import PREFETCHED


def weights_name(path: str | Path) -> str:
    """Short name of weights for a result's folder: a run's, where they are a checkpoint in its model/ folder."""
    path = Path(path)
    ending = re.search(r"(\.pth|\.pt|\.tar|\.pkl|\.pyth|\.ckpt)+$", path.name)
    if ending is None:
        return path.name
    return path.absolute().parent.parent.name if path.parent.name == "model" else path.name[:ending.start()]


def check_folder(folder: Path) -> Path:
    """-> the deepest folder there is on the way to `folder`; UsageError where nothing could be written there."""
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(f"{folder} cannot be written (--log_dir, --name, --save_features, --out): {there} is "
                         + ("not writable" if there.is_dir() else "no folder"))
    return there


def check_disk(folder: Path, model: nn.Module, epochs: int, save_freq: int, keep: int,
               keep_epoch: int | None) -> None:
    """Raise UsageError where the checkpoints of `epochs` more epochs would not fit on the disk.

    save_freq, keep, keep_epoch: as in engine.session.RunSettings.
    """
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    size = trained + sum(x.numel() * x.element_size() for x in model.state_dict().values())
    copies = min(math.ceil(epochs / save_freq), keep or math.inf) + (keep_epoch is not None)
    needed, there = size * (copies + 3), check_folder(folder)  # and the latest, the one before, one being written
    free = shutil.disk_usage(there).free
    if needed > free:
        raise UsageError(f"--log_dir: checkpoints will take {needed / 1e9:.3g} GB ({copies} epochs' of "
                         f"{size / 1e9:.3g} GB, and 3 more) and {there} has {free / 1e9:.3g} GB free: make room, give "
                         "another --log_dir, keep fewer (--keep) or save less often (--save_freq)")


def loader_memory(batch: int, workers: int, shared: Path = Path("/dev/shm")) -> str:
    """What the plan says of the loader; UsageError where the memory in which workers hand over batches is too small.

    batch: bytes of a process's batch, of which each worker has PREFETCHED under way at most.
    """
    needed = local_processes() * workers * PREFETCHED * batch
    free = shutil.disk_usage(shared).free if shared.is_dir() else math.inf
    if needed > free:
        raise UsageError(f"--workers {workers}: the batches under way take up to {needed / 1e9:.3g} GB of shared "
                         f"memory, and {shared} has {free / 1e9:.3g} GB free: fewer workers, or a larger {shared} "
                         "(docker run --shm-size)")
    return f"{workers} workers a process, up to {needed / 1e9:.2g} GB of shared memory"

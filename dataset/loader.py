"""Batches: which samples each process gets, and the loader around them."""
import ctypes
import math
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from functools import cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from core.dist import local_processes
from core.jobs import WorkerDied, run_jobs, within
from core.lifeline import die_with_parent

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt, in glibc

PREFETCHED = 2  # batches that each worker has under way at most

Key = tuple[int, int]  # (epoch, index) of a sample


class TrainBatches:
    """Shuffled batches of keys (epoch, index); this process's share of each global batch.

    size: videos in the list; batch: global batch size; world: number of processes; parts: in which a batch is passed,
    one at a time, as equal as can be. The global batches of an epoch, and their parts, depend on (seed, epoch) alone,
    so any number of processes trains on the same ones; the last, incomplete batch is left out. Of a part, process r
    has the samples r, r + world, ...; one that has none of the whole batch loads the first, for its shape.
    Call `start` before each epoch; `len` is the number of steps of a whole epoch.

    Attributes: `own`, samples of this process in each part; `loaded`, samples that it loads of a batch; `sizes`, all
    numbers of samples in a part, on any process.
    """

    def __init__(self, size: int, batch: int, rank: int = 0, world: int = 1, seed: int = 0, parts: int = 1) -> None:
        self.size, self.batch, self.seed = size, batch, seed
        divided = np.array_split(np.arange(batch), parts)
        shares = [part[rank::world] for part in divided]
        self.own = [len(share) for share in shares]
        self.sizes = {len(part[r::world]) for part in divided for r in range(world)} - {0}
        self._share = np.concatenate(shares) if any(self.own) else np.zeros(1, int)
        self.loaded = len(self._share)
        self.start(0)

    def start(self, epoch: int, step: int = 0) -> None:
        """Iterate over `epoch` from its batch number `step` on."""
        self.epoch, self.step = epoch, step

    def __len__(self) -> int:
        return self.size // self.batch

    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(self.size)

    def whole(self, epoch: int, step: int) -> np.ndarray:
        """Indices of all processes' samples at a step, (batch,) int64."""
        return self._order(epoch)[step * self.batch:(step + 1) * self.batch]

    def __iter__(self) -> Iterator[list[Key]]:
        order = self._order(self.epoch)
        for step in range(self.step, len(self)):
            yield [(self.epoch, int(index)) for index in order[step * self.batch + self._share]]


class EvalBatches:
    """All samples once, in order; each process takes every `world`-th batch.

    A batch has the same samples whatever the number of processes, and so the same results.
    """

    def __init__(self, size: int, batch: int, rank: int = 0, world: int = 1) -> None:
        self.batches = [range(start, min(start + batch, size)) for start in range(0, size, batch)][rank::world]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Key]]:
        for batch in self.batches:
            yield [(0, index) for index in batch]


def default_workers() -> int:
    """Loader processes of each process: its share of the cores that the system lets this machine's processes use."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, min(8, int(min(cores, cpu_quota()) / local_processes())))


def cpu_quota(own: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> float:
    """Cores' worth of time that this process's control groups allow it, as in a container; inf: no limit.

    own: a line "number:controllers:group" for each hierarchy, of which version 2 names no controllers.
    """
    quotas = [math.inf]
    for line in own.read_text().splitlines() if own.exists() else ():
        controllers, group = line.split(":", 2)[1:]
        base = root if not controllers else root / "cpu" if "cpu" in controllers.split(",") else None
        if base is None:
            continue
        # a limit of a group holds for those within it; a container's group may be seen from outside alone
        folder = base / group.lstrip("/")
        for place in (place for place in (folder, *folder.parents) if place.is_relative_to(base)):
            try:
                if controllers:
                    limit, period = ((place / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
                else:
                    limit, period = (place / "cpu.max").read_text().split()
            except OSError:
                continue
            if limit.strip() not in ("max", "-1"):
                quotas.append(int(limit) / int(period))
    return min(quotas)


def _prepare_worker(_worker: int) -> None:
    """One thread; signals to the whole process group are ignored: the parent decides when its workers end."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    die_with_parent(signal.SIGKILL)
    parent = multiprocessing.parent_process()
    served = multiprocessing.get_start_method() == "forkserver"  # then the worker is a child of that server
    if parent and (not parent.is_alive() if served else os.getppid() != parent.pid):
        os._exit(1)
    keep_memory()


def keep_memory() -> None:
    """Have glibc keep freed memory for the next picture or activation: the system takes time to clear new pages."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # other C libraries have no such setting
        libc.mallopt(M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def return_memory() -> None:
    """Give freed memory that glibc keeps back to the system."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(ctypes.c_size_t(0))


class PatientDataset(Dataset[dict[str, Any]]):
    """A data set whose items are {"index": ...}, and which says how long each may take."""

    def patience(self, index: int) -> float:
        """Seconds of the processor's time after which an item is taken to find no end."""
        raise NotImplementedError


def surviving_items(dataset: PatientDataset, workers: int,
                    groups: Sequence[Any] | None = None) -> Iterator[dict[str, Any]]:
    """The items of a data set in order, read by `workers` processes of one thread each.

    One that ends the process that reads it, as a decoder that crashes does, or takes longer than its patience, is
    {"index", "error", "lasting"}, and later ones of the same of `groups` (N,) are left out; lasting: whether it would
    again, and was not killed, as where memory runs out. 0 workers: it ends this process, and has no limit.
    """
    count = len(dataset)  # type: ignore[arg-type]
    if not workers:
        yield from (dataset[index] for index in range(count))
        return
    dead: set[Any] = set()
    of = range(count) if groups is None else groups
    left = (index for index in range(count) if of[index] not in dead)
    with closing(run_jobs(partial(_read, dataset), left, workers, True, multiprocessing.get_start_method())) as items:
        for index, item in items:
            if of[index] in dead:  # it was under way already
                continue
            if isinstance(item, WorkerDied):
                dead.add(of[index])
                item = {"index": index, "error": item.reason, "lasting": item.crashed}
            if isinstance(item, tuple):
                error, text = item
                raise error from RuntimeError(f"in a worker:\n{text}")
            yield {name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
                   for name, value in item.items()}


@cache
def _prepare_once() -> None:
    _prepare_worker(0)


def _read(dataset: PatientDataset, index: int) -> dict[str, Any] | tuple[Exception, str]:
    """An item, in a worker, without tensors, whose memory would have to be fetched from there while it lives; or an
    error and its traceback.
    """
    _prepare_once()
    try:
        with within(dataset.patience(index)):
            item = dataset[index]
        return {name: value.numpy() if isinstance(value, torch.Tensor) else value for name, value in item.items()}
    except Exception as error:
        return error, traceback.format_exc()


def make_loader(dataset: Dataset, batches: Iterable[list[Key]], workers: int, pin_memory: bool = False,
                timeout: float = 0) -> DataLoader:
    """DataLoader with `workers` processes of one thread each (0: it reads in this process).

    timeout: seconds to wait for a batch from the workers before RuntimeError (0: no limit).
    """
    return DataLoader(dataset, batch_sampler=batches, num_workers=workers, pin_memory=pin_memory,
                      worker_init_fn=_prepare_worker, persistent_workers=workers > 0,
                      prefetch_factor=PREFETCHED if workers else None,
                      timeout=timeout if workers else 0)

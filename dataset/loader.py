"""Batches: which samples each process gets, and the loader around them."""
import ctypes
import signal
import sys

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader

PR_SET_PDEATHSIG = 1  # of Linux' prctl
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


class TrainBatches:
    """Shuffled batches of keys (epoch, index); this process's share of each global batch.

    size: videos in the list; batch: global batch size, divisible by `world`. The global batches of an epoch
    depend on (seed, epoch) alone, so any number of processes trains on the same ones; the last, incomplete
    batch is left out. Call `start` before each epoch; `len` is the steps of a whole one.
    """

    def __init__(self, size, batch, rank=0, world=1, seed=0):
        self.size, self.batch, self.rank, self.world, self.seed = size, batch, rank, world, seed
        self.start(0)

    def start(self, epoch, step=0):
        """Go through `epoch` from its batch number `step`."""
        self.epoch, self.step = epoch, step

    def __len__(self):
        return self.size // self.batch

    def _order(self, epoch):
        return np.random.default_rng([self.seed, epoch]).permutation(self.size)

    def whole(self, epoch, step):
        """Indices of all processes' samples at a step, (batch,) int64."""
        return self._order(epoch)[step * self.batch:(step + 1) * self.batch]

    def __iter__(self):
        order, share = self._order(self.epoch), self.batch // self.world
        for first in range(self.step * self.batch + self.rank * share, len(self) * self.batch, self.batch):
            yield [(self.epoch, int(index)) for index in order[first:first + share]]


class EvalBatches:
    """All samples once, in order; whole batches are dealt to the processes in turn.

    A batch is made of the same samples whatever the number of processes, and so are its results.
    """

    def __init__(self, size, batch, rank=0, world=1):
        self.batches = [range(start, min(start + batch, size)) for start in range(0, size, batch)][rank::world]

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for batch in self.batches:
            yield [(0, index) for index in batch]


def _prepare_worker(_worker):
    """One thread; the parent alone decides when a worker ends, whatever signals the whole group is sent."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    die_with_parent(signal.SIGKILL)
    keep_memory()


def keep_memory():
    """Have glibc keep what is freed for the next picture or activation: the system clears every page it gives anew."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # other C libraries have no such setting
        libc.mallopt(M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def return_memory():
    """Return what is kept to the system."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(ctypes.c_size_t(0))


def die_with_parent(number):
    """Ask the system to send this process signal `number` when its parent ends, however that ends; Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


def make_loader(dataset, batches, workers, pin_memory=False, timeout=0):
    """DataLoader of `workers` processes with one thread each (0: in this process).

    timeout: seconds to wait for a batch from the workers before RuntimeError (0: for ever).
    """
    return DataLoader(dataset, batch_sampler=batches, num_workers=workers, pin_memory=pin_memory,
                      worker_init_fn=_prepare_worker, persistent_workers=workers > 0,
                      timeout=timeout if workers else 0)

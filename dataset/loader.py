"""Batches: which samples each process gets, and the loader around them."""
import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader


class TrainBatches:
    """Shuffled batches of keys (epoch, index); this process's share of each global batch.

    size: videos in the list; batch: global batch size, divisible by `world`. The global batches of an epoch
    depend on (seed, epoch) alone, so any number of processes trains on the same ones; the last, incomplete
    batch is left out. Call set_epoch before each epoch.
    """

    def __init__(self, size, batch, rank=0, world=1, seed=0):
        self.size, self.batch, self.rank, self.world, self.seed, self.epoch = size, batch, rank, world, seed, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return self.size // self.batch

    def __iter__(self):
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.size)
        share = self.batch // self.world
        for start in range(self.rank * share, len(self) * self.batch, self.batch):
            yield [(self.epoch, int(index)) for index in order[start:start + share]]


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


def _one_thread(_worker):
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def make_loader(dataset, batches, workers, pin_memory=False):
    """DataLoader of `workers` processes with one thread each (0: in this process)."""
    return DataLoader(dataset, batch_sampler=batches, num_workers=workers, pin_memory=pin_memory,
                      worker_init_fn=_one_thread, persistent_workers=workers > 0)

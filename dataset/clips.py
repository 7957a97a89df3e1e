"""The one data set class: a list, a sampler of frame indices and crops, for every set and stage."""
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from core.errors import DataError

from .lists import VideoList, local_dataset
from .reader import FrameReader
from .sampling import Sampler
from .storage import SOURCES, repair_hint

SKIPPABLE = "; --skip_bad_samples N trains on without them"
ATTEMPTS = 10  # videos tried in a row before a sample is given up


class VideoClips(Dataset[dict[str, Any]]):
    """Samples keyed by (epoch, index).

    sampler: (num_frames, rng, pace) -> frame indices (V, T), as in sampling.py; crop: (pictures, which, rng) -> clips
    (V, T, H, W, 3), as in crops.py; draw: (views, rng) -> random parameters of the augmentation by name, as in
    augment.py. All random numbers come from a generator seeded by (seed, epoch, index): a sample is the same whichever
    process or worker makes it. replace_bad: take another video's sample for one that cannot be read, and say so in it.
    """

    def __init__(self, videos: VideoList, reader: FrameReader,
                 sampler: Sampler,
                 crop: Callable[[Iterable[np.ndarray], np.ndarray, np.random.Generator], np.ndarray],
                 draw: Callable[[int, np.random.Generator], dict[str, np.ndarray]] | None = None,
                 seed: int = 0, replace_bad: bool = False) -> None:
        self.videos, self.reader, self.sampler, self.crop, self.draw = videos, reader, sampler, crop, draw
        self.seed, self.replace_bad = seed, replace_bad

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        """-> {"clips": (V, T, H, W, 3) uint8, "label": int, "index": int, and what `draw` gives, as tensors}

        With `replace_bad` also "error": why this sample could not be read, "" where it could. Raises DataError where
        a frame cannot be read, with `replace_bad` after ATTEMPTS videos.
        """
        if not self.replace_bad:
            return self._sample(key[1], np.random.default_rng([self.seed, *key]))
        rng, index = np.random.default_rng([self.seed, *key]), key[1]
        errors: list[str] = []
        for _ in range(ATTEMPTS):
            try:
                return {**self._sample(index, rng), "error": "; ".join(errors)}
            except DataError as error:
                errors.append(str(error))
                index = int(rng.integers(len(self)))
        raise DataError(f"{ATTEMPTS} samples in a row cannot be read: {errors[-1]}")

    def frames_of(self, index: int, rng: np.random.Generator) -> np.ndarray:
        """Frames of video `index` that are its clips -> (V, T) int"""
        return self.videos.frames_of(self.sampler, index, rng)

    def _sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        indices = self.frames_of(index, rng)
        clips = self.crop(*self.reader.read(self.videos.names[index], indices, int(self.videos.num_frames[index])), rng)
        sample = {"clips": torch.from_numpy(clips), "label": int(self.videos.labels[index]), "index": index}
        if self.draw is not None:
            sample.update({name: torch.from_numpy(x) for name, x in self.draw(len(clips), rng).items()})
        return sample


def open_reader(dataset: str, storage: str, size: tuple[int, int], skippable: bool = False) -> FrameReader:
    """Reader of a data set's videos in one of its kinds of storage, which gives frames of `size` (height, width).

    skippable: whether errors are to mention --skip_bad_samples.
    """
    mend = repair_hint(storage, dataset) + SKIPPABLE * skippable
    return FrameReader(local_dataset(dataset).root(storage), size, mend, SOURCES[storage])

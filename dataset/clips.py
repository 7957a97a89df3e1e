"""The one data set class: a list, a sampler of frame indices and crops, for every set and stage."""
import numpy as np
import torch
from torch.utils.data import Dataset

from core.errors import DataError

from .lists import local_dataset
from .reader import FrameReader
from .storage import SOURCES, advice

ATTEMPTS = 10  # at replacing an unreadable sample


class VideoClips(Dataset):
    """Samples keyed by (epoch, index).

    videos: VideoList; reader: FrameReader; sampler: (num_frames, rng) -> (V, T) indices; crop: (pictures, which, rng)
    -> clips; draw: (views, rng) -> more random parameters by name, or None. Every draw comes from a generator seeded
    by (seed, epoch, index): a sample is the same whichever process or worker makes it. With `replace_bad` a sample
    that cannot be read becomes one of another video, and says so.
    """

    def __init__(self, videos, reader, sampler, crop, draw=None, seed=0, replace_bad=False):
        self.videos, self.reader, self.sampler, self.crop, self.draw = videos, reader, sampler, crop, draw
        self.seed, self.replace_bad = seed, replace_bad

    def __len__(self):
        return len(self.videos)

    def __getitem__(self, key):
        """-> {"clips": (V, T, H, W, 3) uint8, "label", "index": int, and what `draw` makes}

        With `replace_bad` also "error": why the sample that was meant cannot be read, or "". Raises DataError
        where a frame cannot be read.
        """
        if not self.replace_bad:
            return self._sample(key[1], np.random.default_rng([self.seed, *key]))
        rng, index, errors = np.random.default_rng([self.seed, *key]), key[1], []
        for _ in range(ATTEMPTS):
            try:
                return {**self._sample(index, rng), "error": "; ".join(errors)}
            except DataError as error:
                errors.append(str(error))
                index = int(rng.integers(len(self)))
        raise DataError(f"{ATTEMPTS} samples in a row cannot be read: {errors[-1]}")

    def _sample(self, index, rng):
        indices = self.sampler(int(self.videos.num_frames[index]), rng)
        clips = self.crop(*self.reader.read(self.videos.names[index], indices), rng)
        sample = {"clips": torch.from_numpy(clips), "label": int(self.videos.labels[index]), "index": index}
        if self.draw is not None:
            sample.update({name: torch.from_numpy(x) for name, x in self.draw(len(clips), rng).items()})
        return sample


def open_reader(dataset: str, storage: str, size: tuple[int, int], skippable: bool = False) -> FrameReader:
    """Reader of a data set's videos in one of its kinds of storage, which gives frames of `size` (height, width).

    skippable: whether errors are to mention --skip_bad_samples.
    """
    mend = advice(storage, dataset) + ("; --skip_bad_samples N trains on without them" if skippable else "")
    return FrameReader(local_dataset(dataset).root(storage), size, mend, SOURCES[storage])

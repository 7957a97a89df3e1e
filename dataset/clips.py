"""The one data set class: a list, a sampler of frame indices and crops, for every set and stage."""
import numpy as np
import torch
from torch.utils.data import Dataset


class VideoClips(Dataset):
    """Samples keyed by (epoch, index).

    videos: VideoList; reader: FrameReader; sampler: (num_frames, rng) -> (V, T) indices; crop: (clips, rng) ->
    crops; draw: (views, rng) -> more random parameters by name, or None. Every draw comes from a generator
    seeded by (seed, epoch, index): a sample is the same whichever process or worker makes it.
    """

    def __init__(self, videos, reader, sampler, crop, draw=None, seed=0):
        self.videos, self.reader, self.sampler, self.crop, self.draw = videos, reader, sampler, crop, draw
        self.seed = seed

    def __len__(self):
        return len(self.videos)

    def __getitem__(self, key):
        """-> {"clips": (V, T, H, W, 3) uint8, "label", "index": int, and what `draw` makes}"""
        epoch, index = key
        rng = np.random.default_rng([self.seed, epoch, index])
        indices = self.sampler(int(self.videos.num_frames[index]), rng)
        clips = self.crop(self.reader.read(self.videos.names[index], indices), rng)
        sample = {"clips": torch.from_numpy(clips), "label": int(self.videos.labels[index]), "index": index}
        if self.draw is not None:
            sample.update({name: torch.from_numpy(x) for name, x in self.draw(len(clips), rng).items()})
        return sample

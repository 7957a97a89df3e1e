"""Windows of any video: clips by time, whatever the file's frame rate.

A window is a clip of T frames, evenly spread over its seconds: those that are shown at these times. So in a video of
constant rate clips are those of a frame stride, and varying rates need no special care.
"""
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch

from .by_time import VideoFacts, frames_at
from .crops import FixedCrops
from .loader import PatientDataset
from .reader import scale
from .unlisted import FAULTS, PATIENCE, PATIENCE_PER_SECOND, fault_in

CHUNK = 2**25  # bytes of the clips that are read at a time, about


class Windows(NamedTuple):
    """How windows lie in a video: one every `hop` seconds, of `frames` frames over `window` seconds."""

    window: float
    hop: float
    frames: int

    def count(self, facts: VideoFacts) -> int:
        """Whole windows of a video; a shorter video has one, whose last frame stands still."""
        return max(1, 1 + int((facts.seconds - self.window) / self.hop + 1e-6))

    def starts(self, first: int, count: int) -> np.ndarray:
        """Seconds at which some windows begin, (count,) float64."""
        return np.arange(first, first + count) * self.hop

    def times(self, starts: np.ndarray) -> np.ndarray:
        """Seconds of the frames of windows, (count, frames) float64."""
        return starts[:, None] + np.arange(self.frames) * (self.window / self.frames)


class ClipSize(NamedTuple):
    """Of the frames before the crop, (height, width), and the side of the crop, pixels."""

    resize: tuple[int, int]
    img_dim: int


def window_clips(path: str, facts: VideoFacts, windows: Windows, size: ClipSize, first: int,
                 count: int) -> np.ndarray:
    """Clips of some windows of a video (count, T, H, W, 3) uint8 RGB, centre crops. Raises BrokenVideo."""
    times = windows.times(windows.starts(first, count))
    distinct, which = np.unique(times.round(6), return_inverse=True)
    pictures = (scale(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), *size.resize)
                for picture in frames_at(path, facts, distinct))
    return FixedCrops(size.img_dim)(pictures, which.reshape(times.shape))


class Chunks(PatientDataset):
    """Windows that are read together: item i -> {"index": i, "clips": (n, T, H, W, 3) uint8, "error"}, and "lasting"
    where there is an error; the clips are those of the windows before it.

    videos: [(path, facts)]; done: how many first windows of each are left out.
    Attributes: `video`, `first`, `count`: (N,) int, whose windows an item holds, and which.
    """

    def __init__(self, videos: Sequence[tuple[str, VideoFacts]], windows: Windows, size: ClipSize,
                 done: Sequence[int]) -> None:
        self.paths, self.facts = np.array([path for path, _ in videos], object), [facts for _, facts in videos]
        self.windows, self.size = windows, size
        most = max(1, CHUNK // (3 * windows.frames * size.img_dim**2))
        totals = np.array([windows.count(facts) for facts in self.facts], int)
        starts = np.minimum(np.array(done, int), totals)
        chunks = -(-(totals - starts) // most)
        self.video = np.repeat(np.arange(len(totals)), chunks)
        within = np.arange(len(self.video)) - np.repeat(np.cumsum(chunks) - chunks, chunks)
        self.first = starts[self.video] + most * within
        self.count = np.minimum(most, totals[self.video] - self.first)

    def __len__(self) -> int:
        return len(self.video)

    def patience(self, index: int) -> float:
        return PATIENCE + PATIENCE_PER_SECOND * self.facts[int(self.video[index])].seconds

    def clips(self, index: int) -> torch.Tensor:
        """The clips of an item (n, T, H, W, 3) uint8. Raises BrokenVideo."""
        return self._clips(index, 0, int(self.count[index]))

    def _clips(self, index: int, first: int, count: int) -> torch.Tensor:
        number = int(self.video[index])
        return torch.from_numpy(window_clips(str(self.paths[number]), self.facts[number], self.windows, self.size,
                                             int(self.first[index]) + first, count))

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            return {"index": index, "clips": self.clips(index), "error": ""}
        except FAULTS as error:
            whole = fault_in(error)
        found: list[torch.Tensor] = []
        try:
            for number in range(int(self.count[index])):
                found.append(self._clips(index, number, 1))
        except FAULTS as error:
            whole = fault_in(error)
        return {"index": index, "clips": torch.cat(found) if found else torch.empty(0), **whole}

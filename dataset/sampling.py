"""Which frames make a clip: pure functions of video length, clip length T, frame stride ds and a generator.

The stride of a clip is that of its sampler times the `pace` of the video: 1, or with --fps the frames of this video
from one time to the next, which need not be whole. Frames are then those that are shown at the times.
"""
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from core.errors import UsageError
from core.names import quoted

ROUNDING = 1e-6  # of a frame


class Sampler(Protocol):
    """Which frames of a video are its clips."""

    def __call__(self, num_frames: int, rng: np.random.Generator, pace: float = 1) -> np.ndarray:
        """-> (V, T) int64, V clips of T frames"""


def clip_offsets(seq_len: int, ds: int, segments: int = 1, gap: int = 0) -> np.ndarray:
    """Frames of a clip counted from its centre, ascending -> (T,) int64.

    Between two of its n segments `gap` further steps of `ds` frames are left out: frame i of segment k, i = 0..T/n-1,
    is number k * (T/n + gap) + i of the clip's L = T + (n - 1) * gap steps, the centre number L // 2. Raises
    ValueError where n does not divide T.
    """
    if seq_len % segments:
        raise ValueError(f"clips of {seq_len} frames cannot be cut into {segments} segments of equal length")
    steps = np.arange(seq_len)
    steps += steps // (seq_len // segments) * gap
    return (steps - (seq_len + (segments - 1) * gap) // 2) * ds


def in_frames(steps: np.ndarray, pace: np.ndarray | float) -> np.ndarray:
    """Numbers of frames at pace 1 -> of those that are shown at the same times at `pace`, int64."""
    return np.floor(steps * pace + ROUNDING).astype(np.int64)


def centred_clip_indices(num_frames: int, seq_len: int, ds: int, centre: int, segments: int = 1,
                         gap: int = 0, pace: float = 1) -> np.ndarray:
    """Clip of `seq_len` frames at stride `ds` around frame `centre`, clamped to the video.

    Indices are clamp((i - T/2) * ds + centre, 0, num_frames - 1) for i = 0..T-1 -> (T,) int64, 0-based. segments, gap:
    as of clip_offsets, whose offsets then take the place of (i - T/2) * ds.
    """
    return np.clip(in_frames(clip_offsets(seq_len, ds, segments, gap), pace) + centre, 0, num_frames - 1)


def ten_clip_indices(num_frames: int, seq_len: int, ds: int, clips: int = 10, pace: float = 1) -> np.ndarray:
    """`clips` clips spaced evenly over the video, from its first frame to its last -> (clips, T) int64.

    Start j is floor(j * (num_frames - T * ds) / (clips - 1)); in a video shorter than T * ds every clip
    starts at frame 0 and its last frame is repeated. The test protocol of the publication.
    """
    steps = in_frames(np.arange(seq_len + 1) * ds, pace)
    reach = max(int(steps[-1]), int(steps[-2]) + 1)  # in slow videos a frame is shown more than once
    starts = np.arange(clips) * max(num_frames - reach, 0) // max(clips - 1, 1)
    return np.minimum(starts[:, None] + steps[:-1], num_frames - 1)


class PretrainViews:
    """Views of a pretraining sample: clips 1 and 2 at random centres; view 3 repeats the frames of clip 1.

    With probability `time_reverse` both clips run backwards. `views` is 2 where no loss needs view 3. A centre is any
    frame of the video, with `inside` one of those at which no frame of the clip needs clamping. segments, gap: as of
    clip_offsets.
    """

    def __init__(self, seq_len: int, ds: int, time_reverse: float = 0.5, views: int = 3, inside: bool = False,
                 segments: int = 1, gap: int = 0) -> None:
        self.seq_len, self.ds, self.time_reverse, self.views = seq_len, ds, time_reverse, views
        self.inside, self.segments, self.gap = inside, segments, gap
        offsets = clip_offsets(seq_len, ds, segments, gap)
        self.ends = offsets[[0, -1]]  # a clip's first and last frame, counted from its centre

    def reach(self, pace: np.ndarray | float = 1) -> tuple[np.ndarray, np.ndarray]:
        """Frames from a clip's first to its centre, and to its last, of videos of `pace` (N,) -> (N,) int64 each."""
        first, last = (in_frames(end, pace) for end in self.ends)
        return -first, last - first

    def __call__(self, num_frames: int, rng: np.random.Generator, pace: float = 1) -> np.ndarray:
        """-> (views, T) int64. Raises ValueError where a clip must lie inside a video that is too short for it."""
        before, reach = self.reach(pace) if self.inside else (0, 0)
        first, second = (centred_clip_indices(num_frames, self.seq_len, self.ds, centre, self.segments, self.gap, pace)
                         for centre in before + rng.integers(num_frames - reach, size=2))
        clips = np.stack([first, second, first][:self.views])
        return clips[:, ::-1] if rng.random() < self.time_reverse else clips

    def share_clamped(self, num_frames: np.ndarray, pace: np.ndarray | float = 1) -> float:
        """Expected share of clips that reach over an end of their video: of N videos of num_frames (N,), 0 to 1."""
        centres_inside = np.maximum(num_frames - self.reach(pace)[1], 0)
        return 0.0 if self.inside else float((1 - centres_inside / num_frames).mean())

    def plan(self, num_frames: np.ndarray, pace: np.ndarray | float = 1) -> str:
        """Text for the plan: what becomes of the clips of videos of num_frames (N,)."""
        text = f"{self.share_clamped(num_frames, pace):.1%} reach over an end of their video and are clamped there"
        what = "steps" if np.ndim(pace) else "frames"
        return text + (f", {self.gap * self.ds} {what} left out between segments" if self.gap else "")

    def check_room(self, names: Sequence[str] | np.ndarray, num_frames: np.ndarray,
                   pace: np.ndarray | float = 1) -> None:
        """Raise UsageError where clips must lie inside and some of the videos, (N,) each, are too short for one."""
        reach = np.broadcast_to(self.reach(pace)[1], np.shape(num_frames))
        short = int((num_frames <= reach).sum())
        if not self.inside or not short:
            return
        least = int((num_frames - reach).argmin())
        fitting = int(num_frames[least] - 1) * self.ds // int(reach[least])
        spread = "a larger --fps, a smaller" if np.ndim(pace) else (
            f"a smaller --ds{f' ({fitting} fits all)' if fitting else ''},")
        raise UsageError(
            f"--centres inside: {short} of {len(names)} videos are shorter than the {reach[least] + 1} frames over "
            f"which a clip reaches ({quoted(str(names[least]))} has {num_frames[least]}): take {spread} --seq_len or "
            "--segment_gap, or leave them out of the list")


class RandomClip:
    """One clip at a random centre, for supervised training."""

    def __init__(self, seq_len: int, ds: int) -> None:
        self.seq_len, self.ds = seq_len, ds

    def __call__(self, num_frames: int, rng: np.random.Generator, pace: float = 1) -> np.ndarray:
        """-> (1, T) int64"""
        return centred_clip_indices(num_frames, self.seq_len, self.ds, int(rng.integers(num_frames)), pace=pace)[None]


class EvenClips:
    """Clips spaced evenly in time: ten for testing and retrieval."""

    def __init__(self, seq_len: int, ds: int, clips: int = 10) -> None:
        self.seq_len, self.ds, self.clips = seq_len, ds, clips

    def __call__(self, num_frames: int, rng: np.random.Generator, pace: float = 1) -> np.ndarray:
        """-> (clips, T) int64"""
        return ten_clip_indices(num_frames, self.seq_len, self.ds, self.clips, pace)


class CentreClip:
    """The middle of the video, for held-out accuracy during training."""

    def __init__(self, seq_len: int, ds: int) -> None:
        self.seq_len, self.ds = seq_len, ds

    def __call__(self, num_frames: int, rng: np.random.Generator, pace: float = 1) -> np.ndarray:
        """-> (1, T) int64"""
        return centred_clip_indices(num_frames, self.seq_len, self.ds, num_frames // 2, pace=pace)[None]

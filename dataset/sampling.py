"""Which frames make a clip: pure functions of video length, clip length T, frame stride ds and a generator."""
from collections.abc import Sequence

import numpy as np

from core.errors import UsageError
from core.names import quoted


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


def centred_clip_indices(num_frames: int, seq_len: int, ds: int, centre: int, segments: int = 1,
                         gap: int = 0) -> np.ndarray:
    """Clip of `seq_len` frames at stride `ds` around frame `centre`, clamped to the video.

    Indices are clamp((i - T/2) * ds + centre, 0, num_frames - 1) for i = 0..T-1 -> (T,) int64, 0-based. segments, gap:
    as of clip_offsets, whose offsets then take the place of (i - T/2) * ds.
    """
    return np.clip(clip_offsets(seq_len, ds, segments, gap) + centre, 0, num_frames - 1)


def ten_clip_indices(num_frames: int, seq_len: int, ds: int, clips: int = 10) -> np.ndarray:
    """`clips` clips spaced evenly over the video, from its first frame to its last -> (clips, T) int64.

    Start j is floor(j * (num_frames - T * ds) / (clips - 1)); in a video shorter than T * ds every clip
    starts at frame 0 and its last frame is repeated. The test protocol of the publication.
    """
    spare = max(num_frames - seq_len * ds, 0)
    starts = np.arange(clips) * spare // max(clips - 1, 1)
    return np.minimum(starts[:, None] + np.arange(seq_len) * ds, num_frames - 1)


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
        # frames from a clip's first to its centre, and to its last
        self.before, self.reach = -int(offsets[0]), int(offsets[-1] - offsets[0])

    def __call__(self, num_frames: int, rng: np.random.Generator) -> np.ndarray:
        """-> (views, T) int64. Raises ValueError where a clip must lie inside a video that is too short for it."""
        low, count = (self.before, num_frames - self.reach) if self.inside else (0, num_frames)
        first, second = (centred_clip_indices(num_frames, self.seq_len, self.ds, centre, self.segments, self.gap)
                         for centre in low + rng.integers(count, size=2))
        clips = np.stack([first, second, first][:self.views])
        return clips[:, ::-1] if rng.random() < self.time_reverse else clips

    def share_clamped(self, num_frames: np.ndarray) -> float:
        """Expected share of clips that reach over an end of their video: of N videos of num_frames (N,), 0 to 1."""
        centres_inside = np.maximum(num_frames - self.reach, 0)
        return 0.0 if self.inside else float((1 - centres_inside / num_frames).mean())

    def plan(self, num_frames: np.ndarray) -> str:
        """Text for the plan: what becomes of the clips of videos of num_frames (N,)."""
        text = f"{self.share_clamped(num_frames):.1%} reach over an end of their video and are clamped there"
        return text + (f", {self.gap * self.ds} frames left out between segments" if self.gap else "")

    def check_room(self, names: Sequence[str] | np.ndarray, num_frames: np.ndarray) -> None:
        """Raise UsageError where clips must lie inside and some of the videos, (N,) each, are too short for one."""
        short = int((num_frames <= self.reach).sum())
        if not self.inside or not short:
            return
        least = int(num_frames.argmin())
        fitting = int(num_frames[least] - 1) * self.ds // self.reach
        raise UsageError(
            f"--centres inside: {short} of {len(names)} videos are shorter than the {self.reach + 1} frames over which "
            f"a clip reaches ({quoted(str(names[least]))} has {num_frames[least]}): take a smaller --ds"
            f"{f' ({fitting} fits all)' if fitting else ''}, --seq_len or --segment_gap, or leave them out of the list")


class RandomClip:
    """One clip at a random centre, for supervised training."""

    def __init__(self, seq_len: int, ds: int) -> None:
        self.seq_len, self.ds = seq_len, ds

    def __call__(self, num_frames: int, rng: np.random.Generator) -> np.ndarray:
        """-> (1, T) int64"""
        return centred_clip_indices(num_frames, self.seq_len, self.ds, int(rng.integers(num_frames)))[None]


class EvenClips:
    """Clips spaced evenly in time: ten for testing and retrieval."""

    def __init__(self, seq_len: int, ds: int, clips: int = 10) -> None:
        self.seq_len, self.ds, self.clips = seq_len, ds, clips

    def __call__(self, num_frames: int, rng: np.random.Generator) -> np.ndarray:
        """-> (clips, T) int64"""
        return ten_clip_indices(num_frames, self.seq_len, self.ds, self.clips)


class CentreClip:
    """The middle of the video, for held-out accuracy during training."""

    def __init__(self, seq_len: int, ds: int) -> None:
        self.seq_len, self.ds = seq_len, ds

    def __call__(self, num_frames: int, rng: np.random.Generator) -> np.ndarray:
        """-> (1, T) int64"""
        return centred_clip_indices(num_frames, self.seq_len, self.ds, num_frames // 2)[None]

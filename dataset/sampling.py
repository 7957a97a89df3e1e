"""Which frames make a clip: pure functions of video length, clip length T, frame stride ds and a generator."""
import numpy as np


def centred_clip_indices(num_frames: int, seq_len: int, ds: int, centre: int) -> np.ndarray:
    """Clip of `seq_len` frames at stride `ds` around frame `centre`, clamped to the video.

    Indices are clamp((i - T/2) * ds + centre, 0, num_frames - 1) for i = 0..T-1 -> (T,) int64, 0-based.
    """
    offsets = (np.arange(seq_len) - seq_len // 2) * ds
    return np.clip(offsets + centre, 0, num_frames - 1)


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

    With probability `time_reverse` both clips run backwards. `views` is 2 where no loss needs view 3.
    """

    def __init__(self, seq_len: int, ds: int, time_reverse: float = 0.5, views: int = 3) -> None:
        self.seq_len, self.ds, self.time_reverse, self.views = seq_len, ds, time_reverse, views

    def __call__(self, num_frames: int, rng: np.random.Generator) -> np.ndarray:
        """-> (views, T) int64"""
        first, second = (centred_clip_indices(num_frames, self.seq_len, self.ds, centre)
                         for centre in rng.integers(num_frames, size=2))
        clips = np.stack([first, second, first][:self.views])
        return clips[:, ::-1] if rng.random() < self.time_reverse else clips


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

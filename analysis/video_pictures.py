"""Pictures of videos: views and shuffled segments as pretraining sees them, and how features change over a video."""
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from core.errors import DataError
from dataset.augment import MEAN, STD, PretrainDraw, prepare
from dataset.clips import VideoClips, open_reader
from dataset.crops import FixedCrops, RandomCrop
from dataset.lists import VideoList, open_list
from dataset.sampling import EvenClips, PretrainViews, in_frames
from engine import evaluation
from engine.setup import open_weights, seed_everything
from models.backbones.base import Backbone
from models.classifier import pooled
from models.dualvar import shuffle_segments
from models.protocol import spacing

from . import figures
from .frames import evenly, small_reader
from .nearest import centre_and_normalise

SHOWN = 8  # frames of a clip, or of a video
OTHERS = 64  # videos whose mean feature is the centre of a timeline


@dataclass(frozen=True)
class ClipSettings:
    """Which videos are read, and how clips are cut from them: the data flags of these names."""

    dataset: str
    split: int
    storage: str
    seq_len: int  # frames of a clip
    ds: int  # stride, frames
    img_dim: int  # side of the crop, pixels
    resize: tuple[int, int]  # height and width of the frame before the crop, pixels
    fps: float | None = None  # frames a second whose stride this is; None: each video's own

    def open_list(self, part: str) -> VideoList:
        return open_list(self.dataset, part, self.split, self.storage, self.fps)


class TrainingSample(NamedTuple):
    name: str  # of the video, "class/video"
    views: Tensor  # (3, T, 3, H, W) in [0, 1], augmented
    permutation: Tensor  # (n,), the order of the shuffled segments


# --- views and segments --------------------------------------------------------------------------------------

def views(samples: Iterable[TrainingSample]) -> Figure:
    """The three augmented views of training videos, exactly as train.py with these flags sees them."""
    rows = []
    for name, clips, permutation in samples:
        for number, clip in enumerate(clips, 1):
            rows.append((f"{video_name(name)}\nview {number}", *frames_and_colours(clip, range(len(permutation)))))
    return figures.sheet(rows)


def segments(samples: Iterable[TrainingSample]) -> Figure:
    """View 3 of training videos and its segments as shuffle-rank shuffles them; a segment keeps its colour."""
    rows = []
    for name, clips, permutation in samples:
        shuffled = shuffle_segments(clips[2:].transpose(1, 2).contiguous(), permutation[None]).transpose(1, 2)[0]
        order = permutation.tolist()
        note = " (the identity, drawn)" if order == sorted(order) else ""
        rows += [(f"{video_name(name)}\nview 3", *frames_and_colours(clips[2], range(len(order)))),
                 (f"shuffled{note}", *frames_and_colours(shuffled, order))]
    return figures.sheet(rows)


def training_samples(settings: ClipSettings, *, n_series: int = 2, time_reverse: float = 0.5, centres: str = "any",
                     permutations: str = "any", segment_gap: int = 0, seed: int = 0, epoch: int = 0,
                     names: Sequence[str] | None = None, count: int = 3) -> Iterator[TrainingSample]:
    """Samples of training videos as train.py draws them in an epoch.

    n_series to seed: as its flags; names: of the videos, None: `count` of them, evenly spread.
    """
    videos = settings.open_list("train")
    if unknown := set(names or ()) - set(videos.names.tolist()):
        raise DataError(f"--names {' '.join(sorted(unknown))}: not in the training list of {settings.dataset}, "
                        f"split {settings.split}")
    chosen = np.flatnonzero(np.isin(videos.names, names)) if names else evenly(len(videos), count)
    sampler = PretrainViews(settings.seq_len, settings.ds, time_reverse, 3, centres == "inside", n_series, segment_gap)
    sampler.check_room(videos.names, videos.num_frames, videos.pace)
    data = VideoClips(videos, open_reader(settings.dataset, settings.storage, settings.resize), sampler,
                      RandomCrop(settings.img_dim),
                      PretrainDraw(n_series, settings.img_dim, permutations == "changed"), seed)
    mean, std = (torch.tensor(x)[:, None, None] for x in (MEAN, STD))
    for index in chosen.tolist():
        sample = data[epoch, index]
        clips = prepare(sample["clips"][None], sample["augment"][None])[0].transpose(1, 2)
        yield TrainingSample(videos.names[index], (clips * std + mean).clamp(0, 1), sample["permutation"])


def frames_and_colours(clip: Tensor, order: Iterable[int]) -> tuple[list[np.ndarray], list[str]]:
    """A clip (T, 3, H, W) whose segments stand in `order` -> (some frames (H, W, 3) uint8, the segment's colour of
    each).
    """
    chosen = evenly(len(clip), SHOWN)
    frames = (clip[chosen] * 255).round().byte().permute(0, 2, 3, 1).numpy()
    order = list(order)
    return list(frames), [figures.COLOURS[order[i * len(order) // len(clip)] % len(figures.COLOURS)] for i in chosen]


def video_name(name: str) -> str:
    """"class/video" -> "video" """
    return name.rpartition("/")[2]


# --- similarity over time ------------------------------------------------------------------------------------

class EverySegment:
    """All segments of a video, one after the other, or overlapping where these would be fewer than 8."""

    def __init__(self, length: int, ds: int):
        self.length, self.ds = length, ds

    def __call__(self, num_frames: int, rng: np.random.Generator, pace: float = 1) -> np.ndarray:
        """-> (S, length) int64"""
        own = in_frames(np.arange(self.length + 1) * self.ds, pace)
        last = num_frames - int(own[-2]) - 1
        step = max(min(int(own[-1]), last // 7), 1)
        return np.arange(0, last + 1, step)[:, None] + own[:-1]


def timeline(panels: Mapping[str, str], settings: ClipSettings, device: torch.device, *, n_series: int = 2,
             video: str | None = None, net: str | None = None, width: float | None = None, seed: int = 0,
             batch_size: int = 4, workers: int = 0, timeout: float = 600) -> Figure:
    """Similarity over time between the segments of one long video, a panel for each of the weights.

    Segments of seq_len / n_series frames at stride ds follow each other, and overlap where the video has fewer than
    eight; each is encoded alone, features are centred by the mean over 64 other videos of the list, similarity is the
    cosine.

    panels: {title: checkpoint or the word random}; video: of the test list, None: the longest; net, width: None where
    the checkpoints say them
    """
    sampler = EverySegment(settings.seq_len // n_series, settings.ds)
    videos = settings.open_list("test")
    index = find_video(videos, video, settings)
    starts = videos.frames_of(sampler, index, np.random.default_rng())[:, 0]
    if len(starts) < 3:
        raise DataError(f"--video {videos.names[index]} has {videos.num_frames[index]} frames, too few for segments of "
                        f"{sampler.length} frames at {spacing(settings.ds, settings.fps)}")
    if len(videos) < 2:
        raise DataError(f"the test list of {settings.dataset}, split {settings.split}, has one video: the features are "
                        "centred by the mean of others")
    shown, others = videos.subset([index]), videos.subset(np.delete(np.arange(len(videos)), index))
    others = others.subset(evenly(len(others), OTHERS))
    reader = open_reader(settings.dataset, settings.storage, settings.resize)
    similarities = []
    for title, weights in panels.items():
        seed_everything(seed)
        backbone = open_weights(weights, net, width).backbone(settings.seq_len, settings.img_dim)
        evaluation.to_device(backbone, device)
        centres, own = (
            clip_features(backbone, VideoClips(some, reader, clips, FixedCrops(settings.img_dim)), device,
                          batch_size=batch_size, workers=workers, timeout=timeout)
            for some, clips in ((others, EvenClips(sampler.length, settings.ds, 1)), (shown, sampler)))
        unit = centre_and_normalise(own[0], centres[:, 0].mean(dim=0))
        similarities.append((title, (unit @ unit.T).numpy()))
    frames = small_reader(settings.dataset, settings.storage).read(
        shown.names[0], evenly(int(shown.num_frames[0]), SHOWN))[0]
    figure = figures.timeline(similarities, list(frames), starts)
    figure.suptitle(shown.names[0], fontsize=9)
    return figure


def find_video(videos: VideoList, name: str | None, settings: ClipSettings) -> int:
    """Index of a video of the test list, of the longest where `name` is None."""
    if name is None:
        return int(videos.num_frames.argmax())
    if name not in videos.names:
        raise DataError(f"--video {name} is not in the test list of {settings.dataset}, split {settings.split}")
    return int(np.flatnonzero(videos.names == name)[0])


def clip_features(backbone: Backbone, data: VideoClips, device: torch.device, *, batch_size: int, workers: int,
                  timeout: float) -> Tensor:
    """Pooled features of each clip of each video, all videos with as many clips -> (videos, clips, D)."""
    loader = evaluation.eval_loader(data, device, batch_size=batch_size, workers=workers, timeout=timeout)
    found = evaluation.over_videos(lambda x: pooled(backbone, x), loader, len(data), device, "features", average=False)
    return found.unflatten(1, (-1, backbone.feature_dim))

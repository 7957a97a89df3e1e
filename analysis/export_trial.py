"""A network and a file made of it, compared on real clips: what an export must pass."""
import copy
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.errors import RunError
from core.inputs import read_text
from dataset.augment import prepare
from dataset.clips import VideoClips, open_reader
from dataset.crops import FixedCrops
from dataset.lists import VideoList, open_list
from dataset.reader import FRAME_NAME, FrameFolders, decode_jpeg, read_bytes
from dataset.sampling import CentreClip, EvenClips
from dataset.video import VideoFiles
from engine import evaluation
from models.classifier import pooled
from models.protocol import Protocol
from models.weights.export import Compute, in_batches, least_cosine, relative_error

from .frames import evenly
from .nearest import topk_accuracy

RELATIVE, COSINE, POINTS = 1e-5, 0.99, 0.02  # what a file must keep to
SIZES = (1, 3, 10)  # of the batches in which it is tried
CALIBRATION = 256  # training clips that 8 bits are fitted to; of 64, ranges are often too small for other clips


def as_input(clips: Tensor) -> Tensor:
    """Clips of the loader, (N, T, H, W, 3) uint8 -> (N, 3, T, H, W) float32, normalised."""
    return prepare(clips[:, None]).squeeze(1).contiguous()


@dataclass(frozen=True)
class RealClips:
    """Clips of a data set as retrieval.py takes them. videos: at most so many of a list, evenly spread; None: all."""

    dataset: str
    split: int
    storage: str
    protocol: Protocol
    clips: int
    videos: int | None
    workers: int

    def listed(self, part: str) -> VideoList:
        found = open_list(self.dataset, part, self.split, self.storage, self.protocol.fps)
        return found if self.videos is None else found.subset(evenly(len(found), self.videos))

    def data(self, videos: VideoList, middle: bool = False) -> VideoClips:
        """middle: one clip of each video instead of `clips`."""
        length, stride = self.protocol.seq_len, self.protocol.ds
        return VideoClips(videos, open_reader(self.dataset, self.storage, self.protocol.frame_size),
                          CentreClip(length, stride) if middle else EvenClips(length, stride, self.clips),
                          FixedCrops(self.protocol.img_dim))

    def features(self, compute: Compute, videos: VideoList, description: str) -> Tensor:
        """compute(clips) of every clip of a list -> (V, clips, D) float32"""
        data, device = self.data(videos), torch.device("cpu")
        loader = evaluation.eval_loader(data, device, batch_size=-(-max(SIZES) // self.clips), workers=self.workers,
                                        timeout=0)
        return evaluation.over_videos(compute, loader, len(data), device, description, average=False).unflatten(
            1, (self.clips, -1))

    def calibration(self, batch: int) -> Iterator[np.ndarray]:
        """Training clips (batch, 3, T, H, W) float32, one of a video."""
        videos = open_list(self.dataset, "train", self.split, self.storage, self.protocol.fps)
        data = self.data(videos.subset(evenly(len(videos), CALIBRATION)), middle=True)
        for first in range(0, len(data), batch):
            frames = [data[0, i % len(data)]["clips"][0] for i in range(first, first + batch)]
            yield as_input(torch.stack(frames)).numpy()


class Trial:
    """A network and a file made of it, compared on the same clips.

    batch: what the file takes at a time, None: any number; tried: test videos that are passed in each size of batch,
    more where their clips would not fill the largest. Attributes: `tried`, these; `sizes`, those that their clips fill.
    """

    def __init__(self, network: torch.nn.Module, real: RealClips, batch: int | None, tried: int):
        self.network, self.real, self.batch = network, real, batch
        videos = real.listed("test")
        self.tried = videos.subset(evenly(len(videos), max(tried, -(-max(SIZES) // real.clips))))
        clips = len(self.tried) * real.clips
        self.sizes = (batch,) if batch else tuple(size for size in SIZES if size <= clips)

    def own(self, clips: Tensor) -> Tensor:
        return pooled(self.network, clips.contiguous())

    @cached_property
    def lists(self) -> dict[str, tuple[VideoList, Tensor]]:
        """{part: (its videos, the network's own features (V, clips, D))}"""
        return {part: (videos, self.real.features(self.own, videos, f"network, {part}"))
                for part in ("train", "test") for videos in [self.real.listed(part)]}

    def compared(self, compute: Compute) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields, for each size of batch, features of the tried clips (N, D) by a file, and the network's own."""
        for size in self.sizes:
            yield tuple(self.real.features(in_batches(function, size, self.batch is not None), self.tried,
                                           f"{name}, batches of {size}").flatten(0, 1)
                        for name, function in (("file", compute), ("network", self.own)))

    def of_float(self, compute: Compute) -> dict[str, Any]:
        """What a file in float32 keeps of the features. Raises RunError where that is not enough."""
        error = max(relative_error(*pair) for pair in self.compared(compute))
        if not error <= RELATIVE:
            own = self.rounding()
            reason = (f"; torch's own float32 is {own:.2g} from float64 there, as this network makes much of rounding, "
                      "which untrained ones do" if own > RELATIVE else "")
            raise RunError(f"this network's file gives features that are {error:.2g} off, of their largest value; "
                           f"{RELATIVE:g} is allowed: nothing is kept{reason}")
        return {"relative_error": error}

    def rounding(self) -> float:
        """What the network itself loses to rounding on the tried clips: float32 against float64, as relative_error."""
        exact = copy.deepcopy(self.network).double()
        return relative_error(*(self.real.features(function, self.tried, name).flatten(0, 1) for name, function in (
            ("float32", self.own), ("float64", lambda clips: pooled(exact, clips.double())))))

    def of_int8(self, compute: Compute) -> tuple[dict[str, Any], str | None]:
        """What a file in 8 bits keeps of the features, and why that is not enough, or None."""
        found = {"cosine": min(least_cosine(*pair) for pair in self.compared(compute))}
        too_far = f"the cosine of a clip's features is {{:.4f}}, where {COSINE} is the least"
        if not found["cosine"] >= COSINE:
            return found, too_far.format(found["cosine"])
        at_once = in_batches(compute, max(self.sizes), self.batch is not None)
        got = {part: self.real.features(at_once, videos, f"8 bits, {part}")
               for part, (videos, _) in self.lists.items()}
        pairs = [(got[part].flatten(0, 1), own.flatten(0, 1)) for part, (_, own) in self.lists.items()]
        found["cosine"] = min(found["cosine"], *(least_cosine(*pair) for pair in pairs))
        found["cosine_centred"] = min(least_cosine(*pair, centred=True) for pair in pairs)
        found["r1"], found["r1_float32"] = (self.accuracy(features) for features in (
            got, {part: own for part, (_, own) in self.lists.items()}))
        found["gallery"], found["queries"] = (len(self.lists[part][0]) for part in ("train", "test"))
        if not found["cosine"] >= COSINE:
            return found, too_far.format(found["cosine"])
        if not abs(found["r1"] - found["r1_float32"]) <= POINTS + 1e-9:
            return found, (f"R@1 is {found['r1']:.4f}, and {found['r1_float32']:.4f} in float32: "
                           f"{100 * POINTS:g} points are allowed")
        return found, None

    def accuracy(self, features: dict[str, Tensor]) -> float:
        """R@1 as retrieval.py has it, of features (V, clips, D) of both lists."""
        test, train = (self.lists[part][0].labels for part in ("test", "train"))
        return topk_accuracy(features["test"].mean(dim=1), test, features["train"].mean(dim=1), train, [1])[1]

    def times(self, compute: Compute) -> dict[str, float]:
        """Milliseconds a clip, of the file and of the network, in turn, in the smallest batch; the least of three.

        Of the clock, and of the processor, which other work on the machine lengthens less.
        """
        size, shape = min(self.sizes), self.real.protocol
        clips = torch.randn(size, 3, shape.seq_len, shape.img_dim, shape.img_dim)
        least: dict[str, float] = {}
        with torch.inference_mode():
            for _ in range(4):  # the first makes memory and chooses kernels
                for whose, function in (("", compute), ("_network", self.own)):
                    before = time.perf_counter(), time.process_time()
                    function(clips)
                    spent = time.perf_counter() - before[0], time.process_time() - before[1]
                    for name, seconds in zip((f"ms{whose}", f"cpu_ms{whose}"), spent, strict=True):
                        least[name] = min(least.get(name, float("inf")), 1000 * seconds / size)
        return least


def page_error(path: Path, trial: Trial) -> float | None:
    """Largest difference between the clips that preprocess.py makes of JPEG frames and our loader's, of normalised
    values; 0 where the frames are those of videos' files. None where it reads nothing of what is tried: packed videos.

    Given the frames as our decoder has them, its clips must be the loader's bit for bit: RunError otherwise.
    """
    made: dict[str, Any] = {"__name__": path.stem}
    exec(compile(read_text(path), path, "exec"), made)
    data, protocol, worst = trial.real.data(trial.tried), trial.real.protocol, 0.0
    source = data.reader.source
    for i, (name, frames) in enumerate(zip(trial.tried.names, trial.tried.num_frames, strict=True)):
        wanted, flags = as_input(data[0, i]["clips"]), (trial.real.clips, trial.tried.pace_of(i) * (protocol.fps or 0))
        if isinstance(source, FrameFolders):
            files = [Path(source.root, name, FRAME_NAME.format(number + 1)) for number in range(frames)]
            pictures = [decode_jpeg(read_bytes(file), file, *protocol.frame_size) for file in files]
            exact = largest_difference(made["clips_of"](pictures, *flags), wanted)
            worst = max(worst, largest_difference(made["clips_of"](files, *flags), wanted))
        elif isinstance(source, VideoFiles):
            exact = largest_difference(made["clips_of"](source.path(name), *flags), wanted)
        else:
            return None
        if exact:
            raise RunError(f"of {name} {path.name} makes clips that differ from our loader's by {exact:.2g}, and "
                           "nothing is kept: try another --dataset, and tell us, as it should not")
    return worst


def largest_difference(clips: np.ndarray, wanted: Tensor) -> float:
    """Of one value; infinity where the shapes differ."""
    return float((torch.from_numpy(clips) - wanted).abs().max()) if clips.shape == wanted.shape else float("inf")

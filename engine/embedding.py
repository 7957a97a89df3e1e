"""Vectors of a video's windows, from Python: what embed.py does with a disk of videos."""
import math
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from core.errors import RunError, UsageError
from dataset.by_time import VideoFacts, look_at_video
from dataset.windows import Chunks, ClipSize, Windows
from models.backbones.base import Backbone
from models.classifier import pooled
from models.protocol import Protocol

from .evaluation import CLIPS, forward

SHORTEST = 0.001  # seconds
USUAL_RATE = 30  # frames a second of the videos whose stride a protocol states


def windows_of(protocol: Protocol, window: float | None = None, hop: float | None = None) -> Windows:
    """How windows lie, in seconds; window: None: as long as the protocol's clip, in a video of USUAL_RATE where it
    counts frames; hop: None: half of it.
    """
    window = protocol.seq_len * protocol.ds / (protocol.fps or USUAL_RATE) if window is None else window
    return Windows(window, window / 2 if hop is None else hop, protocol.seq_len)


def check_seconds(name: str, value: float) -> None:
    """Raise UsageError where a window or a hop is no time, or shorter than times in tables are exact."""
    if not SHORTEST <= value < math.inf:
        raise UsageError(f"{name} {value} is no time for windows: give seconds, {SHORTEST:g} or more")


def spans_of(windows: Windows, facts: VideoFacts, first: int, count: int) -> np.ndarray:
    """Seconds at which some windows begin and end, (count, 2) float64."""
    starts = windows.starts(first, count)
    return np.stack([starts, np.minimum(starts + windows.window, facts.seconds)], axis=1)


@torch.inference_mode()
def vectors_of(network: nn.Module, clips: Tensor, device: torch.device) -> np.ndarray:
    """Clips (N, T, H, W, 3) uint8 -> pooled features (N, D) float32. Raises RunError where they are not finite."""
    found = torch.cat([forward(partial(pooled, network), part)
                       for part in clips.to(device).split(CLIPS[device.type])]).cpu()
    if not found.isfinite().all():
        raise RunError("the network's output is not finite; its weights are broken, or diverged")
    return found.numpy()


def embed_video(network: Backbone, path: str | Path, window: float | None = None,
                hop: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The windows of a video -> (their beginning and end in seconds (N, 2) float64, their vectors (N, D) float32).

    network: as `models.from_pretrained` gives it, on the device where it is, in float32; its `protocol` says which
    clips it takes. window, hop: seconds, as `windows_of`. A vector is the pooled feature of one clip of
    `protocol.seq_len` frames, which are evenly spread over the window: that of retrieval for the same frames. Raises
    dataset.video.BrokenVideo where the video cannot be read to its end. Of a file that was cut off the windows before
    the cut are given; `dataset.by_time.cut_short` tells such a file.
    """
    for name, value in (("window", window), ("hop", hop)):
        if value is not None:
            check_seconds(name, value)
    device, training = next(network.parameters()).device, network.training
    facts, windows = look_at_video(str(path)), windows_of(network.protocol, window, hop)
    size = ClipSize(network.protocol.frame_size, network.protocol.img_dim)
    chunks = Chunks([(str(path), facts)], windows, size, [0])
    network.eval()
    try:
        found = [vectors_of(network, chunks.clips(number), device) for number in range(len(chunks))]
    finally:
        network.train(training)
    return spans_of(windows, facts, 0, windows.count(facts)), np.concatenate(found)

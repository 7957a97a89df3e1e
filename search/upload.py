"""A video from outside as vectors: decoded in a process of its own with limits, then passed through the network.

    python -m search.upload VIDEO CLIPS.npy '{"windows": [2.0, 1.0, 16], "resize": [128, 171], "img_dim": 112,
                                              "limits": {"seconds": 120, "memory": 4294967296, "bytes": 536870912},
                                              "crashes": "/tmp"}'
"""
import core.lifeline  # noqa: F401  # before what takes seconds to import

# isort: split
import errno
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn

from analysis.embedder import network_for
from core.errors import DataError
from core.exits import crashes_go_to, run
from core.files import write_npy
from core.inputs import parsed, read_npy
from core.lifeline import die_with_parent
from dataset.by_time import look_at_video
from dataset.windows import ClipSize, Windows, window_clips
from engine.embedding import vectors_of
from engine.setup import open_weights

from .library import Library

MOST_BYTES = 2**29  # of an uploaded file
# of the process that decodes: its own time, its memory and the file that it writes, in bytes
LIMITS = {"seconds": 120, "memory": 4 * 2**30, "bytes": 2**29}
TOO_MUCH = "it takes more {} than a dropped file may ({}): give a shorter or smaller video"
MOST_WINDOWS = 32  # that are looked at, evenly spread
SHAPE = {"windows": [float], "resize": [int], "img_dim": int, "limits": dict.fromkeys(LIMITS, int), "crashes": str}


def main(argv: list[str]) -> None:
    """Decode some windows of a video and write their clips, (n, T, H, W, 3) uint8."""
    video, out, text = argv
    said = parsed(text, SHAPE, "the third argument")
    die_with_parent(signal.SIGKILL)
    crashes_go_to(Path(said["crashes"]))
    limits = said["limits"]
    resource.setrlimit(resource.RLIMIT_CPU, (limits["seconds"], limits["seconds"] + 5))  # SIGXCPU, then SIGKILL
    resource.setrlimit(resource.RLIMIT_AS, (limits["memory"],) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits["bytes"],) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    window, hop, frames = said["windows"]
    windows, size = Windows(window, hop, int(frames)), ClipSize(tuple(said["resize"]), said["img_dim"])
    try:
        facts = look_at_video(video)
        count = windows.count(facts)
        chosen = np.unique(np.linspace(0, count - 1, min(count, MOST_WINDOWS)).round().astype(int))
        write_npy(out, np.concatenate([window_clips(video, facts, windows, size, int(first), 1) for first in chosen]))
    except MemoryError as error:
        raise DataError(TOO_MUCH.format("memory", f"{limits['memory'] / 2**30:.2g} GiB")) from error
    except cv2.error as error:
        raise DataError(f"it cannot be decoded ({error.err or error})") from error
    except OSError as error:
        if error.errno != errno.EFBIG:
            raise
        raise DataError(TOO_MUCH.format("room", f"{limits['bytes'] / 2**20:.2g} MiB of clips")) from error


class Embedder:
    """The network of an index, loaded when it is first asked for. One video at a time."""

    def __init__(self, library: Library) -> None:
        self.library, self.lock = library, threading.Lock()
        self.network: nn.Module | None = None

    def load(self) -> nn.Module:
        """Raises DataError where the weights of the index are not where they were, or are others now."""
        flags: Mapping[str, Any] = self.library.manifest["flags"]
        weights = None if flags.get("pretrain") == "thumbnail" else open_weights(
            str(flags.get("pretrain")), flags.get("net"), flags.get("width"))
        network, found, _ = network_for(weights, int(flags.get("seq_len") or 0), int(flags.get("img_dim") or 0),
                                        int(flags.get("seed") or 0))
        if found != self.library.manifest["weights"]:
            raise DataError(f"{flags.get('pretrain')} are other weights than those of the index: a dropped file cannot "
                            "be compared")
        return network

    def vectors(self, video: Path) -> np.ndarray:
        """Some windows of a video (n, D) float32. Raises DataError where it is none or takes more than it may, or while
        another is read.
        """
        if not self.lock.acquire(blocking=False):  # threads that wait would keep others from being answered
            raise DataError("another file is being read: drop this one when it is done")
        try:
            self.network = self.network or self.load()
            clips = self._clips(video)
            return vectors_of(self.network, torch.from_numpy(clips), torch.device("cpu"))
        finally:
            self.lock.release()

    def _clips(self, video: Path) -> np.ndarray:
        manifest, out = self.library.manifest, video.with_suffix(".npy")
        own = {"windows": [float(manifest["windows"][name]) for name in ("window", "hop", "frames")],
               **manifest["clips"], "limits": LIMITS, "crashes": os.getcwd()}
        too_long = DataError(TOO_MUCH.format("time", f"{LIMITS['seconds']} s of a processor"))
        try:
            done = subprocess.run([sys.executable, "-m", "search.upload", video, out, json.dumps(own)],
                                  cwd=video.parent, capture_output=True, text=True, timeout=2 * LIMITS["seconds"],
                                  env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])})
        except subprocess.TimeoutExpired as error:
            raise too_long from error
        if done.returncode == -signal.SIGXCPU:
            raise too_long
        if done.returncode < 0:
            raise DataError(f"it ends the program that decodes it ({signal.strsignal(-done.returncode)}): it is "
                            "damaged, or needs more memory than there is")
        said = [line.removeprefix("error: ") for line in done.stderr.splitlines() if line.startswith("error: ")]
        if done.returncode:
            raise DataError(said[-1].replace(f"video {video}", "it") if said else "it cannot be decoded")
        return read_npy(out, "u1", 5)


if __name__ == "__main__":
    run(main)

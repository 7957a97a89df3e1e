"""Features of the clips of temporal_tasks.py, computed once for each network and kept."""
import argparse
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from core.dist import rank
from core.errors import DataError
from core.files import write_npy
from core.inputs import read_npy
from dataset.clips import VideoClips, open_reader
from dataset.crops import FixedCrops
from dataset.lists import VideoList
from engine import evaluation
from engine.agreement import of_all_processes
from engine.precision import default_precision
from models.backbones.base import Backbone
from models.classifier import pooled

from .temporal_tasks import Plan

COMPUTED = 2  # one more whenever what computes features of the same clips is changed: kept ones are then of no use


class PlannedClips(VideoClips):
    """Clips by a plan, of which each video has the same number."""

    def __init__(self, plan: Plan, *args: Any) -> None:
        super().__init__(*args)
        self.plan = plan

    def frames_of(self, index: int, rng: np.random.Generator) -> np.ndarray:
        return self.plan.indices[index]


def features_of(backbone: nn.Module, data: VideoClips, rows: int, device: torch.device, args: argparse.Namespace,
                description: str) -> np.ndarray:
    """-> (V, R, D) float32, pooled features of each row of the plan"""
    loader = evaluation.eval_loader(data, device, batch_size=args.batch_size, workers=args.workers,
                                    timeout=args.loader_timeout)
    found = evaluation.over_videos(lambda x: pooled(backbone, x), loader, len(data), device, description, average=False)
    return found.unflatten(1, (rows, -1)).numpy()


def fingerprint(*parts: Any) -> str:
    """Of JSON, arrays and networks that features depend on."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, nn.Module):
            for name, value in part.state_dict().items():
                digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
        else:
            digest.update(part.tobytes() if isinstance(part, np.ndarray) else json.dumps(part).encode())
    return digest.hexdigest()[:16]


def extract(name: str, network: nn.Module, lists: Mapping[str, VideoList], plans: Mapping[tuple[str, int], Plan],
            pictures: Mapping[str, np.ndarray], args: argparse.Namespace, device: torch.device,
            folder: Path) -> dict[tuple[str, int], np.ndarray]:
    """Features of both lists in each draw -> {(part, draw): (V, R, D)}; those that are kept in `folder` are read.

    name: of the network, for the progress bar; pictures: of each list the first frames of its videos, by which other
    frames under the same names are noticed
    """
    precision = default_precision(args.precision, device) if isinstance(network, Backbone) else "fp32"
    normalised = [network.protocol.normalisation] if isinstance(network, Backbone) and network.protocol.converts else []
    key = folder / fingerprint(COMPUTED, type(network).__name__, network, [
        args.dataset, args.storage, args.resize, args.img_dim, precision, *normalised])
    paths = {(part, draw): key / f"{part}_{fingerprint(lists[part].fingerprint(), plan.indices, pictures[part])}.npy"
             for (part, draw), plan in plans.items()}
    kept = of_all_processes([place for place, path in paths.items() if path.is_file()])[0]
    if len(kept) < len(plans):
        rows = max(plan.indices.shape[1] for plan in plans.values())
        network, _ = evaluation.prepare_network(network, network, lists.values(), device, precision=precision,
                                                batch_size=args.batch_size, clips=rows, seq_len=args.seq_len,
                                                img_dim=args.img_dim)
    found = {}
    for place, plan in plans.items():
        part, draw = place
        if place in kept:
            found[place] = read_npy(paths[place], "f4", 3, "remove it, and run this again")
            if found[place].shape[:2] != plan.indices.shape[:2]:
                raise DataError(f"{paths[place]} is damaged (it is of other clips): remove it, and run this again")
            continue
        data = PlannedClips(plan, lists[part], open_reader(args.dataset, args.storage, args.resize), None,
                            FixedCrops(args.img_dim))
        found[place] = features_of(network, data, plan.indices.shape[1], device, args,
                                   f"{name}, {part}, draw {draw}")
        if rank() == 0:
            key.mkdir(parents=True, exist_ok=True)
            write_npy(paths[place], found[place])
    if len({values.shape[2] for values in found.values()}) > 1:
        raise DataError(f"{key} is damaged (its features differ in length): remove it, and run this again")
    return found


def first_pictures(videos: VideoList, args: argparse.Namespace) -> np.ndarray:
    """A hash of the first frame of each video, (V,) text."""
    reader = open_reader(args.dataset, args.storage, args.resize)
    return np.array([hashlib.sha256(next(reader.read(name, np.zeros(1, int))[0]).tobytes()).hexdigest()
                     for name in videos.names.tolist()])

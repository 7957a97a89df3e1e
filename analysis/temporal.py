"""Does a backbone know time? Questions that any list of videos can be asked without labels, to frozen features.

    python -m analysis.temporal --dataset ucf101 --pretrain log/dualvar/pretrain/<name>/model/backbone.pth.tar
    python -m analysis.temporal --dataset mine --pretrain a.pth.tar b.pth.tar --titles a b --ds 2

The tasks are in analysis/temporal_tasks.py, and docs/temporal.md says what each can show. A probe is trained on the
training list and asked the test list; beside it stand chance, floors without a network and without training, and a
control in which there is nothing to find. Where a control is not at chance, the task's numbers are not shown.
Features are kept in <log_dir>/<prefix>/temporal/features/, and taken from there again.
Writes <log_dir>/<prefix>/temporal/<name>/: results.json, table.md, .tex and .csv, and the picture temporal.png,
.pdf and .svg.
"""
import core.lifeline  # noqa: F401  # before what takes seconds to import

# isort: split
import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor

from core.dist import rank
from core.errors import DataError, UsageError
from core.exits import crashes_go_to, run
from core.files import take_lock, write_json, write_npy
from core.inputs import csv_rows, read_npy, read_text
from core.parser import new_parser
from dataset.clips import VideoClips, open_reader
from dataset.crops import FixedCrops
from dataset.lists import VideoList, local_dataset, open_list, video_groups
from engine import evaluation
from engine.agreement import of_all_processes
from engine.flags import (
    add_data_flags,
    add_net_flags,
    add_precision_flag,
    add_run_flags,
    check_network,
    complete_data_flags,
    frozen,
    positive,
)
from engine.folders import check_folder
from engine.log import plain_types, versions
from engine.precision import check_precision, default_precision
from engine.setup import network_of, open_backbone, open_weights, seed_everything, start
from models import build_backbone
from models.backbones import BACKBONES
from models.classifier import pooled

from . import figures
from .features import PARTS, Thumbnail
from .temporal_output import WITHHELD, draw, write_tables
from .temporal_probe import Measured, Side, answered, answered_by_few, class_gaps, is_chance, measured
from .temporal_tasks import TASKS, Plan, choose_stride, make_plan
from .titles import add_titles, panel_titles

RANDOM = "random weights"
FEWEST = 10  # videos of a list that a task must fit
SEED = {"train": 0, "test": 1}


class Cues(nn.Module):
    """Brightness, contrast and sharpness of each frame of clips (N, 3, T, H, W), no more -> (N, 3T, 1, 1, 1).

    What fades, exposure and compression leave: key frames, for one, are sharper.
    """

    def forward(self, clips: Tensor) -> Tensor:
        grey = clips.mean(dim=1)
        edges = (grey[..., 1:, :] - grey[..., :-1, :]).abs().mean(dim=(2, 3)) + (
            grey[..., 1:] - grey[..., :-1]).abs().mean(dim=(2, 3))
        return torch.cat([grey.mean(dim=(2, 3)), grey.std(dim=(2, 3)), edges], dim=1)[:, :, None, None, None]


class Differences(nn.Module):
    """How much each frame of clips (N, 3, T, H, W) differs from the one before, one number -> (N, T - 1, 1, 1, 1)."""

    def forward(self, clips: Tensor) -> Tensor:
        return clips.diff(dim=2).abs().mean(dim=(1, 3, 4))[:, :, None, None, None]


FLOORS: dict[str, type[nn.Module]] = {"mean picture": Thumbnail, "cues": Cues, "frame differences": Differences}


def flags() -> argparse.ArgumentParser:
    parser = new_parser("python -m analysis.temporal", __doc__)
    add_data_flags(parser, ds=4, batch_size=1, batch_help="videos of a loader's batch, about a hundred clips each")
    add_net_flags(parser, None, "backbone; None: what the checkpoints say", width=None)
    parser.add_argument("--pretrain", nargs="+", required=True, metavar="PATH|random", help="weights to be asked")
    add_titles(parser)
    group = parser.add_argument_group("protocol")
    group.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS), help="questions")
    group.add_argument("--draws", type=int, default=3, help="times that all clips are drawn")
    group.add_argument("--videos", type=int, default=1000, help="of each list, at most, drawn with --seed")
    group.add_argument("--shots", type=int, nargs="+", default=[], help="also probes trained on so few videos")
    add_precision_flag(parser)
    add_run_flags(parser, training=False)
    return parser


def frame_rates(dataset: str, storage: str, videos: VideoList) -> np.ndarray | None:
    """Frames a second of each video, (V,), from the manifest beside its frames; None where that does not say."""
    path = local_dataset(dataset).root("frames") / "manifest.csv"
    if storage != "frames" or not path.is_file():
        return None
    hint = "extract the frames again"
    table = csv_rows(read_text(path, hint), path, hint)
    _, head = next(table, (1, []))
    if not {"video", "fps"} <= set(head):
        raise DataError(f"{path} row 1: there is no column video, or none called fps: {hint}")
    video, fps = head.index("video"), head.index("fps")
    rows = {fields[video]: fields[fps] for _, fields in table if len(fields) == len(head)}
    try:
        rates = np.array([float(rows[name]) for name in videos.names.tolist()])
    except (KeyError, ValueError):
        return None
    return rates if np.all((rates > 0) & np.isfinite(rates)) else None


def some(videos: VideoList, count: int, seed: int) -> VideoList:
    """At most `count` videos, drawn, in the order of the list."""
    order = np.random.default_rng(seed).permutation(len(videos))[:count]
    return videos.subset(np.sort(order))


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


def open_network(source: str, args: argparse.Namespace) -> nn.Module:
    """Of a floor, or of weights."""
    if source in FLOORS:
        return FLOORS[source]()
    for net in [args.net] if args.net else BACKBONES:
        check_network(args, partial(build_backbone, net, args.width))
    seed_everything(args.seed)
    return open_backbone(source, args.net, args.width, seq_len=args.seq_len, img_dim=args.img_dim)


def fingerprint(source: str, network: nn.Module, plans: Sequence[Plan], protocol: Mapping[str, Any]) -> str:
    """Of all that features depend on: the weights, the frames that are taken, how they are shown."""
    digest = hashlib.sha256(json.dumps([source if source in FLOORS else "", protocol]).encode())
    for name, value in network.state_dict().items():
        digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    for plan in plans:
        digest.update(plan.indices.tobytes())
    return digest.hexdigest()[:16]


def extract(source: str, network: nn.Module, lists: Mapping[str, VideoList], plans: Mapping[tuple[str, int], Plan],
            args: argparse.Namespace, device: torch.device, folder: Path) -> dict[tuple[str, int], np.ndarray]:
    """Features of both lists in each draw -> {(part, draw): (V, R, D)}; those that are kept in `folder` are read."""
    precision = "fp32" if source in FLOORS else default_precision(args.precision, device)
    protocol = {"dataset": args.dataset, "storage": args.storage, "resize": args.resize, "img_dim": args.img_dim,
                "precision": precision, "lists": [videos.fingerprint() for videos in lists.values()]}
    key = folder / fingerprint(source, network, list(plans.values()), protocol)
    kept = of_all_processes([place for place in plans if (key / "{}_{}.npy".format(*place)).is_file()])[0]
    if len(kept) < len(plans):
        rows = max(plan.indices.shape[1] for plan in plans.values())
        network, _ = evaluation.prepare_network(network, network, lists.values(), device, precision=precision,
                                                batch_size=args.batch_size, clips=rows, seq_len=args.seq_len,
                                                img_dim=args.img_dim)
    found = {}
    for place, plan in plans.items():
        part, draw = place
        path = key / f"{part}_{draw}.npy"
        if place in kept:
            found[place] = read_npy(path, "f4", 3, "remove it, and run this again")
            if found[place].shape[:2] != plan.indices.shape[:2]:
                raise DataError(f"{path} is damaged (it is of other clips): remove it, and run this again")
            continue
        data = PlannedClips(plan, lists[part], open_reader(args.dataset, args.storage, args.resize), None,
                            FixedCrops(args.img_dim))
        found[place] = features_of(network, data, plan.indices.shape[1], device, args,
                                   f"{Path(source).name}, {part}, draw {draw}")
        if rank() == 0:
            key.mkdir(parents=True, exist_ok=True)
            write_npy(path, found[place])
    return found


def ask(lists: Mapping[str, VideoList], plans: Mapping[tuple[str, int], Plan],
        features: Mapping[tuple[str, int], np.ndarray], tasks: Sequence[str], group: str, draws: int,
        shots: Sequence[int]) -> dict[str, Any]:
    """All measures of one network.

    -> {"tasks": {task: {kind: {how: Measured}, "shots": {k: Measured}, "at_chance": {how: bool}}},
    "classes": {clip: Measured}}
    """
    recordings = video_groups(lists["test"].names, group)
    sides = [{part: Side(lists[part], plans[part, draw], features[part, draw]) for part in PARTS}
             for draw in range(draws)]
    found: dict[str, Any] = {"tasks": {}, "classes": {}}
    for name in tasks:
        found["tasks"][name] = {}
        for kind in ("clips", "control", "single", "mean"):
            used = sides if kind in ("clips", "control") else sides[:1]
            shares = [answered(side["train"], side["test"], name, kind, group, draw) for draw, side in enumerate(used)]
            found["tasks"][name][kind] = {how: measured([own[how] for own in shares], recordings) for how in shares[0]}
        few = [answered_by_few(side["train"], side["test"], name, shots, group, draw)
               for draw, side in enumerate(sides)] if shots else [{}]
        found["tasks"][name]["shots"] = {str(k): measured([own[k] for own in few], recordings) for k in few[0]}
        found["tasks"][name]["at_chance"] = {how: is_chance(share, TASKS[name])
                                             for how, share in found["tasks"][name]["control"].items()}
    if len(np.unique(lists["train"].labels)) > 1:
        shares = [class_gaps(side["train"], side["test"], group, draw) for draw, side in enumerate(sides)]
        found["classes"] = {clip: measured([own[clip] for own in shares], recordings) for clip in shares[0]}
    return found


def to_plain(found: Any) -> Any:
    """Measured, at any depth, as what JSON holds."""
    if isinstance(found, Measured):
        return found._asdict()
    return {name: to_plain(value) for name, value in found.items()} if isinstance(found, Mapping) else found


def print_plan(args: argparse.Namespace, lists: Mapping[str, VideoList], strides: Mapping[str, int],
               fitting: Mapping[str, Mapping[str, int]], rate: float | None, folder: Path) -> None:
    if rank() != 0:
        return
    print(f"{args.dataset} split {args.split}: {len(lists['train'])} training and {len(lists['test'])} test videos, "
          f"{args.seq_len} frames of {args.img_dim} px, {args.draws} draws; results in {folder}")
    print(f"speed by {rate:.4g} frames a second" if rate else
          "note: no frame rates (frames/manifest.csv has them): all videos are taken to have the same")
    for name, counts in fitting.items():
        left_out = {part: len(lists[part]) - count for part, count in counts.items()}
        print(f"{TASKS[name].title}: stride {strides[name]}"
              + (f", too short for it: {left_out['train']} training, {left_out['test']} test videos"
                 if any(left_out.values()) else "")
              + ("" if min(counts.values()) >= FEWEST else f": not asked, fewer than {FEWEST} videos are left"))


def sentence(title: str, found: Mapping[str, Any]) -> str:
    """What is printed of one network: its linear probes."""
    return f"{title}: " + ", ".join(
        f"{TASKS[name].title} " + (f"{own['clips']['linear'].mean:.3f}" if own["at_chance"]["linear"] else WITHHELD)
        for name, own in found["tasks"].items())


def random_weights(path: str, args: argparse.Namespace) -> nn.Module:
    """The network of a checkpoint, untrained."""
    net, width = network_of(open_weights(path, args.net), path, args.net, args.width)
    seed_everything(args.seed)
    return build_backbone(net, width)


def main(argv: Sequence[str]) -> None:
    args = flags().parse_args(argv)
    device = start(args.device, args.loader_timeout, args.dry_run)
    complete_data_flags(args, device)
    check_precision(args.precision, args.device)
    positive(args, "draws", "videos")
    if args.shots and min(args.shots) < 2:
        raise UsageError("--shots: give numbers of videos from 2")
    if args.seq_len < 8:
        raise UsageError(f"--seq_len {args.seq_len}: four segments with gaps between need clips of 8 frames or more")
    titles = panel_titles(args.titles, args.pretrain)
    if set(titles) & {*FLOORS, RANDOM}:
        raise UsageError("--titles: a network is not called as one of the floors")
    args = frozen(args)
    group = local_dataset(args.dataset).group
    lists = {part: some(open_list(args.dataset, part, args.split, args.storage), args.videos, args.seed)
             for part in PARTS}
    rates = {part: frame_rates(args.dataset, args.storage, videos) for part, videos in lists.items()}
    known = all(rate is not None for rate in rates.values())
    usual = float(np.median(np.concatenate(list(rates.values())))) if known else 1.0
    frames = np.concatenate([videos.num_frames for videos in lists.values()])
    strides = {task: choose_stride(task, frames, args.seq_len, args.ds) for task in ("clip", *TASKS)}
    plans = {(part, draw): make_plan(videos.num_frames, rates[part] / usual if known else np.ones(len(videos)),
                                     args.seq_len, strides, [args.seed, SEED[part], draw], stills=draw == 0)
             for draw in range(args.draws) for part, videos in lists.items()}
    tasks = {name: {part: int(plans[part, 0].fit[name].sum()) for part in PARTS} for name in args.tasks}
    possible = [name for name, counts in tasks.items() if min(counts.values()) >= FEWEST]
    folder = Path(args.log_dir) / args.prefix / "temporal" / (args.name or args.dataset)
    networks = dict(zip(titles, args.pretrain, strict=True))
    print_plan(args, lists, strides, tasks, usual if known else None, folder)
    if not possible:
        raise DataError(f"--dataset {args.dataset}: no task fits {FEWEST} videos of each list: their videos are too "
                        "short: try a smaller --seq_len or --ds")
    check_folder(folder)
    if args.dry_run:
        return

    lock = take_lock(folder, "run folder") if rank() == 0 else None
    crashes_go_to(folder)
    found = {}
    for title in [*networks, *([] if "random" in args.pretrain else [RANDOM]), *FLOORS]:
        source = networks.get(title, title)
        network = random_weights(args.pretrain[0], args) if title == RANDOM else open_network(source, args)
        features = extract(source, network, lists, plans, args, device, folder.parent / "features")
        if rank() == 0:
            found[title] = ask(lists, plans, features, possible, group, args.draws, sorted(set(args.shots)))
            print(sentence(title, found[title]))
    if rank() != 0:
        return
    results = {
        "networks": list(networks), "measures": to_plain(found),
        "tasks": {name: {"title": TASKS[name].title, "chance": TASKS[name].chance, "stride": strides[name],
                         **tasks[name]} for name in possible},
        "class_chance": float(np.bincount(lists["test"].labels).max() / len(lists["test"])),
        "flags": plain_types(vars(args)), **versions()}
    write_json(folder / "results.json", results)
    write_tables(folder, results)
    figures.save(draw(results), folder / "temporal")
    print(f"written to {folder}")
    lock.close()


if __name__ == "__main__":
    run(main, memory="--precision bf16 or fewer --videos")

"""Does a backbone know time? Questions that any list of videos can be asked without labels, to frozen features.

    python -m analysis.temporal --dataset ucf101 --pretrain log/dualvar/pretrain/<name>/model/backbone.pth.tar
    python -m analysis.temporal --dataset mine --pretrain a.pth.tar b.pth.tar --titles a b --ds 2

The tasks are in analysis/temporal_tasks.py, and docs/temporal.md says what each can show. A probe is trained on the
training list and asked the test list; beside it stand chance, floors without a network and without training, and a
control in which there is nothing to find. Where a control is not at chance, the task's numbers are not shown.
Features are kept in <log_dir>/<prefix>/temporal/features/, and taken from there again.
Writes <log_dir>/<prefix>/temporal/<name>/: results.json, answers.csv, tables.md, .tex and .csv, and the picture
temporal.png, .pdf and .svg.
"""
import core.lifeline  # noqa: F401  # before what takes seconds to import

# isort: split
import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch.nn as nn

from core.dist import rank
from core.errors import DataError, UsageError
from core.exits import crashes_go_to, run
from core.files import take_lock, write_json, write_text
from core.names import name_fault, quoted, shown
from core.parser import new_parser
from core.versions import versions
from dataset.lists import VideoList, local_dataset, of_both_lists, open_list, video_groups
from dataset.rates import frame_rates
from engine.flags import (
    WEIGHTS,
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
from engine.log import plain_types
from engine.precision import check_precision
from engine.setup import check_shapes, open_weights, seed_everything, start, take_clips
from models import build_backbone
from models.backbones.base import Backbone
from models.protocol import Protocol
from models.weights.checkpoint import fingerprint

from . import figures
from .features import PARTS
from .floors import FLOORS
from .page import csv_text
from .temporal_features import extract, first_pictures
from .temporal_output import BY_VOTE, HOWS, KINDS, WITHHELD, draw, read_results, write_tables
from .temporal_probe import (
    Measured,
    Side,
    answered,
    answered_by_few,
    class_gaps,
    is_above,
    is_chance,
    measured,
    units,
    without_labels,
)
from .temporal_tasks import CLASS_CLIPS, TASKS, Plan, choose_stride, fits_length, make_plan
from .titles import add_titles, panel_titles

RANDOM = "random weights"
FEATURES = "features"  # folder of those that are kept, beside the results
FEWEST = 10  # videos of a list that a task must fit
SEED = {"train": 0, "test": 1}


def flags() -> argparse.ArgumentParser:
    parser = new_parser("python -m analysis.temporal", __doc__)
    add_data_flags(parser, batch_size=1, batch_help="videos of a loader's batch, about a hundred clips each")
    add_net_flags(parser, None, "backbone; None: what the checkpoints say", width=None)
    parser.add_argument("--pretrain", nargs="+", required=True, metavar="WEIGHTS|random",
                        help=f"to be asked: {WEIGHTS}; or the word random")
    add_titles(parser)
    group = parser.add_argument_group("protocol")
    group.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS), help="questions")
    group.add_argument("--draws", type=int, default=3, help="times that all clips are drawn")
    group.add_argument("--videos", type=int, default=1000, help="of each list, at most, drawn with --seed")
    group.add_argument("--shots", type=int, nargs="+", default=[], help="also probes trained on so few videos")
    add_precision_flag(parser)
    add_run_flags(parser, training=False)
    return parser


def some(videos: VideoList, count: int, seed: int) -> VideoList:
    """At most `count` videos, drawn, in the order of the list."""
    order = np.random.default_rng(seed).permutation(len(videos))[:count]
    return videos.subset(np.sort(order))


def apart(lists: Mapping[str, VideoList], group: str) -> VideoList:
    """The training list without videos of recordings that the test list has too, counted aloud."""
    shared = of_both_lists(lists["train"], lists["test"], group)
    if shared.any() and rank() == 0:
        print(f"note: {shared.sum()} training videos are left out: the test list has others of the same recordings")
    return lists["train"].subset(np.flatnonzero(~shared))


def lists_and_rates(args: argparse.Namespace,
                    group: str) -> tuple[dict[str, VideoList], dict[str, np.ndarray], str | None]:
    """-> (both lists, the frames a second of their videos, why these are not known and all 1, or None)

    Raises DataError where the training list has no two recordings.
    """
    lists = {part: open_list(args.dataset, part, args.split, args.storage) for part in PARTS}
    lists["train"] = apart(lists, group)
    lists = {part: some(videos, args.videos, args.seed) for part, videos in lists.items()}
    if len(set(video_groups(lists["train"].names, group))) < 2:
        raise DataError(f"--dataset {args.dataset}: the training list has no two recordings of which the test list has "
                        "no video: a probe needs both, one to choose its strength: mend the lists, or the group rule "
                        "in dataset/local_dataset.py")
    root = local_dataset(args.dataset).root(args.storage)
    rates = {part: frame_rates(root, args.storage, videos.names) for part, videos in lists.items()}
    unknown = next((rate for rate in rates.values() if isinstance(rate, str)), None)
    if unknown is not None:
        return lists, {part: np.ones(len(videos)) for part, videos in lists.items()}, unknown
    return lists, rates, None


class Source(NamedTuple):
    """Weights, or one of FLOORS: what it is called, its word or path, and the network of weights."""

    title: str
    path: str
    net: str = ""
    width: float = 1.0

    def open(self, args: argparse.Namespace) -> nn.Module:
        if not self.net:
            return FLOORS[self.path]()
        seed_everything(args.seed)
        return open_weights(self.path, self.net, self.width).backbone(args.seq_len, args.img_dim)


def sources(titles: Sequence[str], known: Sequence[tuple[str, float]],
            args: argparse.Namespace) -> tuple[list[Source], list[Source]]:
    """-> (the networks that are asked about, the floors); known: network and width of all weights but random ones.

    The floors are each network untrained, and FLOORS.
    """
    for net, width in set(known):
        check_network(args, partial(build_backbone, net, width))
        check_shapes(net, args.seq_len, args.img_dim)
    own = iter(known)
    networks = [Source(title, path, *(known[0] if path == "random" else next(own)))
                for title, path in zip(titles, args.pretrain, strict=True)]
    untrained = [Source(RANDOM if len(set(known)) == 1 else f"{RANDOM}, {net} x {width:g}", "random", net, width)
                 for net, width in dict.fromkeys(known)]
    return networks, [*untrained, *(Source(name, name) for name in FLOORS)]


Shares = dict[tuple[str, str, str], np.ndarray]  # (task, kind, how): (V,) of right answers of a test video


def ask(lists: Mapping[str, VideoList], plans: Mapping[tuple[str, int], Plan],
        features: Mapping[tuple[str, int], np.ndarray], tasks: Sequence[str], group: str, draws: int,
        shots: Sequence[int], classes: bool) -> tuple[dict[str, Any], Shares]:
    """All measures of one network, those of the classes if asked for, and the shares that they are means of.

    -> {"tasks": {task: {kind: {how: Measured}, "shots": {k: Measured}, "at_chance": {how: bool}}},
    "classes": {clip: Measured}}
    """
    recordings = video_groups(lists["test"].names, group)
    sides = [{part: Side(lists[part], plans[part, draw], features[part, draw]) for part in PARTS}
             for draw in range(draws)]
    found: dict[str, Any] = {"tasks": {}, "classes": {}}
    shares: Shares = {}
    for name in tasks:
        own = found["tasks"][name] = {}
        for kind in KINDS:
            used = sides if kind in ("clips", "control") else sides[:1]
            answers = [answered(side["train"], side["test"], name, kind, group, draw)
                       for draw, side in enumerate(used)]
            shares |= {(name, kind, how): np.mean([one[how] for one in answers], axis=0) for how in HOWS}
            own[kind] = {how: measured([one[how] for one in answers], recordings) for how in HOWS}
        few = [answered_by_few(side["train"], side["test"], name, shots, group, draw)
               for draw, side in enumerate(sides)] if shots else [{}]
        own["shots"] = {str(k): measured([one[k] for one in few], recordings) for k in few[0]}
        count = len(np.unique(units(recordings[plans["test", 0].fit[name]])))
        own["at_chance"] = {how: is_chance(share, TASKS[name], count) for how, share in own["control"].items()}
    if classes:
        gaps = [class_gaps(side["train"], side["test"], group, draw) for draw, side in enumerate(sides)]
        found["classes"] = {clip: measured([one[clip] for one in gaps], recordings) for clip in gaps[0]}
        true, *others = CLASS_CLIPS
        found["classes"] |= {f"{true} - {clip}{way}": measured([one[true + way] - one[clip + way] for one in gaps],
                                                               recordings) for way in ("", BY_VOTE) for clip in others}
    return found, shares


def not_asked(task: str, lists: Mapping[str, VideoList], plans: Mapping[tuple[str, int], Plan], group: str,
              draws: int) -> str:
    """Why a task cannot be asked of the videos that are long enough for it; "" where it can."""
    fit = {part: plans[part, 0].fit[task] for part in PARTS}
    if min(own.sum() for own in fit.values()) < FEWEST:
        return f"fewer than {FEWEST} are left"
    try:
        for draw in range(draws):
            without_labels(lists["train"].subset(np.flatnonzero(fit["train"])), group, draw)
    except DataError as error:
        return str(error)
    return ""


def above_floors(own: Shares, floors: Mapping[str, Shares], task: str, how: str, recordings: np.ndarray,
                 tests: int) -> bool:
    """Whether a network is above chance and every floor, whichever way that answers, its own single frames too."""
    mine = own[task, "clips", how]
    others = [floor[task, "clips", way] for floor in floors.values() for way in HOWS]
    others += [own[task, kind, way] for kind in ("single", "mean") for way in HOWS]
    others.append(np.full(len(mine), TASKS[task].chance))
    return all(is_above(mine, other, recordings, tests) for other in others)


def to_plain(found: Any) -> Any:
    """Measured, at any depth, as what JSON holds."""
    if isinstance(found, Measured):
        return found._asdict()
    return {name: to_plain(value) for name, value in found.items()} if isinstance(found, Mapping) else found


def print_plan(args: argparse.Namespace, lists: Mapping[str, VideoList], strides: Mapping[str, int],
               fitting: Mapping[str, Mapping[str, int]], faults: Mapping[str, str], rate: float | str, clips: int,
               folder: Path) -> None:
    """fitting: {task: {part: videos}}; faults: why tasks are not asked, or ""; rate: frames a second, or why they are
    not known; clips: that each network is shown.
    """
    if rank() != 0:
        return
    print(f"{args.dataset} split {args.split}: {len(lists['train'])} training and {len(lists['test'])} test videos, "
          f"{args.seq_len} frames of {args.img_dim} px, {args.draws} draws: {clips} clips for each network; results in "
          f"{folder}")
    print(f"note: {rate}: all videos are taken to have the same frame rate" if isinstance(rate, str) else
          f"speed by {rate:.4g} frames a second")
    for name, counts in fitting.items():
        left_out = {part: len(lists[part]) - count for part, count in counts.items()}
        if not fits_length(name, args.seq_len):
            print(f"{TASKS[name].title}: not asked, {args.seq_len} frames cannot be divided so")
            continue
        why = (f", too short or too slow for it: {left_out['train']} training, {left_out['test']} test videos"
               if any(left_out.values()) else "")
        print(f"{TASKS[name].title}: stride {strides[name]}{why}" + (
            f": not asked, {faults[name]}" if faults[name] else ""))


def sentence(title: str, found: Mapping[str, Any]) -> str:
    """What is printed of one network: its linear probes."""
    return f"{title}: " + ", ".join(
        f"{TASKS[name].title} " + (f"{own['clips']['linear'].mean:.3f}" if own["at_chance"]["linear"] else WITHHELD)
        for name, own in found["tasks"].items())


def answers_by_video(videos: VideoList, shares: Mapping[str, Shares], tasks: Sequence[str]) -> pd.DataFrame:
    """A row for each test video: its share of right answers, by network or floor, task and classifier."""
    return pd.DataFrame({"video": videos.names, **{
        f"{title}, {TASKS[task].title}, {HOWS[how]}": own[task, "clips", how]
        for title, own in shares.items() for task in tasks for how in HOWS}})


def check_place(folder: Path, titles: Sequence[str]) -> None:
    """Raise UsageError where results of other networks would be lost, or nothing can be written."""
    check_folder(folder)
    if (folder / "results.json").exists() and (others := {*read_results(folder / "results.json")["networks"]} - {
            *titles}):
        raise UsageError(f"{folder} has results of {shown(min(others))}, which these would replace: give these another "
                         "--name, or move those away")


def check(args: argparse.Namespace) -> list[str]:
    """-> titles of the networks"""
    check_precision(args.precision, args.device)
    positive(args, "draws", "videos")
    if args.videos < FEWEST:
        raise UsageError(f"--videos {args.videos}: give {FEWEST} or more")
    if args.shots and min(args.shots) < 2:
        raise UsageError("--shots: give numbers of videos from 2")
    if args.seq_len < 8:
        raise UsageError(f"--seq_len {args.seq_len}: four segments with gaps between need clips of 8 frames or more")
    if args.name is not None and (wrong := name_fault(args.name) or (
            "features are kept in the folder of that name" if args.name == FEATURES else None)):
        raise UsageError(f"--name {quoted(args.name)}: {wrong}, give another")
    titles = panel_titles(args.titles, args.pretrain)
    reserved = {*FLOORS, *KINDS.values(), "chance"}
    if taken := {title for title in titles if title in reserved or title.startswith(RANDOM)}:
        raise UsageError(f"--titles: {shown(min(taken))} is a floor's name, give another")
    return titles


def main(argv: Sequence[str]) -> None:
    args = flags().parse_args(argv)
    device = start(args.device, args.loader_timeout, args.dry_run)
    opened = [open_weights(path, args.net, args.width)  # random ones are like the others, if there are others
              for path in [path for path in args.pretrain if path != "random"] or ["random"]]
    take_clips(args, opened, Protocol.ds)
    complete_data_flags(args, device)
    known = [(one.net, one.width) for one in opened]
    del opened
    titles = check(args)
    group = local_dataset(args.dataset).group
    lists, rates, unknown = lists_and_rates(args, group)
    usual = float(np.median(np.concatenate([*rates.values()])))
    if args.fps is not None:
        if unknown is not None:
            raise DataError(f"--fps {args.fps:g}: {unknown}: give --ds, which counts frames")
        args.ds, args.fps = max(1, round(usual / args.fps)), None
        if rank() == 0:
            print(f"note: --ds {args.ds}, the nearest to these frames a second in videos of {usual:.4g}")
    args = frozen(args)
    networks, floors = sources(titles, known, args)
    frames = np.concatenate([videos.num_frames for videos in lists.values()])
    strides = {task: choose_stride(task, frames, args.seq_len, args.ds) for task in ("clip", *TASKS)}
    plans = {(part, draw): make_plan(videos.num_frames, rates[part] / usual, args.seq_len, strides,
                                     [args.seed, SEED[part], draw], stills=draw == 0)
             for draw in range(args.draws) for part, videos in lists.items()}
    tasks = {name: {part: int(plans[part, 0].fit[name].sum()) for part in PARTS} for name in args.tasks}
    faults = {name: not_asked(name, lists, plans, group, args.draws) for name in tasks}
    possible = [name for name in tasks if not faults[name]]
    long_enough = plans["train", 0].fit["arrow"]
    classes = len(np.unique(lists["train"].labels[long_enough])) > 1 and not not_asked(
        "arrow", lists, plans, group, args.draws)
    folder = Path(args.log_dir) / args.prefix / "temporal" / (args.name or args.dataset)
    print_plan(args, lists, strides, tasks, faults, unknown or usual,
               sum(plan.indices[..., 0].size for plan in plans.values()), folder)
    if not possible:
        raise DataError(f"--dataset {args.dataset}: none of the tasks can be asked: the videos are too few, too short "
                        "or of too few recordings: try a smaller --seq_len or --ds")
    for name in possible:
        if max(args.shots, default=0) > tasks[name]["train"]:
            raise UsageError(f"--shots {max(args.shots)}: {TASKS[name].title} has {tasks[name]['train']} training "
                             "videos: give fewer shots")
    check_place(folder, titles)
    if args.dry_run:
        return

    lock = take_lock(folder, "run folder") if rank() == 0 else None
    crashes_go_to(folder)
    pictures = {part: first_pictures(videos, args) for part, videos in lists.items()}
    found, shares, weights = {}, {}, {}
    for source in [*networks, *floors]:
        network = source.open(args)
        if source.title in titles:
            assert isinstance(network, Backbone)
            weights[source.title] = fingerprint(network.state_dict(), network.protocol)
        features = extract(source.title, network, lists, plans, pictures, args, device, folder.parent / FEATURES)
        if rank() == 0:
            found[source.title], shares[source.title] = ask(lists, plans, features, possible, group, args.draws,
                                                            sorted(set(args.shots)), classes)
            print(sentence(source.title, found[source.title]))
    if rank() != 0:
        return
    recordings = video_groups(lists["test"].names, group)
    beside = {floor.title: shares[floor.title] for floor in floors}
    for title, own in found.items():
        for task, measures in own["tasks"].items():
            measures["above_floors"] = {how: title in titles and above_floors(
                shares[title], beside, task, how, recordings, len(possible) * len(HOWS)) for how in HOWS}
    results = {
        "networks": titles, "weights": weights, "measures": to_plain(found),
        "tasks": {name: {"title": TASKS[name].title, "chance": TASKS[name].chance, "stride": strides[name],
                         **tasks[name]} for name in possible},
        "class_chance": float(np.bincount(lists["test"].labels).max() / len(lists["test"])),
        "recordings": len(set(recordings)), "flags": plain_types(vars(args)), **versions()}
    write_json(folder / "results.json", results)
    write_text(folder / "answers.csv", csv_text(answers_by_video(lists["test"], shares, possible), "%.6g"))
    write_tables(folder, results)
    figures.save(draw(results), folder / "temporal")
    print(f"written to {folder}")
    lock.close()


if __name__ == "__main__":
    run(main, memory="--precision bf16 or fewer --videos")

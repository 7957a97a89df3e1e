"""Pictures of runs, features and videos, each by a command.

    python -m analysis.pictures tsne --features log/a/features/clip log/a/features/clip-sr-tc --titles clip all
    python -m analysis.pictures curves --runs log/dualvar/pretrain/*
    python -m analysis.pictures tsne --help

--out PATH is written as PATH.png, .pdf and .svg, or as the one kind that it ends in.
"""
import core.lifeline  # noqa: F401  # before what takes seconds to import

# isort: split

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from matplotlib.figure import Figure

from core.errors import UsageError
from core.exits import run
from core.files import write_text
from core.parser import new_parser
from engine.flags import (
    WEIGHTS,
    add_data_flags,
    add_list_flags,
    add_net_flags,
    add_sampling_flags,
    check_sampling,
    check_segments,
    complete_data_flags,
    frozen,
    not_negative,
    positive,
)
from engine.folders import check_folder
from engine.setup import open_weights, start, take_clips
from models.protocol import Protocol

from . import feature_pictures, figures, run_pictures, video_pictures
from .page import csv_text
from .run_pictures import default_measures
from .titles import add_titles, panel_titles
from .video_pictures import ClipSettings, TrainingSample, training_samples

OTHER_KINDS = set(Figure().canvas.get_supported_filetypes()) - set(figures.KINDS)
MOST_TILES = 50  # of a gallery, either way


class Drawn(NamedTuple):
    """A picture, and the numbers in it where they are written beside it."""

    figure: Figure
    table: pd.DataFrame | None = None


# --- flags ---------------------------------------------------------------------------------------------------

def parser() -> argparse.ArgumentParser:
    top = new_parser("python -m analysis.pictures", __doc__, defaults=False)
    commands = top.add_subparsers(required=True, metavar="PICTURE")

    def command(function: Callable, draw: Callable[[argparse.Namespace], Drawn],
                *more: Callable[[argparse.ArgumentParser], object]) -> argparse.ArgumentParser:
        """Adds the command that is called as `function`, with the first line of its docstring as help."""
        sentence = (function.__doc__ or "").strip().partition("\n")[0]
        one = commands.add_parser(function.__name__, help=sentence, description=sentence, allow_abbrev=False,
                                  formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        one.add_argument("--out", type=Path, default=Path(function.__name__),
                         help="where to, with or without an ending")
        one.set_defaults(draw=draw)
        for add in more:
            add(one)
        return one

    one = command(feature_pictures.tsne, draw_tsne, add_titles)
    one.add_argument("--features", nargs="+", required=True, help="folders of retrieval.py --save_features --per_clip")
    one.add_argument("--part", choices=["train", "test"], default="train", help="list of videos")
    one.add_argument("--videos", type=int, default=200, help="of the list, evenly spread")
    one.add_argument("--seed", type=int, default=0, help="of t-SNE")
    one = command(feature_pictures.gallery, draw_gallery, add_list_flags)
    one.add_argument("--features", required=True, help="folder of retrieval.py --save_features")
    one.add_argument("--queries", type=int, default=6, help="test videos, evenly spread over their list")
    one.add_argument("--found", type=int, default=5, help="nearest training videos of each")
    one = command(run_pictures.confusion, lambda args: Drawn(run_pictures.confusion(args.test)))
    one.add_argument("--test", type=Path, required=True, help="folder of a test, or of one of its splits")
    one = command(run_pictures.classes, draw_classes, add_titles)
    one.add_argument("--test", type=Path, nargs="+", required=True, help="folders of tests, or of their splits")
    one = command(run_pictures.curves, draw_curves, add_titles)
    one.add_argument("--runs", type=Path, nargs="+", required=True, help="folders of pretraining or fine-tuning runs")
    one.add_argument("--measures", nargs="+",
                     help=f"of log.jsonl; default: those there are of {', '.join(default_measures())}")
    for function, draw in ((video_pictures.views, draw_views), (video_pictures.segments, draw_segments)):
        one = command(function, draw, add_training_data)
        one.add_argument("--names", nargs="+", metavar="CLASS/VIDEO", help="training videos; default: evenly spread")
        one.add_argument("--videos", type=int, default=3, help="how many, where none are named")
        one.add_argument("--epoch", type=int, default=0, help="whose random draws are shown")
        one.add_argument("--n_series", type=int, default=2, help="segments of a clip")
    one = command(video_pictures.timeline, draw_timeline, partial(add_data, weights=True), add_titles)
    add_net_flags(one, None, "backbone; None: what the checkpoints say", width=None)
    one.add_argument("--pretrain", nargs="+", required=True, metavar="WEIGHTS|random",
                     help=f"a panel each: {WEIGHTS}; or the word random")
    one.add_argument("--video", metavar="CLASS/VIDEO", help="test video; default: the longest")
    one.add_argument("--n_series", type=int, default=2, help="a segment has seq_len / n_series frames")
    one.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto: cuda if there is one")
    return top


def add_data(one: argparse.ArgumentParser, weights: bool = False) -> argparse._ArgumentGroup:
    one.add_argument("--seed", type=int, default=0, help="of every random draw")
    one.set_defaults(device="cpu", width=None)  # of pictures without a network
    return add_data_flags(one, batch_size=4, batch_help="videos of a loader's batch", weights=weights)


def add_training_data(one: argparse.ArgumentParser) -> None:
    add_sampling_flags(add_data(one))


def panels(titles: Sequence[str] | None, paths: Sequence) -> dict:
    """{title: path} of the panels of a picture."""
    return dict(zip(panel_titles(titles, paths), paths, strict=True))


def clip_settings(args: argparse.Namespace) -> ClipSettings:
    return ClipSettings(args.dataset, args.split, args.storage, args.seq_len, args.ds, args.img_dim, args.resize,
                        args.fps)


# --- each command: check its own flags, draw -----------------------------------------------------------------

def draw_tsne(args: argparse.Namespace) -> Drawn:
    positive(args, "videos")
    return Drawn(*feature_pictures.tsne(panels(args.titles, args.features), args.part, args.videos, args.seed))


def draw_gallery(args: argparse.Namespace) -> Drawn:
    positive(args, "queries", "found")
    if max(args.queries, args.found) > MOST_TILES:
        raise UsageError(f"--queries {args.queries}, --found {args.found}: more than {MOST_TILES} are no picture")
    return Drawn(feature_pictures.gallery(args.features, dataset=args.dataset, split=args.split, storage=args.storage,
                                          queries=args.queries, found=args.found))


def draw_classes(args: argparse.Namespace) -> Drawn:
    return Drawn(run_pictures.classes(panels(args.titles, args.test)))


def draw_curves(args: argparse.Namespace) -> Drawn:
    return Drawn(run_pictures.curves(panels(args.titles, args.runs), args.measures))


def draw_views(args: argparse.Namespace) -> Drawn:
    return Drawn(video_pictures.views(samples(args)))


def draw_segments(args: argparse.Namespace) -> Drawn:
    return Drawn(video_pictures.segments(samples(args)))


def samples(args: argparse.Namespace) -> list[TrainingSample]:
    positive(args, "videos")
    not_negative(args, "epoch")
    check_sampling(args)
    return list(training_samples(
        clip_settings(args), n_series=args.n_series, time_reverse=args.time_reverse, centres=args.centres,
        permutations=args.permutations, segment_gap=args.segment_gap, seed=args.seed, epoch=args.epoch,
        names=args.names, count=args.videos))


def draw_timeline(args: argparse.Namespace) -> Drawn:
    check_segments(args)
    return Drawn(video_pictures.timeline(
        panels(args.titles, args.pretrain), clip_settings(args), torch.device(args.device), n_series=args.n_series,
        video=args.video, net=args.net, width=args.width, seed=args.seed, batch_size=args.batch_size,
        workers=args.workers, timeout=args.loader_timeout))


def write(drawn: Drawn, target: Path, kinds: Sequence[str]) -> list[Path]:
    """Write a picture with the ending of each kind, its table as .csv -> the paths."""
    written = figures.save(drawn.figure, target, kinds)
    if drawn.table is not None:
        written.append(target.with_name(f"{target.name}.csv"))
        write_text(written[-1], csv_text(drawn.table, "%.2f"))
    return written


def main(argv: Sequence[str]) -> None:
    args = parser().parse_args(argv)
    kind = args.out.suffix[1:].lower()
    if not args.out.name or kind in OTHER_KINDS or args.out.is_dir():
        raise UsageError(f"--out {args.out}: name a file to write; it may end in .png, .pdf or .svg")
    target, kinds = (args.out.with_suffix(""), [kind]) if kind in figures.KINDS else (args.out, figures.KINDS)
    if "seed" in args:
        not_negative(args, "seed")
    check_folder(target.parent)
    if "seq_len" in args:
        device = start(args.device)
        if "pretrain" in args:
            take_clips(args, [open_weights(path, args.net, args.width) for path in args.pretrain], Protocol.ds)
        complete_data_flags(args, device)
    args = frozen(args)
    print(*write(args.draw(args), target, kinds))


if __name__ == "__main__":
    run(main)

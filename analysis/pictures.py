"""Pictures of runs, features and videos, each by a command.

    python -m analysis.pictures tsne --features log/a/features/clip log/a/features/clip-sr-tc --titles clip all
    python -m analysis.pictures curves --runs log/dualvar/pretrain/*
    python -m analysis.pictures tsne --help

--out PATH is written as PATH.png, .pdf and .svg, or as the one kind that it ends in.
"""
import argparse
import re
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

from core.errors import DataError, UsageError
from core.exits import run
from core.files import whole_file
from dataset.augment import MEAN, STD, PretrainDraw, prepare
from dataset.clips import VideoClips, open_reader
from dataset.crops import FixedCrops, RandomCrop
from dataset.lists import open_list
from dataset.sampling import EvenClips, PretrainViews
from engine import evaluation
from engine.flags import (
    add_data_flags,
    add_net_flags,
    check_segments,
    check_time_reverse,
    complete_data_flags,
    not_negative,
    positive,
)
from engine.folders import check_folder, weights_name
from engine.log import log_rows
from engine.setup import open_backbone, seed_everything, start
from models.classifier import pooled
from models.dualvar import TERMS, shuffle_segments

from . import figures
from .features import read_features, read_features_of
from .nearest import nearest

OTHER_KINDS = set(Figure().canvas.get_supported_filetypes()) - set(figures.KINDS)
SHOWN = 8  # frames of a clip, or of a video
MOST_TILES = 50  # of a gallery, either way
SMALL = (96, 128)  # height and width of the pictures of whole frames
SEED = re.compile(r"_seed\d+$")


def parser():
    top = argparse.ArgumentParser("python -m analysis.pictures", description=__doc__.splitlines()[0],
                                  allow_abbrev=False)
    commands = top.add_subparsers(required=True, metavar="PICTURE")

    def command(draw, *more):
        sentence = draw.__doc__.strip().splitlines()[0]
        one = commands.add_parser(draw.__name__, help=sentence, description=sentence, allow_abbrev=False,
                                  formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        one.add_argument("--out", type=Path, default=Path(draw.__name__), help="where to, with or without an ending")
        one.set_defaults(draw=draw, width=None, skip_bad_samples=0)
        for add in more:
            add(one)
        return one

    def data(one):
        add_data_flags(one, ds=4, batch_size=4, batch_help="videos of a loader's batch")
        one.add_argument("--seed", type=int, default=0, help="of every random draw")

    def titles(one):
        one.add_argument("--titles", nargs="+", help="names in the picture; default: of the folders")

    one = command(tsne, titles)
    one.add_argument("--features", nargs="+", required=True, help="folders of retrieval.py --save_features --per_clip")
    one.add_argument("--part", choices=["train", "test"], default="train", help="list of videos")
    one.add_argument("--videos", type=int, default=200, help="of the list, evenly spread")
    one.add_argument("--seed", type=int, default=0, help="of t-SNE")
    one = command(gallery, data)
    one.add_argument("--features", required=True, help="folder of retrieval.py --save_features")
    one.add_argument("--queries", type=int, default=6, help="test videos, evenly spread over their list")
    one.add_argument("--found", type=int, default=5, help="nearest training videos of each")
    one = command(confusion)
    one.add_argument("--test", type=Path, required=True, help="folder of a test, or of one of its splits")
    one = command(classes, titles)
    one.add_argument("--test", type=Path, nargs="+", required=True, help="folders of tests, or of their splits")
    one = command(curves, titles)
    one.add_argument("--runs", type=Path, nargs="+", required=True, help="folders of pretraining or fine-tuning runs")
    one.add_argument("--measures", nargs="+",
                     help=f"of log.jsonl; default: those there are of {', '.join(usual_measures())}")
    for draw in (views, segments):
        one = command(draw, data)
        one.add_argument("--names", nargs="+", metavar="CLASS/VIDEO", help="training videos; default: evenly spread")
        one.add_argument("--videos", type=int, default=3, help="how many, where none are named")
        one.add_argument("--epoch", type=int, default=0, help="whose random draws are shown")
        one.add_argument("--time_reverse", type=float, default=0.5, help="as of train.py")
        one.add_argument("--n_series", type=int, default=2, help="segments of a clip")
    one = command(timeline, data, titles)
    add_net_flags(one, None, "backbone; None: what the checkpoints say", width=None)
    one.add_argument("--pretrain", nargs="+", required=True, metavar="PATH|random", help="weights, a panel each")
    one.add_argument("--video", metavar="CLASS/VIDEO", help="test video; default: the longest")
    one.add_argument("--n_series", type=int, default=2, help="a segment has seq_len / n_series frames")
    one.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto: cuda if there is one")
    return top


# --- of features ---------------------------------------------------------------------------------------------

def tsne(args):
    """t-SNE of the features of single clips, one point a clip, coloured by class, a panel a folder of features.

    Features are centred and L2-normalised as for retrieval, then reduced to 50 dimensions where they have more. The
    points are written to --out with the ending .csv too.
    """
    positive(args, "videos")
    rows = []
    for folder, title in zip(args.features, titles_of(args, args.features), strict=True):
        clips, _, names, _ = read_features(folder, args.part, "--features", "clips")
        chosen = evenly(len(names), args.videos)
        points = tsne_of(clips[chosen], args.seed)
        for name, own in zip(names[chosen], points, strict=True):
            rows += [(title, name, clip, *point) for clip, point in enumerate(own)]
    table = pd.DataFrame(rows, columns=["panel", "video", "clip", "x", "y"])
    args.table = table
    return draw_tsne(table)


def tsne_of(clips, seed):
    """Clip features (V, K, D) -> points (V, K, 2)."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    flat = clips.reshape(-1, clips.shape[-1]).astype(np.float64)
    flat = flat - flat.mean(axis=0)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True).clip(1e-12)
    if min(flat.shape) > 50:
        flat = PCA(50, random_state=seed).fit_transform(flat)
    if len(flat) < 4:
        raise DataError(f"--features: {len(flat)} clips are too few for t-SNE")
    points = TSNE(init="pca", perplexity=min(30, (len(flat) - 1) / 3), random_state=seed).fit_transform(flat)
    return points.reshape(*clips.shape[:2], 2)


def draw_tsne(table):
    """Figure of the table that tsne writes."""
    labels, class_names = pd.factorize(table["video"].str.partition("/")[0], sort=True)
    return figures.scatter([(title, rows[["x", "y"]].to_numpy(), labels[rows.index])
                             for title, rows in table.groupby("panel", sort=False)], class_names)


def gallery(args):
    """Test videos with the training videos nearest to them: class, right or wrong, similarity.

    Similarity is retrieval's: the cosine of features centred by the mean of their list.
    """
    complete_data_flags(args, torch.device("cpu"))
    positive(args, "queries", "found")
    if max(args.queries, args.found) > MOST_TILES:
        raise UsageError(f"--queries {args.queries}, --found {args.found}: more than {MOST_TILES} are no picture")
    lists = {part: open_list(args.dataset, part, args.split, args.storage) for part in ("test", "train")}
    test, train = (read_features_of(args.features, part, videos, "--features", args.dataset, args.split)[0]
                   for part, videos in lists.items())
    if test.shape[1] != train.shape[1]:
        raise DataError(f"--features: {args.features}: the two lists' features differ in length: write them again")
    query, near = (F.normalize(x - x.mean(dim=0), dim=1) for x in (test, train))
    chosen = evenly(len(test), args.queries)
    found = nearest(query[chosen], near, min(args.found, len(near)))
    cosines = (query[chosen][:, None] * near[found]).sum(dim=2)
    reader = small_frames(args)
    return figures.gallery([
        (*middle(reader, lists["test"], q),
         [(*middle(reader, lists["train"], g), float(cosine)) for g, cosine in zip(own, line, strict=True)])
        for q, own, line in zip(chosen, found.numpy(), cosines, strict=True)])


# --- of tests and runs ---------------------------------------------------------------------------------------

def confusion(args):
    """Confusion matrix of a test."""
    table = read_table(split_folder(args.test) / "confusion.csv")
    if len(table) != len(table.columns):
        raise DataError(f"--test: {args.test}: confusion.csv is not square: test again")
    counts = table.to_numpy()
    return figures.confusion(counts / counts.sum(axis=1, keepdims=True).clip(1), table.columns)


def classes(args):
    """Accuracy of each class in one test or several, in the order in which the first differs from the last."""
    tables = {title: read_table(split_folder(folder) / "classes.csv", "accuracy")["accuracy"]
              for title, folder in zip(titles_of(args, args.test), args.test, strict=True)}
    first = next(iter(tables.values()))
    for title, table in tables.items():
        if not table.index.equals(first.index):
            raise DataError(f"--test: {title} has other classes than {next(iter(tables))}")
    return figures.class_bars(first.index.to_numpy(), {title: table.to_numpy() for title, table in tables.items()})


def usual_measures():
    """Measures of log.jsonl that curves are drawn of; of each term its first loss."""
    return [*(f"loss/{term.names[0]}" for term in TERMS.values()), "loss", "retrieval/R@1", "top1",
            *(f"top1_permuted/{term.names[0]}" for term in TERMS.values() if term.shuffles),
            "ratio/within_video", "ratio/within_clip", "effective_rank"]


def curves(args):
    """Losses, R@1 and other measures of several runs over their epochs; runs called ..._seed<N> look the same."""
    logs = [(SEED.sub("", title), read_log(folder))
            for title, folder in zip(titles_of(args, args.runs), args.runs, strict=True)]
    known = {name for _, rows in logs for row in rows for name in row}
    measures = args.measures or [name for name in usual_measures() if name in known]
    missing = [name for name in measures if name not in known]
    if missing or not measures:
        raise DataError(f"--measures {' '.join(missing or usual_measures())}: in none of the logs; there are "
                        f"{', '.join(sorted(known))}")
    return figures.curves({measure: [
        (title, *np.array([(row["epoch"] + 1, row[measure]) for row in rows if measure in row]).T)
        for title, rows in logs if any(measure in row for row in rows)] for measure in measures})


def read_table(path, *columns):
    """A CSV file of test.py -> DataFrame of numbers, its first column as index; DataError where it is damaged."""
    try:
        table = pd.read_csv(path, index_col=0).astype(float)
        if missing := [name for name in columns if name not in table]:
            raise ValueError(f"no column {', '.join(missing)}")
        if table.empty:
            raise ValueError("no rows")
    except (ValueError, TypeError) as error:
        raise DataError(f"--test: {path} is damaged ({str(error).strip()}): test again") from error
    return table


def read_log(folder):
    """Rows of a run's log.jsonl, at least one."""
    if not (folder / "log.jsonl").is_file():
        raise DataError(f"--runs: {folder / 'log.jsonl'} does not exist: name folders of train.py's or finetune.py's "
                        "runs")
    rows = log_rows(folder)
    if not rows:
        raise DataError(f"--runs: {folder / 'log.jsonl'} has no epoch yet")
    return rows


def split_folder(folder):
    """The folder of a test's first split, or the folder itself where it is one."""
    found = next((path for path in (folder, *sorted(folder.glob("split*"))) if (path / "classes.csv").is_file()), None)
    if found is None:
        raise DataError(f"--test: {folder} holds no results of test.py")
    return found


# --- of videos -----------------------------------------------------------------------------------------------

def views(args):
    """The three augmented views of training videos, exactly as train.py with these flags sees them."""
    rows = []
    for name, clips, _ in samples(args):
        for number, clip in enumerate(clips, 1):
            rows.append((f"{short(name)}\nview {number}", *frames_and_segments(clip, range(args.n_series))))
    return figures.sheet(rows)


def segments(args):
    """View 3 of training videos and its segments as shuffle-rank shuffles them; a segment keeps its colour."""
    rows = []
    for name, clips, permutation in samples(args):
        shuffled = shuffle_segments(clips[2:].transpose(1, 2).contiguous(), permutation[None]).transpose(1, 2)[0]
        order = permutation.tolist()
        note = " (the identity, drawn)" if order == sorted(order) else ""
        rows += [(f"{short(name)}\nview 3", *frames_and_segments(clips[2], range(args.n_series))),
                 (f"shuffled{note}", *frames_and_segments(shuffled, order))]
    return figures.sheet(rows)


def samples(args):
    """Yields (name, views (3, T, 3, H, W) in [0, 1], permutation (n,)) of training videos."""
    complete_data_flags(args, torch.device("cpu"))
    positive(args, "videos")
    not_negative(args, "epoch")
    check_segments(args)
    check_time_reverse(args)
    videos = open_list(args.dataset, "train", args.split, args.storage)
    if unknown := set(args.names or ()) - set(videos.names.tolist()):
        raise DataError(f"--names {' '.join(sorted(unknown))}: not in the training list of {args.dataset}, "
                        f"split {args.split}")
    chosen = (np.flatnonzero(np.isin(videos.names, args.names)) if args.names else evenly(len(videos), args.videos))
    data = VideoClips(videos, open_reader(args.dataset, args.storage, args.resize),
                      PretrainViews(args.seq_len, args.ds, args.time_reverse), RandomCrop(args.img_dim),
                      PretrainDraw(args.n_series, args.img_dim), args.seed)
    mean, std = (torch.tensor(x)[:, None, None] for x in (MEAN, STD))
    for index in chosen.tolist():
        sample = data[args.epoch, index]
        clips = prepare(sample["clips"][None], sample["augment"][None])[0].transpose(1, 2)
        yield videos.names[index], (clips * std + mean).clamp(0, 1), sample["permutation"]


def frames_and_segments(clip, order):
    """A clip (T, 3, H, W) whose segments stand in `order` -> (some frames (H, W, 3) uint8, the colour of each)."""
    chosen = evenly(len(clip), SHOWN)
    frames = (clip[chosen] * 255).round().byte().permute(0, 2, 3, 1).numpy()
    order = list(order)
    return list(frames), [figures.COLOURS[order[i * len(order) // len(clip)] % len(figures.COLOURS)]
                          for i in chosen]


def timeline(args):
    """Similarity over time between the segments of one long video, a panel for each of the weights.

    Segments of seq_len / n_series frames at stride ds follow each other, and overlap where the video has fewer than
    eight; each is encoded alone, features are centred by the mean over 64 other videos of the list, similarity is the
    cosine.
    """
    device = start(args.device)
    complete_data_flags(args, device)
    check_segments(args)
    length = args.seq_len // args.n_series
    videos = open_list(args.dataset, "test", args.split, args.storage)
    if args.video and args.video not in videos.names:
        raise DataError(f"--video {args.video} is not in the test list of {args.dataset}, split {args.split}")
    index = int(np.flatnonzero(videos.names == args.video)[0] if args.video else videos.num_frames.argmax())
    segments_of_video = EverySegment(length, args.ds)
    starts = segments_of_video(int(videos.num_frames[index]), None)[:, 0]
    if len(starts) < 3:
        raise DataError(f"--video {videos.names[index]} has {videos.num_frames[index]} frames, too few for segments of "
                        f"{length} frames at stride {args.ds}")
    one, others = videos.subset([index]), videos.subset(np.delete(np.arange(len(videos)), index))
    others = others.subset(evenly(len(others), 64))
    panels = []
    for weights, title in zip(args.pretrain, titles_of(args, args.pretrain), strict=True):
        seed_everything(args.seed)
        backbone = evaluation.to_device(open_backbone(
            weights, args.net, args.width, seq_len=args.seq_len, img_dim=args.img_dim), device)

        def features(some, sampler, average, network=backbone):
            data = VideoClips(some, open_reader(args.dataset, args.storage, args.resize), sampler,
                              FixedCrops(args.img_dim))
            loader = evaluation.eval_loader(data, device, batch_size=args.batch_size, workers=args.workers,
                                            timeout=args.loader_timeout)
            return evaluation.over_videos(lambda clips: pooled(network, clips), loader, len(data), device, "features",
                                          average)

        centre = features(others, EvenClips(length, args.ds, 1), True).mean(dim=0)
        own = features(one, segments_of_video, False).view(-1, len(centre))
        unit = F.normalize(own - centre, dim=1)
        panels.append((title, (unit @ unit.T).numpy()))
    shown = small_frames(args).read(one.names[0], evenly(int(one.num_frames[0]), SHOWN))[0]
    figure = figures.timeline(panels, list(shown), starts)
    figure.suptitle(one.names[0], fontsize=9)
    return figure


class EverySegment:
    """All segments of a video, one after the other, or overlapping where these would be fewer than 8."""

    def __init__(self, length, ds):
        self.length, self.ds = length, ds

    def __call__(self, num_frames, rng):
        """-> (S, length) int64"""
        last = num_frames - (self.length - 1) * self.ds - 1
        step = min(self.length * self.ds, max(last // 7, 1))
        return np.arange(0, last + 1, step)[:, None] + np.arange(self.length) * self.ds


# --- what they share -----------------------------------------------------------------------------------------

def evenly(length, count):
    """At most `count` of 0..length - 1, evenly spread -> (N,) int64"""
    return np.unique(np.linspace(0, length - 1, count).round().astype(np.int64))


def titles_of(args, paths):
    """--titles, or the names of runs that `paths` are of, with as many folders before them as tell them apart."""
    if args.titles is None:
        named = [Path(weights_name(path)) if Path(path).is_file() else Path(path) for path in paths]
        for depth in range(1, max(len(path.parts) for path in named) + 1):
            titles = ["/".join(path.parts[-depth:]) for path in named]
            if len(set(titles)) == len(titles):
                return titles
    titles = args.titles or list(map(str, paths))
    if len(titles) != len(paths) or len(set(titles)) < len(titles):
        raise UsageError(f"--titles: {len(set(titles))} different ones for {len(paths)} panels, give one each")
    return titles


def short(name):
    """Name of a video without its class."""
    return name.rpartition("/")[2]


def small_frames(args):
    return open_reader(args.dataset, args.storage, SMALL)


def middle(reader, videos, index):
    """-> (middle frame of a video (h, w, 3) uint8, its class)"""
    frame = next(reader.read(videos.names[index], np.array([videos.num_frames[index] // 2]))[0])
    return frame, videos.classes[videos.labels[index]]


def main(argv):
    args = parser().parse_args(argv)
    kind = args.out.suffix[1:].lower()
    if not args.out.name or kind in OTHER_KINDS or args.out.is_dir():
        raise UsageError(f"--out {args.out}: name a file to write; it may end in .png, .pdf or .svg")
    target = args.out.with_suffix("") if kind in figures.KINDS else args.out
    if "seed" in args:
        not_negative(args, "seed")
    check_folder(target.parent)
    args.table = None
    figure = args.draw(args)
    written = figures.save(figure, target, [kind] if kind in figures.KINDS else figures.KINDS)
    if args.table is not None:
        written.append(target.with_name(f"{target.name}.csv"))
        with whole_file(written[-1]) as path:
            args.table.to_csv(path, index=False, float_format="%.2f")
    print(*written)


if __name__ == "__main__":
    run(main)

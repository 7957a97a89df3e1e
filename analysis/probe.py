"""Linear probe and nearest-neighbour vote on saved features; the backbone is not touched.

    python retrieval.py --dataset ucf101 --pretrain log/.../backbone.pth.tar --save_features features/a
    python -m analysis.probe --dataset ucf101 --features features/a features/b
    python -m analysis.probe --dataset ucf101 --features features/a --shots 1 5 10      few labels as well

Logistic regression of scikit-learn on standardised features. Its strength of regularisation is chosen among --strengths
on training videos that each seed holds out (whole recordings), never on the test list; then all training videos are
used. Prints a row for each folder and seed-wise mean and deviation, and writes probe.json into each folder.

With --apart without the training videos of recordings that the test list has too. What is found then is written into
probe_apart.json, and "vote" of 1 neighbour is R@1 among those that are left.

With --shots also on k training videos of each class, of different recordings as far as there are, drawn --folds times.
Nothing else of the training list is used, so no label is left to choose a strength with. It is the same for every k,
SHOT_STRENGTH, on features less the mean of the drawn videos and of length 1. The draws of a fold are the same in every
folder, and those of fewer shots are part of those of more.
"""
import argparse
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.errors import DataError, UsageError
from core.exits import run
from core.files import write_json
from core.names import counted, quoted, shown
from core.parser import new_parser
from core.versions import versions
from dataset.lists import VideoList, hold_out, local_dataset, of_both_lists, video_groups
from engine.flags import positive

from .features import PARTS, PROBED, features_fingerprint, read_features
from .nearest import centre_and_normalise, nearest, vote

Part = tuple[np.ndarray, VideoList]  # features (N, D) float32 and their videos
ITERATIONS = 2000  # of a logistic regression, at most
SHOT_STRENGTH = 1.0  # of scikit-learn's C, for features of length 1


def flags() -> argparse.ArgumentParser:
    parser = new_parser("python -m analysis.probe", __doc__)
    parser.add_argument("--dataset", default="ucf101", help="name in dataset/local_dataset.py, for its recordings")
    parser.add_argument("--features", type=Path, nargs="+", required=True, help="folders that --save_features wrote")
    parser.add_argument("--seeds", type=int, default=5, help="draws of held-out recordings")
    parser.add_argument("--strengths", type=float, nargs="+", default=[1e-3, 1e-2, 1e-1, 1, 10],
                        help="of scikit-learn's C, the inverse of regularisation, to choose from, or one")
    parser.add_argument("--shots", type=int, nargs="+", default=[],
                        help="numbers of training videos of each class: a probe with no more of them than that")
    parser.add_argument("--folds", type=int, help="draws of the videos of --shots; None: 5")
    parser.add_argument("--apart", action="store_true",
                        help="leave out training videos of recordings that the test list has too")
    parser.add_argument("--k", type=int, nargs="+", default=[1, 5, 10, 20], help="neighbours that vote")
    return parser


def read(folder: Path) -> dict[str, Part]:
    """Both parts of a folder that retrieval.py --save_features wrote, {"train", "test"}."""
    read = {part: read_features(folder, part, "--features") for part in PARTS}
    numbers = np.unique(np.concatenate([labels for _, labels, _, _ in read.values()]))
    found = {}
    for part, (values, labels, names, _) in read.items():
        labels = np.searchsorted(numbers, labels)  # counted anew: the names of the classes are not needed
        if part == "train" and len(np.unique(labels)) < 2:
            raise DataError(f"--features: {folder}: all training videos are of one class, which leaves nothing to "
                            "learn: give features of two or more")
        found[part] = values, VideoList(names, np.ones(len(names), int), labels, numbers.astype(str))
    return found


def predicted_by_vote(query: Tensor, gallery: Tensor, labels: Tensor, k: int) -> Tensor:
    """Labels for queries (Q, D) by weighted vote of the k nearest of gallery (G, D), labels (G,) -> (Q,) int64.

    Similarity is the cosine of features centred by the mean of their own set.
    """
    query, gallery = centre_and_normalise(query), centre_and_normalise(gallery)
    indices = nearest(query, gallery, k)
    return vote(labels[indices], (query[:, None] * gallery[indices]).sum(dim=2))


def fit(features: np.ndarray, labels: np.ndarray, strength: float, standardise: bool = True) -> Any:
    """Logistic regression on features (N, D), standardised if asked -> what scikit-learn has fitted."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    steps = [StandardScaler()] if standardise else []
    with warnings.catch_warnings():  # weak regularisation may take more iterations: docs/evaluation.md says so
        warnings.simplefilter("ignore", ConvergenceWarning)
        return make_pipeline(*steps, LogisticRegression(C=strength, max_iter=ITERATIONS)).fit(features, labels)


def divided(videos: VideoList, group: str, seed: int) -> tuple[VideoList, VideoList]:
    """A training list as (to train on, to choose a strength on), no recording in both. Raises DataError where its
    recordings are too few or too large for that.
    """
    try:
        return hold_out(videos, 0.2, group, seed)
    except DataError as error:
        count = len(np.unique(video_groups(videos.names, group)))
        raise DataError(f"the {len(videos)} training videos, of {counted(count, 'recording')}, cannot be divided into "
                        "four fifths of each class to train on and a fifth of other recordings to choose a strength "
                        "on") from error


def linear_probe(train: Part, test: Part, strengths: Sequence[float], group: str, seed: int) -> tuple[float, float]:
    """-> (top-1 on the test videos, the strength chosen).

    strengths: of C, ascending; group: regular expression that finds the recording in a video's name; seed: of the
    draw of held-out recordings
    """
    features, videos = train
    best = strengths[0]
    if len(strengths) > 1:
        kept, held = divided(videos, group, seed)
        rows = {name: i for i, name in enumerate(videos.names)}
        kept_rows, held_rows = ([rows[name] for name in some.names] for some in (kept, held))
        scores = [fit(features[kept_rows], kept.labels, c).score(features[held_rows], held.labels) for c in strengths]
        best = strengths[int(np.argmax(scores))]  # of equals the strongest regularisation
    return fit(features, videos.labels, best).score(test[0], test[1].labels), best


def different_first(rows: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Rows (N,) int in an order in which no recording comes twice before all came once; groups: (V,) of all rows."""
    earlier: Counter[str] = Counter()
    turns = []  # how many videos of its recording come before
    for row in rows:
        turns.append(earlier[groups[row]])
        earlier[groups[row]] += 1
    return rows[np.argsort(turns, kind="stable")]


def draw_shots(videos: VideoList, most: int, group: str, fold: int) -> list[np.ndarray]:
    """For each class its rows in `videos`, (most,) int, drawn at random; the first k of them are its k shots.

    No recording comes twice before all of its class came once. Raises DataError where a class has fewer videos.
    """
    groups, rng, drawn = video_groups(videos.names, group), np.random.default_rng(fold), []
    for label in np.unique(videos.labels):
        rows = rng.permutation(np.flatnonzero(videos.labels == label))
        if len(rows) < most:
            name = shown(videos.names[rows[0]].partition("/")[0])
            raise DataError(f"--shots {most}: of class {name} there are only {len(rows)} training videos: give fewer "
                            "shots")
        drawn.append(different_first(rows, groups)[:most])
    return drawn


def said_by_few(shots: np.ndarray, labels: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Labels for queries (Q, D) by a probe that was fitted to a few features (N, D), labels (N,), alone -> (Q,) int."""
    values, asked = torch.from_numpy(shots), torch.from_numpy(queries)
    centre = values.mean(dim=0)
    fitted = fit(centre_and_normalise(values, centre).numpy(), labels, SHOT_STRENGTH, standardise=False)
    return fitted.predict(centre_and_normalise(asked, centre).numpy())


def shot_probe(train: Part, test: Part, rows: np.ndarray) -> float:
    """Top-1 on the test videos of a probe that was fitted to the training videos at `rows` (N,) alone."""
    said = said_by_few(train[0][rows], train[1].labels[rows], test[0])
    return float((said == test[1].labels).mean())


def measure_shots(train: Part, test: Part, group: str, shots: Sequence[int], folds: int) -> dict[int, list[float]]:
    """-> {k: [top-1 of each draw]}, k ascending."""
    ks = sorted(set(shots))
    draws = [draw_shots(train[1], ks[-1], group, fold) for fold in range(folds)] if ks else []
    return {k: [shot_probe(train, test, np.concatenate([rows[:k] for rows in draw])) for draw in draws] for k in ks}


def without_shared(found: dict[str, Part], group: str, apart: bool) -> tuple[dict[str, Part], int]:
    """Parts of `read` -> (the same, if `apart` without training videos of recordings that the test list has, how many
    of these there are). Raises UsageError where videos of one class or none are left.
    """
    features, videos = found["train"]
    shared = of_both_lists(videos, found["test"][1], group)
    left = np.flatnonzero(~shared)
    if not apart or not shared.any():
        return found, int(shared.sum())
    if len(np.unique(videos.labels[left])) < 2:
        raise UsageError(f"--apart: {shared.sum()} of {len(videos)} training videos are of recordings that the test "
                         "list has too, and the others are of one class or none: leave it out, or mend the lists")
    return {**found, "train": (features[left], videos.subset(left))}, int(shared.sum())


def measure(folder: Path, group: str, *, seeds: int, strengths: Sequence[float], ks: Sequence[int],
            shots: Sequence[int] = (), folds: int = 0, apart: bool = False) -> dict:
    """Linear probe, probes of few shots and vote of a folder of features.

    group: as in linear_probe; seeds: how many draws; ks: neighbours that vote, those beyond the training list left out
    -> {"linear": [top-1 of each seed], "strengths": [chosen], "shots": {k: [top-1 of each fold]}, "vote": {k: top-1},
    "train", "test": numbers of videos, "shared": training videos of recordings that the test list has too, which are
    left out if `apart`}
    """
    found = read(folder)
    if not any(re.fullmatch(group, name) for _, videos in found.values() for name in videos.names):
        raise UsageError(f"--dataset: its recordings are not named as the videos of {folder} are "
                         f"({quoted(str(found['train'][1].names[0]))}): name the data set that they are of")
    found, shared = without_shared(found, group, apart)
    (train, videos), (test, queries) = found["train"], found["test"]
    few = measure_shots(found["train"], found["test"], group, shots, folds)
    try:
        linear, chosen = zip(*(linear_probe(found["train"], found["test"], sorted(strengths), group, seed)
                               for seed in range(seeds)), strict=True)
    except DataError as error:
        raise DataError(f"--features: {folder}: {error}: give one, as in --strengths 0.1") from error
    labels = torch.from_numpy(videos.labels)
    votes = {k: float((predicted_by_vote(torch.from_numpy(test), torch.from_numpy(train), labels, k).numpy()
                       == queries.labels).mean()) for k in ks if k <= len(train)}
    return {"linear": linear, "strengths": chosen, "shots": few, "vote": votes, "train": len(train), "test": len(test),
            "shared": shared}


def mean_and_deviation(values: Sequence[float]) -> str:
    return f"{np.mean(values):.4f}" + (f" +- {np.std(values, ddof=1):.4f}" if len(values) > 1 else "")


def main(argv: Sequence[str]) -> None:
    args = flags().parse_args(argv)
    folds = 5 if args.folds is None else args.folds
    positive(args, "seeds")
    if min(folds, *args.k, *args.shots) < 1 or not all(1e-9 <= strength <= 1e9 for strength in args.strengths):
        raise UsageError("--k, --shots and --folds must be above 0, and --strengths from 1e-9 to 1e9")
    if args.folds is not None and not args.shots:
        raise UsageError(f"--folds {folds} counts the draws of --shots: give both")
    if len({folder.resolve() for folder in args.features}) < len(args.features):
        raise UsageError("--features: a folder is given twice, and would count twice")
    group = local_dataset(args.dataset).group
    rows = {folder: measure(folder, group, seeds=args.seeds, strengths=args.strengths, ks=args.k, shots=args.shots,
                            folds=folds, apart=args.apart) for folder in args.features}
    for folder, row in rows.items():
        write_json(folder / PROBED[args.apart], {
            **row, "dataset": args.dataset, "features": features_fingerprint(folder), **versions()})
        print(f"{folder}: linear {mean_and_deviation(row['linear'])} ({args.seeds} seeds), "
              + ", ".join(f"{k} nearest {value:.4f}" for k, value in row["vote"].items()))
        if row["shots"]:
            print(f"{folder}: " + ", ".join(f"{k}-shot {mean_and_deviation(values)}"
                                            for k, values in row["shots"].items()) + f" ({folds} draws)")
    if shared := max(row["shared"] for row in rows.values()):
        print(f"note: {shared} training videos are of recordings that the test list has too"
              + (": they are left out" if args.apart else "; --apart leaves them out"))
    if len(rows) > 1:
        means = [np.mean(row["linear"]) for row in rows.values()]
        print(f"all {len(rows)}: linear {mean_and_deviation(means)} over folders")


if __name__ == "__main__":
    run(main)

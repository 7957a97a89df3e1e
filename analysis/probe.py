"""Linear probe and nearest-neighbour vote on saved features; the backbone is not touched.

    python retrieval.py --dataset ucf101 --pretrain log/.../backbone.pth.tar --save_features features/a
    python -m analysis.probe --dataset ucf101 --features features/a features/b

Logistic regression of scikit-learn on standardised features. Its strength of regularisation is chosen among --strengths
on training videos that each seed holds out (whole recordings), never on the test list; then all training videos are
used. Prints a row for each folder and seed-wise mean and deviation, and writes probe.json into each folder.
"""
import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.errors import DataError, UsageError
from core.exits import run
from core.files import write_json
from core.names import quoted
from core.parser import new_parser
from dataset.lists import VideoList, hold_out, local_dataset
from engine.flags import positive
from engine.log import versions

from .features import PARTS, read_features
from .nearest import centre_and_normalise, nearest, vote

Part = tuple[np.ndarray, VideoList]  # features (N, D) float32 and their videos


def flags() -> argparse.ArgumentParser:
    parser = new_parser("python -m analysis.probe", __doc__)
    parser.add_argument("--dataset", default="ucf101", help="name in dataset/local_dataset.py, for its recordings")
    parser.add_argument("--features", type=Path, nargs="+", required=True, help="folders that --save_features wrote")
    parser.add_argument("--seeds", type=int, default=5, help="draws of held-out recordings")
    parser.add_argument("--strengths", type=float, nargs="+", default=[1e-3, 1e-2, 1e-1, 1, 10],
                        help="of scikit-learn's C, the inverse of regularisation")
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


def fit(features: np.ndarray, labels: np.ndarray, strength: float) -> Any:
    """Logistic regression on standardised features (N, D) -> the fitted pipeline of scikit-learn."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000)).fit(features, labels)


def linear_probe(train: Part, test: Part, strengths: Sequence[float], group: str, seed: int) -> tuple[float, float]:
    """-> (top-1 on the test videos, the strength chosen).

    strengths: of C, ascending; group: regular expression that finds the recording in a video's name; seed: of the
    draw of held-out recordings
    """
    features, videos = train
    kept, held = hold_out(videos, 0.2, group, seed)
    rows = {name: i for i, name in enumerate(videos.names)}
    kept_rows, held_rows = ([rows[name] for name in some.names] for some in (kept, held))
    scores = [fit(features[kept_rows], kept.labels, c).score(features[held_rows], held.labels) for c in strengths]
    best = strengths[int(np.argmax(scores))]  # of equals the strongest regularisation
    return fit(features, videos.labels, best).score(test[0], test[1].labels), best


def measure(folder: Path, group: str, *, seeds: int, strengths: Sequence[float], ks: Sequence[int]) -> dict:
    """Linear probe and vote of a folder of features.

    group: as in linear_probe; seeds: how many draws; ks: neighbours that vote, those beyond the training list left out
    -> {"linear": [top-1 of each seed], "strengths": [chosen], "vote": {k: top-1}, "train", "test": numbers of videos}
    """
    found = read(folder)
    if not any(re.fullmatch(group, name) for _, videos in found.values() for name in videos.names):
        raise UsageError(f"--dataset: its recordings are not named as the videos of {folder} are "
                         f"({quoted(str(found['train'][1].names[0]))}): name the data set that they are of")
    (train, videos), (test, queries) = found["train"], found["test"]
    linear, chosen = zip(*(linear_probe(found["train"], found["test"], sorted(strengths), group, seed)
                           for seed in range(seeds)), strict=True)
    labels = torch.from_numpy(videos.labels)
    votes = {k: float((predicted_by_vote(torch.from_numpy(test), torch.from_numpy(train), labels, k).numpy()
                       == queries.labels).mean()) for k in ks if k <= len(train)}
    return {"linear": linear, "strengths": chosen, "vote": votes, "train": len(train), "test": len(test)}


def main(argv: Sequence[str]) -> None:
    args = flags().parse_args(argv)
    positive(args, "seeds")
    if min(args.k) < 1 or not all(1e-9 <= strength <= 1e9 for strength in args.strengths):
        raise UsageError("--k must be above 0, and --strengths from 1e-9 to 1e9")
    if len({folder.resolve() for folder in args.features}) < len(args.features):
        raise UsageError("--features: a folder is given twice, and would count twice")
    group = local_dataset(args.dataset).group
    rows = {folder: measure(folder, group, seeds=args.seeds, strengths=args.strengths, ks=args.k)
            for folder in args.features}
    for folder, row in rows.items():
        write_json(folder / "probe.json", {**row, "dataset": args.dataset, **versions()})
        print(f"{folder}: linear {np.mean(row['linear']):.4f} +- {np.std(row['linear']):.4f} ({args.seeds} seeds), "
              + ", ".join(f"{k} nearest {value:.4f}" for k, value in row["vote"].items()))
    if len(rows) > 1:
        means = [np.mean(row["linear"]) for row in rows.values()]
        print(f"all {len(rows)}: linear {np.mean(means):.4f} +- {np.std(means, ddof=1):.4f} over folders")


if __name__ == "__main__":
    run(main)

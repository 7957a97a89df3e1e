"""Pictures of saved features: t-SNE of clips, and the training videos nearest to test videos."""
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from core.errors import DataError
from dataset.lists import open_list

from . import figures
from .features import read_features, read_features_of
from .frames import evenly, middle_frame, small_reader
from .nearest import centre_and_normalise, nearest


def tsne(panels: Mapping[str, str | Path], part: str = "train", videos: int = 200,
         seed: int = 0) -> tuple[Figure, pd.DataFrame]:
    """t-SNE of the features of single clips, one point a clip, coloured by class, a panel a folder of features.

    Features are centred and L2-normalised as for retrieval, then reduced to 50 dimensions where they have more. The
    points are written to --out with the ending .csv too.

    panels: {title: folder of features}; videos: how many of the list, evenly spread -> figure, table of its points
    """
    rows = []
    for title, folder in panels.items():
        clips, _, names, _ = read_features(folder, part, "--features", "clips")
        chosen = evenly(len(names), videos)
        points = tsne_points(clips[chosen], seed)
        for name, own in zip(names[chosen], points, strict=True):
            rows += [(title, name, clip, *point) for clip, point in enumerate(own)]
    table = pd.DataFrame(rows, columns=["panel", "video", "clip", "x", "y"])
    return draw_tsne(table), table


def tsne_points(clips: np.ndarray, seed: int) -> np.ndarray:
    """Clip features (V, K, D) -> points (V, K, 2)."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    features = centre_and_normalise(torch.from_numpy(clips).flatten(0, 1).double()).numpy()
    if min(features.shape) > 50:
        features = PCA(50, random_state=seed).fit_transform(features)
    if len(features) < 4:
        raise DataError(f"--features: {len(features)} clips are too few for t-SNE")
    points = TSNE(init="pca", perplexity=min(30, (len(features) - 1) / 3), random_state=seed).fit_transform(features)
    return points.reshape(*clips.shape[:2], 2)


def draw_tsne(table: pd.DataFrame) -> Figure:
    """The figure of a table of points, as `tsne` returns it."""
    labels, class_names = pd.factorize(table["video"].str.partition("/")[0], sort=True)
    return figures.scatter([(title, rows[["x", "y"]].to_numpy(), labels[rows.index])
                            for title, rows in table.groupby("panel", sort=False)], class_names)


def gallery(folder: str | Path, *, dataset: str, split: int, storage: str, queries: int = 6,
            found: int = 5) -> Figure:
    """Test videos with the training videos nearest to them: class, right or wrong, similarity.

    Similarity is retrieval's: the cosine of features centred by the mean of their list.

    folder: of features; queries: how many test videos, evenly spread over their list; found: how many training
    videos of each
    """
    lists = {part: open_list(dataset, part, split, storage) for part in ("test", "train")}
    test, train = (read_features_of(folder, part, videos, "--features", dataset, split)[0]
                   for part, videos in lists.items())
    if test.shape[1] != train.shape[1]:
        raise DataError(f"--features: {folder}: the two lists' features differ in length: write them again")
    query, near = centre_and_normalise(test), centre_and_normalise(train)
    chosen = evenly(len(test), queries)
    neighbours = nearest(query[chosen], near, min(found, len(near)))
    cosines = (query[chosen][:, None] * near[neighbours]).sum(dim=2)
    reader = small_reader(dataset, storage)
    return figures.gallery([
        (*middle_frame(reader, lists["test"], q),
         [(*middle_frame(reader, lists["train"], g), float(cosine)) for g, cosine in zip(own, line, strict=True)])
        for q, own, line in zip(chosen, neighbours.numpy(), cosines, strict=True)])

"""Nearest neighbours among many: exact, without the matrix of all similarities; and the R@k that retrieval reports."""
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

KS = (1, 5, 10, 20, 50)  # of the R@k that the paper gives
BLOCK = 64  # similarities whose largest is compared first


def nearest(query: Tensor, gallery: Tensor, k: int, unit: Callable[[Tensor], Tensor] = lambda rows: rows,
            queries: int = 2048, chunk: int = 4096) -> Tensor:
    """Indices of the `k` gallery rows with the largest inner product, best first, of equal ones the lower index.

    query: (Q, D) and gallery: (G, D) float, on one device, k <= G -> (Q, k) int64. unit: applied to a chunk of
    gallery rows before they are compared, as a normalisation that must not copy the whole gallery. Compares
    `queries` rows with `chunk` rows at a time: beyond that product the memory does not grow with the gallery.
    """
    found = [_nearest(rows, gallery, k, unit, chunk) for rows in query.split(queries)]
    return torch.cat(found)


def centre_and_normalise(features: Tensor, centre: Tensor | None = None) -> Tensor:
    """Features (..., D) less `centre` (D,), each then of unit length: their inner product is the cosine that all
    measures here compare. centre: the mean of the features (N, D) themselves where None.
    """
    return F.normalize(features - (features.mean(dim=0) if centre is None else centre), dim=-1)


def topk_accuracy(query: Tensor | np.ndarray, query_labels: Tensor | np.ndarray, gallery: Tensor | np.ndarray,
                  gallery_labels: Tensor | np.ndarray, ks: Sequence[int]) -> dict[int, float]:
    """R@k of query features (Q, D) against gallery features (G, D), labels (Q,) and (G,) -> {k: share in [0, 1]}.

    Each set is centred by its own mean and L2-normalised here, the gallery without a copy of it; similarity is
    cosine, and of equally similar gallery rows the lower index counts as nearer. Raises ValueError where a k exceeds
    the gallery, or where features or their mean are not finite.
    """
    query, query_labels, gallery, gallery_labels = map(torch.as_tensor, (query, query_labels, gallery, gallery_labels))
    if max(ks) > len(gallery):
        raise ValueError(f"R@{max(ks)} needs a gallery of at least {max(ks)} videos, this one has {len(gallery)}")
    query_mean, gallery_mean = query.mean(dim=0), gallery.mean(dim=0)
    if not (query_mean.isfinite().all() and gallery_mean.isfinite().all()):  # as the mean of anything else is
        raise ValueError("features are not finite")
    indices = nearest(centre_and_normalise(query, query_mean), gallery, max(ks),
                      unit=lambda rows: centre_and_normalise(rows, gallery_mean))
    right = gallery_labels[indices] == query_labels[:, None]
    return {k: int(right[:, :k].any(dim=1).sum()) / len(query) for k in ks}


def vote(labels: Tensor, cosines: Tensor) -> Tensor:
    """Weighted vote of the neighbours: labels (Q, k) and cosines (Q, k) -> the label that wins, (Q,).

    A neighbour counts 1 + its cosine; one at -inf does not count.
    """
    weights = cosines.add(1).nan_to_num(neginf=0)
    return weights.new_zeros(len(labels), int(labels.max()) + 1).scatter_add_(1, labels, weights).argmax(dim=1)


def _nearest(query: Tensor, gallery: Tensor, k: int, unit: Callable[[Tensor], Tensor], chunk: int) -> Tensor:
    """`nearest` of as many queries as are compared at a time."""
    best = query.new_full((len(query), k), -torch.inf)
    indices = torch.full((len(query), k), -1, device=query.device)
    buffer = query.new_empty(len(query) * _padded(min(chunk, len(gallery))))
    stop = 0
    while stop < len(gallery):
        # chunks double at first: there most rows are better than those before, later hardly any
        start, stop = stop, min(stop + min(chunk, max(stop, k, 256)), len(gallery))
        size = stop - start
        scores = buffer[:len(query) * _padded(size)].view(len(query), _padded(size))
        scores[:, size:] = -torch.inf
        torch.mm(query, unit(gallery[start:stop]).T, out=scores[:, :size])
        best, indices = _merged(best, indices, scores.unflatten(1, (-1, BLOCK)), start)
    return indices


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _merged(best: Tensor, indices: Tensor, scores: Tensor, start: int) -> tuple[Tensor, Tensor]:
    """Take what exceeds the least of `best` (Q, k), descending, from scores (Q, C, BLOCK) of gallery rows from `start`.

    -> best, indices
    """
    row, block = (scores.amax(dim=2) > best[:, -1:]).nonzero(as_tuple=True)
    values = scores[row, block]
    hit, place = (values > best[row, -1:]).nonzero(as_tuple=True)
    if not len(hit):
        return best, indices
    # in the order of queries, and of gallery rows for each of them
    row, number, values = row[hit], start + block[hit] * BLOCK + place, values[hit, place]
    count = torch.bincount(row, minlength=len(best))
    k = best.shape[1]
    column = k + torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
    together = best.new_full((len(best), k + int(count.max())), -torch.inf)
    numbers = indices.new_full(together.shape, -1)
    for table, kept, new in ((together, best, values), (numbers, indices, number)):
        table[:, :k] = kept
        table[row, column] = new
    # stable: of equal values the earlier, whose index is lower, stays in front
    together, order = together.sort(dim=1, descending=True, stable=True)
    return together[:, :k].contiguous(), numbers.gather(1, order[:, :k])

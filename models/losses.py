"""The losses of DualVar as pure functions of L2-normalised embeddings.

Each returns (loss, logits): a scalar, and similarities over the temperature with the positive in column 0.
B samples, n segments, d dimensions, K queue entries.
"""
import torch
import torch.nn.functional as F
from torch import Tensor


def positive_first(logits: Tensor) -> Tensor:
    """Mean cross-entropy of rows whose positive is column 0."""
    return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long))


def all_but(first: Tensor, second: Tensor, total: int) -> Tensor:
    """Indices 0..total-1 without first[i] < second[i], ascending: two (rows,) -> (rows, total - 2).

    Computed and not looked for with a mask, which would make the host wait for the GPU.
    """
    index = torch.arange(total - 2, device=first.device)
    index = index + (index >= first[:, None])
    return index + (index >= second[:, None])


def nt_xent(z: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Normalised temperature-scaled cross-entropy over the 2B embeddings of a batch of pairs.

    z: (B, 2, d), z[i, 0] and z[i, 1] are the positives of each other, the other 2B - 2 rows the negatives.
    Returns the loss and logits (2B, 2B - 1). SimCLR, Chen et al. 2020, eq. 1.
    """
    rows = z.flatten(0, 1)
    total = len(rows)
    similarity = rows @ rows.T / temperature
    index = torch.arange(total, device=z.device)
    partner = index ^ 1  # rows 2i and 2i + 1 are a pair
    positive = similarity[index, partner].unsqueeze(1)
    negative = similarity.gather(1, all_but(index & ~1, index | 1, total))
    logits = torch.cat([positive, negative], dim=1)
    return positive_first(logits), logits


def info_nce(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """InfoNCE of queries against their keys and a queue of earlier keys.

    q, k: (B, d); queue: (K, d). Returns the loss and logits (B, 1 + K). MoCo, He et al. 2020, eq. 1.
    """
    positive = (q * k).sum(dim=1, keepdim=True)
    logits = torch.cat([positive, q @ queue.T], dim=1) / temperature
    return positive_first(logits), logits


def temporal_coherent(s: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Temporal-coherent contrast: NT-Xent between segment sets.

    s: (B, 2, n, d). The similarity of two sets is the mean of <a, b> over all n x n pairs of their segments,
    which is the inner product of the sets' means. Returns the loss and logits (2B, 2B - 1).
    """
    return nt_xent(s.mean(dim=2), temperature)


def temporal_coherent_queue(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Temporal-coherent contrast against a queue of segment sets.

    q, k: (B, n, d); queue: (K, n, d). Returns the loss and logits (B, 1 + K).
    """
    return info_nce(q.mean(dim=1), k.mean(dim=1), queue.mean(dim=1), temperature)


def shuffle_rank(a: Tensor, b: Tensor, theta: float, clamp: float | None = None) -> tuple[Tensor, Tensor]:
    """Shuffle-rank: each segment is closer to its counterpart than to every other segment, in either set.

    a, b: (B, n, d), n >= 2, segment i of `a` is the counterpart of segment i of `b`. Of the 2n rows
    {a_1..a_n, b_1..b_n}, each has one positive and 2n - 2 negatives; the loss is the mean over all rows and
    negatives of log(1 + exp((negative - positive) / theta)), the exponent capped at `clamp` where given (the
    release caps it at 5 for SimCLR). Returns the loss and logits (B * 2n, 2n - 1), similarities over theta.
    Raises ValueError for n < 2, where there is nothing to rank.
    """
    n = a.shape[1]
    if n < 2:
        raise ValueError("shuffle_rank needs at least 2 segments in each set")
    rows = torch.cat([a, b], dim=1)
    similarity = rows @ rows.transpose(1, 2) / theta
    index = torch.arange(2 * n, device=a.device)
    partner = (index + n) % (2 * n)
    positive = similarity[:, index, partner].unsqueeze(2)
    others = all_but(index % n, index % n + n, 2 * n)
    negative = similarity.gather(2, others.expand(len(rows), -1, -1))
    margin = negative - positive
    if clamp is not None:
        margin = margin.clamp(max=clamp)
    return F.softplus(margin).mean(), torch.cat([positive, negative], dim=2).flatten(0, 1)


def ranked_first(logits: Tensor) -> Tensor:
    """Whether a row's positive (column 0) is above all others; a tie, as in a collapse, counts as wrong."""
    return logits[:, 0] > logits[:, 1:].amax(dim=1)


def top1(logits: Tensor) -> Tensor:
    """Share of rows that are `ranked_first`."""
    return ranked_first(logits).float().mean()

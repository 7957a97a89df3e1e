"""Each loss against a literal loop over its formula, and the shuffle against its definition."""
import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from models.dualvar import parse_mode, random_permutation, restore_segments, shuffle_segments
from models.losses import info_nce, nt_xent, shuffle_rank, temporal_coherent, temporal_coherent_queue, top1


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


def softmax_loss(positive, negatives):
    """-log of the positive's share."""
    return -math.log(math.exp(positive) / (math.exp(positive) + sum(math.exp(x) for x in negatives)))


@pytest.mark.parametrize("batch", [2, 5])
def test_nt_xent(batch):
    z, t = unit(batch, 2, 7), 0.2
    rows = [(i, v) for i in range(batch) for v in range(2)]
    total = 0
    for i, v in rows:
        others = [z[i, v].dot(z[j, w]).item() / t for j, w in rows if (j, w) not in ((i, v), (i, 1 - v))]
        total += softmax_loss(z[i, v].dot(z[i, 1 - v]).item() / t, others)
    loss, logits = nt_xent(z, t)
    assert loss.item() == pytest.approx(total / len(rows), rel=1e-10)
    assert logits.shape == (2 * batch, 2 * batch - 1)
    assert logits[2, 0].item() == pytest.approx(z[1, 0].dot(z[1, 1]).item() / t)


def test_temporal_coherent():
    batch, n, t = 3, 4, 0.3
    s = unit(batch, 2, n, 6)

    def similarity(a, b):
        return sum(x.dot(y).item() for x in a for y in b) / n**2 / t

    rows = list(itertools.product(range(batch), range(2)))
    total = 0
    for i, v in rows:
        others = [similarity(s[i, v], s[j, w]) for j, w in rows if (j, w) not in ((i, v), (i, 1 - v))]
        total += softmax_loss(similarity(s[i, v], s[i, 1 - v]), others)
    assert temporal_coherent(s, t)[0].item() == pytest.approx(total / len(rows), rel=1e-10)


def test_queue_losses():
    b, k, n, t = 3, 5, 2, 0.2
    q, key, queue = unit(b, 6), unit(b, 6, seed=1), unit(k, 6, seed=2)
    total = sum(softmax_loss(q[i].dot(key[i]).item() / t, [q[i].dot(x).item() / t for x in queue]) for i in range(b))
    assert info_nce(q, key, queue, t)[0].item() == pytest.approx(total / b, rel=1e-10)

    q, key, queue = unit(b, n, 6), unit(b, n, 6, seed=1), unit(k, n, 6, seed=2)

    def similarity(a, b):
        return sum(x.dot(y).item() for x in a for y in b) / n**2 / t

    total = sum(softmax_loss(similarity(q[i], key[i]), [similarity(q[i], row) for row in queue]) for i in range(b))
    assert temporal_coherent_queue(q, key, queue, t)[0].item() == pytest.approx(total / b, rel=1e-10)


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("clamp", [None, 5.0])
def test_shuffle_rank(n, clamp):
    batch, theta = 3, 0.05
    a, b = unit(batch, n, 6), unit(batch, n, 6, seed=1)
    terms = []
    for i in range(batch):
        rows = [("a", j) for j in range(n)] + [("b", j) for j in range(n)]
        vector = {("a", j): a[i, j] for j in range(n)} | {("b", j): b[i, j] for j in range(n)}
        for side, j in rows:
            positive = vector[side, j].dot(vector["b" if side == "a" else "a", j]).item()
            for other in rows:
                if other[1] == j:
                    continue
                exponent = (vector[side, j].dot(vector[other]).item() - positive) / theta
                terms.append(math.log(1 + math.exp(exponent if clamp is None else min(exponent, clamp))))
    # the two rows of slot j leave n - 1 other slots in two sets: 2n - 2 negatives a row
    assert len(terms) == batch * 2 * n * (2 * n - 2)
    loss, logits = shuffle_rank(a, b, theta, clamp)
    assert loss.item() == pytest.approx(sum(terms) / len(terms), rel=1e-10)
    assert logits.shape == (batch * 2 * n, 2 * n - 1)


def test_shuffle_rank_is_stable_and_needs_two_segments():
    a = unit(1, 2, 4).float()
    loss, _ = shuffle_rank(a, -a, theta=1e-4)  # exponents of 10,000
    assert torch.isfinite(loss)
    with pytest.raises(ValueError, match="at least 2"):
        shuffle_rank(a[:, :1], a[:, :1], 0.05)


def test_top1_counts_a_tie_as_wrong():
    assert top1(torch.zeros(4, 3)).item() == 0
    assert top1(torch.tensor([[1.0, 0, 0], [0, 1, 0]])).item() == 0.5


@pytest.mark.parametrize("n", [2, 4, 8])
def test_shuffle_and_its_inverse(n):
    permutation = random_permutation(6, n, generator=torch.Generator().manual_seed(n))
    clips = torch.arange(6 * 3 * 8 * 2 * 2).view(6, 3, 8, 2, 2)
    shuffled = shuffle_segments(clips, permutation)
    length = 8 // n
    for b in range(6):
        for j in range(n):
            source = int(permutation[b, j])
            assert torch.equal(shuffled[b, :, j * length:(j + 1) * length],
                               clips[b, :, source * length:(source + 1) * length])
    # embeddings that name the segment they were made from come back in order
    names = torch.arange(n).expand(6, n).gather(1, permutation)[:, :, None]
    assert torch.equal(restore_segments(names, permutation)[..., 0], torch.arange(n).expand(6, n))
    with pytest.raises(ValueError, match="segments of equal length"):
        shuffle_segments(clips[:, :, :7], permutation)


def test_random_permutations_cover_all_orders():
    drawn = random_permutation(2000, 3, generator=torch.Generator().manual_seed(0))
    orders, counts = drawn.unique(dim=0, return_counts=True)
    assert len(orders) == 6 and counts.min() > 250


@pytest.mark.parametrize("mode", ["", "clip-", "clip-clip", "rank", "clip sr"])
def test_unknown_modes(mode):
    with pytest.raises(ValueError, match="mode"):
        parse_mode(mode)

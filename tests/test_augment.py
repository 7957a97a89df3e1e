"""Augmentation against torchvision clip by clip, and its draws against their probabilities."""
import itertools
from collections import Counter

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tv

from dataset.augment import (
    BLUR,
    FACTORS,
    JITTER,
    LENGTH,
    MEAN,
    MIRROR,
    ORDER,
    SIGMA,
    STD,
    FinetuneDraw,
    PretrainDraw,
    blur_reach,
    prepare,
)
from models.dualvar import shuffle_segments

TORCHVISION = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)


def one_by_one(clip, row):
    """The same with torchvision: clip (T, 3, H, W) in [0, 1], row a list of parameters."""
    if row[JITTER]:
        for operation in row[ORDER]:
            clip = TORCHVISION[int(operation)](clip, row[FACTORS][int(operation)])
    if row[BLUR]:
        taps = 2 * blur_reach(min(clip.shape[-2:])) + 1
        clip = tv.gaussian_blur(clip, [taps, taps], [row[SIGMA], row[SIGMA]])
    return clip.flip(-1) if row[MIRROR] else clip


def test_prepare_is_torchvision_clip_by_clip():
    rng = np.random.default_rng(0)
    clips = torch.from_numpy(rng.integers(0, 256, (8, 3, 2, 24, 20, 3), dtype=np.uint8))
    clips[0] = 77  # grey has no hue
    rows = np.stack([PretrainDraw(2)(3, rng)["augment"] for _ in range(8)])
    rows[:, :, MIRROR] = rng.random((8, 3)) < 0.5
    rows = torch.from_numpy(rows)
    assert 0 < rows[..., JITTER].mean() < 1 and 0 < rows[..., BLUR].mean() < 1
    out = prepare(clips, rows)
    assert out.shape == (8, 3, 3, 2, 24, 20)
    for b in range(8):
        for v in range(3):
            expected = one_by_one(clips[b, v].permute(0, 3, 1, 2) / 255, rows[b, v].tolist())
            mine = out[b, v].transpose(0, 1) * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
            assert (mine - expected).abs().max().item() < 0.5 / 255, (b, v, rows[b, v])


@pytest.mark.parametrize("side", [56, 112, 128, 224])
def test_a_blur_of_any_size_is_as_wide_as_its_sigma(side):
    """The kernel holds three standard deviations of the widest blur, here of a point in the middle."""
    rows = torch.zeros(1, 1, LENGTH)
    rows[..., BLUR], rows[..., SIGMA] = 1, 2 * side / 112
    clip = torch.zeros(1, 1, 1, side, side, 3, dtype=torch.uint8)
    clip[..., side // 2, side // 2, :] = 255
    out = prepare(clip, rows)[0, 0, 0, 0] * STD[0] + MEAN[0]
    offsets = torch.arange(side) - side // 2
    assert out.sum().item() == pytest.approx(1, abs=1e-3)
    assert (out.sum(0) * offsets**2).sum().sqrt().item() == pytest.approx(2 * side / 112, rel=0.02)


def test_prepare_without_augmentation_only_normalises():
    clips = torch.full((1, 1, 1, 2, 2, 3), 255, dtype=torch.uint8)
    expected = (1 - torch.tensor(MEAN)) / torch.tensor(STD)
    assert torch.allclose(prepare(clips)[0, 0, :, 0, 0, 0], expected)


@pytest.mark.parametrize("augmented", [True, False])
def test_prepared_clips_are_channels_last(augmented):
    """So that no network copies them."""
    rng = np.random.default_rng(0)
    clips = torch.from_numpy(rng.integers(0, 256, (2, 3, 4, 9, 7, 3), dtype=np.uint8))
    rows = torch.from_numpy(np.stack([PretrainDraw(2)(3, rng)["augment"] for _ in range(2)]))
    views = prepare(clips, rows if augmented else None)
    assert views.flatten(0, 1).is_contiguous(memory_format=torch.channels_last_3d)
    shuffled = shuffle_segments(views[:, 2], torch.tensor([[1, 0], [0, 1]]))
    assert shuffled.is_contiguous(memory_format=torch.channels_last_3d)
    assert torch.equal(shuffled[0], views[0, 2][:, [2, 3, 0, 1]]) and torch.equal(shuffled[1], views[1, 2])


def test_pretraining_probabilities():
    rng, draw = np.random.default_rng(0), PretrainDraw(2)
    samples = [draw(3, rng) for _ in range(4000)]
    rows = np.stack([s["augment"] for s in samples])
    near = lambda p: pytest.approx(p, abs=0.03)  # noqa: E731  4 standard errors
    assert rows[:, 1:, JITTER].mean() == near(0.64) and rows[:, 0, JITTER].mean() == near(0.64 * 0.8)
    assert rows[:, 1:, BLUR].mean() == near(0.5) and rows[:, 0, BLUR].mean() == near(0.5 * 0.8)
    factors = rows[..., FACTORS].reshape(-1, 4)
    assert factors.min(axis=0) == pytest.approx([0.2, 0.2, 0.2, -0.2], abs=0.01)
    assert factors.max(axis=0) == pytest.approx([1.8, 1.8, 1.8, 0.2], abs=0.01)
    assert (rows[..., SIGMA].min(), rows[..., SIGMA].max()) == pytest.approx((0.1, 2.0), abs=0.01)
    assert len(np.unique(rows[..., ORDER].reshape(-1, 4), axis=0)) == 24
    assert np.mean([s["permutation"][0] == 0 for s in samples]) == near(0.5)
    # smaller crops are blurred in proportion
    small = np.stack([PretrainDraw(2, 56)(3, rng)["augment"] for _ in range(1000)])
    assert small[..., SIGMA].max() == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_permutations_that_change_something_are_uniform(n):
    rng, draw = np.random.default_rng(n), PretrainDraw(n, changed=True)
    orders = list(itertools.permutations(range(n)))[1:]
    drawn = Counter(tuple(draw(1, rng)["permutation"].tolist()) for _ in range(100 * len(orders)))
    assert drawn.keys() == set(orders)
    limit = {2: 0, 3: 18.5, 4: 48.3}[n]  # of chi square with n! - 2 degrees of freedom, p = 0.001
    assert sum((count - 100) ** 2 / 100 for count in drawn.values()) <= limit


@pytest.mark.parametrize("changed", [False, True])
def test_what_is_drawn_is_what_it_was(changed):
    """Without `changed`, order and augmentation are those of the draws as they always were; with it most of them."""
    for seed in range(50):
        rng, same = (np.random.default_rng(seed) for _ in range(2))
        drawn = PretrainDraw(4, changed=changed)(3, rng)
        rows = np.zeros((3, LENGTH), np.float32)
        for row in rows:
            row[ORDER] = same.permutation(4)
            row[FACTORS] = [*same.uniform(0.2, 1.8, 3), same.uniform(-0.2, 0.2)]
            row[JITTER] = same.random() < 0.64
            row[SIGMA] = same.uniform(0.1, 2.0)
            row[BLUR] = same.random() < 0.5
        if same.random() < 0.2:
            rows[0, [JITTER, BLUR]] = 0
        np.testing.assert_array_equal(drawn["augment"], rows)
        order = same.permutation(4).tolist()
        if not changed:
            assert drawn["permutation"].tolist() == order and rng.bit_generator.state == same.bit_generator.state
        elif order != [0, 1, 2, 3]:
            assert drawn["permutation"].tolist() == order


def test_one_segment_cannot_be_changed():
    with pytest.raises(ValueError, match="one segment has no other order"):
        PretrainDraw(1, changed=True)


def test_finetuning_flags():
    rng = np.random.default_rng(0)
    off = np.stack([FinetuneDraw(False, False)(1, rng)["augment"] for _ in range(200)])
    on = np.stack([FinetuneDraw(True, True)(1, rng)["augment"] for _ in range(2000)])
    assert not off[..., [JITTER, BLUR, MIRROR]].any()
    assert on[..., JITTER].mean() == pytest.approx(0.64, abs=0.04)
    assert on[..., MIRROR].mean() == pytest.approx(0.5, abs=0.04) and not on[..., BLUR].any()

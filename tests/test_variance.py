"""Measures of features: against literal loops, and where the answer is known."""
import itertools
import math

import numpy as np
import pytest
import torch
from golden.formula import noise

from analysis.variance import kinds_of_features, measures, nearest_of_other_groups
from engine.monitor import Meter, embedding_monitors
from models import build_backbone
from models.dualvar import Output, restore_segments
from models.losses import shuffle_rank


def unit(x):
    return x / np.linalg.norm(x)


def literal(features, n):
    """The docstring's definitions, loop by loop."""
    videos, clips = features.shape[:2]
    centre = np.mean([features[v, k, 0] for v in range(videos) for k in range(clips)], axis=0)
    parts = np.mean([features[v, k, 3 + s] for v in range(videos) for k in range(clips) for s in range(n)], axis=0)
    f = [[unit(features[v, k, 0] - centre) for k in range(clips)] for v in range(videos)]
    g = [[[unit(features[v, k, 3 + s] - parts) for s in range(n)] for k in range(clips)] for v in range(videos)]
    within = np.mean([sum(np.var(np.stack(f[v]), axis=0, ddof=1)) for v in range(videos)])
    between = sum(np.var(np.stack([np.mean(f[v], axis=0) for v in range(videos)]), axis=0, ddof=1)) - within / clips
    within_clip = np.mean([sum(np.var(np.stack(g[v][k]), axis=0, ddof=1)) for v in range(videos) for k in range(clips)])
    pairs = [(f[v][i], f[w][j]) for v, w in itertools.permutations(range(videos), 2)
             for i in range(clips) for j in range(clips)]
    alignment = np.mean([np.sum((f[v][i] - f[v][j]) ** 2) for v in range(videos)
                         for i, j in itertools.combinations(range(clips), 2)])
    apart = np.mean([1 - a @ b for a, b in pairs])
    orders = [np.mean([1 - f[v][k] @ unit(features[v, k, kind] - centre) for v in range(videos) for k in range(clips)])
              for kind in (1, 2)]
    values = np.linalg.svd(features[:, :, 0].reshape(videos * clips, -1) - centre, compute_uv=False)
    share = values / values.sum()
    return {"variance/within_video": within, "variance/between_video": between, "variance/within_clip": within_clip,
            "ratio/within_video": within / between, "ratio/within_clip": within_clip / between, "alignment": alignment,
            "uniformity": math.log(np.mean([math.exp(-2 * np.sum((a - b) ** 2)) for a, b in pairs])),
            "order/shuffled": orders[0] / apart, "order/reversed": orders[1] / apart,
            "effective_rank": math.exp(-sum(p * math.log(p) for p in share if p > 0))}


@pytest.mark.parametrize("videos,clips,n", [(7, 3, 2), (4, 2, 4)])
def test_measures_are_what_they_say(videos, clips, n):
    features = torch.randn(videos, clips, 3 + n, 10, generator=torch.Generator().manual_seed(0))
    features += 2 * torch.randn(videos, 1, 1, 10, generator=torch.Generator().manual_seed(1))
    found = measures(features)
    assert found == pytest.approx(literal(features.double().numpy(), n), rel=1e-9, abs=1e-12)


def test_known_answers():
    generator = torch.Generator().manual_seed(0)
    one_point = torch.randn(50, 1, 1, 8, generator=generator).expand(50, 2, 5, 8)  # all clips of a video are one
    found = measures(one_point)
    assert found["variance/within_video"] == pytest.approx(0, abs=1e-12) == found["order/shuffled"]
    assert found["variance/within_clip"] == pytest.approx(0, abs=1e-12) and found["variance/between_video"] > 0.9
    same = measures(torch.randn(400, 2, 5, 8, generator=generator))  # videos do not differ
    assert same["variance/between_video"] == pytest.approx(0, abs=0.05) and same["variance/within_video"] > 0.9
    assert same["order/shuffled"] == pytest.approx(1, abs=0.1) and 7.5 < same["effective_rank"] <= 8
    line = torch.randn(20, 2, 5, 1, generator=generator) * torch.randn(8, generator=generator)
    assert measures(line)["effective_rank"] == pytest.approx(1, abs=1e-6)


def test_kinds_of_features_in_their_order():
    backbone = build_backbone("r3d", 0.0625).eval()
    clips = torch.randn(2, 3, 8, 24, 24, generator=torch.Generator().manual_seed(0))
    first, second = clips[:, :, :4], clips[:, :, 4:]
    with torch.inference_mode():
        found = kinds_of_features(backbone, clips, 2).view(2, 5, -1)
        for i, x in enumerate((clips, torch.cat([second, first], dim=2), clips.flip(2), first, second)):
            torch.testing.assert_close(found[:, i], backbone(x).mean(dim=(2, 3, 4)), rtol=1e-4, atol=1e-5)


def test_videos_whose_clips_are_one_say_nothing_of_the_variance_within():
    """Short ones, whose two clips are the same frames."""
    features = noise((6, 2, 5, 8), "features")
    features[3:, 1] = features[3:, 0]
    differ = torch.arange(6) < 3
    found, all_of_them = measures(features, differ), measures(features)
    assert found["variance/within_video"] == pytest.approx(2 * all_of_them["variance/within_video"])
    assert found["alignment"] == 2 * found["variance/within_video"]
    assert found["variance/between_video"] == all_of_them["variance/between_video"]
    assert all_of_them.keys() - measures(features, torch.zeros(6, dtype=torch.bool)).keys() == {
        "variance/within_video", "ratio/within_video", "alignment"}


def test_neighbours_are_of_other_recordings():
    """Each recording holds two classes and a place of its own, which only its own videos share."""
    labels, groups = torch.tensor([0, 1, 0, 1, 0, 1]), torch.tensor([0, 0, 1, 1, 2, 2])
    features = torch.zeros(6, 2, 5)
    features[torch.arange(6), :, groups] = 10
    features[torch.arange(6), :, 3 + labels] = 1
    assert nearest_of_other_groups(features, labels, groups) == {"retrieval/R@1": 1, "retrieval/vote": 1}
    assert nearest_of_other_groups(features, torch.tensor([1, 1, 0, 1, 0, 1]), groups)["retrieval/R@1"] <= 5 / 6
    assert nearest_of_other_groups(features, labels, torch.zeros(6)) == {}  # no other recording


def test_top1_of_permuted_samples():
    """A positional shortcut is right wherever nothing was moved, and wrong elsewhere."""
    permutation = torch.tensor([[0, 1], [1, 0], [0, 1], [1, 0]])
    logits = torch.zeros(4, 4, 3)
    logits[::2, :, 0] = 1
    logits[1::2, :, 1] = 1
    out = Output({}, {"sr_view1": logits.flatten(0, 1)}, {})
    found = embedding_monitors(out, 0.07, permutation)
    assert found["top1/sr_view1"] == 0.5 and found["top1_permuted/sr_view1"] == (0, 8)
    found = embedding_monitors(out, 0.07, permutation[[1]].expand(4, 2))  # as with --permutations changed
    assert found["top1/sr_view1"] == 0.5 and found["top1_permuted/sr_view1"] == (8, 16)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_who_knows_the_place_alone_is_never_right_of_segments_that_moved(n):
    slots = torch.nn.functional.normalize(noise((n, 16), "slots"), dim=-1)
    permutation = torch.stack([torch.randperm(n, generator=torch.Generator().manual_seed(i)) for i in range(50)])
    view, shuffled = (torch.nn.functional.normalize(slots + 0.01 * noise((50, n, 16), name), dim=-1)
                      for name in ("view", "shuffled"))
    _, logits = shuffle_rank(view, restore_segments(shuffled, permutation), 0.05)
    right, count = embedding_monitors(Output({}, {"sr_view1": logits}, {}), 0.07, permutation)["top1_permuted/sr_view1"]
    assert right == 0 and count == 2 * (permutation != torch.arange(n)).sum() > 0


def test_a_measure_of_some_samples_is_a_mean_over_all_of_these():
    """Not over steps, of which one may have none."""
    meter = Meter()
    for right, count in ((0, 0), (3, 4), (0, 2)):
        meter.update({"some": (torch.tensor(right), torch.tensor(count)), "none": (torch.tensor(0), torch.tensor(0)),
                      "loss": 1.0})
    state = meter.state(torch.device("cpu"))
    meter = Meter()
    meter.restore(state)
    assert meter.means(torch.device("cpu")) == {"some": 0.5, "loss": 1.0}

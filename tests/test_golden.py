"""Agreement with numbers computed once by the authors' code: tests/golden/README.md says how each was made."""
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from golden.formula import noise, released_state_dict, unit

from dataset.sampling import centred_clip_indices, ten_clip_indices
from models import build_backbone, build_classifier, build_pretrainer, load_released
from models.losses import info_nce, nt_xent, shuffle_rank, temporal_coherent, temporal_coherent_queue, top1
from retrieval import topk_accuracy

GOLDEN = json.loads((Path(__file__).parent / "golden" / "golden.json").read_text())
close = lambda value: pytest.approx(value, rel=1e-4)  # noqa: E731


def with_gradient(loss_function, x):
    """Loss, gradient norm and top-1 at input x."""
    x = x.requires_grad_()
    loss, logits = loss_function(x)
    loss.backward()
    return loss.item(), x.grad.norm().item(), top1(logits).item()


@pytest.mark.parametrize("case", GOLDEN["losses"], ids=lambda case: case["name"])
def test_losses(case):
    name, b, n, queue = case["name"], case["batch"], case["n_segments"], case["queue"]
    d, e, t = case["clip_dim"], case["segment_dim"], case["temperature"]
    clip = with_gradient(lambda x: nt_xent(x, t), unit((b, 2, d), name + "/clip"))
    assert clip == close((case["simclr_clip"], case["simclr_clip_grad_norm"], case["simclr_clip_top1"]))
    tc = with_gradient(lambda x: temporal_coherent(x, t), unit((b, 2, n, e), name + "/segments"))
    assert tc == close((case["simclr_tc"], case["simclr_tc_grad_norm"], case["simclr_tc_top1"]))
    rank = with_gradient(lambda x: shuffle_rank(x[:, :, 0], x[:, :, 1], case["theta"], clamp=5.0),
                         unit((b, n, 2, e), name + "/rank"))
    assert rank == close((case["shuffle_rank"], case["shuffle_rank_grad_norm"], case["shuffle_rank_top1"]))
    loss, _ = info_nce(unit((b, d), name + "/q"), unit((b, d), name + "/k"), unit((queue, d), name + "/queue"), t)
    assert loss.item() == close(case["moco_clip"])
    loss, _ = temporal_coherent_queue(unit((b, n, e), name + "/qs"), unit((b, n, e), name + "/ks"),
                                      unit((queue, n, e), name + "/squeue"), t)
    assert loss.item() == close(case["moco_tc"])


@pytest.mark.parametrize("net", GOLDEN["backbones"])
def test_backbones(net):
    golden = GOLDEN["backbones"][net]
    backbone = build_backbone(net).eval()
    assert sum(p.numel() for p in backbone.parameters()) == golden["parameters"]
    assert backbone.feature_dim == golden["feature_dim"]
    load_released(backbone, released_state_dict(f"backbone/{net}"))
    with torch.no_grad():
        features = backbone(noise((2, 3, 16, 64, 64), "clip"))
    assert list(features.shape) == golden["output_shape"]
    pooled = features.mean(dim=(2, 3, 4))
    assert pooled[:, :8].numpy() == pytest.approx(np.array(golden["pooled_first8"]), rel=1e-4, abs=1e-6)
    assert (pooled.mean().item(), pooled.std().item()) == close((golden["pooled_mean"], golden["pooled_std"]))
    assert (pooled[0] - pooled[1]).norm().item() == close(golden["between"])


@pytest.mark.parametrize("case", GOLDEN["end_to_end"], ids=lambda case: case["model"])
@pytest.mark.slow
def test_end_to_end(case):
    model = build_pretrainer(*case["model"].split("/")).eval()
    load_released(model, released_state_dict(case["model"]))
    with torch.no_grad():
        out = model(noise(case["input"], case["input_tag"]), torch.tensor(case["permutations"]))
    assert [out.losses[key].item() for key in ("clip", "tc", "sr_view1", "sr_view3")] == close(
        [case["clip"], case["tc"], case["rank_view1_vs_shuffled"], case["rank_view3_vs_shuffled"]])


@pytest.mark.parametrize("name", json.loads((Path(__file__).parent / "golden" / "released_keys.json").read_text()))
@pytest.mark.slow
def test_released_weights_fit(name):
    """Every tensor of every kind of released model finds its place, and a backbone takes its own from any of them."""
    kind, net = name.split("/")
    build = {"backbone": lambda: build_backbone(net), "classifier": lambda: build_classifier(net, 101),
             "simclr": lambda: build_pretrainer("simclr", net), "moco": lambda: build_pretrainer("moco", net)}
    weights = released_state_dict(name)
    model, backbone = build[kind](), build_backbone(net)
    load_released(model, weights)
    load_released(backbone, weights)
    inside = model if kind == "backbone" else model.backbone if kind == "classifier" else model.encoder.backbone
    assert all(torch.equal(a, b) for a, b in
               zip(inside.state_dict().values(), backbone.state_dict().values(), strict=True))


@pytest.mark.parametrize("case", GOLDEN["ten_clips"], ids=lambda case: f"{case['frames']} frames")
def test_ten_clips(case):
    assert ten_clip_indices(case["frames"], case["seq_len"], case["ds"]).tolist() == case["indices"]


@pytest.mark.parametrize("case", GOLDEN["centred_clip"], ids=lambda case: f"{case['centre']} of {case['frames']}")
def test_centred_clip(case):
    indices = centred_clip_indices(case["frames"], case["seq_len"], case["ds"], case["centre"])
    assert indices.tolist() == case["indices"]


@pytest.mark.parametrize("case", GOLDEN["retrieval"], ids=lambda case: case["tag"])
def test_retrieval(case):
    queries, gallery, classes, dim = case["queries"], case["gallery"], case["classes"], case["dim"]
    query_labels, gallery_labels = torch.arange(queries) % classes, (torch.arange(gallery) * 7) % classes
    centres = 0.12 * noise((classes, dim), case["tag"] + "/c")
    query = noise((queries, 10, dim), case["tag"] + "/q").mean(dim=1) + 1 + centres[query_labels]
    stored = noise((gallery, 10, dim), case["tag"] + "/g").mean(dim=1) - 0.5 + centres[gallery_labels]
    accuracy = topk_accuracy(query, query_labels, stored, gallery_labels, (1, 5, 10, 20, 50))
    assert accuracy == {k: close(case[f"R@{k}"]) for k in (1, 5, 10, 20, 50)}

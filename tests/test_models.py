"""Networks, heads, encoders and frameworks beyond what the golden numbers pin."""
import pytest
import torch

from core.errors import CheckpointError
from models import build_backbone, build_classifier, build_pretrainer
from models.backbones import BACKBONES
from models.backbones.base import SpatialConv
from models.batchnorm import SplitBatchNorm3d, split_batchnorm
from models.gather import shuffled, unshuffled
from models.weights.checkpoint import read_checkpoint

SMALL = {"net": "r3d", "width": 0.125}


def views(batch=4, count=3, seed=0):
    return torch.randn(batch, count, 3, 8, 32, 32, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("net", BACKBONES)
def test_width_makes_a_narrow_network(net):
    with torch.device("meta"):
        narrow, whole = build_backbone(net, 0.25), build_backbone(net)
        features = narrow(torch.zeros(2, 3, 16, 56, 56))
    count = {network: sum(p.numel() for name, p in network.named_parameters() if "position_bias" not in name)
             for network in (narrow, whole)}
    assert count[narrow] < 0.09 * count[whole]
    assert features.shape[:2] == (2, narrow.feature_dim)


def test_s3d_starts_as_published():
    weights = torch.cat([m.weight.flatten() for m in build_backbone("s3d", 0.5).modules()
                         if isinstance(m, torch.nn.Conv3d)])
    assert weights.std().item() == pytest.approx(0.01, rel=0.01)
    assert abs(weights.mean().item()) < 1e-4


@pytest.mark.parametrize("framework", ["simclr", "moco"])
@pytest.mark.parametrize("mode", ["clip", "clip-sr", "clip-sr-tc", "sr-tc", "tc", "sr", "clip-tc"])
def test_every_mode_gives_its_terms_and_gradients(framework, mode):
    model = build_pretrainer(framework, mode=mode, queue_size=8, n_series=4, **SMALL)
    out = model(views())
    names = {"clip": ["clip"], "tc": ["tc"], "sr": ["sr_view1", "sr_view3"]}
    expected = {name for term in mode.split("-") for name in names[term]}
    assert out.losses.keys() == expected == out.logits.keys()
    sum(out.losses.values()).backward()
    # what takes part gets a gradient, and DDP is told so: nothing trainable is left without one
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())


def test_fewer_views_are_enough_without_shuffle_rank():
    model = build_pretrainer("simclr", mode="clip-tc", **SMALL).eval()
    three, two = model(views()), model(views()[:, :2])
    assert all(three.losses[name].item() == two.losses[name].item() for name in ("clip", "tc"))


def test_permutation_is_used_and_random_otherwise():
    model = build_pretrainer("simclr", mode="sr", **SMALL).eval()
    swapped, same = torch.tensor([[1, 0]] * 4), torch.tensor([[0, 1]] * 4)
    with torch.no_grad():
        assert model(views(), same).losses["sr_view3"] != model(views(), swapped).losses["sr_view3"]
        # an unshuffled copy of view 3 is view 3: its positives are perfect
        logits = model(views(), same).logits["sr_view3"]
        assert torch.allclose(logits[:, 0], torch.full_like(logits[:, 0], 1 / model.theta))


def test_moco_moves_keys_and_queue():
    model = build_pretrainer("moco", queue_size=8, momentum=0.9, **SMALL)
    with torch.no_grad():
        for p in model.encoder.parameters():
            p.add_(1)
    keys = [p.clone() for p in model.key_encoder.parameters()]
    queries = list(model.encoder.parameters())
    queue = model.queue.clone()
    model(views())
    for before, after, query in zip(keys, model.key_encoder.parameters(), queries, strict=True):
        assert torch.allclose(after, 0.9 * before + 0.1 * query, atol=1e-6)
    assert int(model.queue_position) == 4
    assert torch.equal(model.queue[4:], queue[4:]) and not torch.isclose(model.queue[:4], queue[:4]).any(dim=1).all()
    assert torch.allclose(model.queue.norm(dim=1), torch.ones(8))
    model(views(seed=1))
    assert int(model.queue_position) == 0
    model.eval()
    queue = model.queue.clone()
    model(views())
    assert torch.equal(queue, model.queue)
    with pytest.raises(ValueError, match="queue of 8"):
        model.train()(views(batch=3))


def test_split_batchnorm_is_batchnorm_of_the_parts():
    x = torch.randn(6, 4, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    module = torch.nn.Sequential(torch.nn.BatchNorm3d(4))
    torch.nn.init.uniform_(module[0].weight)
    whole = torch.nn.BatchNorm3d(4)
    whole.load_state_dict(module[0].state_dict())
    split = split_batchnorm(module, 3)[0]
    assert isinstance(split, SplitBatchNorm3d)
    expected = torch.cat([whole(part) for part in x.chunk(3)])
    assert torch.allclose(split(x), expected, atol=1e-6)
    means = torch.stack([part.mean(dim=(0, 2, 3, 4)) for part in x.chunk(3)])
    assert torch.allclose(split.running_mean, 0.1 * means.mean(dim=0), atol=1e-6)
    assert torch.allclose(split.eval()(x), split(x))
    with pytest.raises(ValueError, match="5 clips"):
        split.train()(x[:5])


def test_shuffle_comes_back_in_order():
    x = torch.arange(12.0).view(12, 1)
    mixed, order = shuffled(x, torch.Generator().manual_seed(0))
    assert not torch.equal(mixed, x) and torch.equal(x[order], mixed)
    assert torch.equal(unshuffled(mixed, order), x)


def test_bn_shuffle_changes_the_keys_statistics():
    torch.manual_seed(0)
    plain = build_pretrainer("moco", queue_size=8, bn_splits=2, **SMALL)
    mixed = build_pretrainer("moco", queue_size=8, bn_splits=2, shuffle_keys=True, **SMALL)
    mixed.load_state_dict(plain.state_dict())
    x = views()
    torch.manual_seed(1)  # an order that is not the identity of the two halves
    assert not torch.allclose(plain.keys(x[:, 1])["clip"], mixed.keys(x[:, 1])["clip"], atol=1e-4)
    mixed.load_state_dict(plain.state_dict())
    plain.eval(), mixed.eval()
    assert torch.allclose(plain.keys(x[:, 1])["clip"], mixed.keys(x[:, 1])["clip"], atol=1e-6)


def test_linear_probe_leaves_the_backbone_alone():
    model = build_classifier("r3d", 5, 0.125, train_what="last", final_bn=True).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    for seed in range(2):
        model(views(seed=seed)[:, 0]).square().sum().backward()
        optimizer.step()
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert {"fc.weight", "fc.bias"} <= changed
    assert not any(k.startswith("backbone.") for k in changed)


def test_classifier_starts_as_published():
    model = build_classifier("r3d", 400, 1.0)
    assert model.fc.weight.std().item() == pytest.approx(0.01, rel=0.02) and not model.fc.bias.any()


def test_unknown_names_are_refused():
    for build in (lambda: build_backbone("r50"), lambda: build_pretrainer("byol", "r3d"),
                  lambda: build_classifier("r50", 3), lambda: build_pretrainer("simclr", "r3d", n_series=1)):
        with pytest.raises(ValueError):
            build()


class Malicious:
    def __reduce__(self):
        return (open, ("pickle_was_run", "w"))


@pytest.mark.parametrize("content", ["missing", "garbage", "truncated", "pickle", "no weights"])
def test_bad_checkpoints_are_refused(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.pth.tar"
    if content == "garbage":
        path.write_bytes(b"no checkpoint")
    elif content == "truncated":
        torch.save({"state_dict": {"a": torch.zeros(1000)}}, path)
        path.write_bytes(path.read_bytes()[:2000])
    elif content == "pickle":
        torch.save({"state_dict": Malicious()}, path)
    elif content == "no weights":
        torch.save({"epoch": 3}, path)
    with pytest.raises(CheckpointError, match="x.pth.tar"):
        read_checkpoint(path)
    assert not (tmp_path / "pickle_was_run").exists()


@pytest.mark.parametrize("kernel,stride", [(3, 1), (3, 2), (7, 2), (1, 2)])
def test_spatial_convolution_is_that_of_the_frames(kernel, stride):
    """In either layout the output and the gradients of a 3-D convolution, in the layout that came in."""
    torch.manual_seed(0)
    conv = SpatialConv(5, 6, kernel, stride)
    found = []
    for layout in (torch.contiguous_format, torch.channels_last_3d):
        x = torch.randn(2, 5, 4, 9, 8, generator=torch.Generator().manual_seed(1)).contiguous(memory_format=layout)
        out = conv(x.requires_grad_())
        assert out.is_contiguous(memory_format=layout)
        out.square().sum().backward()
        found.append((out, x.grad, conv.weight.grad.clone()))
        conv.zero_grad()
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)

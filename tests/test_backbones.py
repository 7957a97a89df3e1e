"""The contract of models/backbones/base.py, for every entry of BACKBONES and for a newcomer's."""
import copy

import pytest
import torch
from toys import Tiny

from models.backbones import BACKBONES
from models.backbones.base import Backbone, scaled
from models.weights.identify import guess_width
from models.weights.names import name_tables

NETS = {**BACKBONES, "tiny": Tiny}
CLIPS = (2, 3, 8, 48, 48)


@pytest.fixture(params=NETS)
def build(request):
    return NETS[request.param]


def test_feature_map(build):
    """(B, feature_dim, t, h, w), float32, of contiguous and channels-last clips alike."""
    torch.manual_seed(0)
    network = build(width=0.0625).eval()
    assert isinstance(network, Backbone)
    clips = torch.randn(CLIPS)
    with torch.no_grad():
        features = network(clips)
        dense = copy.deepcopy(network).to(memory_format=torch.channels_last_3d)(
            clips.contiguous(memory_format=torch.channels_last_3d))
    assert features.shape[:2] == (2, network.feature_dim) and features.dim() == 5 and features.dtype == torch.float32
    assert torch.allclose(features, dense, rtol=1e-3, atol=1e-5 * max(1, features.abs().max().item()))


def test_parts_are_the_whole_network(build):
    network = build(width=0.0625)
    of_parts = [p for part in network.parts() for p in part.parameters()]
    assert {id(p) for p in of_parts} == {id(p) for p in network.parameters()} and len(of_parts) == len(set(of_parts))
    torch.manual_seed(0)
    network.eval()
    clips = torch.randn(CLIPS)
    with torch.no_grad():
        x = network.converted(clips)
        for part in network.parts():
            x = part(x)
        assert torch.equal(x, network(clips))


def test_checkpointing(build):
    torch.manual_seed(0)
    kept = build(width=0.0625).train()
    again = copy.deepcopy(kept)
    again.checkpointing = True
    for network in (kept, again):
        torch.manual_seed(1)
        network(torch.randn(CLIPS)).square().mean().backward()
    for p, q in zip(kept.parameters(), again.parameters(), strict=True):
        assert p.grad is not None and torch.equal(p.grad, q.grad)


def test_width(build):
    """Channels grow with it, and a file's shapes tell it."""
    with torch.device("meta"):
        dims = [build(width=width).feature_dim for width in (0.0625, 0.25, 1.0)]
        network, narrow = build(width=1.0), build(width=0.5)
    assert dims == sorted(set(dims))
    assert scaled(64, 0.25) == 16 and scaled(64, 0) == 4
    full, half = (dict(its.named_parameters()) for its in (network, narrow))
    norms = [name for name, p in full.items() if name.endswith("weight") and p.dim() == 1]
    assert all(len(half[name]) == scaled(len(full[name]), 0.5) for name in norms if network.follows_width(name))


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("width", [0.125, 0.5, 1.0])
def test_width_is_guessed_from_a_file(name, width):
    with torch.device("meta"):
        shapes = BACKBONES[name](width).state_dict()
    assert guess_width({key: torch.empty(value.shape) for key, value in shapes.items()}, name) == width


def test_foreign_names_mean_one_tensor_each(build):
    network = build(width=0.0625)
    own = set(network.state_dict())
    tables = name_tables(network)
    assert tables["ours"].keys() == own
    for family, table in tables.items():
        assert set(table.values()) == own, family
        names = [theirs for name in own for theirs in ([name] if family == "ours"
                                                        else network.foreign_names(name)[family])]
        assert len(names) == len(set(names)), family

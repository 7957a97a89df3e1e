"""What clips a network's weights expect: read with checks, kept with the weights, and clips converted to it."""
import copy
import dataclasses

import pytest
import torch

from core.errors import CheckpointError
from dataset.augment import MEAN, STD, prepare
from dataset.crops import resize_for
from models import build_backbone, build_classifier, build_pretrainer
from models.backbones import BACKBONES
from models.protocol import Protocol
from models.weights.checkpoint import read_checkpoint, write_checkpoint
from models.weights.loading import load_backbone

OTHER = Protocol(8, 8, 224, (256, 340), (0.45, 0.45, 0.45), (0.225, 0.225, 0.225))
WIDTH = 1 / 64


def test_the_default_is_what_the_flags_and_the_loader_do():
    own = Protocol()
    assert own.frame_size == (128, 171) and (own.mean, own.std) == (MEAN, STD) and not own.converts
    assert own.of_clips(16, 4, 112, resize_for(112)) == own and own.entry(own) == {}
    trained = OTHER.of_clips(4, 2, 56, resize_for(56))
    assert dataclasses.astuple(trained)[:4] == (4, 2, 56, None) and trained.mean == OTHER.mean
    assert OTHER.frame_size == (256, 340)


def test_plain_types_and_back():
    for protocol in (Protocol(), OTHER):
        values = protocol.values()
        assert Protocol.read(values, "x") == protocol
        assert {type(value) for value in values.values()} <= {int, list, type(None)}


@pytest.mark.parametrize("field, value, said", [
    ("seq_len", 0, "seq_len is not a whole number from 1"), ("ds", 1.5, "ds is not"), ("img_dim", 2**40, "img_dim"),
    ("resize", [100], "resize is not height and width"), ("resize", [223, 300], "of img_dim 224 or more"),
    ("mean", [0.1, 0.2], "mean has 2 values"), ("mean", [0.1, float("nan"), 0], r"mean\[1\] is not a finite number"),
    ("mean", [0, 0, 1e9], "mean is not between"), ("std", [0.2, 0.2, 0], "std is not between"),
    ("std", [0.2, -1, 1], "std is not between"), ("std", "abc", "std is not a list")])
def test_nonsense_is_refused(field, value, said):
    with pytest.raises(CheckpointError, match=f"^x: its clip protocol makes no sense .*{said}"):
        Protocol.read({**OTHER.values(), field: value}, "x")
    with pytest.raises(CheckpointError, match="has no std"):
        Protocol.read({name: value for name, value in OTHER.values().items() if name != "std"}, "x")


def test_clips_are_converted_to_what_the_weights_expect():
    frames = torch.randint(256, (2, 1, 4, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    clips = prepare(frames)[:, 0]
    backbone = build_backbone("r3d", WIDTH).eval()
    assert backbone.converted(clips) is clips
    plain = backbone((frames[:, 0].movedim(-1, 1) / 255 - 0.45) / 0.225)
    assert not torch.allclose(plain, backbone(clips), rtol=1e-2)
    keys = set(backbone.state_dict())
    backbone.protocol = OTHER
    for network in (backbone, copy.deepcopy(backbone).to(memory_format=torch.channels_last_3d)):
        assert torch.allclose(network(clips), plain, rtol=1e-4, atol=1e-6)
        assert network.converted(clips).stride() == clips.stride() and network.protocol == OTHER
    assert copy.deepcopy(backbone).double().converted(clips.double()).dtype == torch.float64
    assert set(backbone.state_dict()) == keys
    assert BACKBONES["r3d"].protocol == Protocol()
    backbone.protocol = Protocol()
    assert backbone.converted(clips) is clips


def test_every_way_to_build_takes_it():
    moco = build_pretrainer("moco", "r3d", width=WIDTH, queue_size=4, protocol=OTHER.values())
    assert [backbone.protocol for backbone in moco.backbones()] == [OTHER, OTHER]
    assert build_classifier("r3d", 3, WIDTH, protocol=OTHER.values()).backbone.protocol == OTHER
    assert build_backbone("r3d", WIDTH, OTHER.values()).protocol == OTHER
    with pytest.raises(ValueError, match="clip protocol makes no sense"):
        build_classifier("r3d", 3, WIDTH, protocol={"seq_len": 3})


def test_it_is_loaded_with_the_weights(tmp_path):
    path = tmp_path / "x.pth.tar"
    state, config = build_backbone("r3d", WIDTH).state_dict(), {"net": "r3d", "width": WIDTH}
    backbone = build_backbone("r3d", WIDTH)
    for said, protocol in ((OTHER.entry(Protocol()), OTHER), ({}, Protocol())):
        write_checkpoint(path, {"state_dict": state, "config": {**config, **said}})
        load_backbone(backbone, read_checkpoint(path), path)
        assert backbone.protocol == protocol
    write_checkpoint(path, {"state_dict": state, "config": {**config, "protocol": [1]}})
    with pytest.raises(CheckpointError, match="x.pth.tar: its clip protocol makes no sense"):
        load_backbone(backbone, read_checkpoint(path), path)

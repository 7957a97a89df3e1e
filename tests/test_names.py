"""Weights in the names and containers of other projects: found, recognised, and computing what they do there."""
from pathlib import Path

import foreign
import pytest
import torch
from test_pretrained import WIDTH, equal, under, weights

from core.errors import CheckpointError
from dataset.augment import MEAN, STD
from models import build_backbone
from models.backbones import BACKBONES
from models.weights.checkpoint import read_checkpoint
from models.weights.loading import load_backbone

# --- containers ----------------------------------------------------------------------------------------------

STATE = weights("r3d")
OTHER = weights("r3d", "other")


def read(content, entry=None):
    torch.save(content, "x.pth")
    return read_checkpoint("x.pth", entry)


@pytest.mark.parametrize("wrap", [
    lambda w: w, lambda w: {"model": {"state_dict": w}}, lambda w: {"state_dict": {"model": w}},
    lambda w: {"model": {"state_dict": w, "mean": torch.zeros(3), "epoch": 3}, "epoch": 3},
    lambda w: {"state_dict": w, "best_acc": torch.tensor(0.5), "model": {"name": "r3d", "depth": 18}},
    lambda w: {"state_dict": w, "model": w}, lambda w: {"model": w, "model_ema": OTHER, "optimizer": {"state": {
        0: {"momentum_buffer": torch.zeros(3)}}}},
    lambda w: {"classy_state_dict": {"base_model": {"model": {"trunk": w, "heads": {"fc": torch.zeros(3)}}}}},
    lambda w: {"module": under("module.", w), "optimizer": {"state_dict": {"x": torch.zeros(3)}}},
])
def test_weights_are_found_in_their_container(wrap, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert equal(read(wrap(STATE))["state_dict"], STATE)


@pytest.mark.parametrize("content, said", [
    ({"state_dict": STATE, "model": OTHER}, "holds weights in state_dict, model: choose one with --entry"),
    ({"model": {"net": STATE, "state_dict": OTHER}}, "holds weights in model.state_dict, model.net: choose"),
    ({"student": STATE, "teacher": OTHER}, "holds no state_dict, but tensors in student, teacher: choose one with"),
    ({"state_dict": {"a": {"b": STATE}}}, "but tensors in state_dict.a.b: choose"),
    ({"state_dict": {1: torch.zeros(3)}, "epoch": 3}, "x.pth holds no state_dict"),
    ({"epoch": 3}, "x.pth holds no state_dict"), ([STATE], "x.pth holds no state_dict"),
])
def test_what_is_no_single_set_of_weights_is_refused(content, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=said):
        read(content)


def test_an_entry_is_chosen(program):
    content = {"student": STATE, "teacher": {"state_dict": OTHER, "config": {"net": "r3d", "width": WIDTH}}}
    torch.save(content, "x.pth")
    for entry, found in (("student", STATE), ("teacher", OTHER), ("teacher.state_dict", OTHER)):
        code, _, error = program("models.weights", "convert", "x.pth", "out.tar", "--entry", entry, "--net", "r3d",
                                 "--force")
        assert code == 0 and equal(torch.load("out.tar", weights_only=True)["state_dict"], found), error
    assert read_checkpoint("x.pth", "teacher")["config"] == {"net": "r3d", "width": WIDTH}
    Path("out.tar").unlink()
    for entry in ("nobody", "student.stem.weight", "teacher.config.net"):
        for command in (["inspect", "x.pth"], ["convert", "x.pth", "out.tar"]):
            code, _, error = program("models.weights", *command, "--entry", entry)
            assert code == 1 and f"x.pth has no entry {entry!r} that is a dictionary" in error, error
    assert not Path("out.tar").exists()


# --- networks of others --------------------------------------------------------------------------------------

HEAD = {"weight": torch.zeros(3, 4), "bias": torch.zeros(3)}


def with_weights(network, seed=0):
    """A network in evaluation mode with seeded weights, whose batch norms do something."""
    generator = torch.Generator().manual_seed(seed)
    for value in network.state_dict().values():
        if value.ndim == 1:
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
        elif value.ndim:
            value.copy_(torch.randn(value.shape, generator=generator) * (2 / value[0].numel()) ** 0.5)
    return network.eval()


def rspnet(arch):
    """A file of its pretraining."""
    def file(own, other):
        heads = {f"{side}.{fc}.2.{name}": value for side in ("encoder_q", "encoder_k") for fc in ("fc1", "fc2")
                 for name, value in HEAD.items()}
        return {"epoch": 200, "arch": arch, "best_loss": 1.5, "optimizer": {"state": {}}, "model": {
            **under("encoder_q.encoder.", own), **under("encoder_q.encoder.fc.", HEAD),
            **under("encoder_k.encoder.", other), **heads, "queue_A": torch.zeros(4, 8),
            "queue_ptr": torch.zeros(1, dtype=torch.long)}}
    return file


IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# our network, theirs, whose normalisation, {what inspect says: the file with its weights and those of a copy}
FOREIGN = {
    "c3d of RSPNet": ("c3d", foreign.RSPNetC3D, IMAGENET, {
        "a backbone of RSPNet, inside MoCo": rspnet("c3d"),
        "a classifier of RSPNet": lambda own, other: {
            "arch": "c3d", "model": under("encoder.", own) | under("fc.", HEAD)}}),
    "r21d of RSPNet": ("r21d", foreign.RSPNetR21D, IMAGENET, {
        "a backbone of RSPNet, inside MoCo": rspnet("r2plus1d-vcop"),
        "a classifier of RSPNet": lambda own, other: {"arch": "r2plus1d-vcop", "model": own | under("linear.", HEAD)}}),
}
FOREIGN = {name: entry for name, entry in FOREIGN.items() if entry[0] in BACKBONES}
FILES = [(name, said) for name, entry in FOREIGN.items() for said in entry[3]]


@pytest.mark.parametrize("name, said", FILES)
def test_foreign_weights_compute_what_they_do_there(name, said, program):
    """The same maps of clips of two sizes, each network getting them as it expects them."""
    net, build, (mean, std), files = FOREIGN[name]
    theirs = with_weights(build(WIDTH))
    torch.save(files[said](theirs.state_dict(), with_weights(build(WIDTH), 1).state_dict()), "x.pth")
    code, out, error = program("models.weights", "inspect", "x.pth")
    total = len(theirs.state_dict())
    assert code == 0 and out.startswith(f"x.pth: {said}; network {net} x {WIDTH:g}\n"), (out, error)
    assert [line.split()[0] for line in out.splitlines() if " fits " in line] == [net]
    assert f"{total} of {total} matched, 0 missing, 0 unexpected" in out
    backbone = build_backbone(net, WIDTH).eval()
    load_backbone(backbone, read_checkpoint("x.pth"), "x.pth")
    for size in ((2, 3, 8, 48, 48), (1, 3, 16, 64, 32)):
        pixels = torch.rand(size, generator=torch.Generator().manual_seed(size[0]))
        ours, expected = ((pixels - torch.tensor(m).view(3, 1, 1, 1)) / torch.tensor(s).view(3, 1, 1, 1)
                          for m, s in ((MEAN, STD), (mean, std)))
        with torch.no_grad():
            found, right = backbone(ours), theirs(expected)
        assert found.shape == right.shape and right.std() > 0
        assert (found - right).abs().max() <= 1e-5 * right.abs().max()

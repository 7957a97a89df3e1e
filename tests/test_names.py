"""Weights in the names and containers of other projects: found, recognised, and computing what they do there."""
from pathlib import Path

import pytest
import torch
from test_pretrained import WIDTH, equal, under, weights

from core.errors import CheckpointError
from models.weights.checkpoint import read_checkpoint

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

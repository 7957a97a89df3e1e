"""Checkpoints that would run code: real ones, given to everything that reads a checkpoint."""
import contextlib
import os
import pickle
from pathlib import Path

import pytest
import torch
from helpers import NARROW, SMALL, InProcess


class Reduce:
    """Pickles as a call of function(*arguments)."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def malicious(kind, path, marker):
    """Write a checkpoint whose reading with pickle makes folder `marker`."""
    payload = Reduce(os.mkdir, marker)
    tensor = torch.zeros(3)
    content = {
        "subclass": Reduce(torch._tensor._rebuild_from_type_v2, os.mkdir, torch.Tensor, (marker,), {}),
        "rebuild": Reduce(torch._utils._rebuild_tensor_v2, tensor.untyped_storage(), 0, (3,), (1,), False, payload),
        "parameter": Reduce(torch._utils._rebuild_parameter_with_state, tensor, True, {}, {"__setstate__": payload}),
    }.get(kind, payload)
    content = {"state_dict": {"stem.weight": tensor}, "epoch": content} if kind == "beside" else {
        "state_dict": {"stem.weight": content}}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind != "legacy")


COMMANDS = [
    ("models.weights", ["inspect", "bad.pth.tar", "--entry", "state_dict"]),
    ("models.weights", ["convert", "bad.pth.tar", "out.pth.tar"]),
    ("retrieval.py", [*SMALL, *NARROW, "--pretrain", "bad.pth.tar"]),
    ("finetune.py", [*SMALL, *NARROW, "--batch_size", "4", "--pretrain", "bad.pth.tar"]),
    ("finetune.py", [*SMALL, *NARROW, "--batch_size", "4", "--pretrain", "random", "--resume", "bad.pth.tar"]),
    ("train.py", [*SMALL, *NARROW, "--batch_size", "4", "--resume", "bad.pth.tar"]),
    ("test.py", [*SMALL, *NARROW, "--checkpoint", "bad.pth.tar"]),
]


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle", "subclass", "rebuild", "parameter", "beside"])
def test_code_in_a_checkpoint_does_not_run(kind, root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    call = InProcess(root, monkeypatch, capsys)
    marker, path = tmp_path / "ran", tmp_path / "bad.pth.tar"
    malicious(kind, path, str(marker))
    for script, flags in COMMANDS:
        code, _, error = call(script, *flags)
        assert code == 1 and not marker.exists(), (script, flags, error)
        assert error.splitlines()[-1].startswith("error: checkpoint ") and "bad.pth.tar" in error, error
        assert "Traceback" not in error and not Path("out.pth.tar").exists()
    # it is the reading that keeps it from running: pickle would run it
    with contextlib.suppress(Exception):
        torch.load(path, weights_only=False)
    if not marker.exists():
        with contextlib.suppress(Exception):
            pickle.loads(path.read_bytes())
    assert marker.is_dir()

"""Flags of clips that are not given: those that the weights expect, in every stage."""
import json
from dataclasses import replace

import pytest
import torch
from helpers import FAST

from models import build_backbone
from models.protocol import Protocol

NARROW_BY = 0.0625
def checkpoint(path, net="r3d", **config):
    """A file with a narrow network's weights, of a seed, and what its config says."""
    torch.manual_seed(0)
    torch.save({"state_dict": build_backbone(net, NARROW_BY).state_dict(),
                "config": {"net": net, "width": NARROW_BY, **config}}, path)
    return str(path)


TRAINED = Protocol(seq_len=4, ds=3, img_dim=24, resize=(30, 40))


def flags_of(path):
    return {name: json.loads(path.read_text())["flags"][name] for name in ("seq_len", "ds", "img_dim", "resize")}


@pytest.mark.parametrize("given, changed", [
    ([], {}), (["--ds", "1"], {"ds": 1}), (["--img_dim", "32"], {"img_dim": 32, "resize": [40, 53]}),
    (["--resize", "24x32"], {"resize": [24, 32]})])
def test_flags_that_are_not_given_are_those_that_the_weights_expect(given, changed, program, tmp_path):
    path = checkpoint(tmp_path / "w.pth.tar", protocol=TRAINED.values())
    code, out, error = program("retrieval.py", "--pretrain", path, *FAST, "--clips", "2", "--name", "x", *given)
    assert code == 0, error
    expected = {"seq_len": 4, "ds": 3, "img_dim": 24, "resize": [30, 40]}
    assert flags_of(tmp_path / "log/dualvar/retrieval/x/results.json") == expected | changed
    taken = [name for name in expected if f"--{name}" not in given]
    said = {"seq_len": "4", "ds": "3", "img_dim": "24", "resize": "40x53" if "--img_dim" in given else "30x40"}
    assert f"note: {' '.join(f'--{name} {said[name]}' for name in taken)}: the clips of {path}; " in out
    other = [f"--{name} {said[name]}" for name in expected if f"--{name}" in given]
    assert ("was trained on clips of" in out) == bool(other) and (
        not other or f"note: {path} was trained on clips of {' '.join(other)}\n" in out)


def test_the_paper_s_weights_keep_the_stages_own_strides(program, tmp_path):
    path = checkpoint(tmp_path / "w.pth.tar")
    code, out, error = program("retrieval.py", "--pretrain", path, "--dry_run")
    assert code == 0 and "16 frames at stride 4, 112 px" in out and "note: " not in out, error
    code, out, error = program("finetune.py", "--pretrain", path, "--batch_size", "2", "--dry_run")
    assert code == 0 and "16 frames at stride 2, 112 px" in out, error
    assert f"note: --ds 2, the paper's stride here; {path} was pretrained at its 4\n" in out
    small = checkpoint(tmp_path / "small.pth.tar", protocol=Protocol(img_dim=56).values())
    code, out, error = program("finetune.py", "--pretrain", small, "--batch_size", "2", "--dry_run")
    assert code == 0 and "16 frames at stride 2, 56 px" in out, error
    code, out, error = program("finetune.py", "--pretrain", "random", "--net", "slow_r50", "--width", "0.03",
                               "--batch_size", "2", "--dry_run")
    assert code == 0 and "8 frames at stride 8, 224 px" in out, error


def test_a_classifier_is_tested_on_the_clips_that_it_was_fine_tuned_on(program, tmp_path):
    path = checkpoint(tmp_path / "w.pth.tar")
    code, _, error = program("finetune.py", "--pretrain", path, *FAST, "--seq_len", "4", "--ds", "4", "--img_dim", "24",
                             "--batch_size", "2", "--epochs", "1", "--name", "x")
    assert code == 0, error
    latest = tmp_path / "log/dualvar/ft/x/model/latest.pth.tar"
    old = torch.load(latest, weights_only=True)
    del old["config"]["protocol"]  # as earlier versions wrote it
    torch.save(old, tmp_path / "old.pth.tar")
    for file in latest, tmp_path / "old.pth.tar":
        name = file.parent.name
        code, out, error = program("test.py", "--checkpoint", str(file), *FAST, "--clips", "2", "--name", name)
        assert code == 0, error
        assert flags_of(tmp_path / f"log/dualvar/test/{name}/results.json") == {
            "seq_len": 4, "ds": 4, "img_dim": 24, "resize": [27, 37]}
        assert "was trained on" not in out
        code, out, error = program("test.py", "--checkpoint", str(file), *FAST, "--ds", "1", "--dry_run")
        assert code == 0 and f"note: {file} was trained on clips of --ds 4\n" in out, error


@pytest.mark.parametrize("script, stride", [("retrieval.py", 4), ("finetune.py", 2)])
def test_where_nothing_says_them_they_are_the_paper_s(script, stride, program, tmp_path):
    torch.save(build_backbone("r3d", NARROW_BY).state_dict(), tmp_path / "bare.pth")
    more = ["--batch_size", "2"] if script == "finetune.py" else []
    for weights in "bare.pth", "random", "nowhere.pth":
        code, out, error = program(script, "--pretrain", weights, "--net", "r3d", "--width", NARROW_BY, *more,
                                   "--dry_run")
        assert code == 0 and f"16 frames at stride {stride}, 112 px" in out, error


def test_checkpoints_from_before_there_was_a_protocol_tell_by_the_flags_of_their_run(program, tmp_path):
    flags = {"net": "r3d", "width": NARROW_BY, "seq_len": 4, "ds": 3, "img_dim": 24, "resize": [30, 40]}
    folder = tmp_path / "log/dualvar/pretrain/old/model"
    folder.mkdir(parents=True)
    (folder.parent / "flags.json").write_text(json.dumps({"flags": flags}))
    whole, exported = folder / "latest.pth.tar", checkpoint(folder / "backbone.pth.tar")
    torch.save({**torch.load(exported, weights_only=True), "flags": flags}, whole)
    for path in whole, exported:
        code, out, error = program("retrieval.py", "--pretrain", path, "--dry_run")
        assert code == 0 and "4 frames at stride 3, 24 px" in out, error
        code, _, error = program("models.weights", "save", path, f"{path}_shared")
        assert code == 0, error
        code, shared, error = program("retrieval.py", "--pretrain", f"{path}_shared", "--dry_run")
        assert code == 0 and "4 frames at stride 3, 24 px" in shared, error
    other = checkpoint(folder / "other.pth.tar", "r21d")  # no run of this network
    code, out, error = program("retrieval.py", "--pretrain", other, "--dry_run")
    assert code == 0 and "16 frames at stride 4, 112 px" in out, error


def test_random_weights_get_the_clips_of_their_network_in_timelines_too(program):
    code, _, error = program("analysis.pictures", "timeline", "--out", "t.png", "--dataset", "ucf101", "--pretrain",
                             "random", "--net", "slow_r50", "--width", "0.03", "--n_series", "2", *FAST)
    assert code == 1 and "segments of 4 frames at stride 8" in error, error


@pytest.mark.parametrize("script", ["analysis.temporal", "analysis.pictures"])
def test_weights_that_expect_different_clips_are_not_chosen_between(script, program, tmp_path):
    one = checkpoint(tmp_path / "one.pth.tar", protocol=TRAINED.values())
    two = checkpoint(tmp_path / "two.pth.tar", protocol=replace(TRAINED, ds=1).values())
    start = ["timeline", "--out", "t.png"] if script.endswith("pictures") else []
    code, _, error = program(script, *start, "--dataset", "ucf101", "--pretrain", one, two, *FAST)
    assert code == 2 and error.count("\n") == 1, error
    assert f"{one} was trained on clips of --ds 3, {two} of --ds 1: give these flags" in error

"""A batch in parts, activations computed again, and what these must leave as it was."""
import copy

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from distributed_step import BATCH, MODES
from golden.formula import noise
from helpers import NARROW, SMALL, InProcess, environment, make_dataset, succeed

import finetune
from dataset.loader import TrainBatches
from engine.gradcache import GradCache
from models import build_backbone, build_classifier, build_pretrainer
from models.batchnorm import count_in_parts, running_statistics_kept, split_batchnorm
from models.losses import all_but
from models.weights.checkpoint import read_checkpoint

STEPS = [*(f"{framework} {mode}" for framework in ("simclr", "moco") for mode in MODES), "finetune"]


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """{(processes, parts): what accumulate_step.py found in each process}"""
    found = {}
    for processes, parts in ((1, 1), (1, 4), (2, 2)):
        folder = tmp_path_factory.mktemp("steps")
        env = environment(folder)
        env["PYTHONPATH"] += f":{env['PYTHONPATH']}/tests"
        succeed("tests/accumulate_step.py", folder, parts, cwd=folder, env=env, processes=processes)
        found[processes, parts] = [torch.load(folder / f"{processes}_{r}.pt", weights_only=True)
                                   for r in range(processes)]
    return found


@pytest.mark.parametrize("divided", [(1, 4), (2, 2)])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.slow
def test_a_batch_in_parts_gives_the_losses_gradients_queue_and_momentum_of_the_whole(steps, step, divided):
    whole = steps[1, 1][0][step]
    for process in steps[divided]:
        found = process[step]
        assert found["losses"] == pytest.approx(whole["losses"], rel=1e-9)
        assert found["gradients"].keys() == whole["gradients"].keys()
        for name, gradient in whole["gradients"].items():
            assert (found["gradients"][name] - gradient).norm() <= 1e-9 * gradient.norm() + 1e-12, name
        for name, value in whole["state"].items():
            assert torch.allclose(found["state"][name], value, rtol=1e-9, atol=1e-12), name
    if step.startswith("moco") and step != "moco sr":
        assert whole["state"]["queue_position"] == BATCH


def step_of(framework, parts, bn_splits):
    """A training step's losses, gradients and model; batch norm takes the statistics of the batch."""
    torch.manual_seed(0)
    model = build_pretrainer(framework, "r21d", width=0.0625, queue_size=16, bn_splits=bn_splits).double().train()
    cache = GradCache(model, parts)
    out = cache(noise((4, 3, 3, 8, 24, 24), "step").double(), torch.tensor([[0, 1], [1, 0]] * 2))
    cache.backward(sum(out.losses.values()))
    return {name: value.item() for name, value in out.losses.items()}, model


@pytest.mark.parametrize("framework", ["simclr", "moco"])
def test_parts_have_the_batch_statistics_of_bn_splits_and_count_in_the_running_ones_once(framework):
    (losses, parts), (wanted, splits) = step_of(framework, 2, 1), step_of(framework, 1, 2)
    assert losses == pytest.approx(wanted, rel=1e-9)
    for (name, p), q in zip(parts.named_parameters(), splits.parameters(), strict=True):
        assert p.grad is None and q.grad is None or torch.allclose(p.grad, q.grad, rtol=1e-7, atol=1e-12), name
    assert parts.encoder.backbone.stem_bn.num_batches_tracked == 2 * 2  # two encodings, each in two parts
    torch.manual_seed(0)
    fresh = build_pretrainer(framework, "r21d", width=0.0625, queue_size=16).double().train()
    with torch.no_grad():
        views = noise((4, 3, 3, 8, 24, 24), "step").double()
        for part in views.chunk(2):  # by hand: the first encoding, part by part
            fresh.encoder(part[:, :3 if framework == "simclr" else 1])
    assert not torch.equal(fresh.encoder.backbone.stem_bn.running_mean, parts.encoder.backbone.stem_bn.running_mean)
    second = views[:, 2].unflatten(2, (2, -1))
    second = torch.stack([x if i % 2 == 0 else x.flip(1) for i, x in enumerate(second)]).flatten(2, 3)
    again = second[:, None] if framework == "simclr" else torch.stack([views[:, 2], second], dim=1)
    with torch.no_grad():
        for part in again.chunk(2):
            fresh.encoder(part)
    for (name, ours), by_hand in zip(parts.encoder.named_buffers(), fresh.encoder.buffers(), strict=True):
        assert torch.allclose(ours, by_hand, rtol=1e-9), name


def test_parts_count_in_the_running_statistics_as_a_batch_does():
    """As --bn_splits N has them, whose mean is over the parts; here later parts weigh up to 1.1 times as much."""
    x, models = noise((8, 3, 8, 24, 24), "step"), [build_backbone("r3d", 0.0625).train() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    split, parts = split_batchnorm(models[0], 4), models[1]
    count_in_parts(parts, 4)
    with torch.no_grad():
        split(x)
        for part in x.chunk(4):
            parts(part)
    for name in ("running_mean", "running_var"):
        start = float(name == "running_var")
        a, b = (getattr(model.stem_bn, name) - start for model in (split, parts))
        assert (a - b).norm() < 0.1 * a.norm()
    one = nn.BatchNorm1d(1)
    count_in_parts(one, 1)
    assert one.momentum == 0.1
    count_in_parts(one, 4)
    for _ in range(4):
        one(torch.tensor([[0.0], [2.0]]))
    assert one.running_mean.item() == pytest.approx(0.1, rel=1e-5)


def test_scores_of_finetuning_in_parts_come_in_order():
    torch.manual_seed(0)
    model = build_classifier("r3d", 3, 0.0625).eval()
    clips, labels = noise((4, 3, 8, 24, 24), "step"), torch.tensor([0, 1, 2, 0])
    scores, loss = finetune.forward_backward(model, clips, labels, torch.amp.GradScaler("cpu", enabled=False),
                                             TrainBatches(4, 4, parts=4))
    assert torch.allclose(scores, model(clips), atol=1e-5)
    assert torch.allclose(loss, F.cross_entropy(model(clips), labels), atol=1e-5)


@pytest.mark.parametrize("net", ["r3d", "r21d", "s3dg", "c3d"])
def test_checkpointing_changes_neither_gradients_nor_running_statistics(net):
    torch.manual_seed(0)
    plain = build_backbone(net, 0.0625).train()
    again = copy.deepcopy(plain)
    again.checkpointing = True
    clips = noise((2, 3, 16, 32, 32), "clips")
    for model in (plain, again):
        model(clips).square().mean().backward()
    for (name, p), q in zip(plain.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad), name
    for (name, x), y in zip(plain.named_buffers(), again.buffers(), strict=True):
        assert torch.equal(x, y), name


def test_running_statistics_are_kept_for_a_while_and_taken_up_again_after():
    model = build_pretrainer("simclr", "r3d", width=0.0625, bn_splits=2).train()
    bn = model.encoder.backbone.stem_bn
    before = bn.running_mean.clone()
    with running_statistics_kept(model):
        model(noise((4, 3, 3, 8, 24, 24), "step"))
    assert torch.equal(bn.running_mean, before) and bn.num_batches_tracked == 0
    model(noise((4, 3, 3, 8, 24, 24), "step"))
    assert not torch.equal(bn.running_mean, before) and bn.num_batches_tracked == 2


def test_momentum_update_is_that_of_a_loop_bit_for_bit():
    model = build_pretrainer("moco", "r21d", width=0.125, queue_size=16)
    with torch.no_grad():
        for p in model.encoder.parameters():
            p.add_(torch.randn_like(p))
    wanted = [k.lerp(q, 1 - model.momentum) for k, q in zip(model.key_encoder.parameters(), model.encoder.parameters(),
                                                            strict=True)]
    model.update_key_encoder()
    assert all(torch.equal(a, b) for a, b in zip(model.key_encoder.parameters(), wanted, strict=True))


def test_all_but_two_columns_are_those_a_mask_would_leave():
    first, second = torch.tensor([0, 0, 1, 4]), torch.tensor([1, 5, 3, 5])
    for row, a, b in zip(all_but(first, second, 6).tolist(), first.tolist(), second.tolist(), strict=True):
        assert row == [i for i in range(6) if i not in (a, b)]


@pytest.fixture
def program(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return InProcess(make_dataset(tmp_path / "data"), monkeypatch, capsys)


def test_training_with_parts_and_checkpointing(program):
    flags = [*SMALL, *NARROW, "--framework", "moco", "--moco-k", "8", "--batch_size", "4", "--epochs", "1",
             "--accumulate", "2"]
    for name, more in (("kept", []), ("again", ["--checkpointing"])):
        code, _, err = program("train.py", *flags, *more, "--name", name)
        assert code == 0, err
    kept, again = (read_checkpoint(f"log/dualvar/pretrain/{name}/model/latest.pth.tar")["state_dict"]
                   for name in ("kept", "again"))
    assert all(torch.equal(kept[name], again[name]) for name in kept)
    code, _, err = program("train.py", *flags, "--name", "kept", "--resume", "auto", "--accumulate", "4")
    assert code == 1 and "accumulate 2 there, 4 here" in err
    assert program("finetune.py", *SMALL, *NARROW, "--pretrain", "random", "--batch_size", "4", "--accumulate", "2",
                   "--epochs", "1")[0] == 0


@pytest.mark.parametrize("flags, words", [
    (["--accumulate", "3"], "--accumulate 3 does not divide the 4 samples of a process"),
    (["--accumulate", "0"], "--accumulate must be above 0"),
    (["--accumulate", "2", "--bn_splits", "4"], "--bn_splits 4 does not divide the 2 samples of a process and part"),
    (["--compile", "--checkpointing"], "exclude each other")])
def test_flags_that_do_not_fit(program, flags, words):
    code, _, err = program("train.py", *SMALL, *NARROW, "--batch_size", "4", *flags)
    assert code == 2 and words in err and "Traceback" not in err


def test_a_machine_that_cannot_compile_says_so(program, monkeypatch):
    def refuse(function):
        raise RuntimeError("Failed to find C++ compiler\nmore")
    monkeypatch.setattr(torch, "compile", refuse)
    code, _, err = program("train.py", *SMALL, *NARROW, "--batch_size", "4", "--compile")
    assert code == 2 and "--compile: torch.compile does not work here (Failed to find C++ compiler)" in err

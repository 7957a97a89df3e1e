"""The memory that the plan says, against what torch's profiler sees allocated."""
import itertools
import re
import sys
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from helpers import OWN, SMALL, InProcess, make_dataset
from torch.profiler import ProfilerActivity, profile

import core.dist
import finetune
from core.dist import world_size
from dataset.augment import prepare
from engine import memory
from engine.gradcache import GradCache, forward_backward
from engine.memory import Way, memory_plan, peak
from engine.optim import gradient_norm, sgd
from engine.setup import distribute
from models import FRAMEWORKS, build_classifier, build_pretrainer
from models.dualvar import TERMS
from train import pretraining_step

# Small, but large enough that the scratch memory of oneDNN's convolutions, which is the CPU's own, is little beside it.
# Never fewer than 16 clips at a time: with one thread torch then unfolds the input of small kernels, to many times its
# size, on CPUs alone.
BATCH = (32, 3, 8, 32, 32, 3)
WIDTH = 0.125
CPU = torch.device("cpu")
S3D = ["--net", "s3d", "--width", "0.0625"]


def allocated(function):
    """Largest sum of what torch's allocator on the CPU gives out and takes back while function() runs, bytes."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        function()
    events = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def unfolds_in_bf16():
    """Whether this CPU's oneDNN has no convolutions in bf16: torch's own unfold their input, to many times its size."""
    x, weight = (torch.zeros(n, 16, *size, dtype=torch.bfloat16).to(memory_format=torch.channels_last_3d)
                 for n, *size in ((16, 8, 16, 16), (16, 3, 3, 3)))
    return allocated(lambda: torch.nn.functional.conv3d(x, weight, padding=1)) > 4 * x.nbytes


def pretrain(framework, net, way, device):
    """Two steps, the model built within: with the second, gradients and momentum of the first are there.

    device: "cuda" for max pools in low precision, as they are on GPUs.
    """
    model = build_pretrainer(framework, net, width=WIDTH, queue_size=64)
    _, model = distribute(model, CPU, "local")
    model.train().encoder.backbone.checkpointing = way.checkpointing
    for backbone in model.backbones():
        backbone.low = torch.bfloat16 if way.low else None
    for pool in model.modules():
        if isinstance(pool, torch.nn.MaxPool3d) and device == "cuda":
            pool.forward = torch.autocast("cpu", enabled=False)(pool.forward)
    optimizer = sgd(model, 0.003, 0.9, 1e-4)
    cache = GradCache(model, way.accumulate) if way.accumulate > 1 else None
    clips, permutation = torch.zeros(BATCH, dtype=torch.uint8), torch.tensor([[1, 0]] * BATCH[0])
    for _ in range(2):
        views = prepare(clips)
        forward_backward(model, cache, views, permutation, dict.fromkeys(TERMS, 1.0))
        gradient_norm(optimizer)
        optimizer.step()


WAYS = {"whole": Way(), "accumulate": Way(accumulate=2), "checkpointing": Way(checkpointing=True),
        "both": Way(accumulate=2, checkpointing=True)}
QUICK = {("simclr", "whole"), ("simclr", "both"), ("moco", "accumulate"), ("moco", "checkpointing")}
CASES = [pytest.param(*case, marks=[] if case[0][:3] != "s3d" and case[1:] in QUICK else pytest.mark.slow)
         for case in itertools.product(OWN, FRAMEWORKS, WAYS)]


def check(net, framework, way, device):
    planned = peak(build_pretrainer(framework, net, width=WIDTH, queue_size=64), pretraining_step, BATCH, way, device)
    assert planned == pytest.approx(allocated(lambda: pretrain(framework, net, way, device)), rel=0.1)


@pytest.mark.parametrize("net, framework, way", CASES)
def test_what_the_plan_says_is_what_is_allocated(net, framework, way):
    check(net, framework, WAYS[way], "cpu")


@pytest.mark.slow
def test_memory_of_attention_is_known_too(monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "BATCH", (16, 3, 4, 16, 16, 3))
    check("swin3d_t", "simclr", WAYS["whole"], "cpu")


@pytest.mark.parametrize("net, framework, way, device", [
    ("r3d", "simclr", "whole", "cpu"), ("c3d", "simclr", "whole", "cuda"), ("c3d", "simclr", "whole", "cpu"),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in (
        ("r21d", "moco", "accumulate", "cpu"), ("s3d", "moco", "both", "cpu"), ("s3d", "moco", "whole", "cuda"),
        ("s3dg", "simclr", "whole", "cpu"), ("s3dg", "simclr", "checkpointing", "cuda")))])
def test_low_precision(net, framework, way, device):
    if unfolds_in_bf16():
        pytest.skip("this CPU has no convolutions in bf16")
    check(net, framework, replace(WAYS[way], low=True), device)


@pytest.mark.slow
def test_r21d_at_batch_64_keeps_74_gib_of_activations_in_float32_and_37_in_bf16():
    """The figures of a count of activations made before this code was there."""
    model = build_pretrainer("simclr", "r21d")
    found = [peak(model, pretraining_step, (64, 3, 16, 112, 112, 3), Way(low=low)) / 2**30 for low in (False, True)]
    assert found == pytest.approx([74, 37], rel=0.05)


FLAGS = ["--net", "r3d", "--width", WIDTH, "--img_dim", 32, "--seq_len", 8, "--ds", 1, "--batch_size", 32,
         "--epochs", 1, "--workers", 0, "--device", "cpu", "--bn", "local"]


@pytest.mark.parametrize("script, more", [("train.py", ["--eval_every", 0]), ("finetune.py", ["--pretrain", "random"])])
def test_the_line_of_the_plan_and_the_whole_run(script, more, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    program = InProcess(make_dataset(tmp_path / "data", groups=9), monkeypatch, capsys)
    code, out, err = program(script, *FLAGS, *more, "--dry_run")
    assert code == 0, err
    low, high = (float(x) for x in re.search(
        r"memory +(\d+) MiB a process in bf16, (\d+) MiB in fp32; fits 16 GB$", out, re.MULTILINE).groups())
    assert low < high
    codes = []
    found = allocated(lambda: codes.append(program(script, *FLAGS, *more)))
    code, out, err = codes[0]
    assert code == 0 and f"  memory       {high:.0f} MiB a process in fp32\n" in out, err
    assert high == pytest.approx(found / 2**20, rel=0.1)


def test_parts_that_are_left_out_change_nothing(monkeypatch):
    model = build_pretrainer("moco", "r3d", width=WIDTH, queue_size=64)
    found = peak(model, pretraining_step, BATCH, Way(accumulate=4))
    monkeypatch.setattr(memory, "part_by_part", lambda forward, shapes, give_gradients, clips: forward(clips))
    assert peak(model, pretraining_step, BATCH, Way(accumulate=4)) == pytest.approx(found, rel=1e-3)


def test_a_dry_run_for_several_processes_needs_none(monkeypatch):
    model = build_classifier("r3d", 3, WIDTH)
    found = []
    for processes in (1, 8):
        monkeypatch.setattr(core.dist, "_planned", processes)
        found.append(peak(model, finetune.finetuning_step, (32, 1, *BATCH[2:]), Way()))
        assert world_size() == processes
    assert found[1] - found[0] == 4 * sum(p.numel() for p in model.parameters())


def test_a_dry_run_where_every_process_has_one_clip_with_one_value_a_channel(program, monkeypatch):
    """Which batch norm takes with those of the others (--bn sync), and on its own would not."""
    monkeypatch.setattr(core.dist, "_planned", 1)  # the run changes it
    code, out, error = program("train.py", *SMALL, "--seq_len", "8", "--img_dim", "32", *S3D, "--batch_size", "8",
                               "--accumulate", "4", "--dry_run", "2")
    assert code == 0 and " MiB a process in bf16" in out, out + error


@pytest.mark.parametrize("framework", ["simclr", "moco"])
def test_several_processes_have_buckets_for_gradients_and_gather(framework):
    from torch.testing._internal.distributed.fake_pg import FakeStore

    model = build_pretrainer(framework, "r3d", width=WIDTH, queue_size=64)
    alone = peak(model, pretraining_step, BATCH, Way())
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        found = peak(model, pretraining_step, BATCH, Way())
    finally:
        dist.destroy_process_group()
    buckets = 4 * sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert buckets <= found - alone < 1.5 * buckets  # and the losses of twice as many samples


def test_neither_the_model_nor_random_numbers_change():
    model = build_classifier("r21d", 3, WIDTH, dropout=0.5)
    before, state = {name: x.clone() for name, x in model.state_dict().items()}, torch.get_rng_state()
    peak(model, finetune.finetuning_step, (32, 1, *BATCH[2:]), Way(accumulate=2, checkpointing=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert not model.backbone.checkpointing and all(p.grad is None for p in model.parameters())


def test_a_network_whose_shapes_depend_on_values_is_not_known_before_the_run():
    def step(model, views, parts):
        return views[views > 0].sum().item()
    text = memory_plan(torch.nn.Linear(1, 1), step, BATCH, CPU, precision="fp32", accumulate=1,
                       checkpointing=False, dry_run=True)
    assert text.startswith("not known before the run: ")


@pytest.mark.parametrize("flags, text", [
    ({"precision": "bf16"}, "30.0 GiB a process in bf16; fits 40 GB; 24 GB with --checkpointing (15.0 GiB); "
                            "16 GB with --accumulate 2 --checkpointing (7.5 GiB)"),
    ({"precision": None}, "30.0 GiB a process in bf16, 60.0 GiB in fp32; fits 40 GB; 24 GB with --checkpointing "
                          "(15.0 GiB); 16 GB with --accumulate 2 --checkpointing (7.5 GiB)"),
    ({"precision": "fp32"}, "60.0 GiB a process in fp32; fits 80 GB; 40 GB with --precision bf16 (30.0 GiB); "
                            "24 GB with --checkpointing --precision bf16 (15.0 GiB); "
                            "16 GB with --accumulate 2 --checkpointing --precision bf16 (7.5 GiB)"),
    ({"precision": "tf32", "dry_run": False}, "60.0 GiB a process in tf32; fits 80 GB"),
    ({"precision": "fp16", "checkpointing": True, "accumulate": 4}, "3.8 GiB a process in fp16; fits 16 GB"),
    ({"precision": "bf16", "bn_splits": 8}, "30.0 GiB a process in bf16; fits 40 GB; 24 GB with --checkpointing "
                                            "(15.0 GiB)"),
    ({"precision": "bf16", "dry_run": False}, "30.0 GiB a process in bf16; fits 40 GB"),
    ({"precision": None, "dry_run": False, "device": CPU}, "60.0 GiB a process in fp32"),
    ({"precision": "auto", "dry_run": False, "device": CPU}, "30.0 GiB a process in bf16, 60.0 GiB in fp32"),
    ({"precision": "fp32", "accumulate": 8, "device": CPU}, "7.5 GiB a process in fp32; fits 16 GB")])
def test_the_line_names_the_first_flags_that_fit(flags, text, monkeypatch):
    def made_up(model, step, batch, way, device):
        return 60 * 2**30 / (2 if way.low else 1) / (2 if way.checkpointing else 1) / way.accumulate
    monkeypatch.setattr(memory, "peak", made_up)
    flags = {"accumulate": 1, "checkpointing": False, "dry_run": True, "device": torch.device("cuda", 0), **flags}
    assert memory_plan(torch.nn.Linear(1, 1), pretraining_step, (8, *BATCH[1:]), **flags) == text

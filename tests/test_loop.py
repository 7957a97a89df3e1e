"""The training loop: its times, its optimizer after a skipped step, looks that fail, what is compiled."""
import json
import time

import pytest
import torch
from helpers import NARROW, OWN, SMALL

from core.errors import UsageError
from engine import evaluation
from engine.clock import StepClock
from engine.folders import loader_memory
from engine.optim import sgd
from models import build_backbone


def test_a_skipped_first_step_leaves_no_momentum(monkeypatch):
    """A GPU's fused step makes momentum without values; the memory it gets is filled with nan here."""
    model = torch.nn.Linear(20, 20)
    optimizer = sgd(model, lr=0.1, momentum=0.9, weight_decay=0)
    monkeypatch.setitem(optimizer.param_groups[0], "fused", True)
    optimizer._step_supports_amp_scaling = True
    scaler, before = torch.amp.GradScaler("cpu"), model.weight.detach().clone()
    torch.use_deterministic_algorithms(True)
    try:
        for scale in (float("inf"), 1):
            optimizer.zero_grad()
            scaler.scale(model(torch.ones(2, 20)).sum() * scale).backward()
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
    finally:
        torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(model.weight, before - 0.1 * 2)  # of one step, whose gradient is 2
    assert optimizer.state[model.weight]["momentum_buffer"].unique().tolist() == [2]


@pytest.fixture
def now(monkeypatch):
    """[seconds], which is the time."""
    seconds = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: seconds[0])
    return seconds


def test_waiting_is_for_the_loader_alone(now):
    def loader():
        for _ in range(3):
            now[0] += 2
            yield {}

    clock, found = StepClock(torch.device("cpu")), []
    for _ in clock.batches(loader()):
        now[0] += 5  # the host waits for the device, as a copy may make it
        found.append(clock.done())
        now[0] += 1  # logging, of the next step
    assert found == [{"time/data": 2, "time/step": step} for step in (7, 8, 8)]
    assert clock.device_seconds() is None


def test_device_time_is_read_when_it_is_asked_for(now, monkeypatch):
    """The device is 3 s behind the host."""
    class Event:
        waits = 0

        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = now[0] + 3

        def synchronize(self):
            Event.waits += 1

        def elapsed_time(self, end):
            return 1000 * (end.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    clock = StepClock(torch.device("cuda", 0))
    for seconds, _ in enumerate(clock.batches([{}, {}, {}])):
        now[0] += seconds
        clock.done()
        now[0] += 10
    assert Event.waits == 0
    assert clock.device_seconds() == pytest.approx(0 + 1 + 2) and Event.waits == 1
    assert clock.device_seconds() == 0 and Event.waits == 1


def rows_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_network_that_cannot_take_a_segment_is_looked_at_without(program, tmp_path):
    """S3D halves time three times and pools pairs: the 4 frames of a quarter are too few."""
    code, out, err = program("train.py", *SMALL, *NARROW, "--net", "s3d", "--img_dim", "32", "--seq_len", "16",
                             "--n_series", "4", "--batch_size", "4", "--epochs", "1", "--eval_every", "1", "--name",
                             "p")
    assert code == 0, err
    assert "note: s3d cannot take the 4 frames of a segment alone: variance/within_clip is not measured" in out
    row, = rows_of(tmp_path / "log/dualvar/pretrain/p")
    assert "order/shuffled" in row and "variance/within_clip" not in row and "ratio/within_clip" not in row


@pytest.mark.parametrize("script, flags", [
    ("train.py", ["--eval_every", "1"]), ("finetune.py", ["--pretrain", "random", "--holdout", "0.3"])])
def test_a_look_that_fails_does_not_end_the_run(program, tmp_path, monkeypatch, script, flags):
    def fail(*_):
        raise torch.OutOfMemoryError("no room\nmore")
    monkeypatch.setattr(evaluation, "forward", fail)
    code, out, err = program(script, *SMALL, *NARROW, "--batch_size", "4", "--epochs", "2", "--name", "p", *flags)
    assert code == 0, err
    assert "note: epoch 1 could not be looked at, and training goes on: no room\n" in out
    stage = "pretrain" if script == "train.py" else "ft"
    assert [row["epoch"] for row in rows_of(tmp_path / "log/dualvar" / stage / "p")] == [0, 1]


@pytest.mark.parametrize("framework, expected", [("simclr", 2), ("moco", 3)])
def test_looks_compile_nothing(program, monkeypatch, framework, expected):
    """One graph for each way in which training calls the network, whole, and none for the looks."""
    graphs, compile_ = [], torch.compile

    def count(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", lambda f, **flags: compile_(f, backend=count, fullgraph=True, **flags))
    more = ["--moco-k", "8"] if framework == "moco" else []
    code, _, err = program("train.py", *SMALL, *NARROW, "--batch_size", "4", "--epochs", "3", "--eval_every", "1",
                           "--compile", "--framework", framework, "--name", framework, *more)
    assert code == 0, err
    assert len(graphs) == 1 + expected  # one tries whether compiling works at all


def test_the_loader_s_shared_memory_is_known_before(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert loader_memory(1000, 4, tmp_path) == "4 workers a process, up to 6.4e-05 GB of shared memory"
    assert loader_memory(2**60, 0, tmp_path).startswith("0 workers") and loader_memory(2**60, 4, tmp_path / "none")
    with pytest.raises(UsageError, match=r"--workers 4: the batches under way take up to 7.38e\+10 GB .*--shm-size"):
        loader_memory(2**60, 4, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("net", [*OWN, "r3d_18", "swin3d_t"])
def test_a_network_compiles_to_one_graph(net):
    """A break would hand every part back to Python, whose launches --compile is to save."""
    torch._dynamo.reset()
    backbone = build_backbone(net, 1 / 64)
    backbone.low = torch.bfloat16
    clips = torch.randn(2, 3, 8, 32, 32).contiguous(memory_format=torch.channels_last_3d)
    wanted = backbone(clips)
    backbone.compile(dynamic=False, backend="eager", fullgraph=True)
    torch.testing.assert_close(backbone(clips), wanted)

"""Every stage on a pretend CUDA device (pretend_cuda.py), and what a training step would cost on a real one."""
import json
import re

import numpy as np
import pytest
import torch
from helpers import NARROW, SMALL, succeed
from pretend_table import MOCO, pretend_environment, steps_of

CUDA = [*SMALL, "--device", "cuda"]
TRAIN = ["--width", "0.0625", "--batch_size", "4", "--epochs", "1", "--print_freq", "1", "--eval_every", "0"]
FINETUNED = "log/dualvar/ft/f/model/latest.pth.tar"
MODEL = "log/dualvar/pretrain/{}/model/"

# expression, of `x`, 4 x 8 float32 on the device, `mask`, `index` and `host`, of the same shape on the CPU
# -> (waits, launches, bytes)
COSTS = {
    "x + 1": (0, 1, 256),
    "x.add_(1)": (0, 1, 256),
    "x + x[:1]": (0, 1, 128 + 32 + 128),
    "x + x[:1].expand(4, 8)": (0, 1, 128 + 32 + 128),
    "torch.empty_like(x)": (0, 0, 0),
    "x.t()[1:].unflatten(0, (7, 1))": (0, 0, 0),
    "torch.zeros(4, 8, device='cuda')": (0, 1, 128),
    "torch._foreach_add_([x, x.clone()], 1)": (0, 2, 256 + 4 * 128),
    "torch.add(x, 1, out=x.t().contiguous().t())": (0, 2, 256 + 256),
    "x[index]": (0, 1, 2 * 8 + 2 * 64),
    "x.index_copy_(0, index, x.new_empty(2, 8))": (0, 1, 2 * 8 + 2 * 64),
    "x[mask]": (1, 1, None),
    "x.masked_fill(mask, 0)": (0, 1, None),
    "x.where(mask, 0)": (0, 1, None),
    "x.nonzero()": (1, 1, None),
    "x.sum().item()": (1, 1, None),
    "bool(x[0, 0] > 0)": (1, 1, None),
    "x[0].tolist()": (1, 1, 64),
    "x.cpu()": (1, 1, 256),
    "x.to('cpu', non_blocking=True)": (0, 1, 256),
    "host.to('cuda')": (1, 1, 256),
    "host.to('cuda', non_blocking=True)": (1, 1, 256),
    "host.pin_memory()[:2].to('cuda', non_blocking=True)": (0, 1, 128),
    "x.copy_(host)": (1, 1, 256),
    "x.copy_(host.pin_memory(), non_blocking=True)": (0, 1, 256),
    "torch.tensor([1.0, 2.0], device='cuda')": (1, 1, 16),
    "torch.as_tensor(x, dtype=torch.float64)": (0, 1, 128 + 256),
    "x[:2].repeat_interleave(index, dim=0)": (1, None, None),
    "torch.cuda.synchronize()": (1, 0, 0),
    "torch.cuda.current_stream().synchronize()": (1, 0, 0),
    "pretend_counts.kernel('mine', [x, x], [x])": (0, 1, 3 * 128),
}
REFUSED = ["x + host", "torch.cat([x, host])", "x.numpy()", "x.pin_memory()", "host[index]", "torch.stack([x[0, 0], "
           "host[0, 0]])", "torch.nn.functional.linear(x, host)"]
ALLOWED = ["x + host[0, 0]", "torch.where(x > 0, x, host.sum())", "x[host[0].long().clamp(0, 3)]"]
STREAMS = """
side, begin, end = torch.cuda.Stream(), *(torch.cuda.Event(enable_timing=True) for _ in range(2))
with torch.cuda.stream(side):
    assert torch.cuda.current_stream() is side
    begin.record()
    copy = host.pin_memory().to("cuda", non_blocking=True)
    end.record()
torch.cuda.current_stream().wait_stream(side)
copy.record_stream(torch.cuda.current_stream())
assert torch.cuda.current_stream() is not side and end.query() and begin.elapsed_time(end) >= 0
"""
CHILD = """
import json, sys
import pretend_counts, pretend_cuda, torch
pretend_cuda.install()
costs, refused, allowed, streams = json.loads(sys.argv[1])
found = {}
def names():
    host = torch.arange(32.0).view(4, 8)
    x = host.to("cuda")
    return dict(torch=torch, pretend_counts=pretend_counts, x=x, host=host, mask=x > 5,
                index=torch.tensor([2, 0], device="cuda"))
for text in costs:
    own = names()
    with pretend_counts.count() as counts:
        eval(text, own)
    found[text] = list(counts.total().values())
for text in refused:
    try:
        found[text] = str(eval(text, names()))
    except (RuntimeError, TypeError) as error:
        found[text] = None
for text in allowed:
    eval(text, names())
with pretend_counts.count() as counts:
    own = names()
    before = counts.total()
    exec(streams, own)
    found["streams"] = counts.total()["waits"] - before["waits"]
x = torch.randn(3, 2, device="cuda", requires_grad=True)
y = torch.nn.functional.cross_entropy(x[torch.tensor([0, 0, 2], device="cuda")], torch.tensor([0, 1, 1], device="cuda"))
with pretend_counts.count() as counts:
    y.backward()
plain = x.plain.detach().clone().requires_grad_()
torch.nn.functional.cross_entropy(plain[[0, 0, 2]], torch.tensor([0, 1, 1])).backward()
found["backward"] = [str(x.grad.device), torch.equal(x.grad.cpu(), plain.grad), counts.total()["waits"]]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def env(root):
    return pretend_environment(root)


@pytest.fixture(scope="module")
def found(env, tmp_path_factory):
    """What the child says of each expression above."""
    folder = tmp_path_factory.mktemp("child")
    (folder / "child.py").write_text(CHILD)
    texts = json.dumps([list(COSTS), REFUSED, ALLOWED, STREAMS])
    return json.loads(succeed(folder / "child.py", texts, cwd=folder, env=env))


@pytest.mark.parametrize("text", COSTS)
def test_cost_of(text, found):
    assert [given for given, wanted in zip(found[text], COSTS[text], strict=True) if wanted is not None] == [
        wanted for wanted in COSTS[text] if wanted is not None]


@pytest.mark.parametrize("text", REFUSED)
def test_refused_as_by_cuda(text, found):
    assert found[text] is None


def test_streams_and_events_order_without_waiting(found):
    assert found["streams"] == 0


def test_gradients_are_those_of_the_cpu_and_on_the_device(found):
    assert found["backward"] == ["cuda:0", True, 0]


# --- stages ------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def run(env, tmp_path_factory):
    """run(script, flags...): an entry script on the pretend device, all in one folder, run.folder -> what it prints."""
    def run(script, *flags, processes=1):
        return succeed("tests/pretend_run.py", script, *CUDA, *flags, cwd=run.folder, env=env, processes=processes)

    run.folder = tmp_path_factory.mktemp("run")
    return run


def load(path):
    return torch.load(path, weights_only=True)


def log(run, name, stage="pretrain"):
    path = run.folder / f"log/dualvar/{stage}/{name}/log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def on_cpu(run, env):
    """log.jsonl's rows of three epochs on the CPU, which runs on the device are compared with."""
    succeed("train.py", *SMALL, *NARROW, *TRAIN, "--epochs", "3", "--name", "cpu", cwd=run.folder, env=env)
    return log(run, "cpu")


@pytest.fixture(scope="module")
def backbone(run):
    """A backbone pretrained on the device in float32."""
    out = run("train.py", *NARROW, *TRAIN, "--precision", "fp32", "--name", "p")
    assert re.search(r"memory +\d+ MiB a process in fp32; fits 16 GB\n", out), out
    return MODEL.format("p") + "backbone.pth.tar"


def losses(row):
    return {name: value for name, value in row.items() if name.startswith("loss/")}


def test_pretraining_in_float32_is_that_of_the_cpu(run, on_cpu, backbone):
    assert losses(log(run, "p")[0]) == pytest.approx(losses(on_cpu[0]), rel=1e-3)
    assert all(value.device.type == "cpu" and value.isfinite().all()
               for value in load(run.folder / backbone)["state_dict"].values())


@pytest.mark.slow
@pytest.mark.parametrize("precision, flags", [
    pytest.param("bf16", ["--net", "r21d", *MOCO], marks=pytest.mark.kept),
    ("fp16", ["--net", "s3dg", "--img_dim", "32", "--seq_len", "16"]),
    ("bf16", ["--net", "c3d", "--img_dim", "32", "--seq_len", "8", "--accumulate", "2", "--checkpointing"]),
    ("fp16", ["--net", "r21d", *MOCO, "--mode", "sr", "--bn_splits", "2"]),
])
def test_pretraining_in_low_precision_is_close_to_float32(run, precision, flags):
    names = {each: f"{precision}-{'-'.join(flags[1::2])}-{each}" for each in (precision, "fp32")}
    # with these weights fp16 skips no step, and at this learning rate the steps do not drift apart
    small = ["--clip_weight", "1e-5", "--sr_weight", "1e-5", "--tc_weight", "1e-5", "--lr", "1e-9"]
    for each, name in names.items():
        run("train.py", *TRAIN, *flags, *small, "--precision", each, "--name", name)
    low, full = (log(run, name)[0] for name in names.values())
    assert low.keys() - {"skipped_steps"} == full.keys() and not low.get("skipped_steps")
    assert losses(low) == pytest.approx(losses(full), rel=0.05) and losses(low) != losses(full)
    assert low["gradient_norm"] == pytest.approx(full["gradient_norm"], rel=0.1)


def test_steps_that_fp16_skips_change_nothing(run):
    """The gradients of a loss this large are not finite in fp16, whatever step."""
    run("train.py", *NARROW, *TRAIN, "--precision", "fp16", "--clip_weight", "1e9", "--name", "skipped")
    run("train.py", *NARROW, *TRAIN, "--precision", "fp32", "--lr", "1e-30", "--name", "initial")
    state, initial = (load(run.folder / MODEL.format(name) / "latest.pth.tar") for name in ("skipped", "initial"))
    assert log(run, "skipped")[0]["skipped_steps"] == 1
    assert state["scaler"]["scale"] == 2**16 / 2**3
    assert not any(its["momentum_buffer"].any() for its in state["optimizer"]["state"].values())
    trained = [name for name in initial["state_dict"] if name.endswith("weight")]
    assert trained and all(torch.equal(state["state_dict"][name], initial["state_dict"][name]) for name in trained)


@pytest.mark.kept
@pytest.mark.slow
def test_a_run_moves_from_the_cpu_to_the_device_and_back(run, on_cpu, env):
    flags = [*NARROW, *TRAIN, "--name", "moved", "--resume", "auto", "--epochs"]
    succeed("train.py", *SMALL, *flags, "1", cwd=run.folder, env=env)
    run("train.py", *flags, "2")
    succeed("train.py", *SMALL, *flags, "3", cwd=run.folder, env=env)
    for row, wanted in zip(log(run, "moved"), on_cpu, strict=True):
        assert losses(row) == pytest.approx(losses(wanted), rel=1e-2)


def numbers(text):
    return [float(x) for x in re.findall(r"\b[01]\.\d+", text)]


@pytest.mark.slow
def test_fine_tuning_probe_test_and_retrieval(run, backbone, env):
    tune = ["--batch_size", "4", "--epochs", "1", "--pretrain", backbone]
    run("finetune.py", *tune, "--name", "f", "--precision", "bf16", "--color_jitter", "--hflip", "--holdout", "0.3",
        "--accumulate", "2")
    run("finetune.py", *tune, "--name", "l", "--precision", "fp16", "--train_what", "last", "--final_bn", "--l2_norm",
        "--dropout", "0.5")
    assert np.isfinite(log(run, "f", "ft")[0]["held_out_top1"])
    probe = load(run.folder / "log/dualvar/last/l/model/latest.pth.tar")["state_dict"]
    assert all(torch.equal(probe[f"backbone.{name}"], value)
               for name, value in load(run.folder / backbone)["state_dict"].items())
    for script, *flags in (["test.py", "--checkpoint", FINETUNED, "--crops", "10", "--precision"],
                           ["retrieval.py", "--pretrain", backbone, "--precision"]):
        there = numbers(succeed(script, *SMALL, *flags, "fp32", cwd=run.folder, env=env))
        assert there and numbers(run(script, *flags, "fp32")) == there
        assert len(numbers(run(script, *flags, "fp16"))) == len(there)


@pytest.mark.slow
def test_two_processes_do_as_one(run, backbone):
    """Training with synchronised batch norm, fine-tuning in parts, test and retrieval."""
    run("train.py", *NARROW, *TRAIN, "--precision", "fp32", "--name", "p2", processes=2)
    assert losses(log(run, "p2")[0]) == pytest.approx(losses(log(run, "p")[0]), rel=1e-3)
    tune = ["--batch_size", "4", "--epochs", "1", "--pretrain", backbone, "--precision", "fp32", "--color_jitter"]
    for processes in (1, 2):
        run("finetune.py", *tune, "--name", f"f{processes}", "--accumulate", str(3 - processes), processes=processes)
    one, two = (log(run, f"f{processes}", "ft")[0]["loss"] for processes in (1, 2))
    assert two == pytest.approx(one, rel=0.1)
    for script, *flags in (["test.py", "--checkpoint", "log/dualvar/ft/f2/model/latest.pth.tar"],
                           ["retrieval.py", "--pretrain", backbone]):
        one, two = (numbers(run(script, *flags, "--precision", "fp32", processes=n)) for n in (1, 2))
        assert one and one == two


# --- budgets of a training step ----------------------------------------------------------------------------------

# Launches of a step that neither draws pictures nor logs; of waits it has none. There is some room, as versions of
# torch differ.
BUDGETS = {
    "SimCLR, R3D": 700,
    "MoCo, R3D": 770,
    "SimCLR, R3D, 2 processes, `--bn sync`": 1510,
    "MoCo, R3D, 2 processes, `--bn shuffle`": 870,
}
# of the augmentation of 4 videos of the pretraining recipes: waits, launches, times the float clips that it moves
AUGMENTATION = 0, 60, 6


@pytest.mark.parametrize("name", BUDGETS)
def test_budget_of(name, root, tmp_path):
    first, step, last = steps_of(name, root, tmp_path)
    assert not step.waits
    assert step.launches.total() <= BUDGETS[name]
    assert first.waits and last.waits, "of pictures, and of logging: else nothing is counted"


def test_budget_of_augmentation(env, tmp_path):
    pytest.importorskip("triton", reason="Triton is not installed")
    said = succeed("tests/pretend_table.py", "augmentation", "4", cwd=tmp_path, env=env)
    found = [float(re.search(rf"([\d.]+) {word}", said)[1]) for word in ("waits", "launches", "times")]
    assert all(number <= budget for number, budget in zip(found, AUGMENTATION, strict=True)), said

"""Every stage on a pretend CUDA device (pretend_cuda.py), and what a training step would cost on a real one."""
import json

import pytest
from helpers import REPOSITORY, environment, succeed

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
def env(tmp_path_factory):
    """Environment of a child process that can import the files beside this one."""
    return environment(tmp_path_factory.mktemp("data"), PYTHONPATH=f"{REPOSITORY}:{REPOSITORY / 'tests'}")


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

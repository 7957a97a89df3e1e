"""The augmentation's Triton kernels: interpreted on the CPU against the plain code, and compiled for GPUs."""
import importlib.metadata
import importlib.util
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import REPOSITORY, environment, succeed
from packaging.version import Version

from dataset import augment
from dataset.augment import FACTORS, JITTER, MIRROR, FinetuneDraw, PretrainDraw, prepare_plainly


def load():
    """dataset/augment_cuda.py, loaded anew: Triton looks at TRITON_INTERPRET then."""
    pytest.importorskip("triton", reason="Triton is not installed")
    path = Path(augment.__file__).with_name("augment_cuda.py")
    spec = importlib.util.spec_from_file_location("dataset.augment_cuda_of_a_test", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def interpreted(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    module = load()
    if Version(importlib.metadata.version("triton")) < Version("3.8") and Version(np.__version__) >= Version("2.5"):
        pytest.skip("Triton's interpreter works with NumPy 2.5 from Triton 3.8 on")
    import triton.language as tl
    # Triton's interpreter adds up value by value, slowly, but for the sum that it knows
    monkeypatch.setattr(module, "add", getattr(tl.standard, "_sum_combine", module.add))
    return module


@pytest.fixture
def launches(monkeypatch):
    """(the module, its launches): [(kernel, grid, arguments, constants)], of which none is carried out."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    module, found = load(), []
    monkeypatch.setattr(module, "launch", lambda kernel, grid, *arguments, **constants: found.append(
        (kernel, grid, arguments, constants)))
    return module, found


def frames_of(shape, seed=0):
    """Noise, and clips whose hue is hard: grey, black and white, pure colours."""
    frames = np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)
    frames[0] = 77
    frames[1::4] = np.where(frames[1::4] > 127, 255, 0)
    frames[2::4] //= 8
    return torch.from_numpy(frames)


def rows_of(n, rng, **columns):
    rows = PretrainDraw(2)(n, rng)["augment"]
    for name, values in columns.items():
        rows[:, getattr(augment, name)] = values
    return torch.from_numpy(rows)


def difference(module, frames, rows):
    return (module.prepare(frames, rows) - prepare_plainly(frames, rows)).abs().max().item()


def test_every_order_of_jitter(interpreted):
    """With factors at both ends, where values are clamped and the hue wraps round, and with those drawn."""
    rows = rows_of(24, np.random.default_rng(1), ORDER=[*itertools.permutations(range(4))], JITTER=1, BLUR=0, MIRROR=0)
    ends = torch.tensor([[0.2, 1.8, 1.8, -0.2], [1.8, 0.2, 1.8, 0.2], [1.8, 1.8, 0.2, -0.5], [1.3, 0.7, 0.2, 0.5]])
    for shift in range(2):
        assert difference(interpreted, frames_of((24, 1, 7, 5)), rows) < 1e-5
        rows[:, FACTORS] = ends[(torch.arange(24) + shift) % 4]


# heights and widths that differ, clips of less and more than a block, of one frame, as wide as --img_dim 224
@pytest.mark.parametrize("shape", [(6, 2, 24, 20), (4, 1, 9, 31), (5, 3, 29, 17), (4, 1, 7, 7), (3, 1, 8, 224),
                                   (3, 1, 224, 7), (4, 1, 130, 129)], ids=str)
def test_whatever_is_drawn(interpreted, shape):
    rng = np.random.default_rng(sum(shape))
    frames, n = frames_of(shape), len(frames_of(shape))
    rows = rows_of(n, rng, MIRROR=rng.random(n) < 0.5, BLUR=rng.random(n) < 0.7,
                   SIGMA=np.resize([0.1, 2, 1, 4, 0.4], n))
    assert difference(interpreted, frames, rows) < 1e-5
    fine = torch.from_numpy(FinetuneDraw(True, True)(n, rng)["augment"])
    assert difference(interpreted, frames, fine) < 1e-5
    assert difference(interpreted, frames, None) < 1e-5
    fine[:, [JITTER, MIRROR]] = torch.tensor([0.0, 1.0])
    mirrored = interpreted.prepare(frames, fine)
    assert torch.equal(mirrored, interpreted.prepare(frames, None).flip(3))


@pytest.mark.parametrize("sigma", [0.1, 0.25, 2, 4])
def test_blur(interpreted, sigma):
    rows = rows_of(2, np.random.default_rng(0), JITTER=0, BLUR=1, SIGMA=sigma)
    frames = frames_of((2, 2, 12, 9))
    assert difference(interpreted, frames, rows) < 1e-5
    assert (sigma < 0.2) == ((interpreted.prepare(frames, rows) - interpreted.prepare(frames, None)).abs().max() < 1e-3)


def test_launches_and_bytes_of_a_batch(launches):
    """At most four launches that read and write less than six times the clips, whatever is drawn."""
    module, found = launches
    frames = frames_of((24, 16, 112, 112))
    for blurred, most in ((1, 4), (0, 2)):
        found.clear()
        clips = module.prepare(frames, rows_of(24, np.random.default_rng(0), BLUR=blurred))
        moved = sum(x.nbytes for _, _, arguments, _ in found for x in arguments if isinstance(x, torch.Tensor))
        assert len(found) == most and moved < 6 * clips.nbytes
    # 24 x 16 frames, and their pixels by the block
    assert [grid for _, grid, _, _ in found] == [(16, 24), (-(-16 * 112 * 112 // module.BLOCK), 24)]


COUNT = """
import numpy as np, pretend_counts, pretend_cuda, torch
pretend_cuda.install()
from dataset.augment import PretrainDraw, prepare
rng = np.random.default_rng(0)
clips = torch.from_numpy(rng.integers(0, 256, (4, 3, 8, 40, 32, 3), dtype=np.uint8))
rows = torch.from_numpy(np.stack([PretrainDraw(2)(3, rng)["augment"] for _ in range(4)])).pin_memory()
there = clips.to("cuda")
prepare(there, rows)  # tries the kernels once
for parameters in (rows, None):
    with pretend_counts.count() as counts:
        out = prepare(there, parameters)
    total = counts.total()
    print(total["waits"], total["launches"], total["bytes"] / out.nbytes)
    assert torch.equal(out.cpu(), prepare(clips, parameters))
    assert out.flatten(0, 1).is_contiguous(memory_format=torch.channels_last_3d)
"""


def test_costs_of_a_batch_on_a_pretend_device(tmp_path):
    """No wait of the host; the launches of the kernels and one copy, in which all rows go to the device."""
    pytest.importorskip("triton", reason="Triton is not installed")
    (tmp_path / "count.py").write_text(COUNT)
    env = environment(tmp_path, PYTHONPATH=f"{REPOSITORY}:{REPOSITORY / 'tests'}")
    found = [line.split() for line in succeed(tmp_path / "count.py", cwd=tmp_path, env=env).splitlines()]
    assert [(int(waits), int(launches)) for waits, launches, _ in found] == [(0, 5), (0, 3)]
    assert all(float(passes) < 6 for _, _, passes in found)


@pytest.mark.parametrize("capability", [80, *(pytest.param(x, marks=pytest.mark.slow) for x in (70, 75, 90, 100))])
def test_kernels_compile_for_a_gpu(launches, capability, tmp_path, monkeypatch):
    """V100, T4 and RTX 20, A100, H100, B200. For clips of one frame Triton makes kernels of their own."""
    module, found = launches
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    if not list(Path(triton.__file__).parent.glob("backends/nvidia/bin/ptxas*")):
        pytest.skip("this Triton has no ptxas")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    module.prepare(frames_of((4, 1 if capability == 80 else 16, 9, 7)), rows_of(4, np.random.default_rng(0), BLUR=1))
    assert len(found) == 4
    types = {torch.uint8: "*u8", torch.float32: "*fp32", int: "i32"}
    for kernel, _, arguments, constants in (*found[:2], found[3]):  # the other blur is this one without normalising
        given = dict(zip(kernel.arg_names, arguments, strict=False))
        constants |= {"BLOCK": module.BLOCK, **{name: 1 for name, x in given.items() if isinstance(x, int) and x == 1}}
        signature = {name: "constexpr" if name in constants else types[getattr(given[name], "dtype", int)]
                     for name in kernel.arg_names}
        compiled = triton.compile(ASTSource(fn=kernel, signature=signature, constexprs=constants),
                                  target=GPUTarget("cuda", capability, 32))
        assert compiled.asm["cubin"]


@pytest.mark.parametrize("missing", ["triton", "compiler"])
def test_without_triton_the_plain_code_runs_and_says_so(missing, monkeypatch, capsys):
    if missing == "triton":
        monkeypatch.setitem(sys.modules, "dataset.augment_cuda", None)
        monkeypatch.delattr("dataset.augment_cuda", raising=False)
    else:
        pytest.importorskip("triton", reason="Triton is not installed")

        def fail(*arguments, **constants):
            raise RuntimeError("Failed to find C compiler")
        monkeypatch.setattr("dataset.augment_cuda.launch", fail)
    augment.gpu_kernels.cache_clear()
    assert augment.gpu_kernels(torch.device("cpu")) is None and augment.gpu_kernels(torch.device("cpu")) is None
    augment.gpu_kernels.cache_clear()
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "without its Triton kernels" in said
    assert ("C compiler" in said) == (missing == "compiler")

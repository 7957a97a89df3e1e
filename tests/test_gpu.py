"""The same stages on CUDA; skipped where there is none."""
import importlib.util

import numpy as np
import pytest
import torch
from helpers import NARROW, SMALL, environment, make_dataset, succeed

from benchmarks import gpu_checks
from dataset.augment import MIRROR, PretrainDraw, gpu_kernels, prepare
from engine.precision import LOW, PRECISIONS, set_precision
from models import build_backbone

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")
CUDA = [*SMALL, "--device", "cuda"]


def test_stages_on_a_gpu(tmp_path):
    env = environment(make_dataset(tmp_path / "data"))
    options = {"cwd": tmp_path, "env": env, "processes": min(2, torch.cuda.device_count())}
    succeed("train.py", *CUDA, *NARROW, "--framework", "moco", "--moco-k", "8", "--batch_size", "4", "--epochs", "1",
            "--name", "p", **options)
    backbone = "log/dualvar/pretrain/p/model/backbone.pth.tar"
    succeed("finetune.py", *CUDA, "--pretrain", backbone, "--batch_size", "4", "--epochs", "1", "--name", "f",
            **options)
    succeed("test.py", *CUDA, "--checkpoint", "log/dualvar/ft/f/model/latest.pth.tar", **options)
    assert "R@1" in succeed("retrieval.py", *CUDA, "--pretrain", backbone, **options)


@pytest.mark.parametrize("precision", PRECISIONS[1:])
def test_convolutions_compute_in_the_precision_asked_for(precision):
    if precision not in gpu_checks.precisions():
        pytest.skip(f"this GPU has no {precision}")
    shape = (2, 3, 8, 32, 32)
    backbone = build_backbone("r3d", 0.25).cuda().to(memory_format=torch.channels_last_3d)
    assert set_precision([backbone], precision, [shape], torch.device("cuda", 0)) == (precision, [])
    with gpu_checks.Watch() as watch:
        backbone(torch.randn(shape, device="cuda")).sum().backward()
    assert watch.dtypes.keys() == {LOW.get(precision, torch.float32)}
    assert torch.backends.cudnn.allow_tf32 == (precision == "tf32")


def test_augmentation_is_the_same_on_a_gpu():
    rng = np.random.default_rng(0)
    clips = torch.from_numpy(rng.integers(0, 256, (8, 3, 4, 112, 100, 3), dtype=np.uint8))
    rows = torch.from_numpy(np.stack([PretrainDraw(2)(3, rng)["augment"] for _ in range(8)]))
    rows[:, :, MIRROR] = torch.arange(3) % 2
    if importlib.util.find_spec("triton"):
        assert gpu_kernels(clips.cuda().device), "Triton's kernels do not run on this GPU"
    for parameters in (rows, None):
        out = prepare(clips.cuda(), parameters)
        assert out.flatten(0, 1).is_contiguous(memory_format=torch.channels_last_3d)
        assert (out.cpu() - prepare(clips, parameters)).abs().max() < 1e-4

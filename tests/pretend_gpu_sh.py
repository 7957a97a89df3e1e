"""Rehearses benchmarks/gpu.py on the pretend CUDA device, with fewer precisions and networks.

    python tests/pretend_gpu_sh.py [flags of benchmarks/gpu.py]

The numbers of the CPU, to which it compares, are computed with the pretend device off: no backward pass can run on the
CPU beside it.
"""
import functools
import multiprocessing
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
import pretend_cuda  # noqa: E402
from torch.utils._python_dispatch import _disable_current_modes  # noqa: E402

pretend_cuda.install()

from benchmarks import gpu, gpu_checks  # noqa: E402
from core.exits import run  # noqa: E402


def off_for_the_cpu(function):
    @functools.wraps(function)
    def called(settings, *arguments):
        if "cpu" not in map(str, arguments):
            return function(settings, *arguments)
        with _disable_current_modes():
            return function(settings, *arguments)
    return called


# here, and in the server whose children run the sections, which imports this file
gpu_checks.gradients = off_for_the_cpu(gpu_checks.gradients)
gpu_checks.all_stages = off_for_the_cpu(gpu_checks.all_stages)
gpu_checks.precisions = lambda: ["fp32", "bf16"]
gpu_checks.BACKBONES = {net: gpu_checks.BACKBONES[net] for net in ("r3d", "c3d")}
gpu.NETS = ("r3d",)
gpu.PATIENCE = 60  # on a busy machine

if __name__ == "__main__":
    preload = multiprocessing.set_forkserver_preload
    multiprocessing.set_forkserver_preload = lambda modules: preload([Path(__file__).stem, *modules])
    run(gpu.main)

"""Versions, commit and machine behind numbers and weights."""
import functools
import os
import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from .imports import REPOSITORY


@functools.cache
def versions() -> dict[str, Any]:
    """Versions, commit and machine behind a run's numbers, and when it first asked for them."""
    import cv2
    import numpy as np
    import torch

    from .dist import world_size

    return {"commit": commit() or "not a git checkout", "python": platform.python_version(),
            "torch": str(torch.__version__), "torchvision": metadata.version("torchvision"), "opencv": cv2.__version__,
            "numpy": np.__version__, "processes": world_size(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "started": time.strftime("%Y-%m-%d %H:%M:%S")}


def commit() -> str:
    """What git calls the project's state; "" where it is not installed, or this is no checkout."""
    try:
        done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=REPOSITORY, capture_output=True,
                              text=True)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def machine() -> str:
    """This machine's processor, memory, GPU and system, as text."""
    import torch

    facts = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
    facts = {name.strip(): value.strip() for name, value in facts.items()}
    flags = facts.get("flags", "").split()
    simd = next((name for name in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if name in flags), "no AVX2")
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU"
    return (f"{len(os.sched_getaffinity(0))} cores of {facts.get('model name', 'unknown processor')} ({simd}), "
            f"{size:.0f} GiB{gpu}, Linux {os.uname().release}")

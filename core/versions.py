"""Versions, commit and machine behind numbers and weights."""
import functools
import platform
import subprocess
import time
from importlib import metadata
from typing import Any

from .imports import REPOSITORY


@functools.cache
def versions() -> dict[str, Any]:
    """Versions, commit and machine behind a run's numbers, and when it first asked for them."""
    import cv2
    import numpy as np
    import torch

    from .dist import world_size

    git = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=REPOSITORY, capture_output=True, text=True)
    return {"commit": git.stdout.strip() or "not a git checkout", "python": platform.python_version(),
            "torch": str(torch.__version__), "torchvision": metadata.version("torchvision"), "opencv": cv2.__version__,
            "numpy": np.__version__, "processes": world_size(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "started": time.strftime("%Y-%m-%d %H:%M:%S")}

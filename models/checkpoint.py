"""Checkpoint files: written whole, read with checks. They hold tensors and plain types and cannot run code."""
import re
from pathlib import Path

import torch

from dataset.files import whole_file


class CheckpointError(ValueError):
    """A checkpoint is missing, unreadable or does not fit; the message is one sentence for the user."""


def write_checkpoint(path, content):
    with whole_file(path) as temporary:
        torch.save(content, temporary)


def read_checkpoint(path):
    """Read a checkpoint of ours or the release's, on the CPU.

    Returns its dict with "state_dict" (names without `module.`) and "config" (the arguments the model was
    built with; {} where the file does not say). Raises CheckpointError.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged or foreign file makes the reader stumble over
        found = re.search(r"GLOBAL (\S+)", str(error))
        raise CheckpointError(f"checkpoint {path} " + (
            f"holds more than tensors and plain types ({found[1]}), which is not loaded because it could run code"
            if found else "is damaged or no checkpoint")) from error
    if isinstance(content, dict) and content and all(isinstance(value, torch.Tensor) for value in content.values()):
        content = {"state_dict": content}
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise CheckpointError(f"checkpoint {path} holds no state_dict")
    config = content.get("config")
    return {**content, "config": config if isinstance(config, dict) else {},
            "state_dict": strip_module(content["state_dict"])}


def strip_module(state_dict):
    """Without the `module.` that DataParallel and DistributedDataParallel put before every name."""
    wrapped = state_dict and all(key.startswith("module.") for key in state_dict)
    return {key.removeprefix("module."): value for key, value in state_dict.items()} if wrapped else state_dict

"""Checkpoint files: written whole, read with checks. They hold tensors and plain types and cannot run code."""
import errno
import hashlib
import io
import os
import re
import shutil
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.errors import CheckpointError
from core.files import whole_file
from core.inputs import DEEPEST
from core.names import shown

LATEST, PREVIOUS = "latest.pth.tar", "previous.pth.tar"
CONTAINERS = ("state_dict", "model_state_dict", "model_state", "model")  # of the weights, in the field's habits
MOST_VALUES = 10**6  # that a file may hold, tensors counting once
LONGEST_NUMBER = 4096  # bits
ZIP_FOLDER = 0x10  # attribute of a folder; torch would leave memory as it was for a tensor marked so
EPOCH = re.compile(r"epoch(\d+)\.pth\.tar")


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Save `content` to `path`; where that fails (a full disk, say) `path` is as it was, and OSError is raised."""
    buffer = io.BytesIO()  # torch's own writer to a file hides what the system says
    torch.save(content, buffer)
    with whole_file(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def write_latest(folder: Path, content: Mapping[str, Any], epoch: int | None = None, keep: int = 0,
                 keep_epoch: int | None = None) -> None:
    """Make `content` the latest checkpoint of a run's model/ folder; the one before stays, as previous.

    epoch: number of the copy epoch<N>.pth.tar to make, if any; of such copies the last `keep` stay (0: all), and
    number `keep_epoch`. A kill at any moment leaves a whole latest or previous, and no latest whose copy is not there.
    """
    written = folder / "next.pth.tar"
    write_checkpoint(written, content)
    if epoch is not None:
        with whole_file(folder / f"epoch{epoch}.pth.tar") as temporary:
            shutil.copyfile(written, temporary)
    if (folder / LATEST).exists():
        os.replace(folder / LATEST, folder / PREVIOUS)
    os.replace(written, folder / LATEST)
    copies = epoch_copies(folder)
    for old in list(copies)[keep:] if keep else ():
        if old != keep_epoch:
            copies[old].unlink()


def epoch_copies(folder: Path) -> dict[int, Path]:
    """{N: path} of the epoch<N>.pth.tar files of a folder, the latest first."""
    found = {int(match[1]): path for path in folder.glob("epoch*.pth.tar") if (match := EPOCH.fullmatch(path.name))}
    return dict(sorted(found.items(), reverse=True))


def saved_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of a run's model/ folder to go on from, the latest first."""
    return [path for path in (folder / LATEST, folder / PREVIOUS) if path.exists()] + [*epoch_copies(folder).values()]


def read_last_good(folder: Path) -> tuple[dict[str, Any], Path, dict[Path, str]]:
    """The last checkpoint of a run's model/ folder that is whole -> (content, path, {later one: its fault}).

    Raises CheckpointError where none is.
    """
    damaged: dict[Path, str] = {}
    for path in saved_checkpoints(folder):
        try:
            return read_checkpoint(path), path, damaged
        except CheckpointError as error:
            damaged[path] = str(error)
    raise CheckpointError(f"{'; '.join(damaged.values())}: no checkpoint in {folder} is whole: remove it to begin "
                          "again")


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of ours or the release's, on the CPU.

    Returns its dict with "state_dict" (names without `module.`) and "config" (the arguments the model was
    built with; {} where the file does not say). Raises CheckpointError, and OSError where the system cannot read it.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} " + (
            "is a folder" if path.is_dir() else "is not a regular file" if path.exists() else "does not exist"))
    with open(path, "rb"):  # a file that may not be read is not a damaged one
        pass
    try:
        broken = damaged_member(path) if zipfile.is_zipfile(path) else None  # torch before 1.6 wrote no zip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch says what it thinks of a foreign file
            content = None if broken else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged or foreign file makes the readers stumble over
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        found = re.search(r"GLOBAL (\S+)", str(error))
        raise CheckpointError(f"checkpoint {path} " + (
            f"holds more than tensors and plain types ({found[1]}), which is not loaded because it could run code"
            if found else "is damaged or no checkpoint")) from error
    if broken:
        raise CheckpointError(f"checkpoint {path} is damaged: {shown(broken)} in it is not as it was written")
    if strange := unbounded(content):
        raise CheckpointError(f"checkpoint {path} is damaged or no checkpoint: it holds {strange}")
    content = content if isinstance(content, dict) else {}
    if content and all(isinstance(value, torch.Tensor) for value in content.values()):
        content = {"state_dict": content}
    weights = next((content[name] for name in CONTAINERS if isinstance(content.get(name), dict)), None)
    if weights is None or not all(isinstance(key, str) for key in weights):
        raise CheckpointError(f"checkpoint {path} holds no state_dict")
    config = content.get("config")
    return {**content, "config": config if isinstance(config, dict) else {}, "state_dict": strip_module(weights)}


def damaged_member(path: Path) -> str | None:
    """Name of a zip file's first member that is not as torch wrote it, or None.

    torch writes a checksum for every tensor and does not look at it. It compresses nothing: what is or pretends to be
    larger than the file would take memory without bound.
    """
    with zipfile.ZipFile(path) as archive:
        room = path.stat().st_size
        for info in archive.infolist():
            room -= info.file_size
            if info.external_attr & ZIP_FOLDER or info.compress_type != zipfile.ZIP_STORED or room < 0:
                return info.filename
        return archive.testzip()


def unbounded(content: object) -> str | None:
    """What of a file's content cannot be walked through or shown in bounded time, as text, or None."""
    level, count = [content], 0
    for _ in range(DEEPEST):
        below: list[object] = []
        for value in level:
            if isinstance(value, dict):
                if not all(key is None or isinstance(key, (str, int, float)) for key in value):
                    return "a dictionary whose keys are no names"
                below.extend(value)
                below.extend(value.values())
            elif isinstance(value, (list, tuple, set)):
                below.extend(value)
            elif isinstance(value, int) and value.bit_length() > LONGEST_NUMBER:
                return f"a number of {value.bit_length()} bits"
            if count + len(below) > MOST_VALUES:
                return f"more than {MOST_VALUES} values"
        if not below:
            return None
        level, count = below, count + len(below)
    return f"values more than {DEEPEST} deep"


def fingerprint(state_dict: Mapping[str, Tensor]) -> str:
    """A short text that changes with any value or name of a state dict."""
    digest = hashlib.blake2b(digest_size=8)
    for name, value in sorted(state_dict.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def strip_module(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the `module.` that DataParallel and DistributedDataParallel put before every name."""
    wrapped = state_dict and all(key.startswith("module.") for key in state_dict)
    return {key.removeprefix("module."): value for key, value in state_dict.items()} if wrapped else state_dict

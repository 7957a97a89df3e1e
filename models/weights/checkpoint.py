"""Checkpoint files: written whole, read with checks. They hold tensors and plain types and cannot run code."""
import errno
import hashlib
import io
import os
import re
import shutil
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.errors import CheckpointError
from core.files import whole_file
from core.inputs import DEEPEST
from core.names import quoted, shown

from ..protocol import Protocol

LATEST, PREVIOUS = "latest.pth.tar", "previous.pth.tar"
# of the weights, in the field's habits; they stand in each other too
CONTAINERS = ("state_dict", "model_state_dict", "model_state", "model", "module", "network", "net", "backbone",
              "encoder", "classy_state_dict", "base_model", "trunk")
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


def become_latest(folder: Path, path: Path) -> None:
    """Make a checkpoint the latest of a run's folder, so that the run goes on from it after a kill too.

    What was the latest and the one before it are another try's from now on, and called former_... .
    """
    if (folder / LATEST).exists() and (folder / LATEST).samefile(path):
        return
    with whole_file(folder / LATEST) as temporary:
        shutil.copyfile(path, temporary)
        for former in (folder / PREVIOUS, folder / LATEST):
            if former.exists() and not former.samefile(path):  # which other processes may be reading
                os.replace(former, former.with_name(f"former_{former.name}"))


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


def read_checkpoint(path: str | Path, entry: str | None = None) -> dict[str, Any]:
    """Read a checkpoint of ours or of others, on the CPU.

    entry: which of its dictionaries holds the weights, keys joined by dots; None: found by the names of CONTAINERS.
    Returns its dict with "state_dict" (names without `module.`) and "config" (the arguments the model was built with;
    {} where the file does not say). Raises CheckpointError, also where several dictionaries may be meant, and OSError
    where the system cannot read it.
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
            f"holds more than tensors and plain types ({found[1]}), which is not loaded because it could run code: "
            "save its state_dict alone, where it comes from"
            if found else "is damaged or no checkpoint")) from error
    if broken:
        raise CheckpointError(f"checkpoint {path} is damaged: {shown(broken)} in it is not as it was written")
    if strange := unbounded(content):
        raise CheckpointError(f"checkpoint {path} is damaged or no checkpoint: it holds {strange}")
    content = content if isinstance(content, dict) else {}
    weights, holder = _weights(content, entry, f"checkpoint {path}")
    config = holder.get("config", content.get("config"))
    return {**content, "config": config if isinstance(config, dict) else {}, "state_dict": strip_module(weights)}


def _weights(content: dict[Any, Any], entry: str | None, source: str) -> tuple[dict[str, Any], Mapping[Any, Any]]:
    """-> (the dictionary with the weights, the one that it is an entry of). Raises CheckpointError."""
    inside: Any = content
    holder: Mapping[Any, Any] = {}
    for key in [] if entry is None else entry.split("."):
        inside, holder = inside.get(key), inside
        if not isinstance(inside, dict):
            raise CheckpointError(f"{source} has no entry {quoted(str(entry))} that is a dictionary")
    found = {id(weights): (where, weights, of) for where, weights, of in containers(inside)}
    if len(found) == 1:
        [(_, inside, holder)] = found.values()
    elif found or entry is None and not all(isinstance(value, torch.Tensor) for value in inside.values()):
        inside = {}
    if inside and all(isinstance(key, str) for key in inside):
        return inside, holder
    several = [where for where, *_ in found.values()] if len(found) > 1 else []
    if others := several or list(dict.fromkeys(with_tensors(content))):
        what = "holds weights in" if several else "holds no state_dict, but tensors in"
        raise CheckpointError(f"{source} {what} {', '.join(map(shown, others[:5]))}: choose one with --entry of python "
                              "-m models.weights convert")
    if tensors := [key for key, value in content.items() if isinstance(value, torch.Tensor)]:
        others = [key for key in content if key not in tensors]
        raise CheckpointError(f"{source} holds no state_dict, but tensors beside {', '.join(map(shown, others[:5]))}: "
                              "save the tensors alone")
    if not any(content.get(name) == {} for name in CONTAINERS):
        raise CheckpointError(f"{source} holds no state_dict")
    return {}, content


def containers(content: Mapping[Any, Any], where: str = "") -> Iterator[tuple[str, dict[Any, Any], Mapping[Any, Any]]]:
    """Yields (keys joined by dots, the dictionary, the one that it is an entry of) of what may be the weights.

    These are dictionaries with tensors under the names of CONTAINERS, as deep as such names stand in each other.
    """
    for name in CONTAINERS:
        inside = content.get(name)
        if isinstance(inside, dict):
            deeper = list(containers(inside, f"{where}{name}."))
            yield from deeper or [(where + name, inside, content)] * _holds_tensors(inside)


def with_tensors(content: Mapping[Any, Any], where: str = "") -> Iterator[str]:
    """Yields where dictionaries of names with tensors are in a checkpoint's content, as keys joined by dots."""
    for name, inside in content.items():
        if isinstance(inside, dict) and isinstance(name, str):
            if _holds_tensors(inside) and all(isinstance(key, str) for key in inside):
                yield where + name
            yield from with_tensors(inside, f"{where}{name}.")


def _holds_tensors(content: Mapping[Any, Any]) -> bool:
    return any(isinstance(value, torch.Tensor) for value in content.values())


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


def fingerprint(state_dict: Mapping[str, Tensor], protocol: Protocol) -> str:
    """A short text that changes with any value or name of a state dict, and if its clips are normalised differently."""
    digest = hashlib.blake2b(digest_size=8)
    if protocol.converts:
        digest.update(repr((protocol.mean, protocol.std)).encode())
    for name, value in sorted(state_dict.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def strip_module(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the `module.` that DataParallel and DistributedDataParallel put before every name."""
    wrapped = state_dict and all(key.startswith("module.") for key in state_dict)
    return {key.removeprefix("module."): value for key, value in state_dict.items()} if wrapped else state_dict

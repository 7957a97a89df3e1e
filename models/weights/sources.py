"""Where weights come from: a checkpoint, a folder that `save` wrote, one on the Hugging Face hub, torchvision."""
from pathlib import Path
from typing import Any

from . import hub, torchvision_zoo
from .checkpoint import read_checkpoint
from .share import downloaded, read_folder


def read_weights(source: str | Path, entry: str | None = None) -> dict[str, Any]:
    """The weights that --pretrain names, on the CPU, as read_checkpoint gives them.

    source: path of a checkpoint or of a folder, hf:owner/name, or torchvision:name; entry: of a checkpoint, as there.
    Raises CheckpointError, DataError, and UsageError for a name that the hub could not have, or torchvision has not.
    """
    if str(source).startswith(torchvision_zoo.PREFIX):
        return torchvision_zoo.published(str(source))
    if is_remote(source):
        return read_folder(*downloaded(str(source)))
    return read_folder(Path(source)) if Path(source).is_dir() else read_checkpoint(source, entry)


def is_remote(source: str | Path) -> bool:
    """Whether --pretrain names something that is no path on this machine."""
    return str(source).startswith((hub.PREFIX, torchvision_zoo.PREFIX))

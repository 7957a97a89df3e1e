"""The weights that torchvision publishes for its video networks, by its own table, in the cache of torch.hub."""
import hashlib
import http.client
import re
import urllib.error
from pathlib import Path
from typing import Any

import torch

from core.errors import CheckpointError, UsageError
from core.files import one_at_a_time
from core.inputs import hash_of
from core.names import printable, quoted

from ..backbones import BACKBONES
from .checkpoint import read_checkpoint

PREFIX = "torchvision:"
NETS = {"r3d_18": "r3d_18", "mc3_18": "mc3_18", "r2plus1d_18": "r2plus1d_18", "s3d": "s3d_tv",
        "mvit_v2_s": "mvit_v2_s", "swin3d_t": "swin3d_t"}  # {its name: ours}
FORM = re.compile(rf"{PREFIX}([^:]*)(?::weights=([^:]*))?")
LARGEST = 2**30  # bytes of a file
HASH = re.compile(r"-([0-9a-f]{8,64})\.pth")  # the first digits of its SHA-256, in a file's name


def named(source: str) -> tuple[str, str]:
    """"torchvision:NAME" or "torchvision:NAME:weights=ENTRY" -> (its network here, address of the file).

    Raises UsageError for a name that is not in torchvision's table.
    """
    found = FORM.fullmatch(source)
    if not found or found[1] not in NETS:
        raise UsageError(f"{quoted(source)}: give {PREFIX} and one of {', '.join(NETS)}, and :weights=ENTRY for "
                         "another entry of its table")
    from torchvision.models import get_model_weights  # seconds, that other weights do not need
    table = get_model_weights(found[1]).__members__
    if found[2] is not None and found[2] not in table:
        raise UsageError(f"{quoted(source)}: torchvision has no such weights of it: give {', '.join(table)}")
    return NETS[found[1]], table[found[2] or "DEFAULT"].url


def published(source: str) -> dict[str, Any]:
    """The weights that `source` names, as in `named` -> as read_checkpoint gives them, with network and protocol.

    Downloaded where the cache has them not. Raises CheckpointError where the file is not to be had, or is not the
    published one.
    """
    net, url = named(source)
    checkpoint = read_checkpoint(cached(source, url))
    config = {"net": net, "width": 1.0, "protocol": BACKBONES[net].published.values()}
    return {"state_dict": checkpoint["state_dict"], "config": config, "origin": "torchvision"}


def cached(source: str, url: str) -> Path:
    """The file of an address in torch.hub's folder, TORCH_HOME, downloaded if need be; its hash is checked each time.

    torchvision itself checks it after a download alone. Of processes that share the folder one downloads, and the rest
    wait for it.
    """
    path = place_of(url)
    folder = path.parent
    found = HASH.search(path.name)
    if not found:
        raise CheckpointError(f"{source}: {url} does not say its hash, and is not taken")
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(folder):
            if not path.exists():
                download(source, url, path, found[1])
    digest = hash_of(path, hashlib.sha256(), LARGEST)
    if not digest.startswith(found[1]):
        raise CheckpointError(f"{source}: {path} is damaged, or not what torchvision published (SHA-256 "
                              f"{digest[:8]}...): remove it")
    return path


def place_of(url: str) -> Path:
    """Where the file of an address is in torch.hub's folder, once it is downloaded."""
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def download(source: str, url: str, path: Path, digest: str) -> None:
    """Put the file of an address at `path` whole, or raise CheckpointError; digest: the first digits of its SHA-256."""
    print(f"downloading {url} to {path}", flush=True)
    try:
        torch.hub.download_url_to_file(url, str(path), digest)
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise CheckpointError(f"{source}: {url} cannot be reached ({printable(str(error))}): connect to the network, "
                              f"or copy the file from another machine to {path}") from error
    except RuntimeError as error:  # the hash
        raise CheckpointError(f"{source}: what came from {url} is not what torchvision published: try again"
                              ) from error

"""Folders of saved features: for each part of a split, of its videos in the order of the list,

    <part>_features.npy  (V, D) float32, means over clips     <part>_labels.npy  (V,) int64
    <part>_names.txt     a row a video, "class/video"         <part>_clips.npy   (V, K, D) float32, where asked for

and protocol.json, how the clips were taken, which is written last: without it the folder is not whole.
"""
import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.errors import DataError
from core.files import write_npy, write_text
from core.inputs import read_lines, read_npy, read_text
from dataset.lists import VideoList

PARTS = ("train", "test")
PROBED = ("probe.json", "probe_apart.json")  # what analysis.probe adds, of the whole training list and with --apart
AGAIN = "write the features again"
LARGEST = 1e15  # of a feature: sums of squares stay finite in float32


def write_features(folder: str | Path, lists: Mapping[str, VideoList], features: Mapping[str, Tensor],
                   clips: Mapping[str, Tensor], protocol: str) -> None:
    """Write the features of each part, {part: (V, D)}, and of single clips for the parts in `clips`, {part: (V, K, D)}.
    """
    folder = Path(folder)
    for name in ("protocol.json", *PROBED):  # of the features that were here
        (folder / name).unlink(missing_ok=True)
    for part, videos in lists.items():
        arrays = {"features": features[part].numpy(), "labels": videos.labels}
        if part in clips:
            arrays["clips"] = clips[part].numpy()
        else:
            (folder / f"{part}_clips.npy").unlink(missing_ok=True)
        for name, values in arrays.items():
            write_npy(folder / f"{part}_{name}.npy", values)
        write_text(folder / f"{part}_names.txt", "".join(f"{name}\n" for name in videos.names))
    write_text(folder / "protocol.json", protocol)


def features_fingerprint(folder: str | Path) -> str:
    """A short text that changes with any of the features in a folder. Raises DataError where one is damaged."""
    digest = hashlib.blake2b(digest_size=8)
    for part in PARTS:
        digest.update(np.ascontiguousarray(read_npy(Path(folder) / f"{part}_features.npy", "f4", 2, AGAIN)))
    return digest.hexdigest()


def read_features(folder: str | Path, part: str, flag: str,
                  kind: str = "features") -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    """-> (features (V, D), or of kind "clips" (V, K, D), float32; labels (V,) int64; names (V,) str; protocol, text)

    Raises DataError, which names `flag`, where a file is missing, damaged or does not belong to the others.
    """
    folder = Path(folder)
    names, values = folder / f"{part}_names.txt", folder / f"{part}_{kind}.npy"
    labels, protocol = folder / f"{part}_labels.npy", folder / "protocol.json"
    for path in (protocol, names, values, labels):
        if not path.is_file():
            raise DataError(f"{flag}: {path} does not exist: write it with retrieval.py --save_features {folder}"
                            + (" --per_clip" if path == values and kind == "clips" else ""))
    try:
        found = (read_npy(values, "f4", 3 if kind == "clips" else 2, AGAIN), read_npy(labels, "i8", 1, AGAIN),
                 np.array(read_lines(names, AGAIN), dtype=str), read_text(protocol, AGAIN))
    except DataError as error:
        raise DataError(f"{flag}: {error}") from error
    array = found[0]
    if not len(array) == len(found[1]) == len(found[2]) or 0 in array.shape:
        raise DataError(f"{flag}: the {part} files in {folder} do not belong together: {AGAIN}")
    if max(array.max(), -array.min()) > LARGEST:
        raise DataError(f"{flag}: {values} holds values beyond {LARGEST:g}, as no network gives them: {AGAIN}")
    return found


def read_features_of(folder: str | Path, part: str, videos: VideoList, flag: str, dataset: str,
                     split: int) -> tuple[Tensor, str]:
    """Saved features of a list, checked to be of this very list -> ((V, D) tensor, their protocol as text).

    videos: the VideoList, `part` of a split of a data set. Raises DataError, which names `flag`, where they are not.
    """
    values, labels, names, protocol = read_features(folder, part, flag)
    if names.tolist() != videos.names.tolist() or labels.tolist() != videos.labels.tolist():
        raise DataError(f"{flag}: {folder} is of another list than {dataset}'s {part} list of split {split}")
    return torch.from_numpy(values), protocol

"""Folders of saved features: for each part of a split, of its videos in the order of the list,

    <part>_features.npy  (V, D) float32, means over clips     <part>_labels.npy  (V,) int64
    <part>_names.txt     a row a video, "class/video"         <part>_clips.npy   (V, K, D) float32, where asked for

and protocol.json, how the clips were taken, which is written last: without it the folder is not whole.
"""
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from core.errors import DataError
from core.files import whole_file
from dataset.lists import VideoList

PARTS = ("train", "test")


def write_features(folder: str | Path, lists: Mapping[str, VideoList], features: Mapping[str, Tensor],
                   clips: Mapping[str, Tensor], protocol: str) -> None:
    """Write the features of each part, {part: (V, D)}, and of single clips for the parts in `clips`, {part: (V, K, D)}.
    """
    folder = Path(folder)
    (folder / "protocol.json").unlink(missing_ok=True)
    for part, videos in lists.items():
        arrays = {"features": features[part].numpy(), "labels": videos.labels}
        if part in clips:
            arrays["clips"] = clips[part].numpy()
        else:
            (folder / f"{part}_clips.npy").unlink(missing_ok=True)
        for name, values in arrays.items():
            with whole_file(folder / f"{part}_{name}.npy") as path, open(path, "wb") as file:
                np.save(file, values)
        with whole_file(folder / f"{part}_names.txt") as path:
            path.write_text("".join(f"{name}\n" for name in videos.names), encoding="utf-8")
    with whole_file(folder / "protocol.json") as path:
        path.write_text(protocol)


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
        found = (np.load(values, allow_pickle=False), np.load(labels, allow_pickle=False),
                 np.array(names.read_text(encoding="utf-8").splitlines()), protocol.read_text(encoding="utf-8"))
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{flag}: a file of the {part} features in {folder} is damaged ({error}): write them "
                        "again") from error
    array = found[0]
    if array.dtype != np.float32 or not np.isfinite(array).all():
        raise DataError(f"{flag}: {values} holds values that are no float32, or not finite: write the features again")
    whole = len(array) == len(found[1]) == len(found[2]) and 0 not in array.shape
    if array.ndim != (3 if kind == "clips" else 2) or not whole:
        raise DataError(f"{flag}: the {part} files in {folder} do not belong together: write the features again")
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


class Thumbnail(nn.Module):
    """The floor that learning must beat: clips (N, 3, T, H, W) as mean pictures of 12 x 16 px, (N, 576, 1, 1, 1)."""

    def forward(self, clips: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(clips.mean(dim=2), (12, 16)).flatten(1)[:, :, None, None, None]

"""Video lists: CSV rows `class/video,frames` and the class index that gives each class its label."""
import csv
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .local_dataset import DATASETS


class DataError(ValueError):
    """Lists or frames are not as they must be; the message is one sentence for the user."""


@dataclass(frozen=True)
class VideoList:
    """Columns of one list as arrays, which loader workers share without copying.

    names: (N,) str "class/video"; num_frames: (N,) int64; labels: (N,) int64, 0-based;
    classes: (C,) str in label order.
    """

    names: np.ndarray
    num_frames: np.ndarray
    labels: np.ndarray
    classes: np.ndarray

    def __len__(self):
        return len(self.names)

    def subset(self, indices):
        return VideoList(self.names[indices], self.num_frames[indices], self.labels[indices], self.classes)


def local_dataset(name):
    """The entry of dataset/local_dataset.py called `name`."""
    if name not in DATASETS:
        raise DataError(f"--dataset {name} is not in dataset/local_dataset.py (it knows {', '.join(DATASETS)}): "
                        "add a line for it there")
    return DATASETS[name]


def read_class_index(path):
    """`1 ApplyEyeMakeup` lines (numbers from 1, names may hold spaces) -> {name: label from 0}."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"class index {path} does not exist: write it with process_data/src/write_csv.py")
    index = {}
    for row, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        number, _, name = line.strip().partition(" ")
        if not number.isdigit() or not name or int(number) != len(index) + 1 or name in index:
            raise DataError(f"{path} row {row}: expected '{len(index) + 1} <class name>' with a new name, got {line!r}")
        index[name] = len(index)
    if not index:
        raise DataError(f"class index {path} is empty: write it with process_data/src/write_csv.py")
    return index


def read_list(path, class_index):
    """CSV rows `class/video,frames` -> VideoList. `class_index`: {class: label} of read_class_index."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"list {path} does not exist: write it with process_data/src/write_csv.py")
    names, counts, labels = [], [], []
    with open(path, newline="", encoding="utf-8") as file:
        for row, fields in enumerate(csv.reader(file), 1):
            if len(fields) != 2 or not re.fullmatch(r"\s*\d+\s*", fields[1]):
                raise DataError(f"{path} row {row}: expected 'class/video,frames', got {','.join(fields)!r}")
            name, frames = fields[0], int(fields[1])
            class_name, slash, video = name.rpartition("/")
            if not slash or not video:
                raise DataError(f"{path} row {row}: {name!r} is not of the form class/video")
            if class_name not in class_index:
                raise DataError(f"{path} row {row}: class {class_name!r} is not in the data set's ClassInd.txt")
            if frames == 0:
                raise DataError(f"{path} row {row}: {name} has 0 frames: extract it again or take the row out "
                                "(write_csv.py --allow_missing leaves such videos out)")
            names.append(name)
            counts.append(frames)
            labels.append(class_index[class_name])
    if not names:
        raise DataError(f"list {path} is empty: write it with process_data/src/write_csv.py")
    return VideoList(np.array(names), np.array(counts), np.array(labels), np.array(list(class_index)))


def open_list(dataset, part, split):
    """The `part` ("train" or "test") list of split `split` (from 1) of a data set in local_dataset.py."""
    local = local_dataset(dataset)
    if not 1 <= split <= local.splits:
        raise DataError(f"--split {split}: {dataset} has splits 1 to {local.splits}")
    if not local.frames.is_dir():
        raise DataError(f"frames of {dataset} are not at {local.frames}: run process_data/src/extract_frame.py, "
                        "or edit dataset/local_dataset.py (or set DUALVAR_DATA)")
    return read_list(local.lists / f"{part}_split{split:02d}.csv", read_class_index(local.class_index))


def video_groups(names, pattern):
    """Recording that each video was cut from, by a rule of local_dataset.py: (N,) str."""
    rule = re.compile(pattern)
    matches = [rule.fullmatch(name) for name in names]
    return np.array([m["group"] if m else name for name, m in zip(names, matches, strict=True)])


def hold_out(videos, fraction, pattern, seed=0):
    """Split a training list into (kept, held out), no recording on both sides.

    Groups are visited in a seeded random order and held out while every class in them is still under its
    share `fraction` of videos. Raises DataError where nothing can be held out or nothing would be left.
    """
    groups = video_groups(videos.names, pattern)
    quota = np.bincount(videos.labels, minlength=len(videos.classes)) * fraction
    taken = np.zeros_like(quota)
    held = np.zeros(len(videos), dtype=bool)
    members = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    order = np.random.default_rng(seed).permutation(len(members))
    names = list(members)
    for g in order:
        rows = members[names[g]]
        share = np.bincount(videos.labels[rows], minlength=len(videos.classes))
        if np.all(taken[share > 0] + share[share > 0] / 2 <= quota[share > 0]):
            held[rows] = True
            taken += share
    if not held.any() or held.all():
        raise DataError(f"--holdout {fraction}: the list has {len(videos)} videos in {len(members)} recordings, which "
                        "cannot be divided so; choose another fraction")
    return videos.subset(np.flatnonzero(~held)), videos.subset(np.flatnonzero(held))

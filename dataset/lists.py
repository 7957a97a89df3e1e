"""Video lists: CSV rows `class/video,frames` and the class index that gives each class its label."""
import hashlib
import re
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from core.errors import DataError, UsageError
from core.inputs import csv_rows, read_lines, read_text
from core.names import name_fault, quoted

from .local_dataset import DATASETS, LocalDataset
from .rates import frame_rates
from .sampling import Sampler

CLASS = re.compile(r"0*(?P<number>[0-9]+)[ \t]+(?P<name>.+)")
FRAMES = re.compile(r"[ \t]*[0-9]{1,9}[ \t]*")  # not \d, which matches the digits of all scripts
WRITE = "write it with process_data/src/write_csv.py, or edit dataset/local_dataset.py"
MEND = "mend the row, or write the list again with process_data/src/write_csv.py"


@dataclass(frozen=True)
class VideoList:
    """Columns of one list as arrays, which forked loader workers share without copying them.

    names: (N,) str "class/video"; num_frames: (N,) int64; labels: (N,) int64, 0-based;
    classes: (C,) str in label order; pace: (N,) float64, frames of each video from one time to the next, with --fps;
    without, the stride counts frames.
    """

    names: np.ndarray
    num_frames: np.ndarray
    labels: np.ndarray
    classes: np.ndarray
    pace: np.ndarray | float = 1.0

    def __len__(self) -> int:
        return len(self.names)

    def fingerprint(self) -> str:
        """Number of videos and a hash of all rows and classes."""
        digest = hashlib.sha256("\n".join([*self.names, *self.classes]).encode() + self.num_frames.tobytes())
        if isinstance(self.pace, np.ndarray):
            digest.update(self.pace.tobytes())
        return f"{len(self)} videos, {digest.hexdigest()[:12]}"

    def subset(self, indices: np.ndarray) -> "VideoList":
        """The videos at `indices`, (M,) int; the classes stay."""
        return VideoList(self.names[indices], self.num_frames[indices], self.labels[indices], self.classes,
                         self.pace[indices] if isinstance(self.pace, np.ndarray) else self.pace)

    def at_rate(self, fps: float, rates: np.ndarray) -> "VideoList":
        """The same videos, of which clips take `fps` frames a second; rates: (N,) their own frames a second."""
        return replace(self, pace=rates / fps)

    def pace_of(self, index: int) -> float:
        """Frames of video `index` from one time to the next."""
        return float(self.pace[index] if isinstance(self.pace, np.ndarray) else self.pace)

    def frames_of(self, sampler: Sampler, index: int, rng: np.random.Generator) -> np.ndarray:
        """The frames of video `index` that a sampler takes -> (V, T) int64."""
        return sampler(int(self.num_frames[index]), rng, self.pace_of(index))


def local_dataset(name: str) -> LocalDataset:
    """The entry of dataset/local_dataset.py called `name`. Raises UsageError where there is none."""
    if name not in DATASETS:
        raise UsageError(f"--dataset {name} is not in dataset/local_dataset.py (it knows {', '.join(DATASETS)}): "
                         "add a line for it there")
    return DATASETS[name]


def class_fault(name: str) -> str | None:
    """Why no class index could carry a class's name -> text, or None."""
    return name_fault(name) or (None if name == name.strip() else "it has white space at an end")


def read_class_index(path: Path) -> dict[str, int]:
    """`1 ApplyEyeMakeup` lines (numbers from 1, names may hold spaces) -> {name: label from 0}.

    Blank lines and white space around a name are ignored.
    """
    index: dict[str, int] = {}
    for row, line in enumerate(read_lines(path, WRITE), 1):
        if not (line := line.strip()):
            continue
        match = CLASS.fullmatch(line)
        if not match or match["number"] != str(len(index) + 1) or match["name"] in index:
            raise DataError(f"{path} row {row}: expected '{len(index) + 1} <class name>' with a new name, got "
                            f"{quoted(line)}: mend the row")
        if reason := class_fault(match["name"]):
            raise DataError(f"{path} row {row}: {quoted(match['name'])} cannot be the name of a class's folder "
                            f"({reason}): mend the row")
        index[match["name"]] = len(index)
    if not index:
        raise DataError(f"class index {path} is empty: {WRITE}")
    return index


def row_error(fields: list[str], class_index: Mapping[str, int], frames: Path | None) -> str | None:
    """What is wrong with the fields of a list's row, and what to do about it; None where they are right."""
    if len(fields) != 2 or not FRAMES.fullmatch(fields[1]):
        return ("expected 'class/video,frames', frames in 1 to 9 digits and no header row, got "
                f"{quoted(','.join(fields))}: {MEND}")
    name = fields[0]
    class_name, _, video = name.partition("/")
    if not class_name or ".." in name and ".." in name.split("/"):
        return f"{quoted(name)} leads outside the folder of frames: write it as class/video"
    if not video or "/" in video:
        return f"{quoted(name)} is not of the form class/video: {MEND}"
    if reason := name_fault(video):
        reason += ", of a quote that is not closed?" if "\n" in video else ""
        return f"{quoted(video)} cannot be the name of a video's folder ({reason}): {MEND}"
    if class_name not in class_index:
        return f"class {quoted(class_name)} is not in the data set's ClassInd.txt: add it there, or take the row out"
    if int(fields[1]) == 0:
        return (f"{quoted(name)} has 0 frames: extract it again or take the row out "
                "(write_csv.py --allow_missing leaves such videos out)")
    if frames is not None and video != video.strip() and not (frames / name).is_dir():
        return f"{quoted(name)} has white space at its end that no folder in {frames} has: take it out"
    return None


def read_list(path: Path, class_index: Mapping[str, int], frames: Path | None = None) -> VideoList:
    """CSV rows `class/video,frames` -> VideoList. `class_index`: {class: label} of read_class_index.

    Blank lines are ignored. Raises DataError, naming the row, at any other row that is not of this form, that leads
    outside the folder of frames or whose video has a row already. frames: the folder of frames; a video's name may
    begin or end with white space only where a folder there does. None: white space is taken to be part of the name.
    """
    rows: dict[str, int] = {}  # name -> its row
    num_frames, labels = array("q"), array("q")
    for row, fields in csv_rows(read_text(path, WRITE), path, MEND):
        if error := row_error(fields, class_index, frames):
            raise DataError(f"{path} row {row}: {error}")
        name, count = fields
        if (first := rows.setdefault(name, row)) != row:
            raise DataError(f"{path} row {row}: {quoted(name)} stands in row {first} already: take one of them out")
        num_frames.append(int(count))
        labels.append(class_index[name.partition("/")[0]])
    if not rows:
        raise DataError(f"list {path} is empty: {WRITE}")
    return VideoList(np.array(list(rows)), np.array(num_frames), np.array(labels), np.array(list(class_index)))


WRITTEN_BY = {"frames": "run process_data/src/extract_frame.py", "packed": "run process_data/src/pack.py",
              "video": "put them there"}


def open_list(dataset: str, part: str, split: int, storage: str = "frames", fps: float | None = None) -> VideoList:
    """The `part` ("train" or "test") list of split `split` (from 1) of a data set in local_dataset.py.

    storage: "frames", "packed" or "video"; the data set's folder of that kind must exist. fps: how many frames a second
    clips take, whatever the videos have; None: strides count frames. Raises DataError where the videos' own rates must
    be known for that and are not.
    """
    local = local_dataset(dataset)
    if not 1 <= split <= local.splits:
        raise UsageError(f"--split {split}: {dataset} has splits 1 to {local.splits} by dataset/local_dataset.py")
    root = local.root(storage)
    if not root.is_dir():
        kind = {"frames": "frames", "packed": "packed videos", "video": "videos"}[storage]
        raise DataError(f"{kind} of {dataset} are not at {root}: {WRITTEN_BY[storage]}, "
                        "or edit dataset/local_dataset.py (or set DUALVAR_DATA)")
    videos = read_list(local.lists / f"{part}_split{split:02d}.csv", read_class_index(local.class_index),
                       root if storage == "frames" else None)
    if fps is None:
        return videos
    rates = frame_rates(root, storage, videos.names)
    if isinstance(rates, str):
        way = "mend the file" if storage == "video" else "extract the frames again"
        raise DataError(f"--fps {fps:g}: {rates}: {way}, or count frames (--ds)")
    return videos.at_rate(fps, rates)


def video_groups(names: Iterable[str], pattern: str) -> np.ndarray:
    """Recording that each video was cut from, by a rule of local_dataset.py: (N,) str."""
    names = list(names)
    rule = re.compile(pattern)
    matches = [rule.fullmatch(name) for name in names]
    found = [m["group"] if m else None for m in matches]
    return np.array([name if group is None else group for name, group in zip(names, found, strict=True)])


def of_both_lists(train: VideoList, test: VideoList, pattern: str) -> np.ndarray:
    """Training videos of recordings that the test list has videos of too, by a rule of local_dataset.py: (N,) bool."""
    return np.isin(video_groups(train.names, pattern), video_groups(test.names, pattern))


def hold_out(videos: VideoList, fraction: float, pattern: str, seed: int = 0) -> tuple[VideoList, VideoList]:
    """Divide a training list into (kept, held out), no recording in both.

    Recordings, by the rule `pattern` of local_dataset.py, are visited in a seeded random order. One is held out while
    each of its classes stays within `fraction` of its videos, to the nearest recording. Raises DataError where nothing
    can be held out or nothing would be left.
    """
    groups = video_groups(videos.names, pattern)
    quota = np.bincount(videos.labels, minlength=len(videos.classes)) * fraction
    taken = np.zeros_like(quota)
    held = np.zeros(len(videos), dtype=bool)
    members: dict[str, list[int]] = {}
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

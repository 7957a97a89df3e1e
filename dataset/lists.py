"""Video lists: CSV rows `class/video,frames` and the class index that gives each class its label."""
import csv
import hashlib
import re
from array import array
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from core.errors import DataError, UsageError

from .local_dataset import DATASETS

CLASS = re.compile(r"0*(?P<number>[0-9]+)[ \t]+(?P<name>.+)")
FRAMES = re.compile(r"[ \t]*[0-9]{1,9}[ \t]*")  # as \d, digits of all scripts would pass
FOLDER = re.compile(r"(?!\.\.?\Z)[^/\0\r\n]+")  # line breaks, though legal, are what a lost quote leaves in a list
LONGEST_NAME = 255  # bytes of a folder's name, on Linux
MEND = "mend the row, or write the list again with process_data/src/write_csv.py"


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

    def fingerprint(self):
        """Text that differs where any row does."""
        digest = hashlib.sha256("\n".join([*self.names, *self.classes]).encode() + self.num_frames.tobytes())
        return f"{len(self)} videos, {digest.hexdigest()[:12]}"

    def subset(self, indices):
        return VideoList(self.names[indices], self.num_frames[indices], self.labels[indices], self.classes)


def local_dataset(name):
    """The entry of dataset/local_dataset.py called `name`. Raises UsageError where there is none."""
    if name not in DATASETS:
        raise UsageError(f"--dataset {name} is not in dataset/local_dataset.py (it knows {', '.join(DATASETS)}): "
                         "add a line for it there")
    return DATASETS[name]


@contextmanager
def open_text(path, kind):
    """A UTF-8 text file, with or without byte order mark and Windows line ends; DataError where it cannot be read."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            yield file
    except FileNotFoundError:
        raise DataError(f"{kind} {path} does not exist: write it with process_data/src/write_csv.py") from None
    except OSError as error:
        raise DataError(f"{kind} {path} cannot be read ({error.strerror}): put a file there that this user may read, "
                        "or edit dataset/local_dataset.py") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} row {_first_row_not_utf8(path)}: not UTF-8: save the file as UTF-8") from error


def _first_row_not_utf8(path):
    with open(path, "rb") as file:
        for row, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return row


def _shown(text):
    """Text of a file as it goes into a message: what cannot be seen is escaped, what is endless is cut."""
    return repr(text if len(text) <= 120 else text[:120] + "...")


def _is_folder_name(name):
    return FOLDER.fullmatch(name) and len(name.encode()) <= LONGEST_NAME


def read_class_index(path):
    """`1 ApplyEyeMakeup` lines (numbers from 1, names may hold spaces) -> {name: label from 0}.

    Blank lines, and white space around a name, are passed over.
    """
    index = {}
    with open_text(path, "class index") as file:
        for row, line in enumerate(file, 1):
            if not (line := line.strip()):
                continue
            match = CLASS.fullmatch(line)
            if not match or match["number"] != str(len(index) + 1) or match["name"] in index:
                raise DataError(f"{path} row {row}: expected '{len(index) + 1} <class name>' with a new name, got "
                                f"{_shown(line)}: mend the row")
            if not _is_folder_name(match["name"]):
                raise DataError(f"{path} row {row}: {_shown(match['name'])} cannot be the name of a class's folder: "
                                "mend the row")
            index[match["name"]] = len(index)
    if not index:
        raise DataError(f"class index {path} is empty: write it with process_data/src/write_csv.py")
    return index


def row_error(fields, class_index, frames):
    """What is wrong with the fields of a list's row, and the way out; None where nothing is."""
    if len(fields) != 2 or not FRAMES.fullmatch(fields[1]):
        return ("expected 'class/video,frames', frames in 1 to 9 digits and no header row, got "
                f"{_shown(','.join(fields))}: {MEND}")
    name = fields[0]
    class_name, _, video = name.partition("/")
    if not class_name or ".." in name and ".." in name.split("/"):
        return f"{_shown(name)} leads outside the folder of frames: write it as class/video"
    if not video or "/" in video:
        return f"{_shown(name)} is not of the form class/video: {MEND}"
    if not _is_folder_name(video):
        return f"{_shown(video)} cannot be the name of a video's folder (a quote that is not closed?): {MEND}"
    if class_name not in class_index:
        return f"class {_shown(class_name)} is not in the data set's ClassInd.txt: add it there, or take the row out"
    if int(fields[1]) == 0:
        return (f"{_shown(name)} has 0 frames: extract it again or take the row out "
                "(write_csv.py --allow_missing leaves such videos out)")
    if frames is not None and video != video.strip() and not (frames / name).is_dir():
        return f"{_shown(name)} has white space at its end that no folder in {frames} has: take it out"
    return None


def read_list(path, class_index, frames=None):
    """CSV rows `class/video,frames` -> VideoList. `class_index`: {class: label} of read_class_index.

    Blank lines are passed over. Raises DataError, naming the row, where anything else is not a row, leads outside
    the folder of frames or stands there twice. frames: that folder, to tell white space around a video's name that
    is its own from what an editor left there; None: it is the name's own.
    """
    rows, counts, labels = {}, array("q"), array("q")  # rows: {name: its row}
    row = 0
    with open_text(path, "list") as file:
        try:
            for row, fields in enumerate(csv.reader(file, strict=True), 1):
                if not fields or len(fields) == 1 and not fields[0].strip():
                    continue
                if error := row_error(fields, class_index, frames):
                    raise DataError(f"{path} row {row}: {error}")
                name, count = fields
                if (first := rows.setdefault(name, row)) != row:
                    raise DataError(f"{path} row {row}: {_shown(name)} stands in row {first} already: "
                                    "take one of them out")
                counts.append(int(count))
                labels.append(class_index[name.partition("/")[0]])
        except csv.Error as error:
            raise DataError(f"{path} row {row + 1}: not a row of CSV ({error}): {MEND}") from error
    if not rows:
        raise DataError(f"list {path} is empty: write it with process_data/src/write_csv.py")
    return VideoList(np.array(list(rows)), np.array(counts), np.array(labels), np.array(list(class_index)))


WRITTEN_BY = {"frames": "run process_data/src/extract_frame.py", "packed": "run process_data/src/pack.py",
              "video": "put them there"}


def open_list(dataset, part, split, storage="frames"):
    """The `part` ("train" or "test") list of split `split` (from 1) of a data set in local_dataset.py.

    storage: "frames", "packed" or "video", of which the data set's folder must be there.
    """
    local = local_dataset(dataset)
    if not 1 <= split <= local.splits:
        raise UsageError(f"--split {split}: {dataset} has splits 1 to {local.splits} by dataset/local_dataset.py")
    root = local.root(storage)
    if not root.is_dir():
        kind = {"frames": "frames", "packed": "packed videos", "video": "videos"}[storage]
        raise DataError(f"{kind} of {dataset} are not at {root}: {WRITTEN_BY[storage]}, "
                        "or edit dataset/local_dataset.py (or set DUALVAR_DATA)")
    return read_list(local.lists / f"{part}_split{split:02d}.csv", read_class_index(local.class_index),
                     root if storage == "frames" else None)


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

"""Read train and test lists in the formats in which UCF101, HMDB51 and Kinetics publish them."""
import csv
import io
import re
from dataclasses import dataclass

from core.errors import DataError
from dataset.lists import read_class_index
from process_data.src.common import VIDEO_SUFFIXES, first


@dataclass(frozen=True)
class Split:
    """number: from 1; train, test: lists of videos, each a tuple of the names "class/video" it may go by on disk."""

    number: int
    train: list
    test: list
    unknown: list  # videos of classes that the class index does not have


def read_text(path):
    """A UTF-8 text file; newlines of all systems become \n. Raises DataError where it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}): convert it") from error


def read_lines(path):
    """Lines as (row from 1, line without white space at its ends), empty ones left out."""
    return [(row, line.strip()) for row, line in enumerate(read_text(path).split("\n"), 1) if line.strip()]


def without_suffix(name):
    """A video's name without the suffix of a video file; a dot elsewhere stays."""
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in VIDEO_SUFFIXES else name


def read_ucf101(folder, _frames):
    """classInd.txt, trainlist0N.txt, testlist0N.txt -> (classes in its order, [Split])."""
    index = read_class_index(folder / "classInd.txt")
    numbers = numbered(folder, r"(?:train|test)list(\d+)\.txt")
    if not numbers:
        raise DataError(f"--splits {folder} holds no trainlist01.txt and testlist01.txt")
    splits = []
    for number in numbers:
        parts, unknown = [], []
        for part in ("train", "test"):
            path = folder / f"{part}list{number:02d}.txt"
            if not path.is_file():
                raise DataError(f"--splits {folder} has split {number} but no {path.name}")
            parts.append(read_ucf101_list(path, index, unknown))
        splits.append(Split(number, *parts, unknown))
    return list(index), splits


def read_ucf101_list(path, index, unknown):
    """`Class/v.avi` or `Class/v.avi 1` rows; a video of a class that is not in `index` goes to `unknown`."""
    names = []
    for row, line in read_lines(path):
        video, label = re.fullmatch(r"(.+?)(?:\s+(\d+))?", line).groups()
        class_name, slash, _ = video.rpartition("/")
        if not slash:
            raise DataError(f"{path} row {row}: expected 'Class/video.avi 1', got {line!r}")
        if class_name not in index:
            unknown.append(without_suffix(video))
        elif label is not None and int(label) != index[class_name] + 1:
            raise DataError(f"{path} row {row}: label {label}, but classInd.txt says {index[class_name] + 1} "
                            f"for {class_name}")
        else:
            names.append((without_suffix(video),))
    return names


def numbered(folder, pattern):
    """Sorted distinct numbers that files named by `pattern` carry in its last group."""
    found = (re.fullmatch(pattern, path.name) for path in folder.iterdir())
    return sorted({int(match[match.lastindex]) for match in found if match})


def read_hmdb51(folder, _frames):
    """<class>_test_splitN.txt with rows `video.avi 0|1|2` (1: train, 2: test) -> (classes by name, [Split])."""
    pattern = r"(.+)_test_split(\d+)\.txt"
    numbers = numbered(folder, pattern)
    if not numbers:
        raise DataError(f"--splits {folder} holds no <class>_test_split1.txt")
    classes = sorted({match[1] for path in folder.iterdir() if (match := re.fullmatch(pattern, path.name))})
    splits = []
    for number in numbers:
        parts = {"1": [], "2": [], "0": []}
        for name in classes:
            path = folder / f"{name}_test_split{number}.txt"
            if not path.is_file():
                raise DataError(f"--splits {folder} has split {number} but no {path.name}")
            for row, line in read_lines(path):
                match = re.fullmatch(r"(.+\S)\s+([012])", line)
                if not match:
                    raise DataError(f"{path} row {row}: expected 'video.avi 0|1|2', got {line!r}")
                parts[match[2]].append((f"{name}/{without_suffix(match[1])}",))
        splits.append(Split(number, parts["1"], parts["2"], []))
    return classes, splits


def read_k400(folder, frames):
    """train.csv and val.csv (or validate.csv, test.csv) of Kinetics -> (classes by name, [Split]).

    A video goes by <id>_<start>_<end>, seconds with six digits, or by <id>; a class by its label, or with
    underscores for spaces where only such a folder is in `frames`.
    """
    tests = [folder / name for name in ("val.csv", "validate.csv", "test.csv") if (folder / name).is_file()]
    if not (folder / "train.csv").is_file() or not tests:
        raise DataError(f"--splits {folder} lacks train.csv, or val.csv (validate.csv, test.csv)")
    if len(tests) > 1:
        print(f"note: the test list is {tests[0].name}; {first(path.name for path in tests[1:])} left aside")
    rows = [list(read_k400_rows(path)) for path in (folder / "train.csv", tests[0])]
    class_of = {}
    for label in sorted({label for part in rows for label, _ in part}):
        joined = label.replace(" ", "_")
        class_of[label] = joined if (frames / joined).is_dir() and not (frames / label).is_dir() else label
    train, test = ([tuple(f"{class_of[label]}/{video}" for video in videos) for label, videos in part]
                   for part in rows)
    return list(class_of.values()), [Split(1, train, test, [])]


def read_k400_rows(path):
    """Yields (label, names that the video may have)."""
    needed = ("label", "youtube_id", "time_start", "time_end")
    table = csv.DictReader(io.StringIO(read_text(path)))
    lacking = [column for column in needed if column not in (table.fieldnames or ())]
    if lacking:
        raise DataError(f"{path}: no column {first(lacking)}; expected a header {','.join(needed)},split")
    for row in table:
        label, video = row["label"], row["youtube_id"]
        if not label or not video:
            raise DataError(f"{path} row {table.line_num}: label and youtube_id must not be empty")
        try:
            start, end = (int(float(row[column])) for column in ("time_start", "time_end"))
        except (TypeError, ValueError):
            raise DataError(f"{path} row {table.line_num}: time_start and time_end must be seconds") from None
        yield label, (f"{video}_{start:06d}_{end:06d}", video)


READERS = {"ucf101": read_ucf101, "hmdb51": read_hmdb51, "k400": read_k400}

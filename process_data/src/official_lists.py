"""Read train and test lists in the formats in which data sets publish them.

To add a data set with lists in a format of its own, write a reader here, give it a line in READERS at the end of this
file, and give the data set a line in dataset/local_dataset.py.

A reader is a function `read(folder, frames) -> (classes, splits)`:

- folder: Path of the lists, the flag --splits of write_csv.py; frames: Path of the extracted frames,
  <frames>/<class>/<video>/, for formats whose names need a look at what is there;
- classes: names of the classes in the order of their labels, as their folders are called;
- splits: a Split for each division into train and test, numbered from 1 as --split counts them.

It raises DataError, naming file and row, where the lists are not in the format. It need not look for videos that have
no frames, that are listed twice or that are in both train and test: write_csv.py does that for all formats.

Where all videos lie in one folder, so that only the lists tell their classes, the format is in FLAT: extract_frame.py
then reads the lists too, and writes the frames of each video into the folder of its class.
"""
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from core import inputs
from core.errors import DataError, UsageError
from core.names import name_fault, quoted
from dataset.lists import class_fault, read_class_index
from process_data.src.common import VIDEO_SUFFIXES, first

Names = tuple[str, ...]
MOST_SPLITS = 999
MEND = "mend it, or take the list as it was published"


@dataclass(frozen=True)
class Split:
    """One division into train and test.

    A video is a tuple of the names "class/video", without the suffix of a video file, under which its frames may be
    found; the first of them that is there is taken. Most formats know one name: ("Archery/v_Archery_g01_c01",).
    """

    number: int  # from 1
    train: list[Names]
    test: list[Names]
    unknown: list[str] = field(default_factory=list)  # videos of classes that the list of classes does not have


Reader = Callable[[Path, Path], tuple[list[str], list[Split]]]


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Lines as (row from 1, line without white space at its ends), empty ones left out."""
    return [(row, line.strip()) for row, line in enumerate(inputs.read_lines(path, MEND), 1) if line.strip()]


def video_name(path: Path, row: int, class_name: str, video: str) -> str:
    """`class/video`. Raises DataError, naming the row of the list, where one of them cannot be a folder's name."""
    for name, fault in ((class_name, class_fault(class_name)), (video, name_fault(video))):
        if fault:
            raise DataError(f"{path} row {row}: {quoted(name)} cannot be a folder's name ({fault}): mend the row")
    return f"{class_name}/{video}"


def folder_of_lists(given: Path | None, frames: Path) -> Path:
    """The flag --splits, or `splits` beside the data set's frames. Raises UsageError where that is no folder."""
    folder = given or frames.parent / "splits"
    if not folder.is_dir():
        raise UsageError(f"--splits {folder} is not a folder: give the folder of the official lists")
    return folder


def without_suffix(name: str) -> str:
    """A video's name without the suffix of a video file; a dot elsewhere stays."""
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in VIDEO_SUFFIXES else name


def find_list_pairs(folder: Path) -> list[tuple[int, Path, Path]]:
    """(number, trainlist0N.txt, testlist0N.txt) of each split. Raises DataError where one of a pair is missing."""
    numbers = numbered(folder, r"(?:train|test)list(\d+)\.txt")
    if not numbers:
        raise DataError(f"--splits {folder} holds no trainlist01.txt and testlist01.txt")
    pairs = [(number, *(folder / f"{part}list{number:02d}.txt" for part in ("train", "test"))) for number in numbers]
    for number, *paths in pairs:
        for path in paths:
            if not path.is_file():
                raise DataError(f"--splits {folder} has split {number} but no {path.name}")
    return pairs


def read_given_lists(folder: Path, _frames: Path) -> tuple[list[str], list[Split]]:
    """trainlist0N.txt and testlist0N.txt of videos of one's own, rows `class/file.mp4` -> (classes, [Split]).

    A label may follow: `class/file.mp4 3`. The classes are those of classInd.txt (rows `3 class`) in its order, which
    must then have every class of the lists and agree with the labels. Without classInd.txt they are the classes of
    the lists, ordered by name, and each must have one label wherever labels are given.
    """
    pairs = find_list_pairs(folder)
    rows = {path: read_given_list(path) for _, *paths in pairs for path in paths}
    index_path = folder / "classInd.txt"
    if os.path.lexists(index_path):
        index = read_class_index(index_path)
        labels = {name: (label + 1, "classInd.txt") for name, label in index.items()}
    else:
        index, labels = sorted({row.class_name for some in rows.values() for row in some}), {}
    for path, some in rows.items():
        for row in some:
            if row.class_name not in index:
                raise DataError(f"{path} row {row.number}: class {row.class_name} is not in classInd.txt: add it "
                                "there, or take the row out")
            if row.label is not None:
                label, source = labels.setdefault(row.class_name, (row.label, f"{path.name} row {row.number}"))
                if row.label != label:
                    raise DataError(f"{path} row {row.number}: label {row.label}, but {source} says {label} for "
                                    f"{row.class_name}")
    classes = list(index)
    if any(label != classes.index(name) + 1 for name, (label, _) in labels.items()):
        print("note: the labels in the lists are not used: without classInd.txt the classes are numbered by name")
    names = {path: [row.names for row in some] for path, some in rows.items()}
    return classes, [Split(number, names[train], names[test]) for number, train, test in pairs]


@dataclass(frozen=True)
class GivenRow:
    """A row of a given list. number: from 1; label: what follows the video, None where nothing does."""

    number: int
    class_name: str
    names: Names
    label: int | None


def read_given_list(path: Path) -> list[GivenRow]:
    """Rows `class/file.mp4` or `class/file.mp4 3`. Raises DataError at any other."""
    rows = []
    for number, line in read_lines(path):
        labelled = re.fullmatch(r"(.+\.\w{1,5})\s+([0-9]{1,9})", line)  # without a suffix, "serve 3" is a video's name
        video, label = labelled.groups() if labelled else (line, None)
        class_name, _, file = video.partition("/")
        if class_name in ("", ".", "..") or not file or "/" in file:
            raise DataError(f"{path} row {number}: expected 'class/file.mp4' or 'class/file.mp4 1', got "
                            f"{quoted(line)}: mend the row")
        names = (video_name(path, number, class_name, without_suffix(file)),)
        if names == (video,) and (stem := re.sub(r"\.\w{1,5}$", "", file)) != file and not name_fault(stem):
            # .wmv or the like, of frames that another tool extracted, or a dot in the name
            names = (video, f"{class_name}/{stem}")
        rows.append(GivenRow(number, class_name, names, None if label is None else int(label)))
    return rows


def read_ucf101(folder: Path, _frames: Path) -> tuple[list[str], list[Split]]:
    """classInd.txt, trainlist0N.txt, testlist0N.txt -> (classes in its order, [Split])."""
    index = read_class_index(folder / "classInd.txt")
    splits = []
    for number, *paths in find_list_pairs(folder):
        unknown: list[str] = []
        train, test = (read_ucf101_list(path, index, unknown) for path in paths)
        splits.append(Split(number, train, test, unknown))
    return list(index), splits


def read_ucf101_list(path: Path, index: dict[str, int], unknown: list[str]) -> list[Names]:
    """`Class/v.avi` or `Class/v.avi 1` rows; a video of a class that is not in `index` goes to `unknown`."""
    names = []
    for row, line in read_lines(path):
        video, label = re.fullmatch(r"(.+?)(?:\s+([0-9]{1,9}))?", line, re.DOTALL).groups()
        class_name, slash, file = video.rpartition("/")
        if not slash:
            raise DataError(f"{path} row {row}: expected 'Class/video.avi 1', got {quoted(line)}: mend the row")
        name = video_name(path, row, class_name, without_suffix(file))
        if class_name not in index:
            unknown.append(name)
        elif label is not None and int(label) != index[class_name] + 1:
            raise DataError(f"{path} row {row}: label {label}, but classInd.txt says {index[class_name] + 1} "
                            f"for {class_name}")
        else:
            names.append((name,))
    return names


def numbered(folder: Path, pattern: str) -> list[int]:
    """Sorted distinct numbers of splits that files named by `pattern` carry in its last group.

    Raises DataError where one is not from 1 to MOST_SPLITS.
    """
    found = {match[0]: int(match[match.lastindex]) for path in folder.iterdir()
             if (match := re.fullmatch(pattern, path.name))}
    for name, number in found.items():
        if not 1 <= number <= MOST_SPLITS:
            raise DataError(f"{folder / name}: splits are numbered from 1 to {MOST_SPLITS}: rename or remove it")
    return sorted(set(found.values()))


def read_hmdb51(folder: Path, _frames: Path) -> tuple[list[str], list[Split]]:
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
                    raise DataError(f"{path} row {row}: expected 'video.avi 0|1|2', got {quoted(line)}: mend the row")
                parts[match[2]].append((video_name(path, row, name, without_suffix(match[1])),))
        splits.append(Split(number, parts["1"], parts["2"]))
    return classes, splits


def read_k400(folder: Path, frames: Path) -> tuple[list[str], list[Split]]:
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
    return list(class_of.values()), [Split(1, train, test)]


def read_k400_rows(path: Path) -> Iterator[tuple[str, Names]]:
    """Yields (label, names that the video may have)."""
    needed = ("label", "youtube_id", "time_start", "time_end")
    rows = inputs.csv_rows(inputs.read_text(path, MEND), path, MEND)
    head = next(rows, (1, []))[1]
    lacking = [column for column in needed if column not in head]
    if lacking:
        raise DataError(f"{path}: no column {first(lacking)}; expected a header {','.join(needed)},split")
    for number, fields in rows:
        label, video, *times = (dict(zip(head, fields, strict=False)).get(column, "") for column in needed)
        if not label or not video:
            raise DataError(f"{path} row {number}: label and youtube_id must not be empty: mend the row")
        try:
            start, end = map(int, map(float, times))
        except (ValueError, OverflowError):
            raise DataError(f"{path} row {number}: time_start and time_end must be seconds: mend the row") from None
        segment = f"{video}_{start:06d}_{end:06d}"
        video_name(path, number, label, segment)
        yield label, (segment, video)


def first_edition(folder: Path, editions: Sequence[Sequence[str]]) -> list[Path]:
    """Paths of the first of `editions`, names of files, of which all files are there. Raises DataError where none is.

    Prints which other edition is left aside.
    """
    whole = [names for names in editions if all((folder / name).is_file() for name in names)]
    if not whole:
        raise DataError(f"--splits {folder} holds neither {', nor '.join(map(', '.join, editions))}: give the folder "
                        "that holds all files of one of these editions")
    if whole[1:]:
        print(f"note: the lists are {', '.join(whole[0])}; others left aside: {', '.join(whole[1])}")
    return [folder / name for name in whole[0]]


def check_classes(path: Path, classes: Sequence[str]) -> None:
    """Raises DataError where one of the names that a file gives cannot be a folder's, which is seen by every tool."""
    for name in classes:
        if fault := class_fault(name) or (name.startswith(".") and "it begins with a dot"):
            raise DataError(f"{path}: class {quoted(name)} cannot be a folder's name ({fault}): {MEND}")


def flat_split(parts: Sequence[list[tuple[Path, str, str]]]) -> Split:
    """(file, class, video) of the training and of the test list -> their Split.

    Raises DataError where a video cannot be a folder's name, or is of two classes: its frames lie in one place.
    """
    class_of: dict[str, str] = {}
    for path, class_name, video in (row for part in parts for row in part):
        if fault := name_fault(video):
            raise DataError(f"{path}: video {quoted(video)} cannot be a folder's name ({fault}): {MEND}")
        if (other := class_of.setdefault(video, class_name)) != class_name:
            raise DataError(f"{path}: video {quoted(video)} is of class {quoted(class_name)}, and elsewhere of "
                            f"{quoted(other)}: {MEND}")
    train, test = ([(f"{class_name}/{video}",) for _, class_name, video in part] for part in parts)
    return Split(1, train, test)


def read_ssv2(folder: Path, _frames: Path) -> tuple[list[str], list[Split]]:
    """Something-Something v2: labels.json, train.json and validation.json -> (classes by their numbers, [Split]).

    Also as something-something-v2-labels.json and so on. A class is a template without its brackets. The test list is
    the validation list, as test.json has no labels.
    """
    labels, *paths = first_edition(folder, [[f"{prefix}{part}.json" for part in ("labels", "train", "validation")]
                                            for prefix in ("", "something-something-v2-")])
    numbers = inputs.read_json(labels, {str: str}, MEND)
    if sorted(numbers.values()) != sorted(map(str, range(len(numbers)))):
        raise DataError(f"{labels}: the numbers of its {len(numbers)} classes are not 0 to {len(numbers) - 1}: {MEND}")
    classes = sorted(numbers, key=lambda name: int(numbers[name]))
    check_classes(labels, classes)
    rows = []
    for path in paths:
        entries = inputs.read_json(path, [{"id": str, "template": str}], MEND)
        rows.append([(path, re.sub(r"[\[\]]", "", entry["template"]), entry["id"]) for entry in entries])
        if unknown := next((row for row in rows[-1] if row[1] not in numbers), None):
            raise DataError(f"{path}: video {quoted(unknown[2])} is of class {quoted(unknown[1])}, which is not in "
                            f"{labels.name}: {MEND}")
    split = flat_split(rows)
    if (test := labels.with_name(labels.name.replace("labels", "test"))).is_file():
        print(f"note: {test.name} has no labels: the test list is {paths[1].name}")
    return classes, [split]


def read_diving48(folder: Path, _frames: Path) -> tuple[list[str], list[Split]]:
    """Diving48_vocab.json, Diving48_V2_train.json and Diving48_V2_test.json -> (classes by their numbers, [Split]).

    Without the V2, the lists of the first version. A class is called by the parts of its dive: Back-15som-05Twis-FREE.
    """
    vocabulary, *paths = first_edition(folder, [
        ["Diving48_vocab.json", *(f"Diving48_{version}{part}.json" for part in ("train", "test"))]
        for version in ("V2_", "")])
    classes = ["-".join(dive) for dive in inputs.read_json(vocabulary, [[str]], MEND)]
    check_classes(vocabulary, classes)
    if not classes or len(set(classes)) < len(classes):
        raise DataError(f"{vocabulary}: it holds no class, or one twice: {MEND}")
    rows = [[(path, classes[entry["label"]], entry["vid_name"]) for entry in inputs.read_json(
        path, [{"vid_name": str, "label": range(len(classes))}], MEND)] for path in paths]
    return classes, [flat_split(rows)]


FLAT = ("ssv2", "diving48")  # formats of READERS whose videos all lie in one folder

# name of a data set in dataset/local_dataset.py, or of a format for --layout -> reader
READERS: dict[str, Reader] = {
    "ucf101": read_ucf101,
    "ucf101-5class": read_ucf101,
    "demo": read_ucf101,
    "hmdb51": read_hmdb51,
    "k400": read_k400,
    "ssv2": read_ssv2,
    "diving48": read_diving48,
    "lists": read_given_lists,  # of every data set that has no line here, where --splits is given
}

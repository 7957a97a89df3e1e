"""Write the lists that training reads, from the official lists and the extracted frames.

    python process_data/src/write_csv.py --dataset ucf101 --splits /data/ucfTrainTestlist
    python process_data/src/write_csv.py --dataset mine --splits /data/mine/splits   own videos, lists given
    python process_data/src/write_csv.py --dataset mine                              own videos, a random division

Takes UCF101's classInd.txt, trainlist0N.txt and testlist0N.txt; HMDB51's <class>_test_splitN.txt; Kinetics'
train.csv and val.csv; the JSON files of Something-Something v2 and Diving48; for any other data set trainlist0N.txt and
testlist0N.txt with rows `class/file.mp4`, or no list at all: then a share of the recordings is held out for the test.
official_lists.py says more about these formats and how to add one. Writes {train,test}_split0N.csv, rows
`class/video,frames`, and ClassInd.txt, rows `1 Archery`.
Each video's frames are counted, and videos without all their frames are an error unless --allow_missing.
--exclude leaves out the videos of an exclusion list, such as verify.py writes: one `class/video` a line for a video
in no list, `train_split01.csv: class/video` for one that only that list goes without; `#` starts a comment line.
"""
import itertools
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import core  # noqa: F401  # before what takes seconds to import

# isort: split
import numpy as np

from core.errors import DataError, UsageError
from core.exits import run
from core.files import csv_lines, take_lock
from core.inputs import read_lines
from core.names import name_fault, quoted
from core.parser import new_parser
from dataset.lists import VideoList, class_fault, hold_out, local_dataset
from dataset.reader import FRAME_NAME
from dataset.storage import PACKED_SUFFIX
from process_data.src.common import (
    GO_ON,
    MANIFEST,
    check_range,
    first,
    plural,
    read_manifest,
    readable,
    visible,
    write_files,
)
from process_data.src.frame_check import frame_numbers
from process_data.src.official_lists import READERS, Split, folder_of_lists

MISSING, EMPTY, DAMAGED = "without a folder of frames", "without any frame", "with frames lacking"
EXCLUDED, ALL_LISTS = "left out by --exclude", ""
UNKNOWN, NO_VIDEO = "of a class that is not in classInd.txt", "classes without any video"
NO_NAME = "on disk whose name no list can carry"


def find_folders(root, storage="frames"):
    """Folders of frames, or packed files -> ({class: set of its videos}, [name of what no list can carry, and why])."""
    tool = {"frames": "extract_frame.py", "packed": "pack.py"}[storage]
    if not root.is_dir():
        raise UsageError(f"--frames {root} is not a folder: run process_data/src/{tool} first")

    def video(entry):
        if storage == "packed":
            return entry.name.endswith(PACKED_SUFFIX) and entry.name[:-len(PACKED_SUFFIX)]
        # os.path.isdir is false for a link that leads round in circles, where DirEntry.is_dir raises
        return os.path.isdir(entry.path) and entry.name

    folders = {entry.name: set(filter(None, map(video, visible(entry.path))))
               for entry in visible(root) if os.path.isdir(entry.path)}
    if not any(folders.values()):
        suffix = PACKED_SUFFIX if storage == "packed" else ""
        what = "file" if storage == "packed" else "folder"
        raise DataError(f"--frames {root} holds no <class>/<video>{suffix} {what}: run process_data/src/{tool}")
    faults = {name: fault for name in folders if (fault := class_fault(name))}
    nameless = [f"{name!r} ({fault})" for name, fault in faults.items()]
    folders = {name: videos for name, videos in folders.items() if name not in faults}
    for class_name, videos in folders.items():
        faults = {video: fault for video in sorted(videos) if (fault := name_fault(video))}
        nameless += [f"{f'{class_name}/{video}'!r} ({fault})" for video, fault in faults.items()]
        videos.difference_update(faults)
    return folders, nameless


def count_frames(frames, names, manifest):
    """Frames of each video -> ({name: frames} of the whole ones, {name: what is wrong} of the others)."""
    def count_video(name):
        numbers = frame_numbers(os.listdir(frames / name))
        gap = next((expected for expected, number in enumerate(numbers, 1) if number != expected), None)
        return len(numbers), gap and FRAME_NAME.format(gap)

    counts, wrong = {}, {}
    with ThreadPoolExecutor() as pool:
        for name, (count, gap) in zip(names, pool.map(count_video, names), strict=True):
            expected = int(manifest[name]["frames"]) if name in manifest else count
            if count == 0:
                wrong[name] = (EMPTY, name)
            elif gap or count != expected:
                says = f"no {gap}" if gap else f"the manifest says {expected}"
                wrong[name] = (DAMAGED, f"{name} ({plural(count, 'frame')}, {says})")
            else:
                counts[name] = count
    return counts, wrong


def match(entries, folders):
    """Name on disk of each video -> [name] without repetitions: the first of its names that is there, or the first."""
    def on_disk(name):
        class_name, _, video = name.rpartition("/")
        return video in folders.get(class_name, ())

    return list(dict.fromkeys(next(filter(on_disk, names), names[0]) for names in entries))


def all_names(folders):
    return [f"{class_name}/{video}" for class_name in sorted(folders) for video in sorted(folders[class_name])]


def hold_out_split(args, folders):
    """A random division of a folder without lists -> (classes by name, [Split]), one split.

    All folders are divided, also those that are left out of the lists afterwards: which list a video is in must not
    depend on others being left out.
    """
    classes, names = sorted(folders), all_names(folders)
    labels = [classes.index(name.rpartition("/")[0]) for name in names]
    beside = args.local.frames.parent / "splits"
    if any(beside.glob("trainlist*.txt")):
        print(f"note: the lists in {beside} are not read: give --splits {beside} to use them")
    videos = VideoList(np.array(names), np.zeros(len(names), int), np.array(labels, int), np.array(classes))
    parts = hold_out(videos, args.holdout, args.local.group, args.seed)
    return classes, [Split(1, *([(name,) for name in part.names.tolist()] for part in parts))]


def read_exclusions(paths):
    """Exclusion lists -> {file name of a list, or ALL_LISTS: set of class/video}."""
    excluded = {}
    for path in paths:
        if not os.path.lexists(path):
            raise UsageError(f"--exclude {path} does not exist: process_data/src/verify.py writes one")
        for row, line in enumerate(read_lines(path, "remove it, and let verify.py write it again"), 1):
            # a video's name may end in white space, a class's may not begin with it
            found = re.fullmatch(r"\s*(?:((?:train|test)_split[0-9]{2,}\.csv): )?(([^/]+)/([^/]+))", line)
            if found and not class_fault(found[3]) and not name_fault(found[4]):
                excluded.setdefault(found[1] or ALL_LISTS, set()).add(found[2])
            elif line.strip() and not line.lstrip().startswith("#"):
                raise DataError(f"{path} row {row}: expected 'class/video' or 'train_split01.csv: class/video', "
                                f"got {quoted(line)}: mend the row")
    return excluded


def check_exclusions(args, splits, folders):
    """Raises DataError where --exclude names a video that is in no list: a misspelt name.

    In layout folder it is but a note: there are no lists, and a video that verify.py excludes because its folder is
    gone is named nowhere else.
    """
    known = {list_name(part, split.number): {name for entry in entries for name in entry} for split in splits
             for part, entries in (("train", split.train), ("test", split.test))}
    known[ALL_LISTS] = set(all_names(folders)).union(*known.values(), *(split.unknown for split in splits))
    strange = [name if at == ALL_LISTS else f"{at}: {name}" for at, names in sorted(args.excluded.items())
               for name in sorted(names - known.get(at, set()))]
    if strange:
        says = f"{plural(len(strange), 'line')} of no video, or of none in that list: {first(map(readable, strange))}"
        if args.layout != "folder":
            raise DataError(f"--exclude {first(args.exclude)} holds {says}; mend or remove them")
        print(f"note: --exclude {first(args.exclude)} holds {says}")


def leave_out(splits, excluded):
    """-> ([Split] without the excluded videos, {split number: those that were left out})."""
    kept, dropped = [], {}
    for split in splits:
        parts, out = [], dropped.setdefault(split.number, [])
        for part, entries in (("train", split.train), ("test", split.test)):
            names = excluded.get(ALL_LISTS, set()) | excluded.get(list_name(part, split.number), set())
            parts.append([entry for entry in entries if names.isdisjoint(entry)])
            out += [f"{entry[0]} ({part})" for entry in entries if not names.isdisjoint(entry)]
        unknown = [name for name in split.unknown if name not in excluded.get(ALL_LISTS, ())]
        kept.append(Split(split.number, *parts, unknown))
    return kept, dropped


def read_splits(args, folders):
    """-> (classes in label order, [Split] of names on disk instead of tuples, {split number: videos left out})."""
    if args.layout == "folder":
        classes, listed = hold_out_split(args, folders)
    else:
        classes, listed = READERS[args.layout](args.splits, args.frames)
    check_exclusions(args, listed, folders)
    kept, dropped = leave_out(listed, args.excluded)
    splits = [Split(split.number, match(split.train, folders), match(split.test, folders), split.unknown)
              for split in kept]
    for split in splits:
        if overlap := sorted(set(split.train) & set(split.test)):
            raise DataError(f"split {split.number}: {plural(len(overlap), 'video')} in both train and test list "
                            f"({first(overlap, 3)}): mend the lists")
    unlisted = set(all_names(folders)).difference(*(match(split.train + split.test, folders) for split in listed))
    if unlisted:
        print(f"note: {plural(len(unlisted), 'video')} in {args.frames} in no list")
    return classes, splits, dropped


def list_name(part, number):
    return f"{part}_split{number:02d}.csv"


def check_split(split, classes, counts, wrong, nameless):
    """What is wrong with a split: {kind of problem: [video or class]}, of the kinds that occur."""
    problems = {NO_NAME: nameless, UNKNOWN: split.unknown, MISSING: [], EMPTY: [], DAMAGED: [], NO_VIDEO: []}
    for name in itertools.chain(split.train, split.test):
        if name in wrong:
            problems[wrong[name][0]].append(wrong[name][1])
        elif name not in counts:
            problems[MISSING].append(name)
    for part, names in (("train", split.train), ("test", split.test)):
        present = {name.rpartition("/")[0] for name in names if name in counts}
        problems[NO_VIDEO] += [f"{name} ({part})" for name in classes if name not in present]
    return {kind: items for kind, items in problems.items() if items}


def report(split, problems):
    """Print a split's problems, the first ten of each kind."""
    for kind, items in problems.items():
        what = f"{len(items)} {kind}" if kind == NO_VIDEO else f"{plural(len(items), 'video')} {kind}"
        print(f"split {split.number}: {what}: {first(items)}", file=sys.stderr)


def to_csv(names, counts):
    return csv_lines((name, counts[name]) for name in names if name in counts)


def parse(argv):
    parser = new_parser("process_data/src/write_csv.py", __doc__)
    parser.add_argument("--dataset", default="ucf101", help="a name in dataset/local_dataset.py")
    parser.add_argument("--frames", type=Path, help="folder of <class>/<video>; None: the data set's")
    parser.add_argument("--splits", type=Path, help="folder of the official lists; None: `splits` beside the frames, "
                        "and for a data set without a format of its own no lists")
    parser.add_argument("--out", type=Path, help="folder to write; None: the data set's lists in local_dataset.py")
    parser.add_argument("--layout", choices=(*READERS, "folder"),
                        help="format of the official lists; lists: rows `class/file.mp4`; folder: there are none; "
                             "None: by --dataset, and for one without a format of its own lists or, without --splits, "
                             "folder")
    parser.add_argument("--holdout", type=float, help="layout folder: share of each class for the test; None: 0.2")
    parser.add_argument("--seed", type=int, default=0, help="layout folder: draws the recordings held out")
    parser.add_argument("--allow_missing", action="store_true",
                        help="leave out videos without all their frames and name them in missing_split0N.txt")
    parser.add_argument("--exclude", type=Path, nargs="+", default=[],
                        help="exclusion lists, as verify.py writes them: videos to leave out")
    args = parser.parse_args(argv)
    args.excluded = read_exclusions(args.exclude)
    args.local = local_dataset(args.dataset)
    args.frames, args.out = args.frames or args.local.frames, args.out or args.local.lists
    if args.layout is None:
        args.layout = args.dataset if args.dataset in READERS else "lists" if args.splits else "folder"
    if args.layout == "folder":
        if args.splits:
            raise UsageError(f"--splits {args.splits}: layout folder reads no lists; choose one with --layout")
        args.holdout = 0.2 if args.holdout is None else args.holdout
        check_range("--holdout", args.holdout, 0.01, 0.99)
        check_range("--seed", args.seed, 0, 2**32 - 1)
        return args
    if args.holdout is not None:
        raise UsageError(f"--holdout {args.holdout}: layout {args.layout} reads its test list from --splits")
    args.splits = folder_of_lists(args.splits, args.local.frames)
    return args


def make_texts(args, splits, dropped, classes, counts, wrong, nameless):
    """Print the problems -> ({path: text to write, None for a file to remove}, whether there are problems)."""
    texts = {args.out / "ClassInd.txt": "".join(f"{i} {name}\n" for i, name in enumerate(classes, 1))}
    bad = False
    for split in splits:
        problems = check_split(split, classes, counts, wrong, nameless)
        report(split, problems)
        bad = bad or bool(problems)
        lines = [f"{kind}: {item}\n" for kind, items in {EXCLUDED: dropped[split.number], **problems}.items()
                 for item in items]
        texts[args.out / f"missing_split{split.number:02d}.txt"] = "".join(lines) or None
        for part, names in (("train", split.train), ("test", split.test)):
            texts[args.out / list_name(part, split.number)] = to_csv(names, counts)
    return texts, bad


def main(argv):
    args = parse(argv)
    (folders, nameless), manifest = find_folders(args.frames), read_manifest(args.frames / MANIFEST)
    classes, splits, dropped = read_splits(args, folders)
    listed = set().union(*(split.train + split.test for split in splits))
    counts, wrong = count_frames(args.frames, sorted(listed.intersection(all_names(folders))), manifest)
    texts, bad = make_texts(args, splits, dropped, classes, counts, wrong, nameless)
    empty = [path.name for path, text in texts.items() if text == ""]
    if empty or bad and not args.allow_missing:
        way = f"{first(empty)} would be empty: " if empty else "give --allow_missing to leave the videos above out, or "
        print(f"error: nothing written: {way}extract them with process_data/src/extract_frame.py", file=sys.stderr)
        return 1
    with take_lock(args.out, "--out"):
        write_files({path: text for path, text in texts.items() if text is not None})
        for path, text in texts.items():
            if text is None:
                path.unlink(missing_ok=True)
    summarise(splits, dropped, classes, texts, len(nameless), args)
    return 0


def summarise(splits, dropped, classes, texts, nameless, args):
    for split in splits:
        rows = [texts[args.out / list_name(part, split.number)].count("\n") for part in ("train", "test")]
        excluded = len(dropped[split.number])
        missing = len(split.train + split.test + split.unknown) - sum(rows) + nameless
        print(f"split {split.number}: {rows[0]} train and {rows[1]} test videos"
              + (f", {excluded} {EXCLUDED}" if excluded else "") + (f", {missing} left out" if missing else "")
              + (f" (missing_split{split.number:02d}.txt)" if excluded or missing else ""))
    if (last := max(split.number for split in splits)) > args.local.splits:
        print(f"note: {args.dataset} has {plural(args.local.splits, 'split')} by dataset/local_dataset.py: write "
              f"splits={last} there")
    if stale := sorted({path.name for path in args.out.glob("*_split*.csv")} - {path.name for path in texts}):
        print(f"note: {', '.join(stale)} in {args.out} are of an earlier writing and not of these splits: remove them")
    print(f"{len(classes)} classes; lists and ClassInd.txt in {args.out}")


if __name__ == "__main__":
    run(main, stopped=GO_ON)

"""Check a data set before training: every frame, every list, and that nothing of the test is in the training.

    python process_data/src/verify.py --dataset ucf101 [--storage packed]

Each video of <lists>/{train,test}_split0N.csv is checked once; all its frames are decoded as in training. Two files
are written: <out>/verify.csv, a row for each video and fault, and <out>/exclude.txt for write_csv.py --exclude:

- a video whose frames are missing or damaged is left out of all lists. A video that only has more frames than the list
  says is not: the list is old, and write_csv.py counts again;
- of what is in both train and test (a video, a recording, identical frames under two names) the training copies are
  left out of that split's training list. The test list stays as it is: otherwise results would not be comparable, and
  in another split the same videos may rightly be in the test list.

Which videos are of one recording is told by the rule `group` of dataset/local_dataset.py. HMDB51's official lists keep
the clips of one source together only within each class: split 1 has 133 sources in both train and test, in different
classes. For HMDB51, a source in both is a fault within a class and a note across classes. Two videos are identical if
they have the same number of frames and all bytes of these are the same.

Videos that an earlier exclude.txt leaves out are checked again. They stay in the new one as long as they are bad, but
are no fault if they are in no list.

The exit code is 0 where nothing is wrong, 1 where something is, 2 for a wrong flag.
"""
import os
import sys
import time
from contextlib import closing
from dataclasses import astuple, dataclass, fields
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import core  # noqa: F401  # before what takes seconds to import

# isort: split
os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
from tqdm import tqdm

from core.errors import DataError, UsageError
from core.exits import run
from core.files import csv_lines, take_lock
from core.inputs import csv_rows, read_text
from core.jobs import WorkerDied, run_jobs
from core.names import cell
from core.parser import new_parser
from dataset.lists import MEND, WRITE, local_dataset, read_class_index, read_list, row_error, video_groups
from dataset.local_dataset import HMDB51_GROUP
from dataset.reader import FRAME_NAME
from process_data.src.common import (
    available_cores,
    check_range,
    first,
    plural,
    write_files,
)
from process_data.src.frame_check import (
    BAD_PACKED,
    CHANGED,
    GAPS,
    NO_FOLDER,
    NO_FRAMES,
    NO_PACKED,
    OPENERS,
    SIZE,
    TRUNCATED,
    UNDECODABLE,
    ZERO,
    VideoCheck,
    examine,
)
from process_data.src.official_lists import numbered
from process_data.src.write_csv import ALL_LISTS, all_names, find_folders, list_name, read_exclusions

REPORT, EXCLUSIONS = "verify.csv", "exclude.txt"
FEWER, MORE = "frames missing at the end", "more frames than listed"
BOTH, RECORDING, IDENTICAL = "video in train and test", "recording in train and test", "identical in train and test"
TWICE, NO_VIDEO = "listed more than once", "class without videos"
BAD_ROW, BAD_LIST = "unreadable row", "unreadable list"
FAULTS = (NO_FOLDER, NO_PACKED, BAD_PACKED, NO_FRAMES, GAPS, FEWER, MORE, ZERO, TRUNCATED, UNDECODABLE, CHANGED, SIZE,
          BOTH, RECORDING, IDENTICAL, TWICE, NO_VIDEO, BAD_ROW, BAD_LIST)

HEADER = f"""# Videos to leave out: write_csv.py --exclude {EXCLUSIONS}
# `class/video`: of all lists; `train_split01.csv: class/video`: of that list. verify.py writes this file anew each
# time it is run: lines of your own belong into another file.
"""


@dataclass(frozen=True)
class Finding:
    """A row of the report. video: class/video, or the recording or class that the fault is about."""

    fault: str
    video: str
    detail: str = ""
    lists: str = ""  # names of the files, spaces between


def examine_all(names, args):
    """-> {name: VideoCheck}."""
    work = partial(examine, root=str(args.frames), quick=args.quick, storage=args.storage)
    checks = {}
    with closing(run_jobs(work, names, args.workers)) as jobs:
        for name, check in tqdm(jobs, total=len(names), unit="video", disable=None, smoothing=0.05):
            if isinstance(check, WorkerDied):
                check = VideoCheck(0, 0, None, ((UNDECODABLE, check.reason),))
            checks[name] = check
    return checks


def read_lists(args, index):
    """-> ({file name: {video: frames}}, [Finding]); a bad list has its good rows."""
    lists, findings = {}, []
    spaced = args.frames if args.storage == "frames" else None  # to tell which names really end in white space
    for name in (list_name(part, number) for number in args.split for part in ("train", "test")):
        try:
            videos = read_list(args.lists / name, index, spaced)
            lists[name] = dict(zip(videos.names.tolist(), videos.num_frames.tolist(), strict=True))
        except DataError as error:
            lists[name], found = read_rows(args.lists / name, index, spaced)
            findings += found or [Finding(BAD_LIST, name, str(error), name)]
        if lists[name]:
            present = {video.partition("/")[0] for video in lists[name]}
            findings += [Finding(NO_VIDEO, label, "", name) for label in index if label not in present]
    return lists, findings


def read_rows(path, index, frames):
    """Read a list that read_list refuses, row by row -> ({video: frames} of good rows, [Finding] of the others)."""
    counts, seen, findings = {}, {}, []
    try:
        for row, fields in csv_rows(read_text(path, WRITE), path, MEND):
            if error := row_error(fields, index, frames):
                findings.append(Finding(BAD_ROW, f"{path.name} row {row}", error, path.name))
            else:
                counts.setdefault(fields[0], int(fields[1]))
                seen.setdefault(fields[0], []).append(row)
    except DataError as error:
        findings.append(Finding(BAD_LIST, path.name, str(error), path.name))
    findings += [Finding(TWICE, video, f"rows {first(rows)}", path.name) for video, rows in seen.items() if rows[1:]]
    return counts, findings


def frame_findings(checks, lists):
    """What is wrong with the frames -> ([Finding] of listed videos, names of all videos that must not be used)."""
    counts = {}  # video -> number of frames -> files that say so
    for name, videos in lists.items():
        for video, count in videos.items():
            counts.setdefault(video, {}).setdefault(count, []).append(name)
    findings, bad = [], set()
    for video, check in checks.items():
        found = [Finding(fault, video, detail) for fault, detail in check.faults]
        for count, files in counts.get(video, {}).items():
            if check.last and check.last != count:
                found.append(Finding(FEWER if check.last < count else MORE, video,
                                     f"{count} listed, the last is {FRAME_NAME.format(check.last)}", " ".join(files)))
        if any(finding.fault != MORE for finding in found):
            bad.add(video)
        if video in counts:
            findings += found
    return findings, bad


def leaks(number, lists, excluded, checks, rule):
    """What is in both train and test of a split -> ([Finding], training videos to leave out).

    `excluded`: videos that are already left out of the training list. They are no findings, but stay left out while
    the reason holds.
    """
    names = {part: list_name(part, number) for part in ("train", "test")}
    listed, test = (set(lists[names[part]]) for part in ("train", "test"))
    train, files = listed | excluded, " ".join(names.values())
    both = train & test
    findings, out = [Finding(BOTH, video, "", files) for video in both & listed], set(both)
    for recording, sides in shared_recordings(train - both, test - both, rule, rule == HMDB51_GROUP).items():
        out.update(sides[0])
        if here := [video for video in sides[0] if video in listed]:
            detail = f"train: {first(here, 3)}; test: {first(sides[1], 3)}"
            findings.append(Finding(RECORDING, recording, detail, files))
    twins = {}
    for video in sorted(test):
        if digest := checks[video].digest:
            twins.setdefault(digest, []).append(video)
    for video in train - both:
        if checks[video].digest in twins:
            out.add(video)
            if video in listed:
                findings.append(Finding(IDENTICAL, video, f"test: {first(twins[checks[video].digest], 3)}", files))
    return findings, out


def shared_recordings(train, test, rule, within_class):
    """Recordings of which both sets have videos -> {recording: (its videos in train, in test)}, sorted by name."""
    members = {}
    for side, names in enumerate((sorted(train), sorted(test))):
        for name, group in zip(names, video_groups(names, rule).tolist(), strict=True):
            recording = f"{name.rpartition('/')[0]}/{group}" if within_class else group
            members.setdefault(recording, ([], []))[side].append(name)
    return {recording: sides for recording, sides in members.items() if all(sides)}


def note_sources(number, lists, rule):
    """Print which sources HMDB51's official lists share across classes, where they need not be disjoint."""
    train, test = (set(lists[list_name(part, number)]) for part in ("train", "test"))
    shared = {source.partition("/")[2] for source in shared_recordings(train, test, rule, True)}
    across = sorted(set(shared_recordings(train, test, rule, False)) - shared)
    if across:
        print(f"note: split {number}: {plural(len(across), 'source')} in both train and test, in different classes, as "
              f"HMDB51's official lists have it: {first(across, 3)}")


def all_leaks(numbers, lists, old, checks, rule):
    """Results of `leaks` for all splits -> ([Finding], {name of a training list: videos to leave out})."""
    findings, out = [], {name: set(videos) for name, videos in old.items() if name != ALL_LISTS}
    for number in numbers:
        train = list_name("train", number)
        if lists[train] and lists[list_name("test", number)]:
            found, out[train] = leaks(number, lists, old.get(train, set()), checks, rule)
            findings += found
            if rule == HMDB51_GROUP:
                note_sources(number, lists, rule)
    return findings, out


def report_text(findings):
    return csv_lines([[field.name for field in fields(Finding)], *(map(cell, astuple(one)) for one in findings)])


def exclusion_text(bad, out):
    lines = sorted(bad) + [f"{name}: {video}" for name in sorted(out) for video in sorted(out[name] - bad)]
    return HEADER + "".join(f"{line}\n" for line in lines)


def parse(argv):
    parser = new_parser("process_data/src/verify.py", __doc__)
    parser.add_argument("--dataset", default="ucf101", help="a name in dataset/local_dataset.py")
    parser.add_argument("--storage", choices=list(OPENERS), default="frames",
                        help="what is checked: the extracted frames, or those packed by pack.py")
    parser.add_argument("--frames", type=Path,
                        help="folder of <class>/<video>, or of the packed <class>/<video>.zip; None: the data set's")
    parser.add_argument("--lists", type=Path, help="folder of the lists and ClassInd.txt; None: the data set's")
    parser.add_argument("--split", type=int, nargs="+", help="numbers of the splits to check; None: all in --lists")
    parser.add_argument("--out", type=Path, help=f"folder for {REPORT} and {EXCLUSIONS}; None: --lists")
    parser.add_argument("--workers", type=int, default=available_cores(), help="processes")
    parser.add_argument("--quick", action="store_true",
                        help="do not decode: other sizes, and damage that leaves a file's end whole, stay unseen")
    args = parser.parse_args(argv)
    local = local_dataset(args.dataset)
    args.rule = local.group
    args.frames, args.lists = args.frames or local.root(args.storage), args.lists or local.lists
    args.out = args.out or args.lists
    check_range("--workers", args.workers, 1, 1024)
    if not args.lists.is_dir():
        raise UsageError(f"--lists {args.lists} is not a folder: write the lists with process_data/src/write_csv.py")
    there = numbered(args.lists, r"(?:train|test)_split(\d{2,})\.csv")
    if not there:
        raise DataError(f"--lists {args.lists} holds no train_split01.csv: write it with process_data/src/write_csv.py")
    args.split = sorted(set(args.split or there))
    if lacking := [number for number in args.split if number not in there]:
        raise UsageError(f"--split {lacking[0]}: {args.lists} holds splits {first(there)}")
    return args


def print_findings(findings):
    for fault in FAULTS:
        found = [f"{finding.video} ({finding.detail})" if finding.detail else finding.video
                 for finding in findings if finding.fault == fault]
        if found:
            print(f"{fault}: {len(found)}: {first(found, 3)}")


def note_unlisted(names, checks, lists, old, bad):
    """Print how many videos are in no list, and which are still excluded although they have no fault any more."""
    listed = set().union(*lists.values())
    if unlisted := len(set(names).difference(checks)):
        print(f"note: {plural(unlisted, 'video')} in no list that was checked, not looked at")
    if whole := sorted(old.get(ALL_LISTS, set()) - listed - bad):
        print(f"note: {plural(len(whole), 'video')} left out earlier and without a fault now: {first(whole, 3)}; "
              "write_csv.py takes them in again")


def main(argv):
    args, start = parse(argv), time.perf_counter()
    index = read_class_index(args.lists / "ClassInd.txt")
    folders, nameless = find_folders(args.frames, args.storage)
    with take_lock(args.out, "--out"):
        return verify(args, start, index, [*all_names(folders), *nameless])


def verify(args, start, index, names_there):
    """All but the flags, the classes and the names of what is on the disk -> exit code."""
    lists, findings = read_lists(args, index)
    exclusions = args.out / EXCLUSIONS
    old = read_exclusions([exclusions]) if os.path.lexists(exclusions) else {}
    names = set().union(*lists.values(), *old.values())
    checks = examine_all(sorted(names), args)
    found, bad = frame_findings(checks, lists)
    leaked, out = all_leaks(args.split, lists, old, checks, args.rule)
    findings = sorted(findings + found + leaked, key=lambda finding: (FAULTS.index(finding.fault), *astuple(finding)))
    write_files({args.out / REPORT: report_text(findings), exclusions: exclusion_text(bad, out)})
    note_unlisted(names_there, checks, lists, old, bad)
    print_findings(findings)
    print(f"{plural(len(checks), 'video')}, {plural(sum(check.frames for check in checks.values()), 'frame')}"
          f"{' (not decoded)' if args.quick else ''}, {plural(len(lists), 'list')} checked in "
          f"{time.perf_counter() - start:.1f} s: " + (plural(len(findings), "fault") if findings else "nothing found"))
    if findings:
        print(f"all faults: {args.out / REPORT}")
        mend = {"frames": "folders of damaged videos and run extract_frame.py",
                "packed": "packed files of damaged videos and run pack.py (where their frames are gone, "
                          "extract_frame.py before it)"}[args.storage]
        print(f"to mend them: remove the {mend}, mend the official lists, then run write_csv.py")
        print(f"to leave the videos out: run write_csv.py with --exclude {exclusions}")
    return 1 if findings else 0


if __name__ == "__main__":
    run(main, stopped="nothing was written")

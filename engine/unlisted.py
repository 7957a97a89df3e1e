"""The training list of a folder of any videos: made by all processes of a run, and kept for the next ones.

Beside the project's other lists, in a folder for each folder of videos:

    files.csv      of each video: size, time of change, hash of its content, frames a second, frames that can be decoded
                   and frames that its header announces
    left_out.csv   what is not in the list, and why
"""
import hashlib
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from core.dist import alone, rank, world_size
from core.errors import DataError, FolderTaken, UsageError
from core.files import csv_lines, take_lock, write_text
from core.names import cell, path_fault, quoted
from dataset.lists import VideoList
from dataset.local_dataset import FOLDER_GROUP, LISTS, NO_GROUP
from dataset.unlisted import (
    SUFFIXES,
    Counted,
    Fault,
    Known,
    count_frames,
    fault_of,
    look_at_files,
    read_known,
    videos_below,
    write_known,
)
from dataset.video import FEW

from .agreement import of_all_processes, of_first_process

FILES, LEFT_OUT = "files.csv", "left_out.csv"
KEEP = 10  # seconds after which what has been counted is written
WAIT = 0.2  # seconds between two looks whether another run has done
RULES = {"file": NO_GROUP, "folder": FOLDER_GROUP}

T = TypeVar("T")


class Unlisted(NamedTuple):
    """A folder's real path, and what is in it: paths of videos; {path: why not}; how many files of other kinds."""

    root: str
    paths: list[str]
    faults: dict[str, str]
    others: int

    @property
    def place(self) -> Path:
        """Where its list is kept."""
        digest = hashlib.blake2b(os.fsencode(self.root), digest_size=4).hexdigest()
        return LISTS / f"videos_{os.path.basename(self.root)[:40]}_{digest}"


class FolderList(NamedTuple):
    """The training list of a folder.

    videos: called by their paths below it, all of one class; rates: (N,) float64 frames a second, 0 where a file says
    none; content: a hash of all; left_out: how many files cannot be taken; copies: how many are copies of others;
    short: of files that have far fewer frames than their headers announce, as text.
    """

    videos: VideoList
    rates: np.ndarray
    content: str
    left_out: int
    copies: int
    short: list[str]


def find_unlisted(folder: str) -> Unlisted:
    """Videos of a folder in any depth, as the first process sees them. Each file is taken once.

    Raises UsageError where it is no folder, and DataError where there is no video.
    """
    root = os.path.realpath(folder)
    if wrong := path_fault(root):
        raise UsageError(f"--videos {quoted(folder)}: {wrong}: rename the folder")
    if not os.path.isdir(root):
        raise UsageError(f"--videos {folder} is not a folder: give one that holds videos, in any depth")
    with alone():
        found = of_first_process(_inside(root) if rank() == 0 else None)
    if not found.paths:
        why = [f" that can be taken, such as {quoted(path)}: {reason}" for path, reason in found.faults.items()]
        why.append(f": it is searched for files that end in {' '.join(sorted(SUFFIXES))}")
        raise DataError(f"--videos {folder} holds no video{why[0]}")
    return found


def _inside(root: str) -> Unlisted:
    inside = videos_below(root)
    places = {os.path.realpath(path): path for path in reversed(inside.paths)}  # of several links to a file the first
    faults = {path: wrong for path in places.values() if (wrong := fault_of(os.path.relpath(path, root)))}
    return Unlisted(root, sorted(set(places.values()) - faults.keys()), {**inside.faults, **faults}, inside.others)


def list_unlisted(found: Unlisted, workers: int) -> FolderList:
    """The list of a folder's videos, whose frames are counted where they are not known. All processes must call it.

    workers: processes of each process that count. Of files with the same content, the first is taken. Raises DataError
    where no video can be read.
    """
    with alone(), _locked(found.place):
        looked = _count(found, workers)
        left_out, copies = dict(found.faults), {}
        first: dict[str, str] = {}  # of each content
        good: dict[str, Counted] = {}
        for path in found.paths:
            if isinstance((one := looked[path]).facts, Fault):
                left_out[path] = one.facts.reason
            elif (same := first.setdefault(one.facts.hash, path)) != path:
                copies[path] = f"is a copy of {same}"
            else:
                good[path] = one.facts
        if rank() == 0:
            write_text(found.place / LEFT_OUT, csv_lines([("file", "reason"), *(
                (cell(path), cell(reason)) for path, reason in sorted({**left_out, **copies}.items()))]))
    if not good:
        path, reason = next(iter(left_out.items()))
        raise DataError(f"no video in {found.root} can be read, such as {quoted(path)}: {reason}; "
                        f"{found.place / LEFT_OUT} names all")
    names = np.array([os.path.relpath(path, found.root) for path in good])
    hashes, rates, frames, _ = zip(*good.values(), strict=True)
    short = [f"{quoted(path)} ({one.frames} of {one.announced})" for path, one in good.items()
             if one.frames < FEW * one.announced]
    videos = VideoList(names, np.array(frames), np.zeros(len(names), np.int64), np.array(["video"]))
    content = hashlib.blake2b("".join(hashes).encode(), digest_size=6).hexdigest()
    return FolderList(videos, np.array(rates), content, len(left_out), len(copies), short)


def at_rate(listed: FolderList, fps: float) -> VideoList:
    """The videos, of which clips take `fps` frames a second. Raises DataError where one does not say its rate."""
    if (unknown := np.flatnonzero(listed.rates == 0)).size:
        raise DataError(f"--fps {fps:g}: {unknown.size} videos do not say their frames a second, such as "
                        f"{quoted(str(listed.videos.names[unknown[0]]))}: take them out of the folder, or take --ds, "
                        "which counts frames")
    return listed.videos.at_rate(fps, listed.rates)


def _count(found: Unlisted, workers: int) -> dict[str, Known]:
    """{path: what is known of it, or why it cannot be read}; each process counts its share."""
    known = read_known(found.place / FILES, Counted._fields, Counted.of)
    looks = look_at_files(found.paths[rank()::world_size()], known, count_frames, workers, "counting frames")
    looked: dict[str, Known] = {}
    while any(parts := of_all_processes(dict(for_a_while(looks, KEEP)))):
        for part in parts:
            looked |= part
        now = known | {path: one for path, one in looked.items() if not isinstance(one.facts, Fault)}
        if rank() == 0 and now != known:
            write_known(found.place / FILES, Counted._fields, dict(sorted(now.items())))
            known = now
    return looked


def for_a_while(items: Iterable[T], seconds: float) -> Iterator[T]:
    """The next of `items`, at least one, for some seconds."""
    end = time.monotonic() + seconds
    for item in items:
        yield item
        if time.monotonic() >= end:
            return


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The first process holds the folder's lock; all wait while another run holds it."""
    lock, told = None, False
    while True:
        taken = None
        if rank() == 0:
            try:
                lock = take_lock(folder, "list of videos")
            except FolderTaken as error:
                taken = str(error)
        if not (taken := of_first_process(taken)):
            break
        if rank() == 0 and not told:
            print(f"note: {taken}", flush=True)
            told = True
        time.sleep(WAIT)
    with closing(lock) if lock else nullcontext():
        yield


def group_rule(text: str, names: Iterable[str]) -> str:
    """The rule that --group gives, as of dataset/local_dataset.py. Raises UsageError where it is none for these videos.
    """
    if text in RULES:
        return RULES[text]
    names = list(names)
    try:
        rule = re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(f"--group {quoted(text)} is neither {' nor '.join(RULES)} nor a regular expression "
                         f"({error})") from error
    if "group" not in rule.groupindex:
        raise UsageError(f"--group {quoted(text)} has no part (?P<group>...), which names the recording of a video")
    if names and not any(map(rule.fullmatch, names)):
        raise UsageError(f"--group {quoted(text)} fits none of the {len(names)} videos, such as {quoted(names[0])}: it "
                         "must fit the whole path below --videos")
    return text

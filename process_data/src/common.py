"""What the tools of process_data share: flags, listing videos, writing files, worker processes."""
import argparse
import csv
import multiprocessing
import os
import shutil
import signal
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection, resource_tracker

from core.errors import DataError, UsageError
from core.files import whole_files
from dataset.storage import PARTS, VIDEO_SUFFIXES

MANIFEST = "manifest.csv"
GO_ON = "what is finished is kept; start the same command again to go on"  # after Ctrl-C
COLUMNS = ("video", "source", "frames", "header_frames", "fps", "width", "height", "short_side", "quality",
           "source_bytes", "opencv")


class Parser(argparse.ArgumentParser):
    """A parser of flags that raises UsageError, for core.exits.run to print in one line as all other errors."""

    def __init__(self, **options):
        super().__init__(formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False, **options)

    def error(self, message):
        raise UsageError(f"{message} (--help lists the flags)")


def check_range(flag, value, low, high, unit=""):
    """Raises UsageError unless low <= value <= high."""
    if not low <= value <= high:
        raise UsageError(f"{flag} {value}: give a number from {low} to {high}{' ' + unit if unit else ''}")


def available_cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def first(names, count=10):
    """The first names, and how many more there are, as text for a message."""
    names = list(names)
    return ", ".join(map(str, names[:count])) + (f" and {len(names) - count} more" if len(names) > count else "")


def plural(count, noun):
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


@dataclass(frozen=True)
class Video:
    """name: "class/video" without the suffix; path: of the file; size: in bytes."""

    name: str
    path: str
    size: int


def visible(folder):
    """Entries of a folder that are not hidden, sorted by name."""
    with os.scandir(folder) as entries:
        return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)


def class_folders(root):
    """Folders that hold videos: <root>/<class>, or <root>/{train,val,validate,test}/<class>."""
    for folder in visible(root):
        if not folder.is_dir():
            continue
        inside = visible(folder.path) if folder.name in PARTS else []
        if inside and all(entry.is_dir() for entry in inside):
            yield from inside
        else:
            yield folder


def find_videos(root):
    """Videos in <root>/<class>/ -> ([Video] sorted by name, paths of the files that are no videos).

    Raises UsageError where `root`, the flag --videos, is no folder, and DataError where it holds no video, where two
    files would get the same name, and where a name is not UTF-8, which the lists are.
    """
    if not os.path.isdir(root):
        raise UsageError(f"--videos {root} is not a folder: give the folder that holds <class>/<video>")
    found, others = {}, [entry.path for entry in visible(root) if not entry.is_dir()]
    for folder in class_folders(root):
        for entry in visible(folder.path):
            stem, suffix = os.path.splitext(entry.name)
            if suffix.lower() not in VIDEO_SUFFIXES or not entry.is_file():
                others.append(entry.path)
                continue
            name = f"{folder.name}/{stem}"
            if name in found:
                raise DataError(f"{entry.path} and {found[name].path} would both become {name}: "
                                "remove or rename one of them")
            if not is_utf8(name):
                raise DataError(f"the name of {entry.path!a} is not UTF-8: rename the file (and its row in the lists)")
            found[name] = Video(name, entry.path, entry.stat().st_size)
    if not found:
        raise DataError(f"--videos {root} holds no video in <class>/<video>{{{','.join(VIDEO_SUFFIXES)}}}")
    return [found[name] for name in sorted(found)], others


def is_utf8(name):
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:  # Python gives bytes that are not UTF-8 as lone surrogates
        return False
    return True


def write_files(texts):
    """Write {path: text}, all of them or none, as whole_files does: an error leaves the old files."""
    with whole_files(texts) as temporaries:
        for temporary, text in zip(temporaries, texts.values(), strict=True):
            temporary.write_text(text, encoding="utf-8", newline="")


def remove_tree(path):
    """Remove a folder if it exists."""
    if os.path.lexists(path):
        shutil.rmtree(path)


def read_manifest(path):
    """{video: row} of a manifest; {} where there is no file."""
    if not path.exists():
        return {}
    with open(path, newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        rows = {row["video"]: row for row in table} if tuple(table.fieldnames or ()) == COLUMNS else {None: {}}
    if any(None in row.values() or not row.get("frames", "").isdigit() for row in rows.values()):
        raise DataError(f"{path} is not a manifest as extract_frame.py writes it: remove it and run extract_frame.py "
                        "again (it extracts nothing twice)")
    return rows


class WorkerDied:
    """Stands for the result of a job whose process ended before the job did (decoder crash, out of memory)."""

    def __init__(self, exit_code):
        died_by = f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
        self.reason = f"its process died ({died_by}: a crash of the decoder, or out of memory)"


def serve(function, channel):
    """What a worker process does: receive a job, send its result, until the channel closes."""
    threading.Thread(target=exit_with_parent, daemon=True).start()
    while True:
        try:
            job = channel.recv()
        except EOFError:
            return
        channel.send(function(job))


def exit_with_parent():
    """End this process when its parent ends, lest it write into folders that a new run works on."""
    connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


@contextmanager
def interrupts_held():
    """Put off Ctrl-C until the end of the block; processes that are started in it ignore Ctrl-C for good.

    A new process inherits signals that are blocked or ignored. To ignore SIGINT here would lose a Ctrl-C. It is
    blocked, and as the parent's other threads (tqdm has one) may still receive it, the handler notes it for later.
    """
    resource_tracker.ensure_running()  # or multiprocessing starts it with the first process, which unblocks the signal
    pressed = []
    handler = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
        if pressed and callable(handler):
            handler(signal.SIGINT, None)


def start_worker(function):
    """Start a process that does function(job) for each job it is sent -> (channel to it, process)."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(function, theirs), daemon=True)
    process.start()
    theirs.close()
    return ours, process


def run_jobs(function, jobs, workers):
    """Run function(job) in `workers` processes; yields (job, result) as jobs end, WorkerDied for a crashed one.

    When a decoder crashes, the pools of the standard library wait for ever (multiprocessing) or give up all jobs
    (concurrent.futures). Leaving the loop over the results early kills the workers.
    """
    jobs = iter(jobs)
    processes, busy = {}, {}  # channel -> process, channel -> job

    def add_worker():
        with interrupts_held():  # or Ctrl-C could leave a worker that is not in `processes`
            channel, processes[channel] = start_worker(function)
        return channel

    def send(channel, job):
        busy[channel] = job
        with suppress(ConnectionError):  # the worker died after its last job: recv below notices
            channel.send(job)

    try:
        for _, job in zip(range(workers), jobs, strict=False):  # jobs last, or zip takes one too many
            send(add_worker(), job)
        while busy:
            for channel in connection.wait(list(busy)):
                done = busy.pop(channel)
                try:
                    result = channel.recv()
                except (EOFError, ConnectionError):
                    process = processes.pop(channel)
                    process.join()
                    result, channel = WorkerDied(process.exitcode), None
                for job in jobs:
                    send(channel or add_worker(), job)
                    break
                yield done, result
    finally:
        for process in processes.values():
            process.kill()
        for process in processes.values():
            process.join()

"""What the benchmarks share: the machine behind a result, timing and memory, real frames, tables, the report's file.

Benchmarks import no entry script: they call what lies below one, or start it as a command (`run_script`).
"""
import multiprocessing
import os
import re
import shlex
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch

from core import parser as parsers
from core.errors import RunError, UsageError
from core.files import whole_file
from core.versions import machine, versions
from dataset import local_dataset
from dataset.lists import VideoList
from dataset.loader import default_workers, return_memory
from dataset.local_dataset import DATA, REPOSITORY
from process_data.src.common import find_videos

MIB = 2**20

# Defaults of train.py's flags and of its looks at the features, which benchmarks measure as they are.
# tests/test_benchmarks.py compares them with train.py.
TRAIN = {"batch_size": 64, "seq_len": 16, "ds": 4, "img_dim": 112, "time_reverse": 0.5, "n_series": 2,
         "temperature": 0.07, "lr": 0.003, "momentum": 0.9, "wd": 1e-4, "loader_timeout": 600.0, "eval_every": 10,
         "eval_videos": 128, "workers": default_workers()}
WATCHED_CLIPS = 2

# --- reports -------------------------------------------------------------------------------------------------


def new_parser(script, doc, videos=False, out=None):
    """Flags that benchmarks share; videos: whether it needs any, which `choose` links; out: default of --out."""
    parser = parsers.new_parser(script, doc)
    if videos:
        parser.add_argument("--videos", type=Path, help="folder of <class>/<video>; None: real clips where there are "
                                                        "any, else made-up ones")
    parser.add_argument("--out", type=Path, default=out, help="file for the report (Markdown); None: only print it")
    return parser


def heading(title, *notes):
    """First lines of a report, Markdown: machine, versions, command, and what else is to be known."""
    found = versions()
    names = ("python", "torch", "numpy", "opencv")
    return [f"# {title}", "", f"- Machine: {machine()}",
            f"- Versions: {', '.join(f'{name} {found[name]}' for name in names)}, commit {found['commit']}",
            f"- Command: `python {shlex.join(sys.argv)}`, {found['started']}", *(f"- {note}" for note in notes), ""]


def table(head, rows):
    """Lines of a Markdown table; the first column is text, the others stand to the right."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return [f"| {' | '.join(map(str, line))} |" for line in lines]


def write(out, lines, quiet=False):
    """Print a report, unless `quiet`, and write it where --out says."""
    text = "\n".join([*lines, ""])
    if not quiet:
        print(f"\n{text}")
    if out:
        with whole_file(out) as temporary:
            temporary.write_text(text, encoding="utf-8")


# --- time and memory -----------------------------------------------------------------------------------------

def alternate(functions, rounds=5, clock=time.perf_counter):
    """{name: function} -> {name: least seconds of a call}, called in turn: what others do on the machine only adds.

    clock: time.process_time counts what this process's threads computed, and not how long they waited to.
    """
    for function in functions.values():
        function()
    seconds = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = clock()
            function()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append(clock() - start)
    return {name: min(values) for name, values in seconds.items()}


def alone(function, *arguments):
    """function(*arguments) in a fresh process, which nothing else has grown; it starts workers as this one would."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_with_start_method, multiprocessing.get_start_method(), function, arguments).result()


def _with_start_method(start_method, function, arguments):
    multiprocessing.set_start_method(start_method, force=True)
    return function(*arguments)


class Peak:
    """Context manager: `mib`, by how much the largest memory, of the GPU if there is one, rises within."""

    def __init__(self):
        self.cuda = torch.cuda.is_available()

    def __enter__(self):
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        else:
            return_memory()
            Path("/proc/self/clear_refs").write_text("5")  # the largest resident memory starts anew
        self.before = torch.cuda.memory_allocated() / MIB if self.cuda else resident("VmRSS")
        return self

    def __exit__(self, *error):
        self.mib = (torch.cuda.max_memory_allocated() / MIB if self.cuda else resident("VmHWM")) - self.before


def resident(name):
    """This process's resident memory (VmRSS) or the largest of it (VmHWM), MiB; Linux only."""
    return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


# --- commands and real frames --------------------------------------------------------------------------------

def run_script(script, *more, **environment):
    """Run a script of the repository with flags `more` -> what it prints; RunError with its last line if it fails."""
    done = subprocess.run([sys.executable, REPOSITORY / script, *map(str, more)], capture_output=True, text=True,
                          env={**os.environ, **environment})
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RunError(f"{script} ended with exit code {done.returncode}: {last}")
    return done.stdout


def choose(videos, count, folder):
    """Link `count` videos, spread over the folder `videos`, into `folder` -> where they are.

    videos: folder of <class>/<video>; None: real clips where there are some, else made-up ones of the demo's kind.
    """
    places = [REPOSITORY.parent / "shared/data/ucf101-5class/videos",
              *(DATA / name / "videos" for name in ("ucf101-5class", "ucf101", "demo"))]
    source = videos or next((place for place in places if place.is_dir()), None)
    if source is None:
        source = folder.with_name("rendered")
        run_script("process_data/src/render_demo.py", "--videos", source, "--splits", folder.with_name("splits"),
                   "--groups", 3, "--test_groups", 1, "--frames", 160, "--size", "240x320")
    if not source.is_dir():
        raise UsageError(f"--videos {source} is no folder")
    found = find_videos(source).videos
    for video in found[::max(1, len(found) // count)][:count]:
        path = folder / Path(video.name).parent / Path(video.path).name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(Path(video.path).resolve())
    return source if videos or source.is_relative_to(DATA) else "/".join(source.parts[-3:-1])


def extract(videos, frames, short_side):
    """Extract the videos' frames -> VideoList of them."""
    run_script("process_data/src/extract_frame.py", "--videos", videos, "--frames", frames, "--short_side", short_side)
    folders = sorted(path for path in frames.glob("*/*") if path.is_dir())
    return VideoList(np.array([f"{path.parent.name}/{path.name}" for path in folders]),
                     np.array([len(list(path.glob("*.jpg"))) for path in folders]), np.zeros(len(folders), int),
                     np.array(["none"]))


def register(root):
    """Make the frames and lists below `root` the data set `benchmark`."""
    local_dataset.DATASETS["benchmark"] = local_dataset.LocalDataset(root / "frames", root, local_dataset.NO_GROUP, 1)


def write_lists(folder, videos, part):
    """The class index and the `part` list of split 1 of a VideoList."""
    names = sorted({name.partition("/")[0] for name in videos.names})
    (folder / "ClassInd.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate(names, 1)))
    (folder / f"{part}_split01.csv").write_text("".join(
        f"{name},{count}\n" for name, count in zip(videos.names, videos.num_frames, strict=True)))

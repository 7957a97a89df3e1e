"""Check and measure everything on a machine with GPUs: one command, one report.

    bash benchmarks/gpu.sh                                   9 minutes at most; writes benchmarks/results/gpu-<name>.md

Every section runs in a process of its own: first all those that check, at once, then those that measure, one after the
other. The report is written after each. A section whose time is over hands in what it has. One that would not fit into
--minutes is listed as not run, one that fails is listed with its reason, and the others go on; the exit code is 1 then.
"What fell short" sums it up.
"""
import functools
import multiprocessing
import os
import re
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks import gpu_checks, gpu_speed
from benchmarks.common import TRAIN, choose, extract, heading, new_parser, write, write_lists
from benchmarks.gpu_checks import Settings
from benchmarks.sections import Child, Findings, NotHere
from benchmarks.step import NETS
from core.errors import RunError, UsageError
from core.exits import run
from dataset.local_dataset import REPOSITORY
from engine.flags import positive

VIDEOS = 32  # that everything reads
PATIENCE = 2  # a section may take this many times what it should, then hands in what it has
GRACE = 20  # seconds in which it does so, else it is ended


@dataclass
class Section:
    """title, seconds it should take, function(Settings) -> Findings; then what came of it: Findings, or a reason."""

    title: str
    seconds: float
    function: object
    child: Child | None = None
    begun: float = 0.0
    ends: float = 0.0
    found: Findings | None = None
    reason: str = ""
    failed: bool = False
    took: float = 0.0

    @property
    def pending(self):
        return self.found is None and not self.reason


def checks():
    """Sections of what must be right."""
    return [Section("A step of every network against the CPU", 70, gpu_checks.numbers),
            Section("Every stage against the CPU", 70, gpu_checks.stages),
            Section("Stopped and resumed", 70, gpu_checks.resume),
            Section("Several GPUs against one", 60, gpu_checks.processes)]


def timings():
    """Sections of how fast it is."""
    return [*(Section(f"Training step, {net}", 60, functools.partial(gpu_speed.training, net=net)) for net in NETS),
            Section("Ten-clip test and retrieval features", 30, gpu_speed.evaluation),
            Section("Augmentation", 10, gpu_speed.augmentation),
            Section("Compiled", 40, gpu_checks.compiled)]


def flags():
    results = Path(__file__).with_name("results").relative_to(REPOSITORY)
    parser = new_parser("benchmarks/gpu.py", __doc__, videos=True, out=results / "gpu-<name>.md")
    parser.add_argument("--minutes", type=float, default=9, help="for everything")
    parser.add_argument("--batch_size", type=int, default=64, help="most videos of a step; less where memory ends")
    parser.add_argument("--img_dim", type=int, default=112, help="side of the clips, pixels")
    parser.add_argument("--width", type=float, default=1.0, help="multiplies the networks' channels")
    parser.add_argument("--workers", type=int, default=TRAIN["workers"], help="loader processes")
    parser.add_argument("--rounds", type=int, default=5, help="repetitions of a timing, of which the fastest counts")
    return parser


def prepare_data(args, folder):
    """Frames of videos and their lists, data set `benchmark` -> where they are from."""
    source = choose(args.videos, VIDEOS, folder / "videos")
    videos = extract(folder / "videos", folder / "frames", 128)
    if len(videos) < 2 * gpu_checks.BATCH:
        raise UsageError(f"--videos {source}: {len(videos)} videos, at least {2 * gpu_checks.BATCH} are needed")
    for part in ("train", "test"):
        write_lists(folder, videos, part)
    return source


def begin(section, settings, deadline):
    """Start a section, if there is time for it."""
    section.begun = time.monotonic()
    left = deadline - section.begun
    if left < section.seconds:
        section.reason = f"not run: it needs about {section.seconds:.0f} s, {max(left, 0):.0f} s of --minutes were left"
        return
    print(f"{section.title} ...", file=sys.stderr, flush=True)
    section.ends = section.begun + min(left, PATIENCE * section.seconds)
    section.child = Child(section.function, replace(settings, ends=section.ends))


def end(section):
    """Wait for a section that has begun and fill in what came of it."""
    if section.child is None:
        return
    try:
        section.found = section.child.result(section.ends + GRACE - time.monotonic())
    except NotHere as error:
        section.reason = f"not run: {error}"
    except RunError as error:
        section.reason, section.failed = f"failed: {error}", True
    section.took = time.monotonic() - section.begun
    print(f"{section.title}: {section.reason or 'done'}, {section.took:.0f} s", file=sys.stderr, flush=True)


def lines_of(section):
    """A section of the report."""
    lines = [f"## {section.title}", ""]
    if section.pending:
        return [*lines, "Not done yet.", ""]
    if section.found is None:
        return [*lines, f"**{section.reason[0].upper()}{section.reason[1:]}**", ""]
    found = section.found
    passed = sum(right for _, right in found.checks)
    summary = [f"Checks: {passed} of {len(found.checks)} passed." if found.checks else "",
               *(f"- {'reached' if right else '**missed**'}: {text}" for text, right in found.targets)]
    return [*lines, *found.lines, "", *filter(None, summary), "", f"Took {section.took:.0f} s.", ""]


def shortcomings(done):
    """The paragraph of what fell short, as a list; and whether anything failed."""
    lines, wrong = [], False
    for section in done:
        lines += [f"- {section.title}: {section.reason or 'not done yet'}"] if section.found is None else []
        found = section.found or Findings()
        lines += [f"- {section.title}: not reached in its time: {', '.join(found.left)}"] if found.left else []
        lines += [f"- {section.title}: wrong: {text}" for text, right in found.checks if not right]
        lines += [f"- {section.title}: missed: {text}" for text, right in found.targets if not right]
        wrong |= section.failed or not all(right for _, right in found.checks)
    return lines or ["Nothing: all sections ran, all checks passed, all targets were reached."], wrong


def report(out, source, done):
    """Write what is there of the report -> whether anything was wrong; sections that are still to come say so."""
    short, wrong = shortcomings(done)
    machine = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    slug = re.sub(r"\W+", "-", machine).strip("-").lower()
    lines = [*heading(f"On a GPU: {machine}", f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}, "
                      f"precisions {', '.join(gpu_checks.precisions())}; videos of {source}, 128 pixels high"),
             "## What fell short", "", *short, "", *(line for section in done for line in lines_of(section))]
    write(out.with_name(out.name.replace("<name>", slug)), lines, quiet=any(section.pending for section in done))
    return wrong


def main(argv):
    args = flags().parse_args(argv)
    positive(args, "minutes", "batch_size", "img_dim", "width", "workers", "rounds")
    if not torch.cuda.is_available():
        raise RunError("no GPU: torch sees no CUDA device here, and this benchmark is for one")
    deadline = time.monotonic() + 60 * args.minutes
    multiprocessing.set_forkserver_preload(["benchmarks.gpu_checks", "benchmarks.gpu_speed"])
    os.environ["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    checking, timing = checks(), timings()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"  # everything is found anew
        Path(folder, "log").mkdir()
        settings = Settings(Path(folder), args.batch_size, args.img_dim, args.width, args.workers, args.rounds)
        write_report = functools.partial(report, args.out, prepare_data(args, settings.folder), [*checking, *timing])
        for section in checking:
            begin(section, settings, deadline)
        for section in checking:
            end(section)
            write_report()
        for section in timing:
            begin(section, settings, deadline)
            end(section)
            wrong = write_report()
    return int(wrong)


if __name__ == "__main__":
    run(main)

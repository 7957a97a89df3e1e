"""What the benchmarks share: the machine and versions behind a result, timing, tables, the file they write."""
import os
import shlex
import sys
import time
from pathlib import Path

import numpy as np
import torch

from dataset.files import whole_file
from models.log import versions


def machine():
    facts = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
    facts = {name.strip(): value.strip() for name, value in facts.items()}
    flags = facts.get("flags", "").split()
    simd = next((name for name in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if name in flags), "no AVX2")
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU"
    return (f"{len(os.sched_getaffinity(0))} cores of {facts.get('model name', 'unknown processor')} ({simd}), "
            f"{size:.0f} GiB{gpu}, Linux {os.uname().release}")


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


def alternate(functions, rounds=5):
    """{name: function} -> {name: median seconds of a call}: called in turn, so that a slow minute hits all alike."""
    for function in functions.values():
        function()
    seconds = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - start)
    return {name: float(np.median(values)) for name, values in seconds.items()}


def write(out, lines):
    """Print a report, and write it where --out says."""
    text = "\n".join([*lines, ""])
    print(f"\n{text}")
    if out:
        with whole_file(out) as temporary:
            temporary.write_text(text, encoding="utf-8")

"""Runs an entry script on the pretend CUDA device and says what its training steps cost.

    python tests/pretend_run.py train.py --net r3d --width 0.0625 --device cuda ...

$PRETEND_COUNTS: file for the counts of every step of the first process, JSON. $PRETEND_FP16=1: a GPU without bf16.
"""
import json
import os
import runpy
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # started by itself

import pretend_counts
import pretend_cuda

from engine.session import Session


def table(steps):
    """Text: the largest numbers of the median step, by line."""
    chosen = sorted(steps, key=lambda counts: counts.waits.total())[len(steps) // 2]
    lines = [f"one of {len(steps)} training steps: {chosen.total()}"]
    for name, counter in zip(("waits", "launches", "bytes"), chosen.all(), strict=True):
        lines += [f"{n:12d} {name:8s} {line:36s} {what}" for (line, what), n in counter.most_common(12)]
    return "\n".join(lines)


def main():
    script, sys.argv = sys.argv[1], sys.argv[1:]
    pretend_cuda.install(int(os.environ.get("WORLD_SIZE", 1)), bf16="PRETEND_FP16" not in os.environ)
    steps = pretend_counts.count_steps(Session)
    try:
        runpy.run_path(pretend_counts.ROOT + script, run_name="__main__")
    finally:
        first = os.environ.get("RANK", "0") == "0"
        if first and "PRETEND_COUNTS" in os.environ:
            Path(os.environ["PRETEND_COUNTS"]).write_text(json.dumps([counts.as_json() for counts in steps]))
        elif first and steps:
            print(table(steps))


if __name__ == "__main__":
    main()

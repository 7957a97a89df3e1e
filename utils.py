"""What the entry scripts share: the folder of a run, the plan that they print, notes on weights."""
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.dist import rank
from core.errors import UsageError
from core.inputs import fault
from core.names import inside_fault, name_fault, path_fault, quoted


def run_folder(log_dir: str, prefix: str, stage: str, name: str) -> Path:
    """<log_dir>/<prefix>/<stage>/<name>. Raises UsageError where one of them could be no folder's name."""
    for flag, text, wrong in (("--log_dir", log_dir, path_fault(log_dir)), ("--prefix", prefix, inside_fault(prefix)),
                              ("--name", name, name_fault(name))):
        if wrong:
            raise UsageError(f"{flag} {quoted(text)}: {wrong}, give another")
    return Path(log_dir) / prefix / stage / name


def print_plan(title: str, plan: Mapping[str, Any]) -> None:
    """What --dry_run prints, and every run before it starts."""
    if rank() == 0:
        print(title)
        for name, value in plan.items():
            print(f"  {name:<12} {value}")


def precision_text(precision: str | None, checkpointing: bool = False, compiled: bool = False,
                   accumulate: int = 1) -> str:
    """What the plan says of speed and memory."""
    text = precision or "auto on a GPU, fp32 on a CPU"
    if checkpointing:
        text += ", checkpointing"
    if compiled:
        text += ", compile"
    return text + (f", batch in {accumulate} parts" if accumulate > 1 else "")


def note_unfinished(checkpoint: Mapping[str, Any], path: str) -> None:
    """Say where a classifier is not of its run's end."""
    if rank() != 0 or fault(dict(checkpoint), {"epoch": int, "step": int, "steps": int, "flags": {"epochs": int}}):
        return
    epoch, step, steps, epochs = (checkpoint["epoch"], checkpoint["step"], checkpoint["steps"],
                                  checkpoint["flags"]["epochs"])
    if (epoch + 1, step) != (epochs, steps):
        print(f"note: {path} is of epoch {epoch}, step {step} of {steps}, of a run of {epochs} epochs: not its end")

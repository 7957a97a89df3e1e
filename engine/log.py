"""What a run leaves behind to read: log.txt, log.jsonl, flags.json and TensorBoard events."""
import json
import sys
import threading
from collections.abc import Iterable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from core.dist import rank
from core.files import append_to, named, write_json, write_text
from core.inputs import parsed, read_lines
from core.versions import versions


class RunLog:
    """The files of a run's folder; written by the first process only.

    When a run goes on from `epoch` and `step` (both counted from 0 over the whole run), what an earlier try logged
    beyond them is taken out of log.jsonl and TensorBoard; log.txt keeps everything.
    """

    def __init__(self, folder: Path, flags: Mapping[str, Any], epoch: int = 0, step: int = 0, **facts: Any):
        self.folder, self.main = Path(folder), rank() == 0
        if not self.main:
            return
        from torch.utils.tensorboard import SummaryWriter  # takes a second to import

        self.text, self.json = self.folder / "log.txt", self.folder / "log.jsonl"
        if self.json.exists():
            kept = rows_and_lines(self.folder) if epoch else []
            write_text(self.json, "".join(f"{line}\n" for row, line in kept if row["epoch"] < epoch))
        write_json(self.folder / "flags.json", {"flags": flags, "command": sys.argv, **versions(), **facts})
        events = self.folder / "tensorboard"
        self.writer = SummaryWriter(events, purge_step=step if events.exists() else None)
        # what stops the writer's thread, as a full disk, is raised again where the next event is added
        threading.excepthook = lambda thread: issubclass(thread.exc_type, OSError) or threading.__excepthook__(thread)

    def line(self, text: str) -> None:
        if self.main:
            tqdm.write(text)
            append(self.text, text)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        if self.main:
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)

    def images(self, name: str, pictures: Tensor, step: int) -> None:
        """pictures: (3, H, W) float in [0, 1]"""
        if self.main:
            self.writer.add_image(name, pictures, step)

    def epoch(self, epoch: int, values: Mapping[str, float]) -> None:
        if self.main:
            append(self.json, json.dumps({"epoch": epoch, **values}))

    def flush(self) -> None:
        """Hand TensorBoard's events to the system: a checkpoint must not be ahead of them."""
        if self.main:
            self.writer.flush()


def append(path: Path, line: str) -> None:
    """Add a line to a file; an OSError, as of a full disk, names it."""
    with named(path), append_to(path) as file:
        file.write(line + "\n")


def plain_types(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Flags as plain types, for JSON and checkpoints."""
    return {name: list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
            for name, value in flags.items()}


def log_rows(folder: Path) -> list[dict[str, float]]:
    """Rows of a run's log.jsonl, a dictionary an epoch; none where there is no file. A last row cut off is left out.

    Raises DataError, naming the row, where one is damaged.
    """
    return [row for row, _ in rows_and_lines(folder)]


def rows_and_lines(folder: Path) -> list[tuple[dict[str, float], str]]:
    """As log_rows, each row with its line in the file."""
    path = folder / "log.jsonl"
    hint = "take the row out, or the file away: the run goes on without"
    lines = read_lines(path, hint) if path.exists() else []
    if lines and not lines[-1].endswith("}"):  # what a kill leaves behind
        lines.pop()
    found = []
    for number, line in enumerate(lines, 1):
        row = parsed(line, {"epoch": range(2**31), str: Real}, f"{path} row {number}", hint)
        found.append(({name: float(value) for name, value in row.items()}, line))
    return found


def bar(iterable: Iterable, description: str, **options: Any) -> tqdm:
    """Progress bar of the first process; none where the output is no terminal."""
    return tqdm(iterable, desc=description, leave=False, disable=None if rank() == 0 else True, **options)

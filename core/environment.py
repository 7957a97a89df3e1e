"""Variables of the environment, each checked like a flag; empty ones count as not set."""
import os
import re
from pathlib import Path

from .errors import UsageError

PROCESSES = 2**16  # more than any run has


def text_variable(name: str) -> str | None:
    """Value of a variable, None where it is not set."""
    return os.environ.get(name) or None


def folder_variable(name: str, default: Path) -> Path:
    """A variable of the environment as a path, ~ being the home folder; default: where it is not set, or empty."""
    return Path(text_variable(name) or default).expanduser()


def whole_number_variable(name: str, default: int | None, low: int, high: int, meaning: str) -> int:
    """A variable of the environment as a whole number from low to high; default: where it is not set, or empty.

    meaning: what the variable is. Raises UsageError where it is another value, or must be set (no default) and is not.
    """
    text = text_variable(name)
    if text is None and default is not None:
        return default
    if text is None:
        raise UsageError(f"{name} is not set in the environment: it is {meaning}")
    if not re.fullmatch("[0-9]{1,10}", text) or not low <= int(text) <= high:
        raise UsageError(f"{name}={text!a} in the environment is not a whole number from {low} to {high}: "
                         f"it is {meaning}")
    return int(text)

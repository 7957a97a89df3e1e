"""Variables of the environment that hold numbers."""
import os
import re

from .errors import UsageError

PROCESSES = 2**16  # more than any run has


def whole_number_variable(name: str, default: int | None, low: int, high: int, meaning: str) -> int:
    """A variable of the environment as a whole number from low to high; default: where it is not set, or empty.

    meaning: what the variable is. Raises UsageError where it is another value, or must be set (no default) and is not.
    """
    text = os.environ.get(name, "")
    if not text and default is not None:
        return default
    if not text:
        raise UsageError(f"{name} is not set in the environment: it is {meaning}")
    if not re.fullmatch("[0-9]{1,10}", text) or not low <= int(text) <= high:
        raise UsageError(f"{name}={text!a} in the environment is not a whole number from {low} to {high}: "
                         f"it is {meaning}")
    return int(text)

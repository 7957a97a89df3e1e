"""Samples that could not be read and were replaced by others: counted over all processes, up to a limit."""
import sys
from collections.abc import Iterable

from core.errors import RunError


class Replacements:
    """limit: how many a run may replace (--skip_bad_samples). `total` counts those of all processes so far."""

    def __init__(self, limit: int, total: int = 0):
        self.limit, self.total = limit, total

    def report(self, errors: Iterable[str]) -> int:
        """Print why samples of this process's batch were replaced ("" for those that were not) -> how many were."""
        errors = [error for error in errors if error]
        for error in errors:
            print(f"sample replaced: {error}", file=sys.stderr, flush=True)
        return len(errors)

    def add(self, count: int) -> str | None:
        """Take up how many all processes together replaced -> a sentence for the log, or None."""
        self.total += count
        return f"{count} samples replaced because a frame cannot be read, {self.total} so far" if count else None

    def check(self, last_good: str) -> None:
        """Raise RunError where they are more than allowed; last_good: what to go on from, as a sentence."""
        if self.total > self.limit:
            raise RunError(f"{self.total} samples could not be read, more than --skip_bad_samples {self.limit}; "
                           f"{last_good}. Find all such videos with process_data/src/verify.py")

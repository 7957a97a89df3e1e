"""Where the time of a training step goes."""
import time
from collections.abc import Iterable, Iterator

import torch


class StepClock:
    """Seconds of a step: waiting for the loader, the whole step, and on a GPU what the device took.

    The host does not wait for the device in a step, so that the device's time is read later, from events, where the
    host waits anyway: `device_seconds`. A step is all between two `done`; there the host may be ahead of the device.
    """

    def __init__(self, device: torch.device):
        self.cuda = device.type == "cuda"
        self.last = self.waited = 0.0
        self.begun: torch.cuda.Event | None = None
        self.steps: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def batches(self, loader: Iterable[dict]) -> Iterator[dict]:
        """The loader's batches; a step begins where one is there."""
        self.last = start = time.perf_counter()
        for batch in loader:
            self.waited = time.perf_counter() - start
            self.begun = self._event()
            yield batch
            start = time.perf_counter()

    def done(self) -> dict[str, float]:
        """Call it once in a step, when all its work is under way -> {"time/data": seconds, "time/step": seconds}."""
        end, last = self._event(), self.last
        if self.begun and end:
            self.steps.append((self.begun, end))
        self.last = time.perf_counter()
        return {"time/data": self.waited, "time/step": self.last - last}

    def device_seconds(self) -> float | None:
        """Sum over the steps since the last call, from their first to their last operation; None on a CPU.

        It waits for the device.
        """
        if not self.cuda:
            return None
        steps, self.steps = self.steps, []
        if steps:
            steps[-1][1].synchronize()
        return sum(start.elapsed_time(end) for start, end in steps) / 1000

    def _event(self) -> torch.cuda.Event | None:
        if not self.cuda:
            return None
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

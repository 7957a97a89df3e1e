"""Signals that ask a run to stop."""
import os
import signal
import sys
import threading
import time
from types import TracebackType

from core.exits import end_children

STOPPED = "STOPPED"  # file in the folder of a run that was asked to stop; a launcher goes no further then


class Interrupt:
    """SIGINT, SIGTERM and SIGUSR1 ask the run to stop after its step; a second one, over a second later, ends it.

    A context manager. `name` is that of the first signal, or None. A launcher may hand on a signal that the terminal
    sends as well, so one that follows at once does not count as the second. The signals are read by a thread,
    because Python looks at them only between two operations of the main thread.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

    def __init__(self) -> None:
        self.name: str | None = None

    def __enter__(self) -> "Interrupt":
        pipe, self.end = os.pipe()
        os.set_blocking(self.end, False)
        self.former = {number: signal.signal(number, lambda *_: None) for number in self.SIGNALS}
        self.former_pipe = signal.set_wakeup_fd(self.end, warn_on_full_buffer=False)
        threading.Thread(target=self._listen, args=(pipe,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        signal.set_wakeup_fd(self.former_pipe)
        for number, handler in self.former.items():
            signal.signal(number, handler)
        os.close(self.end)

    def _listen(self, pipe: int) -> None:
        first = None
        while byte := os.read(pipe, 1):
            number = byte[0]
            if number not in self.SIGNALS:
                continue
            if first is None:
                first, self.name = time.monotonic(), signal.Signals(number).name
                print(f"{self.name}: finishing this step and saving; once more ends it at once", file=sys.stderr,
                      flush=True)
            elif time.monotonic() - first > 1:
                end_children()
                os._exit(128 + number)
        os.close(pipe)

import signal
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))
sys.path.insert(0, str(REPOSITORY / "tests"))

# a shell's background job ignores Ctrl-C, which the tests send to what they start
signal.signal(signal.SIGINT, signal.default_int_handler)

# pytest's summary lists what was skipped and why; with -n it does not say how many tests -m or -k left out
left_out = pytest.StashKey[int]()


def pytest_deselected(items):
    """In a worker of pytest-xdist: count what is deselected in what the worker sends home."""
    sent = getattr(items[0].config, "workeroutput", None)
    if sent is not None:
        sent["left_out"] = sent.get("left_out", 0) + len(items)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    """Every worker collects all tests, so one worker's count is the count."""
    node.config.stash[left_out] = getattr(node, "workeroutput", {}).get("left_out", 0)


def pytest_terminal_summary(terminalreporter, config):
    count = config.stash.get(left_out, 0)
    if count:
        chosen = {"-m": config.option.markexpr, "-k": config.option.keyword}
        by = " and ".join(f"{flag} {value!r}" for flag, value in chosen.items() if value)
        terminalreporter.write_line(f"LEFT OUT [{count}] by {by or 'other options'}")

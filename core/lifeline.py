"""A process ends with the one that started it, even if that one is killed.

What torchrun may start imports this file before anything else. Importing it ties the process to torchrun: numpy and
torch take seconds to import, and a process whose torchrun is killed meanwhile would join the next run on its port.

    python -m core.lifeline PID COMMAND...    is COMMAND, which ends with its parent PID: for shells, which have no
                                              other way to ask for that
"""
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1  # of prctl, in Linux
RUN = "TORCHELASTIC_RUN_ID"  # torchrun sets it for its processes


def die_with_parent(number: int, parent: int | None = None) -> bool:
    """Ask the system to send this process signal `number` when its parent ends; Linux only.

    parent: its id. -> whether it has ended already, before the system was asked.
    """
    if sys.platform == "linux":
        import ctypes  # not before it is known that it is needed

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
    return parent is not None and os.getppid() != parent


def is_torchrun(pid: int, proc: Path = Path("/proc")) -> bool:
    """Whether a parent is torchrun or a wrapper that it started, and not whoever takes in orphans.

    torchrun can have any name and be process 1 of a container, but it has torch in its memory; a wrapper has its
    variables. A parent outside the container has no number, 0.
    """
    try:
        return pid == 0 or f"{RUN}=".encode() in (proc / str(pid) / "environ").read_bytes() or (
            b"libtorch" in (proc / str(pid) / "maps").read_bytes())
    except OSError:  # it has ended, or is somebody else's
        return False


def end_with_torchrun() -> None:
    """Tie this process to torchrun, where that has started it. Exits where torchrun has ended already."""
    if RUN not in os.environ or sys.platform != "linux":
        return
    die_with_parent(signal.SIGTERM)
    if not is_torchrun(os.getppid()):
        sys.exit("error: torchrun ended before this process had begun, so it ends too")


if __name__ == "__main__":
    if die_with_parent(signal.SIGTERM, int(sys.argv[1])):
        sys.exit(128 + signal.SIGTERM)
    os.execvp(sys.argv[2], sys.argv[2:])
else:
    end_with_torchrun()

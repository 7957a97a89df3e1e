"""How a program ends: run(main) turns errors into one sentence and an exit code, and leaves no process behind.

Exit codes: 0 done, or stopped by a signal after saving; 2 a wrong flag (UsageError); 130 Ctrl-C; 1 everything else.
Importing this file does not import torch, which takes seconds: torch is asked only where the program has imported it.
"""
import multiprocessing
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from typing import NoReturn

from .errors import CheckpointError, DataError, RunError, Stopped, UsageError

WORKER_KILLED = "a loader worker was killed ({}), by the system if memory ran out: try fewer --workers"
ANOTHER_PROCESS = "another process of this run ended first; what it said is the reason"


def run(main: Callable[[list[str]], int | None], stopped: str = "") -> None:
    """Call a program's main(argv) and exit with the code that it returns, None being 0.

    Wrong input ends in one sentence and exit code 2 (flags) or 1; an error of the program itself shows its traceback.
    stopped: what to say of the work done so far where Ctrl-C ends the program.
    """
    code = None
    try:
        code = main(sys.argv[1:])
    except Stopped:
        pass
    except KeyboardInterrupt:
        fail(f"stopped: {stopped}" if stopped else "stopped", 130)
    except UsageError as error:
        fail(f"error: {error}", 2)
    except Exception as error:
        sentence = explain(error)
        if sentence is None:
            record_error(error)
            raise
        fail(f"error: {sentence}", 1, error)
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # the loader's workers may end now without it being an error
        end_children()
    if in_process_group():
        sys.modules["torch"].distributed.destroy_process_group()
    if code:
        sys.exit(code)


def explain(error: Exception) -> str | None:
    """One sentence about an error that the input or the machine caused; None for an error of the program."""
    message = str(error).strip()
    nameless = isinstance(error, FileNotFoundError) and error.filename is None
    if isinstance(error, BrokenPipeError):
        return "nobody reads the output any more"
    if isinstance(error, (ConnectionError, EOFError)) or nameless:  # the worker was handing over a batch
        return WORKER_KILLED.format("amid a batch")
    if isinstance(error, (DataError, CheckpointError, RunError, OSError)):
        if isinstance(error, OSError) and error.strerror and error.filename:
            return f"{error.filename}: {error.strerror}"
        if "Original Traceback" in message:  # raised in a loader's worker: the sentence is its last line
            message = message.splitlines()[-1].partition(": ")[2]
        return message
    torch = sys.modules.get("torch")
    if torch and isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in message:
        return f"memory is not enough ({message.splitlines()[0]}): try a smaller --batch_size or --width"
    if not isinstance(error, RuntimeError):
        return None
    if "DataLoader worker" in message:
        return WORKER_KILLED.format(message.splitlines()[0].rstrip("."))
    if "DataLoader timed out" in message:
        return (f"{message.splitlines()[0]}: reading hangs (--loader_timeout); look at the disk or network that holds "
                "the frames")
    if re.search(r"gloo|Connection closed by peer|Connection reset|NCCL", message):
        return ANOTHER_PROCESS
    return None


def in_process_group() -> bool:
    """Whether this is one of several processes that torch.distributed has joined."""
    if "torch" not in sys.modules:
        return False
    from .dist import initialised
    return initialised()


def end_children() -> None:
    """Kill the processes that multiprocessing has started, loader workers among them, which ignore other signals."""
    for child in multiprocessing.active_children():
        child.kill()


def record_error(error: Exception) -> None:
    """Leave the error where torchrun looks for it: it repeats the first one of all processes at the end."""
    if "TORCHELASTIC_ERROR_FILE" in os.environ and "torch" in sys.modules:
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler
        get_error_handler().record_exception(error)


def fail(sentence: str, code: int, error: Exception | None = None) -> NoReturn:
    """Print a sentence and exit; one of several processes does not wait for the others, which wait for it."""
    sys.stdout.flush()
    print(sentence, file=sys.stderr, flush=True)
    if not in_process_group():
        sys.exit(code)
    if sentence.endswith(ANOTHER_PROCESS):
        time.sleep(1)  # torchrun takes the process that ends first for the culprit
    else:
        record_error(error or RunError(sentence))
    end_children()
    os._exit(code)

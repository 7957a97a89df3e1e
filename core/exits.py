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

# What torch, gloo and NCCL say of several processes, and what to do; the first that fits counts. The last ones are
# consequences, which every process but the culprit meets.
SHARED_MEMORY = "/dev/shm is full or too small: give a container more (docker --shm-size 16g) or use fewer --workers"
PROCESSES = [
    ("Error while creating shared memory segment|failed to extend /dev/shm", SHARED_MEMORY),
    ("Duplicate GPU detected",
     "each process needs a GPU of its own: start as many as CUDA_VISIBLE_DEVICES names, each GPU once"),
    ("Unable to find address for|no socket interface found|is neither AF_INET",
     "GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME must name a network device of this machine (`ip address` lists them)"),
    ("EADDRINUSE|[Aa]ddress already in use",
     "the port is taken: on one machine start with torchrun --standalone, on several give another MASTER_PORT"),
    ("client socket has timed out|waiting for clients",
     "not all processes came: check that every machine was started, with the same MASTER_ADDR and MASTER_PORT"),
    ("connectFullMesh|Connection refused|No route to host|unreachable",
     "the processes do not reach each other: set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME to the network device "
     "that joins the machines (lo for one machine); a machine's name may lead to 127.0.1.1 in its /etc/hosts"),
    ("Timed out waiting|wait timeout|Socket Timeout|collective operation timeout",
     "another process did not come in time: it hangs or is far slower; its own last words may say why"),
    ("Connection closed by|Connection reset by peer|Broken pipe|ncclRemoteError|communicator was aborted",
     ANOTHER_PROCESS),
]


def run(main: Callable[[list[str]], int | None], stopped: str = "", memory: str = "") -> None:
    """Call a program's main(argv) and exit with the code that it returns, None being 0.

    Wrong input ends in one sentence and exit code 2 (flags) or 1; an error of the program itself shows its traceback.
    stopped: what to say of the work done so far where Ctrl-C ends the program; memory: what to try where memory is not
    enough.
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
        sentence = explain(error, memory)
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


def explain(error: Exception, memory: str = "") -> str | None:
    """One sentence about an error that the input or the machine caused; None for an error of the program.

    memory: what to try where memory is not enough.
    """
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
    if torch and isinstance(error, torch.OutOfMemoryError) or re.search(
            "DefaultCPUAllocator|CUDA error: out of memory", message):
        said = message.splitlines()[0].partition(" Including non-PyTorch memory")[0].rstrip(".")
        return f"memory is not enough ({said})" + (f": try {memory}" if memory else "")
    if not isinstance(error, RuntimeError):
        return None
    if re.search("out of shared memory|unable to allocate shared memory|unable to write to file </torch_", message):
        return f"{message.splitlines()[-1].removeprefix('RuntimeError: ').rstrip('.')}: {SHARED_MEMORY}"
    if re.match(r"DataLoader worker \(pid", message):
        return WORKER_KILLED.format(message.splitlines()[0].rstrip("."))
    if "DataLoader timed out" in message:
        return (f"{message.splitlines()[0]}: reading hangs (--loader_timeout); look at the disk or network that holds "
                "the frames")
    if torch and isinstance(error, torch.distributed.DistError) or re.search(
            "/gloo/|Gloo|NCCL|nccl[A-Z]|Connection closed by peer|Connection reset by peer", message):
        return _explain_processes(message)
    return None


def _explain_processes(message: str) -> str:
    """One sentence about an error of torch.distributed, with its own words."""
    lines = [line for line in message.partition("\nException raised from")[0].splitlines() if line.strip()]
    if "Last error:" in lines[:-1]:  # NCCL's own words
        lines = lines[lines.index("Last error:") + 1:]
    said = lines[0].partition(" This is typically caused")[0].strip().rstrip(".")
    for pattern, meaning in PROCESSES:
        if re.search(pattern, message):
            return f"{meaning} ({said})"
    return f"the processes cannot work together: {said}" + (
        "; NCCL_DEBUG=WARN in the environment says more" if "NCCL" in message else "")


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
    if ANOTHER_PROCESS in sentence:
        time.sleep(1)  # torchrun takes the process that ends first for the culprit
    else:
        record_error(error or RunError(sentence))
    if not in_process_group():
        sys.exit(code)
    end_children()
    os._exit(code)

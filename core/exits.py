"""How a program ends: run(main) turns errors into one sentence and an exit code, and leaves no process behind.

Exit codes: 0 done, or stopped by a signal after saving; 1 the input or the machine is at fault; 2 a wrong flag or
variable of the environment (UsageError); 70 a fault of the program; 130 Ctrl-C.
Importing this file does not import torch, which takes seconds: torch is asked only where the program has imported it.
"""
import errno
import multiprocessing
import os
import re
import resource
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from .errors import CheckpointError, DataError, RunError, Stopped, UsageError
from .imports import DEBUG, missing
from .names import one_line

FAULT = 70  # the exit code, as in BSD's sysexits.h
CRASH = "crash.txt"
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# what to do where the system refuses a file, by its reason
ADVICE = {
    errno.ENOSPC: "make room, or choose a folder on another disk, and start again",
    errno.EDQUOT: "the quota of this user is used up: make room, and start again",
    errno.EISDIR: "a folder stands where a file is to be: remove it, or choose another place",
    errno.ENOTDIR: "a file stands where a folder is to be: remove it, or choose another place",
    errno.EEXIST: "something else stands there: remove it, or choose another place",
    errno.ENAMETOOLONG: "a file's name has 255 bytes at most: choose a shorter one",
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS),
                    "this user may not change it: choose another place, or change its rights"),
}

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

    Wrong input ends in one sentence and exit code 2 (flags) or 1. So does an error of the program itself, in exit code
    70; its traceback is in crash.txt, in the folder of `crashes_go_to`.
    stopped: what to say of the work done so far where Ctrl-C ends the program; SIGTERM and SIGHUP then do the same.
    memory: what to try where memory is not enough.
    """
    code, debug = None, DEBUG in sys.argv[1:]
    sys.argv[1:] = [word for word in sys.argv[1:] if word != DEBUG]
    crashes_go_to(Path())
    open_streams()
    os.environ["MPLBACKEND"] = "agg"  # pictures go to files, and matplotlib ends at a name that it does not know
    for number in STOPS if stopped else ():
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores SIGHUP
            signal.signal(number, _stop)
    try:
        code = main(sys.argv[1:])
    except Stopped:
        pass
    except KeyboardInterrupt as stop:
        fail(f"stopped: {stopped}" if stopped else "stopped", 128 + (stop.args or (signal.SIGINT,))[0])
    except UsageError as error:
        fail(f"error: {error}", 2)
    except Exception as error:
        if debug:
            traceback.print_exc()
        sentence = explain(error, memory)
        if sentence is None:
            fail(f"error: {crash(error)}", FAULT, error)
        fail(f"error: {sentence}", 1, error)
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # the loader's workers may end now without it being an error
        end_children()
    if in_process_group():
        sys.modules["torch"].distributed.destroy_process_group()
    if code:
        sys.exit(code)


def _stop(number: int, _: object) -> NoReturn:
    raise KeyboardInterrupt(number)


def open_streams() -> None:
    """Open those of standard input, output and error that are closed: the next file would take their number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))


_folder = Path()


def crashes_go_to(folder: Path) -> None:
    """Name the folder of what this process does, for crash.txt; the current one until then."""
    global _folder
    _folder = folder


def crash(error: Exception) -> str:
    """Write the traceback of a fault of the program to crash.txt, after those that are there -> a sentence about it."""
    lines = str(error).strip().splitlines() or ["no message"]
    in_worker = "Original Traceback (most recent call last):" in lines  # of a loader: its own words come last
    said = (lines[-1] if in_worker else f"{type(error).__name__}: {lines[0]}")[:300]
    details = "".join(traceback.format_exception(error))
    text = (f"{time.strftime('%Y-%m-%d %H:%M:%S')}, process {os.getpid()}, Python {sys.version.split()[0]}\n"
            f"{shlex.join([sys.executable, *sys.argv])}\n{details}\n")
    try:
        with open(_folder / CRASH, "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        where = f"{(_folder / CRASH).absolute()} says where: please report it with that file and flags.json of the run"
    except OSError as problem:
        print(text, file=sys.stderr)
        where = f"{_folder / CRASH} cannot be written ({problem.strerror}), so it stands above: please report it"
    return f"{said}: this is a fault of the program, not of what it was given; {where}"


def explain(error: Exception, memory: str = "") -> str | None:
    """One sentence about an error that the input or the machine caused; None for an error of the program.

    memory: what to try where memory is not enough.
    """
    message, attempt = str(error).strip(), f": try {memory}" if memory else ""
    nameless = isinstance(error, FileNotFoundError) and error.filename is None
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE) or "Too many open files" in message:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return f"too many files are open: raise the limit (ulimit -n, which is {limit}), or use fewer --workers"
    if isinstance(error, UnicodeEncodeError):
        return (f"{error.object[:80]!a} cannot be written in {error.encoding}, this system's encoding of names: set "
                "PYTHONUTF8=1, or a locale of UTF-8")
    if isinstance(error, ImportError):
        return missing(error)
    if isinstance(error, MemoryError):
        return f"memory is not enough{attempt}"
    if isinstance(error, BrokenPipeError):
        return "nobody reads the output any more"
    if isinstance(error, (ConnectionError, EOFError)) or nameless:  # the worker was handing over a batch
        return WORKER_KILLED.format("amid a batch")
    if isinstance(error, (DataError, CheckpointError, RunError, OSError)):
        if isinstance(error, OSError) and error.strerror and error.filename:
            advice = ADVICE.get(error.errno or 0)
            return f"{error.filename}: {error.strerror}" + (f": {advice}" if advice else "")
        if isinstance(error, OSError) and error.strerror:
            return f"{error.strerror}, of standard output or a file whose name the system does not say"
        if "Original Traceback" in message:  # raised in a loader's worker: the sentence is its last line
            message = message.splitlines()[-1].partition(": ")[2]
        return message
    torch = sys.modules.get("torch")
    if torch and isinstance(error, torch.OutOfMemoryError) or re.search(
            "DefaultCPUAllocator|CUDA error: out of memory", message):
        said = message.splitlines()[0].partition(" Including non-PyTorch memory")[0].rstrip(".")
        return f"memory is not enough ({said}){attempt}"
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
    sys.unraisablehook = lambda _: None  # what torch says while a loader that failed is taken apart
    sys.stdout.flush()
    print(one_line(sentence), file=sys.stderr, flush=True)
    if ANOTHER_PROCESS in sentence:
        time.sleep(1)  # torchrun takes the process that ends first for the culprit
    else:
        record_error(error or RunError(sentence))
    if not in_process_group():
        sys.exit(code)
    end_children()
    os._exit(code)

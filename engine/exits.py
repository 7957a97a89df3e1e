"""How a program ends that cannot go on: one sentence, an exit code, no process left behind."""
import os
import re
import signal
import sys
import time

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from core.errors import CheckpointError, DataError, RunError, Stopped, UsageError

from .stop import end_children


def run(main):
    """Call an entry script's main(argv); wrong input ends in one sentence and exit code 2 (flags) or 1."""
    try:
        main(sys.argv[1:])
    except Stopped:
        pass
    except KeyboardInterrupt:
        fail("stopped", 130)
    except UsageError as error:
        fail(f"error: {error}", 2)
    except Exception as error:
        sentence = explain(error)
        if sentence is None:
            record_error(error)
            raise
        fail(f"error: {sentence}", 1, error)
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # the end of the loader's workers is no failure any more
        end_children()
    if dist.is_initialized():
        dist.destroy_process_group()


WORKER_KILLED = "a loader worker was killed ({}), by the system if memory ran out: try fewer --workers"
ANOTHER_PROCESS = "another process of this run ended first; what it said is the reason"


def explain(error):
    """One sentence about what is the input's or the machine's fault; None for a fault of the program."""
    message = str(error).strip()
    nameless = isinstance(error, FileNotFoundError) and error.filename is None
    if isinstance(error, BrokenPipeError):
        return "nobody reads the output any more"
    if isinstance(error, (ConnectionError, EOFError)) or nameless:  # while it handed a batch over
        return WORKER_KILLED.format("amid a batch")
    if isinstance(error, (DataError, CheckpointError, RunError, OSError)):
        if isinstance(error, OSError) and error.strerror and error.filename:
            return f"{error.filename}: {error.strerror}"
        if "Original Traceback" in message:  # raised in a loader's worker: the sentence is its last line
            message = message.splitlines()[-1].partition(": ")[2]
        return message
    if isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in message:
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


def record_error(error):
    """Leave the error where torchrun looks for it: it repeats the first one of all processes at the end."""
    if "TORCHELASTIC_ERROR_FILE" in os.environ:
        get_error_handler().record_exception(error)


def fail(sentence, code, error=None):
    """Print a sentence and exit; with several processes without waiting for the others, who would for ever."""
    sys.stdout.flush()
    print(sentence, file=sys.stderr, flush=True)
    if not dist.is_initialized():
        sys.exit(code)
    if sentence.endswith(ANOTHER_PROCESS):
        time.sleep(1)  # torchrun takes whom it sees ending first for the culprit
    else:
        record_error(error or RunError(sentence))
    end_children()
    os._exit(code)

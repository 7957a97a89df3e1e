"""A process that has imported the heavy packages and forks for each command, which then starts in no time.

Reads requests from standard input, one JSON object a line, and answers each with a line: {"argv", "cwd", "env",
"out", "err"} starts a script and gives its process id, {"poll": pid} gives its exit code, or null while it runs.
"""
import json
import os
import runpy
import sys

import cv2  # noqa: F401
import pandas  # noqa: F401
import torch
import torch._dynamo  # which optimizers import
import torch.distributed.elastic.multiprocessing.errors
import torch.utils.tensorboard

torch.set_num_threads(1)


def become(request):
    """Turn this forked process into the one asked for."""
    os.setsid()
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    for number, path, flags in ((0, os.devnull, os.O_RDONLY), (1, request["out"], os.O_WRONLY | os.O_CREAT),
                                (2, request["err"], os.O_WRONLY | os.O_CREAT)):
        os.dup2(os.open(path, flags), number)
    script = request["argv"][0]
    sys.path[:0] = [os.path.dirname(script), *os.environ["PYTHONPATH"].split(":")]
    sys.argv = request["argv"]
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w", buffering=1), open(2, "w", buffering=1)
    runpy.run_path(script, run_name="__main__")


def main():
    for line in sys.stdin:
        request = json.loads(line)
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if answer == 0:
                return become(request)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

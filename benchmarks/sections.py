"""Sections of a long benchmark: each runs in a process of its own, within a limit of time, and may fail alone."""
import contextlib
import multiprocessing
import os
import signal
import socket
import traceback
from dataclasses import dataclass, field

from core.errors import RunError


class NotHere(RunError):
    """This machine lacks what a section needs; the message says what."""


@dataclass
class Findings:
    """What a section found.

    lines: Markdown for the report; checks: (sentence, passed), of what must be right; targets: the same, of what is
    aimed at; left: what there was no time for.
    """

    lines: list = field(default_factory=list)
    checks: list = field(default_factory=list)
    targets: list = field(default_factory=list)
    left: list = field(default_factory=list)

    def check(self, what, value, most):
        """`value`, an error, is to be at most `most`; nan is more."""
        self.checks.append((f"{what}: {value:.2g}, allowed {most:g}", value <= most))

    def target(self, what, value, least=0.0, most=float("inf")):
        bound = f"at most {most:g}" if least == 0 else f"{least:g} to {most:g}" if most < float("inf") else (
            f"at least {least:g}")
        self.targets.append((f"{what} is {value:.3g}, aimed at {bound}", least <= value <= most))


class Child:
    """function(*arguments) in a process of its own, which a server of processes forks: nothing is imported again.

    environment: variables that it gets in addition; group: process group that it joins, its own if 0.
    """

    def __init__(self, function, *arguments, environment=None, group=0):
        context = multiprocessing.get_context("forkserver")
        self.answer, there = context.Pipe(duplex=False)
        self.process = context.Process(target=_child, args=(there, group, environment or {}, function, arguments))
        self.process.start()
        there.close()

    def result(self, limit):
        """What the function returned. RunError: it failed, or took more than `limit` seconds; it is ended then."""
        try:
            if not self.answer.poll(max(limit, 0)):
                raise RunError(f"not done after {limit:.0f} s")
            error, value = self.answer.recv()
            self.process.join(10)  # it tidies up
        except EOFError:
            self.process.join()
            raise RunError(f"its process ended with exit code {self.process.exitcode}") from None
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)  # with all that it has started
            self.process.kill()
            self.process.join()
        if error:
            raise error
        return value


def _child(answer, group, environment, function, arguments):
    os.setpgid(0, group)
    os.environ.update(environment)
    try:
        answer.send((None, function(*arguments)))
    except NotHere as error:
        answer.send((error, None))
    except Exception as error:
        traceback.print_exc()
        first = (str(error).strip().splitlines() or ["no message"])[0]
        answer.send((RunError(f"{type(error).__name__}: {first}"), None))


def as_torchrun(function, processes, limit, *arguments):
    """function(*arguments) in several processes that find each other as torchrun's do -> [what each returned]."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1",
             "MASTER_PORT": str(port)}
    children = [Child(function, *arguments, group=os.getpgrp(),
                      environment={**world, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(processes)]
    return [child.result(limit) for child in children]

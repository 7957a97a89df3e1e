"""Jobs in worker processes, of which one that crashes costs its job alone."""
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import connection, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from .exits import STOPS

CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
OVERTIME = signal.SIGPROF  # which ends a worker in `within`
END = object()  # of the jobs
AHEAD = 2  # results in order: jobs for each worker that are under way, or done before their turn


class WorkerDied:
    """Stands for the result of a job whose process ended before the job did (decoder crash, out of memory).

    reason: text; crashed: whether the process did that itself, or found no end, and would again
    """

    def __init__(self, exit_code: int | None, reason: str = "") -> None:
        number = -(exit_code or 0)
        self.crashed = number in (*CRASHES, OVERTIME)
        died_by = f"signal {number}" if number > 0 else f"exit code {exit_code}"
        self.reason = reason or ("it took so long that the decoder seems to find no end" if number == OVERTIME else
                                 f"its process died ({died_by}: a crash of the decoder, or out of memory)")


def serve(function: Callable[[Any], Any], channel: Connection) -> None:
    """What a worker process does: receive a job, send its result, until the channel closes."""
    threading.Thread(target=exit_with_parent, daemon=True).start()
    while True:
        try:
            job = channel.recv()
        except EOFError:
            return
        channel.send(function(job))


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """End this process where the block takes more of the processor's time, in C too, which nothing else interrupts."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def exit_with_parent() -> None:
    """End this process when its parent ends, lest it write into folders that a new run works on."""
    if parent := multiprocessing.parent_process():
        connection.wait([parent.sentinel])
        os._exit(1)


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Put off Ctrl-C, SIGTERM and SIGHUP until the end of the block; processes started in it are deaf to them for good.

    A new process inherits signals that are blocked or ignored. To ignore SIGINT here would lose a Ctrl-C. It is
    blocked, and as the parent's other threads (tqdm has one) may still receive it, the handler notes it for later.
    """
    resource_tracker.ensure_running()  # or multiprocessing starts it with the first process, which unblocks the signal
    sent = []
    handlers = {number: signal.signal(number, lambda number, frame: sent.append(number)) for number in STOPS}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if sent:
            signal.raise_signal(sent[0])


def start_worker(function: Callable[[Any], Any], method: str) -> tuple[Connection, BaseProcess]:
    """Start a process that does function(job) for each job it is sent -> (channel to it, process)."""
    context: Any = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(function, theirs), daemon=True)
    process.start()
    theirs.close()
    return ours, process


class Worker:
    """A process for one job after another, from any thread but by one at a time. It starts with its first job, and anew
    after one that it did not survive.
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function
        self.running: tuple[Connection, BaseProcess] | None = None

    def do(self, job: Any, seconds: float) -> Any:
        """function(job); WorkerDied where the process ended before it, and where it took more than `seconds`."""
        channel, process = self.running = self.running or self._start()
        late = False
        with suppress(EOFError, OSError):  # it died
            channel.send(job)
            if channel.poll(seconds):
                return channel.recv()
            late = True
            process.kill()
        process.join()
        channel.close()
        self.running = None
        return WorkerDied(process.exitcode, f"it took more than {seconds:g} s" if late else "")

    def _start(self) -> tuple[Connection, BaseProcess]:
        resource_tracker.ensure_running()  # as in `interrupts_held`, whose handlers only the main thread can set
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        try:
            return start_worker(self.function, "spawn")
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def run_jobs(function: Callable[[Any], Any], jobs: Iterable[Any], workers: int, in_order: bool = False,
             method: str = "spawn") -> Generator[tuple[Any, Any], None, None]:
    """Run function(job) in `workers` processes; yields (job, result), WorkerDied for a crashed one.

    When a decoder crashes, the pools of the standard library wait for ever (multiprocessing) or give up all jobs
    (concurrent.futures). Leaving the loop over the results early kills the workers.
    in_order: as the jobs are, not as they end; method: how multiprocessing starts a worker
    """
    jobs = iter(jobs)
    processes: dict[Connection, BaseProcess] = {}
    idle: list[Connection | None] = [None] * workers  # None: not started yet, or dead
    busy: dict[Connection, tuple[int, Any]] = {}
    done: dict[int, tuple[Any, Any]] = {}
    sent = given = 0  # jobs
    try:
        while True:
            while idle and (not in_order or sent - given < AHEAD * workers) and (job := next(jobs, END)) is not END:
                worker = idle.pop()
                if worker is None:
                    with interrupts_held():  # or Ctrl-C could leave a worker that is not in `processes`
                        worker, process = start_worker(function, method)
                        processes[worker] = process
                busy[worker] = sent, job
                sent += 1
                with suppress(OSError):  # it died after its last job: recv below notices
                    worker.send(job)
            if done and (not in_order or given in done):
                yield done.pop(given if in_order else next(iter(done)))
                given += 1
                continue
            if not busy:
                return
            ready = connection.wait(list(busy))
            for channel in [channel for channel in busy if channel in ready]:
                number, job = busy.pop(channel)
                try:
                    done[number] = job, channel.recv()
                    idle.append(channel)
                except (EOFError, OSError):  # an OSError where it ended in the middle of a result
                    process = processes.pop(channel)
                    process.join()
                    done[number] = job, WorkerDied(process.exitcode)
                    idle.append(None)
    finally:
        for process in processes.values():
            process.kill()
        for process in processes.values():
            process.join()

"""Worker processes, of which one that crashes costs its job alone: core/jobs.py."""
import multiprocessing
import signal
import subprocess
import sys
import threading
import time

import pytest
from helpers import PATIENCE, REPOSITORY

from core import jobs


def test_worker_that_dies_costs_only_its_job():
    sums = ["1 + 1", "__import__('os')._exit(3)", "2 + 2", "__import__('os').abort()", "3 + 3"]
    results = dict(jobs.run_jobs(eval, sums, 2))
    assert [results[job] for job in sums[::2]] == [2, 4, 6]
    assert "exit code 3" in results[sums[1]].reason and "signal 6" in results[sums[3]].reason


def test_one_worker_outlives_its_processes_in_any_thread():
    worker, found = jobs.Worker(eval), []
    ask = ["1 + 1", "__import__('os')._exit(3)", "2 + 2", "__import__('time').sleep(60)", "3 + 3",
           "int(__import__('signal').SIGINT) in __import__('signal').pthread_sigmask(0, [])"]
    thread = threading.Thread(target=lambda: found.extend(
        worker.do(job, 0.5 if "sleep" in job else PATIENCE) for job in ask))
    thread.start()
    thread.join()
    assert [found[i] for i in (0, 2, 4)] == [2, 4, 6] and found[5] is True  # deaf to Ctrl-C
    assert "exit code 3" in found[1].reason and found[3].reason == "it took more than 0.5 s"


def test_results_in_order_are_no_further_ahead_than_they_may_be():
    slow, begun = ["__import__('time').sleep(0.5)", *(f"{i} + 0" for i in range(1, 20))], []
    others = {*multiprocessing.active_children()}
    found = list(jobs.run_jobs(eval, (begun.append(job) or job for job in slow), 2, in_order=True))
    assert found == [(slow[0], None), *((job, i) for i, job in enumerate(slow[1:], 1))]
    results = jobs.run_jobs(eval, (begun.append(job) or job for job in slow), 2, in_order=True)
    begun.clear()
    next(results)
    assert len(begun) == jobs.AHEAD * 2  # which were sent while the first slept
    results.close()
    assert {*multiprocessing.active_children()} <= others


def test_worker_that_dies_between_two_jobs_costs_no_more_than_the_second(monkeypatch):
    """Sending the second job fails then."""
    start_worker = jobs.start_worker

    def start(*arguments):
        channel, process = start_worker(*arguments)
        receive = channel.recv

        def recv():
            result = receive()
            if result == "last":
                process.kill()
                process.join()
            return result

        monkeypatch.setattr(channel, "recv", recv, raising=False)
        return channel, process

    monkeypatch.setattr(jobs, "start_worker", start)
    results = dict(jobs.run_jobs(eval, ["'last'", "1 + 1", "2 + 2"], 1))
    assert results["'last'"] == "last" and "signal 9" in results["1 + 1"].reason and results["2 + 2"] == 4


def test_worker_that_dies_in_the_middle_of_a_result_costs_only_its_job():
    """It sends more than a pipe holds while nobody takes it."""
    killed = ("(__import__('threading').Timer(0.2, __import__('os').kill, (__import__('os').getpid(), 9)).start(), "
              "b'x' * 2**22)")
    results = jobs.run_jobs(eval, ["1 + 1", killed, "2 + 2"], 1)
    assert next(results) == ("1 + 1", 2)
    time.sleep(1)
    (_, died), last = results
    assert "signal 9" in died.reason and not died.crashed and last == ("2 + 2", 4)


def test_interrupt_while_a_worker_is_started_is_not_lost_and_leaves_none(monkeypatch):
    start_worker, others = jobs.start_worker, {*multiprocessing.active_children()}

    def start(*arguments):
        signal.raise_signal(signal.SIGINT)
        return start_worker(*arguments)

    monkeypatch.setattr(jobs, "start_worker", start)
    with pytest.raises(KeyboardInterrupt):
        list(jobs.run_jobs(eval, ["__import__('time').sleep(60)"], 1))
    assert {*multiprocessing.active_children()} <= others
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_worker_is_deaf_to_interrupts_from_its_start():
    """A terminal's Ctrl-C goes to workers too, which would print a traceback each; it is the parent's to handle."""
    mask = "int(__import__('signal').SIGINT) in __import__('signal').pthread_sigmask(0, [])"
    assert dict(jobs.run_jobs(eval, [mask], 1)) == {mask: True}


def test_workers_end_with_a_killed_parent_in_the_middle_of_a_job(tmp_path):
    job = f"open({str(tmp_path / 'begun')!r}, 'w').close() or __import__('time').sleep(60)"
    code = f"from core.jobs import run_jobs; list(run_jobs(eval, [{job!r}], 1))"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stderr=subprocess.PIPE)
    deadline = time.monotonic() + PATIENCE
    while not (tmp_path / "begun").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.communicate(timeout=PATIENCE)  # the worker holds stderr: it closes when the worker is gone
    assert (tmp_path / "begun").exists()

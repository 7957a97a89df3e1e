"""What goes wrong in the middle of training: frames, workers, numbers, other processes."""
import errno
import json
import os
import re
import shutil
import signal
import socket
import textwrap
from pathlib import Path

import pytest
import torch
from helpers import (
    NARROW,
    PATIENCE,
    SMALL,
    assert_gone,
    children,
    command,
    environment,
    free_port,
    planted,
    start,
    succeed,
    torchrun,
    wait_for,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from engine.log import RunLog
from engine.monitor import CollapseWatch, FiniteWatch, Meter
from models.weights.checkpoint import read_checkpoint

pytestmark = pytest.mark.slow

FLAGS = [*SMALL, *NARROW, "--batch_size", "2", "--epochs", "3", "--print_freq", "1", "--save_steps", "2", "--bn",
         "local", "--name", "x"]


@pytest.fixture
def damaged(root, tmp_path):
    """A data set in which two training videos cannot be read."""
    copy = shutil.copytree(root, tmp_path / "data")
    for video in ("Run/v_Run_g02_c01", "air drumming/v_air drumming_g03_c02"):
        for frame in (copy / "ucf101/frames" / video).iterdir():
            frame.write_bytes(frame.read_bytes()[:300])
    return copy


def last_line(process):
    error = process.output("err")
    assert "Traceback" not in error, error
    return error.strip().splitlines()[-1]


def begun(where, stage="pretrain"):
    """A condition: a checkpoint within the first epoch is there."""
    return (where / f"log/dualvar/{stage}/x/model/latest.pth.tar").exists


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_frame_stops_with_its_name_and_what_to_do(damaged, tmp_path, workers):
    done = command("train.py", *FLAGS, "--workers", workers, cwd=tmp_path, env=environment(damaged))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert re.search(r"^error: frame .*/image_0000\d.jpg is not a whole JPEG \(\d+ bytes; .*\): python "
                     r"process_data/src/verify.py --dataset ucf101 finds all such files; "
                     r"--skip_bad_samples N trains on without them$",
                     done.stderr.strip().splitlines()[-1])


@pytest.mark.parametrize("processes", [1, 2])
def test_bad_samples_are_replaced_and_counted(damaged, tmp_path, processes):
    options = {"cwd": tmp_path, "env": environment(damaged), "processes": processes}
    succeed("train.py", *FLAGS, "--skip_bad_samples", "6", "--workers", "1", **options)
    folder = tmp_path / "log/dualvar/pretrain/x"
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [row["data/replaced"] for row in rows] == [2, 4, 6]  # each of the two once an epoch
    assert read_checkpoint(folder / "model/latest.pth.tar")["replaced"] == 6
    scalars = EventAccumulator(str(folder / "tensorboard")).Reload().Scalars("epoch/data/replaced")
    assert [event.value for event in scalars] == [2, 4, 6]
    assert "6 so far" in (folder / "log.txt").read_text()
    done = command("train.py", *FLAGS, "--skip_bad_samples", "3", "--prefix", "few", **options)
    assert done.returncode == 1 and "4 samples could not be read, more than --skip_bad_samples 3" in done.stderr
    assert "last good checkpoint is" in done.stderr


def test_replacement_does_not_depend_on_who_makes_the_sample(damaged, tmp_path):
    weights = []
    for workers in (0, 2):
        succeed("finetune.py", *FLAGS, "--pretrain", "random", "--skip_bad_samples", "9", "--workers", workers,
                "--prefix", f"w{workers}", cwd=tmp_path, env=environment(damaged))
        weights.append(read_checkpoint(tmp_path / f"log/w{workers}/ft/x/model/latest.pth.tar")["state_dict"])
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_a_killed_worker_gets_a_sentence(root, tmp_path):
    (process,) = start("train.py", *FLAGS, "--epochs", "1000", "--workers", "2", cwd=tmp_path, env=environment(root))
    assert wait_for(begun(tmp_path), [process])
    workers = children(process.pid)
    os.kill(workers[0], signal.SIGKILL)
    assert process.wait(PATIENCE) == 1
    assert re.match("error: a loader worker was killed .*try fewer --workers", last_line(process))
    assert_gone(workers)


HANG = """
import time
import dataset.reader
def never(path): time.sleep(1000)
dataset.reader.read_bytes = never
"""


def test_a_hanging_worker_gets_a_sentence(root, tmp_path):
    """A frame that never comes, as from a network that is gone."""
    (process,) = start(planted(tmp_path, "finetune", HANG), *FLAGS, "--pretrain", "random", "--workers", "1",
                       "--loader_timeout", "2", cwd=tmp_path, env=environment(root))
    assert wait_for(lambda: children(process.pid), [process])
    workers = children(process.pid)
    assert process.wait(PATIENCE) == 1
    assert re.match("error: DataLoader timed out after 2.0 seconds: reading hangs", last_line(process))
    assert_gone(workers)


def test_a_hanging_loader_is_named_by_its_process(root, tmp_path):
    """One of two machines has lost its disk: that one says so, and the other that it waited for another."""
    hang = f"import os\nif os.environ['RANK'] == '1':\n{textwrap.indent(HANG, '    ')}"
    group = start(planted(tmp_path, "finetune", hang), *FLAGS, "--pretrain", "random", "--workers", "1",
                  "--loader_timeout", "2", processes=2, cwd=tmp_path, env=environment(root))
    assert [process.wait(PATIENCE) for process in group] == [1, 1]
    assert last_line(group[1]).startswith("error: DataLoader timed out after 2.0 seconds: reading hangs")
    said = last_line(group[0])
    assert said.startswith("error: another process of this run ended first") and "Connection" in said


def test_a_full_disk_names_the_log(tmp_path, monkeypatch):
    monkeypatch.setattr("core.files.check_regular", lambda path, follow: None)  # /dev/full is none
    log = RunLog(tmp_path, {})
    for name, write in (("log.txt", lambda: log.line("x")), ("log.jsonl", lambda: log.epoch(0, {}))):
        (tmp_path / name).symlink_to("/dev/full")
        with pytest.raises(OSError) as found:
            write()
        assert (found.value.errno, found.value.filename) == (errno.ENOSPC, str(tmp_path / name))


def test_a_network_device_that_is_not_there_is_named(root, tmp_path):
    """By gloo, and at the end by torchrun, although the processes have not come together yet."""
    run = torchrun("train.py", *FLAGS, processes=2, cwd=tmp_path,
                   env=environment(root, GLOO_SOCKET_IFNAME="nonsense"))
    out, _ = run.communicate(timeout=PATIENCE)
    assert run.returncode != 0
    summary = out[out.index("Root Cause"):]
    assert "GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME must name a network device" in out
    assert "Unable to find address for: nonsense" in summary


def test_a_port_that_is_taken_is_named(root, tmp_path):
    """Without torchrun, which would take the port itself."""
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        env = environment(root, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(taken.getsockname()[1]), WORLD_SIZE="2",
                          RANK="0", LOCAL_RANK="0")
        (process,) = start("train.py", *FLAGS, cwd=tmp_path, env=env)
        assert process.wait(PATIENCE) == 1
    assert re.search("error: the port is taken: .*MASTER_PORT .*EADDRINUSE", last_line(process))


@pytest.mark.parametrize("script,flags", [("train.py", []), ("finetune.py", ["--pretrain", "random"])])
def test_values_that_are_not_finite_stop_the_run(root, tmp_path, script, flags):
    done = command(script, *FLAGS, *flags, "--lr", "1e30", cwd=tmp_path, env=environment(root))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    (names,) = tmp_path.glob("log/dualvar/*/x/not_finite.txt")
    first, *videos = names.read_text().splitlines()
    assert re.fullmatch(r"epoch 0 step \d", first) and len(videos) == 2
    lists = (root / "lists/ucf101/train_split01.csv").read_text()
    assert all(f"{video},9\n" in lists for video in videos)
    assert re.search(f"loss or gradient is not finite at {first} .its videos are in .*not_finite.txt.; .*checkpoint",
                     done.stderr)
    for path in names.parent.glob("model/*.tar"):  # what was saved is good
        assert all(value.isfinite().all() for value in read_checkpoint(path)["state_dict"].values())


def test_finite_watch_names_the_first_bad_step():
    watch = FiniteWatch()
    for step, value in enumerate((1.0, float("inf"), float("nan"))):
        watch.add(step + 7, torch.tensor(1.0), torch.tensor(value))
    assert watch.first_bad() == 8 and watch.first_bad() is None


def test_collapse_is_said_once():
    good = {"feature_std/clip": 0.6, "loss/clip": 2.0, "chance_loss/clip": 4.0}
    for bad in ({"feature_std/clip": 0.01}, {"loss/clip": 3.99}):
        watch = CollapseWatch(patience=2)
        looks = [watch.warning(good), *(watch.warning({**good, **bad}) for _ in range(4))]
        said = [sentence for sentence in looks if sentence]
        assert len(said) == 1 and "collapse?" in said[0] and looks[0] is None
    watch = CollapseWatch(patience=2)
    assert not any(watch.warning({**good, "loss/clip": loss}) for loss in (4.1, 2.0, 4.1, 2.0))


def test_a_collapsed_run_is_warned_of(root, tmp_path):
    out = succeed("train.py", *FLAGS, "--lr", "3", "--wd", "0.3", "--epochs", "4", cwd=tmp_path,
                  env=environment(root))
    assert out.count("warning: collapse?") == 1


def test_meters_survive_a_checkpoint():
    meter, copy = Meter(), Meter()
    for value in (0.1, 0.7):
        meter.update({"a": torch.tensor(value), "b": value})
    copy.restore(meter.state(torch.device("cpu")))
    for m in (meter, copy):
        m.update({"a": 0.3, "b": 0.2})
    assert meter.means("cpu") == copy.means("cpu") == pytest.approx({"a": 1.1 / 3, "b": 1 / 3})
    copy.restore({"count": 2, "names": ["a"], "sums": [[1.0], [3.0]]})  # of two processes
    assert copy.means("cpu") == {"a": 1.0}


@pytest.mark.parametrize("processes", [pytest.param(2, marks=pytest.mark.kept), 4])
def test_a_process_that_fails_ends_all_with_the_first_error_last(damaged, tmp_path, processes):
    """By torchrun, as users start it."""
    run = torchrun("train.py", *FLAGS, "--batch_size", "4", processes=processes, cwd=tmp_path, env=environment(damaged))
    out, _ = run.communicate(timeout=PATIENCE)
    assert run.returncode != 0
    summary = out[out.index("Root Cause"):]
    assert "is not a whole JPEG" in summary and "verify.py --dataset ucf101" in summary


@pytest.mark.kept
def test_a_killed_process_ends_all(root, tmp_path):
    run = torchrun("train.py", *FLAGS, "--epochs", "1000", "--batch_size", "4", processes=2, cwd=tmp_path,
                   env=environment(root))
    assert wait_for(begun(tmp_path), [run])
    both = children(run.pid)
    victim = next(pid for pid in both if "RANK=1" in Path(f"/proc/{pid}/environ").read_text().split("\0"))
    os.kill(victim, signal.SIGKILL)
    out, _ = run.communicate(timeout=PATIENCE)
    assert run.returncode != 0 and f"Signal 9 (SIGKILL) received by PID {victim}" in out[out.index("Root Cause"):]
    assert "another process of this run ended first" in out
    assert_gone(both)


def test_two_nodes(root, tmp_path):
    """Two launches with their own agents make one run; when one is killed the other ends too, and both go on."""
    env, port = environment(root), free_port()
    flags = [*FLAGS, "--batch_size", "4", "--resume", "auto"]

    def nodes(*more):
        return [torchrun("train.py", *flags, *more, processes=1, cwd=tmp_path, env=env, options=(
            "--nnodes", "2", "--node_rank", str(r), "--master_addr", "127.0.0.1", "--master_port", str(port)))
            for r in range(2)]

    group = nodes("--epochs", "1000")
    assert wait_for(begun(tmp_path), group)
    everybody = [pid for node in group for pid in children(node.pid, deep=True)]
    for pid in children(group[1].pid):
        os.kill(pid, signal.SIGKILL)
    os.kill(group[1].pid, signal.SIGKILL)
    out, _ = group[0].communicate(timeout=PATIENCE)
    assert group[0].returncode != 0 and "another process of this run ended first" in out
    group[1].communicate(timeout=PATIENCE)
    assert_gone(everybody)
    port = free_port()
    outputs = [node.communicate(timeout=PATIENCE)[0] for node in nodes("--epochs", str(epochs_done(tmp_path) + 2))]
    assert "Pretrained: " in outputs[0] and "going on from" in outputs[0]


def epochs_done(where):
    log = where / "log/dualvar/pretrain/x/log.jsonl"
    return len(log.read_text().splitlines()) if log.exists() else 0


def test_a_killed_agent_takes_its_processes_along(root, tmp_path):
    """They save themselves first."""
    run = torchrun("train.py", *FLAGS, "--epochs", "1000", "--batch_size", "4", processes=2, cwd=tmp_path,
                   env=environment(root))
    assert wait_for(begun(tmp_path), [run])
    both = children(run.pid)
    os.kill(run.pid, signal.SIGKILL)
    run.communicate(timeout=PATIENCE)
    assert_gone(both)
    assert "stopped by SIGTERM" in (tmp_path / "log/dualvar/pretrain/x/STOPPED").read_text()


def test_processes_with_different_lists_do_not_begin(root, tmp_path):
    """As on two machines whose disks differ."""
    other = shutil.copytree(root, tmp_path / "other")
    path = other / "lists/ucf101/train_split01.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-4]))
    group = start("train.py", *FLAGS, cwd=tmp_path, env=environment(root), processes=2,
                  env_of={1: environment(other)})
    assert all(process.wait(PATIENCE) == 1 for process in group)
    assert "the processes disagree on the steps an epoch, 4 and 6" in last_line(group[0])
    assert not list((tmp_path / "log").rglob("*.tar"))

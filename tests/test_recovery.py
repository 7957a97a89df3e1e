"""Runs that are killed, stopped, starved of disk or started twice: real processes, real signals."""
import errno
import json
import os
import re
import shutil
import signal
import time

import pytest
import torch
from helpers import (
    NARROW,
    PATIENCE,
    REPOSITORY,
    SMALL,
    assert_gone,
    children,
    command,
    environment,
    start,
    succeed,
    wait_for,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from core.errors import CheckpointError
from models.weights import checkpoint
from models.weights.checkpoint import (
    become_latest,
    read_checkpoint,
    read_last_good,
    saved_checkpoints,
    write_checkpoint,
    write_latest,
)

pytestmark = pytest.mark.slow

# 12 videos, 3 epochs of 6 steps, learning rate dropping at epoch 1
FLAGS = [*SMALL, "--batch_size", "2", "--epochs", "3", "--schedule", "1", "--warmup", "0.5", "--print_freq", "1",
         "--save_steps", "2", "--save_freq", "1", "--resume", "auto", "--name", "run"]
STAGES = {
    "simclr": ("train.py", [*NARROW, "--bn", "local"], "pretrain"),
    "moco": ("train.py", [*NARROW, "--framework", "moco", "--moco-k", "16", "--bn", "shuffle", "--bn_splits", "1"],
             "pretrain"),
    "ft": ("finetune.py", [*NARROW, "--pretrain", "random", "--dropout", "0.5", "--bn", "local", "--color_jitter",
                           "--hflip"], "ft"),
}


def run_flags(stage, prefix, workers=0):
    script, flags, _ = STAGES[stage]
    return [script, *FLAGS, *flags, "--workers", workers, "--prefix", prefix]


def folder_of(where, stage, prefix):
    return where / "log" / prefix / STAGES[stage][2] / "run"


def logged(folder, line):
    """A condition: the run has logged `line` since now."""
    log = folder / "log.txt"
    already = log.read_text().count(line) if log.exists() else 0
    return lambda: log.exists() and log.read_text().count(line) > already


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def timeless(folder):
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith("time")} for row in rows]


def assert_same_run(whole, broken):
    """Two runs' weights, queue, optimizer, rates, log and TensorBoard are the same, nothing being there twice."""
    for name in ("latest.pth.tar", "epoch0.pth.tar", "epoch1.pth.tar"):
        a, b = (read_checkpoint(folder / "model" / name) for folder in (whole, broken))
        for part in ("state_dict", "optimizer", "epoch", "step", "steps", "config", "replaced"):
            assert same(a[part], b[part]), (name, part)
    assert timeless(whole) == timeless(broken) and len(timeless(whole)) == 3
    events = [EventAccumulator(str(folder / "tensorboard")).Reload() for folder in (whole, broken)]
    assert set(events[0].Tags()["scalars"]) == set(events[1].Tags()["scalars"])
    for tag in events[0].Tags()["scalars"]:
        if "time" not in tag:
            a, b = ([(e.step, e.value) for e in event.Scalars(tag)] for event in events)
            assert a == b, tag
    assert [e.step for e in events[1].Scalars("lr")] == list(range(18))
    assert not list((broken / "model").glob("*partial*"))


# the moments: before the first checkpoint, within an epoch, at the milestone, between log and checkpoint of an epoch
MOMENTS = ["epoch 0 step 1/6", "epoch 0 step 4/6", "epoch 0 step 6/6", "epoch 1 step 1/6", "epoch 2 step 5/6"]


# (stage, processes, workers) of each process; NIGHT=1 in the environment takes the others too
RUNS = [("simclr", 1, 0), pytest.param("moco", 2, 0, marks=pytest.mark.kept), ("ft", 2, 0), ("moco", 1, 2),
        ("ft", 1, 2), ("simclr", 2, 1)]


@pytest.mark.parametrize("stage,processes,workers", RUNS if os.environ.get("NIGHT") else RUNS[:3])
def test_a_run_killed_again_and_again_ends_as_one_left_alone(root, tmp_path, stage, processes, workers):
    options = {"cwd": tmp_path, "env": environment(root), "processes": processes}
    succeed(*run_flags(stage, "whole", workers), **options)
    folder, killed = folder_of(tmp_path, stage, "broken"), 0
    for moment in MOMENTS:
        condition = logged(folder, moment)
        group = start(*run_flags(stage, "broken", workers), **options)
        if wait_for(condition, group):
            for process in group:
                os.kill(process.pid, signal.SIGKILL)
            killed += 1
        for process in group:
            process.wait(PATIENCE)
    assert killed == len(MOMENTS)
    out = succeed(*run_flags(stage, "broken", workers), **options)
    assert "going on from" in out
    assert_same_run(folder_of(tmp_path, stage, "whole"), folder)


def test_kills_at_any_time(root, tmp_path):
    """Twelve kills after random delays, also while a checkpoint is being written."""
    options = {"cwd": tmp_path, "env": environment(root)}
    succeed(*run_flags("moco", "whole"), **options)
    folder = folder_of(tmp_path, "moco", "broken")
    delays = torch.rand(12, generator=torch.Generator().manual_seed(0)).mul(0.4).tolist()
    for i, delay in enumerate(delays):
        group = start(*run_flags("moco", "broken"), **options)
        model = folder / "model"
        if i % 2:  # from the moment on that a file is being written
            wait_for(lambda model=model: any(model.glob(".partial_*")), group)
            delay /= 100
        else:
            wait_for(model.exists, group)
        time.sleep(delay)
        if group[0].poll() is None:
            os.kill(group[0].pid, signal.SIGKILL)
        group[0].wait(PATIENCE)
    succeed(*run_flags("moco", "broken"), **options)
    assert_same_run(folder_of(tmp_path, "moco", "whole"), folder)


@pytest.mark.parametrize("number,to_group", [pytest.param(signal.SIGTERM, True, marks=pytest.mark.kept),
                                             (signal.SIGUSR1, False), (signal.SIGINT, True)])
def test_a_signal_saves_and_stops(root, tmp_path, number, to_group):
    options = {"cwd": tmp_path, "env": environment(root)}
    flags = [*run_flags("simclr", "x", workers=2), "--save_steps", "0"]
    folder = folder_of(tmp_path, "simclr", "x")
    group = start(*flags, **options)
    assert wait_for(logged(folder, "epoch 1 step 2/6"), group)
    workers = children(group[0].pid)
    assert len(workers) == 2
    (os.killpg if to_group else os.kill)(group[0].pid, number)
    assert group[0].wait(PATIENCE) == 0, group[0].output("err")
    name = signal.Signals(number).name
    assert f"{name}: finishing this step and saving" in group[0].output("err")
    last = group[0].output("out").strip().splitlines()[-1]
    assert re.match(rf"stopped by {name} after epoch 1 step \d of 6, saved in .*latest.pth.tar; the same command with "
                    "--resume auto goes on", last)
    assert (folder / "STOPPED").read_text().strip() == last
    assert "Traceback" not in group[0].output("err")
    assert_gone(workers)
    succeed(*flags, **options)
    assert not (folder / "STOPPED").exists()
    succeed(*run_flags("simclr", "whole"), **options)
    assert_same_run(folder_of(tmp_path, "simclr", "whole"), folder)


def test_a_second_signal_ends_at_once(root, tmp_path):
    """Also while a step does not end: here the loader's worker hangs."""
    folder = folder_of(tmp_path, "simclr", "x")
    group = start(*run_flags("simclr", "x", workers=1), "--epochs", "1000", cwd=tmp_path, env=environment(root))
    assert wait_for(logged(folder, "epoch 0 step 2/6"), group)
    (worker,) = children(group[0].pid)
    os.kill(worker, signal.SIGSTOP)
    log, size = folder / "log.txt", -1
    while size != (size := log.stat().st_size):  # until the batches that were loaded are used up, and it waits for more
        time.sleep(2)
    os.kill(group[0].pid, signal.SIGTERM)
    os.kill(group[0].pid, signal.SIGINT)  # handed on by a launcher: the same one
    time.sleep(1.5)
    assert group[0].poll() is None
    os.kill(group[0].pid, signal.SIGTERM)
    assert group[0].wait(PATIENCE) == 128 + signal.SIGTERM  # the loader would wait for longer
    assert_gone([worker])


def test_one_signalled_process_stops_all(root, tmp_path):
    options = {"cwd": tmp_path, "env": environment(root), "processes": 2}
    folder = folder_of(tmp_path, "moco", "x")
    group = start(*run_flags("moco", "x"), **options)
    assert wait_for(logged(folder, "epoch 0 step 3/6"), group)
    os.kill(group[1].pid, signal.SIGTERM)
    assert [process.wait(PATIENCE) for process in group] == [0, 0], group[0].output("err")
    assert "stopped by a signal to another process" in group[0].output("out")
    succeed(*run_flags("moco", "x"), **options)
    succeed(*run_flags("moco", "whole"), **options)
    assert_same_run(folder_of(tmp_path, "moco", "whole"), folder)


@pytest.fixture(scope="module")
def short_run(root, tmp_path_factory):
    """Folder of a run of one epoch."""
    where = tmp_path_factory.mktemp("short")
    succeed(*run_flags("simclr", "x"), "--epochs", "1", cwd=where, env=environment(root))
    return where


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "gone"])
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_used(root, short_run, tmp_path, damage):
    where = shutil.copytree(short_run, tmp_path / "run")
    folder = folder_of(where, "simclr", "x")
    latest = folder / "model/latest.pth.tar"
    (folder / "model/epoch0.pth.tar").unlink()
    data = bytearray(latest.read_bytes())
    if damage == "cut":
        latest.write_bytes(data[:len(data) // 2])
    elif damage == "flipped":
        data[len(data) // 2] ^= 1
        latest.write_bytes(data)
    elif damage == "empty":
        latest.write_bytes(b"")
    else:
        latest.unlink()
    done = command(*run_flags("simclr", "x"), "--epochs", "1", cwd=where, env=environment(root))
    assert done.returncode == 0, done.stderr
    assert "previous.pth.tar at epoch 0 step 4" in done.stdout
    assert damage == "gone" or re.search("latest.pth.tar is damaged.*going on from .*previous.pth.tar", done.stderr)
    assert damage == "gone" or (folder / "model/damaged_latest.pth.tar").exists()
    read_checkpoint(folder / "model/previous.pth.tar")
    a, b = (read_checkpoint(folder_of(x, "simclr", "x") / "model/latest.pth.tar") for x in (short_run, where))
    assert same(a["state_dict"], b["state_dict"]) and same(a["optimizer"], b["optimizer"])


def test_without_a_whole_checkpoint_nothing_is_begun(root, short_run, tmp_path):
    where = shutil.copytree(short_run, tmp_path / "run")
    for path in (folder_of(where, "simclr", "x") / "model").glob("*.tar"):
        path.write_bytes(path.read_bytes()[:1000])
    done = command(*run_flags("simclr", "x"), cwd=where, env=environment(root))
    assert done.returncode == 1 and "no checkpoint in" in done.stderr and "Traceback" not in done.stderr


def test_every_flipped_bit_that_matters_is_noticed(tmp_path):
    content = {"state_dict": {f"layer{i}.weight": torch.randn(7, 9) for i in range(6)}, "epoch": 3,
               "optimizer": {"state": {0: {"momentum_buffer": torch.randn(5)}}, "param_groups": [{"lr": 0.1}]}}
    write_latest(tmp_path, content)
    write_latest(tmp_path, {**content, "epoch": 4})
    path = tmp_path / "latest.pth.tar"
    data, noticed = path.read_bytes(), 0
    flips = [(i, i % 8) for i in range(0, len(data), 17)] + [(i, 4) for i in range(len(data) - 900, len(data))]
    for i, bit in flips:  # more in the table of contents at the end
        flipped = bytearray(data)
        flipped[i] ^= 1 << bit
        path.write_bytes(flipped)
        try:
            read = read_checkpoint(path)
        except CheckpointError:
            noticed += 1
            assert read_last_good(tmp_path)[0]["epoch"] == 3
        else:  # a byte that nobody reads
            assert same({k: read[k] for k in content}, {**content, "epoch": 4})
    assert noticed > 0.6 * len(flips)


@pytest.mark.kept
def test_a_full_disk_leaves_the_last_good_checkpoint(root, tmp_path):
    """A limit on the size of files stands for the disk."""
    script = tmp_path / "limited.py"
    script.write_text("import resource, runpy, sys\nlimit = int(sys.argv.pop(1))\n"
                      "resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))\n"
                      "sys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')\n")
    env, flags = environment(root), run_flags("simclr", "x")
    folder = folder_of(tmp_path, "simclr", "x")
    succeed(*flags, "--epochs", "1", cwd=tmp_path, env=env)
    before = {path.name: path.read_bytes() for path in (folder / "model").iterdir()}
    size = (folder / "model/latest.pth.tar").stat().st_size
    done = command(script, size // 2, REPOSITORY / flags[0], *flags[1:], cwd=tmp_path, env=env)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert re.search(r"error: the checkpoint or log could not be written to .*File too large.*the last good "
                     r"checkpoint is .*latest.pth.tar.*Make room", done.stderr.strip().splitlines()[-1])
    done = command(script, 8000, REPOSITORY / flags[0], *flags[1:], "--name", "log", cwd=tmp_path, env=env)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr  # TensorBoard's events fail first
    assert "could not be written to " in done.stderr and "there is no checkpoint yet" in done.stderr
    assert {path.name: path.read_bytes() for path in (folder / "model").iterdir()} == before
    succeed(*flags, cwd=tmp_path, env=env)
    succeed(*run_flags("simclr", "whole"), cwd=tmp_path, env=env)
    assert_same_run(folder_of(tmp_path, "simclr", "whole"), folder)


def test_keep_removes_older_epochs(root, tmp_path):
    succeed(*run_flags("simclr", "x"), "--keep", "2", cwd=tmp_path, env=environment(root))
    names = sorted(path.name for path in (folder_of(tmp_path, "simclr", "x") / "model").glob("epoch*"))
    assert names == ["epoch1.pth.tar", "epoch2.pth.tar"]
    flags = [*run_flags("simclr", "y"), "--keep", "1", "--keep_epoch", "0", "--save_freq", "2"]
    succeed(*flags, cwd=tmp_path, env=environment(root))
    names = sorted(path.name for path in (folder_of(tmp_path, "simclr", "y") / "model").glob("epoch*"))
    assert names == ["epoch0.pth.tar", "epoch2.pth.tar"]


def test_going_back_sets_later_epochs_aside(root, tmp_path):
    env, flags = environment(root), [*run_flags("simclr", "x"), "--save_freq", "1"]
    folder = folder_of(tmp_path, "simclr", "x") / "model"
    succeed(*flags, cwd=tmp_path, env=env)
    third = (folder / "epoch2.pth.tar").read_bytes()
    succeed(*flags, "--resume", folder / "epoch0.pth.tar", "--override", "--lr", "0.01", "--epochs", "2", "--keep", "1",
            cwd=tmp_path, env=env)
    assert sorted(path.name for path in folder.glob("*epoch*")) == [
        "epoch1.pth.tar", "former_epoch1.pth.tar", "former_epoch2.pth.tar"]
    assert (folder / "former_epoch2.pth.tar").read_bytes() == (folder / "former_latest.pth.tar").read_bytes() == third


def test_going_back_holds_after_a_kill_too(tmp_path):
    """The checkpoint that was named is the latest before anything else is changed."""
    for number, name in enumerate(("epoch0", "epoch1", "previous", "latest")):
        write_checkpoint(tmp_path / f"{name}.pth.tar", {"state_dict": {"a": torch.tensor(float(number))}, "config": {}})
    wanted = (tmp_path / "epoch0.pth.tar").read_bytes()
    newest = (tmp_path / "latest.pth.tar").read_bytes()
    become_latest(tmp_path, tmp_path / "latest.pth.tar")  # which it is
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "epoch0.pth.tar", "epoch1.pth.tar", "latest.pth.tar", "previous.pth.tar"]
    become_latest(tmp_path, tmp_path / "epoch0.pth.tar")
    assert (tmp_path / "latest.pth.tar").read_bytes() == wanted
    assert (tmp_path / "former_latest.pth.tar").read_bytes() == newest
    assert not (tmp_path / "previous.pth.tar").exists()
    assert saved_checkpoints(tmp_path)[0] == tmp_path / "latest.pth.tar"
    os.rename(tmp_path / "epoch1.pth.tar", tmp_path / "previous.pth.tar")
    become_latest(tmp_path, tmp_path / "previous.pth.tar")
    assert (tmp_path / "latest.pth.tar").read_bytes() == (tmp_path / "previous.pth.tar").read_bytes() != wanted


def test_a_file_that_may_not_be_read_is_not_called_damaged(monkeypatch, tmp_path):
    (tmp_path / "latest.pth.tar").write_bytes(b"")

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path))
    monkeypatch.setattr(checkpoint, "open", refuse, raising=False)
    with pytest.raises(PermissionError):
        checkpoint.read_last_good(tmp_path)


def test_another_runs_checkpoint_is_taken_only_when_insisted(root, short_run, tmp_path):
    where = shutil.copytree(short_run, tmp_path / "run")
    flags = [*run_flags("simclr", "x"), "--epochs", "2", "--lr", "0.5", "--ds", "1"]
    env = environment(root)
    done = command(*flags, cwd=where, env=env)
    assert done.returncode == 1 and "lr 0.003 there, 0.5 here" in done.stderr and "ds 2 there, 1 here" in done.stderr
    assert "--override" in done.stderr
    done = command(*flags, "--override", cwd=where, env=env)
    assert done.returncode == 0 and "warning: --override: " in done.stderr and "lr 0.003 there" in done.stderr
    done = command(*flags, "--override", "--net", "c3d", "--img_dim", "32", "--seq_len", "16", cwd=where, env=env)
    assert done.returncode == 1 and "another model" in done.stderr and "Traceback" not in done.stderr
    lists = shutil.copytree(root / "lists", tmp_path / "lists")
    path = lists / "ucf101/train_split01.csv"
    path.write_text(path.read_text().replace(",9\n", ",8\n", 1))
    done = command(*flags, cwd=where, env=environment(root, DUALVAR_LISTS=str(lists)))
    assert done.returncode == 1 and re.search("training list 12 videos, .* there, 12 videos, .* here", done.stderr)
    # batch statistics depend on the number of processes, where each takes its own
    done = command(*flags, "--epochs", "3", cwd=where, env=env, processes=2)
    assert done.returncode == 1 and "processes 1 there, 2 here" in done.stderr


def test_two_runs_do_not_write_into_one_folder(root, tmp_path):
    options = {"cwd": tmp_path, "env": environment(root)}
    folder = folder_of(tmp_path, "simclr", "x")
    group = start(*run_flags("simclr", "x"), "--epochs", "1000", **options)
    assert wait_for(logged(folder, "epoch 0 step 2/6"), group)
    done = command(*run_flags("simclr", "x"), "--epochs", "1000", **options)
    assert done.returncode == 1 and f"run folder {folder.relative_to(tmp_path)}: another run is writing" in done.stderr
    assert group[0].poll() is None
    os.kill(group[0].pid, signal.SIGTERM)
    assert group[0].wait(PATIENCE) == 0

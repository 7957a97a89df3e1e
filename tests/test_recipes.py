"""Every experiment's flags, and launchers as a user starts them."""
import os
import shlex
import signal
import subprocess
import sys

import pytest
from helpers import (
    PATIENCE,
    REPOSITORY,
    assert_gone,
    children,
    copy_checkout,
    environment,
    free_port,
    make_dataset,
    wait_for,
)

import finetune
import retrieval
import test as ten_clip_test
import train
from models import build_pretrainer

SCRIPTS = REPOSITORY / "paper_scripts"
MODES = ("pretrain", "finetune", "finetune_hmdb51", "linear_probe", "test", "test_hmdb51", "retrieval", "run",
         "report")
PAPER = [f"{framework}_{net}_{mode}_ucf101" for framework in ("simclr", "moco")
         for net in ("r21d", "r3d", "s3dg", "c3d") for mode in ("clip", "clip-sr", "clip-sr-tc")]
PAPER += ["simclr_r3d_sr-tc_ucf101", "simclr_r3d_tc_ucf101", "simclr_r21d_clip-sr-tc_k400"]


def recipes(experiments):
    """{experiment: {array: [flags]}} as recipes.sh sets them, from one bash."""
    script = """
        die() { echo "$@" >&2; exit 1; }
        source recipes.sh
        for e in "$@"; do
            unset EVAL_EPOCH; recipe "$e"
            for a in NETWORK PRETRAIN FINETUNE PROBE TEST RETRIEVAL; do declare -n v=$a; echo "$e $a ${v[*]@Q}"; done
            echo "$e MORE $SET $EVAL_EPOCH $TARGETS"
        done"""
    out = subprocess.run(["bash", "-eu", "-c", script, "bash", *experiments], cwd=SCRIPTS, capture_output=True,
                         text=True, check=True).stdout
    found = {}
    for line in out.splitlines():
        experiment, array, *flags = shlex.split(line)
        found.setdefault(experiment, {})[array] = flags
    return found


RECIPES = recipes([*PAPER, "demo"])


@pytest.mark.parametrize("experiment", RECIPES)
def test_recipe(experiment):
    """All stages' parsers take the flags, the network can be built, and the paper's numbers stand."""
    recipe = RECIPES[experiment]
    pretrain = train.flags().parse_args(recipe["NETWORK"] + recipe["PRETRAIN"])
    ft, probe = (finetune.flags().parse_args(recipe["NETWORK"] + recipe[name] + ["--pretrain", "x"])
                 for name in ("FINETUNE", "PROBE"))
    test = ten_clip_test.flags().parse_args(recipe["NETWORK"] + recipe["TEST"])
    search = retrieval.flags().parse_args(recipe["NETWORK"] + recipe["RETRIEVAL"])
    model = build_pretrainer(pretrain.framework, pretrain.net, pretrain.mode, width=0.0625, queue_size=64)
    assert model.terms and probe.final_bn and not ft.final_bn
    if experiment == "demo":
        return
    framework, net, mode, dataset = experiment.split("_")
    assert (pretrain.framework, pretrain.net, pretrain.mode, recipe["MORE"][0]) == (framework, net, mode, dataset)
    assert (pretrain.batch_size, pretrain.lr, pretrain.wd, pretrain.epochs, pretrain.schedule) == (
        64, 0.003, 1e-4, 200, [120, 160])
    assert pretrain.clip_weight == (0.125 if framework == "simclr" else 1) and pretrain.moco_k == 16384
    for stage in (pretrain, ft, probe, test, search):
        assert (stage.seq_len, stage.img_dim, stage.net, stage.width) == (16, 112, net, 1.0)
    assert (pretrain.ds, ft.ds, test.ds, search.ds) == (4, 2, 2, 4)
    assert (ft.batch_size, ft.lr, ft.wd, ft.color_jitter, ft.hflip) == (16, 0.05, 1e-3, True, True)
    assert (ft.epochs, ft.schedule) == ((150, [50, 100]) if dataset == "k400" else (100, [30, 60, 80]))
    assert (test.clips, test.crops, search.clips, search.split) == (10, 1, 10, 1)
    assert recipe["MORE"][1:] == ["189", "ucf101", "hmdb51"]


def test_every_launcher_is_there():
    there = {f"{mode}/{path.stem}" for mode in MODES for path in (SCRIPTS / mode).glob("*.sh")}
    wanted = {f"{mode}/{experiment}" for mode in MODES for experiment in PAPER}
    wanted |= {f"{mode}/demo" for mode in MODES if not mode.endswith("hmdb51")}
    assert there == wanted | {"run/evidence"}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the repository with small data sets: (folder, environment)."""
    folder = copy_checkout(tmp_path_factory.mktemp("checkout") / "with space")
    for name in ("ucf101", "hmdb51", "k400"):
        make_dataset(folder / "data", name, groups=34, test_groups=1, clips=1, frames=1)
    return folder, environment(folder / "data", PYTHON=sys.executable, PYTHONPATH="")


def launch(checkout, script, *flags, **more):
    folder, env = checkout
    env = {**env, "GPUS": "0", "MASTER_PORT": str(free_port()), **more}
    return subprocess.run(["bash", f"paper_scripts/{script}.sh", *flags], cwd=folder, env=env, capture_output=True,
                          text=True, timeout=PATIENCE)


@pytest.mark.parametrize("script,words", [
    ("pretrain/simclr_r21d_clip-sr-tc_k400", ["simclr r21d x 1.0, mode clip-sr-tc", "k400 split 1", "200 epochs"]),
    ("run/moco_s3dg_clip-sr_ucf101", ["moco s3dg", "Retrieval", "Linear probe", "ucf101 split 1", "hmdb51 split 1",
                                      "epoch189.pth.tar is not there yet", "Test"]),
])
def test_launcher_dry_run(checkout, script, words):
    done = launch(checkout, script, "--dry_run", "--workers", "0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(word in done.stdout for word in words), done.stdout
    assert not (checkout[0] / "log").exists()


def test_launcher_passes_flags_on_and_starts_processes(checkout):
    done = launch(checkout, "pretrain/moco_r3d_clip_ucf101", "--dry_run", "--bn", "local", "--img_dim", "32", "--width",
                  "0.125", "--device", "cpu", GPUS="2")
    assert done.returncode == 0, done.stderr
    assert "64 = 2 processes x 32 on cpu" in done.stdout and "r3d x 0.125" in done.stdout


@pytest.mark.parametrize("number,gpus,receiver", [
    (signal.SIGUSR1, "1", "launcher"), (signal.SIGINT, "1", "everybody"), (signal.SIGTERM, "2", "launcher")])
def test_a_signalled_launcher_saves_and_stops(checkout, number, gpus, receiver):
    """As a scheduler and a terminal's Ctrl-C send it."""
    folder, env = checkout
    run_folder = folder / "log" / f"{number.name}{gpus}" / "pretrain/simclr_r3d_clip_ucf101"
    flags = ["--width", "0.0625", "--img_dim", "24", "--seq_len", "4", "--bn", "local", "--workers", "1", "--device",
             "cpu", "--batch_size", "4", "--epochs", "1000", "--print_freq", "1"]
    run = subprocess.Popen(["bash", "paper_scripts/pretrain/simclr_r3d_clip_ucf101.sh", *flags], cwd=folder, text=True,
                           env={**env, "GPUS": gpus, "PREFIX": run_folder.parts[-3], "MASTER_PORT": str(free_port())},
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    log = run_folder / "log.txt"
    assert wait_for(lambda: log.exists() and "step 2/" in log.read_text(), [run]), run.communicate()
    everybody = [run.pid, *children(run.pid, deep=True)]
    (os.killpg if receiver == "everybody" else os.kill)(run.pid, number)
    out, _ = run.communicate(timeout=PATIENCE)
    assert run.returncode == 0, out
    assert "stopped by SIG" in out and "--resume auto goes on" in out
    assert (run_folder / "model/latest.pth.tar").exists()
    assert_gone(everybody)


# stands for Python: notes what it is asked to run, and stops in train.py as its second argument says
STUB = """#!/usr/bin/env bash
case "$1" in core/check_requirements.py) exit 0 ;; -c) echo 0; exit 0 ;; esac
echo "$*" >> calls
case "$*" in *--dry_run*) exit 0 ;; train.py*) ;; *) exit 0 ;; esac
mkdir -p log/stub/pretrain/simclr_r3d_clip_ucf101
trap 'touch log/stub/pretrain/simclr_r3d_clip_ucf101/STOPPED; exit 0' TERM
touch begun
case "$STOP" in
    itself) kill -TERM $$ ;;
    *) while true; do sleep 0.1; done ;;
esac
"""


@pytest.mark.parametrize("stop", ["itself", "launcher"])
def test_no_stage_follows_a_stopped_one(checkout, tmp_path, stop):
    folder = copy_checkout(tmp_path / "copy")
    (folder / "stub").write_text(STUB)
    (folder / "stub").chmod(0o755)
    stale = folder / "log/stub/pretrain/simclr_r3d_clip_ucf101/STOPPED"
    stale.parent.mkdir(parents=True)
    stale.touch()  # of an earlier stop
    run = subprocess.Popen(["bash", "paper_scripts/run/simclr_r3d_clip_ucf101.sh", "--epochs", "3"], cwd=folder,
                           env={**checkout[1], "PYTHON": str(folder / "stub"), "PREFIX": "stub", "STOP": stop},
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if stop == "launcher":
        assert wait_for((folder / "begun").exists, [run])
        run.send_signal(signal.SIGTERM)
    out, _ = run.communicate(timeout=PATIENCE)
    assert run.returncode == 0, out
    calls = [line for line in (folder / "calls").read_text().splitlines() if "--dry_run" not in line]
    assert len(calls) == 1 and calls[0].startswith("train.py"), calls


def test_launcher_names_unknown_modes_and_experiments(checkout):
    folder, env = checkout
    for word, arguments in (("walk", ["walk", "demo"]), ("demo2", ["pretrain", "demo2"]),
                            ("r50", ["pretrain", "simclr_r50_clip_ucf101"])):
        done = subprocess.run(["bash", "paper_scripts/launch.sh", *arguments], cwd=folder, env=env,
                              capture_output=True, text=True)
        assert done.returncode != 0 and "error: " in done.stderr and word in done.stderr

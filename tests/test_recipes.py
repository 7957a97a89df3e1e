"""Every experiment's flags, and launchers as a user starts them."""
import os
import re
import shlex
import shutil
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


def test_a_networks_name_may_hold_what_stands_between_the_words_of_an_experiment():
    (recipe,) = recipes(["moco_r2plus1d_18_clip-tc_hmdb51"]).values()
    pretrain = train.flags().parse_args(recipe["NETWORK"] + recipe["PRETRAIN"])
    assert (pretrain.framework, pretrain.net, pretrain.mode) == ("moco", "r2plus1d_18", "clip-tc")
    assert recipe["MORE"][0] == "hmdb51"


def commands(text):
    """Words of each command in what a launcher or a page prints; without comments."""
    return [words for line in text.replace("\\\n", "").splitlines() if (words := shlex.split(line, comments=True))]


PAGE = REPOSITORY / "docs/recipes.md"
PARSERS = {"train.py": train, "finetune.py": finetune, "test.py": ten_clip_test, "retrieval.py": retrieval}


def test_page_is_what_its_command_prints():
    done = subprocess.run(["bash", SCRIPTS / "recipes_page.sh"], capture_output=True, text=True, cwd="/",
                          env={**os.environ, "SPLIT": "2", "EVAL_EPOCH": "3", "PYTHON": "/bin/false", "GPUS": "5"})
    assert done.returncode == 0, done.stderr
    assert done.stdout == PAGE.read_text(), "run: bash paper_scripts/recipes_page.sh > docs/recipes.md"


@pytest.mark.parametrize("experiment", RECIPES)
def test_page_has_every_stage_of_every_experiment(experiment):
    """Each command is taken by the parser of its script; processes and batch are those of the paper."""
    (block,) = re.findall(rf"<code>{experiment}</code></summary>\n\n```bash\n(.*?)```", PAGE.read_text(), re.DOTALL)
    found = []
    for program, *words in commands(block):
        assert program == "python"
        processes = 1
        if words[:3] == ["-m", "torch.distributed.run", "--standalone"]:
            processes, words = int(words[4]), words[5:]
        if words[0] not in PARSERS:
            file = words[1].replace(".", "/") + ".py" if words[0] == "-m" else words[0]
            assert experiment == "demo" and (REPOSITORY / file).is_file()
            continue
        args = PARSERS[words[0]].flags().parse_args(words[1:])
        found.append((words[0], getattr(args, "train_what", None), args.dataset, processes))
        assert args.batch_size % processes == 0 and args.split == 1
    if experiment == "demo":
        assert {script for script, *_ in found} == set(PARSERS) and {processes for *_, processes in found} == {1}
        return
    assert found == [("train.py", None, experiment.split("_")[3], 8), ("retrieval.py", None, "ucf101", 1),
                     ("finetune.py", "last", "ucf101", 4), ("test.py", None, "ucf101", 4),
                     ("finetune.py", "ft", "ucf101", 4), ("test.py", None, "ucf101", 1),
                     ("finetune.py", "ft", "hmdb51", 4), ("test.py", None, "hmdb51", 1)]
    assert [int(gpus) for gpus in re.findall("GPUS=([0-9]+) bash", block)] == [8, 1, 4, 4, 1, 4, 1]


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_shellcheck():
    files = [path for path in SCRIPTS.rglob("*.sh") if not path.is_symlink()]
    done = subprocess.run(["shellcheck", "-x", *files], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stdout


def test_scripts_are_shell():
    assert not [path for path in SCRIPTS.rglob("*") if path.is_file() and path.suffix != ".sh"]


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
    env = {**env, "GPUS": "0", **more}
    return subprocess.run(["bash", f"paper_scripts/{script}.sh", *flags], cwd=folder, env=env, capture_output=True,
                          text=True, timeout=PATIENCE)


@pytest.mark.parametrize("script,words", [
    ("pretrain/simclr_r21d_clip-sr-tc_k400", ["simclr r21d x 1.0, mode clip-sr-tc", "k400 split 1", "200 epochs"]),
    ("run/moco_s3dg_clip-sr_ucf101", ["moco s3dg", "Retrieval", "Linear probe", "ucf101 split 1", "hmdb51 split 1",
                                      "epoch189.pth.tar is not there yet", "Test"]),
])
@pytest.mark.slow
def test_launcher_dry_run(checkout, script, words):
    done = launch(checkout, script, "--dry_run", "--workers", "0", GPUS="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(word in done.stdout for word in words), done.stdout
    shown = launch(checkout, script, "--show", "--dry_run", "--workers", "0", GPUS="1")
    assert shown.returncode == 0, shown.stderr
    at = 0
    for command in re.split(r"(?<!\\)\n", shown.stdout.rstrip("\n")):  # all of them, in order, before what they print
        at = done.stdout.index(command + "\n", at)
    assert not (checkout[0] / "log").exists()


@pytest.mark.parametrize("flags", [["--fps", "7.5"], ["--fps=7.5"], ["--ds", "3", "--fps=7.5"]])
def test_frames_a_second_take_the_place_of_the_stride_of_all_stages(flags):
    done = subprocess.run(["bash", SCRIPTS / "run/simclr_r3d_clip_ucf101.sh", *flags, "--show"], capture_output=True,
                          text=True, env={**BARE, "PYTHON": "python"})
    stages = [words for words in commands(done.stdout) if words[1] in PARSERS]
    assert len(stages) == 8, done.stderr
    for script, *words in (words[1:] for words in stages):
        args = PARSERS[script].flags().parse_args(words)
        assert (args.ds, args.fps) == (None, 7.5)


def test_the_last_of_stride_and_frames_a_second_stands():
    shown = show(REPOSITORY, "run/evidence", PYTHON="python", COMMON_FLAGS="--fps 8", FINETUNE_FLAGS="--ds 2",
                 SEEDS="0", MODES="clip", LOG_DIR="/tmp/nothing_is_here").stdout
    for words in commands(shown):
        pace = [(flag, value) for flag, value in zip(words, words[1:], strict=False) if flag in ("--ds", "--fps")]
        if words[1] in PARSERS or words[2] == "analysis.temporal":
            assert pace[-1:] == [("--ds", "2") if words[1] == "finetune.py" else ("--fps", "8")]
            assert len({flag for flag, _ in pace}) == 1


@pytest.mark.slow
def test_launcher_passes_flags_on_and_starts_processes(checkout):
    done = launch(checkout, "pretrain/moco_r3d_clip_ucf101", "--dry_run", "--bn", "local", "--img_dim", "32", "--width",
                  "0.125", "--device", "cpu", GPUS="2")
    assert done.returncode == 0, done.stderr
    assert "64 = 2 processes x 32 on cpu" in done.stdout and "r3d x 0.125" in done.stdout


@pytest.mark.parametrize("number,gpus,receiver", [
    (signal.SIGUSR1, "1", "launcher"), (signal.SIGINT, "1", "everybody"), (signal.SIGTERM, "2", "launcher")])
@pytest.mark.slow
def test_a_signalled_launcher_saves_and_stops(checkout, number, gpus, receiver):
    """As a scheduler and a terminal's Ctrl-C send it."""
    folder, env = checkout
    run_folder = folder / "log" / f"{number.name}{gpus}" / "pretrain/simclr_r3d_clip_ucf101"
    flags = ["--width", "0.0625", "--img_dim", "24", "--seq_len", "4", "--bn", "local", "--workers", "1", "--device",
             "cpu", "--batch_size", "4", "--epochs", "1000", "--print_freq", "1"]
    run = subprocess.Popen(["bash", "paper_scripts/pretrain/simclr_r3d_clip_ucf101.sh", *flags], cwd=folder, text=True,
                           env={**env, "GPUS": gpus, "PREFIX": run_folder.parts[-3]},
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
case "$1 ${2:-}" in
    core/check_requirements.py*) exit 0 ;; "-c print(7 * 191)") echo 1337; exit 0 ;; -c*) echo 0; exit 0 ;;
    "-m core.lifeline") shift 3; exec "$@" ;;
esac
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


# notes its arguments as a shell would read them
RECORDER = """#!/usr/bin/env bash
case "$1 ${2:-}" in
    core/check_requirements.py*) exit 0 ;; "-c print(7 * 191)") echo 1337; exit 0 ;; -c*) echo 0; exit 0 ;;
    "-m core.lifeline") shift 3; exec "$@" ;;
esac
echo "${DUALVAR_DATA@Q} ${*@Q}" >> "$CALLS"
"""
BARE = {"PATH": os.environ["PATH"]}


@pytest.fixture(scope="module")
def recorder(tmp_path_factory):
    """(copy of the repository, environment in which launchers record what they start, file of the records)"""
    root = tmp_path_factory.mktemp("recorder")
    folder = copy_checkout(root / "the copy")
    stub = root / "a stub"
    stub.write_text(RECORDER)
    stub.chmod(0o755)
    return folder, {**BARE, "PYTHON": str(stub), "CALLS": str(root / "calls")}, root / "calls"


def recorded(recorder, command, **more):
    """Run a command in the copy -> (standard output, [the arguments of each Python that was started])."""
    folder, env, calls = recorder
    calls.unlink(missing_ok=True)
    done = subprocess.run(["bash", *command], cwd=folder, env={**env, **more}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, calls.read_text().splitlines() if calls.exists() else []


@pytest.mark.parametrize("script,more", [
    *((f"{mode}/simclr_r3d_clip_ucf101", {}) for mode in MODES), ("run/demo", {"RENDER_FLAGS": "--groups 3"}),
    ("pretrain/demo", {"GPUS": "2", "PREFIX": "it's new", "LOG_DIR": "/tmp/a log"}), ("test/demo", {"SPLIT": "all"}),
    ("finetune/demo", {"PRETRAINED": "some where/weights $1.pth.tar", "NNODES": "3", "NODE_RANK": "1",
                       "MASTER_ADDR": "first"}),
    ("pretrain/demo", {"DUALVAR_DATA": "my data"}), ("run/evidence", {"MODES": "clip tc", "SEEDS": "0 3"})])
def test_shown_commands_are_those_that_run(recorder, script, more):
    """--show prints what a launch prints and starts nothing; a copy of it starts what the launch starts."""
    path = f"paper_scripts/{script}.sh"
    printed, started = recorded(recorder, [path], **more)
    printed = re.sub(r"^Trying all stages.*\nAll stages fit\.\n", "", printed, flags=re.DOTALL | re.MULTILINE)
    started = [line for line in started if "--dry_run" not in line]
    shown, none = recorded(recorder, [path, "--show"], **more)
    assert shown == printed and not none and started
    root = f"DUALVAR_DATA={recorder[0]}/my data" if "DUALVAR_DATA" in more else None
    program = [word for word in (root, recorder[1]["PYTHON"]) if word]
    assert commands(shown) == [[*program, *shlex.split(line)[bool(root):]] for line in started]
    assert recorded(recorder, ["-c", shown]) == ("", started)
    assert all(len(line) <= 160 for line in shown.splitlines())
    assert not (recorder[0] / "log").exists()


@pytest.mark.parametrize("script,stages", [("run/simclr_r3d_clip_ucf101", 8), ("run/demo", 8)])
def test_run_tries_all_stages_before_the_first(recorder, script, stages):
    """In one process each, for as many as will be started on all machines; without flags of one's own, too."""
    printed, started = recorded(recorder, [f"paper_scripts/{script}.sh"], GPUS="16", NNODES="2", NODE_RANK="1",
                                MASTER_ADDR="first")
    assert printed.count("env LOCAL_WORLD_SIZE=16 ") == stages
    calls = [shlex.split(line) for line in started]
    tried = [call for call in calls if "--dry_run" in call]
    first, real = calls.index(tried[0]), [call for call in calls if "torch.distributed.run" in call]
    assert len(tried) == len(real) == stages and calls[first:first + stages] == tried
    for dry, call in zip(tried, real, strict=True):
        assert dry[-2:] == ["--dry_run", "32"] and dry[:-2] == call[call.index("--master_port") + 2:]


def test_what_a_stage_cannot_do_on_so_many_processes_is_known_at_once(recorder):
    """Nothing is begun: here the last stage but one refuses."""
    folder, env, calls = recorder
    calls.unlink(missing_ok=True)
    stub = calls.parent / "refusing"
    stub.write_text(RECORDER + 'case "$*" in finetune.py*hmdb51*) exit 2 ;; esac\n')
    stub.chmod(0o755)
    done = subprocess.run(["bash", "paper_scripts/run/simclr_r3d_clip_ucf101.sh"], cwd=folder, capture_output=True,
                          text=True, env={**env, "PYTHON": str(stub), "GPUS": "32"})
    assert done.returncode == 2 and "All stages fit" not in done.stdout
    assert len(lines := calls.read_text().splitlines()) == 7 and all("'--dry_run' '32'" in line for line in lines)


def test_show_needs_no_environment(recorder):
    done = subprocess.run(["bash", "paper_scripts/launch.sh", "--show", "run", "demo"], cwd=recorder[0], env=BARE,
                          capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr
    assert {words[0] for words in commands(done.stdout)} == {"python"} and not (recorder[0] / ".venv").exists()


def show(folder, script="pretrain/demo", **env):
    """What a launcher answers to --show, started from folder `/`."""
    return subprocess.run(["bash", folder / f"paper_scripts/{script}.sh", "--show"], cwd="/", env={**BARE, **env},
                          capture_output=True, text=True)


def test_processes_and_machines():
    """One process, several of one machine on a free port, several machines on a port that all know."""
    words = commands(show(REPOSITORY, PYTHON="python").stdout)[0]
    assert words[:2] == ["python", "train.py"]
    words = commands(show(REPOSITORY, PYTHON="python", GPUS="4", MASTER_PORT="1234").stdout)[0]
    assert words[1:6] == ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "4"]
    assert words[6] == "train.py"
    more = {"NNODES": "2", "NODE_RANK": "1", "GPUS": "4", "MASTER_ADDR": "first", "MASTER_PORT": "1234"}
    words = commands(show(REPOSITORY, PYTHON="python", **more).stdout)[0]
    assert words[3:13] == ["--nnodes", "2", "--node_rank", "1", "--nproc_per_node", "4", "--master_addr", "first",
                           "--master_port", "1234"] and words[13] == "train.py"


@pytest.mark.parametrize("script,name,value", [
    ("pretrain/demo", "GPUS", "0,1"), ("pretrain/demo", "GPUS", "0"), ("report/demo", "GPUS", "two"),
    ("pretrain/demo", "GPUS", "08"), ("pretrain/demo", "GPUS", "99999999999999999999"),
    ("pretrain/demo", "NNODES", "0"), ("pretrain/demo", "NODE_RANK", "1"), ("pretrain/demo", "NODE_RANK", "-1"),
    ("pretrain/demo", "NNODES", "x"), ("pretrain/demo", "GPUS", "abc"), ("pretrain/demo", "GPUS", "1.5"),
    ("pretrain/demo", "GPUS", "-1"), ("pretrain/demo", "STOPPED_CODE", "x"),
    ("pretrain/demo", "NNODES", "2"), ("run/demo", "MASTER_PORT", "70000"), ("run/demo", "MASTER_PORT", "http"),
    ("test/demo", "SPLIT", "1.5"), ("test/demo", "SPLIT", "0"), ("pretrain/demo", "SPLIT", "all"),
    ("retrieval/demo", "EVAL_EPOCH", "best"), ("retrieval/demo", "EVAL_EPOCH", "-1"), ("run/evidence", "SPLIT", "x"),
    ("run/evidence", "EPOCHS", "0"), ("run/evidence", "SEEDS", "0 one")])
def test_numbers_of_the_environment_are_checked(script, name, value):
    done = show(REPOSITORY, script, **{name: value})
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith(f"error: {name}={value.split()[-1]} ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("script,name,value,says", [
    ("pretrain/demo", "MASTER_ADDR", "a b", "'a b' is not one word"), ("run/demo", "MASTER_ADDR", "--x", "one word"),
    ("pretrain/demo", "PREFIX", "-x", "without a dash"), ("test/demo", "LOG_DIR", "/a\nb", "$'/a\\nb' is not a path"),
    ("retrieval/demo", "PRETRAINED", "/a\tb", "is not a path"), ("run/demo", "PRETRAIN_FLAGS", "lr 1", "with a dash"),
    ("run/demo", "RENDER_FLAGS", "*", "'*' does not begin"), ("run/demo", "TEST_FLAGS", "--ds\n4", "control character"),
    ("run/evidence", "COMMON_FLAGS", "x", "with a dash"), ("run/evidence", "MODES", "clip, tc", "clip, is not a mode"),
    ("run/evidence", "GPUS", "2", "as one process"), ("run/evidence", "LRS", "clip:1", "as in clip=0.01"),
    ("run/evidence", "DATASET", "-d", "without a dash"),
    ("run/evidence", "LOG_DIR", "/a\rb", "not a path")])
def test_words_of_the_environment_are_checked(script, name, value, says):
    done = show(REPOSITORY, script, **{name: value})
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith(f"error: {name}=") and says in done.stderr and done.stderr.count("\n") == 1


def test_lists_of_flags_are_words_not_patterns():
    shown = show(REPOSITORY, "run/demo", PYTHON="python", PRETRAIN_FLAGS="--note *.md").stdout
    assert [words for words in commands(shown) if words[1] == "train.py" and words[-2:] == ["--note", "*.md"]]


def test_several_machines_need_the_first_ones_address():
    done = show(REPOSITORY, NNODES="2", NODE_RANK="0")
    assert done.returncode == 2 and done.stderr.startswith("error: NNODES=2 needs MASTER_ADDR")


@pytest.mark.parametrize("python", ["/no/python", "/bin/false", "/etc/passwd", "/tmp"])
def test_an_interpreter_that_is_none_is_named(recorder, python):
    done = subprocess.run(["bash", "paper_scripts/pretrain/demo.sh"], cwd=recorder[0], env={**BARE, "PYTHON": python},
                          capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {python} does not run as Python: PYTHON, or the active environment, names it\n"


@pytest.mark.parametrize("arguments,words", [
    ([], ["mode", "experiment", "pretrain"]), (["foo", "bar"], ["foo is not a mode", "linear_probe", "report"]),
    (["pretrain"], ["experiment", "moco_c3d_clip_ucf101"]), (["test", "demo2"], ["demo2", "moco_c3d_clip_ucf101"]),
    (["test", "a_b__d"], ["a_b__d", "demo"]), (["retrieval", "byol_r3d_clip_ucf101"], ["byol", "simclr"]),
    (["run", "demo", "--net", "r3d"], ["--net", "experiment"]), (["report", "demo", "--log_dir=x"], ["LOG_DIR="])])
def test_wrong_words_are_named_with_what_there_is(arguments, words):
    """Before Python is looked for."""
    done = subprocess.run(["bash", SCRIPTS / "launch.sh", *arguments], capture_output=True, text=True,
                          env={**BARE, "PYTHON": "/no/python"})
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("error: ") and all(word in done.stderr for word in words), done.stderr


@pytest.mark.parametrize("stop", ["itself", "launcher"])
@pytest.mark.slow
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


def test_scripts_refuse_what_launchers_cannot_know(checkout):
    """Names of networks are in one place, models/backbones."""
    folder, env = checkout
    done = subprocess.run(["bash", "paper_scripts/launch.sh", "pretrain", "simclr_r50_clip_ucf101"], cwd=folder,
                          env={**env, "GPUS": "1"}, capture_output=True, text=True)
    assert done.returncode == 2 and "r50" in done.stderr and "r21d" in done.stderr

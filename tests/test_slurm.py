"""paper_scripts/slurm.sh: what it submits, and when a job is requeued. Slurm's programs are stand-ins."""
import os
import shutil
import signal
import subprocess

import pytest
from helpers import PATIENCE, REPOSITORY, copy_checkout, wait_for

SCRIPT = REPOSITORY / "paper_scripts/slurm.sh"
BARE = {"PATH": os.environ["PATH"]}
EXPERIMENT = "simclr_r3d_clip_ucf101"
# Slurm's programs: sbatch keeps the script, srun starts the first node's task and hands
# signals on to all its processes
PROGRAMS = {
    "sbatch": 'printf "%s\\n" "$@" > options; cat > job.sh',
    "scontrol": 'case $1 in show) printf "first\\nsecond\\n" ;; *) echo "$*" >> requeued ;; esac',
    "squeue": 'echo "${STATE:-RUNNING}"',
    "srun": """while [ "$1" != bash ]; do echo "$1" >> srun_options; shift; done
SLURM_NODEID=0 "$@" & task=$!; echo $task > task
trap 'kill -USR1 $(cat begun) $task' USR1
while true; do status=0; wait $task || status=$?; kill -0 $task 2>/dev/null || break; done
exit $status""",
    # Python: a stage that ends as $STAGE says, or goes on until it is told to stop and saves as its run would
    "python": f"""case "$1 $2" in
    core/check_requirements.py*) exit 0 ;; "-c print(7 * 191)") echo 1337; exit 0 ;; -c*) echo 0; exit 0 ;;
    "-m core.lifeline") shift 3; exec "$@" ;;
esac
echo "$MASTER_ADDR $MASTER_PORT $NNODES $NODE_RANK $GPUS $*" >> stages
run=log/dualvar/pretrain/{EXPERIMENT}
stop() {{
    if [ "$STAGE" != saves ]; then exit 143; fi
    mkdir -p $run/model; date > $run/model/latest.pth.tar; touch $run/STOPPED; exit 0
}}
trap stop TERM
echo $$ > begun
case "$STAGE" in saves | unable) while true; do sleep 0.02; done ;; *) exit "$STAGE" ;; esac""",
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """(copy of the repository, environment with the stand-ins)"""
    root = tmp_path_factory.mktemp("cluster")
    folder, programs = copy_checkout(root / "a copy"), root / "programs"
    programs.mkdir()
    for name, text in PROGRAMS.items():
        (programs / name).write_text(f"#!/bin/bash\n{text}\n")
        (programs / name).chmod(0o755)
    path = f"{programs}:{os.environ['PATH']}"
    return folder, {"PATH": path, "PYTHON": str(programs / "python"), "HOME": str(root)}


def slurm(*arguments, cwd=REPOSITORY, env=BARE):
    return subprocess.run(["bash", SCRIPT if cwd == REPOSITORY else "paper_scripts/slurm.sh", *arguments], cwd=cwd,
                          env=env, capture_output=True, text=True)


def start(cluster, stage, **more):
    """Submit a pretraining and start its job, as Slurm would on two nodes with eight GPUs each -> process."""
    folder, env = cluster
    for name in ("begun", "requeued", "stages", "task", "srun_options"):
        (folder / name).unlink(missing_ok=True)
    done = slurm("pretrain", EXPERIMENT, "--lr", "0.1 0.2", "--", "--nodes", "2", cwd=folder, env=env)
    assert done.returncode == 0, done.stderr
    job = {"SLURM_JOB_ID": "40007", "SLURM_JOB_NODELIST": "nodes", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "8"}
    return subprocess.Popen(["bash", "job.sh"], cwd=folder, env={**env, **job, "STAGE": stage, **more}, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def end(cluster, run):
    """-> (exit code, whether the job asked to be requeued, what it printed)"""
    out, _ = run.communicate(timeout=PATIENCE)
    requeued = cluster[0] / "requeued"
    assert not requeued.exists() or requeued.read_text() == "requeue 40007\n"
    return run.returncode, requeued.exists(), out


def interrupt(cluster, run, receiver):
    """The warning before the time limit goes to the batch script; preemption reaches the launcher alone."""
    folder = cluster[0]
    assert wait_for(lambda: (folder / "begun").exists() and (folder / "begun").read_text(), [run]), run.communicate()
    if receiver == "batch":
        run.send_signal(signal.SIGUSR1)
    else:
        os.kill(int((folder / "task").read_text()), signal.SIGTERM)


@pytest.mark.parametrize("receiver", ["batch", "launcher"])
def test_a_stopped_job_is_requeued_and_ends_when_it_is_done(cluster, receiver):
    shutil.rmtree(cluster[0] / "log", ignore_errors=True)
    run = start(cluster, "saves")
    interrupt(cluster, run, receiver)
    code, requeued, out = end(cluster, run)
    assert (code, requeued) == (0, True), out
    code, requeued, out = end(cluster, start(cluster, "0", SLURM_RESTART_COUNT="1"))
    assert (code, requeued) == (0, False) and "start 2" in out and out.endswith("done\n")
    (stage,) = (cluster[0] / "stages").read_text().splitlines()
    assert stage.startswith("first 10007 2 0 8 -m torch.distributed.run --nnodes 2 --node_rank 0 --nproc_per_node 8 "
                            "--master_addr first --master_port 10007 train.py")
    assert "--resume auto" in stage and stage.endswith("--lr 0.1 0.2")
    options = (cluster[0] / "srun_options").read_text().split()
    assert {"--ntasks=2", "--ntasks-per-node=1"} <= set(options)


@pytest.mark.parametrize("code", ["1", "2", "137"])
def test_a_failed_job_is_not_requeued(cluster, code):
    ended, requeued, out = end(cluster, start(cluster, code))
    assert (ended, requeued) == (int(code), False) and f"ended with {code}: not requeued" in out


def test_a_job_that_saves_nothing_before_its_limit_is_not_requeued_for_ever(cluster):
    run = start(cluster, "unable")
    interrupt(cluster, run, "batch")
    code, requeued, out = end(cluster, run)
    assert (code, requeued) == (1, False) and "nothing was saved" in out


def test_a_preempted_job_is_requeued_even_if_it_saved_nothing(cluster):
    run = start(cluster, "unable")
    interrupt(cluster, run, "launcher")
    assert end(cluster, run)[:2] == (0, True)


def test_a_cancelled_job_stays_away(cluster):
    run = start(cluster, "saves", STATE="COMPLETING")
    interrupt(cluster, run, "launcher")
    assert end(cluster, run)[:2] == (1, False)


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_batch_script_is_clean(tmp_path):
    (tmp_path / "job.sh").write_text(slurm("run", "demo", "--show").stdout)
    done = subprocess.run(["shellcheck", tmp_path / "job.sh"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_show_prints_what_is_submitted(cluster):
    """Wherever it is started; nothing is submitted, and no Python or Slurm is needed."""
    folder, env = cluster
    words = ["pretrain", "demo", "--epochs", "3"]
    assert slurm(*words, "--", "--time", "60", cwd=folder, env={**env, "LOG_DIR": "a log"}).returncode == 0
    script = (folder / "job.sh").read_text()
    assert (folder / "options").read_text() == "--time\n60\n"
    (folder / "job.sh").unlink()
    shown = slurm("--show", *words, "--", "--time", "60", cwd=folder, env={**BARE, "LOG_DIR": "a log"})
    assert shown.returncode == 0 and shown.stdout == script and not (folder / "job.sh").exists()
    assert f'#SBATCH --output="{folder}/a log/dualvar/slurm-%j.out"\n' in script
    assert "#SBATCH --signal=B:USR1@300\n" in script and "#SBATCH --requeue\n" in script
    assert "launcher=(bash paper_scripts/launch.sh pretrain demo --epochs 3)" in script


@pytest.mark.parametrize("arguments,words", [
    ([], ["mode", "experiment"]), (["pretrain"], ["mode", "experiment"]), (["foo", "demo"], ["foo is not a mode"]),
    (["pretrain", "demo2"], ["demo2 is not an experiment"]), (["run", "demo", "--name", "x"], ["--name"])])
def test_wrong_words_are_named_before_anything_is_submitted(cluster, arguments, words):
    folder, env = cluster
    (folder / "job.sh").unlink(missing_ok=True)
    done = slurm(*arguments, cwd=folder, env=env)
    assert done.returncode == 2 and not done.stdout and not (folder / "job.sh").exists()
    assert done.stderr.startswith("error: ") and all(word in done.stderr for word in words), done.stderr


def test_no_slurm_is_one_sentence(tmp_path):
    for name in ("bash", "dirname", "readlink", "basename", "env"):
        (tmp_path / name).symlink_to(shutil.which(name))
    done = slurm("pretrain", "demo", env={"PATH": str(tmp_path)})
    assert done.returncode == 1 and done.stderr.startswith("error: there is no sbatch") and not done.stdout
    assert done.stderr.count("\n") == 1

"""Runs that are killed while they start: nothing of them is left to join the next one."""
import ast
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from helpers import NARROW, PATIENCE, REPOSITORY, SMALL, environment, free_port, torchrun

from core.lifeline import RUN, is_torchrun

# What may be started by torchrun. It is tied to torchrun before the seconds that its imports take.
STARTED = ["train.py", "finetune.py", "test.py", "retrieval.py", "embed.py", "analysis/pictures.py",
           "analysis/temporal.py"]
# kills at moments of the first seconds; START_MOMENTS=480 tries each of the 12 kinds at 40 moments, in half an hour
MOMENTS, SECONDS = int(os.environ.get("START_MOMENTS", 6)), 5
KINDS = [(victim, number, processes) for processes in (2, 1) for number in (signal.SIGKILL, signal.SIGTERM)
         for victim in ("torchrun", "process", "launcher")]
GONE_AFTER = 10  # seconds


def first_import(path):
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return ast.unparse(next(node for node in body if isinstance(node, (ast.Import, ast.ImportFrom))))


def test_what_torchrun_may_start_is_tied_to_it_first():
    def starts(path):
        text = path.read_text(encoding="utf-8")
        return "__main__" in text and any(isinstance(node, ast.ImportFrom) and node.module == "engine.setup"
                                          and "start" in [name.name for name in node.names]
                                          for node in ast.parse(text).body)

    files = [*REPOSITORY.glob("*.py"), *(REPOSITORY / "analysis").glob("*.py")]
    assert {str(path.relative_to(REPOSITORY)) for path in files if starts(path)} == {*STARTED}
    assert {first_import(REPOSITORY / name) for name in STARTED} == {"import core.lifeline"}


# --- while a program imports ------------------------------------------------------------------------------------

DATA_TOOLS = ("extract_frame", "pack", "render_demo", "verify", "write_csv")
NO_PROGRAMS = ("utils.py", "hubconf.py")
PROGRAMS = [*(path.name for path in REPOSITORY.glob("*.py") if path.name not in NO_PROGRAMS), "-m analysis.report",
            "-m models.weights", "asset/draw.py", *(f"process_data/src/{name}.py" for name in DATA_TOOLS)]


def with_broken_packages(program, folder, fault):
    """A program in whose place of its first packages there is `fault`, a line of Python."""
    for package in ("numpy", "pandas", "torch", "tqdm", "cv2"):
        (folder / f"{package}.py").write_text(f"import os, signal\n{fault}\n")
    return subprocess.run([sys.executable, *program.split()], cwd=REPOSITORY, text=True, capture_output=True,
                          env=environment(folder, PYTHONPATH=str(folder)))


@pytest.mark.parametrize("program", PROGRAMS)
def test_ctrl_c_ends_an_import_without_a_traceback(tmp_path, program):
    done = with_broken_packages(program, tmp_path, "os.kill(os.getpid(), signal.SIGINT)")
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "stopped\n")


@pytest.mark.parametrize("program", ["train.py", "process_data/src/extract_frame.py"])
def test_a_package_that_cannot_be_imported_is_named(tmp_path, program):
    for fault, words in (("ImportError('libGL.so.1: cannot open it')", "libGL.so.1: cannot open it: a package cannot"),
                         ("ModuleNotFoundError('No module named x')", "No module named x: install what"),
                         ("AttributeError('no Queue')", f"AttributeError in {tmp_path}/")):
        done = with_broken_packages(program, tmp_path, f"raise {fault}")
        assert done.returncode == 1 and done.stderr.startswith(f"error: {words}"), done.stderr
        assert done.stderr.count("\n") == 1
    assert "Traceback" in with_broken_packages(f"{program} --debug", tmp_path, "raise ImportError('broken')").stderr


def test_a_deleted_working_folder_is_named(tmp_path):
    (tmp_path / "gone").mkdir()
    command = f"cd {tmp_path / 'gone'} && rmdir {tmp_path / 'gone'} && exec {sys.executable} {REPOSITORY / 'train.py'}"
    done = subprocess.run(["bash", "-c", command], text=True, capture_output=True,
                          env=environment(tmp_path))
    assert done.returncode == 1 and done.stderr == (
        "error: the working folder has been deleted: go to another one (cd)\n")


def test_programs_of_others_keep_their_own_last_words(tmp_path):
    (tmp_path / "own.py").write_text("import core, missing_package")
    done = subprocess.run([sys.executable, str(tmp_path / "own.py")], text=True, capture_output=True,
                          env=environment(tmp_path, PYTHONPATH=str(REPOSITORY)))
    assert "Traceback" in done.stderr


# --- who is whose parent --------------------------------------------------------------------------------------


@pytest.mark.parametrize("files,torch", [
    ({"environ": b"HOME=/\0", "maps": b"7f00-7f01 r-xp /lib/libtorch_cpu.so\n"}, True),
    ({"environ": f"A=b\0{RUN}=none\0".encode(), "maps": b""}, True),  # a wrapper
    ({"environ": b"HOME=/\0", "maps": b"7f00-7f01 r-xp /usr/lib/systemd/libsystemd.so\n"}, False),
    ({}, False)])
def test_torchrun_is_told_from_who_takes_in_orphans(tmp_path, files, torch):
    (tmp_path / "1").mkdir()
    for name, content in files.items():
        (tmp_path / "1" / name).write_bytes(content)
    assert is_torchrun(1, tmp_path) == torch
    assert is_torchrun(0, tmp_path)  # outside the container


def test_an_orphan_of_torchrun_does_not_begin():
    """This process has imported no torch: to the child it is one that takes in orphans."""
    code = "import os, sys, core.lifeline; print('begun')"
    shell = ["bash", "-c", '"$0" -c "$1"; exit $?', sys.executable, code]
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    orphan = ["bash", "-c", 'env TORCHELASTIC_RUN_ID=x "$0" -c "$1"; exit $?', sys.executable, code]
    done = subprocess.run(orphan, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: torchrun ended before this process had begun, so it ends too\n"
    done = subprocess.run(shell, env={**env, RUN: "x"}, capture_output=True, text=True)  # the shell is a wrapper
    assert (done.returncode, done.stdout, done.stderr) == (0, "begun\n", "")


def test_a_parent_that_has_ended_is_noticed():
    code = "import os, signal; from core.lifeline import die_with_parent as tied; print(tied(signal.SIGTERM, {}))"
    for parent, ended in ((os.getpid(), False), (2**22 + 1, True)):
        done = subprocess.run([sys.executable, "-c", code.format(parent)], cwd=REPOSITORY, capture_output=True,
                              text=True)
        assert done.stdout == f"{ended}\n"


def test_a_command_of_a_shell_ends_with_it(tmp_path):
    """The shell is killed, which leaves it no time to end what it has started."""
    shell = subprocess.Popen(["bash", "-c", '("$0" -m core.lifeline $$ sleep 600) & echo $!; wait', sys.executable],
                             cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    command = Path(f"/proc/{int(shell.stdout.readline())}")
    deadline = time.monotonic() + PATIENCE
    while b"sleep" not in (command / "cmdline").read_bytes().split(b"\0")[:1]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    shell.kill()
    shell.wait()
    while command.exists() and ") Z" not in (command / "stat").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# --- kills ----------------------------------------------------------------------------------------------------


def marked(mark):
    """{id: (command, environment)} of the living processes that were started with this mark."""
    found = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        folder = Path("/proc", entry)
        try:
            variables = (folder / "environ").read_bytes()
            if mark.encode() in variables and ") Z" not in (folder / "stat").read_text():
                found[int(entry)] = (folder / "cmdline").read_bytes().decode(), variables.decode()
        except OSError:  # it has just ended, or is somebody else's
            continue
    return found


def chosen(mark, victim, launched):
    """Id of the process to kill, or None while it is not there."""
    if victim == "launcher":
        return launched.pid
    for pid, (command, variables) in marked(mark).items():
        agent = "torch.distributed.run" in command
        if agent if victim == "torchrun" else "train.py" in command and not agent and "launch.sh" not in command and (
                "core.lifeline" not in command) and (RUN in variables or "torch.distributed" not in command):
            return pid
    return None


class Start:
    """One run, started again and again: with a launcher, or with torchrun alone and always on the same port."""

    def __init__(self, root, folder):
        self.root, self.folder, self.port = root, folder, free_port()
        self.flags = [*SMALL, *NARROW[2:], "--batch_size", "2", "--moco-k", "16", "--bn", "local", "--resume", "auto",
                      "--save_steps", "2", "--keep", "1"]

    def __call__(self, mark, launcher, processes, epochs):
        env = environment(self.root, MARK=mark)
        flags = [*self.flags, "--epochs", str(epochs)]
        if not launcher:
            return torchrun("train.py", *flags, *NARROW[:2], "--framework", "moco", "--mode", "clip", "--log_dir",
                            self.folder, "--name", f"torchrun{processes}", processes=processes, cwd=self.folder,
                            env=env, options=("--master_port", str(self.port)))
        variables = {"PYTHON": sys.executable, "GPUS": str(processes), "LOG_DIR": str(self.folder),
                     "EVAL_EPOCH": "last", "PREFIX": f"launcher{processes}"}
        return subprocess.Popen(["bash", REPOSITORY / "paper_scripts/launch.sh", "pretrain", "moco_r3d_clip_ucf101",
                                 *flags], env={**env, **variables}, cwd=self.folder, text=True, start_new_session=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def strike(begin, victim, number, processes, moment, after="start"):
    """Start a run, and kill one of its processes at a moment -> (the run, its mark)."""
    mark, launcher = uuid.uuid4().hex, victim == "launcher" or victim == "process" and processes == 1
    began = time.monotonic()
    launched = begin(mark, launcher, processes, epochs=10**6)
    if after == "processes":
        while chosen(mark, "process", launched) is None:
            assert launched.poll() is None, launched.stdout.read()
        began = time.monotonic()
    time.sleep(max(0, began + moment - time.monotonic()))
    while (pid := chosen(mark, victim, launched)) is None:
        assert launched.poll() is None, launched.stdout.read()
        time.sleep(0.01)
    os.kill(pid, number)
    return launched, mark


def left_of(launched, mark):
    """What is alive of a run long after a kill, as text, which is ended then."""
    deadline = time.monotonic() + GONE_AFTER
    while (launched.poll() is None or marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.02)
    left = marked(mark)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    said = launched.communicate(timeout=PATIENCE)[0]
    return "".join(f"{pid}: {command!r}\n" for pid, (command, _) in left.items()) + (said if left else "")


@pytest.mark.slow
def test_kills_while_a_run_starts(root, tmp_path):
    """Nothing of the run is alive soon after, and it can be started again, on the same port and in the same folder."""
    begin, left, longest = Start(root, tmp_path), {}, 0.0
    for i in range(MOMENTS):
        kind, moment = KINDS[(5 * i) % len(KINDS)], SECONDS * (i + 0.5) / MOMENTS
        killed = strike(begin, *kind, moment)
        began = time.monotonic()
        if text := left_of(*killed):
            left[f"{kind} at {moment:.2f} s"] = text
        longest = max(longest, time.monotonic() - began)
    print(f"{MOMENTS} kills, the last process gone after {longest:.1f} s at most")
    assert not left, "\n".join(f"{key}:\n{text}" for key, text in left.items())
    last = [begin(uuid.uuid4().hex, launcher, processes, epochs=1) for launcher, processes in ((False, 2), (True, 1))]
    for run in last:
        out = run.communicate(timeout=PATIENCE)[0]
        assert run.returncode == 0 and "Pretrained:" in out, out


@pytest.mark.slow
def test_processes_of_a_killed_torchrun_do_not_join_the_next(root, tmp_path):
    """They have just begun to import what takes seconds; the next run is started at once."""
    begin = Start(root, tmp_path)
    killed = strike(begin, "torchrun", signal.SIGKILL, 2, 0.2, after="processes")
    run = begin(uuid.uuid4().hex, False, 2, epochs=1)
    try:
        out = run.communicate(timeout=PATIENCE)[0]
    finally:
        left = left_of(*killed)
    assert not left
    assert run.returncode == 0 and "Pretrained:" in out, out

"""What the environment says, and what is left to say when nobody foresaw an error."""
import os
import subprocess
import sys

import pytest
from helpers import NARROW, REPOSITORY, SMALL, command, environment, make_dataset, planted

from core.errors import DataError
from core.files import take_lock, write_text
from core.versions import commit

PROBE = "from core.exits import run; run(lambda argv: {})"  # a program that does what stands in the braces


@pytest.mark.parametrize("name, value", [("WORLD_SIZE", "2"), ("WORLD_SIZE", "x"), ("LOCAL_WORLD_SIZE", "0")])
def test_a_run_says_what_of_its_environment_is_wrong(tmp_path, name, value):
    env = environment(make_dataset(tmp_path / "data"), **{name: value})
    done = command("train.py", *SMALL, *NARROW, "--batch_size", "4", cwd=tmp_path, env=env)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "log").exists()


# --- what nobody foresaw ---------------------------------------------------------------------------------------

def run_code(code, folder, *flags, **more):
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), **more}
    return subprocess.run([sys.executable, "-c", code, *flags], cwd=folder, env=env, capture_output=True, text=True)


def test_a_fault_is_a_sentence_and_a_file(tmp_path):
    for number in (1, 2):  # an earlier one is kept
        done = run_code(PROBE.format("{}['x']"), tmp_path, "--flag")
        assert done.returncode == 70 and done.stdout == "" and done.stderr == (
            "error: KeyError: 'x': this is a fault of the program, not of what it was given; "
            f"{tmp_path}/crash.txt says where: please report it with that file and flags.json of the run\n")
        text = (tmp_path / "crash.txt").read_text()
        assert text.count("Traceback") == text.count("--flag") == number
    done = run_code(PROBE.format("1 / (len(argv) - 1)"), tmp_path, "--debug", "one")
    assert done.returncode == 70 and "Traceback" in done.stderr and "ZeroDivisionError" in done.stderr.splitlines()[-1]


def test_a_fault_in_a_loaders_worker_is_said_in_its_own_words(tmp_path):
    code = """
from core.exits import run
def main(argv):
    raise ValueError("Caught ValueError in DataLoader worker process 0.\\nOriginal Traceback (most recent call last):"
                     "\\n  File x\\nValueError: lost\\n")
run(main)"""
    done = run_code(code, tmp_path)
    assert done.returncode == 70 and done.stderr.startswith("error: ValueError: lost: this is a fault"), done.stderr


def test_a_fault_where_nothing_can_be_written(tmp_path):
    (tmp_path / "crash.txt").mkdir()
    done = run_code(PROBE.format("{}['x']"), tmp_path)
    assert done.returncode == 70 and "Traceback" in done.stderr and "Is a directory" in done.stderr.splitlines()[-1]


def broken(folder, program, module, name):
    """A program with a fault planted in one of its functions -> its path."""
    return planted(folder, program, f"""
import {module} as broken
def fault(*arguments, **options): raise KeyError("planted")
broken.{name} = fault
""")


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.slow
def test_a_fault_amid_training_stands_in_the_run_s_folder(tmp_path, processes):
    env = environment(make_dataset(tmp_path / "data"))
    program = broken(tmp_path, "train", "engine.session", "Session.record")
    done = command(program, *SMALL, *NARROW, "--batch_size", "4", "--name", "x", cwd=tmp_path, env=env,
                   processes=processes)
    assert done.returncode == 70 and "KeyError: 'planted': this is a fault" in done.stderr
    text = (tmp_path / "log/dualvar/pretrain/x/crash.txt").read_text()
    assert 1 <= text.count("Traceback") <= processes and "planted" in text
    if processes == 1:
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("program, module, name, flags", [
    ("process_data.src.verify", "core.jobs", "run_jobs", ["--dataset", "ucf101"]),
    ("analysis.report", "analysis.runs", "find_runs", ["log"])])
def test_a_fault_in_a_tool(tmp_path, program, module, name, flags):
    env = environment(make_dataset(tmp_path / "data"))
    (tmp_path / "log").mkdir()
    done = command(broken(tmp_path, program, module, name), *flags, cwd=tmp_path, env=env)
    assert done.returncode == 70 and "Traceback" not in done.stderr, done.stderr
    assert "KeyError: 'planted'" in (tmp_path / "crash.txt").read_text()


# --- odd surroundings ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(tmp_path, closed):
    code = PROBE.format("(print(1), __import__('tqdm').tqdm([1]).update(), open('x', 'w').write(str(len('ab'))))[0]")
    done = subprocess.run(["bash", "-c", f"exec {sys.executable} -c \"{code}\" {closed}"], cwd=tmp_path,
                          env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True)
    assert done.returncode == 0 and (tmp_path / "x").read_text() == "2", done.stderr


def test_a_backend_that_matplotlib_does_not_know(tmp_path):
    done = run_code(PROBE.format("print(__import__('matplotlib.pyplot').get_backend())"), tmp_path,
                    MPLBACKEND="nonsense")
    assert done.returncode == 0 and done.stdout.strip().lower() == "agg", done.stderr


@pytest.mark.parametrize("script", ["retrieval.py", "process_data/src/verify.py"])  # others make parsers likewise
def test_help_without_docstrings(script):
    """It names what all commands take."""
    done = subprocess.run([sys.executable, "-OO", *script.split(), "--help"], cwd=REPOSITORY, capture_output=True,
                          text=True)
    assert done.returncode == 0 and "--debug" in done.stdout, done.stderr


def test_a_name_that_the_system_cannot_write_is_a_sentence(tmp_path):
    done = run_code(PROBE.format(r"open('\xe9\u20ac', 'w')"), tmp_path, LC_ALL="C", PYTHONUTF8="0",
                    PYTHONCOERCECLOCALE="0")
    assert done.returncode == 1 and "set PYTHONUTF8=1" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_too_few_open_files_for_the_workers(tmp_path):
    env = environment(make_dataset(tmp_path / "data"))
    flags = " ".join([*SMALL, *NARROW, "--batch_size", "4", "--workers", "8", "--epochs", "1"]).replace(
        "--workers 0", "")
    done = subprocess.run(["bash", "-c", f"ulimit -n 32; exec {sys.executable} {REPOSITORY}/train.py {flags}"],
                          cwd=tmp_path, env=env, capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and last.startswith("error: ") and "ulimit -n, which is 32" in last, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("flags,words", [
    ("process_data/src/extract_frame.py --frames=", "argument --frames: it is empty"),
    ("process_data/src/write_csv.py --splits=a\nb", r"--splits a\nb is not a folder"),
    ("process_data/src/verify.py --dataset=a\nb", r"--dataset 'a\nb': it holds the control character"),
    ("-m analysis.report log --out=", "argument --out: it is empty"),
    ("-m analysis.pictures tsne --features=", "--features '': it is empty")])
def test_a_path_that_nothing_can_be_at(flags, words):
    """An empty one would be the working folder."""
    done = subprocess.run([sys.executable, *flags.split(" ")], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 2 and words in done.stderr.splitlines()[-1], done.stderr


def test_a_full_disk_behind_standard_output_is_a_sentence(tmp_path):
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", PROBE.format("print('x' * 10000, flush=True)")], cwd=REPOSITORY,
                              env=environment(tmp_path), stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and done.stderr == (
        "error: No space left on device, of standard output or a file whose name the system does not say\n")


@pytest.mark.parametrize("name", ["log.txt", "log.jsonl", "flags.json", ".lock", "STOPPED", "model/next.pth.tar",
                                  "model/backbone.pth.tar"])
@pytest.mark.parametrize("kind", ["fifo", "folder"])
def test_what_stands_where_a_run_writes_is_named_before_it_begins(root, program, tmp_path, name, kind):
    path = tmp_path / "log/dualvar/pretrain/x" / name
    path.parent.mkdir(parents=True)
    os.mkfifo(path) if kind == "fifo" else path.mkdir()
    code, _, error = program("train", *SMALL, *NARROW, "--batch_size", "4", "--name", "x")
    assert code == 1 and f"{name} is no regular file" in error.splitlines()[-1], error


def test_what_stands_in_place_of_a_temporary_file_is_not_written_to(tmp_path):
    (tmp_path / "own").write_text("precious")
    (tmp_path / ".partial_a").symlink_to("own")
    os.mkfifo(tmp_path / ".partial_b")
    for name in "ab":
        write_text(tmp_path / name, "new")
        assert (tmp_path / name).read_text() == "new" and not (tmp_path / name).is_symlink()
    assert (tmp_path / "own").read_text() == "precious"
    (tmp_path / ".lock").symlink_to("own")
    with pytest.raises(DataError, match="no regular file"):
        take_lock(tmp_path, "folder")
    assert (tmp_path / "own").read_text() == "precious"


@pytest.mark.parametrize("python", ["/bin/true", "/bin/echo"])
def test_what_is_no_python_is_not_taken_for_one(python):
    done = subprocess.run(["bash", "paper_scripts/report/demo.sh"], cwd=REPOSITORY, capture_output=True, text=True,
                          env={**os.environ, "PYTHON": python})
    assert done.returncode == 2 and "does not run as Python" in done.stderr


def test_a_run_is_called_by_one_name(program):
    code, _, error = program("train", *SMALL, *NARROW, "--batch_size", "4", "--name", "a/b")
    assert code == 2 and "--name 'a/b': it holds a slash" in error


def test_without_git_the_commit_is_not_known(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit() == ""

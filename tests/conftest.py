"""The same surroundings for all tests, whatever shell they are started from."""
import atexit
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))
sys.path.insert(0, str(REPOSITORY / "tests"))

# What programs and launchers read of their environment: a test that wants any of it says so.
LAUNCHERS = """GPUS NNODES NODE_RANK MASTER_ADDR MASTER_PORT LOG_DIR PREFIX SPLIT PRETRAINED EVAL_EPOCH PYTHON
    PRETRAIN_FLAGS RETRIEVAL_FLAGS FINETUNE_FLAGS TEST_FLAGS RENDER_FLAGS COMMON_FLAGS DATASET MODES SEEDS EPOCHS
    STOPPED_CODE LRS SHOTS"""
TORCHRUN = """RANK LOCAL_RANK GROUP_RANK ROLE_RANK WORLD_SIZE LOCAL_WORLD_SIZE GROUP_WORLD_SIZE ROLE_WORLD_SIZE
    TORCHELASTIC_ERROR_FILE TORCHELASTIC_RUN_ID TORCHELASTIC_USE_AGENT_STORE"""
SHELL = """COLUMNS LINES FORCE_COLOR NO_COLOR CDPATH BASH_ENV ENV LANGUAGE MPLBACKEND MATPLOTLIBRC
    PYTHONSAFEPATH PYTHONWARNINGS PYTHONOPTIMIZE PYTHONUNBUFFERED"""
for name in [*os.environ]:
    if name.startswith("DUALVAR") or name in f"{LAUNCHERS} {TORCHRUN} {SHELL}".split():
        del os.environ[name]
# findings about precision that were made before, and what the tests find, are nobody else's; fonts are looked for once
cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
os.environ.setdefault("MPLCONFIGDIR", os.path.join(cache, "matplotlib"))
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="dualvar_tests_")
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)

# a shell's background job ignores Ctrl-C, which the tests send to what they start
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Folder of a small data set `ucf101`."""
    from helpers import make_dataset  # which imports the project, and torch with it
    return make_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture
def program(root, tmp_path, monkeypatch, capsys):
    """Runs programs on that data set, in an empty folder -> (exit code, standard output, standard error)."""
    from helpers import InProcess
    monkeypatch.chdir(tmp_path)
    return InProcess(root, monkeypatch, capsys)


# pytest's summary lists what was skipped and why; with -n it does not say how many tests -m or -k left out
left_out = pytest.StashKey[int]()


def pytest_deselected(items):
    """In a worker of pytest-xdist: count what is deselected in what the worker sends home."""
    sent = getattr(items[0].config, "workeroutput", None)
    if sent is not None:
        sent["left_out"] = sent.get("left_out", 0) + len(items)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    """Every worker collects all tests, so one worker's count is the count."""
    node.config.stash[left_out] = getattr(node, "workeroutput", {}).get("left_out", 0)


def pytest_terminal_summary(terminalreporter, config):
    count = config.stash.get(left_out, 0)
    if count:
        chosen = {"-m": config.option.markexpr, "-k": config.option.keyword}
        by = " and ".join(f"{flag} {value!r}" for flag, value in chosen.items() if value)
        terminalreporter.write_line(f"LEFT OUT [{count}] by {by or 'other options'}")

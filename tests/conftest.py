"""The same surroundings for all tests, whatever shell they are started from."""
import atexit
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))
sys.path.insert(0, str(REPOSITORY / "tests"))

# What programs and launchers read of their environment: a test that wants any of it says so.
LAUNCHERS = """GPUS NNODES NODE_RANK MASTER_ADDR MASTER_PORT LOG_DIR PREFIX SPLIT PRETRAINED EVAL_EPOCH PYTHON
    PRETRAIN_FLAGS RETRIEVAL_FLAGS FINETUNE_FLAGS TEST_FLAGS RENDER_FLAGS COMMON_FLAGS DATASET MODES SEEDS EPOCHS"""
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

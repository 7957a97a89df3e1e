"""Values of wrong kinds for every flag of the entry scripts: a sentence and an exit code, or it works."""
import argparse
import contextlib
import importlib
import io
import os

import pytest
from fuzz import bounded, cases
from helpers import NARROW, SMALL, exit_code
from hypothesis import given, note
from hypothesis import strategies as st

from dataset.local_dataset import DATASETS, UCF101_GROUP, LocalDataset
from engine import flags as shared

WHERE = ["--dry_run", "--name", "x"]
SCRIPTS = {
    "train": [*SMALL, *NARROW, "--batch_size", "4", *WHERE],
    "finetune": [*SMALL, *NARROW, "--batch_size", "4", "--pretrain", "random", *WHERE],
    "test": [*SMALL, *NARROW, "--checkpoint", "not_there_yet.tar", *WHERE],
    "retrieval": [*SMALL, *NARROW, "--pretrain", "random", *WHERE],
}
VALUES = (
    "0", "-0", "-1", "1", "2", "3", "7", "64", "1e23", "1e-50", "-1e308", "1e400", "nan", "-inf", "inf",
    "0x10", "10**30", "1" + "0" * 30, "2147483648", "2147483647", "10", "9" * 400, "9" * 5000, "²", "１",
    "1_0", "0.5", "1e39", "", " ", "x", "none", "auto", "random", "all", "default", "clip", "clip-sr",
    "ucf101", "r3d", "r21d", "s3d", "moco", "local", "shuffle", "cpu", "cuda", "fp32", "bf16", "fp16",
    "tf32", "video", "packed", "27x37", "1" + "0" * 9 + "x1" + "0" * 9, "-5x-5", "x", "99x", "..", "../x",
    "/", "/proc/x", "a/../../b", "a/b", ".", "~", "\x1b[2J", "a\nb", "a\tb", "\u2028", "\udcff", "$x$",
    "$(id)", "é" * 200, "n" * 300, "n/" * 3000, "-", "--", "{split}", "<b>", "=1+1", "%s", "%(prog)s",
    "{0}", "thumbnail",
)


@pytest.fixture(scope="module")
def place(root, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("flags"))
        patch.setitem(DATASETS, "ucf101", LocalDataset(root / "ucf101/frames", root / "lists/ucf101", UCF101_GROUP, 3))
        patch.setattr(shared, "machine_memory", lambda: 2**29)
        yield


def called(script, flags):
    """-> (exit code, last line of standard error)"""
    err = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()), \
            contextlib.redirect_stderr(err):
        code = exit_code(importlib.import_module(script), flags, patch)
    error = err.getvalue()
    assert "Traceback" not in error
    assert code == 0 or "error: " in error.splitlines()[-1], error[-2000:]
    return code, error.splitlines()[-1] if code else ""


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
@cases(10)
@given(st.data())
def test_fuzz_flags(place, script, data):
    actions = [action for action in importlib.import_module(script).flags()._actions
               if action.option_strings and action.dest != "help"]
    flags = list(SCRIPTS[script])
    for _ in range(data.draw(st.integers(1, 2))):
        action = actions[data.draw(st.integers(0, len(actions) - 1))]
        flags.append(action.option_strings[0])
        if not isinstance(action, argparse._StoreTrueAction):
            flags.append(VALUES[data.draw(st.integers(0, len(VALUES) - 1))])
    note(f"{flags[len(SCRIPTS[script]):]!r}"[:500])
    before = os.listdir()
    with bounded():
        called(script, flags)
    assert os.listdir() == before


@pytest.mark.parametrize("script, flags, words", [
    ("train", "--width 1e23", "--width must be at most 1000"),
    ("train", "--width 900", "the network of --width 900.0 would"),
    ("train", "--dim 2000000000 --width 1", "the network of --dim 2000000000 would take"),
    ("train", "--framework moco --moco-k 2000000000 --dim 100000", "--moco-k 2000000000 would take 8"),
    ("train", "--framework moco --moco-k 1000000000000", "--moco-k 1000000000000 is not between"),
    ("train", "--series_dim 1000000000000000000000000000000", "--series_dim must be above 0 and below 2**31, got 1000"),
    ("train", "--img_dim 1000000", "a clip of 4 frames (--seq_len) of --img_dim 1000000 would take 4.8e+04 GB"),
    ("train", "--seq_len 2000000000", "a clip of 2000000000 frames"),
    ("train", "--sr_clamp inf", "--sr_clamp inf"),
    ("train", "--resize 2000000x2000000", "4 frames (--seq_len) of 2000000 x 2000000 pixels (--resize) would take"),
    ("train", "--workers 100000", "--workers must be at most 1024"),
    ("train", "--epochs -0", "--epochs must be above"),
    ("train", "--loader_timeout 1e30", "--loader_timeout must be at most 2000000"),
    ("train", "--gamma 1e38 --schedule 1 2 3 4 5 6 7 8 9", "--gamma 1e+38: the learning rate"),
    ("train", "--schedule -3", "--schedule [-3]"),
    ("finetune", "--dry_run 100000", "process_count"),
    ("train", "--eval_videos 3000000000", "--eval_videos must be above 0 and below"),
    ("train", "--name ..", "--name '..': it is empty, or stands for a folder"),
    ("train", "--prefix a/../../b", "--prefix 'a/../../b': it leads"),
    ("train", "--prefix /tmp", "--prefix '/tmp': it leads"),
    ("test", "--name a\x1bb", r"--name 'a\x1bb': it holds the co"),
    ("finetune", "--log_dir a\nb", r"--log_dir 'a\nb': it holds the control character '\n'"),
    ("retrieval", "--pretrain caf\udce9", r"--pretrain 'caf\udce9': it is not UTF-8"),
    ("train", f"--name {'n' * 300}", "it has 300 bytes"),
    ("train", f"--log_dir {'n/' * 3000}", "more than 4095 bytes"),
    ("train", "--prefix .", "--prefix '.': it stands for a folder"),
    ("test", "--clips 1000000000", "--clips 1000000000: "),
    ("retrieval", "--width 900", "the network of --width 900.0 would"),
    ("test", "--width 900", "the network of --width 900.0 would"),
    ("finetune", "--width 900", "the network of --width 900.0 would"),
])
def test_sizes_and_names_are_bounded(place, script, flags, words):
    with bounded():
        code, error = called(script, [*SCRIPTS[script], *flags.split(" ")])
    assert code == 2 and words in error, error


def test_an_empty_name_is_none(place):
    assert called("train", [*SCRIPTS["train"], "--name", ""]) == (2, "error: --name '': it is empty, give another")


def test_names_with_dollars_and_folders_are_fine(place):
    assert called("train", [*SCRIPTS["train"], "--name", "$x$ é", "--prefix", "a/b", "--log_dir", "../log"]) == (0, "")

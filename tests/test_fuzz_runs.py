"""What runs leave behind, damaged: a right result, or one sentence and exit code 1; what is there stays as it was."""
import io
import json
import math
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from fuzz import cases, damaged, in_sentence
from helpers import NARROW, SMALL, InProcess, make_dataset, results_of
from hypothesis import given
from hypothesis import strategies as st

from analysis.features import read_features, write_features
from analysis.run_pictures import confusion, read_numbers
from analysis.runs import Run, read_probe
from core.errors import DataError
from core.inputs import read_npz
from dataset.lists import open_list
from engine.evaluation import ClipFlags
from engine.log import log_rows
from test import PREDICTIONS

LOG = "".join(json.dumps({"epoch": i, "loss/clip": 2.5 - i, "lr": 0.003, "top1": math.nan}) + "\n"
              for i in range(3)).encode()
FACTS = {"torch": "2", "opencv": "4", "python": "3", "commit": "1", "gpu": None, "processes": 1}
FLAGS = {"dataset": "ucf101", "split": 1, "storage": "frames", "seq_len": 4, "ds": 2, "img_dim": 24, "resize": [27, 37],
         "seed": 0, "net": "r3d", "width": 0.0625, "clips": 2}
FILES = {
    "pretrain": {**FACTS, "videos": 12, "effective_batch": 4, "flags": {
        **FLAGS, "epochs": 1, "lr": 0.1, "framework": "simclr", "mode": "clip", "n_series": 2, "time_reverse": 0.5}},
    "retrieval": {**FACTS, "classes": 2, "queries": 4, "results": {"R@1": 0.5}, "flags": {
        **FLAGS, "pretrain": "log/x", "save_features": None}},
    "test": {**FACTS, "classes": 2, "flags": {**FLAGS, "checkpoint": "ft/x/model/latest.pth.tar"}, "results": {
        "split01": {"top1": 0.5, "top5": 1.0, "mean_class": 0.5, "videos": 4}}}}
TABLE = b"class,videos,correct,accuracy\n$x$,2,1,0.5\n'=1,2,2,1.0\n\"a,b\",0,0,\n"
CONFUSION = b"true \\ predicted,$\\frac{$,'=1\n$\\frac{$,2,1\n'=1,0,3\n"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "log.jsonl"


# --- doors ---------------------------------------------------------------------------------------------------

@cases()
@given(damaged(LOG))
def test_fuzz_logs(path, data):
    path.write_bytes(data)
    found = in_sentence(log_rows, path.parent)
    if not isinstance(found, DataError):
        assert all(row["epoch"] >= 0 and all(type(value) is float for value in row.values()) for row in found)
    assert path.read_bytes() == data


@cases()
@given(st.sampled_from(sorted(FILES)).flatmap(
    lambda stage: st.tuples(st.just(stage), damaged(json.dumps(FILES[stage], indent=1).encode()))))
def test_fuzz_results_and_flags(path, case):
    stage, data = case
    path.write_bytes(data)
    found = in_sentence(Run, path, stage)
    if not isinstance(found, DataError):
        assert found.dataset_and_split and found.features() is None and len(found.flags["resize"]) == 2
        assert stage != "test" or found.first_split >= 0 and 1 / found.facts["classes"] <= 1


@cases()
@given(damaged(json.dumps({"linear": [0.5, 0.6], "strengths": [1], "shots": {"1": [0.2], "10": [0.4, 0.3]},
                           "vote": {"1": 0.5}}).encode()))
def test_fuzz_probes(path, data):
    (path.parent / "probe.json").write_bytes(data)
    found = in_sentence(read_probe, path.parent)
    assert isinstance(found, DataError) or found["linear probe"] and all(
        re.fullmatch("linear probe|[1-9][0-9]*-shot", name) and math.isfinite(np.mean(values))
        for name, values in found.items())


@cases()
@given(damaged(ClipFlags(4, 2, 24, (27, 37), 10).to_json().encode()))
def test_fuzz_protocols(data):
    own = ClipFlags(4, 2, 24, (27, 37), 10)
    found = in_sentence(own.from_json, data.decode("utf-8", "replace"), "x", "again")
    assert isinstance(found, DataError) or found.values().keys() == own.values().keys() and min(found.resize) > 0


@cases()
@given(damaged(TABLE), damaged(CONFUSION))
def test_fuzz_tables_of_tests(path, table, matrix):
    folder = path.parent / "split01"
    folder.mkdir(exist_ok=True)
    (folder / "classes.csv").write_bytes(table)
    (folder / "confusion.csv").write_bytes(matrix)
    found = in_sentence(read_numbers, folder / "classes.csv")
    if not isinstance(found, DataError):
        columns, names, values = found
        assert values.shape == (len(names), len(columns)) and (np.nan_to_num(values) >= 0).all()
    in_sentence(confusion, folder)


def predictions():
    file = io.BytesIO()
    np.savez(file, names=np.array(["Run/a", "$x$/b"]), labels=np.arange(2), classes=np.array(["Run", "$x$"]),
             protocol="{}", probabilities=np.eye(2, dtype="f4"))
    return file.getvalue()


@cases()
@given(damaged(predictions()))
def test_fuzz_predictions(path, data):
    path.write_bytes(data)
    found = in_sentence(read_npz, path, PREDICTIONS)
    if not isinstance(found, DataError):
        assert np.isfinite(found["probabilities"]).all()
        assert all(type(name) is str and name.encode() is not None for name in found["names"].tolist())


@pytest.fixture(scope="module")
def features(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    with pytest.MonkeyPatch.context() as monkeypatch:
        InProcess(root, monkeypatch, None)
        save_features(folder)
    return folder


def save_features(folder):
    import torch
    lists = {part: open_list("ucf101", part, 1) for part in ("train", "test")}
    values = {part: torch.from_numpy(np.random.default_rng(0).normal(size=(len(v), 2, 4)).astype("f4"))
              for part, v in lists.items()}
    write_features(folder, lists, {part: x.mean(dim=1) for part, x in values.items()}, values,
                   ClipFlags(4, 2, 24, (27, 37), 2).to_json())


@cases()
@given(st.data())
def test_fuzz_features(features, data):
    path = features / data.draw(st.sampled_from(("train_features.npy", "train_labels.npy", "train_names.txt",
                                                 "protocol.json")))
    whole = path.read_bytes()
    try:
        path.write_bytes(data.draw(damaged(whole)))
        found = in_sentence(read_features, features, "train", "--features")
        if not isinstance(found, DataError):
            values, labels, names, _ = found
            assert len(values) == len(labels) == len(names) == 12 and np.isfinite(values.astype(float) ** 2).all()
    finally:
        path.write_bytes(whole)


# --- commands ------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder of a small data set and of a run of each kind -> (the folder, call)."""
    folder = tmp_path_factory.mktemp("runs")
    make_dataset(folder)
    for stage, content in FILES.items():
        (folder / f"log/{stage}/demo").mkdir(parents=True)
        name = "flags.json" if stage == "pretrain" else "results.json"
        (folder / f"log/{stage}/demo" / name).write_text(json.dumps(content))
    (folder / "log/test/demo_ft_on_ucf101").mkdir()
    shutil.copy(folder / "log/test/demo/results.json", folder / "log/test/demo_ft_on_ucf101")
    (folder / "log/pretrain/demo/log.jsonl").write_bytes(LOG)
    split = folder / "log/test/demo/split01"
    split.mkdir()
    (split / "classes.csv").write_bytes(TABLE)
    (split / "confusion.csv").write_bytes(CONFUSION)
    for stage in ("pretrain", "retrieval", "test"):
        shutil.copytree(folder / f"log/{stage}/demo", folder / f"log/{stage}/clip_demo_split1_seed0")
    (folder / "log/temporal/clip_demo_split1_seed0").mkdir(parents=True)
    (folder / "log/temporal/clip_demo_split1_seed0/results.json").write_text(json.dumps(results_of("x")))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        monkeypatch.setattr("analysis.figures.KINDS", ("png",))
        output = Output(monkeypatch)
        process = InProcess(folder, monkeypatch, output)

        def call(*arguments):
            output.readouterr()
            return process(*arguments)

        (folder / "log/features/demo").mkdir(parents=True)
        save_features(folder / "log/features/demo")
        (folder / "log/features/demo/probe.json").write_text('{"linear": [0.5, 0.6]}')
        assert call("train.py", *TRAIN)[0] == 0, output.readouterr()
        yield folder, call


TRAIN = [*SMALL, *NARROW, "--log_dir", "trained", "--name", "x", "--epochs", 1, "--batch_size", 4, "--resume", "auto"]


class Output:
    """What a command prints, for a fixture of a module: capsys is for single tests."""

    def __init__(self, monkeypatch):
        self.monkeypatch = monkeypatch
        self.readouterr()

    def readouterr(self):
        said = [getattr(self, name, io.StringIO()).getvalue() for name in ("out", "err")]
        self.out, self.err = io.StringIO(), io.StringIO()
        self.monkeypatch.setattr(sys, "stdout", self.out)
        self.monkeypatch.setattr(sys, "stderr", self.err)
        return said


COMMANDS = {
    "pretrain/demo/flags.json": [["report", "log", "--out", "report"], ["summary", "log", "demo"]],
    "retrieval/demo/results.json": [["report", "log", "--out", "report"], ["summary", "log", "demo"]],
    "retrieval/clip_demo_split1_seed0/results.json": [["evidence", "log"]],
    "test/clip_demo_split1_seed0/results.json": [["evidence", "log"]],
    "pretrain/clip_demo_split1_seed0/log.jsonl": [["evidence", "log"]],
    "temporal/clip_demo_split1_seed0/results.json": [["evidence", "log"], ["report", "log", "--out", "report"]],
    "test/demo/results.json": [["report", "log", "--out", "report"]],
    "test/demo_ft_on_ucf101/results.json": [["summary", "log", "demo"]],
    "pretrain/demo/log.jsonl": [["pictures", "curves", "--runs", "log/pretrain/demo", "--out", "p.png"]],
    "test/demo/split01/confusion.csv": [["pictures", "confusion", "--test", "log/test/demo", "--out", "p.png"]],
    "test/demo/split01/classes.csv": [["pictures", "classes", "--test", "log/test/demo", "--out", "p.png"]],
    **{f"features/demo/train_{name}": [
        ["probe", "--features", "log/features/demo", "--seeds", "1", "--strengths", "1", "--shots", "1"],
        ["pictures", "tsne", "--features", "log/features/demo", "--out", "p.png"],
        ["pictures", "gallery", "--features", "log/features/demo", "--queries", "1", "--out", "p.png"]]
       for name in ("features.npy", "labels.npy", "names.txt", "clips.npy")}}


def files_of(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@cases(10)
@given(st.data())
def test_fuzz_commands(runs, data):
    folder, call = runs
    name = data.draw(st.sampled_from(sorted(COMMANDS)))
    command, *flags = data.draw(st.sampled_from(COMMANDS[name]))
    path = folder / "log" / name
    whole, probe = path.read_bytes(), folder / "log/features/demo/probe.json"
    try:
        path.write_bytes(data.draw(damaged(whole)))
        before = files_of(folder / "log")
        code, _, error = call(f"analysis/{command}.py", *flags)
        assert code == 0 or code == 1 and error.count("\n") == 1 and error.startswith("error: "), error
        after = files_of(folder / "log")
        assert {**after, probe: b""} == {**before, probe: b""}
    finally:
        path.write_bytes(whole)


@cases(20)
@given(damaged(LOG))
def test_fuzz_resume(runs, data):
    """A run whose log is damaged goes on with the rows that it had, or says so and stays as it was."""
    folder, call = runs
    run = folder / "trained/dualvar/pretrain/x"
    path = run / "log.jsonl"
    path.write_bytes(data)
    (run / "STOPPED").write_text("before")
    before = files_of(run)
    code, _, error = call("train.py", *TRAIN)
    if code == 0:
        lines = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]  # a \r is a space of JSON
        assert all(row["epoch"] < 1 for row in lines) and not (run / "STOPPED").exists()
    else:
        assert code == 1 and "log.jsonl" in error.splitlines()[-1] and "Traceback" not in error, error
        assert files_of(run) == before


@pytest.mark.slow
def test_an_undamaged_folder_passes(runs):
    folder, call = runs
    for commands in COMMANDS.values():
        for command, *flags in commands:
            code, out, error = call(f"analysis/{command}.py", *flags)
            assert code == 0, (command, out, error)
    assert Path(folder / "report/index.html").is_file()


# --- what was found so ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("row, words", [
    (b"\xff\xfe}", "row 2: not UTF-8"), (b'{"loss": 1}', "row 2 is damaged (its content has no epoch)"),
    (b"{x}", "row 2 is damaged (not JSON"),
    (b'{"epoch": ' + b"9" * 10000 + b"}", "row 2 is damaged (not JSON: Exceeds"),
    (b'{"epoch": -1}', "epoch is not a whole number from 0"), (b'{"epoch": 1, "a": "x"}', "a is not a number"),
    (b"[1]", "its content is not a dictionary"), (b'{"a":' * 2000 + b"1" + b"}" * 2000, "row 2 is damaged"),
    (b'{"epoch": 1, "lo', "row 2 is damaged (not JSON")])
def test_a_damaged_log_names_its_row(path, row, words):
    path.write_bytes(LOG.replace(b'{"epoch": 1, "loss/clip": 1.5, "lr": 0.003, "top1": NaN}', row))
    with pytest.raises(DataError) as found:
        log_rows(path.parent)
    assert words in str(found.value)
    assert str(found.value).endswith("take the row out, or the file away: the run goes on without")
    path.write_bytes(LOG + b'{"epoch": 3, "lo' + bytes(4096))  # what a power cut leaves
    assert [row["epoch"] for row in log_rows(path.parent)] == [0, 1, 2]


@pytest.mark.parametrize("stage, change, words", [
    ("test", {"results": {}}, "no results of a split"), ("test", {"results": {"x": None}}, "x is not a dictionary"),
    ("test", {"classes": 0}, "classes is not a whole number from 1"), ("retrieval", {"queries": "4"}, "queries"),
    ("test", {"flags": {**FILES["test"]["flags"], "split": None}}, "split is"),
    ("retrieval", {"results": [1]}, "results is not a dictionary"), ("retrieval", {"gpu": 1}, "gpu is not text"),
    ("pretrain", {"effective_batch": 0}, "effective_batch is not"), ("pretrain", {"flags": None}, "flags is not"),
    ("pretrain", {"flags": {**FLAGS, "lr": "x"}}, "flags has no epochs, "), ("pretrain", {"commit": None}, "commit")])
def test_a_field_that_is_used_is_checked_and_named(path, stage, change, words):
    path.write_text(json.dumps({**FILES[stage], **change}))
    with pytest.raises(DataError) as found:
        Run(path, stage)
    assert words in str(found.value) and str(path) in str(found.value)


def test_summary_takes_a_name(runs):
    for experiment in ("", "..", "a/b"):
        code, _, error = runs[1]("analysis/summary.py", "log", experiment)
        assert code == 2 and error.count("\n") == 1, error
    assert runs[1]("analysis/summary.py", "log", "[**")[0] == 2  # a name, of no experiment

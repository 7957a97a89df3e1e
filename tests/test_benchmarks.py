"""The benchmarks run, on made-up videos and in little, and write what they measured."""
import ast
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from helpers import REPOSITORY, environment, make_dataset

import retrieval
import test
import train
from benchmarks import common, evaluate, gpu, monitors, networks, scaling, step, storage
from core.errors import RunError, UsageError
from dataset.local_dataset import DATASETS, UCF101_GROUP, LocalDataset
from engine.flags import complete_data_flags
from models.dualvar import TERMS
from models.protocol import Protocol

SMALLEST = {"data": ["--count", "2", "--rounds", "1"],
            "video": ["--count", "2", "--rounds", "1", "--seconds", "8"],
            "retrieval": ["--gallery", "9000", "--queries", "100", "--dim", "16"]}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Ten videos of a moving picture."""
    root = tmp_path_factory.mktemp("videos")
    picture = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    for i in range(10):
        (root / f"class{i % 2}").mkdir(exist_ok=True)
        out = cv2.VideoWriter(str(root / f"class{i % 2}/video{i}.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 25, (320, 240))
        for frame in range(20):
            out.write(np.roll(picture, (i + 1) * frame, axis=1))
        out.release()
    return root


def numbers(text):
    """First numbers of the cells in a Markdown table's rows, without the first column."""
    rows = [line.strip("| ").split(" | ")[1:] for line in text.splitlines() if line.startswith("| ")]
    return [float(found[1]) for row in rows for cell in row if (found := re.match(r"(\d+\.?\d*(e-?\d+)?)\b", cell))]


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name == "data" else name
                                  for name in SMALLEST])
def test_benchmark_writes_its_table(tmp_path, videos, name):
    more = [] if name == "retrieval" else ["--videos", str(videos)]
    done = subprocess.run([sys.executable, REPOSITORY / f"benchmarks/{name}.py", *more, *SMALLEST[name], "--out",
                           tmp_path / "out.md"], env=environment(tmp_path), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "out.md").read_text()
    assert text in done.stdout
    check(text)


@pytest.mark.slow
def test_gpu_sh_is_rehearsed_on_the_pretend_device(tmp_path, videos):
    """Every section gives its numbers, and what must be right is; its speeds are those of a CPU."""
    done = subprocess.run([sys.executable, REPOSITORY / "tests/pretend_gpu_sh.py", "--videos", videos, "--batch_size",
                           "2", "--img_dim", "32", "--width", "0.0625", "--workers", "1", "--rounds", "1",
                           "--minutes", "60", "--out", tmp_path / "gpu-<name>.md"],
                          env=environment(tmp_path), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "gpu-1-x-pretend-gpu.md").read_text()
    check(text)
    titles = re.findall("^## (.+)$", text, re.MULTILINE)
    assert titles == ["What fell short", *(section.title for section in [*gpu.checks(), *gpu.timings()]
                                           if section.title not in ("Training step, r21d", "Training step, s3d"))]
    assert "failed" not in text and "wrong:" not in text and "not reached" not in text
    assert re.findall(r"\*\*Not run: (.*)\*\*", text) == [
        "this machine has one GPU: DistributedDataParallel and --bn sync need two"]
    assert len(re.findall(r"^Checks: (\d+) of \1 passed", text, re.MULTILINE)) == 4


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_gpu_sh_needs_a_gpu():
    with pytest.raises(RunError, match="no GPU: torch sees no CUDA device here"):
        gpu.main([])


def check(text):
    """A report of numbers that a benchmark could have measured."""
    assert text.startswith("# ") and "- Machine: " in text
    found = numbers(text)
    assert len(found) >= 4 and all(value >= 0 for value in found) and any(found)


@pytest.mark.parametrize("path", sorted((REPOSITORY / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_no_entry_script_is_imported(path):
    names = {name for node in ast.walk(ast.parse(path.read_text())) for name in (
        [alias.name for alias in node.names] if isinstance(node, ast.Import) else
        [node.module] if isinstance(node, ast.ImportFrom) else [])}
    assert not names & {"train", "finetune", "test", "retrieval", "utils"}


def test_defaults_are_those_of_the_entry_scripts():
    parser = train.flags()
    args = parser.parse_args([])
    complete_data_flags(args, torch.device("cpu"))
    assert common.TRAIN == {name: getattr(args, name) for name in common.TRAIN}
    assert common.WATCHED_CLIPS == train.WATCHED_CLIPS
    assert {name: parser.get_default(f"{name}_weight") for name in TERMS} == {
        name: term.weight for name, term in TERMS.items()}
    for stage, script in zip(evaluate.STAGES.values(), (test, retrieval), strict=True):
        its = script.flags().get_default
        assert (stage.ds, evaluate.CLIPS) == (script.DS, its("clips"))
        assert [getattr(Protocol(), name) for name in ("seq_len", "img_dim")] == [
            common.TRAIN["seq_len"], common.TRAIN["img_dim"]]


def test_step_trains_what_train_py_would():
    """The benchmark's pretrainer is that of train.py's defaults; in parts, a step changes the same parameters."""
    args = train.flags().parse_args(["--net", "r3d", "--width", "0.0625"])
    complete_data_flags(args, torch.device("cpu"))
    model, _ = train.build(args)
    one, parts = (step.Step("r3d", 2, 24, width=0.0625, seq_len=4, precision="fp32", accumulate=n) for n in (1, 2))
    assert one.cache is None and parts.cache is not None
    assert {name: x.shape for name, x in one.model.named_parameters()} == {
        name: x.shape for name, x in model.named_parameters()}
    assert (one.model.theta, one.model.sr_clamp, one.model.temperature) == (
        model.theta, model.sr_clamp, model.temperature)
    for some in (one, parts):
        before = {name: x.detach().clone() for name, x in some.model.named_parameters()}
        some()
        still = [name for name, x in some.model.named_parameters() if x.equal(before[name])]
        assert not still, still


@pytest.mark.slow
def test_evaluate(tmp_path, videos, monkeypatch):
    monkeypatch.setitem(DATASETS, "benchmark", None)  # restored afterwards
    monkeypatch.setattr(evaluate, "STAGES", {"test": evaluate.Stage("r3d", True, 2),
                                             "retrieval": evaluate.Stage("r3d", False, 4)})
    monkeypatch.setattr(evaluate, "alone", lambda function, *arguments: function(*arguments))
    evaluate.main(["--videos", str(videos), "--count", "2", "--width", "0.0625", "--workers", "0", "--out",
                   str(tmp_path / "out.md")])
    check((tmp_path / "out.md").read_text())


def test_monitors(tmp_path, videos, monkeypatch):
    """The table; and shares of what is trained, the last incomplete batch being left out."""
    monkeypatch.setitem(DATASETS, "benchmark", None)
    monkeypatch.setattr(monitors, "alone", lambda function, *arguments: function(*arguments))
    small = ["--eval_videos", "4", "--batch_size", "2", "--img_dim", "24", "--width", "0.0625", "--workers", "0",
             "--rounds", "1"]
    monitors.main(["--videos", str(videos), *small, "--out", str(tmp_path / "out.md")])
    check((tmp_path / "out.md").read_text())
    args = monitors.flags().parse_args(["--batch_size", "4", "--eval_every", "10"])
    assert monitors.share(args, 2.0, 96.0, 443) == pytest.approx(96 / (10 * 6 * 16 * 2))


def test_storage(tmp_path, monkeypatch):
    """Containers give the bytes of the folders; the table has a row for each."""
    root = make_dataset(tmp_path, frames=9)
    local = LocalDataset(root / "ucf101/frames", root / "lists/ucf101", UCF101_GROUP, 3)
    monkeypatch.setitem(DATASETS, "ucf101", local)
    storage.main(["--dataset", "ucf101", "--samples", "4", "--rounds", "1", "--out", str(tmp_path / "out.md")])
    text = (tmp_path / "out.md").read_text()
    check(text)
    assert "| stored zip a video |" in text and "| tar with index |" in text


@pytest.mark.slow
def test_networks(tmp_path, monkeypatch):
    """A row for each network; one that cannot be exported has dashes, and the reason stands below."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    small = ["--nets", "r3d", "--width", "0.0625", "--img_dim", "16", "--seq_len", "4", "--clips", "2", "--rounds", "1",
             "--out", str(tmp_path / "out.md")]
    networks.main(small)
    check(text := (tmp_path / "out.md").read_text())
    row = re.search(r"^\| r3d \| .*$", text, re.MULTILINE)[0]
    assert len(numbers(row)) == 7 and all(number > 0 for number in numbers(row))

    def fail(*_):
        raise RunError("no such graph")

    monkeypatch.setattr(networks.export, "traced", fail)
    networks.main(small)
    text = (tmp_path / "out.md").read_text()
    assert re.search(r"^\| r3d \| .* \| - \| - \| - \| \d+ \|$", text, re.MULTILINE) and "- r3d: no such graph" in text


def test_script_that_fails_is_named():
    with pytest.raises(RunError, match="train.py ended with exit code 2: .*--mode"):
        common.run_script("train.py", "--mode")


@pytest.mark.slow
def test_scaling(tmp_path):
    """Points, their tables and picture, and the plan."""
    seconds, _ = scaling.rows(1000)
    assert 0 < seconds < 60
    found = {"Opening": ("rows", [1000, 2000], [(1.0, 10.0), (2.0, 40.0)])}
    assert scaling.rows_of(*found["Opening"][1:])[1] == ["2,000", "2", "1.00", "40", "2.00"]  # linear, quadratic
    scaling.draw(tmp_path / "out.png", found)
    assert cv2.imread(str(tmp_path / "out.png")).std() > 5
    args = scaling.flags().parse_args([])
    slow_cores, slow_gpus = (scaling.plan(args, seconds, 100_000) for seconds in (10.0, 1e-6))
    assert {row[5] for row in slow_cores} == {"cores"} and {row[5] for row in slow_gpus} == {"GPU"}
    assert [float(row[2]) for row in slow_cores] == pytest.approx([1000 * 128 * 10 / 96] * 3, rel=1e-3)


def test_no_videos_are_an_error(tmp_path):
    with pytest.raises(UsageError, match="--videos"):
        common.choose(tmp_path / "none", 1, tmp_path / "videos")

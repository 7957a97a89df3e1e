"""The benchmarks run, on made-up videos and in little, and write what they measured."""
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
from helpers import REPOSITORY, environment

import retrieval
from benchmarks import common, evaluate, monitors, scaling
from core.errors import UsageError
from dataset.local_dataset import DATASETS

SMALLEST = {"data": ["--count", "2", "--rounds", "1"],
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


@pytest.mark.parametrize("name", SMALLEST)
@pytest.mark.slow
def test_benchmark_writes_its_table(tmp_path, videos, name):
    more = [] if name == "retrieval" else ["--videos", str(videos)]
    done = subprocess.run([sys.executable, REPOSITORY / f"benchmarks/{name}.py", *more, *SMALLEST[name], "--out",
                           tmp_path / "out.md"], env=environment(tmp_path), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "out.md").read_text()
    assert text in done.stdout
    check(text)


def check(text):
    """A report of numbers that a benchmark could have measured."""
    assert text.startswith("# ") and "- Machine: " in text
    found = numbers(text)
    assert len(found) >= 4 and all(value >= 0 for value in found) and any(found)


@pytest.mark.slow
def test_evaluate(tmp_path, videos, monkeypatch):
    monkeypatch.setitem(DATASETS, "benchmark", None)  # restored afterwards
    monkeypatch.setattr(evaluate, "STAGES", {"retrieval": (retrieval, "r3d")})
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

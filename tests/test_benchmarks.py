"""The benchmarks run, on made-up videos and in little, and write what they measured."""
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
from helpers import REPOSITORY, environment

SMALLEST = {"data": ["--count", "2", "--rounds", "1"], "start": [],
            "evaluate": ["--count", "2", "--width", "0.0625", "--workers", "1"],
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
def test_benchmark_writes_its_table(tmp_path, videos, name):
    more = [] if name == "retrieval" else ["--videos", str(videos)]
    done = subprocess.run([sys.executable, REPOSITORY / f"benchmarks/{name}.py", *more, *SMALLEST[name], "--out",
                           tmp_path / "out.md"], env=environment(tmp_path), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "out.md").read_text()
    assert text in done.stdout and text.startswith("# ") and "- Machine: " in text
    found = numbers(text)
    assert len(found) >= 4 and all(value >= 0 for value in found) and any(found)


def test_scaling_writes_tables_and_picture(tmp_path, videos):
    done = subprocess.run([sys.executable, REPOSITORY / "benchmarks/scaling.py", "--quick", "--videos", videos, "--out",
                           tmp_path / "out.md", "--plot", tmp_path / "out.png"], env=environment(tmp_path),
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "out.md").read_text()
    assert "## Opening a list" in text and "| 10,000 |" in text
    assert "A simulation" in text and text.count("| GPU |") == 3  # with the assumed machine, no network waits for data
    picture = cv2.imread(str(tmp_path / "out.png"))
    assert picture is not None and picture.std() > 5


def test_no_videos_are_an_error(tmp_path):
    done = subprocess.run([sys.executable, REPOSITORY / "benchmarks/data.py", "--videos", tmp_path / "none"],
                          env=environment(tmp_path), capture_output=True, text=True)
    assert done.returncode == 2 and "--videos" in done.stderr and "Traceback" not in done.stderr

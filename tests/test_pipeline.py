"""From video files to numbers, by the commands of the README."""
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from helpers import NARROW, SHARED, SMALL, copy_checkout, environment, succeed

pytestmark = pytest.mark.slow

REAL = SHARED / "data" / "ucf101-5class"


@pytest.mark.kept
def test_demo(tmp_path):
    """Render, extract, lists, retrieval, pretraining, fine-tuning and test, ending in the table; then the report."""
    folder = copy_checkout(tmp_path / "clone")
    one_epoch = {"PRETRAIN_FLAGS": "--epochs 1 --batch_size 8", "FINETUNE_FLAGS": "--epochs 1",
                 "RENDER_FLAGS": "--groups 3 --test_groups 1 --frames 16 --size 32x32"}
    env = {k: v for k, v in os.environ.items() if not k.startswith("DUALVAR")}

    def run(mode, *flags):
        done = subprocess.run(["bash", f"paper_scripts/{mode}/demo.sh", *flags], cwd=folder,
                              env={**env, "PYTHON": sys.executable, **one_epoch}, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    small = ["--workers", "0", "--device", "cpu"]
    table = run("run", *small).splitlines()[-5:]
    starts = ("retrieval, mean pictures", "retrieval, random weights", "retrieval, pretrained clip ",
              "retrieval, pretrained clip-sr-tc", "fine-tuned, 10-clip test")
    for row, start in zip(table, starts, strict=True):
        assert row.startswith(start) and " demo " in row and " 8 " in row and " 0.125 " in row
    again = run("pretrain", *small, *one_epoch["PRETRAIN_FLAGS"].split())
    assert "Pretrained:" in again and "epoch 0 step" not in again  # it is found done
    page = folder / run("report").splitlines()[-1].removeprefix("report: ")
    assert page.name == "index.html" and ": not run</li>" not in page.read_text()
    assert len(list((page.parent / "pictures").glob("*.png"))) == 9  # every kind


@pytest.mark.kept
@pytest.mark.skipif(not REAL.is_dir(), reason=f"the real clips are not at {REAL}")
def test_real_clips(tmp_path):
    """Clips of UCF101, with the official lists, through all stages."""
    env, splits = environment(tmp_path, DUALVAR_LISTS=str(tmp_path / "lists")), tmp_path / "splits"
    splits.mkdir()
    count = {}
    for part, groups in (("train", ("g08", "g09")), ("test", ("g01",))):
        rows = [row for row in (REAL / f"splits/{part}list01.txt").read_text().splitlines()
                if row.split(".")[0].rpartition("_")[0][-3:] in groups and row.split(".")[0][-2:] <= "02"]
        (splits / f"{part}list01.txt").write_text("\n".join(rows) + "\n")
        count[part] = len(rows)
        for row in rows:
            video = row.split(" ")[0]
            (tmp_path / "videos" / video).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "videos" / video).symlink_to(REAL / "videos" / video)
    (splits / "classInd.txt").write_text((REAL / "splits/classInd.txt").read_text())
    options, flags = {"cwd": tmp_path, "env": env}, ["--dataset", "ucf101-5class"]
    succeed("process_data/src/extract_frame.py", *flags, "--videos", "videos", "--short_side", "64", **options)
    succeed("process_data/src/write_csv.py", *flags, "--splits", splits, **options)
    flags += SMALL
    succeed("train.py", *flags, *NARROW, "--batch_size", "4", "--epochs", "1", "--name", "p", **options)
    backbone = "log/dualvar/pretrain/p/model/backbone.pth.tar"
    succeed("finetune.py", *flags, "--pretrain", backbone, "--batch_size", "4", "--epochs", "1", "--name", "f",
            **options)
    succeed("test.py", *flags, "--checkpoint", "log/dualvar/ft/f/model/latest.pth.tar", "--name", "t", **options)
    succeed("retrieval.py", *flags, "--pretrain", backbone, "--name", "r", "--save_features", "features", **options)
    log = tmp_path / "log/dualvar"
    tested = json.loads((log / "test/t/results.json").read_text())["results"]["split01"]
    assert tested["videos"] == count["test"] == 10 and tested["top5"] == 1
    found = json.loads((log / "retrieval/r/results.json").read_text())
    assert (found["gallery"], found["queries"], found["classes"]) == (count["train"], 10, 5) and found["gallery"] == 20
    features = np.load(tmp_path / "features/train_features.npy")
    assert len(features) == 20 and features.std(axis=0).max() > 0

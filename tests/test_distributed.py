"""Real gloo processes against one: losses, gradients, training, evaluation."""
import json

import numpy as np
import pytest
import torch
from helpers import NARROW, SMALL, command, environment, make_dataset, succeed


def one_step(folder, processes, framework, mode):
    output = folder / f"{processes}.pt"
    env = environment(folder)
    env["PYTHONPATH"] += ":" + str(env["PYTHONPATH"]) + "/tests"
    succeed("tests/distributed_step.py", output, framework, mode, cwd=folder, env=env, processes=processes)
    return torch.load(output, weights_only=True)


@pytest.mark.parametrize("framework,mode", [("simclr", "clip-sr-tc"), ("moco", "clip-sr-tc"), ("simclr", "sr")])
def test_two_processes_give_the_losses_and_gradients_of_one(tmp_path, framework, mode):
    alone, together = (one_step(tmp_path, n, framework, mode) for n in (1, 2))
    assert together["losses"] == pytest.approx(alone["losses"], rel=1e-5)
    assert together["gradients"].keys() == alone["gradients"].keys()
    for name, gradient in alone["gradients"].items():
        difference = (together["gradients"][name] - gradient).norm() / gradient.norm().clamp(min=1e-6)
        assert difference < 1e-4, name


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data"))


def test_all_stages_in_two_processes(data, tmp_path):
    """Pretraining and fine-tuning run in two processes; test and retrieval give one process's numbers on odd lists."""
    env = environment(data)
    options = {"cwd": tmp_path, "env": env, "processes": 2}
    succeed("train.py", *SMALL, *NARROW, "--framework", "moco", "--moco-k", "8", "--batch_size", "4", "--epochs", "1",
            "--bn", "shuffle", "--name", "p", **options)
    backbone = tmp_path / "log/dualvar/pretrain/p/model/backbone.pth.tar"
    succeed("finetune.py", *SMALL, "--pretrain", backbone, "--batch_size", "4", "--epochs", "1", "--bn", "local",
            "--holdout", "0.3", "--name", "f", **options)
    classifier = tmp_path / "log/dualvar/ft/f/model/latest.pth.tar"
    # 5 and 11 videos, in batches of 2
    lists = data / "lists" / "ucf101"
    for part, rows in (("test", 3), ("train", 11)):
        text = (lists / f"{part}_split01.csv").read_text().splitlines(keepends=True)
        (lists / f"{part}_split01.csv").write_text("".join(text[:rows]))
    results = {}
    for n in (1, 2):
        options["processes"] = n
        succeed("test.py", *SMALL, "--checkpoint", classifier, "--batch_size", "2", "--name", f"t{n}", **options)
        succeed("retrieval.py", *SMALL, "--pretrain", backbone, "--batch_size", "2", "--name", f"r{n}",
                "--save_features", tmp_path / f"features{n}", **options)
        log = tmp_path / "log/dualvar"
        with np.load(log / f"test/t{n}/split01/predictions.npz") as saved:
            results[n] = [saved["probabilities"], np.load(tmp_path / f"features{n}/train_features.npy"),
                          json.loads((log / f"test/t{n}/results.json").read_text())["results"],
                          json.loads((log / f"retrieval/r{n}/results.json").read_text())["results"]]
    assert len(results[1][0]) == 3 and len(results[1][1]) == 11
    for alone, together in zip(results[1], results[2], strict=True):
        assert np.array_equal(alone, together)


def test_logged_values_of_two_processes_are_not_mixed(data, tmp_path):
    """With the same batches, batch norm aside, one process and two log the same positives and losses."""
    rows = {}
    for n in (1, 2):
        succeed("train.py", *SMALL, *NARROW, "--batch_size", "8", "--epochs", "1", "--lr", "1e-9", "--bn", "local",
                "--name", f"m{n}", cwd=tmp_path, env=environment(data, PYTHONHASHSEED="random"), processes=n)
        rows[n] = json.loads((tmp_path / f"log/dualvar/pretrain/m{n}/log.jsonl").read_text())
    for name in ("loss/clip", "loss/tc", "similarity/clip_positive", "similarity/tc_positive"):
        assert rows[2][name] == pytest.approx(rows[1][name], rel=0.1, abs=0.05), name
    assert abs(rows[1]["similarity/clip_positive"] - rows[1]["similarity/tc_positive"]) > 0.1


def test_sync_batchnorm_is_refused_on_several_cpu_processes(data, tmp_path):
    done = command("train.py", *SMALL, *NARROW, "--batch_size", "4", cwd=tmp_path, env=environment(data), processes=2)
    assert done.returncode != 0 and "--bn local" in done.stderr and "Traceback (most recent call last):\n  File \"" \
        + str(tmp_path) not in done.stderr
    assert not (tmp_path / "log").exists()

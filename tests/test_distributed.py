"""Real gloo processes against one: losses, gradients, training, evaluation."""
import json

import numpy as np
import pytest
import torch
from distributed_step import MODES
from helpers import NARROW, SMALL, environment, make_dataset, succeed

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """{(processes, rank): what distributed_step.py found there}"""
    folder = tmp_path_factory.mktemp("steps")
    env = environment(folder)
    env["PYTHONPATH"] += f":{env['PYTHONPATH']}/tests"
    for n in (1, 2, 4):
        succeed("tests/distributed_step.py", folder, cwd=folder, env=env, processes=n)
    return {(n, r): torch.load(folder / f"{n}_{r}.pt", weights_only=True) for n in (1, 2, 4) for r in range(n)}


@pytest.mark.kept
@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("framework", ["simclr", "moco"])
def test_several_processes_give_the_losses_and_gradients_of_one(steps, framework, mode, processes):
    alone, *together = (steps[key][f"{framework} {mode}"] for key in [(1, 0), *((processes, r) for r in
                                                                               range(processes))])
    for found in together:
        assert found["losses"] == pytest.approx(alone["losses"], rel=1e-9)
        assert found["gradients"].keys() == alone["gradients"].keys()
        for name, gradient in alone["gradients"].items():
            assert (found["gradients"][name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-12, name


@pytest.mark.parametrize("processes", [2, 4])
def test_shuffled_keys_come_from_other_processes_and_come_back(steps, processes):
    found = [steps[processes, r]["keys"] for r in range(processes)]
    for keys in found:
        assert torch.equal(keys["mixed"], keys["by hand"])
        assert torch.equal(keys["back"], keys["numbers"])
    mixed, plain, exchanged, numbers = (torch.cat([keys[name] for keys in found])
                                        for name in ("mixed", "plain", "exchanged", "numbers"))
    # other batch statistics, but for a process that happens to get its own samples
    assert ((mixed - plain).norm(dim=1) > 1e-3).float().mean() > 0.5
    assert torch.equal(exchanged.sort().values, numbers)
    assert any(bool((keys["exchanged"] // 100 != r).any()) for r, keys in enumerate(found))


def test_draws_differ_by_process(steps):
    draws = [steps[4, r]["draws"] for r in range(4)]
    assert all(not torch.equal(a, b) for i, a in enumerate(draws) for b in draws[:i])
    assert torch.equal(draws[0], steps[1, 0]["draws"])


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_a_batch_is_the_same_for_any_number_of_processes(steps, processes):
    """What is gathered twice, and how far embeddings are spread, with one sample on each of 4 processes."""
    for r in range(processes):
        assert torch.equal(steps[processes, r]["twice"], 8 * torch.arange(4.0)[r::processes])
        assert torch.allclose(steps[processes, r]["spread"], steps[1, 0]["spread"])
    assert steps[1, 0]["spread"] > 0.5


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data"))


@pytest.mark.kept
def test_all_stages_in_several_processes(data, tmp_path):
    """Training in two; test and retrieval give one process's numbers in 2 and 4, on lists these do not divide."""
    env = environment(data)
    options = {"cwd": tmp_path, "env": env, "processes": 2}
    succeed("train.py", *SMALL, *NARROW, "--framework", "moco", "--moco-k", "8", "--batch_size", "4", "--epochs", "1",
            "--bn", "shuffle", "--name", "p", **options)
    backbone = tmp_path / "log/dualvar/pretrain/p/model/backbone.pth.tar"
    succeed("finetune.py", *SMALL, "--pretrain", backbone, "--batch_size", "3", "--epochs", "1",
            "--holdout", "0.3", "--name", "f", **options)
    classifier = tmp_path / "log/dualvar/ft/f/model/latest.pth.tar"
    lists = data / "lists" / "ucf101"
    for part, rows in (("test", 3), ("train", 11)):
        text = (lists / f"{part}_split01.csv").read_text().splitlines(keepends=True)
        (lists / f"{part}_split01.csv").write_text("".join(text[:rows]))
    results = {}
    for n in (1, 2, 4):
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
    for n in (2, 4):
        for alone, together in zip(results[1], results[n], strict=True):
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


@pytest.mark.parametrize("stage", ["ft", "last"])
def test_finetuning_with_unequal_and_empty_shares_is_that_of_one_process(data, tmp_path, stage):
    """Three clips over four processes, with synchronised batch norm on CPUs; losses, accuracies and weights."""
    logs, states = [], []
    for n in (1, 4):
        succeed("finetune.py", *SMALL, *NARROW, "--pretrain", "random", "--batch_size", "3", "--epochs", "2", "--lr",
                "0.01", "--train_what", stage, "--final_bn", "--skip_bad_samples", "1", "--name", f"{stage}{n}",
                cwd=tmp_path, env=environment(data), processes=n)
        folder = tmp_path / f"log/dualvar/{stage}/{stage}{n}"
        logs.append([json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()])
        states.append(torch.load(folder / "model/latest.pth.tar", weights_only=True)["state_dict"])
    for alone, together in zip(*logs, strict=True):
        for name in ("loss", "top1", "top5", "gradient_norm"):
            assert together[name] == pytest.approx(alone[name], rel=1e-2), name
    for name, value in states[0].items():
        assert torch.allclose(states[1][name].float(), value.float(), rtol=1e-2, atol=1e-3), name

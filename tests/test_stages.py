"""The entry scripts as a user runs them: outputs, resuming, and what they say to wrong input."""
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from golden.formula import released_state_dict
from helpers import NARROW, SMALL, InProcess, command, environment, succeed
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from core.errors import RunError
from models import build_classifier

TRAIN = [*SMALL, *NARROW, "--batch_size", "4", "--print_freq", "1", "--name", "p"]


@pytest.fixture(scope="module")
def pretrained(root, tmp_path_factory):
    """Folder in which a pretraining run of 3 epochs has been made."""
    folder = tmp_path_factory.mktemp("run")
    succeed("train.py", *TRAIN, "--epochs", "3", "--save_freq", "2", cwd=folder, env=environment(root))
    return folder


@pytest.fixture(scope="module")
def finetuned(root, pretrained):
    backbone = "log/dualvar/pretrain/p/model/backbone.pth.tar"
    succeed("finetune.py", *SMALL, "--pretrain", backbone, "--batch_size", "4", "--epochs", "2", "--holdout", "0.3",
            "--color_jitter", "--hflip", "--dropout", "0.1", "--name", "f", cwd=pretrained, env=environment(root))
    return pretrained


def load(path):
    return torch.load(path, weights_only=True)


def test_pretraining_writes_what_it_says(pretrained):
    folder = pretrained / "log/dualvar/pretrain/p"
    assert sorted(p.name for p in (folder / "model").iterdir()) == [
        "backbone.pth.tar", "epoch1.pth.tar", "epoch2.pth.tar", "latest.pth.tar", "previous.pth.tar"]
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    for name in ("loss/total", "loss/clip", "loss/tc", "loss/sr_view1", "top1/clip", "top1/sr_view3", "time/data",
                 "time/step", "similarity/clip_positive", "similarity/tc_negative", "feature_std/clip", "lr"):
        assert np.isfinite(rows[-1][name]), name
    assert rows[0]["loss/total"] == pytest.approx(sum(rows[0][f"loss/{n}"] for n in ("clip", "tc", "sr_view1",
                                                                                     "sr_view3")), rel=1e-5)
    facts = json.loads((folder / "flags.json").read_text())
    assert facts["flags"]["batch_size"] == facts["effective_batch"] == 4 and facts["torch"] == torch.__version__
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert {"loss/total", "lr", "top1/tc", "epoch/loss/total"} <= set(events.Tags()["scalars"])
    assert [e.step for e in events.Scalars("loss/total")] == list(range(9))
    picture = cv2.imdecode(np.frombuffer(events.Images("views")[0].encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (4 * 3 * 24, 24, 3) and picture.std() > 10
    assert "epoch 2 step 3/3" in (folder / "log.txt").read_text()


@pytest.mark.parametrize("framework", [pytest.param("simclr", marks=pytest.mark.kept), "moco"])
@pytest.mark.slow
def test_a_resumed_run_ends_as_an_unbroken_one(root, tmp_path, framework):
    env, flags = environment(root), [*TRAIN, "--framework", framework, "--moco-k", "16", "--save_freq", "1",
                                     "--schedule", "2", "--warmup", "0.5", "--epochs"]
    succeed("train.py", *flags, "3", "--prefix", "whole", cwd=tmp_path, env=env)
    succeed("train.py", *flags, "3", "--prefix", "broken", cwd=tmp_path, env=env)
    # as if the run had been stopped after its first epoch
    model = tmp_path / "log/broken/pretrain/p/model"
    shutil.copy(model / "epoch0.pth.tar", model / "latest.pth.tar")
    succeed("train.py", *flags, "3", "--prefix", "broken", "--resume", "auto", cwd=tmp_path, env=env)
    whole, broken = (load(tmp_path / f"log/{x}/pretrain/p/model/latest.pth.tar") for x in ("whole", "broken"))
    assert whole["epoch"] == broken["epoch"] == 2
    for key in whole["state_dict"]:
        assert torch.equal(whole["state_dict"][key], broken["state_dict"][key]), key
    for i, state in whole["optimizer"]["state"].items():
        assert torch.equal(state["momentum_buffer"], broken["optimizer"]["state"][i]["momentum_buffer"])
    assert whole["optimizer"]["param_groups"] == broken["optimizer"]["param_groups"]
    logs = [[json.loads(line) for line in (tmp_path / f"log/{x}/pretrain/p/log.jsonl").read_text().splitlines()]
            for x in ("whole", "broken")]
    timeless = [[{k: v for k, v in row.items() if not k.startswith("time")} for row in rows] for rows in logs]
    assert timeless[0] == timeless[1] and len(timeless[0]) == 3


@pytest.mark.slow
def test_monitors_are_logged_and_change_nothing(root, tmp_path):
    """The features are looked at after every second epoch; weights and everything else logged are those without."""
    rows, weights = [], []
    for every in ("2", "0"):
        succeed("train.py", *SMALL, *NARROW, "--batch_size", "4", "--epochs", "2", "--name", every, "--eval_every",
                every, "--eval_videos", "6", cwd=tmp_path, env=environment(root))
        folder = tmp_path / "log/dualvar/pretrain" / every
        rows.append([json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()])
        weights.append(load(folder / "model/latest.pth.tar")["state_dict"])
    new = set(rows[0][1]) - set(rows[1][1])
    assert {"variance/within_video", "variance/within_clip", "order/shuffled", "effective_rank",
            "retrieval/R@1"} <= new and rows[0][0].keys() == rows[1][0].keys()
    assert all(np.isfinite(rows[0][1][name]) for name in new)
    for one, other in zip(*rows, strict=True):
        assert all(one[name] == other[name] for name in other if not name.startswith("time/"))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])


@pytest.mark.slow
def test_a_finished_run_is_not_begun_again(root, pretrained):
    before = (pretrained / "log/dualvar/pretrain/p/log.jsonl").read_text()
    done = command("train.py", *TRAIN, "--epochs", "3", cwd=pretrained, env=environment(root))
    assert done.returncode == 2 and "--resume auto" in done.stderr
    succeed("train.py", *TRAIN, "--epochs", "3", "--resume", "auto", cwd=pretrained, env=environment(root))
    assert (pretrained / "log/dualvar/pretrain/p/log.jsonl").read_text() == before


@pytest.mark.slow
def test_a_run_is_not_continued_as_another(root, pretrained):
    for flags in (["--lr", "1"], ["--ds", "1"], ["--mode", "clip"], ["--seed", "3"]):
        done = command("train.py", *TRAIN, "--epochs", "3", *flags, "--resume", "auto", cwd=pretrained,
                       env=environment(root))
        assert done.returncode == 1 and f"{flags[0][2:]} " in done.stderr and "another run" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["simclr", "moco"])
def test_flags_and_arguments_of_the_model_are_told_apart_on_resuming(root, tmp_path, framework):
    """MoCo's momentum is not SGD's; a SimCLR run has none, though checkpoints once named one."""
    env = environment(root)
    flags = ["train.py", *SMALL, *NARROW, "--framework", framework, "--moco-k", "8", "--batch_size", "4", "--name", "m",
             "--print_freq", "1"]
    succeed(*flags, "--epochs", "1", cwd=tmp_path, env=env)
    latest = tmp_path / "log/dualvar/pretrain/m/model/latest.pth.tar"
    if framework == "simclr":
        state = torch.load(latest, weights_only=True)
        state["config"] |= {"momentum": 0.999, "queue_size": 8, "shuffle_keys": False}
        torch.save(state, latest)
        flags[flags.index("--moco-k") + 1] = "16"  # which SimCLR does not use
    done = command(*flags, "--epochs", "2", "--resume", "auto", "--momentum", "0.5", cwd=tmp_path, env=env)
    assert done.returncode == 1 and "of another run: momentum 0.9 there, 0.5 here;" in done.stderr
    other = {"simclr": "moco", "moco": "simclr"}[framework]
    done = command(*flags, "--epochs", "2", "--resume", "auto", "--framework", other, cwd=tmp_path, env=env)
    assert done.returncode == 1 and f"framework {framework} there, {other} here" in done.stderr
    assert "going on from" in succeed(*flags, "--epochs", "2", "--resume", "auto", cwd=tmp_path, env=env)


def test_finetuning(finetuned):
    folder = finetuned / "log/dualvar/ft/f"
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert len(rows) == 2 and {"loss", "top1", "top5", "held_out_top1", "held_out_top5", "lr"} <= rows[0].keys()
    assert rows[0]["held_out_top5"] == 1  # two classes
    pretrained = load(finetuned / "log/dualvar/pretrain/p/model/backbone.pth.tar")["state_dict"]
    trained = load(folder / "model/latest.pth.tar")["state_dict"]
    assert not torch.equal(trained["backbone.stem.weight"], pretrained["stem.weight"])


@pytest.mark.slow
def test_finetuning_of_other_weights_is_not_gone_on_with(root, pretrained):
    """The file's name is the same, what it holds is not."""
    folder = pretrained / "log/dualvar/pretrain/p/model"
    shutil.copyfile(folder / "epoch1.pth.tar", pretrained / "start.pth.tar")
    flags = ["finetune.py", *SMALL, "--pretrain", "start.pth.tar", *NARROW, "--batch_size", "4", "--name", "other",
             "--resume", "auto"]
    succeed(*flags, "--epochs", "1", cwd=pretrained, env=environment(root))
    shutil.copyfile(folder / "epoch2.pth.tar", pretrained / "start.pth.tar")
    done = command(*flags, "--epochs", "2", cwd=pretrained, env=environment(root))
    assert done.returncode == 1 and "is of another run: pretrained weights " in done.stderr
    (pretrained / "start.pth.tar").unlink()
    succeed(*flags, "--epochs", "2", "--dry_run", cwd=pretrained, env=environment(root))
    out = succeed("test.py", *SMALL, "--checkpoint", "log/dualvar/ft/other/model/latest.pth.tar", "--dry_run",
                  cwd=pretrained, env=environment(root))
    assert "not its end" not in out and "was trained on" not in out
    out = succeed("test.py", *SMALL, "--img_dim", "40", "--checkpoint", "log/dualvar/ft/other/model/latest.pth.tar",
                  "--dry_run", cwd=pretrained, env=environment(root))
    assert "latest.pth.tar was trained on clips of --img_dim 24\n" in out


def test_linear_probe_keeps_the_backbone(root, pretrained):
    succeed("finetune.py", *SMALL, "--pretrain", "log/dualvar/pretrain/p/model/latest.pth.tar", "--train_what", "last",
            "--final_bn", "--batch_size", "4", "--epochs", "2", "--name", "l", cwd=pretrained, env=environment(root))
    before = load(pretrained / "log/dualvar/pretrain/p/model/backbone.pth.tar")["state_dict"]
    after = load(pretrained / "log/dualvar/last/l/model/latest.pth.tar")["state_dict"]
    for key, value in before.items():
        assert torch.equal(value, after[f"backbone.{key}"]), key
    assert after["fc.bias"].abs().sum() > 0 and after["final_bn.num_batches_tracked"] == 6


def test_ten_clip_test(root, finetuned):
    env, flags = environment(root), [*SMALL, "--checkpoint", "log/dualvar/ft/f/model/latest.pth.tar", "--crops", "10"]
    succeed("test.py", *flags, "--name", "t", cwd=finetuned, env=env)
    folder = finetuned / "log/dualvar/test/t"
    result = json.loads((folder / "results.json").read_text())["results"]["split01"]
    with np.load(folder / "split01/predictions.npz", allow_pickle=False) as saved:
        names, labels, p = saved["names"], saved["labels"], saved["probabilities"]
    assert p.shape == (4, 2) and np.allclose(p.sum(axis=1), 1, atol=1e-5)
    right = p.argmax(axis=1) == labels
    assert result["top1"] == pytest.approx(right.mean()) and result["top5"] == 1
    assert result["mean_class"] == pytest.approx(np.mean([right[labels == c].mean() for c in (0, 1)]))
    assert [name.partition("/")[0] for name in names] == ["Run"] * 2 + ["air drumming"] * 2
    classes = pd.read_csv(folder / "split01/classes.csv")
    assert classes["class"].tolist() == ["Run", "air drumming"] and classes["correct"].sum() == right.sum()
    confusion = pd.read_csv(folder / "split01/confusion.csv", index_col=0)
    assert confusion.to_numpy().sum() == 4 and confusion.to_numpy().trace() == right.sum()
    assert cv2.imread(str(folder / "split01/confusion.png")).std() > 5
    # saved probabilities give the same again, without the classifier, and say how they were made
    out = succeed("test.py", "--from_predictions", folder, "--name", "again", cwd=finetuned, env=env)
    again = json.loads((finetuned / "log/dualvar/test/again/results.json").read_text())
    assert again["results"]["split01"] == result and again["flags"]["crops"] == 10
    assert "10 clips x 10 crops of 4 frames at stride 2, 24 px" in out
    whole = (folder / "split01/predictions.npz").read_bytes()
    for broken in (whole[:300], b"text"):
        (folder / "split01/predictions.npz").write_bytes(broken)
        done = command("test.py", "--from_predictions", folder, cwd=finetuned, env=env)
        assert done.returncode == 1 and "predictions.npz is not an .npz file" in done.stderr


@pytest.mark.slow
def test_all_splits_have_a_mean(root, finetuned, tmp_path):
    lists = shutil.copytree(root / "lists", tmp_path / "lists")
    for split in (2, 3):
        for part in ("train", "test"):
            shutil.copy(lists / f"ucf101/{part}_split01.csv", lists / f"ucf101/{part}_split0{split}.csv")
    env = environment(root, DUALVAR_LISTS=str(lists))
    checkpoint = load(finetuned / "log/dualvar/ft/f/model/latest.pth.tar")
    for split in (1, 2, 3):
        torch.save(checkpoint, tmp_path / f"split{split}.pth.tar")
    checkpoint["state_dict"]["fc.weight"].neg_()
    torch.save(checkpoint, tmp_path / "split3.pth.tar")
    out = succeed("test.py", *SMALL, "--split", "all", "--checkpoint", tmp_path / "split{split}.pth.tar", "--name", "a",
                  cwd=tmp_path, env=env)
    results = json.loads((tmp_path / "log/dualvar/test/a/results.json").read_text())["results"]
    tops = [results[f"split0{s}"]["top1"] for s in (1, 2, 3)]
    assert results["mean"]["top1"] == pytest.approx(np.mean(tops)) and "mean" in out
    done = command("test.py", *SMALL, "--split", "all", "--checkpoint", "split1.pth.tar", cwd=tmp_path, env=env)
    assert done.returncode == 2 and "{split}" in done.stderr


@pytest.mark.slow
def test_retrieval_saves_and_loads_features(root, pretrained):
    env, flags = environment(root), [*SMALL, "--name"]
    out = succeed("retrieval.py", *flags, "r1", "--pretrain", "log/dualvar/pretrain/p/model/backbone.pth.tar",
                  "--save_features", "features", cwd=pretrained, env=env)
    for word in ("10 clips", "stride 2", "centred by its own mean", "12 videos", "R@1 ", "R@10 "):
        assert word in out
    assert np.load(pretrained / "features/train_features.npy").shape == (12, 32)
    out = succeed("retrieval.py", "--name", "r2", "--load_features", "features", cwd=pretrained, env=env)
    assert "4 frames at stride 2, 24 px" in out and "no R@20" in out
    first, second = (json.loads((pretrained / f"log/dualvar/retrieval/{n}/results.json").read_text())["results"]
                     for n in ("r1", "r2"))
    assert first == second and first.keys() == {"R@1", "R@5", "R@10"}
    protocol = pretrained / "features/protocol.json"
    kept = protocol.read_text()
    protocol.unlink()  # as a kill amid --save_features leaves it
    done = command("retrieval.py", *flags, "r3", "--load_features", "features", cwd=pretrained, env=env)
    assert done.returncode == 1 and "protocol.json does not exist" in done.stderr
    protocol.write_text(kept)
    (pretrained / "features/test_names.txt").write_text("other\n")
    done = command("retrieval.py", *flags, "r3", "--load_features", "features", cwd=pretrained, env=env)
    assert done.returncode == 1 and "the test files in features do not belong together" in done.stderr


@pytest.mark.parametrize("script,flags", [
    ("train.py", NARROW + ["--batch_size", "4"]), ("retrieval.py", NARROW + ["--pretrain", "later.pth.tar"]),
    ("finetune.py", NARROW + ["--pretrain", "later.pth.tar", "--batch_size", "4"]),
    ("test.py", NARROW + ["--checkpoint", "later.pth.tar"])])
def test_dry_run_writes_nothing(root, tmp_path, monkeypatch, capsys, script, flags):
    monkeypatch.chdir(tmp_path)
    code, out, error = InProcess(root, monkeypatch, capsys)(script, *SMALL, *flags, "--dry_run")
    assert code == 0 and "split 1" in out and not list(tmp_path.iterdir()), error


@pytest.mark.parametrize("flags,clips", [
    # of 9 frames 3 are centres of whole clips
    ([], "66.7% reach over an end of their video and are clamped there, permutations any"),
    (["--centres", "inside", "--segment_gap", "1", "--permutations", "changed"],
     "0.0% reach over an end of their video and are clamped there, 2 frames left out between segments, permutations "
     "changed")], ids=["published", "ours"])
def test_the_plan_says_how_clips_are_drawn(root, tmp_path, monkeypatch, capsys, flags, clips):
    monkeypatch.chdir(tmp_path)
    code, out, error = InProcess(root, monkeypatch, capsys)("train.py", *SMALL, *NARROW, "--batch_size", "4", *flags,
                                                            "--dry_run")
    assert code == 0 and f"  clips        {clips}\n" in out, error


def test_released_checkpoints_are_taken(root, tmp_path, monkeypatch, capsys):
    """A checkpoint in the release's names goes into every stage that takes one."""
    monkeypatch.chdir(tmp_path)
    call = InProcess(root, monkeypatch, capsys)
    torch.save({"state_dict": released_state_dict("simclr/r3d"), "epoch": 189}, "simclr.pth.tar")
    classifier = {key: value[:2] if key.startswith("final_fc") else value
                  for key, value in released_state_dict("classifier/r3d").items()}
    torch.save({"state_dict": classifier}, "classifier.pth.tar")
    for net, code, message in (([], 0, ""), (["--net", "r21d"], 1, "does not fit"), (["--net", "r3d"], 0, "")):
        for script, flags in (("retrieval.py", ["--pretrain", "simclr.pth.tar"]),
                              ("finetune.py", ["--pretrain", "simclr.pth.tar", "--batch_size", "4"]),
                              ("test.py", ["--checkpoint", "classifier.pth.tar"])):
            got, _, error = call(script, *SMALL, *net, *flags, "--dry_run")
            assert got == code and message in error, (script, net, error)


@pytest.mark.slow
def test_wrong_data_gets_a_sentence(root, tmp_path):
    """Broken lists and frames: one sentence with the file's name, from a loader's worker too."""
    mine = tmp_path / "data"
    shutil.copytree(root, mine)
    env, flags = environment(mine), [*TRAIN, "--workers", "1"]
    csv = mine / "lists/ucf101/train_split01.csv"
    good = csv.read_text()

    def refused(*names):
        done = command("train.py", *flags, cwd=tmp_path, env=env)
        assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
        assert done.stderr.strip().splitlines()[-1].startswith("error: ")
        assert all(name in done.stderr for name in names), done.stderr

    csv.write_text("")
    refused("train_split01.csv", "empty")
    csv.write_text(good.replace(",9", ",0", 1))
    refused("train_split01.csv row 1", "0 frames")
    csv.write_text(good.replace("Run/", "Walk/", 1))
    refused("row 1", "Walk", "ClassInd.txt")
    csv.write_text(good.replace(",9", ",99"))
    refused("image_000")
    csv.unlink()
    refused("train_split01.csv", "write_csv.py")
    csv.write_text(good)
    for frame in (mine / "ucf101/frames/Run").glob("*/*.jpg"):
        frame.write_bytes(frame.read_bytes()[:200])
    shutil.rmtree(tmp_path / "log")
    refused("Run/v_Run", ".jpg is not a whole JPEG")
    assert not list((tmp_path / "log").rglob("*.pth.tar*"))
    (mine / "ucf101/frames").rename(mine / "gone")
    refused("extract_frame.py")


def test_a_test_s_results_are_kept_where_its_picture_fails(program, monkeypatch):
    torch.save({"state_dict": build_classifier("r3d", 2, 0.0625).state_dict(), "config": {
        "net": "r3d", "width": 0.0625, "num_classes": 2}}, "two.tar")

    def fail(*_):
        raise RunError("confusion.png cannot be drawn (a reason)")

    monkeypatch.setattr("analysis.figures.save", fail)
    code, out, error = program("test.py", *SMALL, "--checkpoint", "two.tar", "--clips", 1, "--name", "x")
    assert code == 1 and error.endswith("error: confusion.png cannot be drawn (a reason)\n") and "written to" in out
    assert {path.name for path in Path("log/dualvar/test/x").rglob("*.*")} >= {
        "results.json", "predictions.npz", "classes.csv", "confusion.csv"}

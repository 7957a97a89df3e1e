"""Linear probe and vote on saved features."""
import json

import numpy as np
import pytest
import torch

from analysis import probe
from core.errors import DataError, UsageError
from dataset.lists import VideoList


def write(folder, separable=True, classes=3, groups=6, clips=1):
    """Features of videos v_C1_g02_c01: a class each, where `separable`, and noise."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for part, first in (("train", 8), ("test", 1)):
        names = [f"C{c}/v_C{c}_g{g:02d}_c{i:02d}" for c in range(classes) for g in range(first, first + groups)
                 for i in range(1, clips + 1)]
        labels = np.array([int(name[1]) for name in names])
        features = rng.normal(size=(len(names), 16)).astype(np.float32)
        if separable:
            features[np.arange(len(names)), labels] += 12
        np.save(folder / f"{part}_features.npy", features)
        np.save(folder / f"{part}_labels.npy", labels)
        (folder / f"{part}_names.txt").write_text("".join(f"{name}\n" for name in names))
    (folder / "protocol.json").write_text("{}")
    return folder


def test_separable_features_and_noise(tmp_path, capsys):
    good, noise = write(tmp_path / "good"), write(tmp_path / "noise", separable=False)
    probe.main(["--features", str(good), str(noise), "--seeds", "2", "--k", "1", "5"])
    rows = capsys.readouterr().out.splitlines()
    assert rows[0].startswith(f"{good}: linear ") and rows[0].endswith("(2 seeds), 1 nearest 1.0000, 5 nearest 1.0000")
    assert np.mean(json.loads((good / "probe.json").read_text())["linear"]) > 0.85
    found = json.loads((noise / "probe.json").read_text())
    assert found["train"] == found["test"] == 18 and len(found["linear"]) == 2
    assert all(value < 0.8 for value in [*found["linear"], *found["vote"].values()])
    assert "all 2: linear" in rows[2]


def test_the_strength_is_chosen_on_held_out_recordings_of_the_training_list(tmp_path, monkeypatch):
    asked = []

    class Fitted:
        def __init__(self, features, labels, strength):
            self.strength = strength
            asked.append((len(features), strength))

        def score(self, features, labels):
            return {0.1: 0.2, 1.0: 0.9, 10.0: 0.9}[self.strength] if len(features) < 18 else self.strength

    monkeypatch.setattr(probe, "fit", Fitted)
    found = probe.read(write(tmp_path / "f"))
    value, strength = probe.linear_probe(found["train"], found["test"], [0.1, 1.0, 10.0], r"(?P<group>.+_g\d+)_c\d+", 0)
    assert value == strength == 1.0  # of equals the strongest regularisation
    assert [count for count, _ in asked[:3]] == [15] * 3 and asked[3] == (18, 1.0)  # a recording of each class is held


def test_a_list_that_cannot_be_divided_wants_one_strength(tmp_path, capsys):
    folder = write(tmp_path / "f", groups=2)
    with pytest.raises(DataError, match="f: the 6 training videos, of 6 recordings, cannot .*--strengths 0.1"):
        probe.main(["--features", str(folder), "--shots", "1"])
    probe.main(["--features", str(folder), "--shots", "1", "--strengths", "0.1", "--seeds", "1"])
    found = json.loads((folder / "probe.json").read_text())
    assert found["strengths"] == [0.1] and len(found["shots"]["1"]) == 5
    assert ": linear 0.8333 (1 seeds)" in capsys.readouterr().out


def shots_of(folder, capsys, *flags):
    """The probes of few shots in probe.json, and what was printed of them."""
    probe.main(["--features", str(folder), "--seeds", "1", "--strengths", "1", "--k", "1", "--shots", *flags])
    return json.loads((folder / "probe.json").read_text())["shots"], capsys.readouterr().out.splitlines()[1]


def test_videos_of_recordings_that_the_test_list_has_are_left_out(tmp_path, capsys):
    """Groups 8 to 27 against 1 to 20; features that tell nothing but the recording."""
    folder = write(tmp_path / "f", separable=False, groups=20)
    rng = np.random.default_rng(1)
    place = rng.normal(size=(3, 30, 16)).astype(np.float32)
    for part in ("train", "test"):
        names = (folder / f"{part}_names.txt").read_text().split()
        values = np.array([place[int(name[1]), int(name.partition("_g")[2][:2])] for name in names])
        np.save(folder / f"{part}_features.npy", values + 0.01 * rng.normal(size=values.shape).astype(np.float32))
    flags = ["--features", str(folder), "--seeds", "1", "--k", "1", "--shots", "5"]
    probe.main(flags)
    assert "note: 39 training videos are of recordings that the test list has too; --apart" in capsys.readouterr().out
    probe.main([*flags, "--apart"])
    assert "note: 39 training videos are of recordings that the test list has too: they are" in capsys.readouterr().out
    whole, apart = (json.loads((folder / name).read_text()) for name in ("probe.json", "probe_apart.json"))
    assert whole["train"] == 60 and apart["train"] == 21 and whole["shared"] == apart["shared"] == 39
    assert whole["vote"]["1"] > 0.75 and apart["vote"]["1"] < 0.6
    with pytest.raises(UsageError, match="--apart: 18 of 18 training videos are of recordings"):
        probe.main(["--features", str(write_both(tmp_path / "g")), "--apart"])


def write_both(folder):
    """All training videos are of recordings of the test list."""
    write(folder)
    for name in ("features.npy", "labels.npy", "names.txt"):
        (folder / f"train_{name}").write_bytes((folder / f"test_{name}").read_bytes())
    return folder


def test_few_shots_of_separable_features_and_of_noise(tmp_path, capsys):
    good, line = shots_of(write(tmp_path / "good"), capsys, "5", "1", "--folds", "3")
    assert good == {"1": [1.0] * 3, "5": [1.0] * 3}
    assert line == f"{tmp_path}/good: 1-shot 1.0000 +- 0.0000, 5-shot 1.0000 +- 0.0000 (3 draws)"
    noise, line = shots_of(write(tmp_path / "noise", separable=False, groups=40), capsys, "1", "10")
    for k, values in noise.items():
        assert len(values) == 5 and 0.2 < np.mean(values) < 0.47 and np.std(values) > 0
        assert f"{k}-shot {np.mean(values):.4f} +- {np.std(values, ddof=1):.4f}" in line


def test_few_shots_of_permuted_labels_are_at_chance(tmp_path):
    found = probe.read(write(tmp_path / "f", groups=40))
    (features, videos), values = found["train"], {1: [], 10: []}
    for fold in range(40):
        labels = np.random.default_rng(100 + fold).permutation(videos.labels)
        train = features, VideoList(videos.names, videos.num_frames, labels, videos.classes)
        draw = probe.draw_shots(train[1], 10, "(?P<group>.+)", fold)
        for k, some in values.items():
            some.append(probe.shot_probe(train, found["test"], np.concatenate([rows[:k] for rows in draw])))
    for some in values.values():
        assert abs(np.mean(some) - 1 / 3) < 3 * np.std(some) / np.sqrt(len(some)) < 0.2


def test_shots_come_from_different_recordings_differ_by_fold_and_repeat(tmp_path):
    _, videos = probe.read(write(tmp_path / "f", groups=6, clips=4))["train"]
    rule = r"(?P<group>.+_g\d+)_c\d+"
    draws = [probe.draw_shots(videos, 9, rule, fold) for fold in (0, 1, 2, 0)]
    rows = [np.concatenate(draw).tolist() for draw in draws]
    assert rows[0] == rows[3] and len({tuple(row) for row in rows}) == 3
    for draw in draws:
        for label, own in enumerate(draw):
            assert (videos.labels[own] == label).all() and len(set(own)) == 9
            groups = [name[:-4] for name in videos.names[own]]
            assert len(set(groups[:6])) == 6 and len(set(groups[6:])) == 3  # all once, before one comes again
    once = probe.draw_shots(videos, 2, rule, 0)
    assert all(few.tolist() == many[:2].tolist() for few, many in zip(once, draws[0], strict=True))


def test_a_probe_of_few_shots_sees_these_alone(tmp_path):
    """Not the other training videos; and each test video is judged by itself."""
    found = probe.read(write(tmp_path / "f", separable=False, groups=30))
    (train, videos), (test, queries) = found["train"], found["test"]
    rows = np.concatenate([rows[:5] for rows in probe.draw_shots(videos, 5, "(?P<group>.+)", 0)])
    value = probe.shot_probe((train, videos), (test, queries), rows)
    other = np.full_like(train, 7)
    other[rows] = train[rows]
    assert probe.shot_probe((other, videos), (test, queries), rows) == value
    halves = [np.arange(0, len(test), 2), np.arange(1, len(test), 2)]
    parts = [probe.shot_probe((train, videos), (test[half], queries.subset(half)), rows) for half in halves]
    assert np.mean(parts) == pytest.approx(value) and 0 < value < 1


def test_a_class_with_fewer_videos_than_shots_is_one_sentence(tmp_path):
    folder = write(tmp_path / "f", groups=4)
    with pytest.raises(DataError, match=r"^--shots 5: of class C0 there are only 4 training videos: give fewer shots$"):
        probe.main(["--features", str(folder), "--seeds", "1", "--shots", "1", "5"])
    assert not (folder / "probe.json").exists()
    for flags, says in {("--shots", "0"): "--shots and --folds must be above 0", ("--folds", "3"): "--folds 3 counts",
                        ("--shots", "1", "--folds", "0"): "must be above 0"}.items():
        with pytest.raises(UsageError, match=says):
            probe.main(["--features", str(folder), *flags])


def test_votes_are_weighted_by_similarity():
    gallery = torch.tensor([[1.0, 0], [0.9, 0.1], [-1, 0.2], [-0.9, 0], [-1, -0.3]])
    labels = torch.tensor([1, 1, 0, 0, 0])
    assert probe.predicted_by_vote(torch.tensor([[1.0, 0.05], [-1.0, 0]]), gallery, labels, 5).tolist() == [1, 0]


@pytest.mark.parametrize("harm", ["no protocol", "cut", "other length", "not finite"])
def test_bad_folders(tmp_path, harm):
    folder = write(tmp_path / "f")
    if harm == "no protocol":
        (folder / "protocol.json").unlink()
    elif harm == "cut":
        (folder / "train_features.npy").write_bytes((folder / "train_features.npy").read_bytes()[:200])
    elif harm == "other length":
        np.save(folder / "test_labels.npy", np.zeros(3, int))
    else:
        np.save(folder / "test_features.npy", np.full((18, 16), np.nan, np.float32))
    with pytest.raises(DataError, match="--features: .*write (it|them|the features)"):
        probe.main(["--features", str(folder)])
    assert not (folder / "probe.json").exists()


def test_bad_flags(tmp_path):
    with pytest.raises(UsageError, match="--seeds"):
        probe.main(["--features", str(tmp_path), "--seeds", "0"])


@pytest.mark.parametrize("flags, words", [
    (["--dataset", "hmdb51"], "name the data set that they are of"), (["--features", "f", "./f"], "given twice"),
    (["--strengths", "1e-400"], "--strengths from 1e-9"), (["--k", "0"], "--k, --shots and --folds must be above 0"),
    (["--seeds", "0"], "--seeds must be above 0")])
def test_flags_that_would_give_wrong_numbers(tmp_path, monkeypatch, flags, words):
    write(tmp_path / "f")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=words):
        probe.main(["--features", "f", *flags])
    assert not (tmp_path / "f/probe.json").exists()

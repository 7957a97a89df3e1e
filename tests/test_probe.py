"""Linear probe and vote on saved features."""
import json

import numpy as np
import pytest
import torch

from analysis import probe
from core.errors import DataError, UsageError


def write(folder, separable=True, classes=3, groups=6):
    """Features of videos v_C1_g02_c01: a class each, where `separable`, and noise."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for part, first in (("train", 8), ("test", 1)):
        names = [f"C{c}/v_C{c}_g{g:02d}_c01" for c in range(classes) for g in range(first, first + groups)]
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
    (["--strengths", "1e-400"], "--strengths from 1e-9"), (["--k", "0"], "--k must be above 0"),
    (["--seeds", "0"], "--seeds must be above 0")])
def test_flags_that_would_give_wrong_numbers(tmp_path, monkeypatch, flags, words):
    write(tmp_path / "f")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=words):
        probe.main(["--features", "f", *flags])
    assert not (tmp_path / "f/probe.json").exists()

"""Probes of what features know of time: which frames are shown, floors that cannot be fooled, and networks whose
answers are known.
"""
import dataclasses
import itertools
import json
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import REPOSITORY, InProcess, environment, exit_code, make_dataset, results_of, succeed

from analysis import floors, temporal, temporal_features, temporal_output, temporal_probe, temporal_tasks
from analysis.temporal_probe import Side, answered, is_chance, measured
from analysis.temporal_tasks import CLIPS, TASKS, choose_stride, draw_clips, make_plan, steps
from core.errors import DataError
from dataset.lists import VideoList, open_list
from dataset.local_dataset import DATASETS, DEMO_GROUP, NO_GROUP, LocalDataset
from models import build_backbone
from models.protocol import Protocol

LENGTH, STRIDES = 12, dict.fromkeys(("clip", *TASKS), 2)


def draw(frames=200, seed=0, rate=1.0, **strides):
    return draw_clips(frames, LENGTH, STRIDES | strides, rate, np.random.default_rng(seed))


# --- which frames ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_clips_are_what_their_names_say(seed):
    clips, answers, fit = draw(seed=seed)
    assert tuple(clips) and set(clips) == {*CLIPS} and fit == {*TASKS}
    true = clips["true"]
    assert (np.diff(true) == 2).all() and (clips["reversed"] == true[::-1]).all()
    assert sorted(clips["shuffled"]) == true.tolist() and (clips["still"] == true[6]).all()
    assert clips["earlier"].max() < clips["later"].min()
    assert (np.diff(clips["earlier"]) == 2).all() and (np.diff(clips["later"]) == 2).all()
    for k in (1, 2, 4):
        assert (np.diff(clips[f"speed{k}"]) == 2 * k).all()
    middles = [(clips[f"speed{k}"][0] + clips[f"speed{k}"][-1]) / 2 for k in (1, 2, 4)]
    assert max(middles) - min(middles) <= 1
    firsts = [clips[f"third{i}"][0] / (200 - 22) for i in range(3)]
    assert all(6 <= clips[f"speed{k}"].min() and clips[f"speed{k}"].max() < 200 - 6 for k in (1, 2, 4))
    assert firsts[0] < 1 / 3 <= firsts[1] < 2 / 3 <= firsts[2] < 1
    jumps = np.diff(clips["cut"])
    assert sorted(jumps) == [2] * 10 + [2 + 12] and (np.diff(clips["uncut"]) == 2).all()
    assert clips["uncut"][0] in (clips["cut"][0], clips["cut"][0] + 12)
    assert all(0 <= own.min() and own.max() < 200 for own in clips.values())


@pytest.mark.parametrize("n", [2, 3, 4])
def test_segments_stand_in_the_order_that_is_the_answer(n):
    own, gap = temporal_tasks.segment_length(LENGTH, n)
    clips, answers, _ = draw()
    orders = list(itertools.permutations(range(n)))
    assert len(set(answers[f"order{n}"])) == min(len(orders), 6)
    for k, answer in enumerate(answers[f"order{n}"]):
        parts = clips[f"order{n}_{k}"][:n * own].reshape(n, own)
        assert (np.diff(parts, axis=1) == 2).all()
        assert tuple(np.argsort(np.argsort(parts[:, 0]))) == orders[answer]
        joints = np.sort(parts[:, 0])
        assert (np.diff(joints) == 2 * (own + gap)).all()  # something is left out between any two
        assert sorted(clips[f"order{n}_{k}"]) == sorted(clips[f"order{n}_0"])  # the same frames in all orders


def test_speed_is_by_time_not_by_frames():
    """At twice the frames a second a clip of the same speed takes every second frame more."""
    slow, fast = draw(400, rate=1.0)[0], draw(400, rate=2.0)[0]
    for k in (1, 2, 4):
        assert (np.diff(fast[f"speed{k}"]) == 2 * np.diff(slow[f"speed{k}"])).all()
    assert (np.diff(fast["true"]) == 2).all()  # the paper's clips are by frames


@pytest.mark.parametrize("task", TASKS)
def test_a_video_just_long_enough_fits(task):
    needed = 2 * steps(task, LENGTH) + 1 + 2 * temporal_tasks.margin(task, LENGTH)
    for seed in range(5):
        clips, _, fit = draw(needed, seed)
        assert task in fit and task not in draw(needed - 1, seed)[2]
        for names, _ in TASKS[task].examples:
            for own in (clips[name] for name in names):
                assert 0 <= own.min() and own.max() < needed
    for names, _ in TASKS[task].examples:
        assert not any(draw(needed - 1)[0][name].any() for name in names)  # its first frame alone


@pytest.mark.parametrize("task, frames", [("speed", 103), ("cut", 47), ("cut", 61)])
def test_clips_of_different_widths_do_not_reach_the_ends(task, frames):
    """A black frame there would tell which they are."""
    for seed in range(20):
        clips, _, fit = draw(frames, seed)
        assert task in fit
        for own in (clips[name] for names, _ in TASKS[task].examples for name in names):
            assert own.min() >= LENGTH // 2 and own.max() < frames - LENGTH // 2


def test_segments_that_leave_a_frame_over_are_not_asked_for():
    """It would tell which segment it belongs to."""
    assert [temporal_tasks.fits_length(f"order{n}", 16) for n in (2, 3, 4)] == [True, False, True]
    clips, _, fit = draw_clips(200, 16, STRIDES, 1.0, np.random.default_rng(0))
    assert "order3" not in fit and {"order2", "order4", "speed"} <= fit and not clips["order3_0"].any()
    plan = make_plan(np.full(2, 200), np.ones(2), 16, STRIDES, [0], True)
    assert set(CLIPS) - set(plan.clips) == {f"order3_{k}" for k in range(6)}  # nor shown to a network
    for video in range(2):
        assert (plan.indices[video, plan.single[video], 0] == plan.indices[video, :len(plan.clips), 8]).all()


def test_no_frame_is_shown_twice():
    """Slow clips of a video with few frames a second would repeat some."""
    assert "speed" in draw(rate=29.97 / 30, speed=1)[2]  # of 30 frames a second, nearly
    assert "speed" not in draw(rate=0.4)[2] and "speed" in draw(rate=0.5)[2] and "arrow" in draw(rate=0.4)[2]
    for seed in range(10):
        clips = draw(rate=0.6, seed=seed)[0]
        assert all(len(set(own)) == LENGTH for name, own in clips.items() if name != "still")


def test_stride_is_what_most_videos_have_frames_for():
    frames = np.array([61] * 95 + [20] * 5)
    assert {task: choose_stride(task, frames, 16, 2) for task in ("clip", "order2", "precedence", "cut")} == {
        "clip": 2, "order2": 2, "precedence": 1, "cut": 1}
    assert [choose_stride("speed", np.full(9, count), 16, 4) for count in (61, 120, 136, 137)] == [1, 1, 1, 2]
    assert choose_stride("clip", np.array([61] * 80 + [20] * 20), 16, 4) == 1
    assert choose_stride("speed", np.full(9, 400), 16, 8) == 4


def test_plans_repeat_by_seed_and_differ_by_draw():
    frames, rates = np.array([90, 120]), np.ones(2)
    one, same, other = (make_plan(frames, rates, LENGTH, STRIDES, [0, 0, number], True) for number in (0, 0, 1))
    assert (one.indices == same.indices).all() and (one.indices[:, :5] != other.indices[:, :5]).any()


def test_control_rows_show_the_frames_of_a_shuffled_video():
    plan = make_plan(np.array([90]), np.ones(1), LENGTH, STRIDES, [0], True)
    count = len(plan.clips)
    own, control = plan.indices[0, :count], plan.indices[0, count:2 * count]
    mapping = {}
    for a, b in zip(own.ravel().tolist(), control.ravel().tolist(), strict=True):
        assert mapping.setdefault(a, b) == b  # one place for each frame
    assert len(set(mapping.values())) == len(mapping) and mapping != {a: a for a in mapping}


def test_stills_are_of_the_middle_frame_and_of_frames_spread_over_a_clip():
    plan = make_plan(np.array([90, 300]), np.ones(2), LENGTH, STRIDES, [0], True)
    for video in range(2):
        for column, clip in enumerate(plan.indices[video, :len(plan.clips)]):
            assert (plan.indices[video, plan.single[video, column]] == clip[6]).all()
            assert plan.indices[video, plan.spread[video, column], 0].tolist() == np.sort(clip)[[1, 4, 7, 10]].tolist()


# --- networks whose answers are known ------------------------------------------------------------------------------
# Videos of numbers: frame i of a video is one value, so that a network is a function of (V, R, T).


def lists(count):
    names = np.array([f"a/v{i:03d}" for i in range(count)])
    return VideoList(names, np.full(count, 200), np.arange(count) % 2, np.array(["a", "b"]))


def side(frames, network, seed, count=60):
    """frames: (V, N) values of each frame; network: (V, R, T) -> (V, R, D)"""
    plan = make_plan(np.full(count, frames.shape[1]), np.ones(count), LENGTH, STRIDES, [seed], True)
    values = np.take_along_axis(frames[:, None], plan.indices.reshape(count, 1, -1), 2).reshape(plan.indices.shape)
    return Side(lists(count), plan, network(values).astype(np.float32))


def sides(network, make):
    rng = np.random.default_rng(0)
    return [side(make(rng), network, seed) for seed in range(2)]


def stationary(rng, count=60):
    """Waves of any phase: every moment is as likely as any other, and time runs forward."""
    at = np.arange(200)
    return (at / 7 + rng.random((count, 1))) % 1  # a saw


def averages(x):
    return np.stack([x.mean(axis=2), x.std(axis=2)], axis=-1)


def moments(x):
    """Sorted values: all that there is without order."""
    return np.sort(x, axis=2)


def steps_of(x):
    """Differences of neighbours, wrapped: knows the order."""
    return (np.diff(x, axis=2) + 0.5) % 1 - 0.5


def linear(network, make, task, kind="clips"):
    train, test = sides(network, make)
    return measured([answered(train, test, task, kind, r"(?P<group>.+)", 0)["linear"]], test.videos.names)


@pytest.mark.parametrize("task", ["arrow", "shuffle", "order2", "order3", "order4"])
@pytest.mark.parametrize("network", [averages, moments])
def test_a_network_without_order_is_at_chance(task, network):
    found = linear(network, stationary, task)
    assert is_chance(found, TASKS[task], 60)
    assert task == "order4" or found.mean == pytest.approx(TASKS[task].chance, abs=1e-9)


@pytest.mark.parametrize("task", TASKS)
def test_a_network_that_averages_frames_is_at_chance_on_all(task):
    def noise(rng):
        return rng.random((60, 200))

    found = linear(lambda x: x.mean(axis=2, keepdims=True), noise, task)
    assert is_chance(found, TASKS[task], 60) and abs(found.mean - TASKS[task].chance) < 0.1


@pytest.mark.parametrize("n", [2, 3, 4])
def test_a_network_that_compares_frames_knows_the_order_of_segments(n):
    def compares(x):
        first, second = np.triu_indices(LENGTH, 1)
        return np.sign(x[..., first] - x[..., second])

    def rising(rng):
        return np.sort(rng.random((60, 200)), axis=1)

    assert linear(compares, rising, f"order{n}").mean > 0.95


@pytest.mark.parametrize("task", ["precedence", "position"])
@pytest.mark.parametrize("network", [averages, steps_of])
def test_in_stationary_videos_there_is_no_place_in_time(task, network):
    assert is_chance(linear(network, stationary, task), TASKS[task], 60)


@pytest.mark.parametrize("task", ["arrow", "shuffle", "speed", "cut"])
def test_a_network_of_order_knows_its_tasks(task):
    assert linear(steps_of, stationary, task).mean > 0.95


@pytest.mark.parametrize("task", TASKS)
def test_controls_are_at_chance_where_the_task_is_known(task):
    def rising(rng):
        return np.linspace(0, 1, 200) + 0.01 * rng.random((60, 200))

    assert is_chance(linear(lambda x: x, rising, task, "control"), TASKS[task], 60)
    assert linear(lambda x: x, rising, task).mean > {"order4": 0.3, "cut": 0.65}.get(task, 0.9)


def test_a_place_in_time_that_shows_in_single_frames_is_told_by_their_mean():
    def rising(rng):
        return np.linspace(0, 1, 200) + 0.01 * rng.random((60, 200))

    assert linear(moments, rising, "position", "mean").mean > 0.9
    assert linear(moments, rising, "position", "single").mean > 0.9
    assert linear(moments, rising, "order2", "mean").mean == 0.5


def test_few_videos_are_of_different_recordings_and_enough_for_a_network_that_knows():
    train, test = sides(steps_of, stationary)
    found = temporal_probe.answered_by_few(train, test, "arrow", [2, 20], r"(?P<group>.+)\d", 0)
    assert found[2].shape == (60,) and found[20].mean() > 0.95
    rows = np.random.default_rng(0).permutation(60)
    groups = np.array([name[:-1] for name in train.videos.names])
    ordered = temporal_probe.different_first(rows, groups)
    assert sorted(ordered) == list(range(60)) and len(set(groups[ordered[:6]])) == 6


@pytest.mark.parametrize("task", TASKS)
def test_answers_in_another_order_are_chance(task):
    train, test = sides(steps_of, stationary)
    rng = np.random.default_rng(0)
    for own in (train, test):
        own.plan.answers[task] = rng.permuted(own.plan.answers[task], axis=1)
    found = answered(train, test, task, "clips", r"(?P<group>.+)", 0)
    for how in temporal_output.HOWS:
        share = measured([found[how]], test.videos.names)
        assert is_chance(share, TASKS[task], 60) and abs(share.mean - TASKS[task].chance) < 0.1


def test_training_videos_of_the_test_lists_recordings_are_left_out(capsys):
    parts = {"train": ["a/v1_g1", "a/v2_g1", "a/v3_g2", "b/v4_g3"], "test": ["a/v5_g1", "b/v6_g4"]}
    own = {part: VideoList(np.array(names), np.full(len(names), 9), np.zeros(len(names), int), np.array(["a"]))
           for part, names in parts.items()}
    assert temporal.apart(own, r".+_(?P<group>g\d)").names.tolist() == ["a/v3_g2", "b/v4_g3"]
    assert capsys.readouterr().out.startswith("note: 2 training videos are left out: the test list has others")


# --- numbers -------------------------------------------------------------------------------------------------------


def test_interval_is_over_recordings():
    values = np.repeat(np.random.default_rng(0).random(20), 5)
    over_recordings = measured([values], np.repeat(np.arange(20), 5).astype(str))
    over_videos = measured([values], np.arange(100).astype(str))
    assert over_recordings.mean == over_videos.mean == pytest.approx(values.mean())
    assert over_recordings.error == pytest.approx(over_videos.error * 5**0.5, rel=0.15)
    assert over_recordings.low < over_recordings.mean < over_recordings.high
    few = measured([values], np.repeat(["a", "b"], 50))  # too few to resample
    assert few.error == pytest.approx(over_videos.error, rel=0.1)


def test_a_video_without_an_answer_does_not_count():
    assert measured([np.array([1, np.nan, 0.5, 0.5])], np.array(list("abcd"))).mean == pytest.approx(2 / 3)


def test_a_star_needs_a_paired_difference_from_every_floor():
    rng, recordings = np.random.default_rng(0), np.arange(60).astype(str)
    hard = rng.random(60)  # a video, for all alike
    own, close = hard, hard - 0.02
    far = close + 0.4 * rng.normal(size=60)
    assert temporal_probe.is_above(own, close, recordings, 20)  # little, and on every video
    assert not temporal_probe.is_above(own, far, recordings, 20)
    assert not temporal_probe.is_above(own, own, recordings, 1)
    assert not temporal_probe.is_above(own, close, np.arange(60) % 9, 20)  # too few recordings

    def shares(mean, single):
        return {("arrow", kind, how): np.full(60, mean if kind == "clips" else single) for kind in
                temporal_output.KINDS for how in temporal_output.HOWS}

    def above(own, **floors):
        return temporal.above_floors(own, floors, "arrow", "linear", recordings, 2)

    assert above(shares(0.9, 0.5), cues=shares(0.8, 0.5))
    assert not above(shares(0.9, 0.5), cues=shares(0.95, 0.5)) and not above(shares(0.9, 0.95), cues=shares(0.8, 0.5))
    assert not above(shares(0.5, 0.4), cues=shares(0.4, 0.4))  # chance
    by_vote = shares(0.8, 0.5) | {("arrow", "clips", "neighbours"): np.full(60, 0.95)}
    assert not above(shares(0.9, 0.5), cues=by_vote)  # whichever way the floor answers


def test_stars_by_chance_are_as_rare_as_said_with_few_recordings():
    rng = np.random.default_rng(0)
    found = [temporal_probe.is_above(rng.normal(size=10), np.zeros(10), np.arange(10), 5) for _ in range(400)]
    assert np.mean(found) < 0.025  # one in 100; a bootstrap's quantile gives twice to five times that


def test_results_of_one_protocol_are_one_table(tmp_path):
    parts = {"clip_seed0": results_of("a"), "clip_seed1": results_of("a", 0.8), "other": results_of("a", dataset="x")}
    one, other = temporal_output.joined(parts)
    assert one["networks"] == ["clip_seed0", "clip_seed1"] and other["networks"] == ["other"]
    table = temporal_output.answers_table(one, "linear")
    assert table["features"].tolist() == ["chance", "clip_seed0", "clip_seed1", "cues"]
    assert table["arrow of time"].tolist() == ["0.500", "0.900 ± 0.050 *", "0.800 ± 0.050 *", "0.600 ± 0.050"]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results_of("a")))
    assert temporal_output.read_results(path) == results_of("a")
    for damage in ({"networks": []}, {"networks": ["b"]}, {"tasks": {}}, {"measures": {}}, {"class_chance": "x"}):
        path.write_text(json.dumps({**results_of("a"), **damage}))
        with pytest.raises(DataError, match="results.json is damaged"):
            temporal_output.read_results(path)


def test_a_control_off_chance_withholds_the_number():
    assert is_chance(temporal_probe.Measured(0.55, 0.5, 0.6, 0.02), TASKS["arrow"], 100) is True  # as JSON takes it
    results = results_of("a", at_chance=False)
    assert temporal_output.cell(results, "a", "arrow", "linear") == "control not at chance"
    assert "0.900 ± 0.050" in temporal_output.cell(results, "a", "arrow", "neighbours")
    own = results["measures"]["a"]["tasks"]["arrow"]
    own["shots"] = {"2": own["clips"]["linear"]}
    few = temporal_output.shares_table(results, [("a, 2 videos", "a", "shots", "2")])
    assert few["arrow of time"].tolist()[-1] == "control not at chance"
    assert not is_chance(temporal_probe.Measured(0.6, 0.55, 0.65, 0.02), TASKS["arrow"], 100)
    assert is_chance(temporal_probe.Measured(0.6, 0.55, 0.65, 0.02), TASKS["arrow"], 5)  # few: an unsure error


# --- the command -----------------------------------------------------------------------------------------------


def test_a_mean_picture_is_the_same_whatever_the_order_of_the_frames():
    clips = torch.rand(20, 3, 16, 12, 16) * 4 - 2
    found = floors.Thumbnail()(clips)
    for order in (list(range(15, -1, -1)), torch.randperm(16).tolist()):
        assert torch.equal(floors.Thumbnail()(clips[:, :, order]), found)


def test_a_task_whose_training_videos_cannot_be_divided_is_not_asked():
    """Of two recordings of equal size neither is a fifth."""
    some = dict.fromkeys(("train", "test"), lists(40))
    same = dataclasses.replace(some["train"], names=np.array([f"a/v_a_g{i % 2}_c{i}" for i in range(40)]))
    plans = {("train", 0): SimpleNamespace(fit={"arrow": np.ones(40, bool)}),
             ("test", 0): SimpleNamespace(fit={"arrow": np.ones(40, bool)})}
    rule = r"(?P<group>.+_g\d+)_c\d+"
    said = temporal.not_asked("arrow", {**some, "train": same}, plans, rule, 1)
    assert said.startswith("the 40 training videos, of 2 recordings, cannot be divided")
    assert temporal.not_asked("arrow", some, plans, NO_GROUP, 1) == ""
    plans["test", 0].fit["arrow"][9:] = False
    assert temporal.not_asked("arrow", some, plans, NO_GROUP, 1) == "fewer than 10 are left"


def test_floors_show_what_they_say():
    clips = torch.zeros(2, 3, 4, 6, 6)
    clips[0, :, 2] = 1
    clips[1, :, :, ::2] = 1
    found = floors.Cues()(clips)
    assert found.shape == (2, 15 * 4 - 6, 1, 1, 1) and found.isfinite().all()
    assert found[0, :4].flatten().tolist() == [0, 0, 1, 0] and found[0, 8:11].flatten().tolist() == [0, 1, -1]
    assert found[1, -18:-14].flatten().tolist() == [1, 1, 1, 1]  # of edges
    found = floors.Differences()(clips)
    assert found.shape == (2, 3 * 4 - 1, 1, 1, 1) and found[:, :3].flatten(1).tolist() == [[0, 1, 1], [0, 0, 0]]


def test_floors_know_a_cut_and_a_sawtooth_of_sharpness():
    """What a network could use without knowing time is in the floors, also where it is not linear in the numbers."""
    rng = np.random.default_rng(0)

    def known(floor, make):
        clips, labels = zip(*(make(i % 2) for i in range(160)), strict=True)
        features = floor(torch.from_numpy(np.stack(clips)).float()).flatten(1).numpy()
        return temporal_probe.fit(features[:100], np.array(labels[:100]), 1.0).score(features[100:], labels[100:])

    def cut(label):
        steps = rng.random(11) * 0.2 + 0.9
        steps[rng.integers(3, 8)] *= 1 + 3 * label
        frames = np.cumsum(np.r_[0, steps * rng.random() * 5])
        return np.broadcast_to(frames[None, :, None, None], (3, 12, 4, 4)).copy(), label

    def sharp(label):
        own = (np.arange(12) / 5 + rng.random()) % 1
        own = own[::-1] if label else own
        return np.broadcast_to(own[None, :, None, None], (3, 12, 4, 4)) * (np.arange(4) % 2), label

    assert known(floors.Differences(), cut) > 0.9 and known(floors.Cues(), sharp) > 0.9


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A data set whose videos are long enough for all tasks."""
    return make_dataset(tmp_path_factory.mktemp("data"), groups=12, clips=1, frames=40, test_groups=5)


FLAGS = ["--dataset", "ucf101", "--seq_len", "8", "--ds", "1", "--img_dim", "16", "--workers", "0", "--device", "cpu",
         "--draws", "1", "--pretrain", "random", "--net", "r3d", "--width", "0.0625", "--name", "x"]


@pytest.fixture
def call(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    process = InProcess(place, monkeypatch, capsys)
    return lambda *arguments: process("analysis.temporal", *FLAGS, *arguments)


def test_the_same_tensors_with_another_normalisation_have_features_of_their_own(call, tmp_path):
    torch.manual_seed(0)
    content = {"state_dict": build_backbone("r3d", 0.0625).state_dict(), "config": {"net": "r3d", "width": 0.0625}}
    torch.save(content, "one.pth.tar")
    content["config"]["protocol"] = Protocol(mean=(0.5, 0.5, 0.5)).values()
    torch.save(content, "two.pth.tar")
    code, _, error = call("--pretrain", "one.pth.tar", "two.pth.tar", "--tasks", "arrow")
    assert code == 0, error
    weights = json.loads((tmp_path / "log/dualvar/temporal/x/results.json").read_text())["weights"]
    assert len(set(weights.values())) == 2
    assert len(list((tmp_path / "log/dualvar/temporal/features").iterdir())) == 2 + 1 + len(floors.FLOORS)


def test_classes_of_altered_clips_by_both_classifiers():
    """Reversed clips look like the other class, shuffled ones are as they were, and still ones have no class."""
    rng, labels = np.random.default_rng(0), np.arange(40) % 2

    def side(part):
        videos = VideoList(np.array([f"c/v_c_g{part}{i:02}_c01" for i in range(40)]), np.full(40, 9), labels,
                           np.array(["a", "b"]))
        own = {"true": labels, "reversed": 1 - labels, "shuffled": labels, "still": np.zeros(40, int)}
        features = {clip: (np.eye(2)[which] + 0.05 * rng.standard_normal((40, 2))).astype(np.float32)
                    for clip, which in own.items()}
        plan = SimpleNamespace(fit={"arrow": np.arange(40) > 3})
        return SimpleNamespace(videos=videos, plan=plan, of=lambda clip, kind: features[clip])

    found = temporal_probe.class_gaps(side(1), side(2), r"_(?P<group>g\d+)_", 0)
    for way in ("", ", vote"):
        assert all(np.isnan(shares[:4]).all() and not np.isnan(shares[4:]).any() for shares in found.values())
        means = {clip: np.nanmean(found[clip + way]) for clip in ("true", "reversed", "shuffled", "still",
                                                                  "reversed itself", "still itself")}
        assert (means["true"], means["reversed"], means["shuffled"], means["reversed itself"]) == (1, 0, 1, 1)
        assert abs(means["still"] - 0.5) < 0.1 + 0.2 * bool(way) and means["still itself"] < 0.8


@pytest.mark.kept
@pytest.mark.slow
def test_the_command_writes_tables_and_a_picture_and_keeps_the_features(call, tmp_path, monkeypatch):
    code, out, error = call("--tasks", "arrow", "speed", "--shots", "4", "2")
    assert code == 0, error
    folder = tmp_path / "log/dualvar/temporal/x"
    results = json.loads((folder / "results.json").read_text())
    assert list(results["measures"]) == ["random", temporal.RANDOM, *floors.FLOORS]
    assert list(results["tasks"]) == ["arrow", "speed"]
    assert results["tasks"]["arrow"] == {"title": "arrow of time", "chance": 0.5, "stride": 1, "train": 14, "test": 10}
    assert set(results["measures"]["random"]["classes"]) >= {"true", "reversed", "shuffled", "still"}
    text = (folder / "tables.md").read_text()
    assert "| chance | 0.500 | 0.333 |" in text and "| mean picture | " in text
    assert "\\toprule" in (folder / "tables.tex").read_text()
    rows = (folder / "tables.csv").read_text().splitlines()
    assert len(rows) == 1 + 5 * (2 * len(temporal_output.KINDS) * len(temporal_output.HOWS) + 2 * 2 + 2 * (4 + 3 + 3))
    gaps = results["measures"]["random"]["classes"]
    assert "true - still, vote" in gaps and "| true itself |" not in text
    assert text.count("Top-1 of a linear probe of the classes") == text.count("Top-1 of a vote of 10 neigh") == 1
    assert gaps["true - reversed"]["mean"] == pytest.approx(gaps["true"]["mean"] - gaps["reversed"]["mean"])
    assert cv2.imread(str(folder / "temporal.png")).std() > 5
    by_video = pd.read_csv(folder / "answers.csv")
    shown = by_video["random, arrow of time, linear probe"]
    assert len(by_video) == 10 and shown.mean() == pytest.approx(
        results["measures"]["random"]["tasks"]["arrow"]["clips"]["linear"]["mean"], abs=1e-5)

    def never(*_, **__):
        raise AssertionError("the features are there")

    monkeypatch.setattr(temporal_features, "features_of", never)
    assert list(results["measures"]["random"]["tasks"]["speed"]["shots"]) == ["2", "4"]
    assert "random, 4 videos" in text
    assert call("--tasks", "arrow", "speed", "--shots", "2", "4")[0] == 0
    again = json.loads((folder / "results.json").read_text())
    assert again["measures"] == results["measures"]
    kept = sorted((folder.parent / "features").rglob("test_*.npy"))
    assert len(kept) == 1 + len(floors.FLOORS)  # random weights are those of the floor
    np.save(kept[0], np.zeros((3, 4, 5), np.float32))
    code, _, error = call("--tasks", "arrow", "speed")
    assert code == 1 and str(kept[0].relative_to(tmp_path)) in error and error.count("\n") == 1
    code, _, error = call("--titles", "other", "--dry_run")
    assert code == 2 and "x has results of random, which these would replace: give these another --name" in error


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_where_it_was(call, tmp_path, monkeypatch):
    extract, made = temporal_features.features_of, []

    def stopped(network, *arguments):
        if len(made) == 3:
            raise DataError("stopped")
        made.append(type(network).__name__)
        return extract(network, *arguments)

    monkeypatch.setattr(temporal_features, "features_of", stopped)
    assert call("--tasks", "arrow")[0] == 1
    monkeypatch.setattr(temporal_features, "features_of", lambda *arguments: made.append("more") or extract(*arguments))
    assert call("--tasks", "arrow")[0] == 0 and made.count("more") == 2 * (1 + len(floors.FLOORS)) - 3


@pytest.mark.slow
def test_rendered_videos_lie_between_chance_and_certainty(tmp_path, monkeypatch):
    """The demo set, through every tool: no averaged frames know an order, and no real network knows all speeds."""
    env = environment(tmp_path)
    for name, *flags in (["render_demo", "--groups", "16", "--test_groups", "6", "--workers", "1"],
                         ["extract_frame", "--dataset", "demo", "--workers", "1"], ["write_csv", "--dataset", "demo"]):
        succeed(REPOSITORY / f"process_data/src/{name}.py", *flags, cwd=tmp_path, env=env)
    monkeypatch.chdir(tmp_path)
    made = LocalDataset(tmp_path / "demo/frames", tmp_path / "lists/demo", DEMO_GROUP, 1)
    monkeypatch.setitem(DATASETS, "demo", made)
    flags = """--dataset demo --pretrain random --net r3d --width 0.125 --img_dim 16 --resize 32x32 --seq_len 8 --ds 1
        --workers 0 --device cpu --draws 1 --tasks order2 speed"""
    assert exit_code(temporal, flags.split(), monkeypatch) == 0
    measures = temporal_output.read_results(tmp_path / "log/dualvar/temporal/demo/results.json")["measures"]
    share = {(title, task): measures[title]["tasks"][task]["clips"]["linear"] for title in measures
             for task in ("order2", "speed")}
    assert share["mean picture", "order2"]["low"] == share["mean picture", "order2"]["high"] == 0.5
    for title, task in (("random", "speed"), ("frame differences", "speed"), ("frame differences", "order2")):
        assert TASKS[task].chance < share[title, task]["low"] < share[title, task]["high"] < 1, (title, task)
    assert all(own["at_chance"]["linear"] for network in measures.values() for own in network["tasks"].values())


@pytest.mark.parametrize("flags, code, words", [
    (["--seq_len", "4"], 2, "--seq_len 4"), (["--draws", "0"], 2, "--draws"), (["--tasks", "x"], 2, "--tasks"),
    (["--titles", "cues"], 2, "--titles"), (["--seq_len", "64"], 1, "too few, too short"),
    (["--videos", "9"], 2, "--videos 9: give 10"), (["--shots", "1"], 2, "--shots"),
    (["--name", "features"], 2, "features are kept"),
    (["--shots", "15"], 2, "--shots 15: arrow of time has 14 training videos"), (["--name", "a/b"], 2, "--name"),
    (["--pretrain", "random", "nowhere.tar"], 1, "nowhere.tar"),
    (["--pretrain", "nowhere.tar"], 1, "nowhere.tar")])
def test_what_is_wrong_gets_a_sentence(call, tmp_path, flags, code, words):
    found, _, error = call(*flags)
    assert found == code and words in error.splitlines()[-1] and not list(tmp_path.rglob("*.npy"))


def test_other_frames_under_the_same_names_are_noticed(call, place):
    args = temporal.flags().parse_args([*FLAGS])
    args.resize = (18, 24)
    videos = open_list("ucf101", "test", 1)
    before = temporal_features.first_pictures(videos, args)
    path = place / "ucf101/frames" / str(videos.names[0]) / "image_00001.jpg"
    whole = path.read_bytes()
    try:
        path.write_bytes((path.parent.with_name(videos.names[1].split("/")[1]) / "image_00001.jpg").read_bytes())
        after = temporal_features.first_pictures(videos, args)
        assert (after != before).tolist() == [True] + [False] * 9
    finally:
        path.write_bytes(whole)

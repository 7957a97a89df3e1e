"""Pictures: what is drawn, from what, and that the files are pictures."""
import json
import re

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import NARROW, SMALL, InProcess, make_dataset
from matplotlib.colors import to_hex

from analysis import feature_pictures, figures, run_pictures, video_pictures
from analysis import pictures as commands
from analysis.features import write_features
from analysis.frames import evenly
from analysis.nearest import nearest
from core.errors import DataError, RunError
from dataset.augment import PretrainDraw, prepare
from dataset.clips import VideoClips, open_reader
from dataset.crops import RandomCrop, resize_for
from dataset.lists import open_list
from dataset.sampling import PretrainViews
from engine.monitor import sheet_of_views
from models.dualvar import TERMS, Term

DATASET = ["--dataset", "ucf101"]
DATA = [*SMALL[:6], *DATASET, "--workers", "0"]


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Runs a command of analysis.pictures on a small data set, in tmp_path."""
    make_dataset(tmp_path)
    monkeypatch.chdir(tmp_path)
    process = InProcess(tmp_path, monkeypatch, capsys)
    return lambda *arguments: process("analysis.pictures", *arguments)


def features(folder, size=6, clips=3, seed=0):
    """Saved features of the small data set: random, the classes apart."""
    rng = np.random.default_rng(seed)
    lists = {part: open_list("ucf101", part, 1) for part in ("train", "test")}
    values = {part: torch.from_numpy(rng.normal(size=(len(v), clips, size)).astype(np.float32)
                                     + 4 * np.eye(size, dtype=np.float32)[v.labels][:, None])
              for part, v in lists.items()}
    write_features(folder, lists, {part: x.mean(dim=1) for part, x in values.items()}, values, "{}")
    return lists, {part: x.mean(dim=1) for part, x in values.items()}


def drawn(path):
    picture = cv2.imread(str(path))
    assert picture is not None and min(picture.shape[:2]) > 100 and picture.std() > 5
    return picture


def test_tsne_has_a_point_for_each_clip_of_the_videos_asked_for(call, tmp_path):
    lists, _ = features(tmp_path / "a")
    features(tmp_path / "b", seed=1)
    code, out, error = call("tsne", "--features", "a", "b", "--titles", "one", "two", "--videos", 5, "--out", "p/t")
    assert code == 0, error
    assert out.split() == ["p/t.png", "p/t.pdf", "p/t.svg", "p/t.csv"]
    drawn("p/t.png")
    assert (tmp_path / "p/t.pdf").read_bytes().startswith(b"%PDF") and "<svg" in (tmp_path / "p/t.svg").read_text()
    table = pd.read_csv("p/t.csv")
    assert table.groupby(["panel", "video"]).size().eq(3).all() and len(table) == 2 * 5 * 3
    assert set(table["video"]) <= set(lists["train"].names)
    figure = feature_pictures.draw_tsne(table)
    assert [axes.get_title() for axes in figure.axes] == ["one", "two"]
    assert [text.get_text() for text in figure.legends[0].texts] == ["Run", "air drumming"]


def test_the_gallery_shows_what_retrieval_finds_and_marks_it(call, tmp_path, monkeypatch):
    lists, means = features(tmp_path / "a")
    seen = []
    monkeypatch.setattr(figures, "gallery", lambda rows, draw=figures.gallery: seen.extend(rows) or draw(rows))
    code, _, error = call("gallery", *DATASET, "--features", "a", "--queries", 3, "--found", 4, "--out", "g.png")
    assert code == 0, error
    units = [torch.nn.functional.normalize(means[part] - means[part].mean(dim=0), dim=1) for part in ("test", "train")]
    expected = nearest(units[0], units[1], 4)
    for query, (picture, name, found) in zip(evenly(len(units[0]), 3), seen, strict=True):
        assert picture.shape == (96, 128, 3) and lists["test"].names[query].startswith(f"{name}/")
        assert [row[1] for row in found] == [lists["train"].names[i].partition("/")[0] for i in expected[query]]
        assert [row[2] for row in found] == pytest.approx((units[0][query] @ units[1][expected[query]].T).tolist())
    (axes,) = figures.gallery(seen).axes
    for text, (_, name, _) in zip(axes.texts[1:5], seen[0][2], strict=True):
        right = name == seen[0][1]
        assert text.get_text().startswith(f"{name}\n{'✓' if right else '✗'} ")
        assert to_hex(text.get_color()) == (figures.RIGHT if right else figures.WRONG)
    drawn("g.png")


@pytest.mark.parametrize("more", [
    {}, {"centres": "inside", "permutations": "changed", "segment_gap": 1, "time_reverse": 0}])
def test_views_and_segments_are_those_of_training(call, tmp_path, monkeypatch, more):
    rows = []
    monkeypatch.setattr(figures, "sheet", lambda own, draw=figures.sheet: rows.append(own) or draw(own))
    name = open_list("ucf101", "train", 1).names[3]
    flags = [*DATA, "--names", name, "--seed", 5, "--epoch", 2, *(x for k, v in more.items() for x in (f"--{k}", v))]
    for command in ("views", "segments"):
        code, _, error = call(command, *flags, "--out", f"{command}.png")
        assert code == 0, error
        drawn(f"{command}.png")
    settings = video_pictures.ClipSettings("ucf101", 1, "frames", 4, 2, 24, resize_for(24))
    ((_, _, permutation),) = video_pictures.training_samples(settings, seed=5, epoch=2, names=[name], **more)

    changed = bool(more)
    data = VideoClips(open_list("ucf101", "train", 1), open_reader("ucf101", "frames", resize_for(24)),
                      PretrainViews(4, 2, 0 if changed else 0.5, 3, changed, 2, int(changed)), RandomCrop(24),
                      PretrainDraw(2, 24, changed), seed=5)
    sample = data[2, 3]
    views = prepare(sample["clips"][None], sample["augment"][None])[0]
    shown = sheet_of_views(views[None], every=1)  # a row a view, frames side by side
    for view, (_, frames, _) in enumerate(rows[0]):
        expected = shown[:, 24 * view:24 * (view + 1)].unflatten(2, (4, 24)).permute(2, 1, 3, 0)
        np.testing.assert_allclose(np.stack(frames) / 255, expected.numpy(), atol=0.003)
    order = permutation.tolist()
    (_, plain, colours), (_, shuffled, moved) = rows[1]
    assert colours == [figures.COLOURS[i] for i in (0, 0, 1, 1)]
    assert moved == [figures.COLOURS[i] for i in (order[0], order[0], order[1], order[1])]
    halves = np.stack(plain).reshape(2, 2, 24, 24, 3)
    np.testing.assert_array_equal(np.stack(shuffled), halves[order].reshape(4, 24, 24, 3))


def test_the_timeline_follows_a_video_segment_by_segment(call, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(figures, "timeline", lambda *own, draw=figures.timeline: seen.append(own) or draw(*own))
    flags = [*DATA[2:], "--img_dim", 24, *NARROW, "--pretrain", "random", "--out", "line.png", "--ds", 1]
    code, _, error = call("timeline", *flags)
    assert code == 0, error
    drawn("line.png")
    ((panels, frames, starts),) = seen
    assert starts.tolist() == list(range(8)) and len(frames) == 8 and panels[0][1].shape == (8, 8)
    np.testing.assert_allclose(np.diag(panels[0][1]), 1, rtol=1e-5)
    assert panels[0][1].min() < 0.9999
    assert video_pictures.EverySegment(2, 2)(50, None)[:3].tolist() == [[0, 2], [4, 6], [8, 10]]
    assert video_pictures.EverySegment(2, 2)(50, None).max() == 46
    assert video_pictures.EverySegment(2, 2)(9, None).tolist() == [[i, i + 2] for i in range(7)]  # they overlap
    code, _, error = call("timeline", *flags[:-1], 7)
    assert code == 1 and "9 frames, too few for segments of 2 frames at stride 7" in error


def log_of(folder, **measures):
    folder.mkdir(parents=True)
    rows = [{"epoch": i, **{name: values[i] for name, values in measures.items() if values[i] is not None}}
            for i in range(3)]
    cut_off_by_a_kill = '{"epoch": 3, "loss/cl'
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + cut_off_by_a_kill)
    return folder


def test_curves_of_seeds_look_alike(call, tmp_path):
    runs = [log_of(tmp_path / "clip_seed0", **{"loss/clip": [3, 2, 1], "retrieval/R@1": [None, 0.5, None]}),
            log_of(tmp_path / "clip_seed1", **{"loss/clip": [4, 3, 2]}),
            log_of(tmp_path / "tc", **{"loss/tc": [5, 4, 3]})]
    code, _, error = call("curves", "--runs", *runs, "--out", "c")
    assert code == 0, error
    drawn("c.png")
    figure = run_pictures.curves({run.name: run for run in runs})
    assert [axes.get_title() for axes in figure.axes] == ["loss/clip", "loss/tc", "retrieval/R@1"]
    first, second = figure.axes[0].lines
    assert first.get_color() == second.get_color() != figure.axes[1].lines[0].get_color()
    assert first.get_ydata().tolist() == [3, 2, 1] and figure.axes[2].lines[0].get_xdata().tolist() == [2]
    assert [text.get_text() for text in figure.legends[0].texts] == ["clip", "tc"]
    code, _, error = call("curves", "--runs", runs[0], "--measures", "loss/x")
    assert code == 1 and "--measures loss/x: in none of the logs; there are epoch, loss/clip" in error
    assert not list(tmp_path.glob("curves*"))


def test_curves_of_a_new_term_are_drawn_unasked(tmp_path, monkeypatch):
    monkeypatch.setitem(TERMS, "toy", Term("segment", ("view1", "restored"), lambda *_: {}, ("toy_a", "toy_b")))
    run = log_of(tmp_path / "toy", **{"loss/toy_a": [3, 2, 1], "loss/toy_b": [1, 1, 1],
                                      "top1_permuted/toy_a": [0.1, 0.2, 0.3]})
    figure = run_pictures.curves({"toy": run})
    assert [axes.get_title() for axes in figure.axes] == ["loss/toy_a", "top1_permuted/toy_a"]
    assert run_pictures.default_measures()[:4] == ["loss/clip", "loss/sr_view1", "loss/tc", "loss/toy_a"]


def test_bars_are_ordered_by_difference(call, tmp_path):
    for name, values in (("a", [0.5, 1.0, 0.2]), ("b", [0.6, 0.1, None])):
        (tmp_path / name / "split01").mkdir(parents=True)
        pd.DataFrame({"class": ["x", "y", "z"], "accuracy": values}).to_csv(tmp_path / name / "split01/classes.csv",
                                                                          index=False)
    code, _, error = call("classes", "--test", "a", "b", "--out", "bars.svg")
    assert code == 0 and not (tmp_path / "bars.png").exists() and "<svg" in (tmp_path / "bars.svg").read_text(), error
    figure = figures.class_bars(np.array(["x", "y"]), {"a": np.array([0.5, 1.0]), "b": np.array([0.6, 0.1])})
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["x", "y"]
    assert [bar.get_width() for bar in figure.axes[0].patches] == [0.5, 1.0, 0.6, 0.1]
    assert call("classes", "--test", tmp_path)[0] == 1


def test_a_mosaic_holds_the_pictures_and_their_borders():
    rng = np.random.default_rng(0)
    pair, lonely = rng.integers(0, 256, (2, 20, 30, 3), dtype=np.uint8), np.zeros((20, 30, 3), np.uint8)
    figure = figures.new_figure(3, 3)
    axes = figure.subplots()
    across, down = figures.mosaic(axes, [[(pair[0], "#ff0000"), (pair[1], "#00ff00")], [(lonely, "#0000ff")]])
    canvas = np.asarray(axes.images[0].get_array())
    edge, height, width = 4, 100, 150  # five times as large
    np.testing.assert_array_equal(canvas[edge:edge + height:5, edge:edge + width:5], pair[0])
    assert canvas[0, 0].tolist() == [255, 0, 0] and canvas[int(down[0]), 5].tolist() == [255] * 3
    assert canvas[0, int(across[1])].tolist() == [0, 255, 0] and canvas[-1].min() == 255
    assert canvas[edge + height, 10].tolist() == [255, 0, 0] and len(down) == 2


@pytest.mark.parametrize("classes", [2, 30, 101])
def test_as_many_classes_as_data_sets_have(classes):
    names = np.array([f"class {i}" for i in range(classes)])
    rng = np.random.default_rng(0)
    for figure in (figures.scatter([("a", rng.normal(size=(500, 2)), rng.integers(classes, size=500))], names),
                   figures.confusion(np.eye(classes), names), figures.class_bars(names, {"a": rng.random(classes)})):
        figure.draw_without_rendering()
    assert len({figures.style_of(i) for i in range(101)}) == 101


@pytest.mark.parametrize("arguments,message", [
    (["tsne", "--features", "nowhere"], r"nowhere/protocol.json does not exist: .*--save_features nowhere"),
    (["tsne", "--features", "a", "--titles", "x", "y"], "--titles: 2 different ones for 1 panels"),
    (["tsne", "--features", "a", "a", "--titles", "x", "x"], "--titles: 1 different ones for 2 panels"),
    (["tsne", "--features", "a", "a"], "--titles: 1 different ones for 2 panels"),
    (["tsne", "--features", "a", "--videos", "0"], "--videos must be above 0"),
    (["tsne", "--features", "a", "--seed", "-1"], "--seed must be 0 or more"),
    (["gallery", *DATASET, "--features", "a", "--found", "1000"], "--found 1000: more than 50 are no picture"),
    (["gallery", *DATASET, "--features", "lengths"], "lengths: the two lists' features differ in length"),
    (["gallery", *DATASET, "--features", "empty"], "do not belong together"),
    (["views", *DATA, "--epoch", "-1"], "--epoch must be 0 or more"),
    (["views", *DATA, "--time_reverse", "nan"], "--time_reverse nan is no probability"),
    (["timeline", *DATA, "--n_series", "3", "--pretrain", "random", "--net", "r3d"],
     "--seq_len 4 is not divisible by --n_series 3"),
    (["classes", "--test", "damaged"], "classes.csv is damaged .no shares of videos in a column accuracy.: test again"),
    (["confusion", "--test", "damaged"], "confusion.csv row 2 is damaged .not a name and 1 numbers.: test again"),
    (["confusion", "--test", "oblong"], "its rows are not of the classes of its columns.: test again"),
    (["curves", "--runs", "broken"], "log.jsonl row 1 is damaged"),
    (["curves", "--runs", "bare"], "in none of the logs"),
    (["curves", "--runs", "binary"], "log.jsonl row 1: not UTF-8"),
    (["gallery", *DATASET, "--features", "short"], "short is of another list than ucf101's test list"),
    (["views", *DATA, "--names", "Run/none"], "--names Run/none: not in the training list"),
    (["views", *DATA, "--n_series", "3"], "--seq_len 4 is not divisible by --n_series 3"),
    (["timeline", *DATA, "--ds", "1", "--pretrain", "none.tar"], "none.tar does not exist"),
    (["timeline", *DATA, "--pretrain", "random", *NARROW, "--video", "x/y"], "--video x/y is not in the test list"),
    (["curves", "--runs", "nowhere"], "nowhere/log.jsonl does not exist"),
    (["confusion", "--test", "nowhere"], "nowhere holds no results of test.py"),
])
def test_wrong_input_gets_a_sentence(call, tmp_path, arguments, message):
    lists, _ = features(tmp_path / "a")
    some = {part: videos.subset([0, 1]) for part, videos in lists.items()}
    write_features(tmp_path / "short", some, {part: torch.zeros(2, 3) for part in some}, {}, "{}")
    for name, sizes in (("lengths", {"train": 3, "test": 4}), ("empty", {"train": 0, "test": 0})):
        write_features(tmp_path / name, lists, {p: torch.ones(len(v), sizes[p]) for p, v in lists.items()}, {}, "{}")
    for name, content in (("damaged", "class,x\nRun,a\n"), ("oblong", "class,x,y\nRun,1,2\n")):
        (tmp_path / name).mkdir()
        for file in ("classes", "confusion"):
            (tmp_path / f"{name}/{file}.csv").write_text(content.replace("a", "1") if file == "classes" else content)
    for name, content in (("broken", b"{broken}\n"), ("bare", b'{"epoch": 0}\n'), ("binary", b"\xff\xfe}\n")):
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}/log.jsonl").write_bytes(content)
    code, _, error = call(*arguments, "--out", "out")
    assert code in (1, 2) and re.search(message, error) and error.count("\n") == 1, error
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("out", ["", "x.jpg", "there"])
def test_where_to_is_looked_at_first(call, tmp_path, out):
    (tmp_path / "there").mkdir()
    code, _, error = call("curves", "--runs", "nowhere", "--out", out)
    words = r"--out .*: name a file to write; it may end in .png, .pdf or .svg" if out else "--out: it is empty"
    assert code == 2 and re.search(words, error)


def test_panels_are_told_apart_by_as_many_folders_as_it_takes():
    assert commands.panel_titles(None, ["log/a/features/clip", "log/b/features/clip"]) == [
        "a/features/clip", "b/features/clip"]
    assert commands.panel_titles(None, ["log/a/clip", "log/a/tc"]) == ["clip", "tc"]


def test_features_without_clips_say_how_to_get_them(call, tmp_path):
    lists, means = features(tmp_path / "a")
    write_features(tmp_path / "a", lists, means, {}, "{}")
    with pytest.raises(DataError, match=r"train_clips.npy does not exist: .*--save_features a --per_clip"):
        commands.main(["tsne", "--features", "a"])


@pytest.mark.parametrize("name", [r"$\frac{$", "$x$", "_x", "a_b^c \\ {", "é" * 20])
def test_names_are_text(tmp_path, name):
    names, points = np.array([name, "Run"]), np.random.default_rng(0).normal(size=(20, 2))
    labels, frame = np.arange(20) % 2, np.zeros((20, 30, 3), np.uint8)
    drawn = {
        "scatter": figures.scatter([(name, points, labels)], names),
        "sheet": figures.sheet([(name, [frame], ["#000"])]),
        "gallery": figures.gallery([(frame, name, [(frame, name, 0.5)])]),
        "confusion": figures.confusion(np.eye(2), names),
        "bars": figures.class_bars(names, {name: np.array([0.5, 1.0])}),
        "curves": figures.curves({name: [(name, np.arange(3), np.arange(3))]}),
        "timeline": figures.timeline([(name, np.eye(3))], [frame], np.arange(3))}
    for kind, figure in drawn.items():
        figures.save(figure, tmp_path / kind, ["png"])
    for kind in ("scatter", "bars", "curves"):
        assert name in [text.get_text() for text in drawn[kind].legends[0].texts]
    assert name in [text.get_text() for text in drawn["timeline"].subfigs[2].axes[0].get_legend().texts]


def test_what_matplotlib_cannot_draw_is_a_sentence(tmp_path, monkeypatch):
    def fail(*_):
        raise ValueError("a reason\n^ of two lines")

    monkeypatch.setattr("matplotlib.figure.Figure.draw_without_rendering", fail)
    with pytest.raises(RunError, match=r"x.png cannot be drawn \(a reason \^ of two lines\); the numbers"):
        figures.save(figures.new_figure(1, 1), tmp_path / "x", ["png"])

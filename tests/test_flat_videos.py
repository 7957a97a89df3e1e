"""Data sets whose videos lie in one folder, and whose lists say the classes: Something-Something v2 and Diving48.

The official files are not at hand: what is read here was written in their format.
"""
import csv
import json

import cv2
import numpy as np
import pytest
from helpers import InProcess

from dataset.lists import open_list, video_groups
from dataset.local_dataset import DATASETS, LocalDataset
from dataset.reader import FrameReader
from dataset.video import VideoFiles
from process_data.src import extract_frame, verify
from process_data.src.official_lists import READERS

CLASSES = ["Tipping something with something in it over, so something in it falls out",
           "Approaching something with your camera",
           "Trying but failing to attach something to something because it doesn't stick"]
TEMPLATES = ["Tipping [something] with [something in it] over, so [something in it] falls out",
             "Approaching [something] with your camera",
             "Trying but failing to attach [something] to [something] because it doesn't stick"]
SSV2 = {"train": [(78687, 0), (1, 1), (42326, 2), (10, 0)], "validation": [(74225, 2), (116154, 0), (7, 1)]}
VOCABULARY = [["Back", "15som", "05Twis", "FREE"], ["Back", "15som", "NoTwis", "PIKE"],
              ["Forward", "Dive", "NoTwis", "PIKE"]]
DIVES = ["Back-15som-05Twis-FREE", "Back-15som-NoTwis-PIKE", "Forward-Dive-NoTwis-PIKE"]
DIVING48 = {"train": [("-mmq0PT-u8k_00155", 0), ("_8Vy3dlHg2w_00000", 1), ("_8Vy3dlHg2w_00001", 2)],
            "test": [("LSe4bcYXRWw_00009", 2), ("LSe4bcYXRWw_00010", 1), ("LSe4bcYXRWw_00011", 0)]}


def film(path, brightness=40, frames=4):
    """A video in the container that the suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    codec = {".webm": "VP80", ".mp4": "mp4v"}[path.suffix.lower()]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 12, (32, 24))
    if not writer.isOpened() and path.suffix == ".webm":  # an OpenCV without VP8: a file is known by its content
        film(path.with_suffix(".mp4"), brightness, frames)
        path.with_suffix(".mp4").rename(path)
        return
    for i in range(frames):
        writer.write(np.full((24, 32, 3), brightness + 20 * i, np.uint8))
    writer.release()


def write(folder, contents):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return folder


def ssv2_lists(prefix=""):
    texts = {"labels": dict(sorted((name, str(i)) for i, name in enumerate(CLASSES))), "test": [{"id": "1420"}]}
    for part, rows in SSV2.items():
        texts[part] = [{"id": str(i), "label": "tipping a cup", "template": TEMPLATES[c], "placeholders": ["a cup"]}
                       for i, c in rows]
    return {f"{prefix}{name}.json": content for name, content in texts.items()}


def diving48_lists(version="V2_", shift=0):
    rows = {part: [{"vid_name": name, "label": (label + shift) % 3, "start_frame": 0, "end_frame": 4}
                   for name, label in some] for part, some in DIVING48.items()}
    return {"Diving48_vocab.json": VOCABULARY, **{f"Diving48_{version}{part}.json": rows[part] for part in rows}}


@pytest.fixture
def tool(tmp_path, monkeypatch, capsys):
    """Runs a tool on data sets of which all is in tmp_path; -> (exit code, its output)."""
    for name in ("ssv2", "diving48"):
        monkeypatch.setitem(DATASETS, name, LocalDataset(tmp_path / "frames", tmp_path / "lists", DATASETS[name].group,
                                                         1))
    for module in (extract_frame, verify):
        monkeypatch.setattr(module, "run_jobs", lambda work, jobs, _: (x for x in [(job, work(job)) for job in jobs]))
    process = InProcess(tmp_path, monkeypatch, capsys)

    def call(script, dataset, *more):
        more = ("--short_side", 24, *more) if script == "extract_frame" else more
        code, out, error = process(f"process_data/src/{script}.py", "--dataset", dataset, *more)
        return code, out + error
    return call


@pytest.mark.parametrize("prefix", ["", "something-something-v2-"])
def test_something_something_from_its_files_to_lists(prefix, tmp_path, tool):
    write(tmp_path / "splits", ssv2_lists(prefix))
    ids = [i for rows in SSV2.values() for i, _ in rows]
    for place, i in enumerate([*ids, 1420, 9999]):
        film(tmp_path / f"videos/{i}.webm", 10 * place)
    (tmp_path / "videos/readme.txt").touch()
    note = f"note: {prefix}test.json has no labels: the test list is {prefix}validation.json\n"
    code, output = tool("extract_frame", "ssv2")
    assert code == 0 and note in output and "note: 1 file in" in output and "done 7, already there 0" in output
    assert (f"note: 2 videos in {tmp_path}/videos left out, in no list with labels in {tmp_path}/splits: "
            f"{tmp_path}/videos/1420.webm, {tmp_path}/videos/9999.webm\n") in output
    expected = {f"{CLASSES[c]}/{i}" for rows in SSV2.values() for i, c in rows}
    assert {str(path.parent.relative_to(tmp_path / "frames")) for path in tmp_path.rglob(".record.json")} == expected
    (tmp_path / "frames" / CLASSES[0] / "10/image_00004.jpg").unlink()
    assert "done 1, already there 6, failed 0" in tool("extract_frame", "ssv2")[1]  # goes on where it was cut off

    code, output = tool("write_csv", "ssv2")
    assert code == 0 and output == f"{note}split 1: 4 train and 3 test videos\n3 classes; lists and ClassInd.txt in " \
                                   f"{tmp_path}/lists\n"
    for storage, reader in (("frames", FrameReader(tmp_path / "frames", (12, 16))),
                            ("video", FrameReader(tmp_path / "videos", (12, 16), "", VideoFiles))):
        train, test = open_list("ssv2", "train", 1, storage), open_list("ssv2", "test", 1, storage)
        assert train.classes.tolist() == CLASSES and train.labels.tolist() == [0, 1, 2, 0]
        assert test.names.tolist() == [f"{CLASSES[c]}/{i}" for i, c in SSV2["validation"]]
        assert test.labels.tolist() == [2, 0, 1] and set(test.num_frames) == {4}
        frames, _ = reader.read(test.names[0], np.array([0, 3]))
        assert [frame.mean() for frame in frames] == pytest.approx([40, 100], abs=6)  # of the fifth video
    assert tool("verify", "ssv2")[0] == 0


def test_diving48_from_its_files_to_lists(tmp_path, tool):
    write(tmp_path / "splits", {**diving48_lists(), **diving48_lists("", shift=1)})
    names = [name for rows in DIVING48.values() for name, _ in rows]
    for name in names:
        film(tmp_path / f"rgb/{name}.mp4")
    note = ("note: the lists are Diving48_vocab.json, Diving48_V2_train.json, Diving48_V2_test.json; others left "
            "aside: Diving48_vocab.json, Diving48_train.json, Diving48_test.json\n")
    code, output = tool("extract_frame", "diving48", "--videos", tmp_path / "rgb")
    assert code == 0 and output.startswith(f"{note}done 6, already there 0, failed 0; 24 frames")
    assert tool("write_csv", "diving48")[0] == 0
    train, test = (open_list("diving48", part, 1) for part in ("train", "test"))
    assert train.classes.tolist() == DIVES and train.labels.tolist() == [0, 1, 2]
    assert test.names.tolist() == [f"{DIVES[label]}/{name}" for name, label in DIVING48["test"]]
    groups = video_groups([*train.names, *test.names], DATASETS["diving48"].group)
    assert groups.tolist() == ["-mmq0PT-u8k", "_8Vy3dlHg2w", "_8Vy3dlHg2w", *["LSe4bcYXRWw"] * 3]
    with open(tmp_path / "frames/manifest.csv", newline="") as file:
        assert {row["video"] for row in csv.DictReader(file)} == {*train.names, *test.names}


def test_lists_of_the_first_version_of_diving48_and_under_another_name(tmp_path, tool, monkeypatch):
    write(tmp_path / "splits", diving48_lists("", shift=1))
    classes, (split,) = READERS["diving48"](tmp_path / "splits", tmp_path)
    assert classes == DIVES and split.train[0] == (f"{DIVES[1]}/-mmq0PT-u8k_00155",)
    monkeypatch.setitem(DATASETS, "mine", DATASETS["diving48"])
    film(tmp_path / "videos/LSe4bcYXRWw_00009.mp4")
    code, output = tool("extract_frame", "mine", "--layout", "diving48")
    assert code == 0 and (tmp_path / "frames" / DIVES[0] / "LSe4bcYXRWw_00009/image_00004.jpg").exists(), output


FIRST = {"id": "1", "template": TEMPLATES[1]}


@pytest.mark.parametrize("layout, name, content, says", [
    ("ssv2", "labels.json", {"A": "0", "B": "2"}, "{path}: the numbers of its 2 classes are not 0 to 1: mend it"),
    ("ssv2", "labels.json", {"A": "0", "B": "0"}, "{path}: the numbers of its 2 classes are not 0 to 1: mend it"),
    ("ssv2", "labels.json", {"A": 0}, "{path} is damaged (A is not text): mend it"),
    ("ssv2", "labels.json", ["A"], "{path} is damaged (its content is not a dictionary): mend it"),
    ("ssv2", "labels.json", {"in/out": "0"}, "{path}: class 'in/out' cannot be a folder's name (it holds a slash)"),
    ("ssv2", "labels.json", {"é" * 128: "0"}, "cannot be a folder's name (it has 256 bytes, more than the 255 of"),
    ("ssv2", "labels.json", {".a": "0"}, "{path}: class '.a' cannot be a folder's name (it begins with a dot)"),
    ("ssv2", "labels.json", {"a ": "0"}, "{path}: class 'a ' cannot be a folder's name (it has white space at an end)"),
    ("ssv2", "train.json", [FIRST, {"id": "2", "template": "Eating [something]"}],
     "{path}: video '2' is of class 'Eating something', which is not in labels.json: mend it"),
    ("ssv2", "train.json", [FIRST, {"id": 2, "template": "x"}], "{path} is damaged (id of its content[1] is not text)"),
    ("ssv2", "validation.json", [FIRST, {"id": "2"}], "{path} is damaged (its content[1] has no template): mend it"),
    ("ssv2", "train.json", [{**FIRST, "id": "a/b"}], "{path}: video 'a/b' cannot be a folder's name (it holds a "),
    ("ssv2", "train.json", [{**FIRST, "id": ""}], "{path}: video '' cannot be a folder's name (it is empty"),
    ("ssv2", "validation.json", [{**FIRST, "id": "10"}],
     "{path}: video '10' is of class '" + CLASSES[1] + "', and elsewhere of '" + CLASSES[0] + "': mend it"),
    ("ssv2", "validation.json", "[", "{path} is damaged (not JSON: "),
    ("diving48", "Diving48_vocab.json", [], "{path}: it holds no class, or one twice: mend it"),
    ("diving48", "Diving48_vocab.json", [["a", "b-c"], ["a-b", "c"]], "{path}: it holds no class, or one twice: "),
    ("diving48", "Diving48_vocab.json", [[]], "{path}: class '' cannot be a folder's name (it is empty"),
    ("diving48", "Diving48_vocab.json", ["Back"], "{path} is damaged (its content[0] is not a list): mend it"),
    ("diving48", "Diving48_V2_test.json", [{"vid_name": "a_1", "label": 3}],
     "{path} is damaged (label of its content[0] is not a whole number from 0 to 2): mend it"),
    ("diving48", "Diving48_V2_train.json", [{"vid_name": "LSe4bcYXRWw_00009", "label": 0}],
     "video 'LSe4bcYXRWw_00009' is of class 'Forward-Dive-NoTwis-PIKE', and elsewhere of 'Back-15som-05Twis-FREE'"),
])
def test_lists_that_are_not_in_the_format(layout, name, content, says, tmp_path, tool):
    lists = write(tmp_path / "splits", ssv2_lists() if layout == "ssv2" else diving48_lists())
    write(lists, {name: content})
    film(tmp_path / "videos/1.webm")
    for script in ("extract_frame", "write_csv"):
        (tmp_path / "frames/a/b").mkdir(parents=True, exist_ok=True)
        code, output = tool(script, layout)
        assert code == 1 and output.startswith("error: ") and output.count("\n") == 1, output
        assert says.format(path=lists / name) in output
    assert not list(tmp_path.rglob("*.jpg")) and not (tmp_path / "lists").exists()


@pytest.mark.parametrize("layout, gone", [("ssv2", "train.json"), ("diving48", "Diving48_vocab.json")])
def test_lists_of_which_a_file_is_missing(layout, gone, tmp_path, tool):
    lists = write(tmp_path / "splits", ssv2_lists() if layout == "ssv2" else diving48_lists())
    (lists / gone).unlink()
    code, output = tool("extract_frame", layout, "--videos", tmp_path)
    assert code == 1 and output.startswith(f"error: --splits {lists} holds neither ") and output.count("\n") == 1
    assert gone in output and not (tmp_path / "frames").exists()


def test_folders_and_flags_that_cannot_be(tmp_path, tool):
    write(tmp_path / "splits", ssv2_lists())
    film(tmp_path / "above/videos/1.webm")
    film(tmp_path / "twice/1.webm")
    film(tmp_path / "twice/1.mp4")
    name = f"{CLASSES[1]}/1"
    for flags, code, says in (
            (["--videos", tmp_path / "above"], 1, "holds no <video>{.avi,.mp4,.mkv,.webm,.mov} of the lists: give the"),
            (["--videos", tmp_path / "none"], 2, "none is not a folder: give the folder that holds the videos"),
            (["--videos", tmp_path / "twice"], 1, f"twice/1.mp4 would both become {name}: remove or rename"),
            (["--splits", tmp_path / "none"], 2, "none is not a folder: give the folder of the official lists"),
            (["--dataset", "ucf101", "--splits", tmp_path], 2, "the classes of ucf101 are its folders of videos"),
            (["--layout", "ucf101"], 2, "argument --layout: invalid choice")):
        found, output = tool("extract_frame", "ssv2", *flags)
        assert found == code and says in output, output
        assert output.splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "frames").exists()


def test_a_broken_video_is_named_and_the_others_are_extracted(tmp_path, tool):
    write(tmp_path / "splits", ssv2_lists())
    film(tmp_path / "videos/1.webm")
    (tmp_path / "videos/10.webm").write_bytes(b"\x1aE\xdf\xa3 and no more")
    (tmp_path / "videos/7.webm").symlink_to("nowhere")
    code, output = tool("extract_frame", "ssv2")
    assert code == 1 and "done 1, already there 0, failed 2" in output
    for name in ("10", "7"):
        assert f"failed: {tmp_path}/videos/{name}.webm: cannot be " in output
    code, output = tool("write_csv", "ssv2")
    assert code == 1 and f"6 videos without a folder of frames: {CLASSES[0]}/78687, " in output

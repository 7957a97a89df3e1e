"""Pretraining on a folder of any videos: what is taken from it, how its list is kept, what is trained and measured."""
import csv
import json
import os
import re
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from fuzz import cases, damaged, in_sentence
from helpers import FAST, NARROW, command, environment
from hypothesis import given
from hypothesis import strategies as st
from test_video import write_video

from analysis.runs import find_runs
from analysis.variance import nearest_of_other_groups
from core.errors import DataError, UsageError
from core.files import take_lock
from dataset.clips import VideoClips
from dataset.crops import FixedCrops
from dataset.lists import hold_out, video_groups
from dataset.reader import FrameReader
from dataset.sampling import EvenClips
from dataset.unlisted import Counted, Known, UnlistedVideos, count_frames, read_known, write_known
from engine import unlisted
from engine.unlisted import at_rate, find_unlisted, group_rule, list_unlisted

SMALL = ["--img_dim", "24", "--seq_len", "4", "--ds", "2", *FAST, *NARROW, "--batch_size", "4"]
HOSTILE = ["one.mp4", "one.avi", "a/deep/er/two.MP4", "b, \"q\"/ü 'x'.avi", "b, \"q\"/=1+1.mp4", "b, \"q\"/-n.mp4"]


@pytest.fixture(autouse=True)
def lists(tmp_path, monkeypatch):
    """Where lists are kept."""
    monkeypatch.setattr(unlisted, "LISTS", tmp_path / "lists")
    return tmp_path / "lists"


def fill(root, *names, frames=12):
    for number, name in enumerate(names):
        write_video(root / name, "mp4v" if name.lower().endswith("mp4") else "XVID", frames + number)


@pytest.fixture
def disk(tmp_path):
    fill(tmp_path / "disk", *HOSTILE)
    return tmp_path / "disk"


@pytest.fixture
def counted(monkeypatch):
    """Names of the files whose frames were counted."""
    names = []

    def count(path):
        names.append(os.path.basename(path))
        return count_frames(path)

    monkeypatch.setattr(unlisted, "count_frames", count)
    return names


def listed(root):
    return list_unlisted(find_unlisted(str(root)), 0)


def left_out(lists):
    path, = lists.glob("*/left_out.csv")
    with open(path, encoding="utf-8", newline="") as file:
        return {os.path.basename(row["file"]): row["reason"] for row in csv.DictReader(file)}


# --- what is taken -------------------------------------------------------------------------------------------

def test_files_of_any_name_and_depth_are_taken_once(disk, lists, tmp_path):
    fill(tmp_path / "elsewhere", "three.mp4", frames=30)
    (disk / "b, \"q\"/link.mp4").symlink_to(tmp_path / "elsewhere/three.mp4")
    (disk / "a/again.mp4").symlink_to(disk / "one.mp4")
    (disk / "a/round").symlink_to(disk)
    for name in (".hidden.mp4", "notes.txt", ".folder/x.mp4", "line\nbreak.mp4", "latin\udce9.mp4"):
        (disk / name).parent.mkdir(exist_ok=True)
        (disk / name).write_bytes((disk / "one.mp4").read_bytes())
    found = find_unlisted(str(disk))
    assert found.others == 2 and len(found.faults) == 2
    result = list_unlisted(found, 0)
    assert dict(zip(result.videos.names.tolist(), result.videos.num_frames.tolist(), strict=True)) == {
        **{name: 12 + number for number, name in enumerate(HOSTILE)}, "b, \"q\"/link.mp4": 30}
    assert result.rates.tolist() == [25.0] * 7 and not result.videos.labels.any() and len(result.videos.classes) == 1
    assert left_out(lists) == {"line\nbreak.mp4": "it holds the control character '\\n': rename it",
                               "latin\\udce9.mp4": "its name is not UTF-8: rename it"}
    reader = FrameReader(found.root, (24, 32), "", UnlistedVideos)
    for name, count in zip(result.videos.names, result.videos.num_frames, strict=True):
        assert len(list(reader.read(name, np.array([0, count - 1]), int(count))[0])) == 2


def test_what_cannot_be_read_and_copies_are_left_out_and_named(disk, lists):
    whole = (disk / "one.avi").read_bytes()
    (disk / "copy.avi").write_bytes(whole)
    (disk / "broken.mp4").write_bytes(b"no film" * 100)
    (disk / "empty.mp4").touch()
    (disk / "cut.avi").write_bytes(whole[:len(whole) // 2])
    (disk / "lost.mp4").symlink_to("nowhere")
    os.mkfifo(disk / "pipe.mp4")
    result = listed(disk)
    assert set(result.videos.names) == {*HOSTILE, "copy.avi", "cut.avi"} - {"one.avi"}  # the first of the two
    assert 0 < result.videos.num_frames[result.videos.names.tolist().index("cut.avi")] < 13
    assert (result.left_out, result.copies) == (4, 1)
    name, = result.short
    assert re.fullmatch(rf"'{disk}/cut.avi' \(\d of 13\)", name)
    reasons = left_out(lists)
    assert reasons["one.avi"] == f"is a copy of {disk / 'copy.avi'}" and "begins with b'no" in reasons["broken.mp4"]
    assert "No such file" in reasons["lost.mp4"] and "not a regular file" in reasons["pipe.mp4"]
    for name in [*result.videos.names, "one.avi"]:
        (disk / name).write_bytes(b"no film")
    with pytest.raises(DataError, match=r"no video in .* can be read, such as .*left_out.csv names all"):
        listed(disk)


def test_a_folder_of_names_that_no_list_can_hold_says_so(tmp_path):
    (tmp_path / "line\nbreak.mp4").touch()
    with pytest.raises(DataError, match=r"holds no video that can be taken, such as '.*\\nbreak.mp4': it holds the c"):
        find_unlisted(str(tmp_path))


# --- how the list is kept ------------------------------------------------------------------------------------

def test_frames_are_counted_once_and_again_only_of_what_has_changed(disk, lists, counted):
    first = listed(disk)
    assert len(counted) == len(HOSTILE)
    assert listed(disk).videos.fingerprint() == first.videos.fingerprint() and len(counted) == len(HOSTILE)
    fill(disk, "one.mp4", "new.mp4", frames=20)
    (disk / "one.avi").unlink()
    again = listed(disk)
    assert sorted(counted[len(HOSTILE):]) == ["new.mp4", "one.mp4"] and len(again.videos) == len(HOSTILE)
    assert again.videos.num_frames[again.videos.names.tolist().index("one.mp4")] == 20
    assert again.content != first.content


def test_a_count_that_was_stopped_goes_on(disk, lists, counted, monkeypatch):
    monkeypatch.setattr(unlisted, "KEEP", 0)
    count = unlisted.count_frames

    def stopped(path):
        if len(counted) == 4:
            raise KeyboardInterrupt
        return count(path)

    monkeypatch.setattr(unlisted, "count_frames", stopped)
    with pytest.raises(KeyboardInterrupt):
        listed(disk)
    monkeypatch.setattr(unlisted, "count_frames", count)
    assert len(counted) == 4 and len(listed(disk).videos) == len(HOSTILE) and sorted(counted) == sorted(
        map(os.path.basename, HOSTILE))


def test_another_run_that_counts_is_waited_for(disk, lists, capsys):
    lock = take_lock(find_unlisted(str(disk)).place, "x")
    threading.Timer(0.5, lock.close).start()
    assert len(listed(disk).videos) == len(HOSTILE) and lock.closed
    assert capsys.readouterr().out.count("another run is writing there; wait for it to end") == 1


def test_clips_may_be_taken_by_time(disk):
    result = listed(disk)
    assert at_rate(result, 12.5).pace.tolist() == [2.0] * len(HOSTILE)
    result.rates[1] = 0
    with pytest.raises(DataError, match=r"--fps 12.5: 1 videos do not say .* such as 'b, \"q\"/-n.mp4'"):
        at_rate(result, 12.5)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A table of files, and what it says."""
    path = tmp_path_factory.mktemp("fuzz") / "files.csv"
    known = {f"/a, {number}": Known(10**6, 10**18, Counted("ab" * 16, 29.97, 7 + number)) for number in range(3)}
    write_known(path, Counted._fields, known)
    return path, path.read_bytes(), known


@cases()
@given(st.data())
def test_fuzz_table_of_files(table, data):
    path, whole, known = table
    path.write_bytes(content := data.draw(damaged(whole)))
    found = in_sentence(read_known, path, Counted._fields, Counted.of)
    assert content != whole or found == known
    assert isinstance(found, DataError) or all(one.facts.frames > 0 and one.facts.fps >= 0 for one in found.values())


# --- recordings ----------------------------------------------------------------------------------------------

def test_recordings_are_told_by_file_folder_or_rule():
    names = ["x1.mp4", "x2.mp4", "a/b/y1.mp4", "a/b/y2.mp4", "a/z1.mp4"]
    for text, expected in (("file", names), ("folder", ["", "", "a/b/", "a/b/", "a/"]),
                           (r"(?:.*/)?(?P<group>[^/])\d.mp4", ["x", "x", "y", "y", "z"]),
                           (r"(?P<group>a)?.*", ["x1.mp4", "x2.mp4", "a", "a", "a"])):
        assert video_groups(names, group_rule(text, names)).tolist() == expected
    for text, said in (("(", "no.* a regular expression"), ("a{99999999999}", "no.* a regular expression"),
                       (".*", r"has no part \(\?P<group>"), ("(?P<group>q)", "fits none of the 5 videos, such as 'x1")):
        with pytest.raises(UsageError, match=said):
            group_rule(text, names)


def test_no_recording_is_on_both_sides_of_a_hold_out(tmp_path):
    fill(tmp_path / "disk", *(f"{folder}/{i}.mp4" for folder in "abcde" for i in range(2)))
    videos = listed(tmp_path / "disk").videos
    kept, held = hold_out(videos, 0.4, group_rule("folder", videos.names))
    assert (len(kept), len(held)) == (6, 4)
    assert not {name[0] for name in kept.names} & {name[0] for name in held.names}


def test_without_classes_neighbours_are_asked_for_their_recording():
    features = torch.randn(6, 1, 8).double()
    features[1::2] = features[::2] + 0.01
    recordings = torch.tensor([0, 0, 1, 1, 2, 2])
    assert nearest_of_other_groups(features, recordings, torch.arange(6))["retrieval/R@1"] == 1
    assert nearest_of_other_groups(features, torch.arange(6), torch.arange(6)) == {}


# --- the command ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("flags, code_there, said", [
    (["--videos", "disk", "--dataset", "ucf101"], 2, "--videos and --dataset both say what is read"),
    (["--videos", "disk", "--split", "1"], 2, "--videos and --split both say what is read"),
    (["--group", "folder"], 2, "--group goes with --videos"), (["--videos", "nowhere"], 2, "is not a folder"),
    (["--videos", "disk", "--group", "("], 2, "nor a regular expression"), (["--videos", "e"], 1, "holds no video: it"),
    (["--videos", "disk", "--holdout", "1"], 2, "--holdout 1.0 is no fraction"),
    (["--videos", "disk", "--holdout", "0.1"], 1, "one video would be held out"),
    (["--videos", "disk", "--batch_size", "8"], 2, "larger than the training list, 6 videos"),
    (["--videos", "", "--dry_run"], 2, "--videos '': it is empty")])
def test_what_makes_no_sense_is_said_in_a_sentence(flags, code_there, said, disk, program):
    Path("e").mkdir()
    code, _, error = program("train.py", *SMALL, *flags)
    assert code == code_there and said in error and "Traceback" not in error, error
    assert not Path("log").exists()


def test_wrong_flags_show_before_frames_are_counted(disk, lists, program, counted):
    for wrong in (["--eval_videos", "1"], ["--group", "(?P<group>q)"]):
        code, _, error = program("train.py", *SMALL, "--videos", disk, *wrong)
        assert code == 2 and not counted and not lists.exists(), error


@pytest.mark.slow
def test_a_folder_is_trained_on_and_its_weights_are_used(tmp_path, lists, program):
    fill(tmp_path / "disk", *(f"{folder}/{i}.mp4" for folder in "abcd" for i in range(3)))
    train = [*SMALL, "--videos", "disk", "--group", "folder", "--holdout", "0.25", "--eval_every", "1", "--epochs", "2",
             "--log_dir", "log", "--name", "x"]
    code, out, error = program("train.py", *train)
    assert code == 0 and f"videos of {tmp_path / 'disk'}, 9 videos" in out, error
    assert "recordings   4, by --group folder" in out and "held out     3 videos" in out
    run = tmp_path / "log/dualvar/pretrain/x"
    held = (run / "held_out.txt").read_text().splitlines()
    assert len(held) == 3 and len({os.path.dirname(path) for path in held}) == 1 and all(map(os.path.isfile, held))
    row = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
    assert row["recording/R@1"] == 1 and row["variance/between_video"] and "retrieval/R@1" not in row
    flags = json.loads((run / "flags.json").read_text())["flags"]
    assert (flags["dataset"], flags["split"], flags["storage"]) == ("videos of disk", None, "video")
    assert find_runs(tmp_path / "log/dualvar")["pretrain"][0].dataset_and_split == "videos of disk"

    weights = run / "model/backbone.pth.tar"
    code, _, error = program("embed.py", "--pretrain", weights, "--out", "index", "--list", run / "held_out.txt", *FAST)
    assert code == 0 and len(np.load("index/vectors.npy")) >= 3, error
    assert program("retrieval.py", *FAST, "--pretrain", weights, "--clips", "2", "--name", "y")[0] == 0
    code, _, error = program("models.weights", "save", weights, "shared")
    card = Path("shared/README.md").read_text()
    assert code == 0 and "Trained on videos of disk, without labels, 9 videos." in card and str(tmp_path) not in card
    code, out, error = program("analysis/report.py", tmp_path / "log/dualvar")
    assert code == 0 and "note: picture" not in out, out + error

    # recordings of a data set, whose classes have one each among those held out
    code, out, error = program("train.py", *SMALL, "--epochs", "1", "--eval_every", "1", "--holdout", "0.3", "--name",
                               "z", "--log_dir", "log")
    assert code == 0 and "held out     4 videos" in out, out + error
    held = (run.parent / "z/held_out.txt").read_text().splitlines()
    assert len(held) == 4 and len({name.rpartition("_c")[0] for name in held}) == 2
    assert "recording/R@1" not in (run.parent / "z/log.jsonl").read_text()

    code, out, error = program("train.py", *train, "--resume", "auto")
    assert code == 0 and "going on from" in out, error
    fill(tmp_path / "disk", "a/0.mp4", frames=12)  # another film of as many frames
    (tmp_path / "disk/a/0.mp4").write_bytes((tmp_path / "disk/a/0.mp4").read_bytes() + b"\0")
    code, _, error = program("train.py", *train, "--resume", "auto")
    assert code == 1 and "content of the videos" in error, error
    fill(tmp_path / "disk", "e/new.mp4", frames=50)
    code, _, error = program("train.py", *train, "--resume", "auto")
    assert code == 1 and "training list" in error, error


def test_a_video_that_has_gone_is_named_or_replaced(disk):
    videos = listed(disk).videos
    (disk / "one.mp4").unlink()
    index = videos.names.tolist().index("one.mp4")
    for replace in (False, True):
        data = VideoClips(videos, FrameReader(disk, (24, 32), ": mend it", UnlistedVideos), EvenClips(4, 2, 1),
                          FixedCrops(24), replace_bad=replace)
        if replace:
            assert "one.mp4 cannot be read (No such file" in data[0, index]["error"]
            continue
        with pytest.raises(DataError, match=r"one.mp4 cannot be read \(No such file or directory\): mend it"):
            data[0, index]


@pytest.mark.slow
def test_two_processes_share_the_count(disk, tmp_path):
    done = command("train.py", *SMALL, "--videos", disk, "--epochs", "1", "--eval_every", "1", "--eval_videos", "4",
                   "--name", "x", cwd=tmp_path, env=environment(tmp_path), processes=2)
    assert done.returncode == 0, done.stdout + done.stderr
    table, = (tmp_path / "lists").glob("*/files.csv")
    assert len(table.read_text().splitlines()) == 1 + len(HOSTILE)

"""Windows of videos by time, their vectors, and the index that embed.py writes."""
import csv
import faulthandler
import functools
import io
import json
import multiprocessing
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import FAST, REPOSITORY, environment
from test_video import SAMPLES, with_times, write_video

import embed
from analysis import index
from core.errors import DataError
from dataset import windows
from dataset.augment import prepare
from dataset.by_time import TOLERANCE, VideoFacts, cut_short, frames_at, look_at_video
from dataset.crops import FixedCrops
from dataset.loader import PatientDataset, surviving_items
from dataset.reader import FrameReader
from dataset.video import BrokenVideo, VideoFiles, open_video
from dataset.windows import Windows
from engine.embedding import embed_video, vectors_of
from engine.setup import seed_everything
from models import build_backbone
from models.classifier import pooled
from models.protocol import Protocol

SMALL = ["--img_dim", "24", "--seq_len", "4", *FAST[:2], "--device", "cpu"]
NETWORK = ["--pretrain", "random", "--net", "r3d", "--width", "0.0625"]


# --- windows -------------------------------------------------------------------------------------------------

def test_windows_cover_a_video_and_a_short_one_has_one():
    plan = Windows(2.0, 0.5, 4)
    facts = VideoFacts("x", 25.0, 0.0, 3.96)  # 4 seconds
    assert plan.count(facts) == 5 and plan.count(facts._replace(last=0.5)) == 1
    assert plan.count(facts._replace(last=3.44)) == 3
    assert plan.times(plan.starts(1, 2)).tolist() == [[0.5, 1.0, 1.5, 2.0], [1.0, 1.5, 2.0, 2.5]]


def truth_of(path, facts):
    """[(when it is shown, the frame)] of all frames, decoded from the start."""
    found, last = [], 0.0
    with open_video(path) as capture:
        while capture.grab():
            last = max(last, (capture.get(cv2.CAP_PROP_POS_MSEC) - facts.begin) / 1000)
            found.append((last, capture.retrieve()[1]))
    return found


def agrees(path, starts):
    facts = look_at_video(str(path))
    truth = truth_of(path, facts)
    assert facts.last == pytest.approx(truth[-1][0], abs=1e-3)
    for start in starts:
        wanted = start + np.arange(6) * 0.09
        found = list(frames_at(str(path), facts, wanted))
        assert len(found) == 6
        for when, picture in zip(np.minimum(wanted, facts.last), found, strict=True):
            right = [frame for shown, frame in truth if shown <= when + TOLERANCE][-1]
            if not np.array_equal(right, picture):
                return False
    return True


@pytest.mark.parametrize("suffix, codec", [(".mp4", "mp4v"), (".avi", "XVID"), (".mkv", "XVID")])
def test_a_frame_is_the_one_that_is_shown_at_its_time(suffix, codec, tmp_path):
    write_video(tmp_path / f"a/film{suffix}", codec)
    assert agrees(tmp_path / f"a/film{suffix}", (0.0, 0.77, 1.3, 2.2, 9.0))


def test_varying_rates_are_sampled_by_time(tmp_path):
    path = tmp_path / "a/film.mp4"
    write_video(path)
    tick = int.from_bytes(path.read_bytes().split(b"stts")[1][12:16], "big")
    data = path.read_bytes()
    for times in ([(20, 3 * tick // 2), (20, tick // 2), (20, tick)],  # and a frame that stands for half a second
                  [(20, tick), (1, 13 * tick), (38, 2 * tick // 3), (1, tick)]):
        path.write_bytes(with_times(data, times))
        assert agrees(path, (0.0, 0.77, 1.0, 1.3, 1.9))


@pytest.mark.skipif(not SAMPLES, reason="the real clips are not in ../shared/data")
@pytest.mark.slow
@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_real_videos_are_sampled_by_time(path):
    assert agrees(path, (0.0, 1.1, 2.3, 5.7))


def test_rotation_is_honoured(tmp_path):
    path = tmp_path / "a/film.mp4"
    write_video(path)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44  # the matrix of the track
    data[at:at + 36] = struct.pack(">9i", 0, 2**16, 0, -2**16, 0, 0, 0, 0, 2**30)
    upright = next(frames_at(str(path), look_at_video(str(path)), np.zeros(1)))
    path.write_bytes(data)
    turned = next(frames_at(str(path), look_at_video(str(path)), np.zeros(1)))
    assert np.array_equal(turned, np.rot90(upright, -1))


def test_what_is_no_video_or_has_no_frame_is_named(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no film" * 100)
    with pytest.raises(BrokenVideo, match=r"a.mp4 is no AVI"):
        look_at_video(str(tmp_path / "a.mp4"))
    write_video(tmp_path / "b/film.avi", "MJPG")
    data = (tmp_path / "b/film.avi").read_bytes()
    (tmp_path / "b/film.avi").write_bytes(data[:len(data) // 2])  # half of it, which can be decoded
    facts = look_at_video(str(tmp_path / "b/film.avi"))
    assert 0.5 < facts.last < 1.5 and len(list(frames_at(str(tmp_path / "b/film.avi"), facts, np.zeros(1)))) == 1


def test_a_vector_is_that_of_retrieval_for_the_same_frames(tmp_path):
    path = tmp_path / "a/film.mp4"
    write_video(path)  # 25 frames a second
    network = build_backbone("r3d", 0.0625).eval()
    network.protocol = Protocol(seq_len=4, ds=2, img_dim=24, resize=(30, 40))
    spans, vectors = embed_video(network, path, window=8 / 25, hop=4 / 25)
    assert vectors.shape == (14, network.feature_dim) and vectors.dtype == np.float32
    assert spans[1].tolist() == pytest.approx([0.16, 0.48])
    reader = FrameReader(tmp_path, (30, 40), "", VideoFiles)
    for number in (0, 3, 13):
        indices = 4 * number + np.arange(4)[None] * 2
        clips = torch.from_numpy(FixedCrops(24)(*reader.read("a/film", indices)))
        with torch.inference_mode():
            expected = pooled(network, prepare(clips[:, None]).squeeze(1)).numpy()
        np.testing.assert_allclose(vectors[number:number + 1], expected, rtol=1e-5, atol=1e-6)


# --- the index -----------------------------------------------------------------------------------------------

@pytest.fixture
def disk(tmp_path):
    """A folder of recordings of 2.4 seconds each."""
    root = tmp_path / "disk"
    for name in ("b/deep/er/two.mkv", "one.mp4", "b/ümlaut, \"quoted\".avi"):
        write_video(root / name, "mp4v" if name.endswith("mp4") else "XVID")
    (root / "notes.txt").write_text("no video")
    return root


def segments(folder="index"):
    with open(f"{folder}/segments.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_disk_is_embedded_once_and_only_what_changed_again(disk, program):
    flags = [*NETWORK, *SMALL, "--out", "index", "--window", "1", "--hop", "0.5", disk]
    code, out, error = program("embed.py", *flags)
    assert code == 0 and "9 windows in all, 9 of them new; 3 videos" in out, error
    assert "3; 1 other file in the folders, no videos by their names or hidden" in out
    rows, vectors = segments(), np.load("index/vectors.npy", mmap_mode="r")
    assert [int(row["row"]) for row in rows] == list(range(9)) and vectors.shape == (9, 32)
    assert len({row["file"] for row in rows}) == 3 and len({row["hash"] for row in rows}) == 3
    assert [row["start"] for row in rows[:3]] == ["0.000", "0.500", "1.000"] and rows[2]["end"] == "2.000"
    manifest = json.loads(Path("index/index.json").read_text())
    assert manifest["windows"] == {"window": 1.0, "hop": 0.5, "frames": 4}
    assert {row["weights"] for row in rows} == {manifest["weights"]}
    before = [(path, path.read_bytes()) for path in (Path("index/vectors.npy"), Path("index/segments.csv"))]
    code, out, error = program("embed.py", *flags)
    assert code == 0 and "9 windows in all, 0 of them new" in out, error
    assert all(path.read_bytes() == content for path, content in before)

    write_video(disk / "one.mp4", "mp4v", frames=45)  # another content
    (disk / "broken.mp4").write_bytes(b"no film")
    write_video(disk / "three.mp4")
    code, out, error = program("embed.py", *flags)
    assert code == 0 and "11 windows in all, 5 of them new; 4 videos" in out, out + error
    assert "1 could not be read, or not to the end: index/unreadable.csv" in error and "broken.mp4" in error
    rows = segments()
    own = [row for row in rows if row["file"].endswith("one.mp4")]
    assert len(own) == 2 and min(int(row["row"]) for row in own) >= 6
    again = np.load("index/vectors.npy")
    assert np.array_equal(again[:9][[int(row["row"]) for row in rows if int(row["row"]) < 9]],
                          vectors[[int(row["row"]) for row in rows if int(row["row"]) < 9]])


def test_vectors_in_the_index_are_those_of_python(disk, program):
    code, _, error = program("embed.py", "--pretrain", "random", "--net", "r3d", "--width", "0.0625", *SMALL, "--out",
                             "index", disk / "one.mp4")
    assert code == 0, error
    seed_everything(0)
    network = build_backbone("r3d", 0.0625)
    network.protocol = Protocol(4, 4, 24)
    spans, vectors = embed_video(network, disk / "one.mp4")
    np.testing.assert_allclose(np.load("index/vectors.npy"), vectors, rtol=1e-5, atol=1e-6)
    assert [float(row["start"]) for row in segments()] == pytest.approx(spans[:, 0].round(3))


def test_what_a_kill_leaves_is_made_whole(disk, program):
    flags = [*NETWORK, *SMALL, "--out", "index", "--window", "1", "--hop", "0.5"]
    assert program("embed.py", *flags, disk)[0] == 0
    whole = np.load("index/vectors.npy")
    lines = Path("index/segments.csv").read_text().splitlines(keepends=True)
    # vectors are written before their segments
    for kept, rest in ((4, "4,half a li"), (0, ""), (6, '6,"'), (6, "6,/\udcc3")):
        Path("index/segments.csv").write_text("".join(lines[:kept + 1]) + rest if kept else rest, "utf-8",
                                              "surrogateescape")
        head = io.BytesIO()
        np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": (kept, 32)})
        text = head.getvalue()
        text = text[:8] + b"v\0" + text[10:-1].ljust(index.HEADER - 11) + b"\n"
        Path("index/vectors.npy").write_bytes(text + Path("index/vectors.npy").read_bytes()[index.HEADER:])
        code, out, error = program("embed.py", *flags, disk)
        assert code == 0 and f"9 windows in all, {9 - kept} of them new" in out, error
        assert np.array_equal(np.load("index/vectors.npy"), whole)
        assert Path("index/segments.csv").read_text() == "".join(lines)
    with open("index/vectors.npy", "r+b") as file:
        file.truncate(128 + 4 * 32 * 3)
    code, _, error = program("embed.py", *flags, disk)
    assert code == 1 and "vectors.npy is damaged" in error


@pytest.mark.parametrize("change, said", [
    (["--seed", "1"], "other weights"), (["--hop", "0.25"], "other windows"), (["--img_dim", "32"], "other clips"),
    (None, "other weights, dim")])
def test_another_index_is_not_mixed_in(change, said, disk, program):
    flags = [*SMALL, "--out", "index", "--window", "1", "--hop", "0.5", disk / "one.mp4"]
    assert program("embed.py", *NETWORK, *flags)[0] == 0
    code, _, error = program("embed.py", *(["--pretrain", "thumbnail", *flags] if change is None else
                                           [*NETWORK, *flags, *change]))
    assert code == 1 and f"index is an index of {said}" in error and "choose another --out" in error


def test_files_patterns_and_lists(disk, program):
    Path("list.txt").write_text(f"{disk}/b\n\n{disk}/one.mp4\n", encoding="utf-8")
    code, out, error = program("embed.py", *NETWORK, *SMALL, "--out", "x", "--list", "list.txt", "--dry_run")
    assert code == 0 and "videos       3" in out and not Path("x").exists(), error
    code, out, error = program("embed.py", *NETWORK, *SMALL, "--out", "x", f"{disk}/**/*.m*", "--dry_run")
    assert code == 0 and "videos       2" in out, error
    (disk / "b/again").symlink_to(disk)  # a circle
    (disk / "b/deep/again").symlink_to(disk / "b")
    code, out, error = program("embed.py", *NETWORK, *SMALL, "--out", "x", f"{disk}/**/*.m*", f"{disk}/b", "--dry_run")
    assert code == 0 and "videos       3" in out, error
    for flags, code_there, said in (
            ([], 2, "name videos, folders of videos, or a list"), (["nowhere"], 1, "no such file or folder"),
            (["--window", "0", disk], 2, "--window 0.0 is no time for windows"), ([disk / "notes.txt"], 1, ""),
            (["--hop", "nan", disk], 2, "--hop nan is no time for windows")):
        code, _, error = program("embed.py", *NETWORK, *SMALL, "--out", "x", *flags)
        assert code == code_there and said in error and "Traceback" not in error, error
    (disk / "empty").mkdir()
    code, _, error = program("embed.py", *NETWORK, *SMALL, "--out", "x", disk / "empty")
    assert code == 1 and "there is no video in what was named" in error


def test_rows_of_a_list_that_lead_nowhere_are_said_and_the_rest_is_embedded(disk, program):
    """Each in one row of the table, also after another run: what is gone, has no name in UTF-8, or leads nowhere."""
    os.link(disk / "one.mp4", os.fsencode(disk) + b"/b/\xe9.mp4")
    (disk / "b/dangling.mp4").symlink_to(disk / "nowhere.mp4")
    Path("list.txt").write_text(f"{disk}/gone.mp4\n{disk}/b\n", encoding="utf-8")
    flags = ["--pretrain", "thumbnail", *SMALL, "--out", "index", "--window", "1", "--hop", "0.5", "--list", "list.txt"]
    for new in (6, 0):
        code, out, error = program("embed.py", *flags)
        assert code == 0 and f"6 windows in all, {new} of them new; 2 videos could be opened" in out, error
        assert "3 could not be read" in error
        reasons = {Path(path).name: one.facts.reason for path, one in index.read_unreadable(Path("index")).items()}
        assert reasons == {"gone.mp4": "there is no such file or folder",
                           "\\udce9.mp4": "its name is not UTF-8: rename it",
                           "dangling.mp4": "cannot be read (No such file or directory)"}
    out = program("embed.py", *flags, "--prune")[1]
    assert "0 files of the index are gone: forgotten, with 0 windows" in out


def test_the_plan_counts_videos_that_can_be_taken_and_those_that_cannot(disk, program):
    for name in ("a\nb.mp4", "a\tb.mp4"):
        (disk / name).write_bytes(b"")
    code, out, error = program("embed.py", "--pretrain", "thumbnail", *SMALL, "--out", "x", "--dry_run", disk)
    said = " ".join(out.split())
    assert code == 0 and "videos 3; 2 that cannot be taken, such as" in said, out + error
    assert "it holds the control character '" in said and "': rename it; 1 other file in the folders" in said


def test_a_pattern_with_stars_that_stand_for_no_folders(disk, program):
    flags = ["--pretrain", "thumbnail", *SMALL, "--out", "x", "--dry_run"]
    code, out, error = program("embed.py", *flags, f"{disk}/**.mp4")
    assert code == 0 and "videos   1" in " ".join(out.split("\n")).replace("videos       1", "videos   1"), out + error


@pytest.mark.parametrize("flags, said", [
    (["--hop", "1e-30"], "--hop 1e-30 is no time for windows: give seconds, 0.001 or more"),
    (["--window", "nan"], "--window nan is no time for windows"),
    (["--net", "r3d"], "--net is of networks, and --pretrain thumbnail has none"),
    (["--precision", "bf16"], "--precision is of networks")])
def test_flags_that_make_no_sense(flags, said, disk, program):
    code, _, error = program("embed.py", "--pretrain", "thumbnail", *SMALL, "--out", "x", *flags, disk)
    assert code == 2 and error.startswith(f"error: {said}") and not Path("x").exists()


def test_a_folder_that_is_called_as_a_word_of_the_flags_changes_nothing(disk, program):
    Path("thumbnail").mkdir()
    assert program("embed.py", "--pretrain", "thumbnail", *SMALL, "--out", "index", disk / "one.mp4")[0] == 0
    assert index.read_manifest(Path("index"))["flags"]["pretrain"] == "thumbnail"


def test_a_disk_that_is_full_names_its_file_when_the_index_is_closed_too(tmp_path, monkeypatch):
    """What was not written is tried once more then."""
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with pytest.raises(OSError) as error, index.Index(tmp_path / "i", MANIFEST, ["weights"]) as one:
        one.vectors = open("/dev/full", "wb")  # noqa: SIM115
        one.append("/a", VideoFacts("h", 25.0, 0.0, 3.0), np.array([[0.0, 1.0]]), np.ones((1, 2), np.float32))
    assert error.value.filename == str(tmp_path / "i/vectors.npy")


def test_a_disk_that_is_full_leaves_whole_lines_of_segments(tmp_path):
    import resource
    facts, spans = VideoFacts("h", 25.0, 0.0, 30.0), np.stack([np.arange(20.0), np.arange(1, 21.0)], axis=1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with index.Index(tmp_path / "i", MANIFEST, ["weights"]) as one:
        one.append("/a", facts, spans, np.ones((20, 2), np.float32))
        text = (tmp_path / "i/segments.csv").read_bytes()
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(text) + 100, limits[1]))  # some lines and a half
        try:
            with pytest.raises(OSError) as error:
                one.append("/b", facts, spans, np.ones((20, 2), np.float32))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert error.value.filename == str(tmp_path / "i/segments.csv")
    assert (tmp_path / "i/segments.csv").read_bytes() == text and len(np.load(tmp_path / "i/vectors.npy")) == 20
    with index.Index(tmp_path / "i", MANIFEST, ["weights"]) as one:
        one.append("/b", facts, spans, np.ones((20, 2), np.float32))
    assert [segment.row for segment in index.segments_of(tmp_path / "i")] == list(range(40))


def test_a_copy_that_was_stopped_is_said_and_what_there_is_of_it_is_embedded(disk, program):
    write_video(disk / "long.avi", "MJPG", frames=200)
    data = (disk / "long.avi").read_bytes()
    (disk / "long.avi").write_bytes(data[:len(data) // 2])
    flags = ["--pretrain", "thumbnail", *SMALL, "--out", "index", "--window", "1", "--hop", "1", disk]
    for more in ((), (), ("--retry",), ("--retry",), ("touch",), ("stopped",)):
        if more == ("touch",):
            os.utime(disk / "long.avi", (9, 9))
        if more == ("stopped",):  # before the table was written
            Path("index/unreadable.csv").unlink()
        code, out, error = program("embed.py", *flags, *(word for word in more if word.startswith("-")))
        assert code == 0 and "4 videos could be opened" in out, error
        assert "1 could not be read, or not to the end" in error and "header announces 8.0 s: it was cut off" in error
    assert 2 <= len([row for row in segments() if row["file"].endswith("long.avi")]) <= 4
    assert program("embed.py", *flags[:-1], "--out", "alone", disk / "long.avi")[0] == 0


def test_a_copy_that_was_stopped_is_embedded_after_a_kill_before_its_windows(disk, program, monkeypatch):
    write_video(disk / "long.avi", "MJPG", frames=200)
    data = (disk / "long.avi").read_bytes()
    (disk / "long.avi").write_bytes(data[:len(data) // 2])
    flags = ["--pretrain", "thumbnail", *SMALL, "--out", "index", "--window", "1", "--hop", "1", disk]
    def killed(*_):
        raise DataError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(embed, "embed_batch", killed)
        assert program("embed.py", *flags)[0] == 1
    assert "long.avi" in Path("index/unreadable.csv").read_text() and not segments()
    for _ in range(2):
        code, _, error = program("embed.py", *flags)
        assert code == 0 and "1 could not be read, or not to the end" in error, error
        assert 2 <= len([row for row in segments() if row["file"].endswith("long.avi")]) <= 4


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
@pytest.mark.parametrize("suffix, codec", [(".ts", "libx264"), (".mpg", "mpeg2video")])
def test_joined_files_whose_time_stamps_start_again_are_refused(suffix, codec, tmp_path):
    part, joined = tmp_path / f"part{suffix}", tmp_path / f"joined{suffix}"
    subprocess.run(["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc2=rate=25:size=64x48", "-t", "6", "-c:v",
                    codec, part], stdin=subprocess.DEVNULL, check=True)
    assert cut_short(look_at_video(str(part))) is None
    joined.write_bytes(part.read_bytes() * 2)
    with pytest.raises(BrokenVideo, match="has time stamps that start again, as files have that were joined"):
        look_at_video(str(joined))
    mended = tmp_path / "mended.mp4"
    subprocess.run(["ffmpeg", "-v", "quiet", "-i", joined, mended], stdin=subprocess.DEVNULL, check=True)
    facts = look_at_video(str(mended))
    assert facts.seconds == pytest.approx(12, abs=0.2) and cut_short(facts) is None


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
def test_slow_videos_of_which_no_times_are_known_are_refused(tmp_path):
    def made(name, codec):
        source = ["-f", "lavfi", "-i", "testsrc2=rate=1/5:size=64x48", "-t", "60", "-c:v", codec, tmp_path / name]
        if subprocess.run(["ffmpeg", "-v", "error", *source], stdin=subprocess.DEVNULL, capture_output=True).returncode:
            pytest.skip(f"this ffmpeg has no {codec}")
        return str(tmp_path / name)

    assert look_at_video(made("a.mkv", "mpeg4")).seconds == pytest.approx(60)
    with pytest.raises(BrokenVideo, match="does not say when its frames are shown: `ffmpeg -i FILE -c copy NEW.mp4`"):
        look_at_video(made("b.mkv", "libx264"))
    assert look_at_video(made("c.mp4", "libx264")).seconds == pytest.approx(60)


def test_a_trim_by_an_edit_list_is_no_copy_that_was_stopped(tmp_path):
    path = tmp_path / "film.mp4"
    write_video(path, frames=200)
    data = bytearray(path.read_bytes())
    tick = int.from_bytes(data.split(b"stts")[1][12:16], "big")
    entry, whole = data.index(b"elst") + 12, data.index(b"mvhd") + 20
    half = int.from_bytes(data[whole:whole + 4], "big") // 2
    data[whole:whole + 4] = struct.pack(">I", half)
    data[entry:entry + 8] = struct.pack(">II", half, 100 * tick)  # how long; from which time of the track on
    path.write_bytes(data)
    facts = look_at_video(str(path))
    assert facts.seconds == pytest.approx(4, abs=0.05) and cut_short(facts) is None
    assert cut_short(facts._replace(announced=8.0))


MANIFEST = {"weights": "x", "dim": 2, "windows": {"window": 1.0, "hop": 1.0, "frames": 4},
            "clips": {"resize": [3, 4], "img_dim": 2}, "flags": {}}


def test_damaged_indices_are_named(tmp_path):
    facts = VideoFacts("h", 25.0, 0.0, 3.0)
    with index.Index(tmp_path / "i", MANIFEST, ["weights"]) as one:
        one.append("/a", facts, np.array([[0.0, 1.0], [1.0, 2.0]]), np.ones((2, 2), np.float32))
        with pytest.raises(DataError, match="another run is writing there"):
            index.Index(tmp_path / "i", MANIFEST, ["weights"])
    text = (tmp_path / "i/segments.csv").read_text()
    for damaged, said in ((text.replace("1,/a", "0,/a"), "row 3 is damaged"), (text.replace("row,", "r,"), "row 1 is"),
                          (text.replace("1.000", "x"), "row 2 is damaged"), (text + "3,4\n", "row 4 is damaged"),
                          (text.replace("0.000", "nan"), "row 2 is damaged")):
        (tmp_path / "i/segments.csv").write_text(damaged)
        with pytest.raises(DataError, match=f"segments.csv {said}"):
            index.Index(tmp_path / "i", MANIFEST, ["weights"])
    (tmp_path / "i/index.json").unlink()
    with pytest.raises(DataError, match="without index.json"):
        index.Index(tmp_path / "i", MANIFEST, ["weights"])


def crash_at(name, what):
    """A function that ends its process, as a decoder that crashes does, at a file of that name."""
    def crashing(path, *more):
        if str(path).endswith(name):
            faulthandler.disable()  # which pytest has put on
            os.kill(os.getpid(), signal.SIGSEGV)
        return what(path, *more)
    return crashing


@pytest.mark.parametrize("module, function", [(embed, "look_at_video"), (windows, "window_clips")])
def test_a_decoder_that_crashes_costs_its_file_alone(module, function, disk, program, monkeypatch):
    others = {*multiprocessing.active_children()}
    write_video(disk / "six.mp4")
    monkeypatch.setattr(module, function, crash_at("one.mp4", getattr(module, function)))
    monkeypatch.setattr(windows, "CHUNK", 3 * 4 * 24**2)  # each window by itself
    flags = ["--pretrain", "thumbnail", *SMALL, "--out", "index", "--window", "1", "--hop", "0.5", disk]
    flags[flags.index("--workers") + 1] = "2"
    code, out, error = program("embed.py", *flags)
    assert code == 0 and "9 windows in all, 9 of them new" in out, error
    assert "1 could not be read" in error and "one.mp4': its process died (signal " in error
    rows = segments()
    assert sorted({row["file"] for row in rows}) == sorted(
        str(disk / name) for name in ("b/deep/er/two.mkv", "six.mp4", "b/ümlaut, \"quoted\".avi"))
    assert {*multiprocessing.active_children()} <= others
    code, out, error = program("embed.py", *flags)  # it is not tried again
    assert code == 0 and "1 of them, unchanged, was not tried again (--retry does)" in error
    monkeypatch.undo()
    os.chdir(disk.parent)
    assert "3 of them new" in program("embed.py", *flags, "--retry")[1] and len(segments()) == 12


def test_items_that_end_their_worker_cost_themselves_and_their_group():
    class Items(PatientDataset):
        def __len__(self):
            return 12

        def patience(self, index):
            return 0.3 if index == 10 else 100

        def __getitem__(self, index):
            while index == 10:  # as where a decoder finds no end
                pass
            if index in (3, 4, 9):
                faulthandler.disable()
                os.kill(os.getpid(), signal.SIGKILL if index == 4 else signal.SIGABRT)  # 4: as where memory runs out
            if index == 11:
                raise RuntimeError("its own")
            return {"index": index, "error": ""}

    found = []
    with pytest.raises(RuntimeError, match="its own") as raised:
        for item in surviving_items(Items(), 2, groups=[0, 0, 0, 1, 2, 2, 1, 3, 3, 3, 4, 5]):
            time.sleep(0.02)  # while workers end
            found.append((item["index"], item.get("lasting")))
            assert ("find no end" in item["error"]) == (item["index"] == 10)
    assert found == [(0, None), (1, None), (2, None), (3, True), (4, False), (7, None), (8, None), (9, True),
                     (10, True)]
    assert 'raise RuntimeError("its own")' in str(raised.value.__cause__)  # where in the worker


def test_an_index_whose_vectors_were_only_begun_goes_on(tmp_path):
    index.Index(tmp_path / "i", MANIFEST, ["weights"]).close()
    for name in ("vectors.npy", "segments.csv"):
        (tmp_path / "i" / name).write_bytes(b"")
    index.Index(tmp_path / "i", MANIFEST, ["weights"]).close()
    assert np.load(tmp_path / "i/vectors.npy").shape == (0, 2)


def test_a_jump_of_the_clock_is_no_video_of_days(tmp_path):
    path = tmp_path / "jump.mp4"
    write_video(path, frames=20)
    data = path.read_bytes().replace(b"edts", b"free")  # which says how long it was before
    tick = int.from_bytes(data.split(b"stts")[1][12:16], "big")  # of 1/25 s
    path.write_bytes(with_times(data, [(9, tick), (1, 4000 * 25 * tick), (10, tick)]))
    with pytest.raises(BrokenVideo, match="shows no new frame for 1.11 hours, 1 at most: cut it there"):
        look_at_video(str(path))
    path.write_bytes(with_times(data, [(9, tick), (1, 20 * 25 * tick), (10, tick)]))
    assert 20 < look_at_video(str(path)).seconds < 22


def test_broken_files_are_tried_again_when_they_change(disk, program, monkeypatch):
    (disk / "broken.mp4").write_bytes(b"no film")
    (disk / "locked.mp4").write_bytes(b"no film")
    looked, own = [], embed.look_at_video

    def look(path):
        looked.append(Path(path).name)
        if path.endswith("locked.mp4"):
            raise BrokenVideo(path, "cannot be read") from OSError(5, "Input/output error")
        return own(path)

    monkeypatch.setattr(embed, "look_at_video", look)
    flags = ["--pretrain", "thumbnail", *SMALL, "--out", "index", "--window", "1", "--hop", "0.5", disk]
    for more, expected, said in (
            ([], ["broken.mp4", "locked.mp4", "one.mp4", "two.mkv", "ümlaut, \"quoted\".avi"], "unreadable.csv"),
            ([], ["locked.mp4"], "1 of them, unchanged, was not tried again"),
            (["--retry"], ["broken.mp4", "locked.mp4"], "unreadable.csv")):
        looked.clear()
        code, out, error = program("embed.py", *flags, *more)
        assert code == 0 and sorted(looked) == expected and "2 could not be read" in error and said in error, error
    looked.clear()
    write_video(disk / "broken.mp4")
    code, out, error = program("embed.py", *flags)
    assert sorted(looked) == ["broken.mp4", "locked.mp4"] and "12 windows in all, 3 of them new" in out, error
    assert "1 could not be read" in error and "not tried again" not in error


def test_videos_that_could_be_opened_are_counted_as_they_are_now(disk, program):
    flags = ["--pretrain", "thumbnail", *SMALL, "--out", "index", "--window", "1", "--hop", "0.5", disk / "one.mp4"]
    assert "3 windows in all, 3 of them new; 1 video could" in program("embed.py", *flags)[1]
    (disk / "one.mp4").write_bytes(bytes((disk / "one.mp4").stat().st_size))
    for more in ([], [], ["--retry"], []):
        code, out, _ = program("embed.py", *flags, *more)
        assert code == 1 and "0 windows in all, 0 of them new; 0 videos could be opened" in out
    assert index.read_files(Path("index")) == {}


@pytest.mark.parametrize("together", [1, 2, 9])
def test_a_file_that_is_broken_in_its_middle_keeps_its_beginning(together, disk, program, monkeypatch):
    monkeypatch.setattr(windows, "CHUNK", 3 * 4 * 24**2 * together)
    own = windows.window_clips

    def clips(path, facts, plan, size, first, count):
        if path.endswith("one.mp4") and first + count > 1:
            raise BrokenVideo(path, "has a frame that cannot be decoded")
        return own(path, facts, plan, size, first, count)

    monkeypatch.setattr(windows, "window_clips", clips)
    flags = ["--pretrain", "thumbnail", *SMALL, "--out", "index", "--window", "1", "--hop", "0.5", disk]
    assert "7 windows in all, 7 of them new; 3 videos" in program("embed.py", *flags)[1]
    code, out, error = program("embed.py", *flags)
    assert "7 windows in all, 0 of them new; 3 videos" in out and "not tried again" in error
    monkeypatch.setattr(windows, "window_clips", own)
    assert "9 windows in all, 2 of them new" in program("embed.py", *flags, "--retry")[1]
    assert "could not be read" not in program("embed.py", *flags)[2]


def test_files_that_are_gone_are_forgotten_when_it_is_asked_for(disk, program):
    (disk / "broken.mp4").write_bytes(b"no film")
    flags = ["--pretrain", "thumbnail", *SMALL, "--out", "index", "--window", "1", "--hop", "0.5", disk]
    assert program("embed.py", *flags)[0] == 0
    before, rows = np.load("index/vectors.npy"), segments()
    for name in ("one.mp4", "broken.mp4"):
        (disk / name).unlink()
    out = program("embed.py", *flags)[1]
    assert segments() == rows  # not by itself
    assert "9 windows in all, 0 of them new; 3 of files that were not named or are gone (--prune forgets what" in out
    assert "6 of files that were not named or are gone" in program("embed.py", *flags[:-1], disk / "b/deep")[1]
    code, out, error = program("embed.py", *flags, "--prune")
    assert code == 0 and "1 file of the index is gone: forgotten, with 3 windows" in out and not error
    assert "6 windows in all, 0 of them new; 2 videos" in out
    assert segments() == [row for row in rows if not row["file"].endswith("one.mp4")]
    assert np.array_equal(np.load("index/vectors.npy"), before)
    assert index.read_files(Path("index")).keys() == {row["file"] for row in segments()}
    assert index.read_unreadable(Path("index")) == {}
    write_video(disk / "one.mp4")
    assert "9 windows in all, 3 of them new" in program("embed.py", *flags, "--prune")[1]


def test_a_run_that_is_stopped_while_it_looks_at_files_looks_at_the_others_then(disk, program, monkeypatch):
    (disk / "broken.mp4").write_bytes(b"no film")
    looked, own = [], embed.look_at_video

    def look(path):
        if len(looked) == 2:
            raise KeyboardInterrupt
        looked.append(Path(path).name)
        return own(path)

    monkeypatch.setattr(embed, "KEEP", 0)
    monkeypatch.setattr(embed, "look_at_video", look)
    flags = ["--pretrain", "thumbnail", *SMALL, "--out", "index", "--window", "1", "--hop", "0.5", disk]
    assert program("embed.py", *flags)[0] == 130
    monkeypatch.setattr(embed, "look_at_video", lambda path: (looked.append(Path(path).name), own(path))[1])
    code, out, error = program("embed.py", *flags)
    assert code == 0 and "9 windows in all, 9 of them new" in out, error
    assert sorted(looked) == ["broken.mp4", "one.mp4", "two.mkv", "ümlaut, \"quoted\".avi"]


def test_a_run_that_is_stopped_amid_windows_has_their_files_and_faults_in_its_tables(disk, program, monkeypatch):
    own, faulty = windows.window_clips, []

    def clips(path, *more):
        if len(faulty) == 2:
            raise KeyboardInterrupt
        if path.endswith(("one.mp4", "two.mkv")):
            faulty.append(path)
            raise BrokenVideo(path, "has a frame that cannot be decoded")
        return own(path, *more)

    monkeypatch.setattr(embed, "KEEP", 0)
    monkeypatch.setattr(windows, "CHUNK", 1)
    monkeypatch.setattr(windows, "window_clips", clips)
    flags = ["--pretrain", "thumbnail", *SMALL, "--out", "index", "--window", "1", "--hop", "0.5"]
    files = [str(disk / name) for name in ("b/ümlaut, \"quoted\".avi", "one.mp4", "b/deep/er/two.mkv")]
    assert program("embed.py", *flags, *files)[0] == 130
    assert {row["file"] for row in segments()} == {files[0]} and {*files} == index.read_files(Path("index")).keys()
    assert index.read_unreadable(Path("index")).keys() == {files[1]}


@pytest.mark.kept
@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_like_one_that_was_not(tmp_path):
    for i in range(12):
        write_video(tmp_path / f"disk/{i:02d}.mp4", frames=40 + i)
    command = [sys.executable, REPOSITORY / "embed.py", *NETWORK, *SMALL, "--workers", "1", "--window", "0.5", "--hop",
               "0.1", tmp_path / "disk", "--out"]
    env = environment(tmp_path)
    subprocess.run([*command, tmp_path / "whole"], check=True, env=env, capture_output=True)
    killed = 0
    for wait in (0.0, 0.05, 0.2):
        process = subprocess.Popen([*command, tmp_path / "killed"], env=env, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL, start_new_session=True)
        rows = tmp_path / "killed/segments.csv"
        size = rows.stat().st_size if rows.exists() else 0
        while process.poll() is None and (not rows.exists() or rows.stat().st_size <= size + 60):
            time.sleep(0.005)
        time.sleep(wait)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            killed += 1
        process.wait()
    subprocess.run([*command, tmp_path / "killed"], check=True, env=env, capture_output=True)
    assert killed
    for name in ("vectors.npy", "segments.csv"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()


# --- frame rates ---------------------------------------------------------------------------------------------

@functools.cache
def landscape():
    noise = np.random.default_rng(0).standard_normal((120, 240, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 7)
    return np.clip(128 + 70 * smooth / smooth.std(), 0, 255)


def scene(seconds):
    """(48, 64, 3) uint8: what a camera that pans sees at a time."""
    there = np.float32([[1, 0, -10 - 15 * seconds], [0, 1, -30 - 12 * np.sin(seconds)]])
    return cv2.warpAffine(landscape(), there, (64, 48)).astype(np.uint8)


UNIT = Fraction(1, 600)  # second
STEPS = {"25": [24] * 200, "30": [20] * 240, "60": [10] * 480,
         "varying": np.random.default_rng(0).permutation([5, 15] * 240).tolist()}  # how long frames are shown


def film(path, steps):
    """A video of the scene, by PyAV, in H.264."""
    import av
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=round(600 * len(steps) / sum(steps)), options={"crf": "12"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = stream.time_base = UNIT
        for shown in np.cumsum([0, *steps[:-1]]).tolist():
            frame = av.VideoFrame.from_ndarray(scene(shown / 600), format="bgr24")
            frame.pts, frame.time_base = shown, UNIT
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


def film_by_opencv(path, steps):
    """As `film`, by OpenCV, in MPEG-4."""
    usual = sum(steps) // len(steps)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 600 / usual, (64, 48))
    for shown in np.cumsum([0, *steps[:-1]]).tolist():
        writer.write(scene(shown / 600))
    writer.release()
    tick = int.from_bytes(path.read_bytes().split(b"stts")[1][12:16], "big")
    path.write_bytes(with_times(path.read_bytes(), [(1, step * tick // usual) for step in steps]))


@pytest.mark.parametrize("by", [film_by_opencv, film])
def test_one_motion_at_any_frame_rate_has_the_same_vectors(by, tmp_path):
    """And clips by a frame stride, as of other tools, do not."""
    if by is film:
        pytest.importorskip("av", reason="PyAV of benchmarks/requirements.txt")
    seed_everything(0)
    network = build_backbone("r3d", 0.125).eval()
    network.protocol = Protocol(seq_len=8, ds=4, img_dim=32, resize=(36, 48))
    found, strided = {}, {}
    for name, steps in STEPS.items():
        path = str(tmp_path / f"{name}.mp4")
        by(Path(path), steps)
        facts = look_at_video(path)
        assert facts.last == pytest.approx(8 - steps[-1] / 600, abs=2e-3)
        spans, found[name] = embed_video(network, path, window=1.6, hop=0.6)  # 5 frames a second
        assert spans[:, 0] == pytest.approx(0.6 * np.arange(11))
        # every sixth frame, from the same times on
        plan = Windows(48 * 8 / len(steps), 0.6, 8)
        clips = windows.window_clips(path, facts, plan, windows.ClipSize((36, 48), 32), 0, 11)
        strided[name] = vectors_of(network, torch.from_numpy(clips), torch.device("cpu"))
    mean = found["30"].mean(axis=0)  # as search centres: without it all vectors of a network are alike

    def cosines(one, other):
        one, other = one - mean, other - mean
        return (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)

    same = {name: cosines(found["30"], found[name]).min() for name in ("25", "60", "varying")}
    other = {name: cosines(found["30"], strided[name]).min() for name in ("25", "60")}
    assert min(same.values()) >= (0.99 if by is film else 0.98), same  # OpenCV's MPEG-4 is noisy
    assert all(other[name] < same[name] for name in other) and other["60"] < 0.9, other

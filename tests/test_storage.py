"""Packed frames and original videos: dataset/storage.py, process_data/src/pack.py, verify.py --storage packed."""
import csv
import gc
import json
import os
import re
import shutil
import signal
import time
import zipfile

import cv2
import numpy as np
import pytest
import torch
from helpers import (
    NARROW,
    SHARED,
    SMALL,
    InProcess,
    command,
    environment,
    frames_of,
    make_dataset,
    succeed,
)

import dataset.storage
import dataset.video
from core.errors import DataError
from core.files import take_lock
from dataset.clips import VideoClips
from dataset.crops import RandomCrop
from dataset.lists import read_class_index, read_list
from dataset.loader import TrainBatches, make_loader
from dataset.reader import FRAME_NAME, FrameFolders, FrameReader
from dataset.sampling import PretrainViews
from dataset.storage import SOURCES, Packed, PackedFrames
from dataset.video import VideoFiles
from models.weights.checkpoint import read_checkpoint
from process_data.src import extract_frame, frame_check, pack, verify

CLIPS = SHARED / "data" / "ucf101-5class" / "videos"
RUN, OTHER, TEST = "Run/v_Run_g02_c01", "air drumming/v_air drumming_g03_c02", "Run/v_Run_g01_c01"
PACK = "process_data/src/pack.py"
FLAGS = [*SMALL, *NARROW, "--batch_size", "4", "--epochs", "1", "--print_freq", "1", "--bn", "local", "--name", "x"]


def write_movie(path, frames=9, size=(40, 30)):
    """A video in which frame i is grey of level 20 i."""
    path.parent.mkdir(parents=True, exist_ok=True)
    movie = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, size)
    for i in range(frames):
        movie.write(np.full((*size[::-1], 3), 20 * i, np.uint8))
    movie.release()


def zip_folder(folder, path):
    """Pack a folder as it is, faults and all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        for frame in sorted(folder.iterdir()):
            file.writestr(frame.name, frame.read_bytes())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A data set in all three kinds of storage."""
    root = make_dataset(tmp_path_factory.mktemp("whole"))
    succeed(PACK, "--dataset", "ucf101", cwd=root, env=environment(root))
    for folder in (root / "ucf101/frames").glob("*/*"):
        write_movie(root / "ucf101/videos" / folder.parent.name / f"{folder.name}.avi")
    return root


@pytest.fixture
def root(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "data")


@pytest.fixture
def tool(root, monkeypatch, capsys):
    """Runs a tool in this process, its jobs too, on the data set under `root`."""
    for module in (pack, verify):
        monkeypatch.setattr(module, "run_jobs", lambda work, jobs, _: (x for x in [(job, work(job)) for job in jobs]))
    return InProcess(root, monkeypatch, capsys)


def packed_file(root, video=RUN):
    return root / "ucf101/packed" / f"{video}.zip"


def all_bytes(root):
    return {path.relative_to(root): path.read_bytes() for path in sorted(root.rglob("[!.]*.zip"))}


# what is packed

@pytest.mark.slow
def test_any_zip_program_reads_a_packed_video(whole):
    for folder in (whole / "ucf101/frames").glob("*/*"):
        with zipfile.ZipFile(packed_file(whole, f"{folder.parent.name}/{folder.name}")) as file:
            assert file.testzip() is None
            assert file.namelist() == [FRAME_NAME.format(i) for i in range(1, 10)]
            assert all(file.read(name) == (folder / name).read_bytes() for name in file.namelist())


def test_directories_longer_than_one_read(tmp_path):
    """600 frames: the directory is longer than what is read from the file's end at once."""
    folder = tmp_path / "frames/a/v"
    folder.mkdir(parents=True)
    jpeg = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    for i in range(1, 601):
        (folder / FRAME_NAME.format(i)).write_bytes(jpeg[:-2] + i.to_bytes(2, "little") + jpeg[-2:])
    assert pack.pack("a/v", tmp_path / "frames", tmp_path / "packed", True) == (600, None)
    indices = [0, 1, 299, 598, 599]
    kept, packed = (dict(enumerate(data for data, _ in source(tmp_path / name).read("a/v", indices)))
                    for source, name in ((FrameFolders, "frames"), (PackedFrames, "packed")))
    assert kept == packed and len(set(kept.values())) == 5


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_bit_for_bit_those_of_the_frames(whole, workers):
    lists = whole / "lists/ucf101"
    videos = read_list(lists / "train_split01.csv", read_class_index(lists / "ClassInd.txt"))
    batches = {}
    for storage in ("frames", "packed"):
        reader = FrameReader(whole / "ucf101" / storage, (14, 18), source=SOURCES[storage])
        data = VideoClips(videos, reader, PretrainViews(4, 2), RandomCrop(12))
        if workers:
            data[0, 0]  # the parent reads too: nothing must be left open for the workers
        batches[storage] = [batch["clips"] for batch in make_loader(data, TrainBatches(len(videos), 4), workers)]
    assert len(batches["frames"]) == 3
    assert all(torch.equal(a, b) for a, b in zip(*batches.values(), strict=True))


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.slow
def test_training_from_packed_frames_is_training_from_frames(whole, tmp_path, processes):
    states = []
    for storage in ("frames", "packed"):
        succeed("train.py", *FLAGS, "--workers", "1", "--storage", storage, "--prefix", storage, cwd=tmp_path,
                env=environment(whole), processes=processes)
        folder = tmp_path / "log" / storage / "pretrain/x"
        row = json.loads((folder / "log.jsonl").read_text())
        losses = {name: value for name, value in row.items() if "loss" in name}
        states.append((read_checkpoint(folder / "model/latest.pth.tar")["state_dict"], losses))
    (kept, first), (packed, second) = states
    assert first == second and first
    assert all(torch.equal(value, packed[name]) for name, value in kept.items())


@pytest.mark.slow
def test_a_run_may_go_on_packed_but_not_with_other_pixels(whole, tmp_path):
    options = {"cwd": tmp_path, "env": environment(whole)}
    succeed("train.py", *FLAGS, **options)
    succeed("train.py", *FLAGS, "--resume", "auto", "--epochs", "2", "--storage", "packed", **options)
    done = command("train.py", *FLAGS, "--resume", "auto", "--epochs", "3", "--storage", "video", **options)
    assert done.returncode == 1 and "pixels of extracted frames there, of the videos here" in done.stderr
    succeed("train.py", *FLAGS, "--storage", "video", "--prefix", "movies", "--workers", "1", **options)


# pack.py

# pack.py, killed when it has heard of three packed videos and its worker is at the fourth
KILLED = """
import os, signal
from core.exits import run
from process_data.src import pack

def jobs(*arguments, run_jobs=pack.run_jobs):
    for count, found in enumerate(run_jobs(*arguments)):
        if count == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        yield found

if __name__ == "__main__":  # a worker imports this file too
    pack.run_jobs = jobs
    run(pack.main)
"""


@pytest.mark.slow
def test_killed_and_started_again(root, tmp_path):
    wanted = all_bytes(root)
    shutil.rmtree(root / "ucf101/packed")
    options = {"cwd": tmp_path, "env": environment(root)}
    (tmp_path / "killed.py").write_text(KILLED)
    killed = command(tmp_path / "killed.py", "--dataset", "ucf101", "--workers", "1", **options)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    done = all_bytes(root)
    assert 3 <= len(done) < len(wanted)
    (root / "ucf101/packed/Run/.partial_v_Run_g09_c01.zip").write_bytes(b"half")  # as of a video since removed
    times = {name: (root / name).stat().st_mtime_ns for name in done}
    out = succeed(PACK, "--dataset", "ucf101", **options)
    assert re.search(r"packed \d+, already there \d+, failed 0; ", out) and all_bytes(root) == wanted
    assert times == {name: (root / name).stat().st_mtime_ns for name in times}
    assert not list(root.rglob(".partial_*"))
    assert "packed 0, already there 16, failed 0; 0 frames" in succeed(PACK, "--dataset", "ucf101", **options)


@pytest.mark.parametrize("harm", ["truncated", "missing", "folder is newer", "frame is newer"])
def test_what_is_not_whole_or_old_is_packed_anew(root, tool, harm):
    wanted, path = all_bytes(root), packed_file(root)
    if harm == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif harm == "missing":
        path.unlink()
    else:
        frame = root / "ucf101/frames" / RUN / FRAME_NAME.format(9)
        shutil.copy(frame.with_name(FRAME_NAME.format(4)), frame.with_name("new"))
        frame.with_name("new").rename(frame)
        before, later = time.time() - 60, time.time() + 5
        os.utime(frame.parent, (later, later) if harm == "folder is newer" else (before, before))
        os.utime(frame, (later, later))
    code, out, _ = tool(PACK)
    assert code == 0 and "packed 1, already there 15, failed 0; 9 frames" in out
    assert (all_bytes(root) == wanted) == (not harm.endswith("is newer"))
    assert len(Packed(path).entries) == 9


@pytest.mark.parametrize("change, says", [
    (lambda old: b"", "zero-byte frames"), (lambda old: old[:300], "truncated frames"),
    (lambda old: b"\xff\xd8" + bytes(50) + b"\xff\xd9", "undecodable frames"), (None, "gaps in the numbering"),
    ("image_00004.jpg", "undecodable frames"), ("nowhere", "undecodable frames"), ("/dev/zero", "undecodable frames")])
def test_broken_frames_are_reported_and_not_packed(root, tool, change, says):
    frame = root / "ucf101/frames" / RUN / FRAME_NAME.format(4)
    if callable(change):
        frame.write_bytes(change(frame.read_bytes()))
    else:
        frame.unlink()
        if change:
            frame.symlink_to(change)
    shutil.rmtree(root / "ucf101/packed")
    code, out, err = tool(PACK)
    assert code == 1 and "packed 15, already there 0, failed 1" in out
    assert f"failed: {frame.parent}: {says} (" in err and "image_00004.jpg" in err
    assert not packed_file(root).exists() and packed_file(root, OTHER).exists()
    assert tool(PACK, "--allow_failures")[0] == 0


def test_a_second_run_is_refused(root, tool):
    with take_lock(root / "ucf101/packed", "--out"):
        code, _, err = tool(PACK)
    assert code == 1 and "another run is writing there" in err


def test_room_on_the_disk_is_looked_at_first(root, tool, monkeypatch):
    monkeypatch.setattr(pack.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 10))
    code, _, err = tool(PACK, "--out", root / "new")
    assert code == 1 and re.search(r"16 videos will take about \S+ GB and the disk has 1e-08 GB free", err)
    assert not all_bytes(root / "new")


def test_a_disk_that_is_full_ends_the_run(root, tool, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(pack.zipfile.ZipFile, "writestr", full)
    code, _, err = tool(PACK, "--out", root / "new")
    assert code == 1 and "No space left on device: make room and start the same command again" in err
    assert not list((root / "new").rglob("*.zip"))


def test_a_run_that_is_stopped_leaves_no_file_half_written(root, tool, monkeypatch):
    def stopped(work, todo, workers):
        work(todo[0])
        (root / "new" / todo[1]).parent.mkdir(parents=True, exist_ok=True)
        (root / "new" / f"{os.path.dirname(todo[1])}/.partial_x.zip").touch()  # of a worker that was killed
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(pack, "run_jobs", stopped)
    assert tool(PACK, "--out", root / "new")[0] == 130
    assert len(list((root / "new").rglob("*.zip"))) == 1


def test_frames_of_two_sizes_are_not_mixed(root, tool):
    for folder, side in (("frames", 128), ("packed", 240)):
        row = dict.fromkeys(extract_frame.COLUMNS, "9") | {"video": RUN, "short_side": side}
        with open(root / "ucf101" / folder / "manifest.csv", "w", newline="") as file:
            table = csv.DictWriter(file, row)
            table.writeheader()
            table.writerow(row)
    code, _, err = tool(PACK)
    assert code == 2 and "packed from frames of --short_side 240, those in" in err and "are of 128" in err


# damage

DAMAGE = {
    "missing": (lambda path: path.unlink(), r"packed video \S+ cannot be read \(No such file or directory\)"),
    "folder": (lambda path: path.unlink() or path.mkdir(), r"cannot be read \(Is a directory\)"),
    "device": (lambda path: path.unlink() or path.symlink_to("/dev/zero"), r"cannot be read \(not a regular file\)"),
    "empty": (lambda path: path.write_bytes(b""), r"is not whole, or not as pack.py writes it \(0 bytes\)"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-1]), "is not whole"),
    "longer": (lambda path: path.write_bytes(path.read_bytes() + b"x"), "is not whole"),
    "no zip": (lambda path: path.write_bytes(bytes(5000)), "is not whole"),
    "directory": (lambda path: path.write_bytes(path.read_bytes()[:-60] + bytes(8) + path.read_bytes()[-52:]),
                  "has a damaged directory"),
    "frame": (lambda path: path.write_bytes(bytes(2000) + path.read_bytes()[2000:]),
              r"is damaged: the checksum of image_00001.jpg in it is wrong"),
    "fewer": (lambda path: zip_some(path, 3), "has no image_00005.jpg, of 3 frames"),
    "gap": (lambda path: zip_some(path, 9, but=5), "has no image_00005.jpg, of 8 frames"),
    "compressed": (lambda path: zip_some(path, 9, zipfile.ZIP_DEFLATED), "damaged directory")}


def zip_some(path, count, method=zipfile.ZIP_STORED, but=None):
    with zipfile.ZipFile(path) as file:
        frames = {name: file.read(name) for name in file.namelist()[:count] if name != FRAME_NAME.format(but or 0)}
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in frames.items():
            file.writestr(name, data)


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_named(root, name):
    harm, says = DAMAGE[name]
    harm(packed_file(root))
    gc.collect()
    already_open = len(os.listdir("/proc/self/fd"))
    reader = FrameReader(root / "ucf101/packed", (12, 16), ": mend it", PackedFrames)
    with pytest.raises(DataError, match=says) as error:
        frames_of(reader, RUN, np.array([0, 4]))
    assert str(packed_file(root)) in str(error.value) and str(error.value).endswith(": mend it")
    del reader, error
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == already_open


@pytest.mark.slow
def test_training_says_how_to_mend_and_goes_on_without(root, tmp_path):
    packed_file(root).unlink()
    flags, options = [*FLAGS, "--storage", "packed", "--workers", "1"], {"cwd": tmp_path, "env": environment(root)}
    done = command("train.py", *flags, **options)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert re.search(r"^error: packed video \S*Run/v_Run_g02_c01.zip cannot be read \(No such file or directory\): "
                     r"remove the file if it is there, and python process_data/src/pack.py --dataset ucf101 packs it "
                     r"again; .*--skip_bad_samples N trains on without them$", done.stderr.strip().splitlines()[-1])
    succeed("train.py", *flags, "--skip_bad_samples", "3", "--prefix", "skip", **options)
    shutil.rmtree(root / "ucf101/packed")
    done = command("train.py", *flags, "--prefix", "none", **options)
    assert done.returncode == 1
    assert re.search("packed videos of ucf101 are not at .*packed: run process_data/src/pack.py", done.stderr)


# verify.py --storage packed

def findings(root, tool, *flags):
    code, out, err = tool("process_data/src/verify.py", *flags)
    with open(root / "lists/ucf101/verify.csv", newline="") as file:
        return code, {(row["fault"], row["video"]): row["detail"] for row in csv.DictReader(file)}, out + err


def test_the_doctor_finds_in_packed_frames_what_it_finds_in_frames(root, tool):
    faults = {"g02_c01": lambda old: b"", "g02_c02": lambda old: old[:300], "g03_c01": lambda old: b"garbage" * 50,
              "g03_c02": lambda old: old[:-60] + b"\xff\xd9", "g04_c01": None}
    for video, change in faults.items():
        frame = root / "ucf101/frames/Run" / f"v_Run_{video}" / FRAME_NAME.format(4)
        frame.write_bytes(change(frame.read_bytes())) if change else frame.unlink()
    frame = root / "ucf101/frames/Run/v_Run_g04_c02" / FRAME_NAME.format(4)
    cv2.imwrite(str(frame), cv2.imread(str(frame))[:20])
    frames = root / "ucf101/frames"
    shutil.rmtree(frames / OTHER)
    shutil.copytree(frames / TEST, frames / OTHER)  # a test video under a training video's name
    for folder in frames.glob("*/*"):
        zip_folder(folder, packed_file(root, f"{folder.parent.name}/{folder.name}"))
    code, found, _ = findings(root, tool)
    assert code == 1 and len(found) == 7 and (verify.IDENTICAL, OTHER) in found
    shutil.rmtree(frames)
    assert findings(root, tool, "--storage", "packed")[:2] == (1, found)


def test_the_doctor_sees_what_happened_to_packed_files(root, tool):
    assert findings(root, tool, "--storage", "packed")[:2] == (0, {})
    packed_file(root, OTHER).unlink()
    whole = packed_file(root).read_bytes()
    middle = whole.index(b"image_00004.jpg") + 200
    packed_file(root).write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1:])
    packed_file(root, TEST).write_bytes(packed_file(root, TEST).read_bytes()[:-1])
    code, found, out = findings(root, tool, "--storage", "packed", "--quick")
    assert code == 1 and set(found) == {(frame_check.NO_PACKED, OTHER), (frame_check.CHANGED, RUN),
                                        (frame_check.BAD_PACKED, TEST)}
    assert found[frame_check.CHANGED, RUN] == "image_00004.jpg"
    assert "remove the packed files of damaged videos and run pack.py" in out


# videos

def test_video_frames_come_in_their_order(tmp_path):
    write_movie(tmp_path / "Run/a film.of#1.AVI")
    write_movie(tmp_path / "Run/a film.avi", 3)
    write_movie(tmp_path / "val/Jump/k.avi")
    write_movie(tmp_path / "val/Jump/other\nk.avi")
    reader = FrameReader(tmp_path, (12, 16), "", VideoFiles)
    frames = frames_of(reader, "Run/a film.of#1", np.array([[7, 0, 3], [3, 3, 8]]))
    assert frames.shape == (2, 3, 12, 16, 3)
    assert frames[..., 6, 8, 1] == pytest.approx(20 * np.array([[7, 0, 3], [3, 3, 8]]), abs=4)
    assert frames_of(reader, "Run/a film", np.array([2])).shape == (1, 12, 16, 3)
    assert frames_of(reader, "Jump/k", np.array([2])).shape == (1, 12, 16, 3)


def test_bad_videos_are_named(tmp_path):
    write_movie(tmp_path / "Run/short.avi", 3)
    write_movie(tmp_path / "Run/two.avi", 3)
    shutil.copy(tmp_path / "Run/two.avi", tmp_path / "Run/two.mkv")
    (tmp_path / "Run/broken.mp4").write_bytes(b"no film" * 100)
    (tmp_path / "Run/it1.avi").write_bytes(b"no film" * 100)
    reader = FrameReader(tmp_path, (12, 16), ": mend it", VideoFiles)
    for video, says in {"Run/short": r"frame 6 of video \S*Run/short.avi cannot be decoded, 3 before it can",
                        "Run/two": r"two has 2 files in .*two.avi", "Run/none": "none has no file in",
                        "Dive/none": "none has no file in", "Run/broken": "broken.mp4 is no AVI",
                        "Run/it1": "it1.avi is no AVI"}.items():
        with pytest.raises(DataError, match=says + ".*: mend it$"):
            frames_of(reader, video, np.array([2, 5]))


def with_reference(data, path):
    """An MP4 whose samples are, as it says, in the file at `path`. data: an MP4 that has them and then its index."""
    old = b"\0\0\0\x0curl \0\0\0\1"
    name = os.fsencode(path)
    name += bytes(len(name) % 2)
    # an alias of Macintosh: 150 bytes about volume and folder, then the path (2), then the end (-1)
    alias = bytes(150) + b"\0\2" + len(name).to_bytes(2, "big") + name + b"\xff\xff\0\0"
    new = (12 + len(alias)).to_bytes(4, "big") + b"alis\0\0\0\0" + alias
    assert data.count(old) == 1 and data.index(b"mdat") < data.index(b"moov")
    for box in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        at = data.index(box) - 4
        size = int.from_bytes(data[at:at + 4], "big") + len(new) - len(old)
        data = data[:at] + size.to_bytes(4, "big") + data[at + 4:]
    samples, index = data.index(b"mdat") + 4, data.index(b"moov") - 4
    return data[:samples] + bytes(index - samples) + data[index:].replace(old, new)


def test_no_other_file_is_read_for_a_video(tmp_path, monkeypatch):
    """Playlists are refused by their first bytes, and by FFmpeg; MP4's references are not followed."""
    write_movie(tmp_path / "Run/film.avi", 3)
    writer = cv2.VideoWriter(str(tmp_path / "Run/whole.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 25, (40, 30))
    for i in range(3):
        writer.write(np.full((30, 40, 3), 60 + 60 * i, np.uint8))
    writer.release()
    data = (tmp_path / "Run/whole.mp4").read_bytes()
    (tmp_path / "Run/reference.mp4").write_bytes(with_reference(data, tmp_path / "Run/whole.mp4"))
    (tmp_path / "Run/concat.mp4").write_text("ffconcat version 1.0\nfile film.avi\n")
    (tmp_path / "Run/device.mp4").symlink_to("/dev/zero")
    (tmp_path / "Run/1.avi").write_bytes((tmp_path / "Run/film.avi").read_bytes()[:500])
    os.mkfifo(tmp_path / "Run/2.avi")  # OpenCV would wait for it, as the second of a series of pictures
    reader = FrameReader(tmp_path, (30, 40), "", VideoFiles)
    monkeypatch.setenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", "enable_drefs;1|use_absolute_path;1")
    for video in ("Run/whole", "Run/reference"):
        assert frames_of(reader, video, np.array([1])).mean() == pytest.approx(120, abs=4)
    monkeypatch.delenv("OPENCV_FFMPEG_CAPTURE_OPTIONS")
    for video, says in {"Run/reference": "cannot be (opened|decoded)", "Run/concat": "concat.mp4 is no AVI",
                        "Run/1": "1.avi cannot be opened",
                        "Run/device": r"device.mp4 cannot be read \(not a regular file\)"}.items():
        with pytest.raises(DataError, match=says):
            frames_of(reader, video, np.array([1]))
    monkeypatch.setattr(dataset.video, "CONTAINER", re.compile(b""))
    with pytest.raises(DataError, match="by any decoder"):
        frames_of(reader, "Run/concat", np.array([1]))


def test_a_header_of_too_many_pixels_is_refused(tmp_path, monkeypatch):
    write_movie(tmp_path / "Run/film.avi", 3)
    monkeypatch.setattr(dataset.video, "MOST_PIXELS", 40 * 30 - 1)
    with pytest.raises(DataError, match="film.avi has a header that says 40 x 30 pixels"):
        frames_of(FrameReader(tmp_path, (12, 16), "", VideoFiles), "Run/film", np.array([1]))


@pytest.mark.skipif(not CLIPS.is_dir(), reason="the real clips are not in ../shared/data")
@pytest.mark.slow
def test_videos_and_extracted_frames_are_the_same_within_jpeg_loss(tmp_path):
    for path in sorted(CLIPS.glob("*/*_g01_c01.avi")):
        name = f"{path.parent.name}/{path.stem}"
        (tmp_path / name).mkdir(parents=True)
        count = extract_frame.decode(path, tmp_path / name, 240, 80)["frames"]
        indices = np.arange(0, count, 7)
        kept = frames_of(FrameReader(tmp_path, (60, 80)), name, indices).astype(int)
        film = frames_of(FrameReader(CLIPS, (60, 80), "", VideoFiles), name, indices)
        assert np.abs(kept - film).mean() < 1.5
        distances = np.abs(kept[:, None] - film[None]).mean(axis=(2, 3, 4))
        assert (distances.argmin(axis=1) == np.arange(len(indices))).mean() > 0.9  # a still scene apart
        with pytest.raises(DataError, match=f"frame {count + 1} of video"):
            frames_of(FrameReader(CLIPS, (60, 80), "", VideoFiles), name, np.array([count]))

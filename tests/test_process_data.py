"""Rendering the demo and extracting frames: process_data/src/{render_demo,extract_frame,common}.py."""
import csv
import fcntl
import importlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import PATIENCE, exit_code

from core.files import take_lock, whole_file, whole_files
from dataset.lists import read_class_index, video_groups
from dataset.local_dataset import DEMO_GROUP
from dataset.reader import FRAME_NAME, read_frame
from dataset.video import BrokenVideo
from process_data.src import common, extract_frame, pack, render_demo, write_csv
from process_data.src.extract_frame import scaled_size

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared" / "data"
ODD_NAME = "a b#c;d!e&(f)[g]_wave_f_nm_np1_fr_med_0"


def tool(name, *flags, check=None, **options):
    """Run a script as a user does; -> CompletedProcess. `check`: the exit code that must come."""
    command = [sys.executable, str(REPOSITORY / "process_data" / "src" / f"{name}.py"), *map(str, flags)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, **options)
    assert "Traceback" not in done.stderr, done.stderr
    assert check is None or done.returncode == check, done.stdout + done.stderr
    return done


def extract(videos, frames, *flags, check=0, **options):
    return tool("extract_frame", "--dataset", "folder", "--videos", videos, "--frames", frames, "--short_side", 32,
                "--workers", 2, *flags, check=check, **options)


def tree(root):
    """Every file below `root`, hidden ones too, but for the lock: {relative path: bytes}."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*")
            if path.is_file() and path.name != ".lock"}


def manifest(frames):
    with open(frames / "manifest.csv", newline="") as file:
        return {row["video"]: row for row in csv.DictReader(file)}


def assert_whole(frames, names):
    """Exactly the folders `names`, each with as many frames as its own record says, and nothing half-made."""
    assert {str(path.parent.relative_to(frames)) for path in frames.rglob(".record.json")} == set(names)
    assert not [path for path in frames.rglob("*partial*")]
    for name in names:
        count = json.loads((frames / name / ".record.json").read_text())["frames"]
        assert sorted(path.name for path in (frames / name).glob("*.jpg")) == [
            FRAME_NAME.format(i + 1) for i in range(count)]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """24 rendered videos of 12 frames, 24x32 pixels, and their lists."""
    root = tmp_path_factory.mktemp("demo")
    flags = ("--videos", root / "videos", "--splits", root / "splits", "--groups", 3, "--test_groups", 1, "--frames",
             12, "--size", "24x32", "--workers", 2)
    done = tool("render_demo", *flags, check=0)
    assert "24 videos rendered, 0 already there" in done.stdout
    return root, flags


@pytest.fixture
def videos(demo, tmp_path):
    """Three rendered videos in a folder of their own."""
    for name in (f"{name}.avi" for name in THREE):
        (tmp_path / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(demo[0] / "videos" / name, tmp_path / "videos" / name)
    return tmp_path / "videos"


THREE = ("LeapRight/v_LeapRight_g01_c01", "LeapRight/v_LeapRight_g02_c01", "StepLeft/v_StepLeft_g01_c01")


# rendering

def test_same_seed_renders_the_same_frames():
    clip = render_demo.render_clip(0, "LeapRight", 1, 1, 6, 24, 32)
    assert clip.shape == (6, 24, 32, 3) and clip.dtype == np.uint8
    assert np.array_equal(clip, render_demo.render_clip(0, "LeapRight", 1, 1, 6, 24, 32))
    for other in ((1, "LeapRight", 1, 1), (0, "LeapRight", 2, 1), (0, "LeapRight", 1, 2), (0, "LeapLeft", 1, 1)):
        assert not np.array_equal(clip, render_demo.render_clip(*other, 6, 24, 32)), other


@pytest.mark.parametrize("name", render_demo.ORDERS)
def test_pairs_hold_the_same_frames_in_opposite_order(name):
    left, right = (render_demo.render_clip(3, f"{name}{direction}", 2, 2, 24, 24, 32)
                   for direction in ("Left", "Right"))
    assert np.array_equal(left[::-1], right) and not np.array_equal(left, right)


def test_all_classes_of_a_group_hold_the_same_frames():
    """So neither a frame nor the mean of a video tells the class."""
    for group in (1, 2):
        sets = [sorted(frame.tobytes() for frame in render_demo.render_clip(0, name, group, 1, 16, 24, 32))
                for name in render_demo.CLASSES]
        assert all(frames == sets[0] for frames in sets) and len(set(sets[0])) == 16


def test_orders_differ_in_every_clip_and_visit_all_positions():
    """Any 8 frames in a row show each position once, in a cyclic order that no two classes share."""
    cycles = {}
    for name in render_demo.CLASSES:
        positions = render_demo.frame_order(name, 32) % render_demo.POSITIONS
        for start in range(len(positions) - 7):
            clip = positions[start:start + 8]
            assert sorted(clip) == list(range(8)), name
            steps = tuple(np.diff(clip, append=clip[0]) % 8)
            turns = {steps[i:] + steps[:i] for i in range(8)}
            assert cycles.setdefault(name, turns) == turns
    assert all(not cycles[a] & cycles[b] for a in cycles for b in cycles if a != b)


def test_bars_move_on_by_an_eighth_of_their_distance(monkeypatch):
    monkeypatch.setattr(render_demo, "NOISE", 0)
    monkeypatch.setattr(render_demo, "FLICKER", 0)
    clip = render_demo.render_clip(0, "StepRight", 1, 1, 8, 64, 64).astype(int)
    for before, after in zip(clip, clip[1:], strict=False):
        assert np.array_equal(after, np.roll(before, 4, axis=1))  # of 32 pixels
    assert np.ptp(clip[0].sum(axis=-1)) > 50


def nearest_has_the_class(features, groups, test_groups):
    """Share of the first groups' rows whose nearest row of the other groups has their class."""
    train, test = features[test_groups * 8:], features[:test_groups * 8]
    nearest = ((test[:, None] - train) ** 2).sum(-1).argmin(1)
    return np.mean(nearest % 8 == np.arange(len(test)) % 8)


@pytest.mark.parametrize("what", ["frame", "mean"])
def test_appearance_does_not_tell_the_class(what):
    rng, features, groups = np.random.default_rng(0), [], 60
    for group in range(groups):
        for name in render_demo.CLASSES:
            clip = render_demo.render_clip(1, name, group, 1, 16, 24, 24).mean(-1).astype(np.float32)
            shown = clip[rng.integers(16)] if what == "frame" else clip[4:12].mean(axis=0)
            feature = cv2.resize(shown, (12, 12), interpolation=cv2.INTER_AREA).ravel()
            features.append((feature - feature.mean()) / feature.std())
    accuracy = nearest_has_the_class(np.stack(features), groups, 20)
    assert accuracy < 1 / 8 + 3 * np.sqrt(1 / 8 * 7 / 8 / 160)


def test_render_writes_videos_and_official_lists(demo):
    root, _ = demo
    names = [line.strip() for line in (root / "splits" / "testlist01.txt").open()]
    assert names[0] == "LeapLeft/v_LeapLeft_g01_c01.avi" and len(names) == 8
    rows = [line.split() for line in (root / "splits" / "trainlist01.txt").open()]
    assert rows[0] == ["LeapLeft/v_LeapLeft_g02_c01.avi", "1"] and len(rows) == 16
    assert read_class_index(root / "splits" / "classInd.txt") == {n: i for i, n in enumerate(render_demo.CLASSES)}
    stems = [name.removesuffix(".avi") for name in names], [row[0].removesuffix(".avi") for row in rows]
    groups = [set(video_groups(part, DEMO_GROUP)) for part in stems]
    assert groups == [{"g01"}, {"g02", "g03"}]
    capture, frames = cv2.VideoCapture(str(root / "videos" / names[0])), []
    while (read := capture.read())[0]:
        frames.append(read[1])
    clip = render_demo.render_clip(0, "LeapLeft", 1, 1, 12, 24, 32)
    assert np.abs(np.stack(frames).astype(int) - clip).mean() < 6  # the codec halves the resolution of colour


def test_render_again_mends_what_is_damaged_and_no_more(demo, tmp_path):
    root, flags = demo
    shutil.copytree(root, tmp_path / "copy")
    flags = [tmp_path / "copy" / flag.name if isinstance(flag, Path) else flag for flag in flags]
    before = tree(tmp_path / "copy")
    victim = tmp_path / "copy" / "videos" / "LeapRight" / "v_LeapRight_g02_c01.avi"
    victim.write_bytes(victim.read_bytes()[:3000])
    done = tool("render_demo", *flags, check=0)
    assert "1 videos rendered, 23 already there" in done.stdout
    assert tree(tmp_path / "copy") == before
    other = tool("render_demo", *flags, "--size", "32x32", check=2)
    assert other.stderr.startswith("error: --size 32x32: the videos in") and other.stderr.count("\n") == 1


@pytest.mark.parametrize("flags, named", [
    (("--groups", 3, "--test_groups", 3), "--test_groups 3"), (("--size", "72"), "--size 72"),
    (("--size", "4x4"), "--size"), (("--frames", 1), "--frames 1"), (("--workers", 0), "--workers 0")])
def test_render_refuses_bad_flags(flags, named, tmp_path, monkeypatch, capsys):
    code = exit_code(render_demo, ("--videos", tmp_path / "v", *flags), monkeypatch)
    error = capsys.readouterr().err
    assert code == 2 and error.startswith(f"error: {named}") and error.count("\n") == 1
    assert not (tmp_path / "v").exists()


# extracting

def test_extract_writes_all_frames_at_the_size_asked(videos, tmp_path):
    done = extract(videos, tmp_path / "frames", "--short_side", 48)
    assert done.stdout.startswith("done 3, already there 0, failed 0; 36 frames")
    assert_whole(tmp_path / "frames", THREE)
    rows = manifest(tmp_path / "frames")
    assert set(rows) == set(THREE)
    row = rows["LeapRight/v_LeapRight_g01_c01"]
    assert [row[key] for key in ("frames", "header_frames", "fps", "width", "height", "short_side", "quality")] == [
        "12", "12", "25.0", "64", "48", "48", "80"]
    source = videos / "LeapRight" / "v_LeapRight_g01_c01.avi"
    assert row["source"] == str(source) and int(row["source_bytes"]) == source.stat().st_size
    clip = render_demo.render_clip(0, "LeapRight", 1, 1, 12, 24, 32)[..., ::-1]
    for i in range(12):
        frame = read_frame(tmp_path / "frames" / "LeapRight" / "v_LeapRight_g01_c01" / FRAME_NAME.format(i + 1))
        assert frame.shape == (48, 64, 3)
        small = cv2.resize(frame, (32, 24), interpolation=cv2.INTER_AREA)
        # in grey: the codec halves the resolution of colour, which the noise has
        assert np.abs(small.mean(axis=-1) - clip[i].mean(axis=-1)).mean() < 8, i
        assert np.abs(small.astype(int) - clip[i]).mean() < np.abs(small.astype(int) - clip[i - 1]).mean() / 2, i


def test_quality_is_used_and_another_one_noticed(videos, tmp_path):
    sizes = []
    for quality in (30, 95):
        extract(videos, tmp_path / f"q{quality}", "--quality", quality)
        sizes.append((tmp_path / f"q{quality}" / THREE[0] / FRAME_NAME.format(1)).stat().st_size)
    assert sizes[0] < 0.7 * sizes[1]
    before = tree(tmp_path / "q30")
    for flag, value, old in (("--quality", 95, 30), ("--short_side", 40, 32)):
        flags = {"--quality": 30, flag: value}
        done = extract(videos, tmp_path / "q30", *(item for pair in flags.items() for item in pair), check=2)
        assert done.stderr.startswith(f"error: {flag} {value}: 3 videos in {tmp_path / 'q30'} were extracted with "
                                      f"{flag} {old};")
    assert tree(tmp_path / "q30") == before


def test_scaled_size_keeps_the_aspect_ratio_either_way():
    assert scaled_size(320, 240, 128) == (171, 128)
    assert scaled_size(240, 320, 480) == (480, 640)


def test_train_and_val_folders_odd_names_and_suffixes(videos, tmp_path):
    source, root = videos / "LeapRight" / "v_LeapRight_g01_c01.avi", tmp_path / "k400"
    for name in ("train/using segway/abc_000001_000011.AVI", f"val/wave/{ODD_NAME}.avi", "val/wave/100%d.avi"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, root / name)
    (root / "val" / "wave" / ".hidden.avi").touch()
    (root / "val" / "wave" / "readme.md").touch()
    done = extract(root, tmp_path / "frames")
    assert_whole(tmp_path / "frames", ["using segway/abc_000001_000011", f"wave/{ODD_NAME}", "wave/100%d"])
    assert "note: 1 file in" in done.stdout and "readme.md" in done.stdout and "hidden" not in done.stdout


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.slow
def test_stopped_run_is_completed_by_the_next(kill, videos, tmp_path):
    source, frames = videos / THREE[2], tmp_path / "frames"
    for i in range(240):  # more than are done before this process is awake again
        shutil.copy(f"{source}.avi", videos / "StepLeft" / f"copy{i:03d}.avi")
    names = {f"{path.parent.name}/{path.stem}" for path in videos.rglob("*.avi")}
    flags = ["--dataset", "folder", "--videos", videos, "--frames", frames, "--short_side", 400, "--workers", 2]
    script = REPOSITORY / "process_data" / "src" / "extract_frame.py"
    process = subprocess.Popen(["nice", "-n", "19", sys.executable, str(script), *map(str, flags)],  # after us
                               stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + PATIENCE
    while len(list(frames.glob("*/[!.]*"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.005)
    # what a terminal sends goes to all processes
    (os.killpg if kill in (signal.SIGINT, signal.SIGHUP) else os.kill)(process.pid, kill)
    _, error = process.communicate(timeout=PATIENCE)  # workers hold stderr: it closes when the last of them is gone
    finished = {str(path.relative_to(frames)): path.stat().st_mtime_ns for path in frames.glob("*/[!.]*")}
    assert 4 <= len(finished) < len(names), "the run was not stopped midway"
    if kill != signal.SIGKILL:
        assert (process.returncode, error) == (128 + kill, f"stopped: {common.GO_ON}\n")
        assert set(manifest(frames)) == set(finished)
        assert_whole(frames, finished)
    done = tool("extract_frame", *flags, check=0)
    assert f"done {len(names) - len(finished)}, already there {len(finished)}, failed 0" in done.stdout
    assert_whole(frames, names)
    assert set(manifest(frames)) == names
    assert {name: (frames / name).stat().st_mtime_ns for name in finished} == finished


def test_video_finished_but_not_reported_when_the_run_is_stopped_is_in_the_manifest(videos, tmp_path, monkeypatch):
    """And one whose old frames were set aside in that moment is not."""
    extract(videos, tmp_path / "frames")
    for name in THREE[:2]:
        with open(videos / f"{name}.avi", "ab") as file:
            file.write(b"longer")

    def stopped(work, todo, workers):
        work(todo[0])
        final = tmp_path / "frames" / todo[1].name
        final.rename(extract_frame.working_folders(final)[1])
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(extract_frame, "run_jobs", stopped)
    with pytest.raises(KeyboardInterrupt):
        extract_frame.main(["--dataset", "folder", "--videos", str(videos), "--frames", str(tmp_path / "frames"),
                            "--short_side", "32"])
    assert_whole(tmp_path / "frames", (THREE[0], THREE[2]))
    rows = manifest(tmp_path / "frames")
    assert set(rows) == {THREE[0], THREE[2]}
    assert int(rows[THREE[0]]["source_bytes"]) == (videos / f"{THREE[0]}.avi").stat().st_size


def test_broken_videos_are_named_and_leave_nothing(videos, tmp_path):
    whole = (videos / "LeapRight" / "v_LeapRight_g01_c01.avi").read_bytes()
    for name, data in {"none/empty": b"", "none/garbage001": b"RIFF" + bytes(range(256)) * 40,
                       "Grow/header": whole[:2000], "Grow/half": whole[:len(whole) // 2]}.items():
        (videos / name).parent.mkdir(exist_ok=True)
        (videos / f"{name}.avi").write_bytes(data)
    done = extract(videos, tmp_path / "frames", check=1)
    reasons = {"none/empty": "is no AVI", "none/garbage001": "is no AVI", "Grow/header": "cannot be opened"}
    for name, reason in reasons.items():
        assert f"failed: {videos / name}.avi: {reason}" in done.stderr
    assert "done 4, already there 0, failed 3" in done.stdout
    assert_whole(tmp_path / "frames", (*THREE, "Grow/half"))
    assert not (tmp_path / "frames" / "none").exists()
    row = manifest(tmp_path / "frames")["Grow/half"]
    assert 0 < int(row["frames"]) < int(row["header_frames"]) == 12
    assert f"Grow/half ({row['frames']} of 12)" in done.stdout
    again = extract(videos, tmp_path / "frames", "--allow_failures")
    assert "done 0, already there 4, failed 3" in again.stdout


def test_changed_or_cut_off_videos_are_extracted_again(videos, tmp_path):
    extract(videos, tmp_path / "frames")
    shutil.copy(videos / f"{THREE[1]}.avi", videos / f"{THREE[0]}.avi")
    (tmp_path / "frames" / THREE[2] / FRAME_NAME.format(12)).unlink()
    assert "done 2, already there 1" in extract(videos, tmp_path / "frames").stdout
    assert_whole(tmp_path / "frames", THREE)
    first = [(tmp_path / "frames" / name / FRAME_NAME.format(1)).read_bytes() for name in THREE]
    assert first[0] == first[1]


def test_a_changed_video_that_is_broken_keeps_the_frames_of_its_former_content(videos, tmp_path):
    extract(videos, tmp_path / "frames")
    (videos / f"{THREE[0]}.avi").write_bytes((videos / f"{THREE[0]}.avi").read_bytes()[:3000])
    for flags, code in (((), 1), (("--allow_failures",), 0)):
        done = extract(videos, tmp_path / "frames", *flags, check=code)
        assert "done 0, already there 2, failed 1; 0 frames" in done.stdout
        assert "; the frames of its former content stay\n" in done.stderr
    assert_whole(tmp_path / "frames", THREE)


def test_folder_of_another_origin_is_not_touched(videos, tmp_path):
    (tmp_path / "frames" / THREE[0]).mkdir(parents=True)
    (tmp_path / "frames" / THREE[0] / FRAME_NAME.format(1)).touch()
    done = extract(videos, tmp_path / "frames", check=1)
    assert "done 2, already there 0, failed 1" in done.stdout and "remove it" in done.stderr
    assert len(list((tmp_path / "frames" / THREE[0]).iterdir())) == 1


def test_failed_write_is_an_error_of_the_video(videos, tmp_path):
    def limit():  # a file beyond 3000 bytes cannot be written: what a full disk looks like
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))

    done = extract(videos, tmp_path / "frames", "--short_side", 400, check=1, preexec_fn=limit)
    assert done.stderr.count("failed: ") == 3 and "File too large" in done.stderr
    assert set(tree(tmp_path / "frames")) == {"manifest.csv"}


def test_a_full_disk_ends_the_run_with_what_is_finished(videos, tmp_path, extract_here, monkeypatch):
    decode = extract_frame.decode

    def full(path, folder, *settings):
        found = decode(path, folder, *settings)
        if THREE[1] in path:
            raise OSError(28, "No space left on device", str(folder))
        return found

    monkeypatch.setattr(extract_frame, "decode", full)
    monkeypatch.setattr(extract_frame, "run_jobs", lambda work, jobs, _: ((job, work(job)) for job in jobs))
    code, _, err = extract_here()
    assert (code, err) == (1, f"error: --frames {tmp_path / 'frames'}: No space left on device: make room and start "
                              "the same command again; what is finished is kept\n")
    assert_whole(tmp_path / "frames", THREE[:1])
    assert set(manifest(tmp_path / "frames")) == set(THREE[:1])


def test_signals_that_come_while_a_worker_is_started_are_not_lost():
    """Where nothing is set up for them, they end the program as ever."""
    code = ("import signal; from core.jobs import interrupts_held\n"
            "with interrupts_held(): signal.raise_signal(signal.SIGTERM); print('held', flush=True)\nprint('lost')")
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "held\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("tool", ["extract_frame", "pack", "render_demo", "verify", "write_csv"])
def test_signals_end_a_tool_as_an_interrupt_does(tool, number, monkeypatch, capsys):
    module = importlib.import_module(f"process_data.src.{tool}")
    before = {one: signal.signal(one, signal.SIG_DFL) for one in (signal.SIGTERM, signal.SIGHUP)}

    def main(argv):
        assert signal.getsignal(number) != signal.SIG_DFL
        signal.raise_signal(number)

    monkeypatch.setattr(module, "main", main)
    stopped = "nothing was written" if tool == "verify" else common.GO_ON
    try:
        assert exit_code(module, [], monkeypatch, stopped=stopped) == 128 + number
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    assert capsys.readouterr().err == f"stopped: {stopped}\n"


def test_hidden_folders_that_are_not_its_own_stay(videos, tmp_path, extract_here):
    kept, gone = tmp_path / "frames" / "LeapRight", tmp_path / "frames" / "gone"
    for name in (".important.partial/thesis.txt", ".v.partial/image_00001.jpg", ".v.partial/notes",
                 f".partial_{'0' * 32}/image_1.jpg", ".w.old.partial/deeper/image_00001.jpg", "target/image_00001.jpg"):
        (kept / name).parent.mkdir(parents=True, exist_ok=True)
        (kept / name).touch()
    (kept / ".link.partial").symlink_to("target")
    before = tree(kept)
    for name in (".v.partial", ".v.old.partial", *map(os.path.basename, extract_frame.working_folders("v"))):
        (gone / name).mkdir(parents=True)
        for file in (".record.json", FRAME_NAME.format(1), FRAME_NAME.format(123456)):
            (gone / name / file).touch()
    assert extract_here()[0] == 0
    after = tree(kept)
    assert {name: after.get(name) for name in before} == before and (kept / ".link.partial").is_symlink()
    assert list(gone.iterdir()) == []


def test_no_two_videos_share_a_working_folder(videos, tmp_path, extract_here, monkeypatch):
    """As a.avi and a.old.avi did while both were extracted."""
    names = ["a", "a.old", ".a.old", "a.partial", "a_old", "x" * 251, "x" * 250 + "y"]
    hidden = [path for name in names for path in extract_frame.working_folders(f"c/{name}")]
    assert len(set(hidden)) == 2 * len(names) and all(len(path) < 100 for path in hidden)
    for name in ("a", "a.old"):
        shutil.copy(videos / f"{THREE[0]}.avi", videos / "StepLeft" / f"{name}.avi")
    decode = extract_frame.decode

    def meanwhile(path, folder, *settings):
        found = decode(path, folder, *settings)
        if path.endswith("a.old.avi"):
            video = common.Video("StepLeft/a", path.replace(".old", ""), 1)
            assert extract_frame.extract(video, str(tmp_path / "frames"), *settings)[1] is None
        return found

    monkeypatch.setattr(extract_frame, "decode", meanwhile)
    assert extract_here()[0] == 0
    assert_whole(tmp_path / "frames", (*THREE, "StepLeft/a", "StepLeft/a.old"))


def test_a_name_of_255_bytes_is_extracted_and_packed(videos, tmp_path, extract_here, monkeypatch, capsys):
    for name in ("x" * 251, "\u00e9" * 125 + "x"):
        shutil.copy(videos / f"{THREE[0]}.avi", videos / "LeapRight" / f"{name}.avi")
    assert extract_here()[0] == 0
    frames, packed = tmp_path / "frames", tmp_path / "packed"
    (frames / "LeapRight" / ("x" * 251)).rename(frames / "LeapRight" / ("x" * 252))
    shutil.copytree(frames / "LeapRight" / ("x" * 252), frames / "LeapRight" / ("x" * 251))
    monkeypatch.setattr(pack, "run_jobs", lambda work, jobs, _: (x for x in [(j, work(j)) for j in jobs]))
    code = exit_code(pack, ["--dataset", "folder", "--frames", frames, "--out", packed], monkeypatch)
    out, err = capsys.readouterr()
    assert code == 1 and "packed 5, already there 0, failed 1" in out and "to mend them" not in out
    assert err == (f"failed: {frames / 'LeapRight' / ('x' * 252)}: with .zip, it has 256 bytes, more than the 255 of a "
                   "file's name: rename the folder\n")
    assert (packed / "LeapRight" / f"{'x' * 251}.zip").is_file()


def test_what_the_tools_advise_about_a_lost_frame_mends_it(videos, tmp_path, extract_here, monkeypatch, capsys):
    """And loses nothing of what else is in the folder."""
    def lists():
        code = exit_code(write_csv, ["--dataset", "folder", "--frames", tmp_path / "frames", "--out", tmp_path / "out",
                                     "--holdout", 0.4], monkeypatch)
        return code, capsys.readouterr().err

    extract_here()
    folder = tmp_path / "frames" / THREE[0]
    (folder / "Thumbs.db").touch()
    (folder / "image_copy.jpg").touch()
    assert "already there 3" in extract_here()[1]
    (folder / FRAME_NAME.format(3)).unlink()
    code, err = lists()
    assert code == 1 and f"{THREE[0]} (11 frames, no image_00003.jpg)" in err and "extract_frame.py" in err
    code, out, err = extract_here()
    assert code == 1 and "done 0, already there 2, failed 1" in out
    assert "which is not of this script: move it away, or remove the folder, to extract the video again" in err
    assert (folder / "Thumbs.db").exists()
    shutil.rmtree(folder)
    assert "done 1, already there 2, failed 0" in extract_here()[1]
    assert "no image" not in lists()[1]


def test_a_video_replaced_by_one_of_the_same_size_is_extracted_again(videos, tmp_path, extract_here):
    extract_here()
    data = (videos / f"{THREE[0]}.avi").read_bytes()
    os.utime(videos / f"{THREE[1]}.avi")
    assert "done 0, already there 3" in extract_here()[1]
    (videos / f"{THREE[0]}.avi").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    record = tmp_path / "frames" / THREE[0] / ".record.json"
    new, old = json.loads(record.read_text()), json.loads(record.read_text())
    del old["source_ends"]
    record.write_text(json.dumps(old))  # as earlier versions wrote it
    assert "done 0, already there 3" in extract_here()[1]
    record.write_text(json.dumps(new))
    assert "done 1, already there 2" in extract_here()[1]
    assert json.loads(record.read_text())["source_ends"] != new["source_ends"]
    assert "done 0, already there 3" in extract_here()[1]


@pytest.mark.parametrize("frames", [0, 11, 13, 999999999])
def test_a_manifest_that_counts_other_frames_has_the_video_extracted_again(frames, videos, tmp_path, extract_here):
    extract_here()
    path = tmp_path / "frames/manifest.csv"
    path.write_text(path.read_text().replace(".avi,12,", f".avi,{frames},", 1))
    assert "done 1, already there 2" in extract_here()[1]
    assert manifest(tmp_path / "frames")[THREE[0]]["frames"] == "12"


@pytest.mark.parametrize("make", [Path.touch, os.mkfifo, lambda path: path.symlink_to("nowhere")])
def test_a_class_folder_that_is_none_fails_its_videos_and_no_others(make, videos, tmp_path, extract_here):
    (tmp_path / "frames").mkdir()
    make(tmp_path / "frames" / "LeapRight")
    code, out, err = extract_here()
    assert code == 1 and "done 1, already there 0, failed 2" in out
    assert err == "".join(f"failed: {videos / name}.avi: {tmp_path / 'frames/LeapRight'} is no folder: remove it\n"
                          for name in THREE[:2])
    assert_whole(tmp_path / "frames", THREE[2:])
    (tmp_path / "frames" / "LeapRight").unlink()
    assert extract_here()[0] == 0


def test_second_rendering_at_the_same_time_is_refused(tmp_path, monkeypatch, capsys):
    with take_lock(tmp_path / "videos", "--videos"):
        code = exit_code(render_demo, ["--videos", tmp_path / "videos", "--splits", tmp_path / "splits"], monkeypatch)
    assert code == 1 and capsys.readouterr().err.startswith(f"error: --videos {tmp_path / 'videos'}: another run")


def test_second_run_at_the_same_time_is_refused(videos, tmp_path):
    (tmp_path / "frames").mkdir()
    with open(tmp_path / "frames" / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another run" in extract(videos, tmp_path / "frames", check=1).stderr
    extract(videos, tmp_path / "frames")


@pytest.mark.slow
def test_real_clips_give_their_frames(tmp_path):
    """The headers of HMDB51 count one frame more than the files hold."""
    samples = {"ucf101-samples": [240, 251], "hmdb51-samples": [48, 72, 74, 83], "kinetics400-samples": [303, 327, 332]}
    for folder, counts in samples.items():
        if not (SHARED / folder).is_dir():
            pytest.skip(f"real clips are not at {SHARED / folder}")
        extract(SHARED / folder, tmp_path / folder)
        rows = manifest(tmp_path / folder)
        assert_whole(tmp_path / folder, rows)
        assert sorted(int(row["frames"]) for row in rows.values()) == counts
        more = folder == "hmdb51-samples"
        assert all(int(row["header_frames"]) - int(row["frames"]) == more for row in rows.values())
        assert {min(int(row["width"]), int(row["height"])) for row in rows.values()} == {32}


@pytest.mark.parametrize("flags, code, named", [
    (("--videos", "{tmp}/nowhere"), 2, "--videos"), (("--videos", "{tmp}/empty"), 1, "--videos"),
    (("--videos", "{tmp}/twice"), 1, "{tmp}/twice/a/x.mp4"), (("--short_side", "0"), 2, "--short_side 0"),
    (("--quality", "101"), 2, "--quality 101"), (("--workers", "0"), 2, "--workers 0"),
    (("--quality", "high"), 2, "argument"), (("--dataset", "nothing"), 2, "--dataset nothing"),
    (("--frames", "{tmp}/file/frames"), 1, "{tmp}/file/frames: Not a directory")])
def test_extract_refuses_bad_input(flags, code, named, videos, tmp_path):
    (tmp_path / "empty" / "a").mkdir(parents=True)
    (tmp_path / "twice" / "a").mkdir(parents=True)
    for name in ("twice/a/x.avi", "twice/a/x.mp4", "file"):
        (tmp_path / name).touch()
    before = tree(tmp_path)
    done = extract(videos, tmp_path / "frames", *(flag.format(tmp=tmp_path) for flag in flags), check=code)
    assert done.stderr.startswith(f"error: {named.format(tmp=tmp_path)}") and done.stderr.count("\n") == 1
    assert tree(tmp_path) == before and not (tmp_path / "frames").exists()


def test_files_are_written_all_or_none(tmp_path):
    common.write_files({tmp_path / "a": "old"})
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        common.write_files({tmp_path / "a": "new", tmp_path / "a" / "b": "new"})
    assert tree(tmp_path) == {"a": b"old"}


def test_files_that_a_full_disk_stops_are_named_and_none_of_them_written(tmp_path, monkeypatch):
    common.write_files({tmp_path / "a": "old"})
    synced = []

    def full(descriptor):
        synced.append(descriptor)
        if len(synced) == 2:
            raise OSError(28, "No space left on device")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError) as error:
        common.write_files({tmp_path / "a": "new", tmp_path / "b": "new"})
    assert error.value.filename == str(tmp_path) and tree(tmp_path) == {"a": b"old"}
    monkeypatch.undo()
    (tmp_path / "c").mkdir()
    with pytest.raises(OSError) as error, whole_file(tmp_path / "c") as temporary:
        temporary.write_text("new")
    assert error.value.filename == str(tmp_path / "c") and tree(tmp_path) == {"a": b"old"}


@pytest.mark.parametrize("letter", ["x", "\u00e9", "\U0001f3be"])
def test_files_may_have_names_as_long_as_the_system_takes(letter, tmp_path):
    name = letter * ((255 - 4) // len(letter.encode())) + ".zip"
    assert 250 < len(name.encode()) <= 255
    paths = [tmp_path / name, tmp_path / f"a{name[1:]}"]
    with whole_files(paths) as temporaries:
        for i, temporary in enumerate(temporaries):
            temporary.write_text(f"new {i}")
            assert temporary.suffix == ".zip" and temporary.name.startswith(".partial_")
    assert tree(tmp_path) == {paths[0].name: b"new 0", paths[1].name: b"new 1"}


# names, links and texts that are no videos

@pytest.fixture
def extract_here(videos, tmp_path, monkeypatch, capsys):
    """Extract `videos` in this process -> (exit code, standard output, standard error)."""
    monkeypatch.setattr(extract_frame, "run_jobs", lambda work, jobs, _: (x for x in [(j, work(j)) for j in jobs]))

    def call(*flags, source=videos):
        code = exit_code(extract_frame, ["--dataset", "folder", "--videos", source, "--frames", tmp_path / "frames",
                                         "--short_side", 32, *flags], monkeypatch)
        return code, *capsys.readouterr()
    return call


def test_names_that_no_list_can_carry_are_named_and_the_others_extracted(videos, tmp_path, extract_here):
    for name in ("LeapRight/a\rb", "LeapRight/tab\t", "two\nlines/v", "end /v", os.fsdecode(b"LeapRight/\xff")):
        (videos / name).parent.mkdir(exist_ok=True)
        shutil.copy(videos / f"{THREE[0]}.avi", videos / f"{name}.avi")
    code, out, err = extract_here()
    assert code == 1 and "done 3, already there 0, failed 5" in out
    for shown, reason in {r"LeapRight/a\rb.avi'": r"'\r'", r"LeapRight/tab\t.avi'": r"'\t'", r"two\nlines'": r"'\n'",
                          "end '": "white space at an end", r"LeapRight/\udcff.avi'": "not UTF-8"}.items():
        line = next(line for line in err.splitlines() if shown in line)
        assert line.startswith("failed: '") and "no list can carry its name" in line and reason in line
    assert_whole(tmp_path / "frames", THREE)
    assert set(manifest(tmp_path / "frames")) == set(THREE)
    code, out, _ = extract_here("--allow_failures")
    assert code == 0 and "done 0, already there 3, failed 5" in out


def test_what_is_called_as_a_video_and_is_no_file_is_named_and_the_others_extracted(videos, tmp_path, extract_here,
                                                                                    monkeypatch):
    for name in ("LeapRight/loop.mp4", "round"):
        (videos / name).symlink_to(os.path.basename(name))
    (videos / "LeapRight/gone.mp4").symlink_to("nowhere.mp4")
    (videos / "LeapRight/zero.mp4").symlink_to("/dev/zero")
    os.mkfifo(videos / "LeapRight/pipe.mp4")
    (videos / "LeapRight/folder.mp4").mkdir()
    (videos / "locked").mkdir()
    scandir = os.scandir

    def locked(path):  # as root, who runs many tests, may read everything
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(common.os, "scandir", locked)
    code, out, err = extract_here()
    assert code == 1 and "done 3, already there 0, failed 6" in out and "1 file in" in out and "folder.mp4" in out
    for name, reason in {"LeapRight/loop.mp4": "cannot be read (Too many levels of symbolic links)",
                         "round": "cannot be read (Too many levels", "LeapRight/zero.mp4": "is no regular file",
                         "LeapRight/gone.mp4": "cannot be read (No such file or directory)",
                         "LeapRight/pipe.mp4": "is no regular file", "locked": "cannot be read (Permission"}.items():
        assert f"failed: {videos / name}: {reason}" in err
    assert_whole(tmp_path / "frames", THREE)


def test_folders_above_may_be_called_anything(videos, tmp_path, extract_here):
    odd = videos.rename(tmp_path / os.fsdecode(b'a\r"\xff\n,'))
    assert extract_here(source=odd)[0] == 0
    assert [row["source"] for row in common.read_manifest(tmp_path / "frames/manifest.csv").values()] == [
        os.path.join(tmp_path, 'a\r"\\udcff\n,', f"{name}.avi") for name in THREE]
    assert "done 0, already there 3, failed 0" in extract_here(source=odd)[1]


COLUMNS = ",".join(common.COLUMNS)


@pytest.mark.parametrize("content, says", [
    (f"{COLUMNS}\na/v,x,²,2,25,4,4,4,80,9,5\n".encode(), "the frames of 'a/v' are '²', not a number"),
    (f"{COLUMNS}\na/v,x,2\n".encode(), "row 2: 3 fields, not 11"),
    (f"{COLUMNS}\n{'x' * 131073},x,2,2,25,4,4,4,80,9,5\n".encode(), "row 2: not a row of CSV (field larger than"),
    (f"{COLUMNS}\na/v,x,2,2,25,4,4,4,80,9,5\n".encode("utf-16"), "row 1: not UTF-8"),
    (f"{COLUMNS}\na/\u00e9,x,2,2,25,4,4,4,80,9,5\n".encode("latin1"), "row 2: not UTF-8"),
    (b"", "row 1: expected the columns video,source,")])
def test_damaged_manifests_are_named(content, says, videos, tmp_path, extract_here):
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames/manifest.csv").write_bytes(content)
    code, _, err = extract_here()
    assert code == 1 and err.startswith(f"error: {tmp_path}/frames/manifest.csv") and says in err
    assert err.endswith("remove it and run extract_frame.py again (it extracts nothing twice)\n")
    assert err.count("\n") == 1


@pytest.mark.parametrize("content, says", [
    (b"[" * 100000, "too deep"), (b"{}", "its content has no video"), (b"\xff\xfe", "not UTF-8"), (b"[]", "dictionary"),
    (None, "Too many levels of symbolic links")])
def test_folders_with_a_damaged_record_are_left_alone_and_named(content, says, videos, tmp_path, extract_here):
    assert extract_here()[0] == 0
    (tmp_path / "frames/manifest.csv").unlink()
    record = tmp_path / "frames" / THREE[0] / ".record.json"
    record.unlink()
    record.symlink_to(record) if content is None else record.write_bytes(content)
    code, out, err = extract_here()
    assert code == 1 and "done 0, already there 2, failed 1" in out and err.count("\n") == 1
    assert err.startswith(f"failed: {videos / THREE[0]}.avi: {record} ") and says in err
    assert err.endswith(f"remove {record.parent} to extract the video again\n")


PLAYLISTS = {"ffconcat": "ffconcat version 1.0\nfile {}\n", "hls": "#EXTM3U\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n",
             "sdp": "v=0\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n", "xml": "<MPD><BaseURL>{}</BaseURL></MPD>"}


@pytest.mark.parametrize("kind", PLAYLISTS)
def test_texts_that_name_other_files_are_no_videos(kind, videos, tmp_path, extract_here):
    (videos / "LeapRight/other.mp4").write_text(PLAYLISTS[kind].format(f"v_{THREE[0].partition('_')[2]}.avi"))
    code, out, err = extract_here()
    assert code == 1 and "done 3, already there 0, failed 1" in out
    assert ("LeapRight/other.mp4: is no AVI, MP4, MOV, MKV, WebM, FLV, WMV or MPEG: it begins with "
            f"b'{PLAYLISTS[kind][:3]}") in err
    assert_whole(tmp_path / "frames", THREE)


class Capture:
    """A video whose header is damaged."""

    def __init__(self, header, size):
        self.header, self.frames = header, [(True, np.zeros((*size, 3), np.uint8)), (False, None)]

    def get(self, _):
        return self.header

    def read(self):
        return self.frames.pop(0)


@pytest.mark.parametrize("header", [float("nan"), float("inf"), -1.0, 2.0**63])
def test_numbers_of_a_damaged_header_do_not_reach_the_record(header, tmp_path, monkeypatch):
    monkeypatch.setattr(extract_frame, "open_video", lambda path: nullcontext(Capture(header, (24, 32))))
    row = extract_frame.decode("x.avi", tmp_path, 32, 80)
    assert (row["frames"], row["header_frames"], row["fps"]) == (1, 0, 0)


def test_a_video_that_would_be_scaled_to_too_many_pixels_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(extract_frame, "open_video", lambda path: nullcontext(Capture(25.0, (2, 8000))))
    with pytest.raises(BrokenVideo, match="x.avi has 8000 x 2 pixels, scaled 960000 x 240: too many"):
        extract_frame.decode("x.avi", tmp_path, 240, 80)


def test_settings_of_a_rendering_that_are_damaged(tmp_path, monkeypatch, capsys):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/.render_demo.json").write_text("[" * 5000)
    assert exit_code(render_demo, ["--videos", tmp_path / "videos", "--splits", tmp_path / "s"], monkeypatch) == 1
    assert ".render_demo.json is damaged (not JSON: too deep): remove it, and the videos" in capsys.readouterr().err

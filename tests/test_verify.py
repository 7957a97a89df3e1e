"""The data doctor: process_data/src/verify.py, and the exclusion list that write_csv.py honours."""
import csv
import importlib
import os
import shutil
import subprocess
import sys

import cv2
import pytest
from helpers import PATIENCE, SHARED, environment, exit_code, make_dataset

from core.errors import DataError
from core.files import take_lock
from dataset.local_dataset import DATASETS, HMDB51_GROUP, LocalDataset
from dataset.reader import FRAME_NAME, read_frame
from process_data.src import extract_frame, verify, write_csv

CLIPS = SHARED / "data" / "ucf101-5class"
OFFICIAL = SHARED / "data" / "official_lists" / "hmdb51"
MID = FRAME_NAME.format(4)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("whole"), groups=5)


@pytest.fixture
def data(whole, tmp_path):
    """2 classes of 5 groups of 2 videos of 9 frames, group 1 being the test, and what a test wants to know of it."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    return Data(tmp_path / "ucf101" / "frames", tmp_path / "lists" / "ucf101")


class Data:
    def __init__(self, frames, lists):
        self.frames, self.lists = frames, lists

    def frame(self, video, number=4):
        return self.frames / video / FRAME_NAME.format(number)

    def edit(self, part, change):
        """`change`: list of rows -> list of rows."""
        path = self.lists / f"{part}_split01.csv"
        path.write_text("".join(f"{row}\n" for row in change(path.read_text().splitlines())))

    def findings(self):
        """{(fault, video): detail} of the report."""
        with open(self.lists / verify.REPORT, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        found = {(row["fault"], row["video"]): row["detail"] for row in rows}
        assert len(found) == len(rows)
        return found

    def excluded(self):
        lines = (self.lists / verify.EXCLUSIONS).read_text(encoding="utf-8").splitlines()
        return [line for line in lines if not line.startswith("#")]


@pytest.fixture
def tool(monkeypatch, capsys):
    """Run a script's main in this process -> (exit code, its output)."""
    def call(module, *flags, **options):
        code = exit_code(module, flags, monkeypatch, **options)
        output = capsys.readouterr()
        return code, output.out + output.err
    return call


@pytest.fixture
def check(tool, data, monkeypatch):
    """Run verify.py on `data`, its jobs in this process unless --workers says otherwise."""
    def call(*flags):
        if "--workers" not in flags:
            monkeypatch.setattr(verify, "run_jobs", lambda work, jobs, _: ((job, work(job)) for job in jobs))
        return tool(verify, "--frames", data.frames, "--lists", data.lists, *flags)
    return call


def swap(old, new):
    return lambda rows: [row.replace(old, new) for row in rows]


def damage(change):
    """Plants a fault in the middle frame of a training video: bytes -> bytes."""
    def plant(data):
        data.frame(RUN).write_bytes(change(data.frame(RUN).read_bytes()))
    return plant


def make_small(data):
    cv2.imwrite(str(data.frame(RUN)), cv2.imread(str(data.frame(RUN)))[:20])


def shift_to_zero(data):
    for number in range(1, 10):
        data.frame(RUN, number).rename(data.frame(RUN, number - 1))


def make_folder_of_a_frame(data):
    data.frame(RUN).unlink()
    data.frame(RUN).mkdir()


def empty(data):
    shutil.rmtree(data.frames / RUN)
    (data.frames / RUN).mkdir()


RUN, SIBLING, OTHER = "Run/v_Run_g02_c01", "Run/v_Run_g02_c02", "air drumming/v_air drumming_g03_c02"
TEST = "Run/v_Run_g01_c01"
def link_to_itself(data):
    shutil.rmtree(data.frames / RUN)
    (data.frames / RUN).symlink_to(data.frames / RUN)


FRAME_FAULTS = {
    "folder": (lambda data: shutil.rmtree(data.frames / RUN), verify.NO_FOLDER, "No such file or directory"),
    "empty": (empty, verify.NO_FRAMES, ""),
    "link to itself": (link_to_itself, verify.NO_FOLDER, "Too many levels of symbolic links"),
    "gap": (lambda data: data.frame(RUN).unlink(), verify.GAPS, f"no {MID}"),
    "gaps": (lambda data: [data.frame(RUN, n).unlink() for n in (1, 4, 5)], verify.GAPS,
             f"no {FRAME_NAME.format(1)}, {MID} to {FRAME_NAME.format(5)}"),
    "tail": (lambda data: data.frame(RUN, 9).unlink(), verify.FEWER, f"9 listed, the last is {FRAME_NAME.format(8)}"),
    "zero": (damage(lambda old: b""), verify.ZERO, MID),
    "cut": (damage(lambda old: old[:len(old) // 2]), verify.TRUNCATED, MID),
    "cut, zeros after": (damage(lambda old: old[:400] + bytes(len(old) - 400)), verify.TRUNCATED, MID),
    "cut, with an end": (damage(lambda old: old[:-60] + b"\xff\xd9"), verify.TRUNCATED, MID),
    "garbage": (damage(lambda old: b"no picture" * 50), verify.UNDECODABLE, MID),
    "garbage between marks": (damage(lambda old: b"\xff\xd8" + bytes(50) + b"\xff\xd9"), verify.UNDECODABLE, MID),
    "folder for a frame": (make_folder_of_a_frame, verify.UNDECODABLE, f"{MID} (Is a directory)"),
    "size": (make_small, verify.SIZE, f"{MID} (not 40x30)")}


def test_nothing_is_found_where_nothing_is_wrong(data, check):
    (data.frames / "Run" / "unlisted").mkdir()
    (data.frames / RUN / ".record.json").touch()
    (data.frames / RUN / "image_4.jpg").touch()  # not a frame's name
    (data.frames / "manifest.csv").write_text("of somebody else")
    code, output = check("--workers", 2)
    assert code == 0, output
    assert "note: 1 video in no list" in output and "20 videos, 180 frames, 2 lists checked in" in output
    assert output.endswith("nothing found\n")
    assert data.findings() == {} and data.excluded() == []


def test_command_that_training_names_needs_the_data_set_only(data, tmp_path):
    data.frame(TEST).write_bytes(b"")
    done = subprocess.run([sys.executable, verify.__file__, "--dataset", "ucf101"], env=environment(tmp_path),
                          capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1 and done.stdout.startswith(f"{verify.ZERO}: 1: {TEST} ({MID})\n"), done.stderr
    assert done.stderr == "" and data.excluded() == [TEST]


def test_a_pipe_is_not_waited_for(data, check):
    data.frame(RUN).unlink()
    os.mkfifo(data.frame(RUN))
    code, _ = check()
    assert code == 1 and data.findings() == {(verify.UNDECODABLE, RUN): f"{MID} (not a regular file)"}


@pytest.mark.parametrize("name", FRAME_FAULTS)
def test_damaged_frames(name, data, check):
    plant, fault, detail = FRAME_FAULTS[name]
    plant(data)
    code, output = check()
    assert code == 1 and data.findings() == {(fault, RUN): detail}
    assert f"{fault}: 1: {RUN}" in output and "1 fault\n" in output and f"--exclude {data.lists}" in output
    assert data.excluded() == [RUN]
    if fault in (verify.ZERO, verify.TRUNCATED, verify.UNDECODABLE):
        with pytest.raises(DataError):
            read_frame(data.frame(RUN))


def test_quick_sees_what_a_file_shows_without_being_decoded(data, check):
    make_small(data)
    assert check("--quick")[0] == 0
    damage(lambda old: old[:100])(data)
    data.frame(OTHER).unlink()
    code, output = check("--quick")
    assert code == 1 and "(not decoded)" in output
    assert set(data.findings()) == {(verify.TRUNCATED, RUN), (verify.GAPS, OTHER)}


def test_frames_numbered_from_zero(data, check):
    shift_to_zero(data)
    assert check()[0] == 1
    assert set(data.findings()) == {(verify.GAPS, RUN), (verify.FEWER, RUN)}
    assert data.findings()[verify.GAPS, RUN].startswith("image_00000.jpg is never read")


@pytest.mark.parametrize("count, fault, excluded", [(11, verify.FEWER, [RUN]), (7, verify.MORE, [])])
def test_counts_of_the_list(count, fault, excluded, data, check):
    """More frames than listed are no damage: write_csv.py counts again. Three lists that agree are one fault."""
    data.edit("train", swap(f"{RUN},9", f"{RUN},{count}"))
    for name in ("train_split02.csv", "train_split03.csv"):
        shutil.copy(data.lists / "train_split01.csv", data.lists / name)
        shutil.copy(data.lists / "test_split01.csv", data.lists / name.replace("train", "test"))
    code, output = check()
    assert code == 1 and "6 lists checked" in output
    assert data.findings() == {(fault, RUN): f"{count} listed, the last is {FRAME_NAME.format(9)}"}
    assert data.excluded() == excluded


def test_video_in_train_and_test_is_named_once(data, check):
    data.edit("test", lambda rows: [*rows, f"{RUN},9"])
    assert check()[0] == 1
    assert set(data.findings()) == {(verify.BOTH, RUN)}  # and not its group, nor that it is identical to itself
    assert data.excluded() == [f"train_split01.csv: {RUN}"]


def test_recording_in_train_and_test(data, check):
    data.edit("train", lambda rows: [row for row in rows if not row.startswith(RUN)])
    data.edit("test", lambda rows: [*rows, f"{RUN},9"])
    code, output = check()
    assert code == 1 and data.findings() == {(verify.RECORDING, "Run/v_Run_g02"): f"train: {SIBLING}; test: {RUN}"}
    assert data.excluded() == [f"train_split01.csv: {SIBLING}"]


def test_identical_videos_in_train_and_test(data, check):
    """Within one list they are allowed, and so are other orders of the same frames."""
    shutil.copytree(data.frames / TEST, data.frames / "Run/v_Run_g06_c01")
    shutil.copytree(data.frames / RUN, data.frames / "Run/v_Run_g07_c01")
    shutil.copytree(data.frames / "Run/v_Run_g01_c02", data.frames / "Run/v_Run_g08_c01")
    shutil.copy(data.frame("Run/v_Run_g01_c02", 5), data.frame("Run/v_Run_g08_c01", 4))
    shutil.copy(data.frame("Run/v_Run_g01_c02", 4), data.frame("Run/v_Run_g08_c01", 5))
    data.edit("train", lambda rows: rows + [f"Run/v_Run_g0{group}_c01,9" for group in (6, 7, 8)])
    assert check()[0] == 1
    assert data.findings() == {(verify.IDENTICAL, "Run/v_Run_g06_c01"): f"test: {TEST}"}
    assert data.excluded() == ["train_split01.csv: Run/v_Run_g06_c01"]


def test_rows_and_classes_of_a_list(data, check):
    data.edit("train", lambda rows: [*rows, rows[0]])
    data.edit("test", lambda rows: [row for row in rows if not row.startswith("air")])
    assert check()[0] == 1
    assert data.findings() == {(verify.TWICE, RUN): "rows 1, 17", (verify.NO_VIDEO, "air drumming"): ""}
    assert data.excluded() == []


def test_bad_rows_are_named_and_the_others_checked(data, check):
    data.edit("train", lambda rows: [*rows, "Dive/x,9", "", "Run/x,0", "Run/x", rows[0]])
    data.frame(RUN).unlink()
    assert check()[0] == 1
    found = data.findings()
    assert set(found) == {(verify.BAD_ROW, f"train_split01.csv row {row}") for row in (17, 19, 20)} | {
        (verify.GAPS, RUN), (verify.TWICE, RUN)}
    assert "'Dive' is not in the data set's ClassInd.txt" in found[verify.BAD_ROW, "train_split01.csv row 17"]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\xe4", b'"Run/x'])
def test_list_that_cannot_be_read_is_a_fault_and_the_other_is_checked(content, data, check):
    (data.lists / "train_split01.csv").write_bytes(content)
    data.frame(TEST).unlink()
    assert check()[0] == 1
    assert set(data.findings()) == {(verify.BAD_LIST, "train_split01.csv"), (verify.GAPS, TEST)}


def test_list_without_its_other_half_and_splits_chosen(data, check):
    shutil.copy(data.lists / "test_split01.csv", data.lists / "test_split02.csv")
    code, output = check()
    assert code == 1 and set(data.findings()) == {(verify.BAD_LIST, "train_split02.csv")}
    code, output = check("--split", 1)
    assert code == 0 and "2 lists checked" in output


def plant_all(data):
    """Faults of every kind, each in a video of its own -> ({(fault, video)}, what must be excluded)."""
    rows = {part: (data.lists / f"{part}_split01.csv").read_text().splitlines() for part in ("train", "test")}
    counts = {row.rpartition(",")[0]: int(row.rpartition(",")[2]) for row in rows["train"] + rows["test"]}
    gone, bare, gap, tail, more, zero, cut, part, garbage, small, twice, both, *_, sibling, leak = sorted(
        row.rpartition(",")[0] for row in rows["train"])
    test = rows["test"][0].rpartition(",")[0]
    copy = f"{gone.partition('/')[0]}/copy"
    shutil.copytree(data.frames / test, data.frames / copy)
    shutil.rmtree(data.frames / gone)
    shutil.rmtree(data.frames / bare)
    (data.frames / bare).mkdir()
    data.frame(gap).unlink()
    data.frame(tail, counts[tail]).unlink()
    shutil.copy(data.frame(more, 1), data.frame(more, counts[more] + 1))
    data.frame(zero).write_bytes(b"")
    data.frame(cut).write_bytes(data.frame(cut).read_bytes()[:-20])
    data.frame(part).write_bytes(data.frame(part).read_bytes()[:-60] + b"\xff\xd9")
    data.frame(garbage).write_bytes(b"garbage")
    cv2.imwrite(str(data.frame(small)), cv2.imread(str(data.frame(small)))[:, :20])
    data.edit("train", lambda rows: [row for row in rows if not row.startswith(leak)]
              + [f"{twice},{counts[twice]}", f"{copy},{counts[test]}"])
    data.edit("test", lambda rows: [*rows, f"{both},{counts[both]}", f"{leak},{counts[leak]}"])
    kinds = {verify.NO_FOLDER: gone, verify.NO_FRAMES: bare, verify.GAPS: gap, verify.FEWER: tail, verify.MORE: more,
             verify.ZERO: zero, verify.UNDECODABLE: garbage, verify.SIZE: small, verify.TWICE: twice,
             verify.BOTH: both, verify.IDENTICAL: copy, verify.RECORDING: leak.rpartition("_")[0]}
    found = set(kinds.items()) | {(verify.TRUNCATED, cut), (verify.TRUNCATED, part)}
    return found, (sorted([gone, bare, gap, tail, zero, cut, part, garbage, small])
                   + [f"train_split01.csv: {name}" for name in sorted([both, copy, sibling])])


def test_all_faults_and_nothing_else_then_a_clean_set_without_them(whole, data, check, tool, tmp_path):
    found, excluded = plant_all(data)
    code, output = check("--workers", 2)
    assert code == 1 and set(data.findings()) == found and data.excluded() == excluded
    assert f"{len(found)} faults" in output and f"{verify.TRUNCATED}: 2: " in output

    splits = tmp_path / "splits"  # official lists with the faults that are in ours
    splits.mkdir()
    shutil.copy(data.lists / "ClassInd.txt", splits / "classInd.txt")
    for part in ("train", "test"):
        rows = (data.lists / f"{part}_split01.csv").read_text().splitlines()
        (splits / f"{part}list01.txt").write_text("".join(f"{row.rpartition(',')[0]}.avi\n" for row in rows))
    write = [write_csv, "--frames", data.frames, "--splits", splits, "--out", data.lists]
    assert tool(*write)[0] == 1
    code, output = tool(*write, "--exclude", data.lists / verify.EXCLUSIONS)
    assert code == 0 and f"6 test videos, {len(excluded)} left out by --exclude (missing_split01.txt)" in output, output

    tail = next(video for fault, video in found if fault == verify.FEWER)
    excluded.remove(tail)  # as no list says any more how many frames it should have
    code, output = check()
    assert code == 0 and data.findings() == {} and data.excluded() == excluded, output  # they are still bad
    for video in excluded[:3]:
        shutil.rmtree(data.frames / video, ignore_errors=True)
        shutil.copytree(whole / "ucf101" / "frames" / video, data.frames / video)
    data.edit("test", lambda rows: [row for row in rows if "g01" in row])
    code, output = check()
    assert code == 0 and f"note: 3 videos left out earlier and without a fault now: {excluded[0]}" in output
    assert data.excluded() == [*excluded[3:8], "train_split01.csv: Run/copy"]


def test_class_missing_in_all_lists(data, check):
    with open(data.lists / "ClassInd.txt", "a") as file:
        file.write("3 Nobody\n")
    code, output = check()
    assert code == 1 and f"{verify.NO_VIDEO}: 2: Nobody, Nobody" in output


def test_exclusions_of_splits_not_checked_are_kept(data, check):
    (data.lists / verify.EXCLUSIONS).write_text(f"# old\n\ntrain_split02.csv: {RUN}\ntrain_split01.csv: {RUN}\n")
    assert check()[0] == 0
    assert data.excluded() == [f"train_split02.csv: {RUN}"]


def test_names_reach_every_file_as_they_are(data, check, tool):
    """White space at an end, =, quotes and commas; in the report, which people open, nothing is computed."""
    odd = ["=1+1/@x ", "=1+1/#y", '=1+1/a, "b"']
    for video in odd:
        shutil.copytree(data.frames / RUN, data.frames / video)
        data.frame(video).unlink()
    shutil.copytree(data.frames / OTHER, data.frames / "=1+1/z")
    shutil.copytree(data.frames / TEST, data.frames / "=1+1/test")
    (data.lists / "ClassInd.txt").write_text("1 Run\n2 air drumming\n3 =1+1\n")
    quoted = ['"{}",9'.format(video.replace('"', '""')) for video in [*odd, "=1+1/z"]]
    data.edit("train", lambda rows: rows + quoted)
    data.edit("test", lambda rows: [*rows, "=1+1/test,9"])
    assert check()[0] == 1
    assert set(data.findings()) == {(verify.GAPS, f"'{video}") for video in odd}
    assert data.excluded() == sorted(odd)
    splits = data.lists / "splits"
    splits.mkdir()
    for part in ("train", "test"):
        rows = csv.reader((data.lists / f"{part}_split01.csv").open(newline=""))
        (splits / f"{part}list01.txt").write_text("".join(f"{row[0]}.avi\n" for row in rows))
    code, output = tool(write_csv, "--layout", "lists", "--frames", data.frames, "--splits", splits, "--out",
                        data.lists, "--exclude", data.lists / verify.EXCLUSIONS)
    assert code == 0 and "3 left out by --exclude" in output, output
    assert check()[0] == 0


def test_hmdb51_sources_are_apart_within_a_class(data, check, monkeypatch):
    names = {"train": ["wave/Film_wave_f_nm_np1_fr_med_0", "wave/Other_wave_f_nm_np1_fr_med_0",
                       "clap/Show_clap_f_nm_np1_fr_med_0"],
             "test": ["clap/Film_clap_f_nm_np1_fr_med_0", "wave/Show_wave_f_nm_np1_fr_med_0"]}
    for part, videos in names.items():
        for i, video in enumerate(videos):
            shutil.copytree(data.frames / (RUN if part == "train" else TEST), data.frames / video)
            data.frame(video, i + 1).write_bytes(data.frame(SIBLING, 9).read_bytes())
        data.edit(part, lambda rows, videos=videos: [f"{video},9" for video in videos])
    (data.lists / "ClassInd.txt").write_text("1 wave\n2 clap\n")
    monkeypatch.setitem(DATASETS, "films", LocalDataset(data.frames, data.lists, HMDB51_GROUP, 1))
    code, output = check("--dataset", "films")
    assert code == 0 and "note: split 1: 2 sources in both train and test, in different classes" in output
    data.edit("test", swap("wave/Show", "wave/Film"))
    (data.frames / "wave/Show_wave_f_nm_np1_fr_med_0").rename(data.frames / "wave/Film_wave_f_nm_np1_fr_med_0x")
    shutil.copytree(data.frames / OTHER, data.frames / "wave/Film_wave_f_nm_np1_fr_med_1")
    data.edit("test", swap("wave/Film_wave_f_nm_np1_fr_med_0", "wave/Film_wave_f_nm_np1_fr_med_1"))
    code, output = check("--dataset", "films")
    assert code == 1 and set(data.findings()) == {(verify.RECORDING, "wave/Film")}
    assert data.excluded() == [f"train_split01.csv: {names['train'][0]}"]


def test_crash_of_the_decoder_is_a_finding(data, check, tmp_path, monkeypatch):
    """The job is in a module of its own, as this one takes long to import."""
    (tmp_path / "crash.py").write_text(
        "import os\nfrom process_data.src import verify\n\n"
        f"def examine(name, **flags):\n    return os.abort() if name == {RUN!r} else verify.examine(name, **flags)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(verify, "examine", importlib.import_module("crash").examine)
    code, output = check("--workers", 2)
    assert code == 1 and set(data.findings()) == {(verify.UNDECODABLE, RUN)} and data.excluded() == [RUN]
    assert "its process died (signal 6" in output


def test_second_check_at_the_same_time_is_refused(data, check):
    with take_lock(data.lists, "--out"):
        code, output = check()
    assert code == 1 and output.startswith(f"error: --out {data.lists}: another run is writing there; wait")
    assert not (data.lists / verify.REPORT).exists() and check()[0] == 0


def test_stopped_run_leaves_the_files_of_the_last_one(data, tool, monkeypatch):
    def stopped(work, jobs, workers):
        yield jobs[0], work(jobs[0])
        raise KeyboardInterrupt

    monkeypatch.setattr(verify, "run_jobs", stopped)
    (data.lists / verify.REPORT).write_text("old")
    code, output = tool(verify, "--frames", data.frames, "--lists", data.lists, stopped="nothing was written")
    assert (code, output) == (130, "stopped: nothing was written\n")
    assert (data.lists / verify.REPORT).read_text() == "old" and not (data.lists / verify.EXCLUSIONS).exists()


@pytest.mark.parametrize("flags, named", [
    (["--dataset", "x"], "--dataset x"), (["--frames", "nowhere"], "--frames nowhere"), (["--split", 4], "--split 4"),
    (["--lists", "nowhere"], "--lists nowhere"), (["--workers", 0], "--workers 0"),
    (["--split", "one"], "argument --split")])
def test_bad_flags(flags, named, data, check):
    code, output = check(*flags)
    assert code == 2 and output.startswith(f"error: {named}") and output.count("\n") == 1


def test_folder_without_lists(data, check):
    code, output = check("--lists", data.frames)
    assert code == 1 and output.startswith(f"error: --lists {data.frames} holds no train_split01.csv")
    assert not (data.lists / verify.REPORT).exists()


def test_class_index_and_exclusion_list_that_cannot_be_read(data, check):
    (data.lists / verify.EXCLUSIONS).write_text("no class")
    code, output = check()
    assert code == 1 and f"{verify.EXCLUSIONS} row 1: expected 'class/video'" in output
    (data.lists / "ClassInd.txt").unlink()
    assert "ClassInd.txt cannot be read (No such file" in check()[1]


@pytest.mark.skipif(not OFFICIAL.is_dir(), reason=f"the official lists are not at {OFFICIAL}")
def test_official_hmdb51_list_shares_sources_across_classes_only(tmp_path):
    _, splits = write_csv.READERS["hmdb51"](OFFICIAL, tmp_path)
    train, test = ({names[0] for names in part} for part in (splits[0].train, splits[0].test))
    assert not verify.shared_recordings(train, test, HMDB51_GROUP, True)
    assert len(verify.shared_recordings(train, test, HMDB51_GROUP, False)) == 133


@pytest.mark.skipif(not CLIPS.is_dir(), reason=f"real clips are not at {CLIPS}")
@pytest.mark.slow
def test_faults_planted_in_real_clips(tool, tmp_path):
    """14 training and 4 test clips of two UCF101 classes, on the official side of split 1."""
    names = {"train": [], "test": []}
    for label, groups in (("Lunges", range(8, 15)), ("WallPushups", range(8, 14))):
        for part, numbers in (("train", groups), ("test", (1, 2))):
            names[part] += [f"{label}/v_{label}_g{group:02d}_c01" for group in numbers]
    names["train"].append("WallPushups/v_WallPushups_g13_c02")
    splits = tmp_path / "splits"
    splits.mkdir()
    (splits / "classInd.txt").write_text("1 Lunges\n2 WallPushups\n")
    for part, videos in names.items():
        (splits / f"{part}list01.txt").write_text("".join(f"{video}.avi\n" for video in videos))
        for video in videos:
            (tmp_path / "videos" / video).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "videos" / f"{video}.avi").symlink_to(CLIPS / "videos" / f"{video}.avi")
    data = Data(tmp_path / "frames", tmp_path / "lists")
    assert tool(extract_frame, "--videos", tmp_path / "videos", "--frames", data.frames, "--short_side", 64)[0] == 0
    assert tool(write_csv, "--frames", data.frames, "--splits", splits, "--out", data.lists)[0] == 0
    check = [verify, "--dataset", "ucf101-5class", "--frames", data.frames, "--lists", data.lists]
    code, output = tool(*check)
    assert code == 0 and "18 videos, " in output, output
    found, excluded = plant_all(data)
    assert tool(*check)[0] == 1
    assert set(data.findings()) == found and data.excluded() == excluded

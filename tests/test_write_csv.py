"""Lists from official lists and folders of frames: process_data/src/{write_csv,official_lists}.py."""
import csv
import itertools

import cv2
import numpy as np
import pytest
from helpers import NARROW, SHARED, SMALL, InProcess, exit_code

from core.errors import DataError
from core.files import take_lock
from dataset.lists import open_list, read_class_index, read_list, video_groups
from dataset.local_dataset import DATASETS, DEMO_GROUP, NO_GROUP, UCF101_GROUP, LocalDataset
from dataset.reader import FRAME_NAME
from process_data.src import common, write_csv
from process_data.src.official_lists import READERS, Split, read_lines

OFFICIAL = SHARED / "data" / "official_lists"
TENNIS = SHARED / "data" / "tennis-7class"
ODD = "Ünder#s;c!o&(r)[e] d, \"x\"_wave_f_nm_np1_fr_med_0"
HEADER = "label,youtube_id,time_start,time_end,split\n"


@pytest.fixture
def write(monkeypatch, capsys):
    """Run write_csv.py in this process; -> (exit code, its output)."""
    def call(*flags):
        code = exit_code(write_csv, flags, monkeypatch)
        output = capsys.readouterr()
        return code, output.out + output.err
    return call


def make_frames(root, counts):
    """Empty frame files: {class/video: number}."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            (root / name / FRAME_NAME.format(i + 1)).touch()
    return root


def make_files(folder, texts):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", newline="")
    return folder


def make_manifest(frames, counts):
    rows = [",".join(common.COLUMNS)] + [f"{name},x.avi,{count},{count},25.0,4,4,4,80,9,5" for name, count in counts]
    make_files(frames, {common.MANIFEST: "\n".join(rows) + "\n"})


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return [tuple(row) for row in csv.reader(file)]


def flags(tmp_path, dataset="ucf101"):
    return ["--dataset", dataset, "--frames", tmp_path / "frames", "--splits", tmp_path / "splits", "--out",
            tmp_path / "out"]


@pytest.fixture
def ucf(tmp_path):
    """Two classes, not in order of the alphabet; Windows line ends, as the official lists have."""
    make_frames(tmp_path / "frames", {"Jump/v_Jump_g01_c01": 3, "Jump/v_Jump_g02_c01": 4, "Jump/v_Jump_g02_c02": 5,
                                      "Climb/v_Climb_g01_c01": 6, "Climb/v_Climb_g02_c01": 7})
    make_files(tmp_path / "splits", {
        "classInd.txt": "1 Jump\r\n2 Climb\r\n",
        "trainlist01.txt": "Jump/v_Jump_g02_c01.avi 1\r\nJump/v_Jump_g02_c02.avi 1\r\nClimb/v_Climb_g02_c01.avi 2\r\n",
        "testlist01.txt": "Jump/v_Jump_g01_c01.avi\r\nClimb/v_Climb_g01_c01.avi\r\n"})
    return tmp_path


def test_ucf101(ucf, write):
    code, output = write(*flags(ucf))
    assert code == 0 and "split 1: 3 train and 2 test videos\n2 classes" in output
    assert sorted(path.name for path in (ucf / "out").iterdir()) == [".lock", "ClassInd.txt", "test_split01.csv",
                                                                     "train_split01.csv"]
    assert (ucf / "out" / "ClassInd.txt").read_text() == "1 Jump\n2 Climb\n"
    assert (ucf / "out" / "test_split01.csv").read_text() == "Jump/v_Jump_g01_c01,3\nClimb/v_Climb_g01_c01,6\n"
    videos = read_list(ucf / "out" / "train_split01.csv", read_class_index(ucf / "out" / "ClassInd.txt"))
    assert videos.names.tolist() == ["Jump/v_Jump_g02_c01", "Jump/v_Jump_g02_c02", "Climb/v_Climb_g02_c01"]
    assert videos.num_frames.tolist() == [4, 5, 7] and videos.labels.tolist() == [0, 0, 1]


def test_hmdb51_names_as_they_are(tmp_path, write):
    make_frames(tmp_path / "frames", {f"wave/{ODD}": 2, "wave/b": 3, "wave/unused": 1, "draw_sword/a": 4,
                                      "draw_sword/c": 5})
    splits = make_files(tmp_path / "splits", {
        "wave_test_split1.txt": f"{ODD}.avi 1 \nb.avi 2 \nunused.avi 0 \n",
        "draw_sword_test_split1.txt": "a.avi 2 \nc.avi 1 \n", "readme.txt": "x"})
    for name in ("wave", "draw_sword"):
        text = (splits / f"{name}_test_split1.txt").read_text(encoding="utf-8").replace(" 1", " 3")
        make_files(splits, {f"{name}_test_split2.txt": text.replace(" 2", " 1").replace(" 3", " 2")})
    code, output = write(*flags(tmp_path, "hmdb51"))
    assert code == 0 and "note: 1 video in" in output and "in no list" in output
    out = tmp_path / "out"
    assert (out / "ClassInd.txt").read_text() == "1 draw_sword\n2 wave\n"
    assert rows(out / "train_split01.csv") == [("draw_sword/c", "5"), (f"wave/{ODD}", "2")]
    assert rows(out / "test_split01.csv") == [("draw_sword/a", "4"), ("wave/b", "3")]
    assert rows(out / "train_split02.csv") == rows(out / "test_split01.csv")
    index = read_class_index(out / "ClassInd.txt")
    assert read_list(out / "train_split01.csv", index).names.tolist()[1] == f"wave/{ODD}"


@pytest.mark.parametrize("test_list", ["val.csv", "validate.csv", "test.csv"])
def test_kinetics_by_segment_or_id_and_folders_with_spaces_or_underscores(test_list, tmp_path, write):
    make_frames(tmp_path / "frames", {"riding (a) mule/-ab_000012_000022": 3, "riding (a) mule/x_y": 4,
                                      "using_segway/c": 5, "using_segway/d_000000_000010": 6})
    make_files(tmp_path / "splits", {
        "train.csv": f"{HEADER}using segway,d,0,10,train\nriding (a) mule,-ab,12,22,train\n",
        test_list: f"{HEADER}riding (a) mule,x_y,1.0,11.0,val\n\"using segway\",c,7,17,val\n"})
    code, output = write(*flags(tmp_path, "k400"))
    assert code == 0, output
    out = tmp_path / "out"
    assert (out / "ClassInd.txt").read_text() == "1 riding (a) mule\n2 using_segway\n"
    assert rows(out / "train_split01.csv") == [("using_segway/d_000000_000010", "6"),
                                               ("riding (a) mule/-ab_000012_000022", "3")]
    assert rows(out / "test_split01.csv") == [("riding (a) mule/x_y", "4"), ("using_segway/c", "5")]


@pytest.fixture
def given(tmp_path):
    """Frames of own videos and two splits of them, without classInd.txt."""
    make_frames(tmp_path / "frames", {"wave/a": 3, "wave/serve 2": 4, "wave/b.c": 5, "dive/a": 6, "dive/d.wmv": 7})
    make_files(tmp_path / "splits", {
        "trainlist01.txt": "wave/a.mp4\n\nwave/serve 2\r\ndive/a.MKV \n", "testlist01.txt": "wave/b.c\ndive/d.wmv\n",
        "trainlist02.txt": "dive/d.wmv\nwave/b.c.webm", "testlist02.txt": "wave/serve 2.avi\ndive/a.mov\n"})
    return tmp_path


def test_given_lists_of_own_videos(given, write):
    code, output = write(*flags(given, "folder"))
    assert code == 0 and "split 1: 3 train and 2 test videos\nsplit 2: 2 train and 2 test videos\n" in output
    assert "note: folder has 1 split by dataset/local_dataset.py: write splits=2 there\n2 classes" in output
    out = given / "out"
    assert (out / "ClassInd.txt").read_text() == "1 dive\n2 wave\n"
    assert rows(out / "train_split01.csv") == [("wave/a", "3"), ("wave/serve 2", "4"), ("dive/a", "6")]
    assert rows(out / "test_split01.csv") == [("wave/b.c", "5"), ("dive/d.wmv", "7")]
    assert rows(out / "train_split02.csv") == [("dive/d.wmv", "7"), ("wave/b.c", "5")]
    assert rows(out / "test_split02.csv") == [("wave/serve 2", "4"), ("dive/a", "6")]


@pytest.mark.parametrize("index, classes", [("1 wave\n2 dive\n", "1 wave\n2 dive\n"), (None, "1 dive\n2 wave\n")])
def test_given_lists_with_labels_as_ucf101_has_them(index, classes, given, write):
    make_files(given / "splits", {"trainlist01.txt": "wave/a.mp4 1\nwave/serve 2\ndive/a.mkv 2\n"})
    if index:
        make_files(given / "splits", {"classInd.txt": index})
    code, output = write(*flags(given, "folder"))
    assert code == 0 and (given / "out" / "ClassInd.txt").read_text() == classes
    assert rows(given / "out" / "train_split01.csv") == [("wave/a", "3"), ("wave/serve 2", "4"), ("dive/a", "6")]
    assert ("note: the labels in the lists are not used" in output) == (index is None)


@pytest.mark.parametrize("texts, says", [
    ({"trainlist01.txt": "wave/a.mp4\nwave\n"}, "{splits}/trainlist01.txt row 2: expected 'class/file.mp4'"),
    ({"trainlist01.txt": "wave/a.mp4\nwave/b/c.mp4\n"}, "trainlist01.txt row 2: expected 'class/file.mp4'"),
    ({"testlist02.txt": "../a.mp4\n"}, "testlist02.txt row 1: expected 'class/file.mp4'"),
    ({"testlist01.txt": "\ndive/d.wmv 1\n", "trainlist01.txt": "wave/a.mp4\ndive/a.mkv 2"},
     "{splits}/testlist01.txt row 2: label 1, but trainlist01.txt row 2 says 2 for dive"),
    ({"classInd.txt": "1 wave\n2 dive\n", "testlist01.txt": "wave/a.mp4\ndive/d.wmv 1\n"},
     "{splits}/testlist01.txt row 2: label 1, but classInd.txt says 2 for dive"),
    ({"classInd.txt": "1 wave\n"}, "{splits}/trainlist01.txt row 4: class dive is not in classInd.txt"),
    ({"classInd.txt": "1 wave\n2 dive\n3 jump\n"}, None),
    ({"classInd.txt": "0 wave\n1 dive\n"}, "{splits}/classInd.txt row 1: expected '1 <class name>'"),
    ({"trainlist01.txt": "wave/b.c\n"}, "split 1: 1 video in both train and test list (wave/b.c)"),
    ({"trainlist03.txt": "wave/a.mp4\n"}, "{splits} has split 3 but no testlist03.txt")])
def test_given_lists_that_cannot_be(texts, says, given, write):
    make_files(given / "splits", texts)
    code, output = write(*flags(given, "folder"))
    assert code == 1 and not (given / "out").exists()
    if says:
        assert output.startswith("error: ") and output.count("\n") == 1
    assert (says or "split 1: 2 classes without any video: jump (train), jump (test)").format(
        splits=given / "splits") in output


def test_given_lists_are_taken_only_where_they_are_given(given, write, monkeypatch):
    """A random hold-out stays the default for own videos; it says so where lists lie beside the frames."""
    monkeypatch.setitem(DATASETS, "mine", LocalDataset(given / "frames", given / "out", NO_GROUP, 1))
    code, output = write("--dataset", "mine", "--holdout", "0.5")
    assert code == 0 and f"note: the lists in {given / 'splits'} are not read: give --splits" in output
    code, output = write("--dataset", "mine", "--splits", given / "splits", "--holdout", 0.2)
    assert code == 2 and output.startswith("error: --holdout 0.2: layout lists reads its test list from --splits")
    assert write("--dataset", "mine", "--layout", "lists")[0] == 0
    assert rows(given / "out" / "test_split01.csv") == [("wave/b.c", "5"), ("dive/d.wmv", "7")]


def make_video(path, brightness, frames=6):
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.CAP_OPENCV_MJPEG, cv2.VideoWriter_fourcc(*"MJPG"), 25, (32, 24))
    for i in range(frames):
        writer.write(np.full((24, 32, 3), brightness + 10 * i, np.uint8))
    writer.release()


def test_a_data_set_with_a_format_of_its_own_is_a_reader_and_two_lines(tmp_path, monkeypatch, capsys):
    """The reader, its line in READERS and a line in DATASETS: then every tool takes the data set."""
    def read_toy(folder, frames):
        """parts.txt, rows `fold|class|file|train or test`."""
        classes, splits = set(), {}
        for row, line in read_lines(folder / "parts.txt"):
            fields = line.split("|")
            if len(fields) != 4 or fields[3] not in ("train", "test"):
                raise DataError(f"{folder / 'parts.txt'} row {row}: expected fold|class|file|train or test, got {line}")
            fold, class_name, file, part = fields
            classes.add(class_name)
            split = splits.setdefault(int(fold), Split(int(fold), [], []))
            getattr(split, part).append((f"{class_name}/{file}",))
        return sorted(classes, reverse=True), list(splits.values())

    monkeypatch.setitem(READERS, "toy", read_toy)
    monkeypatch.setitem(DATASETS, "toy", LocalDataset(tmp_path / "frames", tmp_path / "lists", NO_GROUP, 2))

    parts = []
    for class_name, file in itertools.product(("jump", "wave"), (1, 2)):
        make_video(tmp_path / "videos" / class_name / f"{file}.avi", 20 * len(parts))
        parts += [f"{fold}|{class_name}|{file}|{'test' if fold == file else 'train'}" for fold in (1, 2)]
    make_files(tmp_path / "splits", {"parts.txt": "\n".join(parts)})
    tool = InProcess(tmp_path, monkeypatch, capsys)
    one = ("--workers", 1)
    for script, *more in (("extract_frame", "--short_side", 32, *one), ("write_csv",), ("pack", *one), ("verify", *one),
                          ("verify", "--storage", "packed", *one)):
        code, out, error = tool(f"process_data/src/{script}.py", "--dataset", "toy", *more)
        assert code == 0, out + error
    for storage in ("frames", "packed", "video"):
        train, test = open_list("toy", "train", 2, storage), open_list("toy", "test", 2, storage)
        assert train.classes.tolist() == ["wave", "jump"]
        assert train.names.tolist() == ["jump/1", "wave/1"] and train.labels.tolist() == [1, 0]
        assert test.names.tolist() == ["jump/2", "wave/2"] and test.num_frames.tolist() == [6, 6]

    make_files(tmp_path / "splits", {"parts.txt": "1|jump|1|train\n1|jump|2\n"})
    code, _, error = tool("process_data/src/write_csv.py", "--dataset", "toy")
    assert code == 1 and error == (f"error: {tmp_path}/splits/parts.txt row 2: expected fold|class|file|train or test, "
                                   "got 1|jump|2\n")


@pytest.mark.skipif(not TENNIS.is_dir(), reason=f"the real clips are not at {TENNIS}")
@pytest.mark.slow
def test_real_clips_with_given_lists_from_files_to_training(tmp_path, monkeypatch, capsys):
    """Three training and two test clips of each class."""
    texts = {}
    for part, wanted in (("train", ("1", "2", "3")), ("test", ("41", "42"))):
        lines = (TENNIS / "splits" / f"{part}list01.txt").read_text().splitlines()
        some = [line for line in lines if line.removesuffix(".mp4").lstrip("abcdefghijklmnopqrstuvwxyz_/") in wanted]
        texts[f"{part}list01.txt"] = "\n".join(some)
        for line in some:
            (tmp_path / "videos" / line).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "videos" / line).symlink_to(TENNIS / "videos" / line)
    make_files(tmp_path / "splits", texts)
    monkeypatch.setitem(DATASETS, "tennis", LocalDataset(tmp_path / "frames", tmp_path / "lists", NO_GROUP, 1))
    tool = InProcess(tmp_path, monkeypatch, capsys)

    def succeed(script, *more):
        code, out, error = tool(script, "--dataset", "tennis", *more)
        assert code == 0, error
        return out

    succeed("process_data/src/extract_frame.py", "--short_side", 32, "--workers", 1)
    out = succeed("process_data/src/write_csv.py", "--splits", tmp_path / "splits")
    assert out.startswith("split 1: 21 train and 14 test videos\n7 classes")
    test = open_list("tennis", "test", 1)
    assert test.names.tolist()[:2] == ["b_slice/b_slice41", "b_slice/b_slice42"] and (test.num_frames > 50).all()
    training = [*SMALL, *NARROW, "--batch_size", 4, "--log_dir", tmp_path / "log", "--name", "t", "--eval_every", 0]
    assert "tennis split 1, 21 videos" in succeed("train.py", *training, "--dry_run")
    succeed("train.py", *training, "--epochs", 1)
    assert (tmp_path / "log/dualvar/pretrain/t/model/backbone.pth.tar").exists()


def test_folder_holds_out_whole_recordings(tmp_path, write):
    counts = {f"{c}/v_{c}_g{g:02d}_c{i:02d}": g for c in ("B", "A") for g in range(1, 11) for i in (1, 2)}
    make_frames(tmp_path / "frames", counts)
    base = ["--frames", tmp_path / "frames", "--layout", "folder", "--out"]
    results = {}
    for name, more in (("a", ["--dataset", "demo"]), ("b", ["--dataset", "demo"]),
                       ("c", ["--dataset", "demo", "--seed", 1]), ("d", ["--dataset", "ucf101", "--holdout", 0.5])):
        assert write(*base, tmp_path / name, *more)[0] == 0
        results[name] = {part: rows(tmp_path / name / f"{part}_split01.csv") for part in ("train", "test")}
    assert results["a"] == results["b"] != results["c"]
    for name, rule, test in (("a", DEMO_GROUP, 8), ("c", DEMO_GROUP, 8), ("d", UCF101_GROUP, 20)):
        names = {part: [row[0] for row in results[name][part]] for part in ("train", "test")}
        assert not set(video_groups(names["train"], rule)) & set(video_groups(names["test"], rule))
        assert sorted(names["train"] + names["test"]) == sorted(counts) and len(names["test"]) == test
    assert all(counts[name] == int(count) for name, count in results["a"]["train"])
    assert (tmp_path / "a" / "ClassInd.txt").read_text() == "1 A\n2 B\n"


def test_what_is_missing_is_named_and_nothing_written(ucf, write):
    frames = ucf / "frames"
    make_frames(frames, {"Jump/gap": 3, "Jump/short": 4, "Jump/zero": 0})
    (frames / "Jump" / "gap" / FRAME_NAME.format(2)).unlink()
    make_manifest(frames, [("Jump/short", 9), ("Jump/v_Jump_g02_c01", 4)])
    with open(ucf / "splits" / "trainlist01.txt", "a") as file:
        file.write("Jump/gap.avi 1\nJump/short.avi 1\nJump/zero.avi 1\nJump/gone.avi 1\nDive/x.avi 3\n")
    code, output = write(*flags(ucf))
    assert code == 1 and not (ucf / "out").exists()
    for line in ("1 video of a class that is not in classInd.txt: Dive/x", "1 video without any frame: Jump/zero",
                 "1 video without a folder of frames: Jump/gone",
                 "2 videos with frames lacking: Jump/gap (2 frames, no image_00002.jpg), Jump/short (4 frames, the "
                 "manifest says 9)"):
        assert f"split 1: {line}\n" in output
    assert output.splitlines()[-1].startswith("error: nothing written: ") and "--allow_missing" in output
    code, output = write(*flags(ucf), "--allow_missing")
    assert code == 0 and "split 1: 3 train and 2 test videos, 5 left out (missing_split01.txt)" in output
    assert len(rows(ucf / "out" / "train_split01.csv")) == 3
    missing = (ucf / "out" / "missing_split01.txt").read_text()
    assert missing.count("\n") == 5 and "without any frame: Jump/zero\n" in missing


def test_second_writing_at_the_same_time_is_refused_and_the_lists_stay(ucf, write):
    write(*flags(ucf))
    before = (ucf / "out" / "train_split01.csv").read_text()
    make_files(ucf / "splits", {"trainlist01.txt": "Jump/v_Jump_g02_c01.avi 1\nClimb/v_Climb_g02_c01.avi 2\n"})
    with take_lock(ucf / "out", "--out"):
        code, output = write(*flags(ucf))
    assert code == 1 and f"error: --out {ucf / 'out'}: another run is writing there; wait" in output
    assert (ucf / "out" / "train_split01.csv").read_text() == before
    assert write(*flags(ucf))[0] == 0 and (ucf / "out" / "train_split01.csv").read_text() != before


@pytest.mark.parametrize("dataset, name", [("ucf101", "trainlist00.txt"), ("ucf101", "testlist1000.txt"), (
    "ucf101", "trainlist99999999999.txt"), ("hmdb51", "wave_test_split0.txt")])
def test_splits_are_numbered_from_1_to_999(dataset, name, ucf, write):
    make_files(ucf / "splits", {name: "wave/x.avi 1\n"})
    code, output = write(*flags(ucf, dataset))
    assert code == 1 and f"error: {ucf / 'splits' / name}: splits are numbered from 1 to 999" in output
    assert not (ucf / "out").exists()


def test_missing_list_goes_when_nothing_is_missing(ucf, write):
    make_files(ucf / "out", {"missing_split01.txt": "old"})
    assert write(*flags(ucf))[0] == 0
    assert not (ucf / "out" / "missing_split01.txt").exists()


def test_class_without_videos_and_empty_list(ucf, write):
    with open(ucf / "splits" / "classInd.txt", "a") as file:
        file.write("3 Dive\n")
    code, output = write(*flags(ucf))
    assert code == 1 and "split 1: 2 classes without any video: Dive (train), Dive (test)\n" in output
    assert write(*flags(ucf), "--allow_missing")[0] == 0
    assert (ucf / "out" / "ClassInd.txt").read_text() == "1 Jump\n2 Climb\n3 Dive\n"
    make_files(ucf / "splits", {"testlist01.txt": "Jump/elsewhere.avi\n"})
    before = (ucf / "out" / "test_split01.csv").read_text()
    code, output = write(*flags(ucf), "--allow_missing")
    assert code == 1 and "error: nothing written: test_split01.csv would be empty" in output
    assert (ucf / "out" / "test_split01.csv").read_text() == before


def test_excluded_videos_are_left_out_and_their_damage_is_no_problem(ucf, write):
    (ucf / "frames" / "Jump/v_Jump_g02_c01" / FRAME_NAME.format(2)).unlink()
    with open(ucf / "splits" / "trainlist01.txt", "a") as file:
        file.write("Jump/gone.avi 1\nJump/v_Jump_g01_c01.avi 1\nDive/x.avi 3\n")
    assert write(*flags(ucf))[0] == 1  # g01_c01 is in both
    make_files(ucf, {"bad.txt": "# frames\n\nJump/v_Jump_g02_c01\n  Jump/gone\r\nDive/x\n",
                     "leaks.txt": "train_split01.csv: Jump/v_Jump_g01_c01\n"})
    code, output = write(*flags(ucf), "--exclude", ucf / "bad.txt", ucf / "leaks.txt")
    assert code == 0, output
    assert "split 1: 2 train and 2 test videos, 3 left out by --exclude (missing_split01.txt)\n" in output
    assert rows(ucf / "out" / "train_split01.csv") == [("Jump/v_Jump_g02_c02", "5"), ("Climb/v_Climb_g02_c01", "7")]
    assert rows(ucf / "out" / "test_split01.csv") == [("Jump/v_Jump_g01_c01", "3"), ("Climb/v_Climb_g01_c01", "6")]
    assert (ucf / "out" / "missing_split01.txt").read_text() == "".join(
        f"left out by --exclude: Jump/{name} (train)\n" for name in ("v_Jump_g02_c01", "gone", "v_Jump_g01_c01"))


def test_class_that_exclusion_leaves_empty_is_an_error(ucf, write):
    make_files(ucf, {"exclude.txt": "Climb/v_Climb_g02_c01\n"})
    code, output = write(*flags(ucf), "--exclude", ucf / "exclude.txt")
    assert code == 1 and "1 classes without any video: Climb (train)" in output and not (ucf / "out").exists()


@pytest.mark.parametrize("text, named", [
    ("Jump/v_Jump_g02_c1\n", "holds 1 line of no video, or of none in that list: Jump/v_Jump_g02_c1; mend or"),
    ("train_split01.csv: Jump/v_Jump_g01_c01\n", "or of none in that list: train_split01.csv: Jump/v_Jump_g01"),
    ("train_split07.csv: Jump/v_Jump_g02_c01\n", "or of none in that list: train_split07.csv: Jump/v_Jump_g02"),
    ("train_split1.csv: Jump/v_Jump_g02_c01\n", "or of none in that list: train_split1.csv: Jump"),
    ("# ok\nv_Jump_g02_c01\n", "row 2: expected 'class/video'"), (None, "--exclude ")])
def test_exclusion_list_that_cannot_be(text, named, ucf, write):
    if text:
        make_files(ucf, {"exclude.txt": text})
    code, output = write(*flags(ucf), "--exclude", ucf / "exclude.txt")
    assert code == (1 if text else 2) and named in output and output.startswith("error: ") and output.count("\n") == 1
    assert not (ucf / "out").exists()


def test_exclusion_leaves_the_other_videos_of_a_hold_out_where_they_are(tmp_path, write):
    counts = {f"{c}/v_{c}_g{g:02d}_c01": g for c in ("B", "A") for g in range(1, 21)}
    make_frames(tmp_path / "frames", counts)
    base = ["--frames", tmp_path / "frames", "--dataset", "folder", "--out"]
    assert write(*base, tmp_path / "before")[0] == 0
    before = {part: rows(tmp_path / "before" / f"{part}_split01.csv") for part in ("train", "test")}
    out = before["train"][3][0], before["test"][2][0]
    (tmp_path / "frames" / out[0] / FRAME_NAME.format(1)).unlink()
    make_files(tmp_path, {"exclude.txt": "\n".join([*out, "A/folder removed"])})
    code, output = write(*base, tmp_path / "after", "--exclude", tmp_path / "exclude.txt")
    assert code == 0 and "holds 1 line of no video, or of none in that list: A/folder removed\n" in output
    for part, named in before.items():
        assert rows(tmp_path / "after" / f"{part}_split01.csv") == [row for row in named if row[0] not in out]


def test_kinetics_video_is_excluded_by_any_of_its_names(tmp_path, write):
    make_frames(tmp_path / "frames", {"wave/a_000000_000010": 1, "wave/b": 1, "wave/c": 1})
    make_files(tmp_path / "splits", {"train.csv": f"{HEADER}wave,a,0,10,train\nwave,b,0,10,train\n",
                                     "val.csv": f"{HEADER}wave,c,0,10,val\n"})
    make_files(tmp_path, {"exclude.txt": "wave/a\n"})
    code, output = write(*flags(tmp_path, "k400"), "--exclude", tmp_path / "exclude.txt")
    assert code == 0 and rows(tmp_path / "out" / "train_split01.csv") == [("wave/b", "1")]


@pytest.mark.parametrize("texts, named", [
    ({"testlist01.txt": "Jump/v_Jump_g02_c01.avi\n"}, "split 1: 1 video in both train and test list"),
    ({"trainlist01.txt": "Jump/v_Jump_g02_c01.avi 2\n"}, "label 2, but classInd.txt says 1 for Jump"),
    ({"trainlist01.txt": "v_Jump_g02_c01.avi 1\n"}, "row 1: expected 'Class/video.avi 1'"),
    ({"trainlist02.txt": "Jump/v_Jump_g02_c01.avi 1\n"}, "has split 2 but no testlist02.txt"),
    ({"classInd.txt": "Jump\n"}, "classInd.txt row 1")])
def test_ucf101_lists_that_cannot_be(texts, named, ucf, write):
    make_files(ucf / "splits", texts)
    code, output = write(*flags(ucf))
    assert code == 1 and output.startswith("error: ") and named in output and output.count("\n") == 1
    assert not (ucf / "out").exists()


@pytest.mark.parametrize("dataset, texts, named", [
    ("hmdb51", {"wave_test_split1.txt": "a.avi 3\n"}, "row 1: expected 'video.avi 0|1|2'"),
    ("hmdb51", {"wave_test_split1.txt": "a.avi 1\n", "dive_test_split2.txt": "a.avi 1\n"}, "no dive_test_split1.txt"),
    ("hmdb51", {"readme.txt": ""}, "holds no <class>_test_split1.txt"),
    ("k400", {"train.csv": HEADER}, "lacks train.csv, or val.csv"),
    ("k400", {"train.csv": "label,youtube_id\n", "val.csv": HEADER}, "no column time_start"),
    ("k400", {"train.csv": f"{HEADER}a,b,soon,1,train\n", "val.csv": HEADER}, "row 2: time_start"),
    ("k400", {"train.csv": f"{HEADER},b,0,1,train\n", "val.csv": HEADER}, "row 2: label"),
    ("ucf101", {"readme.txt": ""}, "classInd.txt cannot be read (No such file")])
def test_other_lists_that_cannot_be(dataset, texts, named, tmp_path, write):
    make_frames(tmp_path / "frames", {"wave/a": 1})
    make_files(tmp_path / "splits", texts)
    code, output = write(*flags(tmp_path, dataset))
    assert code == 1 and output.startswith("error: ") and named in output and output.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("more, named", [
    (["--frames", "nowhere"], "--frames nowhere"), (["--splits", "nowhere"], "--splits nowhere"),
    (["--holdout", "0.2"], "--holdout 0.2"), (["--layout", "folder"], "--splits"), (["--dataset", "x"], "--dataset x"),
    (["--layout", "avi"], "argument --layout")])
def test_bad_flags(more, named, ucf, write):
    code, output = write(*flags(ucf), *more)
    assert code == 2 and output.startswith(f"error: {named}") and output.count("\n") == 1
    assert not (ucf / "out").exists()


def test_list_that_is_not_utf8_and_damaged_manifest(ucf, write):
    (ucf / "frames" / common.MANIFEST).write_text("video,frames\nJump/v_Jump_g02_c01,many\n")
    assert "manifest.csv row 1: expected the columns video,source," in write(*flags(ucf))[1]
    (ucf / "frames" / common.MANIFEST).unlink()
    (ucf / "splits" / "testlist01.txt").write_bytes(b"Jump/\xe4.avi\n")
    code, output = write(*flags(ucf))
    assert code == 1 and "testlist01.txt row 1: not UTF-8" in output


def test_folders_whose_name_no_list_can_carry_are_named(tmp_path, write):
    make_frames(tmp_path / "frames", {f"wave/{name}": 2 for name in ("a", "b", "c", "x\ry", "tab\t")}
                | {f"two\nlines/{i}": 2 for i in range(9)})
    base = ["--dataset", "folder", "--frames", tmp_path / "frames", "--out", tmp_path / "out"]
    code, output = write(*base)
    assert code == 1 and not (tmp_path / "out").exists()
    assert "split 1: 3 videos on disk whose name no list can carry: " in output
    for name in (r"'two\nlines'", r"'wave/x\ry'", r"'wave/tab\t'"):
        assert f"{name} (it holds the control character " in output
    code, output = write(*base, "--allow_missing")
    assert code == 0 and "split 1: 2 train and 1 test videos, 3 left out (missing_split01.txt)" in output
    assert (tmp_path / "out/missing_split01.txt").read_text().count("\n") == 3
    assert (tmp_path / "out/ClassInd.txt").read_text() == "1 wave\n"


@pytest.mark.parametrize("dataset, texts", [
    ("folder", {"trainlist01.txt": "wave/a\x85b\n", "testlist01.txt": "wave/a\n"}),
    ("ucf101", {"classInd.txt": "1 wave\n", "trainlist01.txt": "wave/a\rb.avi 1\n", "testlist01.txt": "wave/a\n"}),
    ("hmdb51", {"wave_test_split1.txt": "a\tb.avi 1\n"}),
    ("k400", {"train.csv": f"{HEADER}wave,a/b,0,9,train\n", "val.csv": HEADER}),
    ("k400", {"train.csv": f"{HEADER}wave ,a,0,9,train\n", "val.csv": HEADER})])
def test_names_in_official_lists_that_no_list_can_carry(dataset, texts, tmp_path, write):
    make_frames(tmp_path / "frames", {"wave/a": 1})
    make_files(tmp_path / "splits", texts)
    code, output = write(*flags(tmp_path, dataset))
    assert code == 1 and "cannot be a folder's name (it " in output and output.count("\n") == 1 and " row " in output


def test_a_video_called_dots_and_a_suffix_has_no_second_name(tmp_path):
    make_files(tmp_path, {"trainlist01.txt": "wave/...wmv\n", "testlist01.txt": "wave/a.wmv\n"})
    split, = READERS["lists"](tmp_path, tmp_path)[1]
    assert (split.train, split.test) == ([("wave/...wmv",)], [("wave/a.wmv", "wave/a")])


@pytest.mark.parametrize("time", ["nan", "inf", "1e400"])
def test_kinetics_times_that_are_no_seconds(time, tmp_path, write):
    make_frames(tmp_path / "frames", {"wave/a": 1})
    make_files(tmp_path / "splits", {"train.csv": f"{HEADER}wave,a,{time},9,train\n", "val.csv": HEADER})
    code, output = write(*flags(tmp_path, "k400"))
    assert code == 1 and "train.csv row 2: time_start and time_end must be seconds" in output


@pytest.mark.skipif(not OFFICIAL.is_dir(), reason=f"the official lists are not at {OFFICIAL}")
@pytest.mark.parametrize("dataset, sizes", [
    ("ucf101", {1: (9537, 3783), 2: (9586, 3734), 3: (9624, 3696)}), ("hmdb51", {1: (3563, 1523)})])
def test_official_lists_in_full(dataset, sizes, tmp_path, write, monkeypatch):
    """All frames missing but for one video; then all there, which is pretended, as 13,320 folders take long to make."""
    classes, splits = write_csv.READERS[dataset](OFFICIAL / dataset, tmp_path)
    videos = [names[0] for split in splits for names in split.train + split.test]
    make_frames(tmp_path / "frames", {videos[0]: 2})
    base = ["--dataset", dataset, "--frames", tmp_path / "frames", "--splits", OFFICIAL / dataset, "--out",
            tmp_path / "out"]
    code, output = write(*base)
    assert code == 1 and f"split 1: {sum(sizes[1]) - 1} videos without a folder of frames" in output
    assert not (tmp_path / "out").exists()
    folders = {name: set() for name in classes}
    for class_name, video in (name.split("/") for name in videos):
        folders[class_name].add(video)
    monkeypatch.setattr(write_csv, "find_folders", lambda frames: (folders, []))
    monkeypatch.setattr(write_csv, "count_frames", lambda frames, names, manifest: (dict.fromkeys(names, 7), {}))
    code, output = write(*base)
    assert code == 0, output
    index = read_class_index(tmp_path / "out" / "ClassInd.txt")
    assert len(index) == {"ucf101": 101, "hmdb51": 51}[dataset]
    first = ["Hammering", "HammerThrow"] if dataset == "ucf101" else ["brush_hair", "cartwheel"]
    assert [name for name in index if name in first] == first  # UCF101's order is not the alphabet's
    for number, counts in sizes.items():
        lists = [read_list(tmp_path / "out" / f"{part}_split{number:02d}.csv", index) for part in ("train", "test")]
        assert tuple(map(len, lists)) == counts
        assert set(lists[0].labels) == set(lists[1].labels) == set(range(len(index)))
        if dataset == "ucf101":
            groups = [set(video_groups(part.names, UCF101_GROUP)) for part in lists]
            assert not groups[0] & groups[1]

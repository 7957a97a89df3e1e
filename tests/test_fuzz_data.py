"""Damaged lists, manifests, frames and videos: every byte of data from outside gives a result or one sentence."""
import io
import json
import shutil
import zipfile
import zlib

import cv2
import numpy as np
import pytest
from fuzz import SENTENCES, bounded, cases, damaged, in_sentence
from helpers import exit_code, make_dataset
from hypothesis import given
from hypothesis import strategies as st

from core.files import csv_lines
from core.names import name_fault
from dataset.lists import class_fault, read_class_index, read_list
from dataset.local_dataset import DATASETS, NO_GROUP, LocalDataset
from dataset.reader import FRAME_NAME, FrameFolders, FrameReader, decode_jpeg
from dataset.storage import PackedFrames
from dataset.video import BrokenVideo, VideoFiles, open_video
from process_data.src import common, extract_frame, frame_check, verify, write_csv
from process_data.src.official_lists import READERS

CLASSES = "1 Run\n2 air drumming\n3 É\n".encode()
LIST = 'Run/v_Run_g01_c01,9\n"air drumming/a, ""b""",12\nÉ/#1;&(x) ,3\n'.encode()
EXCLUDED = "# of all lists\nRun/v\n\ntrain_split01.csv: air drumming/w é\n".encode()
ROW = {"video": "Run/v", "source": "/data/é, x/v.avi", "frames": 9, "header_frames": 10, "fps": 29.97, "width": 40,
       "height": 30, "short_side": 30, "quality": 80, "source_bytes": 5000, "opencv": "4.10"}
MANIFEST = csv_lines([common.COLUMNS, ROW.values(), {**ROW, "video": 'air drumming/"a"'}.values()]).encode()
HEADER = "label,youtube_id,time_start,time_end,split\n"
OFFICIAL = {
    "ucf101": {"classInd.txt": b"1 Run\r\n2 Dive\r\n", "trainlist01.txt": b"Run/v_g01.avi 1\r\nDive/v_g01.avi 2\r\n",
               "testlist01.txt": b"Run/v_g02.avi\r\nDive/v_g02.avi\r\n"},
    "hmdb51": {"wave_test_split1.txt": b"a b.avi 1 \nc.avi 2 \n#d.avi 0 \n"},
    "k400": {"train.csv": f"{HEADER}air drumming,-ab,12,22,train\n".encode(),
             "val.csv": f'{HEADER}"wave",x_y,1.0,11.0,val\n'.encode()},
    "lists": {"trainlist01.txt": "wave/a.mp4 1\nwave/é 2\ndive/x.y.MKV\n".encode(),
              "testlist01.txt": b"dive/d.wmv 2\n"},
}
IN_JSON = {
    "ssv2": {"labels.json": b'{"Moving something, \'up\'":"1",\n "Dropping something":"0"}',
             "train.json": '[\n{"id":"78687","label":"dropping é","template":"Dropping [something]","more":["é"]},\n'
                           '{"id":"1","label":"moving a","template":"Moving [something], \'up\'"}\n]'.encode(),
             "validation.json": b'[{"id":"7","template":"Dropping [something]"}]'},
    "diving48": {"Diving48_vocab.json": b'[["Back", "15som", "05Twis", "FREE"], ["Back", "Dive", "NoTwis", "PIKE"]]',
                 "Diving48_V2_train.json": b'[{"vid_name": "-mmq0PT-u8k_00155", "label": 0, "start_frame": 0},\n'
                                           b'{"vid_name": "_8Vy3dlHg2w_00000", "label": 1, "start_frame": 0}]',
                 "Diving48_V2_test.json": b'[{"vid_name": "LSe4bcYXRWw_00009", "label": 1, "end_frame": 87}]'},
}


def jpeg(shade, size=(30, 40)):
    picture = cv2.resize(np.random.default_rng(shade).integers(0, 256, (8, 8, 3), np.uint8), size[::-1])
    return cv2.imencode(".jpg", picture)[1].tobytes()


def packed(count=3):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for i in range(count):
            archive.writestr(zipfile.ZipInfo(FRAME_NAME.format(i + 1)), jpeg(i, (16, 16)))
    return file.getvalue()


def film(folder, suffix, codec):
    path = folder / f"film{suffix}"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 25, (40, 30))
    for i in range(6):
        writer.write(np.full((30, 40, 3), 40 * i, np.uint8))
    writer.release()
    return path.read_bytes()


JPEG, PACKED = jpeg(0), packed()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def films(folder):
    return {".avi": film(folder, ".avi", "MJPG"), ".mp4": film(folder, ".mp4", "mp4v")}


def unchanged(path, data, call, *arguments):
    """What call(path, *arguments) gives, or None where that is a sentence; `path` has `data` before and after."""
    path.write_bytes(data)
    found = in_sentence(call, path, *arguments)
    assert path.read_bytes() == data
    return None if isinstance(found, SENTENCES) else found


# the doors

@cases()
@given(damaged(CLASSES))
def test_fuzz_class_index(folder, data):
    index = unchanged(folder / "ClassInd.txt", data, read_class_index)
    if index is not None:
        assert list(index.values()) == list(range(len(index))) and not any(map(class_fault, index))


@cases()
@given(damaged(LIST))
def test_fuzz_lists(folder, data):
    index = {"Run": 0, "air drumming": 1, "É": 2}
    videos = unchanged(folder / "list.csv", data, read_list, index)
    if videos is not None:
        assert len(set(videos.names)) == len(videos) and (videos.num_frames > 0).all()
        for name, label in zip(videos.names.tolist(), videos.labels.tolist(), strict=True):
            assert index[name.partition("/")[0]] == label and name_fault(name.partition("/")[2]) is None
    rows, findings = verify.read_rows(folder / "list.csv", index, None)  # what verify.py makes of a bad list
    if videos is not None:
        assert rows == dict(zip(videos.names.tolist(), videos.num_frames.tolist(), strict=True)) and not findings


@cases()
@given(damaged(MANIFEST))
def test_fuzz_manifest(folder, data):
    rows = unchanged(folder / "manifest.csv", data, common.read_manifest)
    for row in (rows or {}).values():
        assert set(row) == set(common.COLUMNS) and 0 <= int(row["frames"]) < 10**9
    if rows:
        extract_frame.write_manifest(folder / "again.csv", rows)
        assert common.read_manifest(folder / "again.csv") == rows


@cases()
@given(damaged(json.dumps(ROW).encode()))
def test_fuzz_record(folder, data):
    row = unchanged(folder / extract_frame.RECORD, data, lambda path: extract_frame.read_record(path.parent, "Run/v"))
    if row is not None:
        extract_frame.write_manifest(folder / "again.csv", {"Run/v": row})
        again = in_sentence(common.read_manifest, folder / "again.csv")
        assert again == {"Run/v": row} or not 0 <= int(row["frames"]) < 10**9


@cases()
@given(damaged(EXCLUDED))
def test_fuzz_exclusions(folder, data):
    excluded = unchanged(folder / "exclude.txt", data, lambda path: write_csv.read_exclusions([path]))
    for names in (excluded or {}).values():
        assert not any(name_fault(part) for name in names for part in name.split("/"))


def one_damaged(formats):
    """One of the files of one of the formats, damaged -> (format, its files, name of that one, its bytes)."""
    texts = st.sampled_from([(dataset, files, name) for dataset, files in formats.items() for name in files])
    return texts.flatmap(lambda text: st.tuples(*map(st.just, text), damaged(text[1][text[2]])))


@cases()
@given(one_damaged(OFFICIAL))
def test_fuzz_official_lists(folder, drawn):
    check_reader(folder, *drawn)


@cases()
@given(one_damaged(IN_JSON))
def test_fuzz_official_lists_in_json(folder, drawn):
    check_reader(folder, *drawn)


def check_reader(folder, dataset, files, name, data):
    lists = folder / dataset
    lists.mkdir(exist_ok=True)
    for other, whole in files.items():
        (lists / other).write_bytes(whole)
    found = unchanged(lists / name, data, lambda path: READERS[dataset](path.parent, folder))
    if found is not None:
        classes, splits = found
        assert not any(map(class_fault, classes)) and len(set(classes)) == len(classes)
        for video in (video for split in splits for names in split.train + split.test for video in names):
            assert video.partition("/")[0] in classes and name_fault(video.partition("/")[2]) is None


@cases()
@given(damaged(JPEG))
def test_fuzz_frames(folder, data):
    path = folder / "frames/Run/v" / FRAME_NAME.format(1)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = unchanged(path, data, decode_jpeg_of)
    read = in_sentence(lambda: list(FrameReader(folder / "frames", (12, 16)).read("Run/v", np.array([0]))[0]))
    assert isinstance(read, SENTENCES) == (picture is None)
    assert picture is None or read[0].shape == (12, 16, 3) and read[0].dtype == np.uint8
    check = frame_check.examine("Run/v", folder / "frames", False)
    assert bool(check.faults) >= (picture is None)


def decode_jpeg_of(path):
    return decode_jpeg(next(FrameFolders(path.parents[2]).read("Run/v", [0]))[0], path)


@cases()
@given(damaged(PACKED))
def test_fuzz_packed_videos(folder, data):
    path = folder / "packed/Run/v.zip"
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = unchanged(path, data, lambda _: [frame for frame, _ in
                                              PackedFrames(folder / "packed").read("Run/v", [0, 2])])
    if frames is not None:  # of a damaged file, the frames that are whole
        assert [zlib.crc32(frame) for frame in frames] == [zlib.crc32(jpeg(i, (16, 16))) for i in (0, 2)]
    with bounded():
        check = frame_check.examine("Run/v", folder / "packed", False, "packed")
    assert check.faults or frames is not None


@cases(2)
@given(st.sampled_from([".avi", ".mp4"]), st.data())
def test_fuzz_videos(folder, films, suffix, data):
    path = folder / "videos/Run/v.avi"  # whatever it is called, a video is known by what it holds
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = unchanged(path, data.draw(damaged(films[suffix])), lambda _: list(
        FrameReader(folder / "videos", (12, 16), source=VideoFiles).read("Run/v", np.array([0, 3]))[0]))
    assert pictures is None or [picture.shape for picture in pictures] == [(12, 16, 3)] * 2
    try:
        with bounded(), open_video(path) as capture:
            assert capture.isOpened()
    except BrokenVideo as error:
        assert error.reason in str(error) and pictures is None


# the commands

@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Videos, their frames, official lists and lists of four videos."""
    root = tmp_path_factory.mktemp("whole")
    make_dataset(root, groups=2, clips=1, frames=3)
    frames = root / "ucf101/frames"
    names = sorted(str(path.relative_to(frames)) for path in frames.glob("*/*"))
    for name in names:
        (root / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "videos" / f"{name}.avi").write_bytes(film(root, ".avi", "MJPG"))
    (root / "splits").mkdir()
    (root / "splits/classInd.txt").write_text("1 Run\n2 air drumming\n")
    for part, group in (("train", "g02"), ("test", "g01")):
        (root / f"splits/{part}list01.txt").write_text("".join(f"{name}.avi\n" for name in names if group in name))
    (root / "exclude.txt").write_text("# none\n")
    extract_frame.write_manifest(frames / "manifest.csv", {
        name: {**ROW, "video": name, "frames": 3} for name in names})
    return root


@pytest.fixture
def command(whole, tmp_path, monkeypatch, capsys):
    """Damages one file of a copy and runs a command on it -> exit code; nothing that was there is changed but `out`."""
    monkeypatch.setitem(DATASETS, "mine", LocalDataset(whole / "frames", whole / "lists", NO_GROUP, 1))
    for module in (extract_frame, verify):
        monkeypatch.setattr(module, "run_jobs", lambda work, jobs, _: (x for x in [(j, work(j)) for j in jobs]))

    def call(module, draw, files, *flags):
        root = call.root = tmp_path / "root"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(whole, root)
        victim = draw(st.sampled_from(sorted(path for pattern in files for path in root.glob(pattern))))
        victim.write_bytes(draw(damaged(victim.read_bytes())))
        before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
        code = exit_code(module, ["--dataset", "mine", *(flag.format(root=root) for flag in flags)], monkeypatch)
        out, err = capsys.readouterr()
        assert code in (0, 1) and "Traceback" not in err, err
        assert code == 0 or err.strip() or "fault" in out
        assert all(len(line) < 2000 for line in (out + err).splitlines())
        assert all(path.read_bytes() == data for path, data in before.items())
        return code
    return call


@cases(10)
@given(st.data())
def test_fuzz_write_csv(command, data):
    command(write_csv, data.draw, ("splits/*", "exclude.txt", "ucf101/frames/manifest.csv"), "--layout", "ucf101",
            "--frames", "{root}/ucf101/frames", "--splits", "{root}/splits", "--out", "{root}/out", "--exclude",
            "{root}/exclude.txt")


@cases(10)
@given(st.data())
def test_fuzz_verify(command, data):
    command(verify, data.draw, ("lists/ucf101/*", "ucf101/frames/*/*/*.jpg"), "--frames", "{root}/ucf101/frames",
            "--lists", "{root}/lists/ucf101", "--out", "{root}/out")


@cases(10)
@given(st.data())
def test_fuzz_extract_frame(command, data):
    command(extract_frame, data.draw, ("videos/*/*",), "--videos", "{root}/videos", "--frames", "{root}/out",
            "--short_side", "32")
    check_extracted(command.root / "out")


def check_extracted(frames):
    for record in frames.glob("*/*/.record.json"):
        name = str(record.parent.relative_to(frames))
        assert extract_frame.frames_are_there(record.parent, extract_frame.read_record(record.parent, name))


@cases(10)
@given(st.data())
def test_fuzz_extract_frame_of_one_folder(command, whole, data):
    for folder, files in (("flat", {f"{name}.avi": film(whole, ".avi", "MJPG") for name in ("78687", "1", "7", "8")}),
                          ("lists in json", IN_JSON["ssv2"])):
        (whole / folder).mkdir(exist_ok=True)
        for name, content in files.items():
            (whole / folder / name).write_bytes(content)
    command(extract_frame, data.draw, ("flat/*", "lists in json/*"), "--layout", "ssv2", "--videos", "{root}/flat",
            "--splits", "{root}/lists in json", "--frames", "{root}/out", "--short_side", "32")
    check_extracted(command.root / "out")

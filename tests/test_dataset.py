"""Sampling, reading, crops, lists, batches: what reaches the network is what the protocol says."""
import csv
import importlib
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import REPOSITORY, frames_of, pictures_of

from core.errors import DataError, UsageError
from dataset import lists
from dataset.clips import VideoClips
from dataset.crops import FixedCrops, RandomCrop, resize_for
from dataset.lists import VideoList, hold_out, read_class_index, read_list, video_groups
from dataset.loader import EvalBatches, TrainBatches, make_loader
from dataset.local_dataset import DATASETS, HMDB51_GROUP, UCF101_GROUP, LocalDataset
from dataset.reader import FRAME_NAME, MOST_BYTES, FrameReader, decode_jpeg, read_bytes, read_frame
from dataset.sampling import (
    CentreClip,
    EvenClips,
    PretrainViews,
    RandomClip,
    centred_clip_indices,
    clip_offsets,
    ten_clip_indices,
)


def write_video(folder, frames, height=24, width=32):
    """Frames whose grey value is 10 times their index."""
    folder.mkdir(parents=True)
    for i in range(frames):
        picture = np.full((height, width, 3), 10 * i, np.uint8)
        cv2.imwrite(str(folder / FRAME_NAME.format(i + 1)), picture, [cv2.IMWRITE_JPEG_QUALITY, 100])


def video_list(names, frames):
    classes = sorted({name.partition("/")[0] for name in names})
    labels = [classes.index(name.partition("/")[0]) for name in names]
    return VideoList(np.array(names), np.array(frames), np.array(labels), np.array(classes))


@pytest.mark.parametrize("frames", [1, 5, 63, 64, 200])
@pytest.mark.parametrize("seq_len,ds", [(16, 4), (7, 3)])
def test_every_sampler_stays_inside_the_video(frames, seq_len, ds):
    rng = np.random.default_rng(0)
    for sampler, views in ((PretrainViews(seq_len, ds), 3), (RandomClip(seq_len, ds), 1), (EvenClips(seq_len, ds), 10),
                           (CentreClip(seq_len, ds), 1)):
        for _ in range(20):
            indices = sampler(frames, rng)
            assert indices.shape == (views, seq_len) and indices.min() >= 0 and indices.max() < frames
            steps = np.diff(indices)
            assert (steps >= 0).all() or (steps <= 0).all()


def test_pretraining_views():
    rng = np.random.default_rng(0)
    drawn = np.stack([PretrainViews(16, 4)(300, rng) for _ in range(2000)])
    assert (drawn[:, 2] == drawn[:, 0]).all()
    backwards = drawn[:, :, 0] > drawn[:, :, -1]
    assert (backwards == backwards[:, :1]).all()  # both clips of a sample or neither
    assert backwards[:, 0].mean() == pytest.approx(0.5, abs=0.05)
    forwards = np.where(backwards[..., None], drawn[..., ::-1], drawn)
    centres = forwards[..., 8]  # index T/2 is the centre frame
    assert centres[:, :2].min() == 0 and centres[:, :2].max() == 299
    assert np.corrcoef(centres[:, 0], centres[:, 1])[0, 1] == pytest.approx(0, abs=0.08)
    assert (forwards[0, 0] == centred_clip_indices(300, 16, 4, centres[0, 0])).all()
    assert not (np.stack([PretrainViews(16, 4, time_reverse=0)(300, rng) for _ in range(50)])[:, :, 0] >
                centres.max()).any()
    assert PretrainViews(16, 4, views=2)(300, rng).shape == (2, 16)


@pytest.mark.parametrize("frames,seq_len,ds,time_reverse", [
    (300, 16, 4, 0.5), (20, 16, 4, 0.5), (61, 8, 2, 0), (1, 4, 1, 1)])
def test_the_defaults_draw_what_the_publication_does(frames, seq_len, ds, time_reverse):
    """Number for number: its formula, and no draw more or less."""
    rng, same = (np.random.default_rng([3, frames]) for _ in range(2))
    for segments in (1, 2, 4):
        sampler = PretrainViews(seq_len, ds, time_reverse, segments=segments)
        for _ in range(50):
            centres = same.integers(frames, size=2)
            first, second = (np.clip((np.arange(seq_len) - seq_len // 2) * ds + c, 0, frames - 1) for c in centres)
            expected = np.stack([first, second, first])
            if same.random() < time_reverse:
                expected = expected[:, ::-1]
            np.testing.assert_array_equal(sampler(frames, rng), expected, strict=True)
    assert rng.bit_generator.state == same.bit_generator.state


def test_a_gap_between_segments():
    assert clip_offsets(8, 3, 2, 2).tolist() == [-15, -12, -9, -6, 3, 6, 9, 12]
    assert clip_offsets(8, 1, 4, 1).tolist() == [-5, -4, -2, -1, 1, 2, 4, 5]
    assert clip_offsets(6, 2, 3, 1).tolist() == [-8, -6, -2, 0, 4, 6]
    assert centred_clip_indices(20, 8, 3, 4, 2, 2).tolist() == [0, 0, 0, 0, 7, 10, 13, 16]
    assert centred_clip_indices(20, 8, 3, 18, 2, 2).tolist() == [3, 6, 9, 12, 19, 19, 19, 19]
    with pytest.raises(ValueError, match="8 frames cannot be cut into 3 segments"):
        clip_offsets(8, 3, 3, 1)


@pytest.mark.parametrize("n", [2, 4])
@pytest.mark.parametrize("gap", [0, 3])
def test_clips_inside_their_video_with_a_gap(n, gap):
    seq_len, ds, frames = 8, 2, 60
    rng, same = (np.random.default_rng(n) for _ in range(2))
    sampler, backwards = PretrainViews(seq_len, ds, inside=True, segments=n, gap=gap), 0
    for _ in range(100):
        drawn = sampler(frames, rng)
        starts = same.integers(frames - (seq_len + (n - 1) * gap - 1) * ds, size=2).tolist()
        clips = [[start + (k * (seq_len // n + gap) + i) * ds for k in range(n) for i in range(seq_len // n)]
                 for start in starts]
        if same.random() < 0.5:
            clips, backwards = [clip[::-1] for clip in clips], backwards + 1
        assert drawn.tolist() == [*clips, clips[0]]
        assert drawn.min() >= 0 and drawn.max() < frames and all(len(set(clip)) == seq_len for clip in drawn.tolist())
    assert 20 < backwards < 80


def test_starts_inside_a_video_are_uniform_and_independent():
    rng, sampler = np.random.default_rng(0), PretrainViews(4, 2, time_reverse=0, views=2, inside=True)
    starts = np.stack([sampler(12, rng)[:, 0] for _ in range(3600)])
    assert starts.min() == 0 and starts.max() == 5  # the last frame of a clip is 6 further on
    counts = np.bincount(starts @ [6, 1], minlength=36)
    assert ((counts - 100) ** 2 / 100).sum() < 66.6  # chi square of 35 degrees of freedom, p = 0.001
    assert all((sampler(7, rng) == [0, 2, 4, 6]).all() for _ in range(20))
    with pytest.raises(ValueError):
        sampler(6, rng)


@pytest.mark.parametrize("seq_len,ds,n,gap", [(16, 4, 2, 0), (8, 2, 4, 3), (7, 3, 1, 0), (1, 1, 1, 0)])
def test_share_of_clips_that_are_clamped(seq_len, ds, n, gap):
    """Counted over all centres of each video."""
    frames = np.array([1, 7, 19, 20, 61, 62, 200])
    clamped = [[(clip_offsets(seq_len, ds, n, gap) + c != centred_clip_indices(f, seq_len, ds, c, n, gap)).any()
                for c in range(f)] for f in frames]
    sampler = PretrainViews(seq_len, ds, segments=n, gap=gap)
    assert sampler.share_clamped(frames) == pytest.approx(np.mean([np.mean(own) for own in clamped]), abs=1e-12)
    inside = PretrainViews(seq_len, ds, inside=True, segments=n, gap=gap)
    assert inside.share_clamped(frames) == 0


def test_videos_too_short_for_clips_inside_are_refused():
    names, frames = np.array(["a/v", "a/w", "b/x"]), np.array([61, 60, 31])
    PretrainViews(16, 4).check_room(names, frames)
    PretrainViews(16, 2, inside=True).check_room(names, frames)  # 31 frames
    for more, words in (
            ({}, r"2 of 3 videos are shorter than the 61 frames over which a clip reaches \('b/x' has 31\): take a "
                 r"smaller --ds \(2 fits all\), --seq_len or"),
            ({"segments": 4, "gap": 6}, r"3 of 3 videos are shorter than the 133 .* a smaller --ds, --seq_len or")):
        with pytest.raises(UsageError, match=f"^--centres inside: {words}"):
            PretrainViews(16, 4, inside=True, **more).check_room(names, frames)


def test_even_clips_span_the_video():
    indices = ten_clip_indices(500, 16, 4)
    assert indices[0, 0] == 0 and indices[-1, 0] == 500 - 64
    assert (ten_clip_indices(500, 16, 4, clips=1) == ten_clip_indices(500, 16, 4)[:1]).all()


def test_reader_decodes_each_frame_once(tmp_path, monkeypatch):
    write_video(tmp_path / "a class" / "v#1;!&()", 6)
    read = []
    monkeypatch.setattr("dataset.reader.read_bytes", lambda path: read.append(Path(path).name) or read_bytes(path))
    frames = frames_of(FrameReader(tmp_path, (12, 16)), "a class/v#1;!&()", np.array([[3, 0, 3], [5, 5, 0]]))
    assert frames.shape == (2, 3, 12, 16, 3) and frames.dtype == np.uint8
    assert frames[..., 6, 8, 0].tolist() == [[30, 0, 30], [50, 50, 0]]
    assert sorted(read) == [FRAME_NAME.format(i) for i in (1, 4, 6)]


@pytest.mark.parametrize("own,factor", [
    ((240, 320), 2), ((256, 340), 2), ((340, 453), 8 / 3),
    ((230, 320), 1), ((240, 300), 1), ((128, 171), 1), ((1080, 1920), 8)])
def test_large_frames_are_decoded_smaller(tmp_path, own, factor):
    """As near to the antialiased picture as area averaging would be."""
    picture = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (*own, 3), np.uint8), (0, 0), own[0] / 40)
    picture = cv2.normalize(picture, None, 0, 255, cv2.NORM_MINMAX)
    for options in ([], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1], [cv2.IMWRITE_JPEG_RST_INTERVAL, 4]):
        data = cv2.imencode(".jpg", picture, options)[1].tobytes()
        assert decode_jpeg(data, "", 128, 171).shape[:2] == tuple(math.ceil(side / factor) for side in own)
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / FRAME_NAME.format(1)).write_bytes(data)
    got = frames_of(FrameReader(tmp_path, (128, 171)), "v", np.zeros(1, int))[0]
    expected = cv2.resize(picture, (171, 128), interpolation=cv2.INTER_AREA)[..., ::-1]
    assert np.abs(got.astype(int) - expected).mean() < 3


def test_pixels_are_those_of_opencv():
    """The decoder's, at full and half size; grey becomes three equal channels, bytes too many at the end do no harm."""
    picture = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    data = cv2.imencode(".jpg", picture)[1].tobytes()
    assert (decode_jpeg(data, "") == cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]).all()
    half = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_REDUCED_COLOR_2)[..., ::-1]
    assert (decode_jpeg(data, "", 128, 171) == half).all()
    more = data[:-2] + bytes(3) + data[-2:] + bytes(9)
    assert (decode_jpeg(more, "") == decode_jpeg(data, "")).all()
    grey = cv2.imencode(".jpg", picture[..., 0])[1]
    assert (decode_jpeg(grey.tobytes(), "") == cv2.imdecode(grey, cv2.IMREAD_GRAYSCALE)[..., None]).all()


def test_a_header_that_asks_for_gigabytes_is_refused():
    data = bytearray(cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].tobytes())
    at = data.index(b"\xff\xc0")
    data[at + 5:at + 9] = (65500).to_bytes(2, "big") * 2
    with pytest.raises(DataError, match="frame x is not a whole JPEG .*65500 x 65500 pixels"):
        decode_jpeg(bytes(data), "x")


def test_reader_gives_rgb(tmp_path):
    picture = np.zeros((16, 16, 3), np.uint8)
    picture[..., 2] = 255  # red in OpenCV's BGR
    cv2.imwrite(str(tmp_path / "x.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 100])
    assert read_frame(tmp_path / "x.jpg")[8, 8].tolist() == pytest.approx([255, 0, 0], abs=3)


def test_bad_frames_name_the_file(tmp_path):
    write_video(tmp_path / "v", 1)
    path = tmp_path / "v" / FRAME_NAME.format(1)
    whole = path.read_bytes()
    for content in (whole[:-20], whole[:-20] + whole[-2:], whole[:100], b"", b"text"):
        path.write_bytes(content)
        with pytest.raises(DataError, match="image_00001.jpg"):
            read_frame(path)
    path.unlink()
    with pytest.raises(DataError, match="image_00001.jpg.*No such file"):
        read_frame(path)
    path.symlink_to("/dev/zero")
    with pytest.raises(DataError, match=r"image_00001.jpg cannot be read \(not a regular file\)"):
        read_frame(path)
    path.unlink()
    with open(path, "wb") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(DataError, match=r"image_00001.jpg cannot be read \(67108865 bytes, more than"):
        read_frame(path)


def test_crops():
    assert resize_for(112) == (128, 171) and resize_for(56) == (64, 86)
    clips = np.arange(2 * 3 * 8 * 10 * 3).reshape(2, 3, 8, 10, 3)
    centre = FixedCrops(4)(*pictures_of(clips))
    assert (centre == clips[:, :, 2:6, 3:7]).all()
    five, ten = FixedCrops(4, 5)(*pictures_of(clips)), FixedCrops(4, 10)(*pictures_of(clips))
    assert five.shape == (10, 3, 4, 4, 3) and ten.shape == (20, 3, 4, 4, 3)
    assert (five[0] == centre[0]).all() and (five[5] == centre[1]).all()
    assert (five[4] == clips[0, :, 4:, 6:]).all()
    assert (ten[1] == ten[0][:, :, ::-1]).all()
    rng = np.random.default_rng(0)
    corners = set()
    for _ in range(300):
        random = RandomCrop(4)(*pictures_of(clips), rng)
        for view in range(2):
            top, left = divmod(int(random[view, 0, 0, 0, 0] - clips[view, 0, 0, 0, 0]) // 3, 10)
            assert (random[view] == clips[view, :, top:top + 4, left:left + 4]).all()
            corners.add((top, left))
    assert corners == {(t, lft) for t in range(5) for lft in range(7)}


def test_a_sample_depends_on_seed_epoch_and_index_alone(tmp_path):
    names = ["a/v1", "a/v2", "b/v3"]
    for name in names:
        write_video(tmp_path / name, 9)
    data = VideoClips(video_list(names, [9] * 3), FrameReader(tmp_path, (14, 18)), PretrainViews(4, 2), RandomCrop(12))
    batches = TrainBatches(3, 1, seed=5)
    in_process = [b["clips"] for b in make_loader(data, batches, 0)]
    in_workers = [b["clips"] for b in make_loader(data, batches, 2)]
    assert all(torch.equal(a, b) for a, b in zip(in_process, in_workers, strict=True))
    assert not torch.equal(data[(0, 1)]["clips"], data[(1, 1)]["clips"])
    assert data[(0, 2)]["label"] == 1 and data[(0, 2)]["clips"].shape == (3, 4, 12, 12, 3)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_training_batches_are_the_same_for_any_number_of_processes(world):
    whole, parts = TrainBatches(42, 8, seed=1), [TrainBatches(42, 8, r, world, seed=1) for r in range(world)]
    seen = []
    for epoch in (0, 1):
        for batches in [whole, *parts]:
            batches.start(epoch)
        for batch, *shares in zip(whole, *parts, strict=True):
            assert all(share == batch[r::world] for r, share in enumerate(shares))
        keys = [key for batch in whole for key in batch]
        assert len(set(keys)) == 40 and {e for e, _ in keys} == {epoch}
        seen.append([i for _, i in keys])
    assert seen[0] != seen[1]


@pytest.mark.parametrize("size,batch,world", [(7, 2, 1), (7, 2, 3), (5, 4, 4), (1, 3, 2)])
def test_evaluation_batches_cover_the_list_once(size, batch, world):
    dealt = [list(EvalBatches(size, batch, r, world)) for r in range(world)]
    assert sorted(i for batches in dealt for keys in batches for _, i in keys) == list(range(size))
    alone = list(EvalBatches(size, batch))
    assert all(keys in alone for batches in dealt for keys in batches)


def test_lists_with_spaces_and_commas(tmp_path):
    (tmp_path / "ClassInd.txt").write_text("1 air drumming\n2 b\n")
    (tmp_path / "l.csv").write_text('air drumming/#1;!&(x),12\n"b/with, comma",3\n')
    videos = read_list(tmp_path / "l.csv", read_class_index(tmp_path / "ClassInd.txt"))
    assert videos.names.tolist() == ["air drumming/#1;!&(x)", "b/with, comma"]
    assert videos.num_frames.tolist() == [12, 3] and videos.labels.tolist() == [0, 1]


BAD_ROWS = [
    ("a/v,3\na/w,0\n", "row 2: 'a/w' has 0 frames"), ("a/v\n", "row 1: expected"), ("a/v,3,4\n", "row 1: expected"),
    ("a/v,x\n", "row 1: expected"), ("c/v,3\n", "class 'c' is not"), ("v,3\n", "not of the form"), ("", "is empty"),
    ("a/v,-3\n", "row 1: expected"), ("a/v,\n", "row 1: expected"), ("a/v,1e3\n", "row 1: expected"),
    ("a/v,12.0\n", "row 1: expected"), ("a/v,+3\n", "row 1: expected"), ("a/v,0x3\n", "row 1: expected"),
    ("a/v,1_0\n", "row 1: expected"), ("a/v,\N{FULLWIDTH DIGIT NINE}\n", "row 1: expected"),
    ("a/v,\N{SUPERSCRIPT TWO}\n", "row 1: expected"), (f"a/v,{2**63}\n", "row 1: expected"),
    (f"a/v,{'9' * 5000}\n", "row 1: expected"), ('a/v,"3\n"\n', "row 1: expected"), ("a/v;3\n", "row 1: expected"),
    ("video,frames\na/v,3\n", "row 1: expected .* no header row, got 'video,frames'"),
    ("a/v,3\na/w,3\n\na/v,4\n", "row 4: 'a/v' stands in row 1 already"), ("\n \n\r\n", "is empty"),
    ("/v,3\n", "'/v' leads outside"), ("/etc/v,3\n", "leads outside"), ("../v,3\n", "leads outside"),
    ("a/../v,3\n", "leads outside"), ("a/..,3\n", "leads outside"), ("a/.,3\n", "cannot be the name"),
    ("a/,3\n", "not of the form"), ("a/b/v,3\n", "not of the form"), ("a\\v,3\n", "not of the form"),
    (",3\n", "leads outside"), (f"a/{'v' * 256},3\n", "cannot be the name"), ("a/v\0,3\n", "row 1: .*(NUL|v.x00)"),
    ('a/v,3\n"a/w\nx",3\n', "row 2: .*a quote"), ('a/v,3\n"a/w,3\na/x,3\n', "row 2: not a row of CSV"),
    ('"a/v"w,3\n', "row 1: not a row of CSV"), (f"a/v,3\n{'x' * 200000},3\n", "row 2: not a row of CSV"),
    (b"a/v,3\na/\xe9,3\n", "row 2: not UTF-8"), ("a/v,3\n".encode("utf-16"), "row 1: not UTF-8"),
    ("a/v,3\n".encode("utf-16-le"), "row 1: ")]


@pytest.mark.parametrize("text,message", BAD_ROWS)
def test_bad_lists_name_the_row(tmp_path, text, message):
    path = tmp_path / "l.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message) as caught:
        read_list(path, {"a": 0})
    said = str(caught.value)
    assert "l.csv" in said and len(said.splitlines()) == 1 and len(said) < 500 and ": " in said


@pytest.mark.parametrize("text", [
    b"\xef\xbb\xbfa/v,3\r\n\r\na/ w ,12\r\n", b'a/v,3\n"a/ w ", 12\n\n  \n', b"a/v,3\ra/ w ,12"])
def test_lists_as_other_systems_write_them(tmp_path, text):
    """Byte order mark, line ends of Windows and old Macs, blank lines, quotes."""
    (tmp_path / "l.csv").write_bytes(text)
    videos = read_list(tmp_path / "l.csv", {"a": 0})
    assert videos.names.tolist() == ["a/v", "a/ w "] and videos.num_frames.tolist() == [3, 12]
    assert videos.num_frames.dtype == videos.labels.dtype == np.int64


def test_white_space_around_a_video_is_its_folders_or_an_error(tmp_path, monkeypatch):
    monkeypatch.setitem(DATASETS, "mine", LocalDataset(tmp_path / "frames", tmp_path, "(?P<group>.+)", 1))
    (tmp_path / "frames" / "a" / "v ").mkdir(parents=True)
    (tmp_path / "ClassInd.txt").write_text("1 a\n")
    (tmp_path / "train_split01.csv").write_text("a/v ,3\n")
    assert lists.open_list("mine", "train", 1).names.tolist() == ["a/v "]
    (tmp_path / "train_split01.csv").write_text("a/v ,3\na/ v,3\n")
    with pytest.raises(DataError, match="train_split01.csv row 2: 'a/ v' has white space"):
        lists.open_list("mine", "train", 1)


def test_class_index_as_other_systems_write_it(tmp_path):
    (tmp_path / "ClassInd.txt").write_bytes(b"\xef\xbb\xbf1 air drumming\r\n\r\n02\tb c \r\n")
    assert read_class_index(tmp_path / "ClassInd.txt") == {"air drumming": 0, "b c": 1}


@pytest.mark.parametrize("text,message", [
    ("", "is empty"), ("2 a\n", "row 1"), ("1 a\n1 b\n", "row 2"), ("1 a\n2 a\n", "row 2"), ("a\n", "row 1"),
    ("0 a\n", "row 1"), ("-1 a\n", "row 1"), ("1\n", "row 1"), ("1a\n", "row 1"), ("1.0 a\n", "row 1"),
    ("\N{SUPERSCRIPT ONE} a\n", "row 1"), ("\N{FULLWIDTH DIGIT ONE} a\n", "row 1"), (f"{'1' * 5000} a\n", "row 1"),
    ("1 ..\n", "row 1: '..' cannot be"), ("1 a/b\n", "row 1: 'a/b' cannot be"), ("1 a\0\n", "row 1: .* cannot be"),
    (f"1 {'a' * 256}\n", "cannot be"), (b"1 a\n2 \xe9\n", "row 2: not UTF-8"),
    ("1 a\n".encode("utf-16"), "row 1: not UTF-8")])
def test_bad_class_index(tmp_path, text, message):
    (tmp_path / "ClassInd.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message) as caught:
        read_class_index(tmp_path / "ClassInd.txt")
    said = str(caught.value)
    assert "ClassInd.txt" in said and len(said.splitlines()) == 1 and len(said) < 400


def test_lists_that_cannot_be_opened(tmp_path):
    (tmp_path / "l").mkdir()
    (tmp_path / "file").touch()
    for read in (read_class_index, lambda path: read_list(path, {"a": 0})):
        for path, message in ((tmp_path / "l", "Is a directory"), (tmp_path / "file" / "l", "Not a directory"),
                              (tmp_path / "no", r"no cannot be read \(No such file .*: write it with .*write_csv.py")):
            with pytest.raises(DataError, match=message):
                read(path)
    if os.geteuid():  # root reads everything
        (tmp_path / "file").chmod(0)
        with pytest.raises(DataError, match="Permission denied"):
            read_class_index(tmp_path / "file")


def test_a_long_list_is_read_quickly(tmp_path):
    """240,000 rows (Kinetics-400), within what this processor takes for a plain reading of them 50 times over."""
    names = [f"riding a bike/{i:011d}_000123_000133" for i in range(240_000)]
    (tmp_path / "l.csv").write_text("".join(f"{name},300\n" for name in names))
    start = time.process_time()
    with open(tmp_path / "l.csv", newline="") as file:
        plain = [(name, int(count)) for name, count in csv.reader(file)]
    between = time.process_time()
    videos = read_list(tmp_path / "l.csv", {"riding a bike": 0})
    assert time.process_time() - between < 50 * (between - start)
    assert videos.names.tolist() == names == [name for name, _ in plain] and (videos.num_frames == 300).all()


def test_missing_lists_and_data_sets(tmp_path):
    for call in (lambda: read_list(tmp_path / "no.csv", {}), lambda: read_class_index(tmp_path / "no.txt")):
        with pytest.raises(DataError):
            call()
    for call in (lambda: lists.open_list("nosuch", "train", 1), lambda: lists.open_list("ucf101", "train", 4)):
        with pytest.raises(UsageError):
            call()


def test_groups():
    names = ["Lunges/v_Lunges_g08_c01", "Lunges/v_Lunges_g08_c02", "Lunges/v_Lunges_g09_c01", "Lunges/odd name"]
    groups = ["Lunges/v_Lunges_g08"] * 2 + ["Lunges/v_Lunges_g09", "Lunges/odd name"]
    assert video_groups(names, UCF101_GROUP).tolist() == groups
    names = ["brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0", "wave/April_09_wave_u_cm_np10_ba_med_2"]
    assert video_groups(names, HMDB51_GROUP).tolist() == ["April_09"] * 2
    assert video_groups(["a/b"], DATASETS["k400"].group).tolist() == ["a/b"]


@pytest.mark.parametrize("fraction", [0.1, 0.3])
def test_hold_out_divides_no_recording(fraction):
    names = [f"C{c}/v_C{c}_g{g:02d}_c{i:02d}" for c in range(4) for g in range(1, 21) for i in range(1, 2 + g % 4)]
    videos = video_list(names, [9] * len(names))
    kept, held = hold_out(videos, fraction, UCF101_GROUP, seed=3)
    assert sorted([*kept.names, *held.names]) == sorted(names)
    assert not set(video_groups(kept.names, UCF101_GROUP)) & set(video_groups(held.names, UCF101_GROUP))
    assert len(held) / len(names) == pytest.approx(fraction, abs=0.05)
    assert set(held.labels) == set(range(4))
    with pytest.raises(DataError, match="--holdout"):
        hold_out(videos.subset(np.array([0])), 0.5, UCF101_GROUP)


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory is measured by Linux' smaps_rollup")
def test_memory_benchmark_sees_a_leak(monkeypatch, capsys):
    """benchmarks/memory.py on a few samples: within its bound as it is, beyond it where a worker keeps frames."""
    monkeypatch.syspath_prepend(Path(lists.__file__).parents[1] / "benchmarks")
    memory = importlib.import_module("memory")
    monkeypatch.setitem(DATASETS, "memory", None)  # restored afterwards
    part = memory.Part("few", 128, 4, workers=1)
    sound = memory.measure(part)
    assert memory.largest_growth(sound["history"][1:])[0] < 0.02
    assert len(memory.growth_table(sound)) == 2 + 7 and "few: epoch 4/4" in capsys.readouterr().out
    kept, read = [], memory.BlankReader.read

    def leak(*args):
        kept.append(np.ones(2**18, np.uint8))
        return read(*args)

    monkeypatch.setattr(memory.BlankReader, "read", leak)
    share, process, _ = memory.largest_growth(memory.measure(part)["history"][1:])
    assert share > 0.02 and process == "worker 1"


LOAD = """
import multiprocessing, sys
import numpy as np
from dataset.loader import EvalBatches, make_loader
class Numbers:
    def __len__(self): return 4
    def __getitem__(self, key): return np.array(key)
if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    print(len(list(make_loader(Numbers(), EvalBatches(4, 2), 1, timeout=60))))
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.slow
def test_workers_load_however_they_are_started(tmp_path, method):
    """Python 3.14 starts them through a server, whose children they are."""
    (tmp_path / "load.py").write_text(LOAD)
    done = subprocess.run([sys.executable, tmp_path / "load.py", method], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
    assert done.stdout.strip() == "2", done.stderr

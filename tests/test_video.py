"""Original videos: frames are reached by jumps, and are those that decoding from the start gives."""
import base64
import pickle
import struct
import zlib
from itertools import islice

import cv2
import numpy as np
import pytest
from helpers import SHARED

from dataset import video
from dataset.by_time import frames_at, look_at_video
from dataset.reader import FrameReader
from dataset.video import FrameTimes, VideoFiles, decoded, frame_times

SAMPLES = sorted((SHARED / "data").glob("*-samples/*/*"))
FRAMES = 60
BOXES = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stts")


def write_video(path, codec="mp4v", frames=FRAMES):
    """A bright square that moves on a noisy background: no two frames are alike."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 25, (64, 48))
    assert writer.isOpened()
    for i in range(frames):
        picture = np.random.default_rng(i).integers(0, 60, (48, 64, 3), np.uint8)
        picture[10:20, i % 50:i % 50 + 10] = 250
        writer.write(picture)
    writer.release()


def with_times(data, steps):
    """An MP4, whose index stands at its end, whose frames take these many ticks of (count, ticks) each."""
    at = data.index(b"stts") - 4
    old = data[at:at + int.from_bytes(data[at:at + 4], "big")]
    new = struct.pack(">I4sII", 16 + 8 * len(steps), b"stts", 0, len(steps)) + b"".join(
        struct.pack(">II", *step) for step in steps)
    for box in BOXES[:-1]:
        place = data.index(box) - 4
        size = int.from_bytes(data[place:place + 4], "big") + len(new) - len(old)
        data = data[:place] + size.to_bytes(4, "big") + data[place + 4:]
    assert data.index(b"mdat") < data.index(b"moov")
    return data.replace(old, new)


@pytest.fixture
def jumps(monkeypatch):
    """Numbers of the frames that were jumped to; jumps are made in videos of any length."""
    made = []
    go_to = video.go_to

    def counted(capture, found, delay, number):
        made.append(number)
        return go_to(capture, found, delay, number)

    monkeypatch.setattr(video, "go_to", counted)
    monkeypatch.setattr(video, "WORTH", 0)
    return made


def agree(root, name, path, count=None):
    """Whether frames from the middle, the end and here and there are those that decoding from the start gives."""
    truth = list(islice(decoded(path, range(10**6), None), count))
    source = VideoFiles(root)
    for numbers in (range(len(truth) - 20, len(truth), 3), [len(truth) - 1], [0, 45, len(truth) - 2], range(38, 48)):
        found = [picture[..., ::-1] for picture, _ in source.read(name, list(numbers), len(truth))]
        assert len(found) == len(numbers)
        if not all(np.array_equal(truth[i], picture) for i, picture in zip(numbers, found, strict=True)):
            return False
    return True


@pytest.mark.parametrize("suffix, codec", [(".mp4", "mp4v"), (".avi", "XVID"), (".avi", "MJPG"), (".mkv", "XVID"),
                                           (".webm", "VP80")])
def test_frames_after_a_jump_are_those_of_decoding_from_the_start(suffix, codec, tmp_path, jumps):
    path = tmp_path / f"Run/film{suffix}"
    write_video(path, codec)
    assert agree(tmp_path, "Run/film", path, FRAMES) and len(jumps) >= 3


def test_frames_of_a_varying_rate_are_found_by_their_times(tmp_path, jumps):
    path = tmp_path / "Run/film.mp4"
    write_video(path)
    times = frame_times(path).times
    assert len(times) == FRAMES and np.ptp(np.diff(times)) < 1e-6
    tick = int.from_bytes(path.read_bytes().split(b"stts")[1][12:16], "big")
    path.write_bytes(with_times(path.read_bytes(), [(20, 3 * tick // 2), (20, tick // 2), (20, tick)]))
    assert np.diff(frame_times(path).times)[[5, 30, 50]] == pytest.approx([60, 20, 40])
    assert agree(tmp_path, "Run/film", path, FRAMES) and len(jumps) >= 3


def test_without_as_many_packets_as_frames_all_are_decoded_from_the_start(tmp_path, jumps):
    path = tmp_path / "Run/film.mp4"
    write_video(path)
    for count in (FRAMES - 1, FRAMES + 1, None):
        frames = list(VideoFiles(tmp_path).read("Run/film", [50], count))
        assert len(frames) == 1 and not jumps


@pytest.mark.parametrize("wrong", [lambda times: times * 1.01, lambda times: times * 0])
def test_frames_that_are_not_shown_when_they_should_be_are_decoded_from_the_start(wrong, tmp_path, jumps, monkeypatch,
                                                                                  capsys):
    path = tmp_path / "Run/film.mp4"
    write_video(path)
    found = frame_times(path)
    monkeypatch.setattr(video, "frame_times", lambda _: FrameTimes(wrong(found.times), found.keys))
    truth = list(decoded(path, [2, 50, 57], None))
    reader = FrameReader(tmp_path, (48, 64), "", VideoFiles)
    pictures = list(reader.read("Run/film", np.array([2, 50, 57]), FRAMES)[0])
    said = capsys.readouterr().err
    assert said.startswith(f"note: video {path} is decoded from its start each time") and said.count("\n") == 1
    assert jumps
    assert all(np.array_equal(a[..., ::-1], b) for a, b in zip(pictures, truth, strict=True))
    list(reader.read("Run/film", np.array([50]), FRAMES)[0])
    assert not capsys.readouterr().err  # it is said once


def test_the_times_that_are_kept_are_bounded(tmp_path, jumps, monkeypatch):
    monkeypatch.setattr(video, "MOST_KNOWN", FRAMES)
    for name in "abcd":
        write_video(tmp_path / f"Run/{name}.mp4")
    source = VideoFiles(tmp_path)
    for name in "abcd":
        assert len(list(source.read(f"Run/{name}", [50], FRAMES))) == 1
    assert len(jumps) == 4 and len(source.known) <= 2


@pytest.mark.skipif(not SAMPLES, reason="the real clips are not in ../shared/data")
@pytest.mark.slow
@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_jumps_in_real_videos(path, jumps):
    with video.open_video(path) as capture:
        count = 0
        while capture.grab():
            count += 1
    assert agree(path.parent.parent, f"{path.parent.name}/{path.stem}", path, count)
    found = frame_times(path)
    assert bool(jumps) == (len(found.times) == count and len(found.keys) > 1)


def test_what_is_wrong_with_a_video_goes_from_process_to_process():
    error = pickle.loads(pickle.dumps(video.BrokenVideo("a/b.mp4", "holds nothing")))
    assert str(error) == "video a/b.mp4 holds nothing" and error.reason == "holds nothing"


INTERLACED = """
    c-oV4y}x*|Q(GgW({~{L)X3uWxsk)EsUtVBq$s~QJJG2fDAd}>BoW+@&d2})Oj87XXO|q<-(o-Y>mA?S-NCC{L_Jrg1+Qsb2;qr^tjh-SKKkzN
    0rG@G4yOmNX=1d8aAksb10|c7D&9a$V+dxTJ^;Dr^!}E=2gIVau5WDScXIG;==Dh~OEb09GcwmRG%yHvMCBJRnZUu!?NrEGdT_7z=ESISaW|LF
    4u?31c_1I1+~1;_cy-k}sI#rEH!>C<?TD!tIF!h^y<kowgVNSH&82xM9gPfa?P2l00j};w&5ex8kDFVVlA;(MbZ%%=*wv^otC0y5A`b2QTdY3H
    M-~?^NIuYzeqxsE;&xX*XMY#hAeVMDrxo8$KG2<vuq*w<Qe@RLfU1*$s*S;_6><ww(~Zh9Q&RKOPb_j>+~E=$<QU@V@8{A!#lXM{jPwkR3?P7k
    LEd>=sl&4UEt{_t20d?NSbV;bfuVtcfpIevgM#q?{|_X9?5!eA3}A0F?qJ|xa9{v&`2YU^$@KsK43=PYu3a}}iR)5Lj}9P@3Bg;uq>({`0jwqb
    |8J1VTN~w}dYtldK#GABNL2tt)pXpdKxt?C{ubX~+$_8MH#ahD?*gXTk4=ncJ~VOy01<TG9s
"""  # three white frames of 32 x 32 pixels, MPEG-2 in MKV, compressed


def test_interlaced_frames_are_what_they_show(tmp_path):
    """And no memory that nobody has written to, as in OpenCV 4.13 to 5.0."""
    path = tmp_path / "x.mkv"
    path.write_bytes(zlib.decompress(base64.b85decode("".join(INTERLACED.split()))))
    assert [picture.min() for picture in decoded(path, range(3), None)] == [255] * 3
    assert [picture.min() for picture in frames_at(path, look_at_video(path), np.array([0.0, 0.08]))] == [255] * 2

"""--fps: clips by time instead of by frame numbers."""
import json
import math
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from helpers import NARROW, SMALL, environment, succeed

from analysis.video_pictures import EverySegment
from core.errors import DataError, UsageError
from dataset import lists, rates
from dataset.local_dataset import UCF101_GROUP, LocalDataset
from dataset.sampling import CentreClip, EvenClips, PretrainViews, RandomClip
from engine.evaluation import ClipFlags
from engine.setup import Weights, take_clips
from models.protocol import CLIP_FLAGS, Protocol
from models.weights import export

SMALL_FPS = [flag for flag in SMALL if flag not in ("--ds", "2")]
MAKERS = [lambda ds: PretrainViews(8, ds, segments=2, gap=1), lambda ds: PretrainViews(8, ds, inside=True),
          lambda ds: RandomClip(8, ds), lambda ds: EvenClips(8, ds, 4), lambda ds: CentreClip(8, ds)]


@pytest.mark.parametrize("make", MAKERS)
def test_a_whole_number_of_frames_is_a_stride(make):
    for pace, frames in ((1, 40), (2, 50), (3, 31), (4, 90)):
        for _ in range(20):
            rng, same = (np.random.default_rng(frames) for _ in range(2))
            np.testing.assert_array_equal(make(1)(frames, rng, float(pace)), make(pace)(frames, same), strict=True)
            assert rng.bit_generator.state == same.bit_generator.state


@pytest.mark.parametrize("rate", [23.976, 25, 29.97, 30, 50, 60, 7])
def test_frames_are_those_that_are_shown_at_the_times(rate):
    fps, frames = 12.5, 300
    for clip in EvenClips(16, 1, 5)(frames, np.random.default_rng(), rate / fps):
        for i, number in enumerate(clip):
            assert number == clip[0] + math.floor(i / fps * rate + 1e-6) < frames
    clip, = CentreClip(16, 1)(frames, np.random.default_rng(), rate / fps)
    assert clip[8] == 150 and abs((clip[12] - clip[4]) / rate - 8 / fps) <= 1 / rate


def test_clips_inside_videos_of_several_rates():
    frames, pace = np.array([30, 31, 200]), np.array([1.2, 2.3, 4.8])
    sampler = PretrainViews(8, 1, inside=True)
    sampler.check_room(["a/v", "a/w", "b/x"], frames, pace)
    for count, own in zip(frames.tolist(), pace.tolist(), strict=True):
        drawn = np.stack([sampler(count, np.random.default_rng(seed), own) for seed in range(300)])
        assert drawn.min() == 0 and drawn.max() == count - 1
        assert all(len(set(clip)) == 8 for clip in drawn.reshape(-1, 8).tolist())
    anywhere = PretrainViews(8, 1, segments=2, gap=2)
    clamped = []
    for count, own in zip(frames.tolist(), pace.tolist(), strict=True):
        offsets = [math.floor((i + i // 4 * 2 - 5) * own) for i in range(8)]
        clamped.append(np.mean([any(not 0 <= c + o < count for o in offsets) for c in range(count)]))
    assert anywhere.share_clamped(frames, pace) == pytest.approx(np.mean(clamped), abs=1e-12)
    assert anywhere.plan(frames, pace).endswith("2 steps left out between segments")
    with pytest.raises(UsageError, match=r"1 of 3 videos are shorter than the 35 frames over which a clip reaches "
                                         r"\('b/x' has 20\): take a larger --fps, a smaller --seq_len or"):
        sampler.check_room(["a/v", "a/w", "b/x"], np.array([30, 31, 20]), pace)


def test_rates_of_a_list(tmp_path, monkeypatch):
    """Of the manifest beside what is read, or of the headers of video files."""
    folder = tmp_path / "mine/videos/Run"
    folder.mkdir(parents=True)
    for name, fps in (("a", 25), ("b", 50)):
        writer = cv2.VideoWriter(str(folder / f"{name}.avi"), cv2.VideoWriter_fourcc(*"MJPG"), fps, (32, 24))
        for _ in range(3):
            writer.write(np.zeros((24, 32, 3), np.uint8))
        writer.release()
    names = np.array(["Run/a", "Run/b"])
    assert rates.frame_rates(folder.parent, "video", names).tolist() == [25, 50]
    (folder.parent / "manifest.csv").write_text("video,fps\nRun/a,24\nRun/b,0\n")
    assert rates.frame_rates(folder.parent, "video", names).endswith("manifest.csv has no frame rate of Run/b")
    (folder.parent / "manifest.csv").write_text("video,fps\nRun/b,24\n")
    assert rates.frame_rates(folder.parent, "video", names).endswith("manifest.csv has no frame rate of Run/a")
    for wrong in ("90000", "1e300", "-25", "nan", ""):  # no camera's, or none
        (folder.parent / "manifest.csv").write_text(f"video,fps\nRun/a,{wrong}\nRun/b,24\n")
        assert rates.frame_rates(folder.parent, "video", names).endswith("has no frame rate of Run/a")
    (folder.parent / "manifest.csv").write_text("video\n")
    with pytest.raises(DataError, match="there is no column video, or none called fps"):
        rates.frame_rates(folder.parent, "video", names)
    assert rates.frame_rates(tmp_path, "packed", names).endswith("manifest.csv is not there")
    (folder.parent / "manifest.csv").write_text("fps,video\n24,Run/a\n48,Run/b\n")
    own = LocalDataset(folder.parent.parent / "frames", tmp_path / "lists", UCF101_GROUP, 1)
    monkeypatch.setitem(lists.DATASETS, "mine", own)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/ClassInd.txt").write_text("1 Run\n")
    (tmp_path / "lists/train_split01.csv").write_text("Run/b,3\nRun/a,3\n")
    videos = lists.open_list("mine", "train", 1, "video", 12)
    assert videos.pace.tolist() == [4, 2] and videos.subset(np.array([1])).pace.tolist() == [2]
    assert len({videos.fingerprint(), lists.open_list("mine", "train", 1, "video").fingerprint(),
                lists.open_list("mine", "train", 1, "video", 6).fingerprint()}) == 3
    (folder.parent / "manifest.csv").unlink()
    (folder / "b.avi").write_bytes(b"no film")
    with pytest.raises(DataError, match=r"^--fps 12: video .*b.avi is no AVI.*: mend the file, or count frames"):
        lists.open_list("mine", "train", 1, "video", 12)


def test_a_timeline_of_a_video_slower_than_its_clips():
    assert EverySegment(4, 1)(3, np.random.default_rng(), 0.1).tolist() == [[i] * 4 for i in range(3)]


@pytest.mark.parametrize("own, given, taken, said", [
    (Protocol(ds=1, fps=7.5), {}, (None, 7.5), "--fps 7.5: the clips of w; give other flags for others"),
    (Protocol(fps=30.0), {}, (None, 7.5), "--fps 7.5: the clips of w; give other flags for others"),
    (Protocol(ds=1, fps=7.5), {"ds": 1}, (1, None), "w was trained on clips of --fps 7.5"),
    (Protocol(ds=1, fps=7.5), {"fps": 5.0}, (None, 5.0), "w was trained on clips of --fps 7.5"),
    (Protocol(), {"fps": 7.5}, (None, 7.5), "w was trained on clips of --ds 4")])
def test_clips_of_weights_and_of_flags(own, given, taken, said, capsys):
    args = SimpleNamespace(**{**dict.fromkeys(CLIP_FLAGS), **given})
    take_clips(args, [Weights("w", {"config": {"net": "r3d", "width": 1.0, "protocol": own.values()}}, "r3d", 1.0)], 2)
    assert (args.ds, args.fps) == taken and f"note: {said}\n" in capsys.readouterr().out


def test_kept_results_say_their_own_spacing(capsys):
    """Also where flags, or results of earlier versions, say another."""
    by_time, by_frames = (ClipFlags(4, 1, 24, (27, 37), 2, fps=7.5), ClipFlags(4, 3, 24, (27, 37), 2))
    old = json.dumps({name: value for name, value in by_frames.values().items() if name != "fps"})
    assert by_time.from_json(old, "x", "again").values() == {"seq_len": 4, "ds": 3, "img_dim": 24, "resize": [27, 37],
                                                             "clips": 2, "fps": None}
    assert by_frames.from_json(by_time.to_json(), "x", "again") == by_time
    assert capsys.readouterr().out == "note: taken as kept: --ds 3\nnote: taken as kept: --fps 7.5\n"


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory):
    """Folder with a run at --fps 12.5, whose videos have 25 frames a second."""
    frames = root / "ucf101/frames"
    names = sorted(path.relative_to(frames).as_posix() for path in frames.glob("*/*"))
    (frames / "manifest.csv").write_text("video,fps\n" + "".join(f"{name},25.0\n" for name in names))
    folder = tmp_path_factory.mktemp("rate")
    succeed("train.py", *SMALL_FPS, *NARROW, "--fps", "12.5", "--batch_size", "4", "--epochs", "1", "--name", "fps",
            cwd=folder, env=environment(root))
    return folder


WEIGHTS = "log/dualvar/pretrain/fps/model/backbone.pth.tar"


@pytest.mark.slow
def test_training_is_that_at_the_stride(trained, root):
    succeed("train.py", *SMALL, *NARROW, "--batch_size", "4", "--epochs", "1", "--name", "ds", cwd=trained,
            env=environment(root))
    states = [torch.load(trained / WEIGHTS.replace("/fps/", f"/{name}/"), weights_only=True) for name in ("fps", "ds")]
    assert all(torch.equal(value, states[1]["state_dict"][name]) for name, value in states[0]["state_dict"].items())
    assert states[0]["config"]["protocol"]["fps"] == 12.5 and "fps" not in states[1]["config"]["protocol"]


@pytest.mark.slow
def test_weights_say_their_rate_and_every_stage_takes_it(trained, root, program, monkeypatch):
    monkeypatch.chdir(trained)
    loader = [flag for flag in SMALL if flag in ("--workers", "0", "--device", "cpu")]
    code, out, error = program("retrieval", *loader, "--pretrain", WEIGHTS, "--clips", "2", "--save_features", "f")
    assert code == 0 and "4 frames at 12.5 frames a second" in out and "--fps 12.5 " in out, error
    assert json.loads((trained / "f/protocol.json").read_text())["fps"] == 12.5
    code, out, error = program("retrieval", *loader, "--load_features", "f", "--img_dim", "24", "--name", "again")
    assert code == 0 and "note: taken as kept: --fps 12.5 --seq_len 4 --clips 2\n" in out, error
    code, out, error = program("retrieval", *loader, "--pretrain", WEIGHTS, "--clips", "2", "--ds", "2", "--name", "ds")
    assert code == 0 and "was trained on clips of --fps 12.5" in out, error
    results = [json.loads((trained / f"log/dualvar/retrieval/{name}/results.json").read_text())["results"]
               for name in ("fps_on_ucf101", "again", "ds")]
    assert results[0] == results[1] == results[2]
    code, out, error = program("finetune", *loader, "--pretrain", WEIGHTS, "--batch_size", "4", "--epochs", "1",
                               "--name", "f")
    assert code == 0 and "4 frames at 12.5 frames a second, 24 px" in out, error
    code, out, error = program("test", *loader, "--checkpoint", "log/dualvar/ft/f/model/latest.pth.tar", "--clips", "2")
    assert code == 0 and "at 12.5 frames a second" in out, error
    code, out, error = program("analysis.temporal", *loader, "--pretrain", WEIGHTS, "--seq_len", "8", "--dry_run")
    assert "note: --ds 2, the nearest to these frames a second in videos of 25" in out, error
    code, out, error = program("analysis.pictures", "timeline", "--pretrain", WEIGHTS, "--workers", "0", "--out", "t")
    assert code == 0 and (trained / "t.png").stat().st_size > 1000, error


@pytest.mark.slow
def test_what_is_wrong_gets_a_sentence(trained, root, program, monkeypatch):
    monkeypatch.chdir(trained)
    train = ["train", *SMALL_FPS, *NARROW, "--batch_size", "4", "--epochs", "1", "--name", "fps"]
    for flags, words in ((["--fps", "12.5", "--ds", "2"], "--ds and --fps both say how far the frames"),
                         (["--fps", "12.5", "--ds", "1"], "--ds and --fps both say how far the frames"),
                         (["--fps", "0"], "--fps must be above 0"), (["--fps", "99999"], "--fps 99999 must be between"),
                         (["--fps", "nan"], "--fps must be above 0"),
                         (["--fps", "5", "--resume", "auto"], "fps 12.5 there, 5.0 here"),
                         (["--fps", "5", "--storage", "packed"], "not at")):
        code, _, error = program(*train, *flags)
        assert code != 0 and words in error.splitlines()[-1], (flags, error)
    path = root / "ucf101/frames/manifest.csv"
    kept = path.read_text()
    path.unlink()
    try:
        code, _, error = program(*train, "--fps", "12.5")
    finally:
        path.write_text(kept)
    assert code == 1 and "--fps 12.5: " in error and "manifest.csv is not there: extract the frames again, or" in error


def test_protocols_with_a_rate():
    own = Protocol(16, 1, 112, fps=7.5)
    assert Protocol.read(own.values(), "x") == own and str(own).startswith("16 frames at 7.5 frames a second, 112")
    assert "fps" not in Protocol().values() and Protocol.read(Protocol().values(), "x") == Protocol()
    for wrong in (0.0, -1, 1e9, "30"):
        with pytest.raises(Exception, match="its clip protocol makes no sense .*fps"):
            Protocol.read({**own.values(), "fps": wrong}, "x")


def test_the_page_of_preprocessing_takes_the_same_frames(tmp_path):
    made: dict = {"__name__": "page"}
    exec(export.page(Protocol(4, 1, 16, fps=7.5)), made)
    frames = [np.full((20, 26, 3), i, np.uint8) for i in range(60)]
    found = made["clips_of"](frames, 3, 25)[:, 0, :, 0, 0] * 0.229 + 0.485
    np.testing.assert_array_equal((found * 255).round(), EvenClips(4, 1, 3)(60, None, 25 / 7.5))
    with pytest.raises(AssertionError, match="rate="):
        made["clips_of"](frames, 3)


def test_a_folder_of_pictures_is_given_its_rate_on_the_command_line(tmp_path, monkeypatch):
    (tmp_path / "frames").mkdir()
    for i in range(60):
        cv2.imwrite(str(tmp_path / f"frames/{i:02}.png"), np.full((20, 26, 3), i, np.uint8))
    monkeypatch.setattr("sys.argv", ["preprocess.py", str(tmp_path / "frames"), str(tmp_path / "clips.npy"), "25"])
    text = export.page(Protocol(4, 1, 16, fps=7.5))
    exec(text, {"__name__": "__main__"})
    found = np.load(tmp_path / "clips.npy")[:, 0, :, 0, 0] * 0.229 + 0.485
    np.testing.assert_array_equal((found * 255).round(), EvenClips(4, 1)(60, None, 25 / 7.5))
    assert "FPS = 4, 1, 10, 7.5  # of a clip" in text

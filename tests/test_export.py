"""Networks as files that run without this project: what is written, what is refused, and the page that makes clips."""
import errno
import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import PATIENCE, REPOSITORY, environment, planted, start, wait_for

from analysis import export as command
from analysis import export_trial
from core.errors import RunError
from dataset.clips import VideoClips
from dataset.crops import FixedCrops
from dataset.lists import VideoList
from dataset.reader import FrameReader
from dataset.sampling import EvenClips
from dataset.video import VideoFiles
from models import build_backbone
from models.classifier import pooled
from models.protocol import Protocol
from models.weights import export
from models.weights.checkpoint import write_checkpoint
from models.weights.share import from_pretrained

WIDTH, CLIPS = 0.0625, Protocol(8, 1, 16)
FLAGS = ("--dataset", "ucf101", "--workers", "0", "--clips", "2")


def network(net="r3d", protocol=CLIPS, seed=0):
    """A network with running statistics of its own, in evaluation mode."""
    torch.manual_seed(seed)
    backbone = build_backbone(net, WIDTH)
    for name, value in backbone.named_buffers():
        if name.endswith("running_mean"):
            value.normal_(0, 0.1)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
    backbone.protocol = protocol
    return backbone.eval().requires_grad_(False)


def saved(program, backbone, net="r3d", name="shared"):
    """The network as a folder that `save` wrote."""
    pytest.importorskip("safetensors", reason="safetensors is not installed: nothing is saved to export")
    write_checkpoint(Path("in.pth.tar"), {"state_dict": backbone.state_dict(), "config": {
        "net": net, "width": WIDTH, "protocol": backbone.protocol.values()}})
    code, _, error = program("models.weights", "save", "in.pth.tar", name)
    assert code == 0, error
    return Path(name)


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def entry_of():
    """What config.json might say of an exported file."""
    return {name: "x" if kind is str else 1 for name, kind in command.ENTRY.items()}


# --- the command ---------------------------------------------------------------------------------------------

def test_a_program_gives_the_network_s_features_bit_for_bit(program):
    """Also where its weights expect clips that are normalised in another way: the conversion is in the file."""
    backbone = network(protocol=Protocol(8, 1, 16, None, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)))
    folder = saved(program, backbone)
    code, out, error = program("models.weights", "export", folder, "--to", "torch-export", *FLAGS, "--clips", "3")
    assert code == 0, error
    assert "its features bit for bit" in out and "of preprocess.py: those of our loader bit for bit" in out
    metadata = {"metadata.json": ""}
    module = torch.export.load(folder / "torch-export/model.pt2", extra_files=metadata).module()
    for batch in (1, 2, 7):
        clips = torch.randn(batch, 3, 8, 16, 16)
        assert pooled(backbone, clips).count_nonzero() > batch
        assert torch.equal(module(clips), pooled(backbone, clips))
    with pytest.raises(RuntimeError):
        module(torch.randn(1, 3, 8, 24, 24))
    said = json.loads(metadata["metadata.json"])
    config = json.loads((folder / "config.json").read_text())
    assert (said["frames"], said["stride"], said["size"], said["batch"], said["network"]) == (
        "8", "1", "16", "dynamic", "r3d")
    assert said["weights_sha256"] == config["sha256"]
    entry, card = config["exports"]["torch-export"], (folder / "README.md").read_text()
    assert entry["relative_error"] == entry["preprocessing"] == 0 and entry["batches"] == [1, 3, 10]
    assert entry["bytes"] == (folder / "torch-export/model.pt2").stat().st_size
    assert min(entry["ms"], entry["cpu_ms"], entry["ms_network"], entry["cpu_ms_network"]) > 0
    assert card.count("## Exported files") == 1 and "`torch-export/model.pt2` | 8 x 16 x 16, batch dynamic" in card
    assert str(REPOSITORY).encode() not in b"".join(content(folder).values())
    assert torch.equal(from_pretrained(folder)(clips), backbone(clips))  # the folder is still what it was
    code, out, error = program("models.weights", "push", folder, "me/small", "--dry_run")
    assert code == 0 and "  torch-export/model.pt2 " in out and "  torch-export/preprocess.py " in out, error


def test_what_another_export_wrote_meanwhile_stays(program, monkeypatch):
    folder, made = saved(program, network()), export.program_bytes

    def meanwhile(*arguments):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **change}))
        return made(*arguments)

    monkeypatch.setattr(export, "program_bytes", meanwhile)
    flags = ("models.weights", "export", folder, "--to", "torch-export", *FLAGS, "--clips", "1", "--videos", "1")
    change = {"sha256": "0" * 64}
    code, _, error = program(*flags)
    assert code == 1 and "shared has other weights than when this export began" in error
    shutil.rmtree(folder)
    saved(program, network())
    change = {"exports": {"onnx": {**entry_of(), "frames": "8"}}}
    code, _, error = program(*flags)
    assert code == 0, error
    assert json.loads((folder / "config.json").read_text())["exports"].keys() == {"onnx", "torch-export"}
    assert "`onnx/model.onnx`" in (folder / "README.md").read_text()


def test_another_file_in_the_place_of_one_is_said(program):
    folder = saved(program, network())
    flags = ("models.weights", "export", folder, "--to", "torch-export", *FLAGS)
    code, out, error = program(*flags)
    assert code == 0 and "is replaced" not in out and "many minutes for a large one\n" in out, error
    code, out, error = program(*flags, "--frames", "4", "--clips", "1")
    assert code == 0 and "note: torch-export/model.pt2 of 8 x 16 x 16, batch dynamic is replaced, if" in out, error
    entry = json.loads((folder / "config.json").read_text())["exports"]["torch-export"]
    assert (entry["videos"], entry["batches"]) == (4, [1, 3])  # 10 would need as many clips


@pytest.mark.slow
def test_a_stopped_export_leaves_the_folder_as_it_was(program, root, tmp_path):
    folder = saved(program, network())
    before = content(folder)
    script = planted(tmp_path, "models.weights", """
from models.weights import export
export.program_bytes = lambda *_: [__import__("time").sleep(0.01) for _ in range(60000)]""")
    group = start(script, "export", folder, "--to", "torch-export", *FLAGS, cwd=tmp_path, env=environment(root))
    assert wait_for(lambda: any((folder / "torch-export").glob(".partial_*")), group), group[0].output("err")
    os.kill(group[0].pid, signal.SIGTERM)
    assert group[0].wait(PATIENCE) == 128 + signal.SIGTERM
    assert group[0].output("err").endswith("stopped: what was not whole is taken away\n")
    assert content(folder) == before and not (folder / "torch-export").exists()


@pytest.mark.slow
@pytest.mark.parametrize("net, size", [pytest.param("r3d", ("--frames", "4", "--size", "20"), marks=pytest.mark.kept),
                                       ("r21d", ())])
def test_onnx_and_8_bits_agree(net, size, program, monkeypatch):
    """Both are written beside each other; a fixed batch is the only one that is then taken."""
    monkeypatch.setattr(export_trial, "POINTS", 1)  # of four test videos each counts 25
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    backbone = network(net)
    folder = saved(program, backbone, net)
    for form, more in (("onnx", size), ("int8", ("--batch", "2"))):
        code, out, error = program("models.weights", "export", folder, "--to", form, *FLAGS, *more)
        assert code == 0, error
    assert "R@1" in out and "batches of 2" in out
    config = json.loads((folder / "config.json").read_text())
    assert config["exports"].keys() == {"onnx", "int8"}
    assert (folder / "README.md").read_text().count("\n| `") >= 2
    assert config["exports"]["int8"]["bytes"] < config["exports"]["onnx"]["bytes"] / 2
    whole, fixed = (onnxruntime.InferenceSession(str(folder / form / "model.onnx")) for form in ("onnx", "int8"))
    shape = [3, 4, 20, 20] if size else [3, 8, 16, 16]
    assert [i.shape for i in whole.get_inputs() + fixed.get_inputs()] == [["batch", *shape], [2, 3, 8, 16, 16]]
    said = whole.get_modelmeta().custom_metadata_map
    assert (said["frames"], said["size"]) == (str(shape[1]), str(shape[2])) and said["mean"] == "[0.485, 0.456, 0.406]"
    sides = "23, 31, 20" if size else "18, 24, 16"
    assert f"HEIGHT, WIDTH, SIZE = {sides} " in (folder / "onnx/preprocess.py").read_text()
    clips = torch.randn(5, *shape)
    found = torch.from_numpy(whole.run(None, {"clip": clips.numpy()})[0])
    assert export.relative_error(found, pooled(backbone, clips)) < 1e-5
    assert str(REPOSITORY).encode() not in b"".join(content(folder).values())


def test_a_file_that_disagrees_is_nowhere(program, monkeypatch):
    """A file of other weights, a full disk, and a network that gives no numbers: the folder is as it was."""
    folder = saved(program, network())
    before, made = content(folder), export.program_bytes
    other = export.traced(network(seed=1), 8, 16, None)
    monkeypatch.setattr(export, "program_bytes", lambda program, metadata: made(other, metadata))
    code, _, error = program("models.weights", "export", folder, "--to", "torch-export", *FLAGS)
    assert code == 1 and "off, of their largest value; 1e-05 is allowed: nothing is kept\n" in error
    assert content(folder) == before and not (folder / "torch-export").exists()
    monkeypatch.setattr(export_trial.Trial, "rounding", lambda self: 4.8e-5)
    code, _, error = program("models.weights", "export", folder, "--to", "torch-export", *FLAGS)
    assert code == 1 and "torch's own float32 is 4.8e-05 from float64 there" in error

    def full(program, metadata):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(export, "program_bytes", full)
    code, _, error = program("models.weights", "export", folder, "--to", "torch-export", *FLAGS)
    assert code == 1 and "No space left on device" in error and error.count("\n") == 1
    assert content(folder) == before and not (folder / "torch-export").exists()


def test_a_page_that_makes_other_clips_is_refused_and_a_decoder_s_scale_is_said(program, monkeypatch):
    folder = saved(program, network())
    flags = ("models.weights", "export", folder, "--to", "torch-export", *FLAGS, "--size", "10")
    code, out, error = program(*flags)
    found = re.search("preprocess.py: within (.*) of those of our loader, as its JPEG decoder has a scale more", out)
    assert code == 0 and 0 < float(found[1]) < 2, error  # of frames of 30 pixels for 12
    before, made = content(folder), export.page
    for old, new in (("- MEAN", ""), ("* STRIDE", "* 2"), ("len(source) if", "5 if")):
        monkeypatch.setattr(export, "page", lambda protocol, old=old, new=new: made(protocol).replace(old, new))
        code, _, error = program(*flags)
        assert code == 1 and "preprocess.py makes clips that differ from our loader's by" in error, old
        assert content(folder) == before


def test_8_bits_are_refused_with_the_number(monkeypatch):
    """Every recipe is tried; R@1 counts too."""
    rng = torch.Generator().manual_seed(0)
    features = {part: torch.randn(6, 2, 4, generator=rng) for part in ("train", "test")}
    videos = VideoList(np.arange(6).astype(str), np.full(6, 9), np.arange(6) % 2, np.array(["a", "b"]))

    class Real:
        clips, listed = 2, staticmethod(lambda part: videos)
        calibration = staticmethod(lambda batch: iter(()))

        def features(self, compute, videos, description):
            return compute(features["train" if "train" in description else "test"])

    trial = export_trial.Trial(None, Real(), None, 2)
    monkeypatch.setattr(export_trial, "in_batches", lambda compute, *_: compute)
    monkeypatch.setattr(export_trial.Trial, "own", lambda self, features: features)
    monkeypatch.setattr(export, "onnx_bytes", lambda *_: b"")
    monkeypatch.setattr(export, "int8_bytes", lambda *_: b"")

    def fitted(compute):
        monkeypatch.setattr(export, "opened", lambda *_: compute)
        return command.fitted(trial, None, Path("/dev/null"), {})

    with pytest.raises(RunError, match="with all operations in 8 bits the cosine of a clip's features is -0.*; with "
                                       "products alone in 8 bits the cosine .*, where 0.99 is the least: nothing is"):
        fitted(lambda x: x.flip(2))
    found = fitted(lambda x: x * 1.5)
    assert found["cosine"] > 0.999 and found["r1"] == found["r1_float32"] and found["in_8_bits"] == "all operations"
    assert (found["gallery"], found["queries"]) == (6, 6)
    shares = iter([0.5, 0.5201, 0.5, 0.5199])
    monkeypatch.setattr(export_trial.Trial, "accuracy", lambda self, features: next(shares))
    assert fitted(lambda x: x)["in_8_bits"] == "products alone"
    shares = iter([0.5201, 0.5] * 2)
    with pytest.raises(RunError, match="R@1 is 0.5201, and 0.5000 in float32: 2 points are allowed"):
        fitted(lambda x: x)


@pytest.mark.parametrize("flags, code, message", [
    (("none",), 1, "none is no folder: name one that python -m models.weights save wrote"),
    (("empty",), 1, "empty has no config.json"),
    (("shared", "--batch", "0"), 2, "neither dynamic nor a number from 1 to"),
    (("shared", "--batch", "many"), 2, "many is neither dynamic nor a number"),
    (("shared", "--frames", "0"), 2, "--frames 0 is not a number from 1"),
    (("shared", "--size", "1000000"), 2, "--size 1000000 is not a number from 1"),
    (("shared", "--size", "8000"), 2, "10 clips of 8 frames of 8000 px in r3d would take "),
    (("shared", "--clips", "0"), 2, "--clips must be above 0"),
    (("shared", "--dataset", "nosuch"), 2, "--dataset nosuch is not in dataset/local_dataset.py"),
    (("shared", "--dataset", "k400"), 1, "frames of k400 are not at"),
    (("shared", "--split", "2"), 1, "split02.csv cannot be read"),
    (("shared", "--to", "tflite"), 2, "invalid choice: 'tflite'"),
])
def test_wrong_flags_are_one_sentence(program, flags, code, message):
    folder = saved(program, network())
    Path("empty").mkdir()
    before = content(folder)
    got, _, error = program("models.weights", "export", "--to", "torch-export", *FLAGS, *flags)
    assert got == code and message in error and error.count("\n") == 1, error
    assert content(folder) == before


def test_a_damaged_folder_is_one_sentence(program):
    folder = saved(program, network())
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    code, _, error = program("models.weights", "export", folder, "--to", "torch-export", *FLAGS)
    assert code == 1 and "model.safetensors" in error and error.count("\n") == 1
    folder = saved(program, network(), name="another")
    config = json.loads((folder / "config.json").read_text())
    for exports, message in (({"onnx": ["x"]}, "is damaged (onnx"), ("x", "is damaged (exports is not a dictionary"),
                             ({"nosuch": entry_of()}, "is damaged (exports has nosuch")):
        (folder / "config.json").write_text(json.dumps({**config, "exports": exports}))
        code, _, error = program("models.weights", "export", folder, "--to", "torch-export", *FLAGS)
        assert code == 1 and message in error and error.count("\n") == 1, error
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "README.md").unlink()
    code, _, error = program("models.weights", "export", folder, "--to", "torch-export", *FLAGS)
    assert code == 1 and "README.md cannot be read" in error


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_names_what_to_install(program, monkeypatch, package):
    folder = saved(program, network())
    monkeypatch.setitem(sys.modules, package, None)
    code, _, error = program("models.weights", "export", folder, "--to", "onnx", *FLAGS)
    assert code == 1 and package in error and "requirements-share.txt" in error and error.count("\n") == 1


def test_a_link_in_place_of_the_folder_is_not_followed(program, tmp_path):
    folder = saved(program, network())
    (tmp_path / "elsewhere").mkdir()
    (folder / "torch-export").symlink_to(tmp_path / "elsewhere")
    code, _, error = program("models.weights", "export", folder, "--to", "torch-export", *FLAGS)
    assert code == 1 and "is a link" in error and not any((tmp_path / "elsewhere").iterdir())


# --- what it is made of --------------------------------------------------------------------------------------

def test_disagreement_is_seen():
    wanted = torch.tensor([[1.0, -4.0], [2.0, 1.0]])
    assert export.relative_error(wanted, wanted) == 0
    assert export.relative_error(wanted + torch.tensor([[0, 0.1], [0.1, 0]]), wanted) == pytest.approx(0.05)
    assert export.relative_error(wanted.clone().fill_(torch.nan), wanted) == float("inf")
    assert export.relative_error(torch.zeros(2, 2), torch.zeros(2, 2)) == 0
    assert export.least_cosine(wanted * 2, wanted) == pytest.approx(1)
    assert export.least_cosine(wanted.flip(1), wanted) == pytest.approx(-8 / 17)
    shifted = wanted + 100
    assert export.least_cosine(shifted.flip(0), shifted) > 0.99 > -0.99 > export.least_cosine(
        shifted.flip(0), shifted, centred=True)


def test_batches_are_put_together_again():
    seen = []

    def double(clips):
        seen.append(len(clips))
        return 2 * clips.flatten(1)

    clips = torch.randn(7, 3, 1, 2, 2)
    for fixed, sizes in ((False, [3, 3, 1]), (True, [3, 3, 3])):
        assert torch.equal(export.in_batches(double, 3, fixed)(clips), 2 * clips.flatten(1)) and seen == sizes
        seen.clear()


def test_the_card_has_one_section_of_exports():
    once = command.with_section("# A\n\n## Files\n\ntext\n", "## Exported files\n\nfirst\n\n")
    assert once == "# A\n\n## Files\n\ntext\n\n## Exported files\n\nfirst\n"
    after = once + "\n## More\n\nby hand\n"
    assert command.with_section(after, "## Exported files\n\nsecond\n\n") == after.replace("first", "second")


# --- the page that makes clips -------------------------------------------------------------------------------

def page_of(protocol):
    made = {"__name__": "page"}
    exec(export.page(protocol), made)
    return made


def loaders_clips(source, name, frames, protocol, count=10):
    reader = FrameReader(source.root, protocol.frame_size, source=lambda _: source)
    videos = VideoList(np.array([name]), np.array([frames]), np.array([0]), np.array(["a"]))
    data = VideoClips(videos, reader, EvenClips(protocol.seq_len, protocol.ds, count), FixedCrops(protocol.img_dim))
    return export_trial.as_input(data[0, 0]["clips"]).numpy()


def test_the_page_is_short_and_plain():
    text = export.page(CLIPS)
    assert len(text.splitlines()) < 60 and all(len(line) <= 120 for line in text.splitlines())
    imported = set(re.findall(r"^(?:import|from) (\w+)", text, re.MULTILINE))
    assert imported == {"sys", "pathlib", "typing", "cv2", "numpy"}
    assert "FRAMES, STRIDE, CLIPS, FPS = 8, 1, 10, None  # of" in text and "HEIGHT, WIDTH, SIZE = 18, 24, 16 " in text
    assert page_of(CLIPS)["MEAN"].tolist() == pytest.approx([0.485, 0.456, 0.406])


@pytest.mark.parametrize("protocol", [Protocol(8, 2, 56), Protocol(4, 3, 101, (171, 128)), Protocol(2, 1, 223)])
def test_the_page_makes_the_loader_s_clips(tmp_path, protocol):
    """Bit for bit: of a video, of the pictures of its frames, and of arrays; longer and shorter than a clip."""
    rng = np.random.default_rng(0)
    (tmp_path / "a").mkdir()
    for name, frames in (("long", 20), ("short", 5)):
        video = cv2.VideoWriter(str(tmp_path / f"a/{name}.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 25, (320, 240))
        (tmp_path / "a" / name).mkdir()
        (tmp_path / "a" / name / ".record.json").write_text("{}")
        for number in range(frames):
            picture = cv2.resize(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8), (320, 240))
            video.write(picture)
            cv2.imwrite(str(tmp_path / "a" / name / f"image_{number + 1:05d}.jpg"), picture)
        video.release()
        page, pictures = page_of(protocol), FrameReader(tmp_path, protocol.frame_size)
        wanted = loaders_clips(VideoFiles(tmp_path), f"a/{name}", frames, protocol)
        found = page["clips_of"](str(tmp_path / f"a/{name}.avi"))
        assert found.dtype == np.float32 and np.array_equal(found, wanted)
        arrays = [next(page["decoded"](tmp_path / f"a/{name}.avi", {i})) for i in range(frames)]
        assert np.array_equal(page["clips_of"](arrays), wanted)
        wanted = loaders_clips(pictures.source, f"a/{name}", frames, protocol, 3)
        assert np.array_equal(page["clips_of"](tmp_path / "a" / name, 3), wanted)

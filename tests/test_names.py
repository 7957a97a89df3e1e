"""Weights in the names and containers of other projects: found, recognised, and computing what they do there."""
import argparse
import re
from functools import partial
from pathlib import Path

import foreign
import pytest
import torch
from foreign import CFG
from fuzz import bounded
from helpers import SMALL
from test_pretrained import WIDTH, equal, under, weights
from torchvision.models.video import r3d_18
from toys import Tiny

from core.errors import CheckpointError, UsageError
from dataset.augment import MEAN, STD
from engine.setup import open_weights, take_clips
from models import build_backbone
from models.backbones import BACKBONES
from models.protocol import Protocol
from models.weights.checkpoint import read_checkpoint
from models.weights.identify import comparisons, kind, template
from models.weights.loading import load_backbone
from models.weights.names import COUNTER, locate, name_tables
from models.weights.origins import project_of

# --- containers ----------------------------------------------------------------------------------------------

STATE = weights("r3d")
OTHER = weights("r3d", "other")


def read(content, entry=None):
    torch.save(content, "x.pth")
    return read_checkpoint("x.pth", entry)


@pytest.mark.parametrize("wrap", [
    lambda w: w, lambda w: {"model": {"state_dict": w}}, lambda w: {"state_dict": {"model": w}},
    lambda w: {"model": {"state_dict": w, "mean": torch.zeros(3), "epoch": 3}, "epoch": 3},
    lambda w: {"state_dict": w, "best_acc": torch.tensor(0.5), "model": {"name": "r3d", "depth": 18}},
    lambda w: {"state_dict": w, "model": w}, lambda w: {"model": w, "model_ema": OTHER, "optimizer": {"state": {
        0: {"momentum_buffer": torch.zeros(3)}}}},
    lambda w: {"classy_state_dict": {"base_model": {"model": {"trunk": w, "heads": {"fc": torch.zeros(3)}}}}},
    lambda w: {"module": under("module.", w), "optimizer": {"state_dict": {"x": torch.zeros(3)}}},
])
def test_weights_are_found_in_their_container(wrap, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert equal(read(wrap(STATE))["state_dict"], STATE)


@pytest.mark.parametrize("content, said", [
    ({"state_dict": STATE, "model": OTHER}, "holds weights in state_dict, model: choose one with --entry"),
    ({"model": {"net": STATE, "state_dict": OTHER}}, "holds weights in model.state_dict, model.net: choose"),
    ({"student": STATE, "teacher": OTHER}, "holds no state_dict, but tensors in student, teacher: choose one with"),
    ({"state_dict": {"a": {"b": STATE}}}, "but tensors in state_dict.a.b: choose"),
    ({"state_dict": {1: torch.zeros(3)}, "epoch": 3}, "x.pth holds no state_dict"),
    ({**STATE, "epoch": 3, "step": 4}, "x.pth holds no state_dict, but tensors beside epoch, step: save the tensors"),
    ({"epoch": 3}, "x.pth holds no state_dict"), ([STATE], "x.pth holds no state_dict"),
])
def test_what_is_no_single_set_of_weights_is_refused(content, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=said):
        read(content)


def test_an_entry_is_chosen(program):
    content = {"student": STATE, "teacher": {"state_dict": OTHER, "config": {"net": "r3d", "width": WIDTH}}}
    torch.save(content, "x.pth")
    for entry, found in (("student", STATE), ("teacher", OTHER), ("teacher.state_dict", OTHER)):
        code, _, error = program("models.weights", "convert", "x.pth", "out.tar", "--entry", entry, "--net", "r3d",
                                 "--force")
        assert code == 0 and equal(torch.load("out.tar", weights_only=True)["state_dict"], found), error
    assert read_checkpoint("x.pth", "teacher")["config"] == {"net": "r3d", "width": WIDTH}
    Path("out.tar").unlink()
    for entry in ("nobody", "student.stem.weight", "teacher.config.net"):
        for command in (["inspect", "x.pth"], ["convert", "x.pth", "out.tar"]):
            code, _, error = program("models.weights", *command, "--entry", entry)
            assert code == 1 and f"x.pth has no entry {entry!r} that is a dictionary" in error, error
    assert not Path("out.tar").exists()


@pytest.mark.parametrize("names", [["a." * 5000 + str(number) for number in range(1000)],
                                   [f"{number}.Conv_2b.bn.bias" for number in range(20000)]])
def test_strange_names_take_no_time(names):
    with bounded():
        family, _, others = locate(names, name_tables(template("s3dg", 1.0)))
    assert (family, len(others)) in (("unknown", 0), ("release", 19999))


# --- networks of others --------------------------------------------------------------------------------------

HEAD = {"weight": torch.zeros(3, 4), "bias": torch.zeros(3)}


def with_weights(network, seed=0):
    """A network in evaluation mode with seeded weights, whose batch norms do something."""
    generator = torch.Generator().manual_seed(seed)
    for value in network.state_dict().values():
        if value.ndim == 1:
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
        elif value.ndim:
            value.copy_(torch.randn(value.shape, generator=generator) * (2 / value[0].numel()) ** 0.5)
    return network.eval()


def rspnet(arch):
    """A file of its pretraining."""
    def file(own, other):
        heads = {f"{side}.{fc}.2.{name}": value for side in ("encoder_q", "encoder_k") for fc in ("fc1", "fc2")
                 for name, value in HEAD.items()}
        return {"epoch": 200, "arch": arch, "best_loss": 1.5, "optimizer": {"state": {}}, "model": {
            **under("encoder_q.encoder.", own), **under("encoder_q.encoder.fc.", HEAD),
            **under("encoder_k.encoder.", other), **heads, "queue": torch.zeros(4, 8),
            "queue_ptr": torch.zeros(1, dtype=torch.long)}}
    return file


def slow(name):
    return lambda width: foreign.SlowR50(name, width)


def slowfast(inside):
    """A file of SlowFast's contrastive pretraining."""
    def file(own, other):
        content = under("backbone.", own) | under("backbone.head.projection.projection.0.", HEAD) | under(
            "backbone.head.projection.projection.3.", HEAD)
        if inside == "BYOL":
            content |= under("backbone.head.predictors.0.projection.0.", HEAD)
        if inside in ("MoCo", "BYOL"):
            content |= under("backbone_hist.", other) | under("backbone_hist.head.projection.projection.0.", HEAD)
            content |= {"ptr": torch.zeros(1), "queue_x": torch.zeros(8, 4), "iter": torch.zeros(1)}
        if inside == "SwAV":
            content |= {"swav_prototypes.weight": torch.zeros(3, 4)}
        return {"epoch": 199, "model_state": {**content, "knn_mem.memory": torch.zeros(8, 1, 4)}, "optimizer_state": {}}
    return file


IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SLOWFAST = (0.45,) * 3, (0.225,) * 3
# our network, theirs, whose normalisation, {what inspect says: the file with its weights and those of a copy}
FOREIGN = {
    "c3d of RSPNet": ("c3d", foreign.RSPNetC3D, IMAGENET, {
        "a backbone of RSPNet, inside MoCo": rspnet("c3d"),
        "a classifier of RSPNet": lambda own, other: {
            "arch": "c3d", "model": under("encoder.", own) | under("fc.", HEAD)}}),
    "r21d of RSPNet": ("r21d", foreign.RSPNetR21D, IMAGENET, {
        "a backbone of RSPNet, inside MoCo": rspnet("r2plus1d-vcop"),
        "a classifier of RSPNet": lambda own, other: {"arch": "r2plus1d-vcop", "model": own | under("linear.", HEAD)}}),
    "slow_r50 of SlowFast": ("slow_r50", slow(foreign.slowfast_name), SLOWFAST, {
        **{f"a backbone of SlowFast, inside {name}": slowfast(name) for name in ("MoCo", "BYOL", "SwAV", "SimCLR")},
        "a classifier of SlowFast": lambda own, other: {"model_state": own | under("head.projection.", HEAD)}}),
    "slow_r50 of pytorchvideo": ("slow_r50", slow(foreign.pytorchvideo_name), SLOWFAST, {
        "a classifier of pytorchvideo": lambda own, other: {"model_state": own | under("blocks.5.proj.", HEAD)},
        "a backbone of pytorchvideo": lambda own, other: under("model.", own),
        "a backbone of pytorchvideo, inside MoCo": lambda own, other: {"state_dict": {
            **under("model.backbone.", own), **under("model.backbone.blocks.5.proj.", HEAD),
            **under("model.backbone_mmt.", other), **under("model.projector.0.", HEAD)}, "hyper_parameters": {}}}),
    "slow_r50 of mmaction2": ("slow_r50", slow(foreign.mmaction2_name), IMAGENET, {
        "a classifier of mmaction2": lambda own, other: {
            "meta": {"epoch": 150}, "state_dict": under("backbone.", own) | under("cls_head.fc_cls.", HEAD)}}),
    "s3dg of RSPNet": ("s3dg_rspnet", foreign.RSPNetS3DG, IMAGENET, {
        "a backbone of RSPNet, inside MoCo": rspnet("s3dg"),
        "a classifier of RSPNet": lambda own, other: {"arch": "s3dg", "model": own | under("fc.", HEAD)}}),
    **{f"{net} of CoCLR": (net, partial(foreign.CoCLRS3D, gating=net == "s3dg"), IMAGENET, {
        "a backbone of CoCLR, inside MoCo": lambda own, other: {
            "epoch": 399, "best_acc": torch.tensor(0.5), "optimizer": {"state": {}}, "state_dict": under("module.", {
                **under("encoder_q.0.", own), **under("encoder_q.2.", HEAD), **under("encoder_k.0.", other),
                "queue": torch.zeros(4, 8), "queue_ptr": torch.zeros(1)})}}) for net in ("s3d", "s3dg")},
}
FILES = [pytest.param(name, said, marks=[pytest.mark.slow] * (number > 0), id=f"{name}, {said}")
         for name, entry in FOREIGN.items() for number, said in enumerate(entry[3])]


@pytest.mark.parametrize("name, said", FILES)
def test_foreign_weights_compute_what_they_do_there(name, said, program):
    """The same maps of clips of two sizes, each network getting them as it expects them."""
    net, build, (mean, std), files = FOREIGN[name]
    theirs = with_weights(build(WIDTH))
    torch.save(files[said](theirs.state_dict(), with_weights(build(WIDTH), 1).state_dict()), "x.pth")
    code, out, error = program("models.weights", "inspect", "x.pth")
    total = len(build_backbone(net, WIDTH).state_dict())
    assert code == 0 and out.startswith(f"x.pth: {said}; network {net} x {WIDTH:g}\n"), (out, error)
    assert [line.split()[0] for line in out.splitlines() if " fits " in line] == [net]
    assert f"{total} of {total} matched, 0 missing, 0 unexpected" in out
    backbone = build_backbone(net, WIDTH).eval()
    load_backbone(backbone, read_checkpoint("x.pth"), "x.pth")
    for size in ((2, 3, 8, 48, 48), (1, 3, 16, 64, 32)):
        pixels = torch.rand(size, generator=torch.Generator().manual_seed(size[0]))
        ours, expected = ((pixels - torch.tensor(m).view(3, 1, 1, 1)) / torch.tensor(s).view(3, 1, 1, 1)
                          for m, s in ((MEAN, STD), (mean, std)))
        with torch.no_grad():
            found, right = backbone(ours), theirs(expected)
        assert found.shape == right.shape and right.std() > 0
        assert (found - right).abs().max() <= 1e-5 * right.abs().max()


def test_a_newcomer_s_family_of_names_is_called_by_its_name(program, monkeypatch):
    class Known(Tiny):
        rules = {"somebody": [(r"^first\.", "a."), (r"^second\.", "b.")]}

    monkeypatch.setitem(BACKBONES.data, "known", Known)
    state = Known(WIDTH).state_dict()
    torch.save({name.replace("first.", "a.").replace("second.", "b."): value for name, value in state.items()}, "x.pth")
    code, out, error = program("models.weights", "convert", "x.pth", "out.tar")
    assert code == 0 and "x.pth: a backbone of somebody\nknown x 0.0625 from somebody's names: " in out, (out, error)


# --- networks that only look the same ------------------------------------------------------------------------

SLOW = with_weights(slow(foreign.slowfast_name)(WIDTH)).state_dict()
PYTORCHVIDEO = with_weights(slow(foreign.pytorchvideo_name)(WIDTH)).state_dict()
MMACTION2 = under("backbone.", with_weights(slow(foreign.mmaction2_name)(WIDTH)).state_dict())
AVA = {"head.projection.weight": torch.zeros(80, 64), "head.projection.bias": torch.zeros(80)}


def test_slowfast_s_detectors_compute_something_else():
    """The same names and shapes, and weights that fit both: what the refusals below are for."""
    one, other = (with_weights(foreign.SlowR50(foreign.slowfast_name, WIDTH, detector)) for detector in (False, True))
    assert equal(one.state_dict(), other.state_dict())
    clips = torch.rand(1, 3, 4, 64, 64)
    assert one(clips).shape != other(clips).shape


@pytest.mark.parametrize("content, said", [
    ({"model_state": SLOW, "cfg": CFG.replace("- - 1\n  SPATIAL_STRIDES", "- - 2\n  SPATIAL_STRIDES")},
     "its RESNET.SPATIAL_DILATIONS is 1 1 1 2, not 1 1 1 1"),
    ({"model_state": SLOW, "cfg": CFG.replace("[2]]", "[1]]")}, "its RESNET.SPATIAL_STRIDES is 1 2 2 1, not 1 2 2 2"),
    ({"model_state": SLOW, "cfg": CFG.replace("1X1: false", "1X1: true")}, "its RESNET.STRIDE_1X1 is true, not false"),
    ({"model_state": SLOW, "cfg": f"{CFG}AVA:\n  BGR: true\n"}, "its AVA.BGR is true, not false"),
    ({"model_state": SLOW | AVA}, "its head has the 80 classes of AVA"),
    ({"model_state": under("model.", PYTORCHVIDEO) | under("detection_head.proj.", HEAD)}, "a detector, whose last"),
    ({"state_dict": MMACTION2 | under("roi_head.bbox_head.fc_cls.", HEAD)}, "a detector, whose last stage has no"),
    ({"state_dict": MMACTION2, "meta": {"cfg": "dict(spatial_strides=(1, 2, 2, 1))"}}, "a detector, whose last stage"),
    ({"state_dict": MMACTION2, "meta": {"cfg": "img_norm_cfg = dict(to_bgr=True)"}}, "in the order blue, green, red"),
])
def test_another_network_of_the_same_names_is_refused(content, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(content, "x.pth")
    backbone = build_backbone("slow_r50", WIDTH)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    with pytest.raises(CheckpointError, match=f"is of another network whose tensors have the same names: .*{said}"):
        load_backbone(backbone, read_checkpoint("x.pth"), "x.pth")
    assert equal(backbone.state_dict(), before)


def test_another_network_is_told_and_never_converted(program):
    torch.save({"model_state": SLOW | AVA}, "x.pth")
    code, out, _ = program("models.weights", "inspect", "x.pth")
    assert code == 0 and not [line for line in out.splitlines() if " fits " in line and " matched, " in line]
    assert "    not it       its head has the 80 classes of AVA, whose detectors dilate the last stage; " in out
    for flags in ([], ["--allow_partial"]):
        code, _, error = program("models.weights", "convert", "x.pth", "out.tar", "--net", "slow_r50", *flags)
        assert code == 1 and "its head has the 80 classes of AVA" in error and not Path("out.tar").exists()


def test_tclr_s_r3d_18_is_refused():
    """Its last stage keeps all frames (Dave et al. 2022): torchvision's names, and another network."""
    state, head = under("module.0.", weights("r3d_18")), under("module.1.", foreign.tclr_head().state_dict())
    backbone = build_backbone("r3d_18", WIDTH)
    with pytest.raises(CheckpointError, match="TCLR's, whose last stage is dilated in time where torchvision's has a"):
        load_backbone(backbone, {"state_dict": state | head}, "x")
    load_backbone(backbone, {"state_dict": state}, "x")


@pytest.mark.slow
def test_tclr_s_r3d_18_computes_something_else():
    theirs = foreign.tclr_r3d_18()
    assert theirs.state_dict().keys() == {name for name in r3d_18(weights=None).state_dict() if name[:2] != "fc"}
    assert theirs(torch.rand(1, 3, 16, 16, 16)).shape == (1, 512 * 4)  # and not of two frames


@pytest.mark.parametrize("value", [None, torch.zeros(3), "x", {}])
def test_a_config_that_names_nonsense_is_of_no_moment(value, program):
    torch.save({"state_dict": STATE, "config": {"net": value}, "arch": value, "cfg": value, "meta": value}, "x.pth")
    code, out, error = program("models.weights", "inspect", "x.pth")
    assert code == 0 and out.startswith("x.pth: a backbone of ours; network r3d"), error


# --- clips ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("content, clips", [
    ({"model_state": SLOW}, Protocol(8, 8, 224, None, *SLOWFAST)),
    ({"model_state": SLOW, "cfg": CFG}, Protocol(16, 4, 112, None, (0.4, 0.45, 0.5), (0.225, 0.225, 0.25))),
    ({"state_dict": MMACTION2}, Protocol(8, 8, 224)),
    ({"state_dict": MMACTION2, "meta": {"cfg": "[dict(clip_len=4, frame_interval=16), dict(clip_len=4)]"}},
     Protocol(4, 16, 224)),
    ({"state_dict": MMACTION2, "meta": {"cfg": "[dict(clip_len=4, frame_interval=16), dict(clip_len=8)]"}},
     Protocol(8, 16, 224)),
    ({"state_dict": weights("slow_r50")}, Protocol(8, 8, 224, None, *SLOWFAST)),
    ({"state_dict": SLOW, "config": {"net": "slow_r50", "width": WIDTH, "protocol": Protocol(3).values()}},
     Protocol(3)),
    ({"state_dict": weights("slow_r50"), "config": {"net": "slow", "protocol": "split1"}},
     Protocol(8, 8, 224, None, *SLOWFAST)),
])
def test_clips_are_those_that_the_file_states(content, clips, program):
    """Or, where it states none, those of its owners' configurations."""
    torch.save(content, "x.pth")
    backbone = build_backbone("slow_r50", WIDTH)
    load_backbone(backbone, read_checkpoint("x.pth"), "x.pth")
    assert backbone.protocol == clips
    code, out, error = program("models.weights", "convert", "x.pth", "out.tar", "--net", "slow_r50")
    assert code == 0 and f"    clips        {clips}\n" in out, error
    again = build_backbone("slow_r50", WIDTH)
    load_backbone(again, read_checkpoint("out.tar"), "out.tar")
    assert again.protocol == clips and equal(again.state_dict(), backbone.state_dict())


@pytest.mark.parametrize("change", [("NUM_FRAMES: 16", "NUM_FRAMES: many"), ("- 0.4\n", "- .nan\n"), ("- 0.4\n", ""),
                                    ("0.25]", "0]"), ("TRAIN_CROP_SIZE: 112", "TRAIN_CROP_SIZE: -1")])
def test_clips_that_make_no_sense_are_refused(change, program):
    content = {"state_dict": SLOW, "config": {}, "cfg": CFG.replace(*change)}
    with pytest.raises(CheckpointError, match="x.pth: its clip protocol makes no sense"):
        load_backbone(build_backbone("slow_r50", WIDTH), content, "x.pth")
    if change[0] == "- 0.4\n":
        torch.save(content, "x.pth")
        code, out, _ = program("models.weights", "inspect", "x.pth")
        assert code == 0 and "its clip protocol makes no sense" in out


def test_names_that_many_use_tell_nothing_of_clips():
    """torchvision's, under a prefix: our loader's normalisation is kept."""
    backbone = build_backbone("r3d_18", WIDTH)
    published = backbone.protocol
    assert published.converts
    for prefix, converts in (("", True), ("encoder_q.", False)):
        load_backbone(backbone, {"state_dict": under(prefix, weights("r3d_18"))}, "x")
        assert backbone.protocol.converts == converts and backbone.protocol.seq_len == published.seq_len


def test_the_network_and_width_of_a_bare_file_are_found(program):
    torch.save(under("student.backbone.", weights("r21d")) | under("teacher.backbone.", weights("r21d", "b")), "x.pth")
    code, out, error = program("retrieval.py", *SMALL, "--width", WIDTH, "--pretrain", "x.pth", "--name", "x")
    assert code == 0 and "note: --net r21d, which has the names and shapes in x.pth\n" in out, error
    assert "note: x.pth holds a backbone of ours (names under student.backbone.); left aside: teacher. 144\n" in out
    opened = open_weights("x.pth", None, None)
    assert (opened.net, opened.width) == ("r21d", WIDTH)
    assert opened.backbone(16, 32).stem.temporal.weight.equal(weights("r21d")["stem.temporal.weight"])
    torch.save({"w": torch.zeros(3)}, "y.pth")
    code, _, error = program("retrieval.py", *SMALL, "--pretrain", "y.pth")
    assert code == 2 and "--net: checkpoint y.pth does not show which network it is of: name it" in error


def test_two_equal_networks_in_a_file_are_told_and_one_is_chosen(program):
    torch.save(under("rgb.", STATE) | under("flow.", OTHER), "x.pth")
    code, out, _ = program("models.weights", "inspect", "x.pth")
    assert code == 0 and re.search(r"r3d +x 0.0625 does not fit", out)
    assert re.search(r"several +such networks under (rgb|flow)\.\*, (rgb|flow)\.\*: choose one with --prefix", out)
    for prefix, chosen in (("rgb", STATE), ("flow.", OTHER)):
        code, _, error = program("models.weights", "convert", "x.pth", f"{prefix}.tar", "--prefix", prefix)
        assert code == 0 and equal(torch.load(f"{prefix}.tar", weights_only=True)["state_dict"], chosen), error
    code, _, error = program("retrieval.py", *SMALL, "--width", WIDTH, "--pretrain", "x.pth")
    assert code == 1 and "holds more than one such network (" in error
    # the same where one has no counters, and is of another width
    narrow = {name: value for name, value in weights("r3d", width=0.125).items() if not name.endswith(COUNTER)}
    torch.save(under("rgb.", STATE) | under("flow.", narrow), "x.pth")
    code, _, error = program("retrieval.py", *SMALL, "--pretrain", "x.pth")
    assert code == 1 and "holds more than one such network (rgb.*, flow.*)" in error
    code, _, error = program("models.weights", "convert", "x.pth", "narrow.tar", "--prefix", "flow")
    assert code == 0 and torch.load("narrow.tar", weights_only=True)["config"]["width"] == 0.125, error


@pytest.mark.parametrize("trained, other, net, prefix", [
    ("student.", "teacher.", "r3d_18", "student."), ("encoder_q.", "encoder_k.", "r3d_18", "encoder_q."),
    ("rgb.", "flow.", None, None)])
def test_of_two_networks_in_a_file_the_larger_is_not_taken_for_the_trained_one(trained, other, net, prefix, program):
    small, large = weights("r3d_18"), weights("r2plus1d_18")
    torch.save(under(trained, small) | under(other, large), "x.pth")
    if net is None:
        said = r"holds several networks, r2plus1d_18 under flow.\*, r3d_18 under rgb.\*: name it"
        with pytest.raises(UsageError, match=said):
            open_weights("x.pth", None, None)
        assert "several      networks, r2plus1d_18" in program("models.weights", "inspect", "x.pth")[1]
    else:
        opened = open_weights("x.pth", None, None)
        assert (opened.net, opened.width) == (net, WIDTH)
        assert equal(opened.backbone(8, 32).state_dict(), small)
    assert open_weights("x.pth", "r2plus1d_18", None).net == "r2plus1d_18"


def test_weights_that_diverged_are_of_their_network(tmp_path):
    torch.save({name: value * torch.nan if value.is_floating_point() else value for name, value in STATE.items()},
               tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="not finite"):
        open_weights(str(tmp_path / "x.pth"), None, None).backbone(8, 32)


@pytest.mark.parametrize("beside, config, project", [
    ({}, {}, "torchvision"), ({"fc.weight": torch.zeros(400, 32)}, {}, "torchvision"),
    ({"fc.weight": torch.zeros(7, 32)}, {}, None), ({"fc.1.weight": torch.zeros(7, 32)}, {}, None),
    ({}, {"net": "resnet18", "lr": 0.1}, "torchvision"),
    ({}, {"net": "r3d"}, "torchvision"), ({}, {"net": "r3d_18", "width": WIDTH}, "ours")])
def test_whose_weights_in_torchvision_s_names_are(beside, config, project):
    checkpoint = {"state_dict": weights("r3d_18") | beside, "config": config}
    result = comparisons(checkpoint, ["r3d_18"])["r3d_18"][1]
    assert result.fits and project_of(checkpoint, result) == project


def test_a_network_that_torchvision_has_not_is_not_its_own():
    theirs = {foreign_name: value for name, value in STATE.items()
              for foreign_name in BACKBONES["r3d"].foreign_names(name)["torchvision"]}
    result = comparisons({"state_dict": theirs, "config": {}}, ["r3d"])["r3d"][1]
    assert result.fits and project_of({"state_dict": theirs, "config": {}}, result) is None


@pytest.mark.parametrize("net, project", [("r21d", "the release"), ("r3d", "the release"), ("s3d", "CoCLR")])
def test_the_release_s_moco_without_segments_is_not_coclr_s(net, project):
    state = {foreign_name: value for name, value in weights(net).items()
             for foreign_name in BACKBONES[net].foreign_names(name)["release"]}
    checkpoint = {"state_dict": under("encoder_q.0.", state) | under("encoder_k.0.", state) | {
        "queue": torch.zeros(8, 4)}, "config": {}}
    result = comparisons(checkpoint, [net])[net][1]
    assert result.fits and project_of(checkpoint, result) == project
    assert kind(checkpoint, result) == ("a backbone of CoCLR, inside MoCo" if net == "s3d" else
                                        "a backbone of the release, inside MoCo")


@pytest.mark.parametrize("said", [["torchvision"], {}, 7, torch.zeros(2), "nobody"], ids=str)
def test_an_origin_that_makes_no_sense_is_none(said, tmp_path):
    torch.save({"state_dict": under("encoder_q.", weights("r3d_18")), "origin": said}, tmp_path / "x.pth")
    assert open_weights(str(tmp_path / "x.pth"), "r3d_18", WIDTH).of_nobody_known


def test_where_nobody_says_on_which_clips_they_were_trained_a_note_says_what_is_taken(tmp_path, capsys):
    path = tmp_path / "x.pth"
    for prefix, unknown in (("encoder_q.", True), ("", False)):
        torch.save({"state_dict": under(prefix, weights("r3d_18"))}, path)
        opened = open_weights(str(path), "r3d_18", WIDTH)
        take_clips(argparse.Namespace(seq_len=8, ds=1, fps=None, img_dim=56, resize=(64, 86)), [opened], 4)
        said = capsys.readouterr().out
        assert (f"nothing in {path} tells on which clips it was trained: taken to be 16 frames" in said) == unknown
        assert ("x.pth was trained on clips of" in said) != unknown


@pytest.mark.parametrize("state, mean", [(SLOW, SLOWFAST[0]), (MMACTION2, IMAGENET[0])])
@pytest.mark.slow
def test_stages_say_whose_clips_they_take_and_keep_it(state, mean, program):
    torch.save({"state_dict": state}, "x.pth")
    code, out, error = program("finetune.py", *SMALL, "--batch_size", "4", "--epochs", "1", "--name", "x",
                               "--net", "slow_r50", "--width", WIDTH, "--pretrain", "x.pth")
    assert code == 0 and "x.pth was trained on clips of --seq_len 8 --ds 8 --img_dim 224\n" in out, error
    normalised = f"; clips are normalised as it expects, mean {' '.join(map(str, mean))}, std "
    assert (normalised in out) == (tuple(mean) != MEAN)
    backbone = build_backbone("slow_r50", WIDTH)
    load_backbone(backbone, read_checkpoint("log/dualvar/ft/x/model/latest.pth.tar"), "x")
    assert backbone.protocol.mean == mean and backbone.protocol.seq_len == 4  # what it was trained on since
    code, out, error = program("test.py", *SMALL, "--clips", "1", "--crops", "1", "--checkpoint",
                               "log/dualvar/ft/x/model/latest.pth.tar", "--name", "x")
    assert code == 0, error

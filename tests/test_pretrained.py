"""Weights under others' names: found, renamed, reported and converted."""
import json
import os
import random
from pathlib import Path

import pytest
import torch
from golden.formula import noise, released_state_dict
from helpers import OWN, SMALL
from torchvision.models.video import r2plus1d_18, r3d_18
from torchvision.models.video.resnet import BasicBlock, BasicStem, Conv3DSimple, VideoResNet

from core.errors import CheckpointError
from models import build_backbone, build_classifier, build_pretrainer, load_released
from models.backbones import BACKBONES
from models.weights.checkpoint import read_checkpoint
from models.weights.identify import guess_width, initial, template
from models.weights.loading import load_backbone
from models.weights.match import load_strict
from models.weights.origins import CLIPS

WIDTH = 0.0625
KEYS = json.loads((Path(__file__).parent / "golden" / "released_keys.json").read_text())


def weights(net, tag="a", width=WIDTH):
    """A backbone's tensors, every one of its own values."""
    return {name: torch.tensor(len(tag + name)) if value.ndim == 0 else 1 + 0.5 * noise(value.shape, f"{tag}/{name}")
            for name, value in build_backbone(net, width).state_dict().items()}


def under(prefix, tensors):
    return {prefix + name: value for name, value in tensors.items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def released(net, name):
    """The release's names of one of our tensors, written out module by module."""
    *parts, leaf = name.split(".")
    if net == "c3d":
        return [".".join([*parts[1:], leaf])]
    if net.startswith("r"):
        convolution = leaf == "weight" and parts[-1] in ("stem", "conv1", "conv2", "shortcut")
        words = {"stem": "conv1", "stem_bn": "bn1", "shortcut": "downsampleconv", "shortcut_bn": "downsamplebn",
                 "spatial": "spatial_conv", "temporal": "temporal_conv",
                 **{f"stage{i}": f"conv{i}.block1" for i in (2, 3, 4, 5)}}
        return [".".join([*(words.get(part, part) for part in parts), *["temporal_spatial_conv"] * convolution, leaf])]
    words = {"spatial": "conv1", "spatial_bn": "bn1", "temporal": "conv2", "temporal_bn": "bn2"}
    if parts[0].startswith("mixed"):
        group, block = int(parts[0][-1]), int(parts[1])
        first, second = f"Mixed_{group}{'bcdef'[block]}", f"block{group}.{block + 1}"
        branch = {"branches": "branch", "gates": "gating_b"}[parts[2]] + parts[3]
        rest = [branch] + (["0"] if branch == "branch0" else []) + [words.get(part, part) for part in parts[4:]]
    else:
        first, second = {"stem": ("Conv_1a", "block1.0"), "conv2b": ("Conv_2b", "block2.1"),
                         "conv2c": ("Conv_2c", "block2.2")}[parts[0]]
        rest = [words.get(part, part) for part in parts[1:]]
    return [".".join([start, *rest, leaf]) for start in (first, second)]


def in_release_names(net, tensors):
    return {new: value for name, value in tensors.items() for new in released(net, name)}


@pytest.mark.parametrize("net", OWN)
def test_the_names_here_are_the_release_s(net):
    """What the tests below rename by is right: it gives exactly the names that the authors' networks have."""
    assert in_release_names(net, weights(net)).keys() == KEYS[f"backbone/{net}"]["keys"].keys()


HEAD = {"weight": torch.zeros(3, 4), "bias": torch.zeros(3)}


def files(net, own, other):
    """{kind: state dict} with backbone `own` under the names of many kinds of file, `other` being a key encoder."""
    theirs, keys = in_release_names(net, own), in_release_names(net, other)
    moco = build_pretrainer("moco", net, queue_size=8, width=WIDTH)
    moco.encoder.backbone.load_state_dict(own)
    classifier = build_classifier(net, 3, WIDTH)
    classifier.backbone.load_state_dict(own)
    heads = under("encoder_q.2.", HEAD) | under("encoder_q.4.", HEAD)
    infonce = under("encoder_q.0.", theirs) | under("encoder_k.0.", keys) | heads | {"queue": torch.zeros(4, 8),
                                                                                   "queue_ptr": torch.zeros(1)}
    return {
        "ours": own, "a pretrainer of ours, MoCo": moco.state_dict(), "a classifier of ours": classifier.state_dict(),
        "release": theirs, "a pretrainer of the release, SimCLR":
            under("encoder_q.0.", theirs) | heads | under("series_proj_head.0.", HEAD),
        "a pretrainer of the release, MoCo": infonce | under("series_proj_head_q.0.", HEAD),
        "a classifier of the release": under("backbone.", theirs) | under("final_fc.0.", HEAD),
        "CoCLR InfoNCE": infonce,
        "a pretrainer of CoCLR": infonce | under("sampler.0.", keys) | {"queue_second": torch.zeros(4, 8)},
        "MoCo, ours": under("encoder_k.", other) | under("encoder_q.", own) | under("encoder_q.fc.", HEAD),
        "encoder": under("encoder.", own) | under("projector.0.", HEAD),
        "lightning": under("model.backbone.", theirs) | under("model.head.", HEAD),
        "key encoder alone": under("encoder_k.0.", theirs),
    }


@pytest.mark.parametrize("net", OWN)
@pytest.mark.slow
def test_every_kind_of_file_is_converted(net, program, tmp_path):
    """Under any names, in any order, wrapped or not: the query encoder's tensors come out, and go into a backbone."""
    own, other, backbone = weights(net), weights(net, "other"), build_backbone(net, WIDTH)
    for number, (kind, state) in enumerate(files(net, own, other).items()):
        state = under("module." * (number % 3), state)
        state = {name: state[name] for name in random.Random(number).sample(list(state), len(state))}
        backbone.load_state_dict(other)
        load_backbone(backbone, {"state_dict": state}, "x")
        assert equal(backbone.state_dict(), own), kind
        if kind not in ("a pretrainer of CoCLR", "a pretrainer of the release, SimCLR", "key encoder alone"):
            continue
        torch.save({"state_dict": state, "epoch": 3}, "in.pth.tar")
        code, out, error = program("models.weights", "convert", "in.pth.tar", "out.pth.tar", "--net", net,
                                "--width", WIDTH, "--force")
        assert code == 0, (kind, error)
        assert f"{len(own)} of {len(own)} matched, 0 missing, 0 unexpected, 0 misshapen" in out
        if kind.startswith("a "):
            assert f"in.pth.tar: {kind}" in out
        saved = torch.load("out.pth.tar", weights_only=True)
        clips = {"protocol": CLIPS["CoCLR"].values()} if kind == "a pretrainer of CoCLR" else {}
        assert equal(saved["state_dict"], own) and saved["config"] == {"net": net, "width": WIDTH, **clips}, kind
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.pth.tar", "out.pth.tar"]


@pytest.mark.parametrize("net", OWN)
@pytest.mark.slow
def test_network_and_width_are_told_from_the_file(net, program):
    for width in (0.0625, 0.11, 0.35):
        state = weights(net, width=width)
        for file in (state, in_release_names(net, state)):
            found = template(net, guess_width(file, net)).state_dict()
            assert {name: value.shape for name, value in found.items()} == {
                name: value.shape for name, value in state.items()}
    torch.save({"state_dict": under("encoder_q.0.", in_release_names(net, weights(net)))}, "in.pth.tar")
    code, _, error = program("models.weights", "convert", "in.pth.tar", "out.pth.tar")
    assert code == 0, error
    assert torch.load("out.pth.tar", weights_only=True)["config"] == {"net": net, "width": WIDTH}


@pytest.mark.parametrize("script,flags", [("retrieval.py", []), ("finetune.py", ["--batch_size", "4"])])
def test_a_converted_file_goes_into_every_stage(script, flags, program):
    torch.save(under("module.encoder_q.0.", in_release_names("r21d", weights("r21d"))), "in.pth")
    code, _, error = program("models.weights", "convert", "in.pth", "new/out.pth.tar")
    assert code == 0, error
    for file in ("new/out.pth.tar", "in.pth"):
        net = ["--net", "r21d", "--width", WIDTH] if file == "in.pth" else []
        code, out, error = program(script, *SMALL, *flags, *net, "--pretrain", file, "--dry_run")
        assert code == 0 and file in out, error


# --- torchvision ---------------------------------------------------------------------------------------------

def randomised(model):
    """A network in evaluation mode whose batch norms do something."""
    for name, value in model.state_dict().items():
        if value.ndim == 1:
            value.copy_(1 + 0.3 * noise(value.shape, name))
    return model.eval()


def features_agree(backbone, theirs):
    """Whether a backbone of ours computes what torchvision's network does before its linear layer."""
    theirs.fc = torch.nn.Identity()
    clips = noise((2, 3, 8, 48, 48), "clips")
    with torch.no_grad():
        return torch.allclose(backbone.eval()(clips).mean(dim=(2, 3, 4)), theirs(backbone.converted(clips)), rtol=1e-4,
                              atol=1e-5)


def test_torchvision_names_with_one_block_a_stage(program):
    """torchvision's network of R3D's depth is ours under other names: the same numbers come out."""
    model = randomised(VideoResNet(BasicBlock, [Conv3DSimple] * 4, [1, 1, 1, 1], BasicStem))
    torch.save(under("encoder_q.", model.state_dict()), "in.pth")
    code, out, error = program("models.weights", "convert", "in.pth", "out.pth.tar")
    assert code == 0 and "a backbone in torchvision's names, inside MoCo" in out, error
    backbone = build_backbone("r3d")
    load_backbone(backbone, read_checkpoint("out.pth.tar"), "out.pth.tar")
    assert features_agree(backbone, model)


@pytest.mark.slow
def test_torchvision_r3d_18_is_deeper(program):
    """Its second blocks have no place here, which is an error unless it is wanted; the rest is ours."""
    model = randomised(r3d_18(weights=None))
    torch.save(model.state_dict(), "r3d_18.pth")
    code, out, error = program("models.weights", "convert", "r3d_18.pth", "out.pth.tar", "--net", "r3d")
    assert code == 1 and "48 unexpected (layer1.1.conv1.0.weight, " in error and not Path("out.pth.tar").exists()
    assert "72 of 72 matched, 0 missing, 48 unexpected, 0 misshapen, 2 left aside" in out
    with pytest.raises(CheckpointError, match="48 unexpected .*python -m models.weights inspect r3d_18.pth"):
        load_backbone(build_backbone("r3d"), read_checkpoint("r3d_18.pth"), "r3d_18.pth")
    code, out, error = program("models.weights", "convert", "r3d_18.pth", "out.pth.tar", "--net", "r3d",
                               "--allow_partial")
    assert code == 0 and "48 tensors of r3d_18.pth have no place and are dropped" in out, error
    config = torch.load("out.pth.tar", weights_only=True)["config"]
    assert "partial" not in config
    assert set(config["unused"]) == {name for name in model.state_dict() if name.startswith("layer") and name[7] == "1"}
    backbone = build_backbone("r3d")
    load_backbone(backbone, read_checkpoint("out.pth.tar"), "out.pth.tar")
    for i in (1, 2, 3, 4):
        getattr(model, f"layer{i}")[1] = torch.nn.Identity()
    assert features_agree(backbone, model)


@pytest.mark.slow
def test_torchvision_r2plus1d_18_fits_in_part(program):
    """Its stem, shortcuts and some middle widths are others; what is taken in part says so for good."""
    theirs = randomised(r2plus1d_18(weights=None)).state_dict()
    torch.save(theirs, "in.pth")
    code, out, error = program("models.weights", "convert", "in.pth", "out.pth.tar", "--net", "r21d")
    assert code == 1 and "21 missing (stage3.shortcut.spatial.weight, " in error
    assert "24 misshapen (stem.spatial.weight (45, 3, 1, 7, 7) for (83, 3, 1, 7, 7), " in error
    assert "    missing      stage5.shortcut.temporal.weight\n" in out
    assert "    unexpected   layer2.0.downsample.0.weight\n" in out
    torch.manual_seed(5)
    code, out, error = program("models.weights", "convert", "in.pth", "out.pth.tar", "--net", "r21d", "--allow_partial")
    assert code == 0 and "45 tensors are as initialised with seed 0, untrained: stage3.shortcut.spatial.w" in out, error
    saved = torch.load("out.pth.tar", weights_only=True)
    partial, start = saved["config"]["partial"], initial("r21d", 1.0).state_dict()
    assert len(partial) == 45 and all(name in out for name in partial)
    for name, value in saved["state_dict"].items():
        assert name not in partial or torch.equal(value, start[name]), name
    for name, other in (("stem.temporal.weight", None), ("stem_bn.running_var", "stem.4.running_var"),
                        ("stage2.conv1.spatial.weight", "layer1.0.conv1.0.0.weight"),
                        ("stage4.conv1.bn.bias", "layer3.0.conv1.0.1.bias"),
                        ("stage5.conv1.temporal.weight", "layer4.0.conv1.0.3.weight"),
                        ("stage5.bn2.weight", "layer4.0.conv2.1.weight"),
                        ("stage3.shortcut_bn.running_mean", "layer2.0.downsample.1.running_mean")):
        assert name in partial if other is None else torch.equal(saved["state_dict"][name], theirs[other]), name
    code, out, _ = program("models.weights", "inspect", "out.pth.tar")
    assert code == 0 and "a backbone of torchvision, partly untrained" in out and partial[0] in out
    code, _, _ = program("models.weights", "convert", "out.pth.tar", "again.pth.tar")
    again = torch.load("again.pth.tar", weights_only=True)["config"]
    assert code == 0 and again["partial"] == partial and again["unused"] == saved["config"]["unused"]
    code, _, error = program("retrieval.py", *SMALL, "--pretrain", "out.pth.tar", "--dry_run")
    assert code == 0, error


# --- what does not fit ---------------------------------------------------------------------------------------

def refused(program, state, *flags):
    """The sentence with which a state dict is not converted; nothing is written."""
    torch.save({"state_dict": state, "config": {"net": "r3d", "width": WIDTH}}, "in.pth.tar")
    code, out, error = program("models.weights", "convert", "in.pth.tar", "out.pth.tar", *flags)
    assert code == 1 and error.startswith("error: ") and error.count("\n") == 1, error
    assert [path.name for path in Path().iterdir()] == ["in.pth.tar"]
    return out, error


@pytest.mark.filterwarnings("ignore:Validating sparse")
def test_what_does_not_fit_is_named(program):
    state = in_release_names("r3d", weights("r3d"))
    del state["conv3.block1.bn1.bias"], state["conv5.block1.bn2.weight"]
    state["conv4.block1.conv1.temporal_spatial_conv.weight"] = torch.zeros(16, 3)
    state["conv2.block2.bn1.weight"] = torch.ones(4)
    state["bn1.bias"] = 3
    state["bn1.weight"] = torch.ones(4, dtype=torch.int64)
    state["bn1.running_mean"] = torch.zeros(4).to_sparse()
    state = under("encoder_q.0.", state) | under("encoder_q.2.", HEAD)
    out, error = refused(program, state)
    assert "checkpoint in.pth.tar does not fit the model" in error and "of 72 tensors; nothing is written" in error
    assert "2 missing (stage3.bn1.bias, stage5.bn2.weight)" in error
    assert "1 unexpected (encoder_q.0.conv2.block2.bn1.weight)" in error
    assert "4 misshapen (stem_bn.weight torch.int64 for torch.float32, stem_bn.bias a int, " in error
    for line in ("missing      stage3.bn1.bias", "misshapen    stage4.conv1.weight (16, 3) for (16, 8, 3, 3, 3)",
                 "misshapen    stem_bn.running_mean a sparse, quantised or empty tensor",
                 "left aside   encoder_q.2.weight", "matched      encoder_q.0.bn1.running_var -> stem_bn.running_var"):
        assert f"    {line}\n" in out
    assert "65 of 72 matched, 2 missing, 1 unexpected, 4 misshapen, 2 left aside" not in out
    assert "66 of 72 matched, 2 missing, 1 unexpected, 4 misshapen, 2 left aside" in out
    backbone = build_backbone("r3d", WIDTH)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"2 missing \(.*1 unexpected \(.*4 misshapen \(.*inspect x shows"):
        load_backbone(backbone, {"state_dict": state}, "x")
    assert equal(before, backbone.state_dict())
    # in part it is taken
    code, _, _ = program("models.weights", "convert", "in.pth.tar", "out.pth.tar", "--allow_partial")
    saved = torch.load("out.pth.tar", weights_only=True)
    assert code == 0 and set(saved["config"]["partial"]) == {
        "stage3.bn1.bias", "stage5.bn2.weight", "stem_bn.weight", "stem_bn.bias", "stem_bn.running_mean",
        "stage4.conv1.weight"}
    assert saved["config"]["unused"] == ["encoder_q.0.conv2.block2.bn1.weight"]
    assert torch.equal(saved["state_dict"]["stage4.bn1.weight"], weights("r3d")["stage4.bn1.weight"])


@pytest.mark.parametrize("flags", [[], ["--allow_partial"]])
def test_broken_values_are_never_taken(flags, program):
    state = weights("r3d")
    state["stage2.bn1.bias"][1] = float("nan")
    assert "1 not finite (stage2.bn1.bias)" in refused(program, state, *flags)[1]
    state = weights("r3d")
    state["stem.weight"] = state["stem.weight"].double() * 1e200  # finite, but not in float32
    assert "1 not finite (stem.weight)" in refused(program, state, *flags)[1]
    state = weights("r3d")
    state["stage3.bn2.running_var"][0] = -0.1
    assert "1 negative (stage3.bn2.running_var)" in refused(program, state, *flags)[1]
    with pytest.raises(CheckpointError, match="1 negative .stage3.bn2.running_var"):
        load_strict(build_backbone("r3d", WIDTH), state)
    assert "72 missing" in refused(program, {"something": torch.zeros(3)}, *flags)[1]


@pytest.mark.parametrize("flags", [[], ["--allow_partial"]])
def test_twins_that_differ_are_refused(flags, program):
    state = in_release_names("s3d", weights("s3d"))
    state["block3.2.branch1.1.bn2.bias"] = state["block3.2.branch1.1.bn2.bias"] + 1
    torch.save(state, "in.pth")
    code, _, error = program("models.weights", "convert", "in.pth", "out.pth", "--net", "s3d", *flags)
    assert code == 1 and not Path("out.pth").exists()
    assert "1 contradictory (Mixed_3c.branch1.1.bn2.bias / block3.2.branch1.1.bn2.bias)" in error
    with pytest.raises(CheckpointError, match="contradictory"):
        load_released(build_backbone("s3d", WIDTH), state)


@pytest.mark.parametrize("flags", [[], ["--allow_partial"]])
def test_two_networks_in_a_file_are_not_chosen_between(flags, program):
    rgb, flow = weights("r3d", "rgb"), weights("r3d", "flow")
    _, error = refused(program, under("rgb.", rgb) | under("flow.", flow), *flags)
    assert "more than one such network (rgb.*, flow.*)" in error and "--prefix" in error
    with pytest.raises(CheckpointError, match="more than one"):
        load_backbone(build_backbone("r3d", WIDTH), read_checkpoint("in.pth.tar"), "x")
    code, _, error = program("models.weights", "convert", "in.pth.tar", "out.pth.tar", "--prefix", "flow.", *flags)
    assert code == 0, error
    assert equal(torch.load("out.pth.tar", weights_only=True)["state_dict"], flow)
    assert "72 missing" in program("models.weights", "convert", "in.pth.tar", "no.pth.tar", "--prefix", "depth.")[2]


def test_another_network_is_refused(program):
    state = under("encoder_q.0.", in_release_names("r3d", weights("r3d")))
    for net in set(BACKBONES) - {"r3d"}:
        with pytest.raises(CheckpointError, match=r"does not fit the model: \d+ missing \("):
            load_backbone(build_backbone(net, WIDTH), {"state_dict": state}, "x")
    torch.save(state, "in.pth")
    code, _, error = program("models.weights", "convert", "in.pth", "out.pth", "--net", "r21d")
    assert code == 1 and "missing (" in error
    torch.save({"unknown": torch.zeros(3)}, "in.pth")
    code, _, error = program("models.weights", "convert", "in.pth", "out.pth")
    assert code == 2 and "--net" in error and "inspect in.pth" in error and not Path("out.pth").exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(dtype, program):
    state = {name: value.to(dtype) for name, value in weights("r21d").items()}
    state["stem_bn.num_batches_tracked"] = torch.tensor(float("inf"), dtype=dtype)  # 65536 halved
    torch.save(state, "in.pth")
    code, out, error = program("models.weights", "convert", "in.pth", "out.pth.tar")
    assert code == 0 and f"120 tensors are {str(dtype)[6:]} in the file and become float32" in out, error
    saved = torch.load("out.pth.tar", weights_only=True)["state_dict"]
    for name, value in build_backbone("r21d", WIDTH).state_dict().items():
        assert saved[name].dtype == value.dtype
        expected = 0 if name == "stem_bn.num_batches_tracked" else state[name].to(value.dtype)
        assert torch.equal(saved[name], torch.as_tensor(expected)), name


def test_missing_counters_become_zero(program):
    """Files from before torch 0.4.1 do not have them."""
    own = weights("r3d")
    state = {name: value for name, value in own.items() if "num_batches" not in name}
    torch.save(state, "in.pth")
    code, out, error = program("models.weights", "convert", "in.pth", "out.pth.tar")
    assert code == 0 and "60 of 72 matched, 0 missing" in out, error
    assert "12 num_batches_tracked without a usable value are set to 0" in out
    saved = torch.load("out.pth.tar", weights_only=True)["state_dict"]
    assert equal(saved, {name: state.get(name, torch.tensor(0)) for name in own})


# --- the command ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", ["a pretrainer of ours, MoCo", "a classifier of ours", "a pretrainer of CoCLR",
                                  "a pretrainer of the release, SimCLR", "a classifier of the release"])
def test_inspect_says_what_a_file_is(kind, program):
    state = files("r21d", weights("r21d"), weights("r21d", "other"))[kind]
    torch.save({"state_dict": under("module.", state), "epoch": 189, "iteration": 7, "optimizer": {"state": {1: 2}},
                "config": {"net": "r21d", "width": WIDTH}, "versions": {"torch": "9.9"}}, "in.pth.tar")
    code, out, error = program("models.weights", "inspect", "in.pth.tar")
    lines = out.splitlines()
    assert code == 0 and lines[0].startswith(f"in.pth.tar: {kind}"), error
    for line in ("epoch        189", "iteration    7", f"config       net=r21d, width={WIDTH}",
                 "versions     torch=9.9"):
        assert f"  {line}" in lines
    numbers = sum(value.numel() for value in state.values())
    assert f"tensors      {len(state)}, {numbers:,} numbers, " in out
    fitting = [line.split()[0] for line in lines if " fits " in line]
    assert fitting == ["r21d"] and "144 of 144 matched, 0 missing, 0 unexpected, 0 misshapen" in out
    prefixes = next(line for line in lines if line.startswith("  prefixes"))
    assert all(name.partition(".")[0] in prefixes for name in state)
    code, out, _ = program("models.weights", "inspect", "in.pth.tar", "--all")
    assert code == 0 and all(f" {name}\n" in out for name in state)
    assert "    missing      layers.conv1.weight\n" in out  # of c3d


@pytest.mark.filterwarnings("ignore:Validating sparse")
def test_inspect_without_anything_known(program):
    torch.save({"state_dict": {"\x1b[2Jname": torch.zeros(3).to_sparse(), "text": "x", "a.b": torch.zeros(2, 3)},
                "note": "\x1b[2Jred\n", "config": 3}, "in.pth")
    code, out, error = program("models.weights", "inspect", "in.pth")
    assert code == 0 and "in.pth: not known here" in out and "\x1b" not in out and "\\x1b[2Jred" in out, error
    torch.save({f"layer{i}": torch.zeros(1) for i in range(99)}, "bare.pth")
    code, bare, error = program("models.weights", "inspect", "bare.pth")
    assert code == 0 and "Tensor" not in bare and "99 numbers" in bare, error
    assert "tensors      1, 6 numbers, 1 float32" in out and "no tensors   '\\x1b[2Jname', text" in out
    code, out, error = program("models.weights", "inspect", "none.pth")
    assert code == 1 and error == "error: checkpoint none.pth does not exist\n" and not out


def test_no_file_is_lost(program, tmp_path):
    torch.save(weights("r3d"), "in.pth")
    Path("out.pth").write_text("precious")
    os.link("in.pth", "hard.pth")
    os.symlink("in.pth", "soft.pth")
    os.mkdir("folder")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    for out, flags, message in (("out.pth", [], "--force"), ("in.pth", ["--force"], "the file to convert"),
                                ("hard.pth", ["--force"], "the file to convert"),
                                ("soft.pth", ["--force"], "the file to convert"),
                                ("folder", ["--force"], "is a folder"), ("out.pth/x", [], "out.pth")):
        code, _, error = program("models.weights", "convert", "in.pth", out, *flags)
        assert code == 1 and message in error and error.startswith("error: "), error
    for flags, code, message in ((["--net", "r50"], 2, "--net"), (["--width", "0"], 2, "--width"),
                                 (["--width", "nan"], 2, "--width"), (["--width", "x"], 2, "--width"),
                                 (["--nosuch"], 2, "--nosuch")):
        got, _, error = program("models.weights", "convert", "in.pth", "new.pth", *flags)
        assert got == code and message in error.splitlines()[-1], error
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    code, _, error = program("models.weights", "convert", "in.pth", "out.pth", "--force")
    assert code == 0 and equal(torch.load("out.pth", weights_only=True)["state_dict"], weights("r3d")), error
    code, _, error = program("models.weights", "convert", "out.pth", "new.pth", "--net", "r21d")
    assert code == 2 and "--net r21d: checkpoint out.pth was trained with --net r3d" in error
    code, _, error = program("models.weights", "convert", "out.pth", "new.pth", "--width", "1")
    assert code == 2 and f"--width 1.0: checkpoint out.pth was trained with --width {WIDTH}" in error


# --- strict loading ------------------------------------------------------------------------------------------

def test_strict_loading_names_what_does_not_fit():
    model = build_backbone("r3d", WIDTH)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = weights("r3d")
    state["extra"] = torch.zeros(1)
    state["stem.weight"] = torch.zeros(1)
    state["stem_bn.running_var"] = "text"
    state["stem_bn.weight"][0] = float("inf")
    del state["stem_bn.bias"]
    with pytest.raises(CheckpointError) as caught:
        load_strict(model, state, "file x")
    for part in ("file x", "1 missing (stem_bn.bias)", "1 unexpected (extra)", "2 misshapen (stem.weight (1,) for (4, ",
                 "stem_bn.running_var a str", "1 not finite (stem_bn.weight)"):
        assert part in str(caught.value)
    assert equal(model.state_dict(), before)
    with pytest.raises(CheckpointError, match="does not fit"):
        load_released(model, {})


def test_released_models_of_another_network_are_refused():
    state = released_state_dict("simclr/r3d")
    for model in (build_pretrainer("simclr", "r21d", width=WIDTH), build_backbone("r3d", WIDTH),
                  build_pretrainer("moco", "r3d", queue_size=8)):
        with pytest.raises(CheckpointError, match="file x does not fit the model: .*(missing|misshapen)"):
            load_released(model, state, "file x")

"""Networks of others as backbones: the numbers of their authors' modules, and the clips that their weights expect."""
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from golden.formula import noise
from helpers import REPOSITORY
from torchvision.models import video

from core.errors import UsageError
from dataset.augment import MEAN, STD
from engine.setup import check_shapes
from models import build_backbone
from models.backbones import BACKBONES
from models.backbones.base import average_pool
from models.protocol import Protocol
from models.weights.checkpoint import read_checkpoint
from models.weights.loading import load_backbone

TORCHVISION = {"r3d_18": video.r3d_18, "mc3_18": video.mc3_18, "r2plus1d_18": video.r2plus1d_18, "s3d_tv": video.s3d,
               "mvit_v2_s": video.mvit_v2_s, "swin3d_t": video.swin3d_t}
WEIGHTS = {"r3d_18": video.R3D_18_Weights, "mc3_18": video.MC3_18_Weights, "r2plus1d_18": video.R2Plus1D_18_Weights,
           "s3d_tv": video.S3D_Weights, "mvit_v2_s": video.MViT_V2_S_Weights, "swin3d_t": video.Swin3D_T_Weights}
HEADS = {"s3d_tv": ("classifier", torch.nn.Sequential), "mvit_v2_s": ("head", torch.nn.Identity),
         "swin3d_t": ("head", torch.nn.Identity)}


def seeded(net):
    """torchvision's module in evaluation mode, whose norms and biases do something too."""
    torch.manual_seed(0)
    theirs = TORCHVISION[net](weights=None).eval()
    for name, value in theirs.state_dict().items():
        if value.dim() == 1:
            value += 0.1 * noise(value.shape, name)
    return theirs


@pytest.mark.parametrize("net, sizes", [
    ("r3d_18", [(4, 24, 24), (5, 33, 40)]), ("mc3_18", [(4, 24, 24), (5, 33, 40)]),
    ("r2plus1d_18", [(4, 24, 24), (5, 33, 40)]), ("swin3d_t", [(4, 32, 32), (7, 40, 70)]),
    ("mvit_v2_s", [(4, 32, 32), (6, 48, 48)]),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in (
        ("s3d_tv", [(14, 224, 224), (24, 224, 230)]), ("mvit_v2_s", [(16, 224, 224)])))])
def test_features_are_those_that_torchvision_classifies(net, sizes):
    """Of a file of theirs that is loaded strictly, and of clips that are normalised as the weights expect."""
    theirs, backbone = seeded(net), build_backbone(net).eval()
    result = load_backbone(backbone, {"state_dict": theirs.state_dict(), "config": {}}, "x")
    assert not (result.missing or result.unexpected) and len(result.aside) == 2
    head, nothing = HEADS.get(net, ("fc", torch.nn.Identity))
    setattr(theirs, head, nothing())
    protocol = BACKBONES[net].protocol
    ours, weights = (torch.tensor(x)[:, :, None, None, None] for x in ([MEAN, STD], [protocol.mean, protocol.std]))
    for size in sizes:
        pixels = 0.5 + 0.2 * noise((1, 3, *size), f"{size}")
        if net == "mvit_v2_s":  # which takes the number of its tokens from here
            theirs.pos_encoding.temporal_size, *sides = (-(-n // s) for n, s in zip(size, (2, 4, 4), strict=True))
            theirs.pos_encoding.spatial_size = tuple(sides)
        with torch.no_grad():
            wanted = theirs((pixels - weights[0]) / weights[1])
            found = average_pool(backbone((pixels - ours[0]) / ours[1]))
        assert found.shape == (1, backbone.feature_dim) and found.std() > 1e-3
        assert (found - wanted).abs().max() <= 1e-5 * max(1, wanted.abs().max()), size


@pytest.mark.parametrize("net", TORCHVISION)
def test_tensors_are_torchvision_s(net):
    with torch.device("meta"):
        theirs, ours = TORCHVISION[net](weights=None).state_dict(), build_backbone(net).state_dict()
    heads = [name for name in theirs if name not in ours]
    assert all(name.startswith(("fc.", "head.", "classifier.")) for name in heads) and len(heads) == 2
    assert {name: value.shape for name, value in ours.items()} == {
        name: value.shape for name, value in theirs.items() if name not in heads}


@pytest.mark.parametrize("net", TORCHVISION)
def test_protocols_are_those_of_torchvision_s_weights(net):
    weights = WEIGHTS[net].KINETICS400_V1
    own, preset, said = BACKBONES[net].protocol, weights.transforms(), weights.meta["_docs"]
    assert [own.img_dim] * 2 == preset.crop_size
    assert list(own.mean) == list(preset.mean) and list(own.std) == list(preset.std)
    if len(preset.resize_size) == 2:
        assert list(own.frame_size) == preset.resize_size
    else:
        assert [own.frame_size[0]] == preset.resize_size
    assert f"clip_len={own.seq_len}`" in said and f"frame_rate={30 / own.ds:g}`" in said


@pytest.mark.parametrize("net, seq_len, img_dim, said", [
    ("mvit_v2_s", 16, 224, None), ("mvit_v2_s", 8, 224, "are those of --seq_len 16 --img_dim 224; they are interp"),
    ("swin3d_t", 4, 193, None), ("swin3d_t", 32, 192, "windows of its last stage have 6 x 6 tokens of 7 x 7"),
    ("r3d_18", 4, 24, None)])
def test_clips_of_a_size_that_the_weights_were_not_made_for_are_said(net, seq_len, img_dim, said, capsys):
    check_shapes(net, seq_len, img_dim, 1)
    out = capsys.readouterr().out
    if said is None:
        assert not out
    else:
        assert out.startswith(f"note: --net {net} with clips of --seq_len {seq_len} --img_dim {img_dim}: ")
        assert said in out and out.count("\n") == 1


def test_swin_looks_up_other_positions_only_where_a_note_says_so():
    """In a window of fewer frames each pair of tokens has the position that it has in a whole one."""
    block = build_backbone("swin3d_t", 0.125).features[0][0].attn
    with torch.no_grad():
        block.relative_position_bias_table.copy_(torch.arange(len(block.relative_position_bias_table))[:, None])
        whole = block.get_relative_position_bias([8, 7, 7])[0, 0].view(8, 7, 7, 8, 7, 7)
        shorter, smaller = (block.get_relative_position_bias(window)[0, 0].view(*window, *window)
                            for window in ([4, 7, 7], [8, 6, 6]))
    assert torch.equal(shorter, whole[:4, :, :, :4])
    assert not torch.equal(smaller, whole[:, :6, :6, :, :6, :6])


def test_one_clip_at_a_time_is_enough_where_no_batch_norm_has_a_single_value():
    check_shapes("mvit_v2_s", 16, 224, clips=1)  # its feature map is one token
    check_shapes("s3d_tv", 16, 64, clips=1)  # and this one's a mean, after the last batch norm
    with pytest.raises(UsageError, match="--batch_size: there is one clip at a time"):
        check_shapes("r3d_18", 4, 16, clips=1)


TINY = ["--ds", "1", "--workers", "0", "--device", "cpu"]


@pytest.mark.slow
@pytest.mark.parametrize("net", [*TORCHVISION, "slow_r50", "s3dg_rspnet"])
def test_fine_tuning_probe_retrieval_and_test_take_seeded_weights(net, program):
    seq_len, img_dim = (8, 32) if net.startswith("s3d") else (4, 16)
    clips = ["--seq_len", seq_len, "--img_dim", img_dim, *TINY]
    torch.manual_seed(0)
    torch.save(build_backbone(net, 0.0625).state_dict(), "seeded.pth")
    weights = ["--net", net, "--width", "0.0625", "--pretrain", "seeded.pth", *clips]
    training = [*weights, "--batch_size", "5", "--epochs", "1", "--name", "x"]
    for command in (["finetune.py", *training], ["finetune.py", *training, "--train_what", "last", "--final_bn"],
                    ["retrieval.py", *weights, "--clips", "2"],
                    ["test.py", *clips, "--clips", "2", "--checkpoint", "log/dualvar/ft/x/model/latest.pth.tar"]):
        code, out, err = program(*command)
        assert code == 0, err
    checkpoint = read_checkpoint("log/dualvar/ft/x/model/latest.pth.tar")
    published = BACKBONES[net].protocol
    own = published.of_clips(seq_len, 1, img_dim, published.frame_size_for(img_dim))
    assert Protocol.read(checkpoint["config"]["protocol"], "x") == own
    probed = read_checkpoint("log/dualvar/last/x/model/latest.pth.tar")["state_dict"]
    seeded = torch.load("seeded.pth", weights_only=True)
    assert all(torch.equal(probed[f"backbone.{name}"], value) for name, value in seeded.items())


@pytest.mark.slow
@pytest.mark.parametrize("net", ["r3d_18", pytest.param("mvit_v2_s", marks=pytest.mark.kept)])
def test_pretraining_with_all_terms(net, program):
    clips = ["--seq_len", "4", "--img_dim", "16", *TINY]
    code, _, err = program("train.py", "--net", net, "--width", "0.0625", *clips, "--batch_size", "4", "--epochs", "1",
                           "--eval_every", "1", "--eval_videos", "4", "--name", "x")
    assert code == 0, err
    row = json.loads(Path("log/dualvar/pretrain/x/log.jsonl").read_text().splitlines()[-1])
    assert all(math.isfinite(row[name]) for name in ("loss/clip", "loss/tc", "loss/sr_view1", "variance/within_clip"))
    code, _, err = program("retrieval.py", *clips, "--pretrain", "log/dualvar/pretrain/x/model/backbone.pth.tar",
                           "--clips", "1")
    assert code == 0, err


@pytest.mark.slow
def test_what_is_slow_to_import_is_imported_where_it_is_wanted():
    code = ("import models, sys; assert 'torchvision' not in sys.modules; models.BACKBONES['swin3d_t'].protocol; "
            "assert 'torchvision' in sys.modules")
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)

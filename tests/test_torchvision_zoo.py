"""Weights that torchvision publishes: --pretrain torchvision:NAME, without a network."""
import hashlib
import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
import torchvision
from helpers import SMALL, Handler, answering

from core.errors import CheckpointError, UsageError
from models import build_backbone
from models.backbones import BACKBONES
from models.classifier import pooled
from models.weights import torchvision_zoo
from models.weights.identify import comparisons, kind
from models.weights.loading import load_backbone
from models.weights.sources import read_weights


@pytest.fixture(scope="module")
def made():
    """torchvision's S3D with weights of a seed."""
    torch.manual_seed(3)
    return torchvision.models.video.s3d(weights=None).eval()


@pytest.fixture
def laid(made, tmp_path, monkeypatch):
    """Its file in TORCH_HOME, under the name that its address has -> path; the address leads nowhere."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    folder = tmp_path / "home/hub/checkpoints"
    folder.mkdir(parents=True)
    torch.save(made.state_dict(), folder / "new")
    digest = hashlib.sha256((folder / "new").read_bytes()).hexdigest()
    path = (folder / "new").rename(folder / f"s3d-{digest[:8]}.pth")
    entry = SimpleNamespace(url=f"http://127.0.0.1:9/models/{path.name}")
    table = SimpleNamespace(__members__={"KINETICS400_V1": entry, "DEFAULT": entry})
    monkeypatch.setattr("torchvision.models.get_model_weights", lambda name: table)
    return path


def test_every_network_is_in_torchvisions_table_and_in_ours():
    for theirs, ours in torchvision_zoo.NETS.items():
        table = torchvision.models.get_model_weights(theirs)
        assert len(table) == 1 and torchvision_zoo.HASH.search(table.DEFAULT.url)
        transforms, protocol = table.DEFAULT.transforms(), BACKBONES[ours].published
        assert (list(protocol.mean), list(protocol.std)) == (transforms.mean, transforms.std)
        assert [protocol.img_dim] * 2 == transforms.crop_size
        assert protocol.seq_len >= table.DEFAULT.meta.get("min_temporal_size", 1)


@pytest.mark.parametrize("name", ["torchvision:s3d", "torchvision:s3d:weights=KINETICS400_V1"])
def test_a_file_in_the_cache_is_loaded_whole_and_computes_the_same(name, made, laid):
    checkpoint = read_weights(name)
    assert kind(checkpoint, comparisons(checkpoint)["s3d_tv"][1])== "a classifier of torchvision"
    backbone = build_backbone(checkpoint["config"]["net"]).eval()
    load_backbone(backbone, checkpoint, name)
    assert backbone.protocol == BACKBONES["s3d_tv"].published
    for size in (32, 48):
        clips = torch.randn(1, 3, 16, size, size, generator=torch.Generator().manual_seed(size))
        with torch.no_grad():
            theirs = made.features(backbone.converted(clips)).mean(dim=(2, 3, 4))
            torch.testing.assert_close(pooled(backbone, clips), theirs, rtol=1e-5, atol=1e-5)


def test_a_stage_takes_them_and_says_what_clips_they_expect(laid, program, tmp_path):
    flags = ["--dataset", "ucf101", *SMALL, "--seq_len", "16", "--clips", "1", "--pretrain", "torchvision:s3d"]
    code, out, error = program("retrieval.py", *flags, "--name", "x")
    assert code == 0, error
    assert "torchvision:s3d was trained on clips of --seq_len 128 --img_dim 224\n" in out
    assert "holds a classifier of torchvision; left aside: classifier. 2; clips are normalised as it expects" in out
    results = json.loads((tmp_path / "log/dualvar/retrieval/x/results.json").read_text())
    assert 0 <= results["results"]["R@1"] <= 1
    code, _, error = program("retrieval.py", *flags, "--net", "r3d", "--name", "y")
    assert code == 2 and "--net r3d" in error


def test_nothing_is_downloaded_for_another_network_or_a_dry_run(laid, program):
    laid.unlink()
    flags = ["--dataset", "ucf101", *SMALL, "--seq_len", "16", "--pretrain", "torchvision:s3d"]
    code, _, error = program("retrieval.py", *flags, "--net", "r3d")
    assert code == 2 and "--net r3d: checkpoint torchvision:s3d was trained with --net s3d_tv" in error
    code, out, error = program("retrieval.py", *flags, "--dry_run")
    assert code == 0 and "torchvision:s3d is not downloaded yet: a dry run goes on without it\n" in out, error
    assert not list(laid.parent.iterdir())


def test_without_the_file_and_without_a_network_there_is_one_sentence(laid):
    laid.rename(laid.with_name("elsewhere"))
    with pytest.raises(CheckpointError, match=f"cannot be reached .*copy the file from another machine to {laid}"):
        read_weights("torchvision:s3d")
    assert {path.name for path in laid.parent.iterdir()} == {"elsewhere", ".lock"}  # no half of a file


@contextmanager
def site(body, length):
    """A server that says a length and sends a body, slowly -> (its address, paths that were asked for)"""
    asked = []

    class Slow(Handler):
        def do_GET(self):
            asked.append(self.path)
            time.sleep(0.3)  # while the others come
            self.send_response(200)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(body)

    with answering(Slow) as address:
        yield address, asked


def test_of_several_processes_one_downloads(laid):
    content = laid.read_bytes()
    laid.unlink()
    with site(content, len(content)) as (address, asked), ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(torchvision_zoo.cached, ["torchvision:s3d"] * 4, [f"{address}/{laid.name}"] * 4))
    assert paths == [laid] * 4 and laid.read_bytes() == content
    assert asked == [f"/{laid.name}"]


@pytest.mark.parametrize("case", ["other", "short"])
def test_a_download_that_is_not_the_published_file_leaves_nothing(case, laid):
    content = laid.read_bytes()
    laid.unlink()
    sent = {"other": content[:-1] + bytes([content[-1] ^ 1]), "short": content[:1000]}[case]
    with site(sent, len(content)) as (address, _):
        with pytest.raises(CheckpointError, match="s3d: what came from .* is not what torchvision published: try"):
            torchvision_zoo.cached("torchvision:s3d", f"{address}/{laid.name}")
    assert [path.name for path in laid.parent.iterdir()] == [".lock"]


def test_a_file_that_is_not_the_published_one_is_refused(laid):
    whole = bytearray(laid.read_bytes())
    whole[len(whole) // 2] ^= 1
    laid.write_bytes(whole)
    with pytest.raises(CheckpointError, match=f"{laid} is damaged, or not what torchvision published"):
        read_weights("torchvision:s3d")


@pytest.mark.parametrize("name, words", [
    ("torchvision:", "one of r3d_18, mc3_18"), ("torchvision:vgg16", "one of r3d_18"),
    ("torchvision:../../x", "one of r3d_18"), ("torchvision:s3d:KINETICS400_V1", "one of r3d_18"),
    ("torchvision:s3d:weights=__class__", "give KINETICS400_V1"), ("torchvision:s3d:weights=", "give KINETICS400_V1")])
def test_names_that_are_not_in_the_table(name, words):
    with pytest.raises(UsageError, match=words):
        read_weights(name)

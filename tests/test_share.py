"""Networks as folders for others: written, read bit for bit, pushed to a stand-in of the hub; and hostile folders."""
import contextlib
import hashlib
import importlib
import io
import json
import os
import shutil
import struct
import sys
from pathlib import Path
from types import ModuleType

import foreign
import pytest
import torch
from fuzz import SENTENCES, broken, cases, damaged, in_sentence
from golden.formula import noise
from helpers import REPOSITORY, SMALL, environment, succeed
from hub_server import Hub
from hypothesis import given
from hypothesis import strategies as st

from core.errors import CheckpointError, DataError, UsageError
from core.files import whole_folder
from models import build_backbone, build_classifier, build_pretrainer, from_pretrained
from models.backbones import BACKBONES
from models.protocol import Protocol
from models.weights import __main__ as weights
from models.weights.card import card
from models.weights.checkpoint import fingerprint, unbounded
from models.weights.hub import parts_of
from models.weights.runs import run_of
from models.weights.save import check_equal
from models.weights.share import FILES, read_folder
from models.weights.sources import read_weights

safetensors = pytest.importorskip("safetensors.torch", reason="of requirements-share.txt")
huggingface_hub = pytest.importorskip("huggingface_hub", reason="of requirements-share.txt")
pytest.importorskip("huggingface_hub.constants")

NET, WIDTH = "r3d", 0.015625
CLIPS = noise((2, 3, 4, 24, 24), "clips")
PRETRAINING = {"framework": "moco", "net": NET, "mode": "clip-sr", "n_series": 2, "series_dim": 4, "dim": 8,
               "width": WIDTH, "queue_size": 8}
CLASSIFIER = {"net": NET, "num_classes": 3, "width": WIDTH, "dropout": 0.5, "final_bn": True, "l2_norm": False,
              "train_what": "ft"}
FLAGS = {"dataset": "ucf101", "split": 1, "seq_len": 4, "ds": 2, "img_dim": 24, "resize": [27, 37], "seed": 3,
         "epochs": 2, "log_dir": "/home/somebody"}


def trained(model):
    """A model whose every tensor has values of its own."""
    for name, value in model.state_dict().items():
        value.copy_(torch.tensor(len(name)) if value.ndim == 0 else 1 + 0.3 * noise(value.shape, name))
    return model.eval()


def networks():
    """{kind: (network, what its checkpoint holds beside the weights)}"""
    return {"backbone": (trained(build_backbone(NET, WIDTH)), {"config": {"net": NET, "width": WIDTH}}),
            "pretrainer": (trained(build_pretrainer(**PRETRAINING)), {"config": PRETRAINING, "flags": FLAGS}),
            "classifier": (trained(build_classifier(**CLASSIFIER)), {"config": CLASSIFIER, "flags": FLAGS})}


def backbone_of(model):
    return getattr(getattr(model, "encoder", model), "backbone", model)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder as `save` writes it, of a backbone, which no test changes."""
    path = tmp_path_factory.mktemp("shared")
    model, beside = networks()["backbone"]
    torch.save({"state_dict": model.state_dict(), **beside}, path / "in.pth.tar")
    weights.main(["save", str(path / "in.pth.tar"), str(path / "shared")])
    return path / "shared"


@pytest.fixture
def copy(folder, tmp_path):
    """A copy of it, for a test to damage."""
    for name in FILES:
        (tmp_path / "copy").mkdir(exist_ok=True)
        (tmp_path / "copy" / name).write_bytes((folder / name).read_bytes())
    return tmp_path / "copy"


# --- written and read ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", networks())
def test_a_saved_network_computes_the_same_bit_for_bit(program, kind):
    model, beside = networks()[kind]
    torch.save({"state_dict": model.state_dict(), **beside}, "in.pth.tar")
    before = torch.random.get_rng_state()
    for flags in ([], ["--heads"]):
        code, out, error = program("models.weights", "save", "in.pth.tar", f"out{len(flags)}", *flags)
        if kind == "backbone" and flags:
            assert code == 1 and "--heads: checkpoint in.pth.tar says of no heads" in error
            continue
        assert code == 0, error
        network = from_pretrained(f"out{len(flags)}")
        assert torch.equal(network(CLIPS), backbone_of(model)(CLIPS)) and not network.training
        assert network.protocol == Protocol(4, 2, 24) if "flags" in beside else Protocol()
        assert sorted(path.name for path in Path(f"out{len(flags)}").iterdir()) == sorted(FILES)
    assert torch.equal(torch.random.get_rng_state(), before)  # nobody's draws are touched
    if kind == "pretrainer":
        views = CLIPS[:, None]
        whole, own = from_pretrained("out1", heads=True)(views), model.encoder(views)
        assert whole.keys() == own.keys() and all(torch.equal(whole[name], own[name]) for name in own)
    if kind == "classifier":
        assert torch.equal(from_pretrained("out1", heads=True)(CLIPS), model(CLIPS))
    with pytest.raises(CheckpointError, match="out0 holds a backbone alone: its heads were not kept"):
        from_pretrained("out0", heads=True)


@pytest.mark.slow
@pytest.mark.parametrize("net", BACKBONES)
def test_every_network_is_saved(program, net):
    model = trained(build_backbone(net, WIDTH))
    torch.save({"state_dict": model.state_dict(), "config": {"net": net, "width": WIDTH}}, "in.pth.tar")
    assert program("models.weights", "save", "in.pth.tar", "out")[0] == 0
    read = from_pretrained("out", net=net)
    assert type(read) is type(model) and read.protocol == model.protocol == type(model).published
    check_equal(read.state_dict(), model.state_dict(), Path("out"))


def test_others_read_what_is_written(folder):
    model, _ = networks()["backbone"]
    read = safetensors.load_file(folder / "model.safetensors")
    assert read.keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in read.items())
    config = json.loads((folder / "config.json").read_text())
    assert config["sha256"] == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert (config["network"], config["width"], config["heads"]) == (NET, WIDTH, None)
    assert {"commit", "torch", "python", "safetensors"} == config["versions"].keys()


def test_another_protocol_and_untrained_tensors_stay_known(program):
    model, _ = networks()["backbone"]
    model.protocol = Protocol(8, 8, 224, (256, 340), (0.5, 0.4, 0.3), (0.2, 0.25, 0.5))
    config = {"net": NET, "width": WIDTH, "protocol": model.protocol.values(), "partial": ["stem.weight"]}
    torch.save({"state_dict": model.state_dict(), "config": config}, "in.pth.tar")
    assert program("models.weights", "save", "in.pth.tar", "out")[0] == 0
    network = from_pretrained("out")
    assert network.protocol == model.protocol and torch.equal(network(CLIPS), model(CLIPS))
    assert read_weights("out")["config"] == config
    assert "1 of its tensors were never trained" in Path("out/README.md").read_text()
    code, out, error = program("retrieval.py", *SMALL, "--pretrain", "out", "--dry_run")
    assert code == 0 and "1 tensors of out are untrained" in out, error


def test_foreign_names_are_saved_in_ours(program):
    model, _ = networks()["backbone"]
    torch.save({f"module.encoder_q.{name}": value for name, value in model.state_dict().items()}, "in.pth")
    code, _, error = program("models.weights", "save", "in.pth", "out", "--net", NET)
    assert code == 0, error
    assert torch.equal(from_pretrained("out")(CLIPS), model(CLIPS))


def test_a_folder_is_written_whole_or_not_at_all(program, monkeypatch, tmp_path):
    model, beside = networks()["backbone"]
    torch.save({"state_dict": model.state_dict(), **beside}, "in.pth.tar")
    Path("full").mkdir()
    Path("full/mine.txt").write_text("mine")
    Path("link").symlink_to("elsewhere")
    for name in ("full", "full/mine.txt", "link"):
        code, _, error = program("models.weights", "save", "in.pth.tar", name)
        assert code == 1 and f"error: {name} is there already, and is no empty folder: name another" in error
    assert Path("full/mine.txt").read_text() == "mine" and [*Path("full").iterdir()] == [Path("full/mine.txt")]
    Path("empty").mkdir()
    Path(".partial_empty").mkdir()  # of one that was killed
    Path(".partial_empty/half").write_text("")
    assert program("models.weights", "save", "in.pth.tar", "empty")[0] == 0
    assert sorted(path.name for path in Path("empty").iterdir()) == sorted(FILES)
    torch.save({"state_dict": {**model.state_dict(), "stem.weight": torch.zeros(3)}, **beside}, "bad.pth.tar")
    code, _, error = program("models.weights", "save", "bad.pth.tar", "no")
    assert code == 1 and "1 misshapen (stem.weight (3,) for " in error and not Path("no").exists()
    with pytest.raises(OSError, match="No space left on device: 'no'"), whole_folder("no") as temporary:
        (temporary / "x").write_text("")
        raise OSError(28, "No space left on device", str(temporary / "x"))
    assert not Path("no").exists() and not [*Path().glob(".partial*")]
    monkeypatch.setattr("models.weights.save.read_folder", lambda _: {"state_dict": {}})
    code, _, error = program("models.weights", "save", "in.pth.tar", "no")
    assert code == 1 and "no: what was written reads back as something else" in error and not Path("no").exists()


def test_a_missing_package_is_named(program, monkeypatch, folder):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    code, _, error = program("models.weights", "save", "none", "out")
    assert code == 1 and "error: save needs safetensors, which is not installed: " in error
    assert f"pip install -r {REPOSITORY / 'requirements-share.txt'}\n" in error
    code, _, error = program("models.weights", "inspect", "hf:a/b")
    assert code == 1 and "hf:a/b needs huggingface_hub, which is not installed" in error
    assert from_pretrained(folder).feature_dim == 8  # what is here is read without
    with pytest.raises(CheckpointError, match="and there is no folder 'weights/mine' here"):
        from_pretrained("weights/mine")


# --- in every stage ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("script, flags, code, words", [
    ("retrieval.py", [], 0, "weights      "),
    ("finetune.py", ["--batch_size", "4"], 0, "model        r3d x 0.015625 from"),
    ("analysis/temporal.py", ["--seq_len", "8"], 1, "none of the tasks can be asked")])
def test_a_folder_goes_into_every_stage(program, folder, script, flags, code, words):
    given = [*SMALL, *flags, "--dry_run", "--pretrain"]
    got, out, error = program(script, *given, folder)
    assert got == code and words in out + error, error
    got, _, error = program(script, *given, folder, "--net", "r21d")
    assert got == 2 and f"--net r21d: checkpoint {folder} was trained with --net r3d" in error
    got, _, error = program(script, *given, folder.parent)
    assert got == 1 and f"{folder.parent} has no config.json: it is no folder that python -m models" in error


def test_a_classifier_of_a_folder_is_tested(program):
    model = trained(build_classifier(**{**CLASSIFIER, "num_classes": 2}))
    torch.save({"state_dict": model.state_dict(), "config": {**CLASSIFIER, "num_classes": 2}}, "in.pth.tar")
    found = []
    assert program("models.weights", "save", "in.pth.tar", "shared", "--heads")[0] == 0
    for source in ("in.pth.tar", "shared"):
        code, _, error = program("test.py", *SMALL, "--clips", "2", "--checkpoint", source, "--name", "x")
        assert code == 0, error
        found.append(json.loads(Path("log/dualvar/test/x/results.json").read_text()))
    assert found[0]["results"] == found[1]["results"]
    assert found[0]["weights"]["split01"]["weights"] == fingerprint(model.state_dict(), Protocol())
    assert program("models.weights", "save", "in.pth.tar", "bare")[0] == 0
    code, _, error = program("test.py", *SMALL, "--checkpoint", "bare")
    assert code == 1 and "checkpoint bare has no classes: fine-tune it first, or if it is fine-tuned" in error


def test_torch_hub_loads_it(folder, monkeypatch):
    network = torch.hub.load(str(REPOSITORY), NET, source="local", weights=str(folder))
    assert torch.equal(network(CLIPS), networks()["backbone"][0](CLIPS)) and not network.training
    assert torch.hub.load(str(REPOSITORY), "r21d", source="local", width=1 / 64).feature_dim == 8
    with pytest.raises(CheckpointError, match="is of network r3d, not r21d"):
        torch.hub.load(str(REPOSITORY), "r21d", source="local", weights=str(folder))
    with pytest.raises(ValueError, match="weights have their own"):
        torch.hub.load(str(REPOSITORY), NET, source="local", weights=str(folder), width=1)
    for name in ("models", "dataset"):
        other = ModuleType(name)
        other.__file__, other.__path__ = f"/elsewhere/{name}/__init__.py", [f"/elsewhere/{name}"]
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, other)
            with pytest.raises(ImportError, match=f"called {name} is imported already, /elsewhere/{name}/"):
                torch.hub.load(str(REPOSITORY), NET, source="local")


def test_hub_entries_are_the_networks():
    sys.modules.pop("hubconf", None)
    hubconf = importlib.import_module("hubconf")
    entries = {name for name, value in vars(hubconf).items() if callable(value) and name[0] != "_"}
    assert {*BACKBONES} == entries - {"Callable", "Path"}
    for width in (0, -1, float("nan"), "x"):
        with pytest.raises(ValueError, match="give a number above 0"):
            hubconf.r3d(width=width)


# --- the card ------------------------------------------------------------------------------------------------

def run_folder(own):
    """A run's folder with results of its weights, of others and of floors; `own` is its fingerprint."""
    flags = {**FLAGS, "clips": 2, "crops": 1, "framework": "moco", "mode": "clip-sr", "pretrain": "x"}
    facts = {"commit": "abc1234", "torch": "9.9", "python": "3.99", "videos": 12}
    one = {"results": {"R@1": 0.25}, "classes": 2, "queries": 4, "gallery": 12, "flags": flags, "weights": own}
    test = {"results": {"split01": {"top1": 0.5, "videos": 4}}, "classes": 2, "flags": flags,
            "weights": {"split01": {"weights": "f" * 16, "pretrained": own, "train_what": "last"}}}
    asked = {"clips": {"linear": {"mean": 0.9, "error": 0.05}}, "above_floors": {"linear": True},
             "at_chance": {"linear": True}}
    files = {
        "pretrain/run/flags.json": {"flags": flags, **facts},
        "retrieval/own/results.json": one,
        "retrieval/again/results.json": {**one, "features": "e" * 16, "flags": {**flags, "save_features": "kept"}},
        "features/again/probe.json": {"linear": [0.5, 0.75], "train": 12, "features": "e" * 16},
        "retrieval/rewritten/results.json": {**one, "features": "d" * 16, "flags": {**flags, "save_features": ""}},
        "features/rewritten/probe.json": {"linear": [0.125], "train": 12, "features": "c" * 16},
        "retrieval/other/results.json": {**one, "weights": "0" * 16, "results": {"R@1": 0.125}},
        "retrieval/old/results.json": {name: value for name, value in one.items() if name != "weights"},
        "retrieval/floor/results.json": {**one, "weights": None, "results": {"R@1": 0.375},
                                         "flags": {**flags, "pretrain": "thumbnail"}},
        "retrieval/random/results.json": {**one, "weights": "1" * 16, "results": {"R@1": 0.4375},
                                          "flags": {**flags, "pretrain": "random", "net": "r21d"}},
        "test/probe/results.json": test,
        "temporal/x/results.json": {
            "weights": {"mine": own}, "flags": flags, "tasks": {"arrow": {"title": "arrow of time", "chance": 0.5}},
            "measures": {"mine": {"tasks": {"arrow": asked}}}}}
    for name, content in files.items():
        Path("log/dualvar", name).parent.mkdir(parents=True, exist_ok=True)
        Path("log/dualvar", name).write_text(json.dumps(content))
    Path("log/dualvar/pretrain/run/model").mkdir(exist_ok=True)
    return Path("log/dualvar/pretrain/run/model/latest.pth.tar")


def test_the_card_tells_what_is_known_of_these_very_weights(program):
    model, beside = networks()["pretrainer"]
    path = run_folder(fingerprint(model.encoder.backbone.state_dict(), Protocol()))
    torch.save({"state_dict": model.state_dict(), **beside, "epoch": 0, "step": 2, "steps": 3}, path)
    code, _, error = program("models.weights", "save", path, "out", "--license", "cc-by-4.0")
    assert code == 0, error
    text = Path("out/README.md").read_text()
    card = huggingface_hub.ModelCard.load("out/README.md")
    assert card.data.license == "cc-by-4.0" and card.data.datasets == ["ucf101"] and "r3d" in card.data.tags
    assert [(one.task_name, one.metric_name, one.metric_value) for one in card.data.eval_results] == [
        ("retrieval among 12 training videos", "R@1 (2 clips of 4 frames at stride 2, 24 px of frames of 27 x 37)",
         0.25),
        ("linear probe on 12 features", "top1 (2 clips of 4 frames at stride 2, 24 px of frames of 27 x 37)", 0.625),
        ("linear probe, test", "top1 (2 clips of 4 frames at stride 2, 24 px of frames of 27 x 37)", 0.5)]
    for words in ("Trained on ucf101, split 1, 12 videos.", "| `seed` | 3 |", "commit abc1234, torch 9.9",
                  "R@1 0.250 ± 0.217", "| floor, mean pictures: ", "| arrow of time | 0.500 | 0.900 ± 0.050 | yes |",
                  "- fine-tuning (finetune.py): not measured", "the end of training: these weights are of epoch 1 of 2",
                  "- any data but ucf101 split 1", "- what 1 of the results beside the run may say"):
        assert words in text, words
    for words in ("R@1 0.125", "0.438", "somebody", "log_dir", "- nearest-neighbour retrieval", "No licence"):
        assert words not in text, words
    own = json.loads(Path("log/dualvar/retrieval/own/results.json").read_text())
    (Path("log/dualvar/retrieval/own/results.json")).write_text('{"flags": {}, "weights": 3, "flags": {}}')
    code, _, error = program("models.weights", "save", path, "again")
    assert code == 1 and "own/results.json is damaged (not JSON: 'flags' stands there twice)" in error
    own["flags"]["fps"] = "fast"
    (Path("log/dualvar/retrieval/own/results.json")).write_text(json.dumps(own))
    code, _, error = program("models.weights", "save", path, "again")
    assert code == 1 and "own/results.json is damaged (fps is not a finite number" in error, error
    assert not Path("again").exists()


def test_names_in_a_card_are_no_markup(program):
    model, beside = networks()["pretrainer"]
    evil = 'x"\n---\n<script>alert(1)</script> | [a](b) `c` \x1b[2J'
    flags = {**FLAGS, "dataset": evil, evil: 1, "mode": evil, "framework": [evil]}
    torch.save({"state_dict": model.state_dict(), **beside, "flags": flags}, "in.pth.tar")
    assert program("models.weights", "save", "in.pth.tar", "out")[0] == 0
    text, card = Path("out/README.md").read_text(), huggingface_hub.ModelCard.load("out/README.md")
    assert "<script>" not in text.split("\n---\n", 1)[1] and "\x1b" not in text
    assert len(card.data.datasets) == 1 and card.data.library_name == "dualvar" and text.count("\n---\n") == 1


def test_whose_weights_they_are_is_in_config_and_card(program):
    torch.manual_seed(0)
    torch.save({"model_state": foreign.SlowR50(foreign.slowfast_name, 1 / 16).state_dict()}, "in.pyth")
    code, _, error = program("models.weights", "save", "in.pyth", "out")
    assert code == 0, error
    text = Path("out/README.md").read_text()
    assert json.loads(Path("out/config.json").read_text())["origin"] == "a backbone of SlowFast"
    assert "x 0.0625, a backbone of SlowFast\n" in text and "whoever made them says under which licence" in text
    assert "its backbone alone." in text and "- \"self-supervised\"" not in text
    for command, source, target in (("save", "out", "again"), ("convert", "out", "x.pth"), ("save", "x.pth", "third")):
        assert program("models.weights", command, source, target)[0] == 0
    for name in ("again", "third"):
        assert json.loads(Path(name, "config.json").read_text())["origin"] == "a backbone of SlowFast"
        assert "whoever made them says under which licence" in Path(name, "README.md").read_text()


@pytest.mark.parametrize("what", ["ft", "last"])
def test_with_which_weights_a_classifier_began_is_in_its_card(program, what):
    model, beside = networks()["classifier"]
    flags = {**FLAGS, "pretrain": "/home/alice/others/r3d.pth", "train_what": what, "mode": None, "framework": "simclr"}
    torch.save({"state_dict": model.state_dict(), **beside, "flags": flags}, "in.pth.tar")
    assert program("models.weights", "save", "in.pth.tar", "out")[0] == 0
    text = Path("out/README.md").read_text()
    assert "began with the weights r3d.pth, whose licence holds for them too" in text and "alice" not in text
    assert ("it is that of those weights" in text) == ("datasets:" not in text) == (what == "last")
    assert '- "self-supervised"' not in text


def test_a_card_of_unknown_origin_says_so(folder):
    text = (folder / "README.md").read_text()
    for words in ("whose training is not known here", "Not known: the checkpoint does not say", "None was measured",
                  "- any data\n", "No licence of these weights was stated"):
        assert words in text


# --- hostile folders -----------------------------------------------------------------------------------------

def file_of(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def header_of(data):
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8:8 + length]), data[8 + length:]


def changed(**entries):
    """The file with entries of its header changed."""
    def change(data):
        header, values = header_of(data)
        for name, entry in entries.items():
            name = name.replace("__", ".") if name != "__metadata__" else name
            header[name] = entry(header[name]) if callable(entry) else entry
        return file_of(header, values)
    return change


def twice(data):
    header, values = header_of(data)
    text = json.dumps(header)
    return file_of(("{" + json.dumps("stem.weight") + ': {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, '
                    + text[1:]).encode(), values)


def with_nan(data):
    header, values = header_of(data)
    begin, _ = header["stem.weight"]["data_offsets"]
    return file_of(header, values[:begin] + struct.pack("<f", float("nan")) + values[begin + 4:])


def without(data):
    header, values = header_of(data)
    del header["stem.weight"]
    return file_of(header, values)


def moved(step, end=None):
    return lambda entry: {**entry, "data_offsets": [entry["data_offsets"][0] + step,
                                                    entry["data_offsets"][1] + (step if end is None else end)]}


TENSORS = {  # what is done to the file of tensors -> words of the sentence; its SHA-256 in config.json goes along
    "terabytes of header": (lambda _: file_of({}, length=2**42), "header would have 4398046511104 bytes, of 10"),
    "header beyond the file": (lambda _: file_of(b"{}", length=3), "header would have 3 bytes, of 10"),
    "long header": (lambda _: file_of(b" " * 2**23), "header would have 8388608 bytes"),
    "empty": (lambda _: b"", "header would have 0 bytes, of 0"),
    "no JSON": (lambda _: file_of(b"\xff\xfe"), "not UTF-8"),
    "pickle": (lambda _: b"\x80\x02}q\x00.", "header would have"),
    "a list": (lambda _: file_of([1]), "is damaged (its content is not a dictionary)"),
    "deep": (lambda _: file_of(b"[" * 10**5), "not JSON: too deep"),
    "twice": (twice, "not JSON: 'stem.weight' stands there twice"),
    "terabytes of a tensor": (changed(stem__weight={"dtype": "F32", "shape": [2**39], "data_offsets": [0, 2**41]}),
                              "1 misshapen (stem.weight F32 (549755813888,) for F32 (4, 3, 3, 7, 7))"),
    "negative": (changed(stem__weight=lambda entry: {**entry, "shape": [-4, -3, 3, 7, 7]}), "1 misshapen (stem.weight"),
    "not a number": (changed(stem__weight=lambda entry: {**entry, "shape": ["4"]}), "(stem.weight (shape[0]"),
    "another type": (changed(stem__weight=lambda entry: {**entry, "dtype": "F64"}), "F64 (4, 3, 3, 7, 7) for F32 (4,"),
    "three offsets": (changed(stem__weight=lambda entry: {**entry, "data_offsets": [0, 1, 2]}), "not two numbers"),
    "no entry": (changed(stem__weight=None), "its entry is not a dictionary"),
    "overlapping": (changed(stem__weight=moved(-4)), "do not fill its"),
    "overlong": (changed(stem__weight=moved(0, 2**40)), "do not fill its"),
    "beyond the file": (changed(stem__weight=moved(2**40)), "do not fill its"),
    "more bytes": (lambda data: data + b"\x00" * 8, "do not fill its"),
    "cut short": (lambda data: data[:-4], "do not fill its"),
    "strange metadata": (changed(__metadata__=[1]), "do not fill its"),
    "missing": (without, "1 missing (stem.weight)"),
    "one more": (changed(more={"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}), "1 unexpected (more)"),
    "nan": (with_nan, "1 not finite (stem.weight)")}


def refused(path, words, kind=CheckpointError):
    """What reads a folder refuses it in one sentence with these words, and changes nothing."""
    before = {name: (path / name).read_bytes() for name in FILES if (path / name).is_file()
              and (path / name).stat().st_size < 2**30}
    for call in (read_folder, from_pretrained, read_weights):
        found = in_sentence(call, path)
        assert isinstance(found, (kind, DataError)), found
        assert words in str(found), found
    assert all((path / name).read_bytes() == data for name, data in before.items())


@pytest.mark.parametrize("kind", TENSORS)
def test_a_hostile_file_of_tensors_is_refused(copy, kind):
    change, words = TENSORS[kind]
    data = change((copy / "model.safetensors").read_bytes())
    (copy / "model.safetensors").write_bytes(data)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "sha256": hashlib.sha256(data).hexdigest()}))
    refused(copy, words)


def test_a_flipped_bit_is_noticed(copy):
    data = bytearray((copy / "model.safetensors").read_bytes())
    for place in (len(data) - 1, len(data) // 2):
        data[place] ^= 1
        (copy / "model.safetensors").write_bytes(data)
        refused(copy, "model.safetensors is damaged: its SHA-256 is ")
        data[place] ^= 1


def test_a_file_of_terabytes_takes_no_memory(copy):
    with open(copy / "model.safetensors", "rb+") as file:
        file.truncate(2**42)
    refused(copy, "do not fill its 43980")


CONFIGS = {
    "network": [("os.system", "network 'os.system' is not one of r3d, "), (["r3d"], "network is not text"),
                ("__import__('os').system('x')", "is not one of"), ("../../r3d", "is not one of"), (None, "not text")],
    "width": [(True, "width is not a finite number"), (1e9, "width 1000000000.0 is not above 0"), (-1, "width -1"),
              ("1", "width is not a finite"), (2 * WIDTH, "misshapen"), (0, "width 0 is not above 0")],
    "format": [("dualvar 2", "format is not dualvar 1"), (1, "format is not dualvar 1")],
    "heads": [({"kind": "os.system"}, "heads are of kind 'os.system', not pretraining or classes"), ([], "heads is"),
              ({"kind": "classes", "num_classes": 10**9, "dropout": 0, "final_bn": False, "l2_norm": False,
                "train_what": "ft"}, "num_classes is not a whole number from 1 to 65535"),
              ({"kind": "classes", "num_classes": 3, "dropout": 7, "final_bn": False, "l2_norm": False,
                "train_what": "ft"}, "dropout is no probability"),
              ({"kind": "classes", "num_classes": 3, "dropout": 0, "final_bn": False, "l2_norm": False,
                "train_what": "ft"}, "74 missing (backbone.stem.weight, "),
              ({"kind": "pretraining", "dim": 8, "n_series": 2, "series_dim": 4, "heads": ["clip", "__class__"]},
               "heads[1]"),
              ({"kind": "pretraining", "dim": 8, "n_series": 2, "series_dim": 4, "heads": ["clip"], "bn_splits": 2},
               "heads has bn_splits, which heads of this kind have not"),
              ({"kind": "pretraining", "dim": 8, "n_series": 60000, "series_dim": 60000, "heads": ["segment"]},
               "speaks of weights of 130 GB, and no network here has so many")],
    "protocol": [({}, "its clip protocol makes no sense"), (None, "protocol is not a dictionary"),
                 ({"mean": [0, 0, 0]}, "its clip protocol makes no sense")],
    "sha256": [("0" * 64, "its SHA-256 is "), (7, "sha256 is not text"), ("x" * 10**5, "its SHA-256 is ")],
    "untrained": [([1], "untrained[0] is not text"), ("stem", "untrained is not a list")],
    "versions": [(3, "versions is not a dictionary")],
}


def test_a_config_of_before_does_not_speak_of_dropped_tensors(copy):
    config = json.loads((copy / "config.json").read_text())
    assert config.pop("dropped") == []
    (copy / "config.json").write_text(json.dumps(config))
    assert "unused" not in read_folder(copy)["config"]
    heads = {"kind": "classes", "num_classes": 3, "dropout": 0, "final_bn": False, "l2_norm": False, "train_what": "ft"}
    for own in (None, heads):
        (copy / "config.json").write_text(json.dumps({**config, "heads": own, "dropped": [1]}))
        refused(copy, "dropped[0] is not text")


@pytest.mark.parametrize("name", CONFIGS)
def test_a_hostile_config_is_refused(copy, name):
    config = json.loads((copy / "config.json").read_text())
    for value, words in CONFIGS[name]:
        (copy / "config.json").write_text(json.dumps({**config, name: value}))
        refused(copy, words)
    del config[name]
    (copy / "config.json").write_text(json.dumps(config))
    refused(copy, f"has no {name}")


def test_a_config_that_is_none_is_refused(copy):
    for data, words in ((b"{}", "its content has no format"), (b"[" * 10**5, "too deep"),
                        (b" " * 2**21, "not expected"), (b"\xff", "not UTF-8"),
                        (b'{"format": "dualvar 1", "format": "x"}', "'format' stands there twice")):
        (copy / "config.json").write_bytes(data)
        refused(copy, words)
    (copy / "config.json").unlink()
    refused(copy, "has no config.json: it is no folder that python -m models.weights save wrote")
    os.mkfifo(copy / "config.json")
    refused(copy, "not a regular file")


def test_links_that_lead_out_are_not_followed(copy, folder, tmp_path):
    (copy / "inside").mkdir()
    (copy / "model.safetensors").rename(copy / "inside/weights")
    (copy / "model.safetensors").symlink_to("inside/weights")
    assert read_folder(copy)["state_dict"]
    for name in FILES:
        (copy / name).unlink()
        (copy / name).symlink_to(os.path.relpath(folder / name, copy))
    refused(copy, "config.json is a link that leads out of its folder")
    (copy / "config.json").unlink()
    (copy / "config.json").symlink_to("config.json")
    refused(copy, "has no config.json")
    assert read_folder(folder)["state_dict"]
    link = tmp_path / "link"
    link.symlink_to(folder)  # the folder itself may be one
    assert read_folder(link)["state_dict"]


@cases(2)
@given(st.data())
def test_fuzz_shared_folders(folder, tmp_path_factory, data):
    """Also with the SHA-256 of what is there: whoever damages a folder on purpose writes that too."""
    path = tmp_path_factory.getbasetemp() / "fuzz"
    path.mkdir(exist_ok=True)
    tensors, config = (folder / "model.safetensors").read_bytes(), (folder / "config.json").read_bytes()
    if data.draw(st.booleans()):
        config = data.draw(damaged(config))
    else:
        header, _ = header_of(tensors)
        text = data.draw(damaged(json.dumps(header).encode()))
        tensors = file_of(text, tensors[8 + struct.unpack("<Q", tensors[:8])[0]:])
        sha256 = hashlib.sha256(tensors).hexdigest()
        config = json.dumps({**json.loads(config), "sha256": sha256}).encode()
    (path / "model.safetensors").write_bytes(tensors)
    (path / "config.json").write_bytes(config)
    found = in_sentence(read_folder, path)
    if not isinstance(found, SENTENCES):
        assert all(value.isfinite().all() for value in found["state_dict"].values())
        in_sentence(from_pretrained, path)


def save(path, out, *flags):
    """`save` in this process -> the folder's tensors, or the error; what it prints is printable, and so is the card."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        found = in_sentence(weights.main, ["save", str(path), str(out), *flags])
    text = printed.getvalue()
    assert len(text) < 10**5 and all(line.isprintable() for line in text.splitlines())
    assert out.exists() == (not isinstance(found, SENTENCES)) and not [*out.parent.glob(".partial*")]
    if out.exists():
        card = (out / "README.md").read_text()
        assert len(card) < 10**5 and all(line.isprintable() for line in card.splitlines())
        assert huggingface_hub.ModelCard(card).data.library_name == "dualvar"
        found = read_folder(out)["state_dict"]
        assert all(value.isfinite().all() for value in found.values())
        shutil.rmtree(out)
    return found


@pytest.mark.parametrize("kind", ["pretrainer", "classifier"])
@cases(20)
@given(data=st.data())
def test_fuzz_checkpoints_that_are_saved(tmp_path_factory, kind, data):
    model, beside = networks()[kind]
    path = tmp_path_factory.getbasetemp() / "fuzz.tar"
    torch.save(broken(data.draw, {"state_dict": model.state_dict(), **beside, "epoch": 1, "step": 1, "steps": 2,
                                  "versions": {"torch": "9"}}), path)
    content = path.read_bytes()
    save(path, path.with_name("fuzz_out"), *(["--heads"] if data.draw(st.booleans()) else []))
    assert path.read_bytes() == content


@cases(4)
@given(data=st.data())
def test_fuzz_results_of_a_card(tmp_path_factory, data):
    """A damaged flags.json or result is a sentence, or is shown as it is: never markup, never a traceback."""
    top = tmp_path_factory.getbasetemp() / "fuzz_card"
    own = "f" * 16
    with pytest.MonkeyPatch.context() as patch:
        top.mkdir(exist_ok=True)
        patch.chdir(top)
        path = top / run_folder(own)
        files = sorted(top.glob("log/*/*/*/*.json"))
        one = files[data.draw(st.integers(0, len(files) - 1))]
        if data.draw(st.booleans()):
            one.write_bytes(data.draw(damaged(one.read_bytes())))
        else:
            content = broken(data.draw, json.loads(one.read_text()))
            with contextlib.suppress(ValueError, TypeError):  # what is no JSON
                one.write_text("{}" if unbounded(content) else json.dumps(content))
        config = {"network": NET, "width": WIDTH, "heads": None, "protocol": Protocol().values(), "untrained": [],
                  "dropped": [], "sha256": "0" * 64, "versions": {"commit": "x", "torch": "9", "python": "3"}}
        text = in_sentence(lambda: card(config, 7, run_of(path, {}, NET, WIDTH), {}, False, {own}))
    if isinstance(text, str):
        assert len(text) < 10**5 and all(line.isprintable() for line in text.splitlines())
        assert "<b>" not in text and huggingface_hub.ModelCard(text).data.library_name == "dualvar"


# --- the hub -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", [
    "../x", "a/../b", "a/..", "/etc/passwd", "a/b/c", "a", "a/b@../x", "a/b@/x", "a/b@x//y", "a/b.git", "a--b/c",
    "-a/b", "a/b.", "a /b", "a/b\n", "a/b@", "ä/b", "hf:hf:a/b", "a/" + "b" * 99, "a/b?x=y", "a/b%2e%2e", "",
    "a/b@refs/pr/..",
    "http://x/y", "a/~", "a\\b/c"])
def test_a_hostile_id_of_the_hub_is_refused(name, program):
    for text in (name, f"hf:{name}"):
        with pytest.raises(UsageError):
            parts_of(text)
    assert isinstance(in_sentence(read_weights, f"hf:{name}"), UsageError)
    assert isinstance(in_sentence(from_pretrained, name), SENTENCES)


@pytest.mark.parametrize("source", ["", "x" * 5000, "a\0b", "none", "a/b/c"])
def test_what_is_nowhere_is_named(source):
    found = in_sentence(from_pretrained, source)
    assert "is neither a folder that is there nor owner/name of the Hugging Face hub" in str(found)


def test_ids_of_the_hub():
    assert parts_of("hf:a/b") == parts_of("a/b") == ("a/b", None)
    assert parts_of("My-org_1/net.v2@refs/pr/3") == ("My-org_1/net.v2", "refs/pr/3")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A stand-in that huggingface_hub takes for the hub, an empty cache, and a token."""
    with Hub() as found:
        pages = found.url + "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in {"ENDPOINT": found.url, "HUGGINGFACE_CO_URL_TEMPLATE": pages, "HF_HUB_DISABLE_XET": True,
                            "HF_HUB_CACHE": str(tmp_path / "cache")}.items():
            monkeypatch.setattr(huggingface_hub.constants, name, value)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        yield found


def away(monkeypatch):
    """From now on nobody answers at the address of the hub."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")


def test_a_folder_goes_to_the_hub_and_comes_back(hub, copy, program, monkeypatch):
    (copy / "notes.txt").write_text("mine")
    code, out, error = program("models.weights", "push", copy, "me/small", "--dry_run")
    assert code == 0 and not hub.requests, error
    for words in (f"{copy}: r3d x 0.015625 to hf:me/small\n", "model.safetensors", "left out: notes.txt"):
        assert words in out
    code, out, error = program("models.weights", "push", copy, "me/small@next", "--dry_run")
    assert code == 0 and f"{copy}: r3d x 0.015625 to hf:me/small, revision next\n" in out, error
    code, out, error = program("models.weights", "push", copy, "me/small")
    assert code == 0 and f"uploaded: {hub.url}/me/small/commit/" in out and "hf_secret" not in out + error, error
    assert hub.files == {"me/small": {name: (copy / name).read_bytes() for name in FILES}}
    assert "Bearer hf_secret" in hub.tokens
    code, _, error = program("models.weights", "push", copy, "me/small", "--private")
    assert code == 1 and "hf:me/small is there already, and everybody can read it" in error
    hub.private = True
    assert program("models.weights", "push", copy, "me/small", "--private")[0] == 0
    hub.requests.clear()
    network = from_pretrained("me/small")
    assert torch.equal(network(CLIPS), networks()["backbone"][0](CLIPS))
    assert "GET /me/small/resolve/main/model.safetensors" in hub.requests
    assert "GET /me/small/resolve/main/README.md" not in hub.requests
    hub.requests.clear()
    code, out, error = program("retrieval.py", *SMALL, "--pretrain", "hf:me/small", "--dry_run")
    assert code == 0 and "retrieval/small_on_ucf101" in out, error
    assert "GET /me/small/resolve/main/model.safetensors" not in hub.requests  # the cache has it
    hub.files["me/small"]["config.json"] = b"{}"
    with pytest.raises(DataError, match="config.json is damaged .its content has no format"):
        from_pretrained("me/small")
    away(monkeypatch)  # what came last is there still
    with pytest.raises(DataError, match="config.json is damaged .its content has no format"):
        from_pretrained("me/small")


def test_without_network_the_cache_serves(hub, copy, program, monkeypatch):
    hub.files["me/small"] = {name: (copy / name).read_bytes() for name in FILES}
    assert from_pretrained("me/small").protocol == Protocol()
    away(monkeypatch)
    code, out, error = program("retrieval.py", *SMALL, "--pretrain", "hf:me/small", "--dry_run")
    assert code == 0 and "note: http://127.0.0.1:9 cannot be reached: what the cache " in out, error
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert torch.equal(from_pretrained("me/small")(CLIPS), networks()["backbone"][0](CLIPS))
    for script, flags in (("retrieval.py", SMALL), ("finetune.py", [*SMALL, "--batch_size", "4"])):
        code, _, error = program(script, *flags, "--pretrain", "hf:me/none")
        assert code == 1 and error.startswith("error: hf:me/none: http://127.0.0.1:9 cannot be reached (")
        assert "connect to the network, or copy the folder here" in error and error.count("\n") == 1
    code, _, error = program("models.weights", "push", copy, "me/small")
    assert code == 1 and error.startswith("error: hf:me/small: http://127.0.0.1:9 cannot be reached ("), error


def test_what_the_hub_refuses_is_one_sentence(hub, copy, program, monkeypatch, tmp_path):
    hub.files["me/other"] = {"weights.bin": b"x"}
    hub.files["me/huge"] = {name: (copy / name).read_bytes() for name in FILES}
    hub.sizes["model.safetensors"] = 2**42
    for name, words in (("hf:me/none", "has no such repository, or does not show it to this user: check the name"),
                        ("hf:me/other", "hf:me/other on the hub has no config.json: it is nothing that "),
                        ("hf:me/huge", "model.safetensors has 4398046511104 bytes on the hub, more than the ")):
        code, _, error = program("models.weights", "inspect", name)
        assert code == 1 and error.startswith("error: ") and words in error and error.count("\n") == 1, error
    assert not [request for request in hub.requests if request.startswith("GET") and "safetensors" in request]
    hub.refuse = 403
    code, _, error = program("models.weights", "push", copy, "me/small")
    assert code == 1 and "does not allow that with this user's token" in error
    code, _, error = program("models.weights", "push", copy, "me/../small")
    assert code == 2 and "'me/../small' names nothing on the Hugging Face hub" in error
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    code, _, error = program("models.weights", "push", copy, "me/small")
    assert code == 1 and "there is no token of the Hugging Face hub: log in (hf auth login), or set HF_TOKEN" in error


@pytest.mark.slow
def test_the_hub_is_where_the_environment_says(hub, copy, tmp_path):
    env = environment(tmp_path, HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path / "home"), HF_HUB_DISABLE_XET="1")
    succeed("models/weights/__main__.py", "push", copy, "me/small", cwd=tmp_path, env=env)
    assert hub.files["me/small"].keys() == {*FILES}
    out = succeed("models/weights/__main__.py", "convert", "hf:me/small", "out.pth.tar", cwd=tmp_path, env=env)
    assert "72 of 72 matched" in out and (tmp_path / "out.pth.tar").is_file()


def test_exported_files_are_pushed_where_they_are_as_the_config_says(hub, copy, program):
    (copy / "onnx").mkdir()
    for name in ("model.onnx", "preprocess.py"):
        (copy / "onnx" / name).write_bytes(name.encode())
    config = json.loads((copy / "config.json").read_text())
    right = {"sha256": hashlib.sha256(b"model.onnx").hexdigest(),
             "page_sha256": hashlib.sha256(b"preprocess.py").hexdigest()}
    for exports, words in (({"onnx": {**right, "sha256": "0" * 64}}, "onnx/model.onnx is damaged: its SHA-256 is not"),
                           ({"onnx": {**right, "page_sha256": "0" * 64}}, "onnx/preprocess.py is damaged: its SHA-256"),
                           ({"../x": right}, "exports has ../x"), ([1], "exports is not a dictionary"),
                           ({"int8": right}, "int8/model.onnx cannot be read"), ({"onnx": right}, "")):
        (copy / "config.json").write_text(json.dumps({**config, "exports": exports}))
        code, out, error = program("models.weights", "push", copy, "me/small")
        assert code == bool(words) and words in error and bool(hub.files) != bool(words), error
    assert hub.files["me/small"].keys() == {*FILES, "onnx/model.onnx", "onnx/preprocess.py"}
    (copy / "onnx/preprocess.py").unlink()
    code, _, error = program("models.weights", "push", copy, "me/small")
    assert code == 1 and "onnx/preprocess.py cannot be read (No such file or directory): export again" in error


def test_a_folder_that_is_not_whole_is_not_pushed(program, copy, tmp_path):
    (tmp_path / "secret").write_text("mine")
    (copy / "README.md").unlink()
    (copy / "README.md").symlink_to(tmp_path / "secret")
    for words in ("README.md is a link that leads out", "has no README.md"):
        code, _, error = program("models.weights", "push", copy, "me/small", "--dry_run")
        assert code == 1 and words in error
        (copy / "README.md").unlink(missing_ok=True)


def test_a_probe_of_saved_features_is_in_the_card(program):
    model, beside = networks()["pretrainer"]
    path = Path("log/dualvar/pretrain/run/model/latest.pth.tar")
    path.parent.mkdir(parents=True)
    (path.parents[1] / "flags.json").write_text(json.dumps({"flags": {"dataset": "ucf101"}}))
    torch.save({"state_dict": model.state_dict(), **beside}, path)
    flags = [*SMALL, "--pretrain", path, "--clips", "2", "--save_features", "kept"]
    for name, rows in ("own", 1), ("again", 0):  # the features are written anew, by weights of another seed
        if not rows:
            flags[flags.index(path)] = "random"
            flags += ["--net", NET, "--width", "0.0625"]
        code, _, error = program("retrieval.py", *flags, "--name", name)
        assert code == 0, error
        code, _, error = program("analysis/probe.py", "--dataset", "ucf101", "--features", "kept")
        assert code == 0, error
        assert program("models.weights", "save", path, name)[0] == 0
        text = Path(name, "README.md").read_text()
        assert text.count("| linear probe on 12 features |") == rows and "| retrieval among 12 " in text


def test_the_same_tensors_with_another_normalisation_are_other_weights(tmp_path):
    state = networks()["backbone"][0].state_dict()
    own, other = Protocol(), Protocol(mean=(0.5, 0.5, 0.5))
    assert fingerprint(state, own) == fingerprint(state, Protocol(ds=1)) != fingerprint(state, other)


def test_what_was_never_trained_is_said_of_a_probe_s_classifier_too(program):
    state, config = networks()["backbone"][0].state_dict(), {
        "net": NET, "width": WIDTH, "partial": ["stem.weight"], "unused": ["block9.weight"]}
    torch.save({"state_dict": state, "config": config}, "part.pth.tar")
    for kind, untrained in ("last", ["stem.weight"]), ("ft", []):
        flags = ["--train_what", kind, "--batch_size", "4", "--epochs", "1", "--name", "x"]
        code, _, error = program("finetune.py", *SMALL, "--pretrain", "part.pth.tar", *flags)
        assert code == 0, error
        latest = f"log/dualvar/{kind}/x/model/latest.pth.tar"
        assert program("models.weights", "save", latest, kind, "--heads")[0] == 0
        config = json.loads(Path(kind, "config.json").read_text())
        assert (config["untrained"], config["dropped"]) == (untrained, ["block9.weight"] if untrained else [])
        assert ("**This is a part of another network**" in Path(kind, "README.md").read_text()) == bool(untrained)
        for checkpoint in latest, kind:
            code, out, error = program("test.py", *SMALL, "--checkpoint", checkpoint, "--dry_run")
            assert code == 0 and ("1 tensors of" in out) == bool(untrained), out + error


def test_a_run_of_another_network_is_not_that_of_the_weights(program):
    path = run_folder("0" * 16).with_name("other.pth.tar")
    flags = json.loads((path.parents[1] / "flags.json").read_text())
    flags["flags"]["net"] = "r21d"
    (path.parents[1] / "flags.json").write_text(json.dumps(flags))
    torch.save({"state_dict": networks()["backbone"][0].state_dict(), "config": {"net": NET, "width": WIDTH}}, path)
    code, _, error = program("models.weights", "save", path, "out")
    assert code == 0 and "Not known: the checkpoint does not say" in Path("out/README.md").read_text(), error
    assert json.loads(Path("out/config.json").read_text())["protocol"]["seq_len"] == 16


def test_save_takes_what_inspect_takes(program, folder):
    code, _, error = program("models.weights", "save", folder, "again")
    assert code == 0 and (Path("again") / "model.safetensors").read_bytes() == (
        folder / "model.safetensors").read_bytes(), error

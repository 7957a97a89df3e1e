"""Damaged checkpoints, byte by byte and entry by entry, given to everything that reads a checkpoint."""
import contextlib
import functools
import importlib
import io
import json
import shutil
import zipfile
from pathlib import Path

import foreign
import pytest
import torch
from fuzz import SENTENCES, bounded, broken, cases, damaged, in_sentence
from helpers import SMALL, exit_code
from hypothesis import given
from hypothesis import strategies as st

import finetune
import train
from core.errors import CheckpointError
from dataset.lists import open_list
from dataset.loader import TrainBatches
from dataset.local_dataset import DATASETS, UCF101_GROUP, LocalDataset
from engine.optim import sgd
from engine.resume import find_resume
from engine.session import RunSettings, Session
from models import build_backbone, build_classifier, build_pretrainer
from models.dualvar import Embedded
from models.protocol import Protocol
from models.weights import __main__ as weights
from models.weights.checkpoint import read_checkpoint
from models.weights.loading import load_backbone

RUN = [*SMALL, "--net", "r3d", "--width", "0.015625", "--batch_size", "4", "--epochs", "1", "--save_steps", "2"]
TINY = ["--dim", "4", "--series_dim", "4", "--eval_every", "0"]
STAGES = {  # a script, its flags, its run's folder
    "simclr": (train, [*RUN, *TINY], "pretrain"),
    "moco": (train, [*RUN, *TINY, "--framework", "moco", "--moco-k", "8"], "pretrain"),
    "ft": (finetune, [*RUN, "--pretrain", "random"], "ft"),
}
CPU = torch.device("cpu")


class Quiet(dict):
    """Not shown by pytest in full."""

    def __repr__(self):
        return "..."


@pytest.fixture(scope="module")
def runs(root, tmp_path_factory):
    """{stage: content of a checkpoint that a real run wrote amid its epoch}; the data set stays in place."""
    found = Quiet()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("runs"))
        patch.setitem(DATASETS, "ucf101", LocalDataset(root / "ucf101/frames", root / "lists/ucf101", UCF101_GROUP, 3))
        with contextlib.redirect_stdout(io.StringIO()):
            for stage, (script, flags, folder) in STAGES.items():
                assert exit_code(script, [*flags, "--name", stage], patch) == 0
                found[stage] = read_checkpoint(Path("log/dualvar") / folder / stage / "model/previous.pth.tar")
                assert (found[stage]["step"], found[stage]["steps"]) == (2, 3)
        yield found


@pytest.fixture(scope="module")
def resumed(runs, tmp_path_factory):
    """Goes on from a checkpoint as a run of a stage would -> what it would save next."""
    folder = tmp_path_factory.mktemp("resumed")
    videos = open_list("ucf101", "train", 1)

    def go_on(state, stage, override=False):
        shutil.rmtree(folder)
        folder.mkdir()
        path, right = folder / "x.tar", runs[stage]
        torch.save(state, path)
        before, model = path.read_bytes(), network(stage, json.dumps(right["config"]))
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        batches = TrainBatches(len(videos), 4)
        flags = {**right["flags"], "resume": str(path), "override": override}
        try:
            resume = find_resume(folder / "run", flags, right["config"], right["inputs"], model, len(batches))
        except CheckpointError as error:
            assert str(path) in str(error) and not (folder / "run").exists()
            assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
            raise
        finally:
            assert path.read_bytes() == before
        settings = RunSettings(folder / "run", right["config"], flags, right["inputs"], 1)
        optimizer, scaler = sgd(model, flags["lr"], flags["momentum"], flags["wd"]), torch.amp.GradScaler(enabled=False)
        with Session(settings, model, optimizer, scaler, batches, videos, CPU, resume) as session:
            session.record(2, torch.zeros(()), torch.zeros(()), {"loss": 0.0})
            session.end_step(0, 2)
            session.end_epoch(0)
        return read_checkpoint(folder / "run/model/latest.pth.tar")

    return go_on


@functools.cache
def network(stage, config):
    return (build_classifier if stage == "ft" else build_pretrainer)(**json.loads(config))


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    return all(equal(a[key], b[key]) for key in a) if isinstance(a, dict) else a == b


# --- checkpoints of training -----------------------------------------------------------------------------------

def changed(tree, path, value):
    """A copy of a tree with the entry at `path` (a tuple of keys) replaced, or taken out where value is ...."""
    copy, (key, *below) = type(tree)(tree), path
    if below:
        copy[key] = changed(tree[key], below, value)
    elif value is ...:
        del copy[key]
    else:
        copy[key] = value
    return copy


BUFFER = "optimizer", "state", 3, "momentum_buffer"


@pytest.mark.parametrize("path, value, words", [
    (("optimizer",), {}, "optimizer has no state, param_groups"),
    (("optimizer",), None, "optimizer is not a dictionary"),
    (("optimizer", "param_groups"), [1, 2], "param_groups[0] is not a dictionary"),
    (("optimizer", "state"), {}, "the momentum of 0 parameters"), (("optimizer", "state", 3), 7, "is a NoneType"),
    (BUFFER, torch.zeros(3), "(3,) for ("), (BUFFER, None, "is a NoneType"), (BUFFER, [1.0], "is a list"),
    (BUFFER, torch.zeros(4, 4, 3, 3, 3).double(), "torch.float64 for torch.float32"),
    (BUFFER, torch.full((4,), float("nan")), "momentum of encoder.backbone."),
    (("meters",), {}, "meters has no window, whole"), (("meters",), 3, "meters is not a dictionary"),
    (("meters", "window", "sums"), [["x"]], "sums of window"), (("meters", "whole", "sums"), [], "sums of whole"),
    (("meters", "whole", "names"), ["epoch"], "holds the name epoch"),
    (("meters", "whole", "count"), -1, "whole counts -1 steps"),
    (("flags", "lr"), torch.zeros(2), "lr is not of a plain type"), (("flags", "lr"), "9" * 10**6, "lr 999"),
    (("flags", "net"), "r\n3d" * 10**6, r"net 'r\n3d"), (("flags",), [], "flags is not a dictionary"),
    (("flags", "epochs"), ..., "flags has no epochs"), (("flags", "precision"), ["fp32"], "precision ['fp32'] there"),
    (("epoch",), -1, "epoch -1 of 1"), (("epoch",), 10**30, "epoch is not a whole number"),
    (("epoch",), 1, "epoch 1 of 1"), (("epoch",), 0.0, "epoch is not"), (("epoch",), True, "epoch is not"),
    (("step",), 0, "step 0 of 3"), (("step",), 4, "step 4 of 3"), (("steps",), 2**62, "steps of an epoch"),
    (("replaced",), -1, "replaced -1"), (("scaler",), None, "scaler is not a dictionary"),
    (("scaler",), {"scale": 2.0}, "scaler has no growth_factor"), (("scaler",), [1], "scaler is not a dictionary"),
    (("scaler",), {"scale": 1e39, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000,
                   "_growth_tracker": 0}, "scaler holds values"),
    (("config",), 3, "of another stage"), (("config", "net"), torch.zeros(1), "net is not of a plain type"),
    (("config", "framework"), [1], "framework [1] there"), (("config", 7), 1, "config has a key that is not text"),
    (("inputs", "training list"), 7, "training list is not text"), (("versions",), None, "versions is not a dict"),
    (("state_dict", "queue"), ..., "1 missing (queue)"), (("state_dict", "queue"), 7, "queue a int"),
    (("state_dict", "queue"), torch.zeros(1).expand(10**12), "queue (1000000000000,) for (8, 4)"),
    (("state_dict", "queue_position"), torch.tensor(0.5), "1 of another type (queue_position torch.float32"),
    (("state_dict", "queue"), torch.full((8, 4), float("inf")), "1 not finite (queue)"),
    (("state_dict", "more"), torch.zeros(1), "1 unexpected (more)"),
])
def test_a_crafted_checkpoint_is_refused_and_the_entry_named(runs, resumed, path, value, words):
    found = in_sentence(resumed, changed(runs["moco"], path, value), "moco")
    assert isinstance(found, CheckpointError) and words in str(found), found


@pytest.mark.parametrize("stage", STAGES)
def test_a_whole_checkpoint_is_taken_up_as_it_is(runs, resumed, stage):
    after = resumed(runs[stage], stage)
    for part in ("state_dict", "config", "inputs", "replaced"):
        assert equal(runs[stage][part], after[part])
    assert equal(runs[stage]["optimizer"]["state"], after["optimizer"]["state"])
    assert after["versions"]["processes"] == 1


def test_an_optimizer_s_settings_are_the_flags_not_the_checkpoint_s(runs, resumed):
    groups = [{**group, "weight_decay": 7.0, "maximize": True} for group in runs["moco"]["optimizer"]["param_groups"]]
    after = resumed(changed(runs["moco"], ("optimizer", "param_groups"), groups), "moco")
    assert equal(after["optimizer"], runs["moco"]["optimizer"])


def test_a_queue_goes_round_wherever_its_next_place_is():
    """As after --override with another --batch_size."""
    model = build_pretrainer("moco", "r3d", mode="clip", width=0.015625, dim=4, queue_size=8)
    model.queue_position.fill_(6)
    model.queue.zero_()
    model.after_losses({"clip": Embedded("clip", torch.zeros(4, 4), torch.ones(4, 4))})
    assert model.queue[:, 0].tolist() == [1, 1, 0, 0, 0, 0, 1, 1] and model.queue_position == 2


@pytest.mark.parametrize("stage", STAGES)
@cases()
@given(st.data(), st.booleans())
def test_fuzz_training_checkpoints(runs, resumed, stage, data, override):
    state = broken(data.draw, runs[stage])
    found = in_sentence(resumed, state, stage, override)
    if not isinstance(found, SENTENCES):  # what was damaged has no part in how the run goes on
        for part in ("state_dict", "optimizer"):
            tensors = found[part] if part == "state_dict" else found[part]["state"]
            assert equal(tensors, state[part] if part == "state_dict" else state[part]["state"])


# --- checkpoints of weights ------------------------------------------------------------------------------------

def saved(content, **options):
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def pickle_damaged(draw, content):
    """A checkpoint whose description of its tensors is damaged, and has the checksum that goes with it."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved(content))) as whole, zipfile.ZipFile(file, "w") as archive:
        for name in whole.namelist():
            data = whole.read(name)
            archive.writestr(name, draw(damaged(data)) if name.endswith("data.pkl") else data)
    return file.getvalue()


FILE = {"state_dict": build_backbone("r3d", 0.015625).state_dict(), "config": {"net": "r3d", "width": 0.015625}}
NESTED = {"model": {"state_dict": {"model": FILE["state_dict"]}, "config": FILE["config"]}, "model_ema": {}, "epoch": 3}
KINDS = {"zip": lambda draw: draw(damaged(saved(FILE))), "pickle": lambda draw: pickle_damaged(draw, FILE),
         "legacy": lambda draw: draw(damaged(saved(FILE, _use_new_zipfile_serialization=False)))}


def take(path):
    """Read a checkpoint, and load its backbone -> the network, or what reading or loading raises."""
    backbone = build_backbone("r3d", 0.015625)
    weights = {name: value.clone() for name, value in backbone.state_dict().items()}
    try:
        load_backbone(backbone, read_checkpoint(path), path)
    except CheckpointError as error:
        assert str(path) in str(error) and equal(weights, backbone.state_dict())
        raise
    assert all(value.isfinite().all() for value in backbone.state_dict().values())
    return backbone.state_dict()


def look(path):
    """What `inspect` and `convert` do with a file."""
    out = path.with_name("out.tar")
    out.unlink(missing_ok=True)
    for arguments in (["inspect", str(path)], ["convert", str(path), str(out)]):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            found = in_sentence(weights.main, arguments)
        text = printed.getvalue()
        assert len(text) < 10**5 and all(line.isprintable() for line in text.splitlines())
        assert out.exists() == (not isinstance(found, SENTENCES) and arguments[0] == "convert")
    if out.exists():
        assert all(value.isfinite().all() for value in read_checkpoint(out)["state_dict"].values())


@pytest.mark.parametrize("kind", KINDS)
@cases()
@given(st.data())
def test_fuzz_bytes(tmp_path_factory, kind, data):
    content = KINDS[kind](data.draw)
    path = tmp_path_factory.getbasetemp() / "fuzz.tar"
    path.write_bytes(content)
    found = in_sentence(take, path)
    if kind == "zip" and not isinstance(found, SENTENCES):
        assert equal(FILE["state_dict"], found)  # what was damaged is not read
    if data.draw(st.integers(0, 3)) == 0:
        look(path)
    assert path.read_bytes() == content


@cases()
@given(st.data())
def test_fuzz_weights(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "fuzz.tar"
    torch.save(broken(data.draw, FILE if data.draw(st.booleans()) else NESTED), path)
    content = path.read_bytes()
    in_sentence(take, path)
    if data.draw(st.integers(0, 3)) == 0:
        look(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("family", ["slowfast", "mmaction2"])
@cases(8)
@given(st.data())
def test_fuzz_configurations_of_others(family, data):
    """What says of strides and clips in their files."""
    name, key, text = {"slowfast": (foreign.slowfast_name, "cfg", foreign.CFG),
                       "mmaction2": (foreign.mmaction2_name, "meta", "dict(clip_len=8, frame_interval=8)")}[family]
    said = data.draw(damaged(text.encode())).decode("utf-8", "replace")
    said = said if family == "slowfast" else {"cfg": said}
    weights = foreign.SlowR50(name, 0.015625).state_dict()
    content = broken(data.draw, {key: said}) if data.draw(st.booleans()) else {key: said}
    content = content if isinstance(content, dict) else {}
    backbone = build_backbone("slow_r50", 0.015625)
    before = backbone.protocol
    found = in_sentence(load_backbone, backbone, {"state_dict": weights, "config": {}, **content}, "x")
    if isinstance(found, SENTENCES):
        assert backbone.protocol == before
    else:
        assert Protocol.read(backbone.protocol.values(), "x") == backbone.protocol


COMMANDS = {  # with a stage's checkpoint as PATH
    "simclr": [["train.py", *STAGES["simclr"][1], "--name", "again", "--resume", "PATH"],
               ["retrieval.py", *SMALL, "--clips", "2", "--name", "again", "--pretrain", "PATH"]],
    "moco": [["train.py", *STAGES["moco"][1], "--name", "again", "--resume", "PATH", "--override"]],
    "ft": [["finetune.py", *STAGES["ft"][1], "--name", "again", "--resume", "PATH"],
           ["finetune.py", *RUN[:-2], "--name", "again", "--pretrain", "PATH"],
           ["test.py", *SMALL, "--clips", "2", "--name", "again", "--checkpoint", "PATH"]],
}


@pytest.mark.slow
@pytest.mark.parametrize("stage, number", [(stage, n) for stage in STAGES for n in range(len(COMMANDS[stage]))])
@cases(20)
@given(st.data())
def test_fuzz_commands(root, runs, tmp_path_factory, stage, number, data):
    where = tmp_path_factory.mktemp("command")
    path = where / "x.tar"
    torch.save(broken(data.draw, runs[stage]), path)
    content = path.read_bytes()
    script, *flags = [str(path) if flag == "PATH" else flag for flag in COMMANDS[stage][number]]
    out, err = io.StringIO(), io.StringIO()
    with bounded(), pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), \
            contextlib.redirect_stderr(err):
        patch.chdir(where)
        code = exit_code(importlib.import_module(script.removesuffix(".py")), flags, patch)
    error = err.getvalue()
    assert code in (0, 1, 2) and "Traceback" not in error and len(error) < 10**4
    assert code == 0 or error.splitlines()[-1].startswith("error: ")
    assert path.read_bytes() == content
    shutil.rmtree(where)

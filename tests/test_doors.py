"""What a newcomer adds (tests/toys.py) through the doors of docs/architecture.md alone, and half-made additions."""
import json

import pytest
import torch
import toys
from helpers import SMALL, environment, make_dataset, succeed

from engine.setup import check_shapes
from models import FRAMEWORKS, build_pretrainer
from models.backbones import BACKBONES
from models.backbones.base import Backbone
from models.dualvar import TERMS, Term, parse_mode, term_of, total_loss
from models.weights.checkpoint import read_checkpoint


@pytest.fixture
def added(monkeypatch):
    for table, name, entry in toys.TOYS:
        monkeypatch.setitem(table, name, entry)


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """{(processes, parts): [what each process found]} of one training step of every mode."""
    found = {}
    for processes, parts in ((1, 1), (1, 2), (2, 1), (2, 2)):
        folder = tmp_path_factory.mktemp("steps")
        env = environment(folder)
        env["PYTHONPATH"] += f":{env['PYTHONPATH']}/tests"
        succeed("tests/toys.py", "steps", folder, parts, cwd=folder, env=env, processes=processes)
        found[processes, parts] = [torch.load(folder / f"{processes}_{r}.pt", weights_only=True)
                                   for r in range(processes)]
    return found


@pytest.mark.parametrize("divided", [(1, 2), (2, 1), (2, 2)])
@pytest.mark.parametrize("mode", toys.MODES)
@pytest.mark.slow
def test_a_new_framework_trains_all_its_parameters_alike_however_the_batch_is_divided(steps, mode, divided):
    """Its predictor, which stands beside the encoder, included; the losses are means over samples."""
    whole = steps[1, 1][0][mode]
    assert any(name.startswith("predictor.") for name in whole["gradients"])
    mean = sum(found[mode]["loss"] for found in steps[divided]) / divided[0]
    assert torch.allclose(mean, whole["loss"], rtol=1e-9)
    for found in steps[divided]:
        assert found[mode]["gradients"].keys() == whole["gradients"].keys()
        for name, gradient in whole["gradients"].items():
            assert (found[mode]["gradients"][name] - gradient).norm() <= 1e-9 * gradient.norm() + 1e-12, name


@pytest.mark.parametrize("processes,accumulate", [(1, 1), (2, 2)])
@pytest.mark.slow
def test_new_backbone_term_and_framework_go_through_the_stages(tmp_path, processes, accumulate):
    env = environment(make_dataset(tmp_path))
    env["PYTHONPATH"] += f":{env['PYTHONPATH']}/tests"
    options = {"cwd": tmp_path, "env": env, "processes": processes}
    succeed("tests/toys.py", "train.py", *SMALL, "--net", "tiny", "--width", "0.25", "--framework", "byol",
            "--target-m", "0.9", "--mode", "clip-sr-same", "--same_weight", "2", "--batch_size", "4", "--accumulate",
            accumulate,
            "--epochs", "1", "--bn", "local", "--eval_every", "1", "--name", "toys", **options)
    run = tmp_path / "log/dualvar/pretrain/toys"
    row = json.loads((run / "log.jsonl").read_text())
    assert row["loss/total"] == pytest.approx(row["loss/clip"] + row["loss/sr_view1"] + row["loss/sr_view3"]
                                              + 2 * row["loss/same"], rel=1e-5)
    assert "top1_permuted/sr_view1" in row and "top1/same" not in row and "variance/within_video" in row
    config = read_checkpoint(run / "model/latest.pth.tar")["config"]
    assert config["target_momentum"] == 0.9 and "queue_size" not in config
    out = succeed("tests/toys.py", "retrieval.py", *SMALL, "--pretrain", run / "model/backbone.pth.tar", **options)
    assert "R@1" in out
    inspected = succeed("tests/toys.py", "models/weights/__main__.py", "inspect", run / "model/backbone.pth.tar",
                        cwd=tmp_path, env=env)
    assert "tiny        x 0.25   fits" in inspected


def test_flags_of_new_entries_are_checked(added, tmp_path):
    with pytest.raises(ValueError, match="--target-m 1.5 is not between 0 and 1"):
        FRAMEWORKS["byol"].options[0].check(1.5)
    with pytest.raises(ValueError, match="no framework has an option tau"):
        build_pretrainer("byol", "tiny", "clip", tau=1)
    assert list(parse_mode("same-clip")) == ["clip", "same"]


def test_a_loss_that_no_weight_names_is_an_error(added, monkeypatch):
    losses = {"clip": torch.tensor(1.0), "same": torch.tensor(3.0)}
    assert total_loss(losses, {"clip": 1, "same": 0.5}).item() == 2.5
    with pytest.raises(ValueError, match="no weight for term 'same'"):
        total_loss(losses, {"clip": 1})
    with pytest.raises(ValueError, match="'other' is of no term"):
        term_of("other")


def test_a_term_that_makes_other_losses_than_it_names_is_an_error(monkeypatch):
    monkeypatch.setitem(TERMS, "half", Term("clip", ("view1", "view2"), toys.same_loss, ("half",)))
    monkeypatch.setitem(TERMS, "same", Term("clip", ("view1", "view3"), toys.same_loss, ("other",)))
    model = build_pretrainer("simclr", "r3d", "same", width=0.0625)
    with pytest.raises(ValueError, match=r"term 'same' makes losses \['same'\], TERMS names \['other'\]"):
        model(torch.randn(2, 3, 3, 4, 24, 24))


def test_a_framework_that_lacks_a_view_is_an_error(added, monkeypatch):
    class Lazy(toys.Byol):
        def embed(self, views, permutation, encode):
            found = super().embed(views, permutation, encode)
            found["clip"].view3 = None
            return found

    monkeypatch.setitem(FRAMEWORKS, "lazy", Lazy)
    model = build_pretrainer("lazy", "tiny", "clip-same", width=0.25)
    with pytest.raises(ValueError, match="term 'same' needs view3, which framework Lazy does not embed"):
        model(torch.randn(2, 3, 3, 4, 24, 24))


def test_a_second_term_with_the_same_loss_is_an_error(monkeypatch):
    monkeypatch.setitem(TERMS, "copy", Term("clip", ("view1", "view3"), toys.same_loss, ("same",)))
    monkeypatch.setitem(TERMS, "same", Term("clip", ("view1", "view3"), toys.same_loss, ("same",)))
    model = build_pretrainer("simclr", "r3d", "copy-same", width=0.0625)
    with pytest.raises(ValueError, match="two terms of the mode make a loss 'same'"):
        model(torch.randn(2, 3, 3, 4, 24, 24))


@pytest.mark.parametrize("entry,message", [
    (("segmnt", ("view1",), ("a",)), "head 'segmnt' of a term is not one of clip, segment"),
    (("clip", ("veiw3",), ("a",)), "views veiw3 of a term are not of restored, view1, view2, view3"),
    (("clip", ("view1"), ("a",)), "views of a term is a tuple of names, not 'view1'"),
    (("clip", ("view1",), ("match")), "names of a term is a tuple of names, not 'match'"),
    (("clip", ("view1", "restored"), ("a",)), "head 'clip' of a term has no view `restored`")])
def test_a_term_that_cannot_be_right_is_refused(entry, message):
    head, views, names = entry
    with pytest.raises(ValueError, match=message):
        Term(head, views, toys.same_loss, names)


@pytest.mark.parametrize("framework", ["simclr", "moco"])
@pytest.mark.parametrize("mode", ["clip", "clip-same", "sr", "clip-sr-same", "same"])
def test_encodes_says_what_is_encoded(added, framework, mode):
    """The check of low precision looks at these numbers of clips."""
    model, sizes = build_pretrainer(framework, "tiny", mode, width=0.25, queue_size=4), set()

    def encode(encoder, views):
        sizes.add(views.shape[1])
        return encoder(views)

    model(torch.randn(2, 3, 3, 4, 24, 24), encode=encode)
    assert sizes == model.encodes


def test_a_backbone_that_breaks_its_contract_is_named(monkeypatch):
    class Wrong(toys.Tiny):
        def __init__(self, width=1.0):
            super().__init__(width)
            self.feature_dim += 1

    monkeypatch.setitem(BACKBONES, "wrong", Wrong)
    with pytest.raises(ValueError, match="backbone wrong gives a feature map"):
        check_shapes("wrong", 8, 32)
    monkeypatch.setattr(Wrong, "parts", Backbone.parts)
    with pytest.raises(NotImplementedError, match="Wrong does not define `parts`"):
        check_shapes("wrong", 8, 32)

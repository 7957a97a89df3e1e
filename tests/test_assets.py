"""The paper's figures are the paper's, and asset/draw.py draws them."""
import cv2
import numpy as np
import pytest
from test_recipes import recipes

import finetune
import retrieval
import test as ten_clip_test
import train
from analysis.paper import FINETUNED, PROTOCOL, RETRIEVAL
from asset import draw
from engine.flags import complete_source_flags


def test_figures_of_the_paper():
    ours = {row[:2]: row[2:] for row in FINETUNED if row[0].startswith("DualVar")}
    assert ours == {("DualVar (MoCo)", "UCF101"): (78.5, 47.5), ("DualVar (SimCLR)", "UCF101"): (79.0, 45.4),
                    ("DualVar (SimCLR)", "K400"): (82.0, 51.2)}
    assert ("CoCLR", None, 87.9, 54.6) in FINETUNED and len({row[:2] for row in FINETUNED}) == 16
    assert RETRIEVAL["DualVar"] == {1: 46.7, 5: 63.1, 10: 69.7, 20: 78.0, 50: 87.8}
    assert all(list(found) == [1, 5, 10, 20, 50] and sorted(found.values()) == list(found.values())
               for found in RETRIEVAL.values())


@pytest.mark.parametrize("stage", PROTOCOL)
def test_recipes_keep_to_the_protocol(stage):
    module, array, more = {"pretrain": (train, "PRETRAIN", []), "test": (ten_clip_test, "TEST", []),
                           "retrieval": (retrieval, "RETRIEVAL", [])}.get(stage, (finetune, "FINETUNE",
                                                                                  ["--pretrain", "x"]))
    experiment = "simclr_r21d_clip-sr-tc_" + ("k400" if stage.endswith("k400") else "ucf101")
    recipe = recipes([experiment])[experiment]
    args = module.flags().parse_args(recipe["NETWORK"] + recipe[array] + more)
    if module is train:
        complete_source_flags(args)
    assert {name: getattr(args, name) for name in PROTOCOL[stage]} == PROTOCOL[stage]


@pytest.mark.parametrize("name", ["finetune_acc", "retrieval_acc"])
def test_charts(tmp_path, name):
    """Drawn as wide as they say, on white, and nothing reaches the edge, where it would be cut off."""
    getattr(draw, f"draw_{name}")(tmp_path)
    picture = cv2.imread(str(tmp_path / f"{name}.png"))
    assert picture.shape[1:] == (draw.WIDTH * draw.DPI, 3) and picture.std() > 20
    edge = np.concatenate([picture[[0, -1]].reshape(-1, 3), picture[:, [0, -1]].reshape(-1, 3)])
    assert (edge == 255).all()

"""Networks through torch.hub, which reads this file in a checkout or downloads one:

    torch.hub.load(CHECKOUT, "r21d", source="local", weights=DIR)
    torch.hub.load("OWNER/REPOSITORY", "r21d", weights="owner/name")

Every network of models/backbones/ is an entry.
"""
import importlib
from collections.abc import Callable
from pathlib import Path

dependencies = ["torch", "torchvision", "numpy"]

HERE = Path(__file__).resolve().parent
for _name in ("core", "dataset", "models"):  # in the order in which they import each other
    _found = importlib.import_module(_name)
    if Path(_found.__file__ or "").resolve().parent != HERE / _name:
        raise ImportError(f"another package called {_name} is imported already, {_found.__file__}: load this one "
                          "first, or in a process of its own")

import models  # noqa: E402


def _entry(net: str) -> Callable[..., models.Backbone]:
    def load(weights: str | Path | None = None, width: float | None = None) -> models.Backbone:
        if weights is None:
            return models.build_backbone(net, 1.0 if width is None else width)
        if width is not None:
            raise ValueError("width: weights have their own, leave it out")
        return models.from_pretrained(weights, net=net)

    load.__name__ = net
    load.__doc__ = f"""Network {net}: clips (B, 3, T, H, W) float -> feature map (B, feature_dim, t, h, w).

    weights: a folder that `python -m models.weights save` wrote, or owner/name of the Hugging Face hub, whose network
    comes in evaluation mode; None: random weights, with the channels of every layer times `width`.
    """
    return load


globals().update({_net: _entry(_net) for _net in models.BACKBONES})

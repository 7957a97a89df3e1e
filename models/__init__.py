"""Networks, heads, frameworks and losses of DualVar."""
import core  # noqa: F401  # before what takes seconds to import

# isort: split
from collections.abc import Mapping
from typing import Any

from .backbones import BACKBONES
from .backbones.base import Backbone
from .batchnorm import split_batchnorm
from .classifier import Classifier
from .dualvar import DualEncoder, Pretrainer, parse_mode
from .moco import MoCo
from .protocol import Protocol
from .simclr import SimCLR
from .weights.loading import load_released
from .weights.share import from_pretrained

__all__ = ["BACKBONES", "FRAMEWORKS", "Backbone", "build_backbone", "build_classifier", "build_pretrainer",
           "from_pretrained", "load_released"]

FRAMEWORKS: dict[str, type[Pretrainer]] = {"simclr": SimCLR, "moco": MoCo}


def options_of_others(framework: object) -> set[str]:
    """Names of the flags that only frameworks other than this one have."""
    return {option.dest for name, other in FRAMEWORKS.items() for option in other.options if name != framework}


def _entry(kind: str, name: str, table: Mapping[str, Any]) -> Any:
    if name not in table:
        raise ValueError(f"{kind} {name!r} is not one of {', '.join(table)}")
    return table[name]


def _told(backbone: Backbone, protocol: Mapping[str, Any] | None) -> Backbone:
    if protocol is not None:
        backbone.protocol = Protocol.read(protocol, "the network's config")
    return backbone


def build_backbone(name: str, width: float = 1.0, protocol: Mapping[str, Any] | None = None) -> Backbone:
    """Backbone `name`, a key of BACKBONES, with its channels times `width`; attribute `feature_dim`.

    protocol: what clips its weights will expect, as Protocol.values gives it; None: those of its class.
    Maps clips (B, 3, T, H, W) float to (B, feature_dim, t, h, w). Raises ValueError for an unknown name, a width not
    above 0, or a protocol that is none.
    """
    if isinstance(width, str) or not width > 0:
        raise ValueError(f"width {width!r}: give a number above 0")
    return _told(_entry("net", name, BACKBONES)(width), protocol)


def build_pretrainer(framework: str, net: str, mode: str = "clip-sr-tc", n_series: int = 2, series_dim: int = 64,
                     dim: int = 128, width: float = 1.0, temperature: float = 0.07, theta: float = 0.05,
                     sr_clamp: float | None | str = "default", bn_splits: int = 1,
                     protocol: Mapping[str, Any] | None = None, **options: Any) -> Pretrainer:
    """A framework (simclr, moco) with the loss terms of `mode`, terms of TERMS joined by '-'.

    n_series segments of series_dim, clip embedding of dim; temperature of clip and tc; theta of shuffle-rank and
    sr_clamp its cap ("default": the framework's); bn_splits > 1 takes batch statistics over that many parts of the
    batch; protocol: as in build_backbone; options: the framework's own (MoCo: queue_size, momentum, shuffle_keys),
    those of other frameworks have no effect. Raises ValueError for an unknown framework, net, mode or option, and
    where segments are shuffled but fewer than 2.
    """
    build = _entry("framework", framework, FRAMEWORKS)
    _entry("net", net, BACKBONES)
    terms = parse_mode(mode)
    for name, term in terms.items():
        if term.shuffles and n_series < 2:
            raise ValueError(f"term {name} needs at least 2 segments to shuffle, n_series is {n_series}")
    if unknown := set(options) - {name for framework in FRAMEWORKS.values() for name in framework.option_names()}:
        raise ValueError(f"no framework has an option {', '.join(sorted(unknown))}")
    own = {name: value for name, value in options.items() if name in build.option_names()}
    encoder = DualEncoder(net, width, dim, n_series, series_dim, {term.head for term in terms.values()})
    _told(encoder.backbone, protocol)
    if bn_splits > 1:
        split_batchnorm(encoder, bn_splits)
    clamp = build.default_sr_clamp if sr_clamp == "default" else sr_clamp
    return build(encoder, terms, temperature=temperature, theta=theta, sr_clamp=clamp, **own)


def build_classifier(net: str, num_classes: int, width: float = 1.0, protocol: Mapping[str, Any] | None = None,
                     **options: Any) -> Classifier:
    """Backbone and linear layer; protocol: as in build_backbone; options dropout, final_bn, l2_norm, train_what as in
    Classifier.
    """
    _entry("net", net, BACKBONES)
    model = Classifier(net, num_classes, width, **options)
    _told(model.backbone, protocol)
    return model

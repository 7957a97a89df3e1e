"""Networks, heads, frameworks and losses of DualVar."""
from .backbones import BACKBONES
from .batchnorm import split_batchnorm
from .classifier import Classifier
from .dualvar import DualEncoder, parse_mode
from .moco import MoCo
from .simclr import SimCLR

FRAMEWORKS = ("simclr", "moco")
SR_CLAMP = {"simclr": 5.0, "moco": None}  # the release caps shuffle-rank's exponent in one of the two


def _known(kind, name, names):
    if name not in names:
        raise ValueError(f"{kind} {name!r} is not one of {', '.join(names)}")


def build_backbone(name, width=1.0):
    """Backbone `name` (r3d, r21d, s3d, s3dg, c3d) with its channels times `width`; attribute `feature_dim`.

    Maps clips (B, 3, T, H, W) float to (B, feature_dim, t, h, w). Raises ValueError for an unknown name.
    """
    _known("net", name, BACKBONES)
    return BACKBONES[name](width)


def build_pretrainer(framework, net, mode="clip-sr-tc", n_series=2, series_dim=64, dim=128, queue_size=16384,
                     width=1.0, temperature=0.07, theta=0.05, sr_clamp="default", momentum=0.999,
                     bn_splits=1, shuffle_keys=False):
    """SimCLR or MoCo with the loss terms of `mode` (clip, sr and tc joined by '-').

    n_series segments of series_dim, clip embedding of dim; queue_size and momentum are MoCo's; temperature of
    clip and tc; theta of shuffle-rank and sr_clamp its cap ("default": 5 for SimCLR, None for MoCo);
    bn_splits > 1 takes batch statistics over that many parts of the batch; shuffle_keys shuffles MoCo's key
    batch over them and over processes. Raises ValueError for an unknown framework, net or mode, and where
    shuffle-rank would have fewer than 2 segments.
    """
    _known("framework", framework, FRAMEWORKS)
    _known("net", net, BACKBONES)
    terms = parse_mode(mode)
    if "sr" in terms and n_series < 2:
        raise ValueError(f"shuffle-rank needs at least 2 segments, n_series is {n_series}")
    heads = {"clip": "clip", "sr": "segment", "tc": "segment"}
    encoder = DualEncoder(net, width, dim, n_series, series_dim, {heads[term] for term in terms})
    if bn_splits > 1:
        split_batchnorm(encoder, bn_splits)
    clamp = SR_CLAMP[framework] if sr_clamp == "default" else sr_clamp
    if framework == "simclr":
        return SimCLR(encoder, terms, temperature, theta, clamp)
    return MoCo(encoder, terms, temperature, theta, clamp, queue_size, momentum, shuffle_keys)


def build_classifier(net, num_classes, width=1.0, **options):
    """Backbone and linear layer; options dropout, final_bn, l2_norm, train_what as in Classifier."""
    _known("net", net, BACKBONES)
    return Classifier(net, num_classes, width, **options)

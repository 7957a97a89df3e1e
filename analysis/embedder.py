"""The network that makes the vectors of an index: for embed.py, and for those who look through the index later."""
import math

from torch import nn

from engine.setup import Weights, seed_everything
from models.weights.checkpoint import fingerprint

from .floors import Thumbnail


def network_for(weights: Weights | None, seq_len: int, img_dim: int, seed: int) -> tuple[nn.Module, str, int]:
    """The network of weights, in evaluation mode, of mean pictures where None -> (it, fingerprint of the weights, D).

    seed: of random weights
    """
    if weights is None:
        return Thumbnail(), "thumbnail", 3 * math.prod(Thumbnail.SIZE)
    seed_everything(seed)
    backbone = weights.backbone(seq_len, img_dim)
    return backbone.eval(), fingerprint(backbone.state_dict(), backbone.protocol), backbone.feature_dim

"""The network that makes the vectors of an index: for embed.py, and for those who look through the index later."""
import math

from torch import Tensor, nn

from engine.setup import Weights, seed_everything
from models.classifier import pooled
from models.weights.checkpoint import fingerprint

from .floors import Thumbnail


class Pooled:
    """Clips (N, 3, T, H, W) -> pooled features (N, D) of a network."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network.eval()

    def __call__(self, clips: Tensor) -> Tensor:
        return pooled(self.network, clips)


def network_for(weights: Weights | None, seq_len: int, img_dim: int, seed: int) -> tuple[Pooled, str, int]:
    """The network of weights, of mean pictures where None -> (it, fingerprint of the weights, D); seed: of random ones.
    """
    if weights is None:
        return Pooled(Thumbnail()), "thumbnail", 3 * math.prod(Thumbnail.SIZE)
    seed_everything(seed)
    backbone = weights.backbone(seq_len, img_dim)
    return Pooled(backbone), fingerprint(backbone.state_dict(), backbone.protocol), backbone.feature_dim

"""Projection heads on pooled features. Their embeddings are not normalised: frameworks and losses do that."""
import torch.nn as nn
from torch import Tensor


def two_layers(features: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(features, features), nn.ReLU(inplace=True), nn.Linear(features, out))


class ClipHead(nn.Module):
    """(N, D) pooled features -> (N, dim), one embedding a clip. `shape` is that of one clip: (dim,)."""

    def __init__(self, features: int, dim: int):
        super().__init__()
        self.shape = (dim,)
        self.layers = two_layers(features, dim)

    def forward(self, h: Tensor) -> Tensor:
        return self.layers(h)


class SegmentHead(nn.Module):
    """(N, D) pooled features -> (N, n_series, series_dim), one embedding a segment. `shape` is that of one clip."""

    def __init__(self, features: int, n_series: int, series_dim: int):
        super().__init__()
        self.shape = (n_series, series_dim)
        self.layers = two_layers(features, n_series * series_dim)

    def forward(self, h: Tensor) -> Tensor:
        return self.layers(h).unflatten(1, self.shape)

"""Projection heads on pooled features."""
import torch.nn as nn
import torch.nn.functional as F


def two_layers(features, out):
    return nn.Sequential(nn.Linear(features, features), nn.ReLU(inplace=True), nn.Linear(features, out))


class ClipHead(nn.Module):
    """(N, D) pooled features -> (N, dim) clip embedding, L2-normalised."""

    def __init__(self, features, dim):
        super().__init__()
        self.layers = two_layers(features, dim)

    def forward(self, h):
        return F.normalize(self.layers(h), dim=-1)


class SegmentHead(nn.Module):
    """(N, D) pooled features -> (N, n_series, series_dim), one L2-normalised embedding a segment of the clip."""

    def __init__(self, features, n_series, series_dim):
        super().__init__()
        self.n_series = n_series
        self.layers = two_layers(features, n_series * series_dim)

    def forward(self, h):
        return F.normalize(self.layers(h).unflatten(1, (self.n_series, -1)), dim=-1)

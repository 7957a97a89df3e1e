"""Backbone and linear layer: fine-tuning, linear probe, ten-clip test."""
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .backbones import BACKBONES
from .backbones.base import average_pool


class Classifier(nn.Module):
    """Clip (N, 3, T, H, W) -> class scores (N, num_classes).

    Pooled features pass, where asked for, through L2 normalisation or a batch norm without scale and shift
    (`final_bn`), and dropout, then the linear layer, whose weights start N(0, 0.01) and bias 0.
    `train_what` "last" freezes the backbone, batch-norm statistics included.
    """

    def __init__(self, net: str, num_classes: int, width: float = 1.0, dropout: float = 0.0, final_bn: bool = False,
                 l2_norm: bool = False, train_what: str = "ft"):
        super().__init__()
        self.backbone = BACKBONES[net](width)
        self.l2_norm = l2_norm
        self.final_bn = nn.BatchNorm1d(self.backbone.feature_dim, affine=False) if final_bn else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(self.backbone.feature_dim, num_classes)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)
        self.frozen = train_what == "last"
        self.backbone.requires_grad_(not self.frozen)

    def train(self, mode: bool = True) -> "Classifier":
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def forward(self, clips: Tensor) -> Tensor:
        h = pooled(self.backbone, clips)
        if self.l2_norm:
            h = F.normalize(h, dim=1)
        return self.fc(self.dropout(self.final_bn(h)))


def topk(scores: Tensor, labels: Tensor, rows: float | None = None) -> dict[str, Tensor]:
    """Share of rows of scores (N, C) with the label (N,) among the k highest -> {"top1": scalar, "top5": scalar}.

    rows: to divide by instead of N, where these are one process's and the mean over processes counts.
    """
    ks = 1, 5
    right = scores.topk(min(max(ks), scores.shape[1]), dim=1).indices == labels[:, None]
    return {f"top{k}": right[:, :k].any(dim=1).sum() / (len(scores) if rows is None else rows) for k in ks}


def pooled(backbone: nn.Module, clips: Tensor) -> Tensor:
    """Global average of the feature map: (N, 3, T, H, W) -> (N, feature_dim)."""
    return average_pool(backbone(clips))

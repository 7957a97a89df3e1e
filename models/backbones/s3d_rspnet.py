"""S3D-G as RSPNet has it (Chen et al. 2021): other than CoCLR's in its stem, its gates and its batch norms."""
from collections.abc import Sequence

import torch
import torch.nn as nn
from torch import Tensor

from ..protocol import Protocol
from .base import Rules, SpatialConv
from .resnet3d import full_conv
from .s3d import Conv1x1, S3DTrunk

RSPNET: Rules = [
    (r"^stem\.", "feature.sepConv1."), (r"^conv2b\.", "feature.basicConv3d."), (r"^conv2c\.", "feature.sep_conv2."),
    (r"^mixed([345])\.(\d)\.", lambda m: f"feature.sepInc_{m[1]}{'bcdef'[int(m[2])]}."), (r"\.branches\.", ".branch"),
    (r"\.conv\.", ".conv3d."),
    (r"\.spatial\.", ".sep_conv.0.conv3d."), (r"\.spatial_bn\.", ".sep_conv.0.bn."),
    (r"\.temporal\.", ".sep_conv.1.conv3d."), (r"\.temporal_bn\.", ".sep_conv.1.bn."), (r"\.gate\.", ".excitation."),
]


class GatedSeparableConv(nn.Module):
    """1 x k x k - BN - ReLU - k x 1 x 1 - BN - ReLU, then each channel times sigmoid(1 x 1 x 1(mean over t, h, w)).

    stride: of the first convolution, in time too, so that with 2 every other frame is not looked at.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1):
        super().__init__()
        self.spatial = (SpatialConv(c_in, c_out, kernel) if stride == 1
                        else full_conv(c_in, c_out, (1, kernel, kernel), stride))
        self.spatial_bn = nn.BatchNorm3d(c_out)
        self.temporal = full_conv(c_out, c_out, (kernel, 1, 1))
        self.temporal_bn = nn.BatchNorm3d(c_out)
        self.relu = nn.ReLU(inplace=True)
        self.gate = nn.Conv3d(c_out, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.spatial_bn(self.spatial(x)))
        x = self.relu(self.temporal_bn(self.temporal(x)))
        return x * torch.sigmoid(self.gate(x.mean(dim=(2, 3, 4), keepdim=True)))


class GatedMixed(nn.Module):
    """Inception block of which the separable convolutions alone are gated."""

    def __init__(self, c_in: int, channels: Sequence[int]):
        super().__init__()
        c0, c1a, c1b, c2a, c2b, c3 = channels
        self.branches = nn.ModuleList([
            Conv1x1(c_in, c0),
            nn.Sequential(Conv1x1(c_in, c1a), GatedSeparableConv(c1a, c1b, 3)),
            nn.Sequential(Conv1x1(c_in, c2a), GatedSeparableConv(c2a, c2b, 3)),
            nn.Sequential(nn.MaxPool3d(3, stride=1, padding=1), Conv1x1(c_in, c3)),
        ])
        self.out_channels = c0 + c1b + c2b + c3

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class RSPNetS3DG(S3DTrunk):
    rules = {"rspnet": RSPNET}
    # config/pretrain/s3dg.jsonnet: 16 consecutive frames; evaluated on the whole of a centre square, scaled to 224
    published = Protocol(16, 1, 224, (224, 299))
    separable, block = GatedSeparableConv, GatedMixed

    def __init__(self, width: float = 1.0):
        super().__init__(width)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.eps = module.momentum = 0.001

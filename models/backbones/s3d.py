"""S3D and S3D-G: separable Inception for video (Xie et al. 2018)."""
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from .base import Backbone, Rules, SpatialConv, scaled

# the release's S3D is CoCLR's, names included
RELEASE: Rules = [
    (r"^stem\.", "Conv_1a."), (r"^conv(2[bc])\.", r"Conv_\1."),
    (r"^mixed([345])\.(\d)\.", lambda m: f"Mixed_{m[1]}{'bcdef'[int(m[2])]}."),
    (r"\.branches\.0\.", ".branch0.0."), (r"\.branches\.", ".branch"), (r"\.gates\.", ".gating_b"),
    (r"\.spatial\.", ".conv1."), (r"\.spatial_bn\.", ".bn1."),
    (r"\.temporal\.", ".conv2."), (r"\.temporal_bn\.", ".bn2."),
]
# it registers every part twice, `Conv_1a` also as `block1.0`
TWINS = {"Conv_1a": "block1.0", "Conv_2b": "block2.1", "Conv_2c": "block2.2",
         **{f"Mixed_{i}{letter}": f"block{i}.{j}" for i, letters in ((3, "bc"), (4, "bcdef"), (5, "bc"))
            for j, letter in enumerate(letters, 1)}}

# channels out: 1x1; 1x1 - 3x3; 1x1 - 3x3; pool - 1x1
MIXED = {
    "3b": (64, 96, 128, 16, 32, 32), "3c": (128, 128, 192, 32, 96, 64),
    "4b": (192, 96, 208, 16, 48, 64), "4c": (160, 112, 224, 24, 64, 64), "4d": (128, 128, 256, 24, 64, 64),
    "4e": (112, 144, 288, 32, 64, 64), "4f": (256, 160, 320, 32, 128, 128),
    "5b": (256, 160, 320, 32, 128, 128), "5c": (384, 192, 384, 48, 128, 128),
}


class Conv1x1(nn.Module):
    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.conv = nn.Conv3d(c_in, c_out, 1, bias=False)
        self.bn = nn.BatchNorm3d(c_out)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.bn(self.conv(x)))


class SeparableConv(nn.Module):
    """1 x k x k - BN - ReLU - k x 1 x 1 - BN - ReLU, the stride in space and in time."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1):
        super().__init__()
        pad = kernel // 2
        self.spatial = SpatialConv(c_in, c_out, kernel, stride)
        self.spatial_bn = nn.BatchNorm3d(c_out)
        self.temporal = nn.Conv3d(c_out, c_out, (kernel, 1, 1), (stride, 1, 1), (pad, 0, 0), bias=False)
        self.temporal_bn = nn.BatchNorm3d(c_out)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.spatial_bn(self.spatial(x)))
        return self.relu(self.temporal_bn(self.temporal(x)))


class SelfGating(nn.Module):
    """Each channel times sigmoid(Linear(mean over t, h, w))."""

    def __init__(self, channels: int):
        super().__init__()
        self.fc = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.fc(x.mean(dim=(2, 3, 4))))[:, :, None, None, None]


class Mixed(nn.Module):
    """Inception block: four branches, gated or not, concatenated over channels."""

    gating = False

    def __init__(self, c_in: int, channels: Sequence[int]):
        super().__init__()
        c0, c1a, c1b, c2a, c2b, c3 = channels
        self.branches = nn.ModuleList([
            Conv1x1(c_in, c0),
            nn.Sequential(Conv1x1(c_in, c1a), SeparableConv(c1a, c1b, 3)),
            nn.Sequential(Conv1x1(c_in, c2a), SeparableConv(c2a, c2b, 3)),
            nn.Sequential(nn.MaxPool3d(3, stride=1, padding=1), Conv1x1(c_in, c3)),
        ])
        out = (c0, c1b, c2b, c3)
        self.gates = nn.ModuleList([SelfGating(c) if self.gating else nn.Identity() for c in out])
        self.out_channels = sum(out)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([gate(branch(x)) for branch, gate in zip(self.branches, self.gates, strict=True)], dim=1)


class SelfGatedMixed(Mixed):
    gating = True


class S3DTrunk(Backbone):
    """The layout of S3D and its kin, whose feature map is (T/8, H/32, W/32)."""

    separable: type[nn.Module]  # (c_in, c_out, kernel, stride=1)
    block: Callable[[int, Sequence[int]], Any]  # an Inception block of six numbers of channels, with `out_channels`

    def __init__(self, width: float = 1.0):
        super().__init__()

        def mixed(c_in: int, *names: str) -> tuple[nn.Sequential, int]:
            blocks = []
            for name in names:
                blocks.append(self.block(c_in, [scaled(c, width) for c in MIXED[name]]))
                c_in = blocks[-1].out_channels
            return nn.Sequential(*blocks), c_in

        def spatial_pool() -> nn.MaxPool3d:
            return nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))

        c64, c192 = scaled(64, width), scaled(192, width)
        self.stem = self.separable(3, c64, 7, stride=2)
        self.pool1 = spatial_pool()
        self.conv2b = Conv1x1(c64, c64)
        self.conv2c = self.separable(c64, c192, 3)
        self.pool2 = spatial_pool()
        self.mixed3, c3 = mixed(c192, "3b", "3c")
        self.pool3 = nn.MaxPool3d(3, 2, 1)
        self.mixed4, c4 = mixed(c3, "4b", "4c", "4d", "4e", "4f")
        self.pool4 = nn.MaxPool3d(2, 2)
        self.mixed5, self.feature_dim = mixed(c4, "5b", "5c")

    def parts(self) -> Sequence[nn.Module]:
        return [self.stem, self.pool1, self.conv2b, self.conv2c, self.pool2, *self.mixed3, self.pool3, *self.mixed4,
                self.pool4, *self.mixed5]


class S3D(S3DTrunk):
    rules = {"release": RELEASE}
    separable, block = SeparableConv, Mixed

    def __init__(self, width: float = 1.0):
        super().__init__(width)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.normal_(module.weight, std=0.01)

    @classmethod
    def foreign_names(cls, name: str) -> dict[str, list[str]]:
        found = super().foreign_names(name)
        part, _, leaf = found["release"][0].partition(".")
        found["release"].append(f"{TWINS[part]}.{leaf}")
        return found


class S3DG(S3D):
    block = SelfGatedMixed

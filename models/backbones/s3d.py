"""S3D and S3D-G: separable Inception for video (Xie et al. 2018)."""
import torch
import torch.nn as nn

from .base import Backbone, SpatialConv

# channels out: 1x1; 1x1 - 3x3; 1x1 - 3x3; pool - 1x1
MIXED = {
    "3b": (64, 96, 128, 16, 32, 32), "3c": (128, 128, 192, 32, 96, 64),
    "4b": (192, 96, 208, 16, 48, 64), "4c": (160, 112, 224, 24, 64, 64), "4d": (128, 128, 256, 24, 64, 64),
    "4e": (112, 144, 288, 32, 64, 64), "4f": (256, 160, 320, 32, 128, 128),
    "5b": (256, 160, 320, 32, 128, 128), "5c": (384, 192, 384, 48, 128, 128),
}


class Conv1x1(nn.Module):
    def __init__(self, c_in, c_out):
        super().__init__()
        self.conv = nn.Conv3d(c_in, c_out, 1, bias=False)
        self.bn = nn.BatchNorm3d(c_out)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(self.bn(self.conv(x)))


class SeparableConv(nn.Module):
    """1 x k x k - BN - ReLU - k x 1 x 1 - BN - ReLU, the stride in space and in time."""

    def __init__(self, c_in, c_out, kernel, stride=1):
        super().__init__()
        pad = kernel // 2
        self.spatial = SpatialConv(c_in, c_out, kernel, stride)
        self.spatial_bn = nn.BatchNorm3d(c_out)
        self.temporal = nn.Conv3d(c_out, c_out, (kernel, 1, 1), (stride, 1, 1), (pad, 0, 0), bias=False)
        self.temporal_bn = nn.BatchNorm3d(c_out)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.relu(self.spatial_bn(self.spatial(x)))
        return self.relu(self.temporal_bn(self.temporal(x)))


class SelfGating(nn.Module):
    """Each channel times sigmoid(Linear(mean over t, h, w))."""

    def __init__(self, channels):
        super().__init__()
        self.fc = nn.Linear(channels, channels)

    def forward(self, x):
        return x * torch.sigmoid(self.fc(x.mean(dim=(2, 3, 4))))[:, :, None, None, None]


class Mixed(nn.Module):
    """Inception block: four branches, gated or not, concatenated over channels."""

    def __init__(self, c_in, channels, gating):
        super().__init__()
        c0, c1a, c1b, c2a, c2b, c3 = channels
        self.branches = nn.ModuleList([
            Conv1x1(c_in, c0),
            nn.Sequential(Conv1x1(c_in, c1a), SeparableConv(c1a, c1b, 3)),
            nn.Sequential(Conv1x1(c_in, c2a), SeparableConv(c2a, c2b, 3)),
            nn.Sequential(nn.MaxPool3d(3, stride=1, padding=1), Conv1x1(c_in, c3)),
        ])
        out = (c0, c1b, c2b, c3)
        self.gates = nn.ModuleList([SelfGating(c) if gating else nn.Identity() for c in out])
        self.out_channels = sum(out)

    def forward(self, x):
        return torch.cat([gate(branch(x)) for branch, gate in zip(self.branches, self.gates, strict=True)], dim=1)


class S3D(Backbone):
    """Its feature map is (T/8, H/32, W/32)."""

    def __init__(self, width=1.0, gating=False):
        super().__init__()

        def scaled(channels):
            return max(4, round(channels * width))

        def mixed(c_in, *names):
            blocks = []
            for name in names:
                blocks.append(Mixed(c_in, [scaled(c) for c in MIXED[name]], gating))
                c_in = blocks[-1].out_channels
            return nn.Sequential(*blocks), c_in

        def spatial_pool():
            return nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))

        self.stem = SeparableConv(3, scaled(64), 7, stride=2)
        self.pool1 = spatial_pool()
        self.conv2b = Conv1x1(scaled(64), scaled(64))
        self.conv2c = SeparableConv(scaled(64), scaled(192), 3)
        self.pool2 = spatial_pool()
        self.mixed3, c3 = mixed(scaled(192), "3b", "3c")
        self.pool3 = nn.MaxPool3d(3, 2, 1)
        self.mixed4, c4 = mixed(c3, "4b", "4c", "4d", "4e", "4f")
        self.pool4 = nn.MaxPool3d(2, 2)
        self.mixed5, self.feature_dim = mixed(c4, "5b", "5c")
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.normal_(module.weight, std=0.01)

    def parts(self):
        return [self.stem, self.pool1, self.conv2b, self.conv2c, self.pool2, *self.mixed3, self.pool3, *self.mixed4,
                self.pool4, *self.mixed5]


def s3d(width=1.0):
    return S3D(width)


def s3dg(width=1.0):
    return S3D(width, gating=True)

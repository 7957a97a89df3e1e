"""R3D and R(2+1)D with one residual block a stage (Tran et al. 2018, in the small form used for self-supervision)."""
from collections.abc import Callable, Sequence

import torch.nn as nn
from torch import Tensor

from .base import Backbone, Rules, SpatialConv, scaled

Kernel = int | tuple[int, int, int]  # size or stride: one number for t, h and w, or each
Conv = Callable[..., nn.Module]  # (c_in, c_out, kernel, stride)

RELEASE: Rules = [
    (r"^stem\.", "conv1."), (r"^stem_bn\.", "bn1."), (r"^stage([2-5])\.", r"conv\1.block1."),
    (r"\.shortcut\.", ".downsampleconv."), (r"\.shortcut_bn\.", ".downsamplebn."),
    (r"\.(spatial|temporal)\.", r".\1_conv."),
    (r"(conv[12]|downsampleconv)\.weight$", r"\1.temporal_spatial_conv.weight"),
]
# torchvision's networks have further blocks, layer<i>.1, where ours have one a stage. Its R(2+1)D has no counterpart of
# our factored shortcuts, and other widths between the two steps of some convolutions.
TORCHVISION_STAGES: Rules = [
    (r"^stage([2-5])\.", lambda m: f"layer{int(m[1]) - 1}.0."), (r"\.bn([12])\.", r".conv\1.1."),
    (r"\.shortcut\.weight$", ".downsample.0.weight"), (r"\.shortcut_bn\.", ".downsample.1."),
]


def triple(value: Kernel) -> tuple[int, int, int]:
    return (value,) * 3 if isinstance(value, int) else value


def full_conv(c_in: int, c_out: int, kernel: Kernel, stride: Kernel = 1) -> nn.Conv3d:
    """A k_t x k_h x k_w convolution that keeps the size at stride 1."""
    k_t, k_h, k_w = triple(kernel)
    return nn.Conv3d(c_in, c_out, (k_t, k_h, k_w), triple(stride), (k_t // 2, k_h // 2, k_w // 2), bias=False)


class FactoredConv(nn.Sequential):
    """The same in two steps: 1 x k x k - BN - ReLU - k_t x 1 x 1.

    The width between them keeps the parameters of the full convolution, or fewer (Tran et al. 2018, sec. 3.5).
    """

    def __init__(self, c_in: int, c_out: int, kernel: Kernel, stride: Kernel = 1):
        super().__init__()
        k_t, _, k = triple(kernel)
        s_t, _, s = triple(stride)
        between = k_t * k * k * c_in * c_out // (k * k * c_in + k_t * c_out)
        self.spatial = SpatialConv(c_in, between, k, s)
        self.bn = nn.BatchNorm3d(between)
        self.relu = nn.ReLU(inplace=True)
        self.temporal = full_conv(between, c_out, (k_t, 1, 1), (s_t, 1, 1))


class ResidualBlock(nn.Module):
    def __init__(self, conv: Conv, c_in: int, c_out: int, stride: int):
        super().__init__()
        self.conv1 = conv(c_in, c_out, 3, stride)
        self.bn1 = nn.BatchNorm3d(c_out)
        self.conv2 = conv(c_out, c_out, 3)
        self.bn2 = nn.BatchNorm3d(c_out)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = None
        if stride != 1:
            self.shortcut = conv(c_in, c_out, 1, stride)
            self.shortcut_bn = nn.BatchNorm3d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.shortcut is not None:
            x = self.shortcut_bn(self.shortcut(x))
        return self.relu(x + out)


class ResNet3d(Backbone):
    """Stem 3x7x7 at stride 1x2x2, then four stages of which the last three halve t, h and w: (T/8, H/16, W/16)."""

    def __init__(self, conv: Conv, width: float = 1.0):
        super().__init__()
        channels = [scaled(c, width) for c in (64, 64, 128, 256, 512)]
        self.feature_dim = channels[-1]
        self.stem = conv(3, channels[0], (3, 7, 7), (1, 2, 2))
        self.stem_bn = nn.BatchNorm3d(channels[0])
        self.relu = nn.ReLU(inplace=True)
        self.stage2 = ResidualBlock(conv, channels[0], channels[1], 1)
        self.stage3 = ResidualBlock(conv, channels[1], channels[2], 2)
        self.stage4 = ResidualBlock(conv, channels[2], channels[3], 2)
        self.stage5 = ResidualBlock(conv, channels[3], channels[4], 2)

    def parts(self) -> Sequence[nn.Module]:
        return [nn.Sequential(self.stem, self.stem_bn, self.relu), self.stage2, self.stage3, self.stage4, self.stage5]


class R3D(ResNet3d):
    rules = {
        "release": RELEASE,
        "torchvision": [(r"^stem\.", "stem.0."), (r"^stem_bn\.", "stem.1."), (r"\.(conv[12])\.", r".\1.0."),
                        *TORCHVISION_STAGES],
    }

    def __init__(self, width: float = 1.0):
        super().__init__(full_conv, width)


class R21D(ResNet3d):
    rules = {
        "release": RELEASE,
        "torchvision": [(r"^stem\.spatial\.", "stem.0."), (r"^stem\.bn\.", "stem.1."),
                        (r"^stem\.temporal\.", "stem.3."), (r"^stem_bn\.", "stem.4."),
                        (r"\.(conv[12])\.spatial\.", r".\1.0.0."), (r"\.(conv[12])\.bn\.", r".\1.0.1."),
                        (r"\.(conv[12])\.temporal\.", r".\1.0.3."), *TORCHVISION_STAGES],
    }

    def __init__(self, width: float = 1.0):
        super().__init__(FactoredConv, width)

    def follows_width(self, name: str) -> bool:
        return not name.endswith(".bn.weight")  # between the two steps of a factored convolution

"""Slow R50 8x8, the slow pathway of SlowFast as a network of its own (Feichtenhofer et al. 2019)."""
from collections.abc import Sequence

import torch.nn as nn
from torch import Tensor

from ..protocol import Protocol
from .base import Backbone, Rules, SpatialConv, scaled
from .resnet3d import full_conv

# blocks, channels within them, their kernel in time, stride in space of the first
STAGES = ((3, 64, 1, 1), (4, 128, 1, 2), (6, 256, 3, 2), (3, 512, 3, 2))
EXPANSION = 4

SLOWFAST: Rules = [
    (r"^stem\.", "s1.pathway0_stem.conv."), (r"^stem_bn\.", "s1.pathway0_stem.bn."),
    (r"^stage([2-5])\.(\d)\.", r"s\1.pathway0_res\2."), (r"\.shortcut(_bn)?\.", r".branch1\1."),
    (r"\.(conv|bn)([123])\.", lambda m: f".branch2.{'abc'[int(m[2]) - 1]}{'_bn' if m[1] == 'bn' else ''}."),
]
PYTORCHVIDEO: Rules = [
    (r"^stem\.", "blocks.0.conv."), (r"^stem_bn\.", "blocks.0.norm."),
    (r"^stage([2-5])\.(\d)\.", lambda m: f"blocks.{int(m[1]) - 1}.res_blocks.{m[2]}."),
    (r"\.shortcut\.", ".branch1_conv."), (r"\.shortcut_bn\.", ".branch1_norm."),
    (r"\.(conv|bn)([123])\.", lambda m: f".branch2.{'norm' if m[1] == 'bn' else 'conv'}_{'abc'[int(m[2]) - 1]}."),
]
MMACTION2: Rules = [
    (r"^stem\.", "conv1.conv."), (r"^stem_bn\.", "conv1.bn."),
    (r"^stage([2-5])\.", lambda m: f"layer{int(m[1]) - 1}."), (r"\.(conv|bn)([123])\.", r".conv\2.\1."),
    (r"\.shortcut\.", ".downsample.conv."), (r"\.shortcut_bn\.", ".downsample.bn."),
]


class Bottleneck(nn.Module):
    """k x 1 x 1 - 1 x 3 x 3 - 1 x 1 x 1, each with its batch norm, beside a shortcut."""

    def __init__(self, c_in: int, within: int, c_out: int, kernel: int, stride: int, first: bool):
        super().__init__()
        self.conv1 = full_conv(c_in, within, (kernel, 1, 1))
        self.bn1 = nn.BatchNorm3d(within)
        self.conv2 = SpatialConv(within, within, 3, stride)
        self.bn2 = nn.BatchNorm3d(within)
        self.conv3 = full_conv(within, c_out, 1)
        self.bn3 = nn.BatchNorm3d(c_out)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = None
        if first:
            self.shortcut = full_conv(c_in, c_out, 1, (1, stride, stride))
            self.shortcut_bn = nn.BatchNorm3d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.shortcut is not None:
            x = self.shortcut_bn(self.shortcut(x))
        return self.relu(x + out)


class SlowR50(Backbone):
    """Its feature map is (T, H/32, W/32): no layer has a stride in time."""

    rules = {"slowfast": SLOWFAST, "pytorchvideo": PYTORCHVIDEO, "mmaction2": MMACTION2}
    # SlowFast's configs/Kinetics/SLOW_8x8_R50.yaml and configs/contrastive_ssl: crops of 224 of a shorter side of 256
    published = Protocol(8, 8, 224, None, (0.45, 0.45, 0.45), (0.225, 0.225, 0.225))

    def __init__(self, width: float = 1.0):
        super().__init__()
        c_in = scaled(64, width)
        self.stem = SpatialConv(3, c_in, 7, 2)
        self.stem_bn = nn.BatchNorm3d(c_in)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
        stages = []
        for count, channels, kernel, stride in STAGES:
            within, c_out = scaled(channels, width), scaled(channels * EXPANSION, width)
            stages.append(nn.Sequential(*(
                Bottleneck(c_out if i else c_in, within, c_out, kernel, 1 if i else stride, not i)
                for i in range(count))))
            c_in = c_out
        self.stage2, self.stage3, self.stage4, self.stage5 = stages
        self.feature_dim = c_in
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def parts(self) -> Sequence[nn.Module]:
        return [nn.Sequential(self.stem, self.stem_bn, self.relu, self.pool), *self.stage2, *self.stage3, *self.stage4,
                *self.stage5]

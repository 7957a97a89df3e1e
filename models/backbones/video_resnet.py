"""torchvision's R3D-18, MC3-18 and R(2+1)D-18 (Tran et al. 2018), made of its modules and with its names."""
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch.nn as nn
from torchvision.models.video.resnet import (
    BasicBlock,
    BasicStem,
    Conv2Plus1D,
    Conv3DNoTemporal,
    Conv3DSimple,
    R2Plus1dStem,
)
from torchvision.models.video.resnet import VideoResNet as TheirVideoResNet

from ..protocol import Protocol
from .base import Backbone, scaled

KINETICS = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)  # mean and std


class VideoResNet(Backbone):
    """Its feature map is (T/8, H/16, W/16); MC3's (T, H/16, W/16)."""

    names = "torchvision"
    # R3D_18_Weights.KINETICS400_V1 and those of the others: 16 frames at 15 a second, every other one of 30
    published = Protocol(16, 2, 112, None, *KINETICS)
    stem_of: ClassVar[Callable[[], nn.Sequential]] = BasicStem
    convs: ClassVar[Sequence[type[nn.Conv3d] | type[nn.Sequential]]] = [Conv3DSimple] * 4  # one kind a stage

    def __init__(self, width: float = 1.0):
        super().__init__()
        made = _Scaled(width, BasicBlock, self.convs, [2, 2, 2, 2], type(self).stem_of)
        self.stem, self.layer1, self.layer2, self.layer3, self.layer4 = (
            made.stem, made.layer1, made.layer2, made.layer3, made.layer4)
        self.feature_dim = scaled(512, width)

    def parts(self) -> Sequence[nn.Module]:
        return [self.stem, *self.layer1, *self.layer2, *self.layer3, *self.layer4]


class R3D18(VideoResNet):
    pass


class MC318(VideoResNet):
    convs = [Conv3DSimple, *[Conv3DNoTemporal] * 3]


class R2Plus1D18(VideoResNet):
    stem_of = R2Plus1dStem
    convs = [Conv2Plus1D] * 4

    def follows_width(self, name: str) -> bool:
        # not those between the two steps of a factored convolution
        return not (name.startswith("layer") and name.endswith(".0.1.weight"))


class _Scaled(TheirVideoResNet):
    """Theirs, with the channels of every layer times a factor."""

    inplanes: int

    def __init__(self, width: float, block: Any, convs: Any, layers: list[int], stem: Callable[[], nn.Sequential]):
        self.width = width
        super().__init__(block, convs, layers, lambda: scaled_stem(stem(), width), num_classes=1)

    def _make_layer(self, block: Any, conv_builder: Any, planes: int, blocks: int, stride: int = 1) -> nn.Sequential:
        if stride == 1:  # the first stage, after the stem
            self.inplanes = scaled(self.inplanes, self.width)
        return super()._make_layer(block, conv_builder, scaled(planes, self.width), blocks, stride)


def scaled_stem(stem: nn.Sequential, width: float) -> nn.Sequential:
    """A stem of convolutions without bias, batch norms and ReLUs, its channels times `width`."""
    c_in = 3
    for i, layer in enumerate(stem):
        if isinstance(layer, nn.Conv3d):
            c_out = scaled(layer.out_channels, width)
            stem[i] = nn.Conv3d(c_in, c_out, layer.kernel_size, layer.stride,  # type: ignore[arg-type]
                                layer.padding, bias=False)  # type: ignore[arg-type]
            c_in = c_out
        elif isinstance(layer, nn.BatchNorm3d):
            stem[i] = nn.BatchNorm3d(c_in)
    return stem

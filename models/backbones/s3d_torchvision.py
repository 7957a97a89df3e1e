"""torchvision's S3D (Xie et al. 2018), made of its modules and with its names."""
from collections.abc import Sequence
from functools import partial

import torch.nn as nn
from torch import Tensor
from torchvision.models.video.s3d import SepInceptionBlock3D, TemporalSeparableConv
from torchvision.ops.misc import Conv3dNormActivation

from ..protocol import Protocol
from .base import Backbone, scaled
from .s3d import MIXED
from .video_resnet import KINETICS


class SlidingMean(nn.Module):
    """Their pool before the classifier: means of windows of 2 x 7 x 7, or of the whole map where that is smaller.

    Taken of the channels-last view, so that the gradient that it passes back is channels last.
    """

    def forward(self, x: Tensor) -> Tensor:
        x = x.movedim(1, -1)
        for dim, size in enumerate((2, 7, 7), 1):
            x = x.unfold(dim, min(size, x.shape[dim]), 1)
        return x.mean(dim=(-3, -2, -1)).movedim(-1, 1)


class TorchvisionS3D(Backbone):
    """Its feature map is of the means of windows of (T/8, H/32, W/32), as torchvision takes them: (T/8 - 1, 1, 1)
    for 224 pixels.
    """

    names = "torchvision"
    # S3D_Weights.KINETICS400_V1: 128 frames at 15 a second, every other one of 30
    published = Protocol(128, 2, 224, (256, 256), *KINETICS)

    def __init__(self, width: float = 1.0):
        super().__init__()
        norm = partial(nn.BatchNorm3d, eps=0.001, momentum=0.001)
        c64, c192 = scaled(64, width), scaled(192, width)

        def mixed(c_in: int, *names: str) -> tuple[list[nn.Module], int]:
            blocks: list[nn.Module] = []
            for name in names:
                channels = [scaled(c, width) for c in MIXED[name]]
                blocks.append(SepInceptionBlock3D(c_in, *channels, norm))
                c_in = sum(channels[i] for i in (0, 2, 4, 5))
            return blocks, c_in

        def spatial_pool() -> nn.MaxPool3d:
            return nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))

        mixed3, c3 = mixed(c192, "3b", "3c")
        mixed4, c4 = mixed(c3, "4b", "4c", "4d", "4e", "4f")
        mixed5, self.feature_dim = mixed(c4, "5b", "5c")
        self.features = nn.Sequential(
            TemporalSeparableConv(3, c64, 7, 2, 3, norm), spatial_pool(),
            Conv3dNormActivation(c64, c64, kernel_size=1, norm_layer=norm),
            TemporalSeparableConv(c64, c192, 3, 1, 1, norm), spatial_pool(),
            *mixed3, nn.MaxPool3d(3, 2, 1), *mixed4, nn.MaxPool3d(2, 2), *mixed5)
        self.avgpool = SlidingMean()

    def parts(self) -> Sequence[nn.Module]:
        return [*self.features, self.avgpool]

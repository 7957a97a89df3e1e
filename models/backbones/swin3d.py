"""torchvision's Video Swin-T (Liu et al. 2022), made of its modules and with its names."""
from collections.abc import Sequence

import torch.nn as nn
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d, SwinTransformer3d
from torchvision.ops import Permute

from ..protocol import Protocol
from .base import Backbone, scaled

HEADS = [3, 6, 12, 24]


class Swin3DT(Backbone):
    """Its feature map is (T/2, H/32, W/32), after its norm, of which its authors take the mean.

    It takes clips of any size. Windows are 8 x 7 x 7 tokens, or smaller where a map is. There is no stochastic depth:
    nothing in a backbone is random, as clips may pass it twice.
    """

    names = "torchvision"
    compared = (nn.Conv3d, nn.Linear, ShiftedWindowAttention3d)  # which computes with the weights of linear layers

    # Swin3D_T_Weights.KINETICS400_V1: 32 frames at 15 a second, every other one of 30; the shorter side 256
    published = Protocol(32, 2, 224)

    def __init__(self, width: float = 1.0):
        super().__init__()
        made = SwinTransformer3d(patch_size=[2, 4, 4], embed_dim=HEADS[0] * scaled(32, width), depths=[2, 2, 6, 2],
                                 num_heads=HEADS, window_size=[8, 7, 7], stochastic_depth_prob=0.0, num_classes=1)
        self.patch_embed, self.features, self.norm = made.patch_embed, made.features, made.norm
        self.feature_dim = made.num_features

    @classmethod
    def size_note(cls, seq_len: int, img_dim: int) -> str | None:
        """Of windows smaller than 7 x 7, whose positions are looked up by number in those of whole windows."""
        side = -(-img_dim // 32)
        return None if side >= 7 else (
            f"the windows of its last stage have {side} x {side} tokens of 7 x 7, and its authors' code, as "
            "torchvision's, then takes relative positions that weights trained on 193 pixels or more do not mean")

    def parts(self) -> Sequence[nn.Module]:
        """The blocks of the stages, and what merges patches between two stages."""
        stages = [part for stage in self.features for part in (stage if isinstance(stage, nn.Sequential) else [stage])]
        return [self.patch_embed, *stages, nn.Sequential(self.norm, Permute([0, 4, 1, 2, 3]))]

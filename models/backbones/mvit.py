"""torchvision's MViTv2-S (Li et al. 2022), made of its modules and with its names."""
from collections.abc import Iterator, Sequence

import torch.nn as nn
from torch import Tensor
from torchvision.models.video.mvit import MSBlockConfig, MultiscaleBlock, MViT

from ..protocol import Protocol
from .base import Backbone, scaled

Tokens = tuple[Tensor, tuple[int, int, int]]  # (B, 1 + t h w, C), the class token first, and (t, h, w)

# blocks, heads, stride of keys and values in space
STAGES = ((1, 1, 8), (2, 2, 4), (11, 4, 2), (2, 8, 1))


def blocks(channels: int) -> Iterator[MSBlockConfig]:
    """Those of all stages, `channels` a head; the first of each but the first stage halves h and w."""
    c_in = channels
    for number, (count, heads, stride) in enumerate(STAGES):
        for i in range(count):
            halves = 2 if number and not i else 1
            yield MSBlockConfig(heads, c_in, channels * heads, [3, 3, 3], [3, 3, 3], [1, halves, halves],
                                [1, stride, stride])
            c_in = channels * heads


class Patches(nn.Module):
    """Clips -> tokens, the class token before them."""

    def __init__(self, conv_proj: nn.Conv3d, pos_encoding: nn.Module):
        super().__init__()
        self.conv_proj, self.pos_encoding = conv_proj, pos_encoding

    def forward(self, clips: Tensor) -> Tokens:
        x = self.conv_proj(clips)
        t, h, w = x.shape[2:]
        return self.pos_encoding(x.flatten(2).transpose(1, 2)), (t, h, w)


class Block(nn.Module):
    """One of theirs, as a part: it takes what it returns."""

    def __init__(self, block: MultiscaleBlock):
        super().__init__()
        self.block = block

    def forward(self, tokens: Tokens) -> Tokens:
        return self.block(*tokens)


class ClassToken(nn.Module):
    """Tokens -> the class token after its norm, as a feature map (B, C, 1, 1, 1)."""

    def __init__(self, norm: nn.Module):
        super().__init__()
        self.norm = norm

    def forward(self, tokens: Tokens) -> Tensor:
        return self.norm(tokens[0])[:, 0, :, None, None, None]


class MViTv2S(Backbone):
    """Its feature map is the class token alone, (1, 1, 1), which is what its authors classify.

    Its tables of relative positions are of clips of 16 x 224 x 224. For others torchvision's modules interpolate them,
    as the authors do; torchvision's own network, whose number of tokens is fixed, does not take such clips. There is no
    stochastic depth: nothing in a backbone is random, as clips may pass it twice.
    """

    names = "torchvision"
    # MViT_V2_S_Weights.KINETICS400_V1: 16 frames at 7.5 a second, every fourth of 30; the shorter side 256
    published = Protocol(16, 4, 224, None, (0.45, 0.45, 0.45), (0.225, 0.225, 0.225))

    def __init__(self, width: float = 1.0):
        super().__init__()
        side = self.published.img_dim
        made = MViT(spatial_size=(side, side), temporal_size=self.published.seq_len,
                    block_setting=list(blocks(scaled(96, width))), residual_pool=True, residual_with_cls_embed=False,
                    rel_pos_embed=True, proj_after_attn=True, num_classes=1)
        self.conv_proj, self.pos_encoding, self.blocks, self.norm = (
            made.conv_proj, made.pos_encoding, made.blocks, made.norm)
        self.feature_dim = STAGES[-1][1] * scaled(96, width)

    @classmethod
    def size_note(cls, seq_len: int, img_dim: int) -> str | None:
        own = cls.published.seq_len, cls.published.img_dim
        return None if (seq_len, img_dim) == own else (
            f"its tables of relative positions are those of --seq_len {own[0]} --img_dim {own[1]}; they are "
            "interpolated, as its authors do for other sizes")

    def parts(self) -> Sequence[nn.Module]:
        return [Patches(self.conv_proj, self.pos_encoding), *map(Block, self.blocks), ClassToken(self.norm)]

"""What all backbones share: how their parts are run."""
from contextlib import nullcontext

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from ..batchnorm import running_statistics_kept


class Backbone(nn.Module):
    """Runs parts(), one after the other; attributes say how.

    low: torch.bfloat16 or torch.float16 to compute in under autocast, None for the weights' own dtype; the feature map
    is float32 either way. checkpointing: keep only what passes between parts for the backward pass, which computes the
    rest again.
    """

    low = None
    checkpointing = False

    def parts(self):
        """Modules, in order, each given what the one before returns."""
        raise NotImplementedError

    def forward(self, clips):
        """(B, 3, T, H, W) -> (B, feature_dim, t, h, w)"""
        if self.low is None:
            return self._run(clips)
        with torch.autocast(clips.device.type, self.low):
            features = self._run(clips)
        return features.float()

    def _run(self, x):
        for part in self.parts():
            if self.checkpointing and torch.is_grad_enabled():
                # the second pass must not count in the running statistics; nothing in the parts is random
                x = checkpoint(part, x, use_reentrant=False, preserve_rng_state=False,
                               context_fn=lambda part=part: (nullcontext(), running_statistics_kept(part)))
            else:
                x = part(x)
        return x


class SpatialConv(nn.Conv3d):
    """1 x k x k convolution without bias, the same values computed as a 2-D convolution of all frames.

    In the channels-last layout the frames are a view, and the 2-D kernels are the better ones: on a CPU with AVX2 the
    backward pass of R(2+1)D's widest such layers takes less than half as long.
    """

    def __init__(self, c_in, c_out, kernel, stride=1):
        super().__init__(c_in, c_out, (1, kernel, kernel), (1, stride, stride), (0, kernel // 2, kernel // 2),
                         bias=False)

    def forward(self, x):
        if not x.is_contiguous(memory_format=torch.channels_last_3d):
            return super().forward(x)
        frames = x.transpose(1, 2).flatten(0, 1)
        out = F.conv2d(frames, self.weight.squeeze(2), None, self.stride[1:], self.padding[1:])
        return out.unflatten(0, (len(x), -1)).transpose(1, 2)

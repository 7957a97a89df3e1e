"""What all backbones share: how their parts are run."""
from contextlib import nullcontext

import torch
import torch.nn as nn
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

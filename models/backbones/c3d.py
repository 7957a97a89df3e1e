"""C3D (Tran et al. 2015) with batch normalisation, without its last pool and fully-connected layers."""
from collections import OrderedDict
from collections.abc import Sequence

import torch.nn as nn

from .base import Backbone, scaled

# convolution and its channels out; P: pool over time too, p: over space only
LAYERS = [("1", 64), ("p", 0), ("2", 128), ("P", 0), ("3a", 256), ("3b", 256), ("P", 0), ("4a", 512), ("4b", 512),
          ("P", 0), ("5a", 512), ("5b", 512)]


class C3D(Backbone):
    """Its feature map is (T/8, H/16, W/16)."""

    rules = {"release": [(r"^layers\.", "")]}

    def __init__(self, width: float = 1.0):
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        c_in = 3
        for name, channels in LAYERS:
            if not channels:
                layers[f"pool{len(layers)}"] = nn.MaxPool3d((1 if name == "p" else 2, 2, 2))
                continue
            c_out = scaled(channels, width)
            layers[f"conv{name}"] = nn.Conv3d(c_in, c_out, 3, padding=1)
            layers[f"bn{name}"] = nn.BatchNorm3d(c_out)
            layers[f"relu{name}"] = nn.ReLU(inplace=True)
            c_in = c_out
        self.layers = nn.Sequential(layers)
        self.feature_dim = c_in

    def parts(self) -> Sequence[nn.Module]:
        """The layers between two pools, the pool before them included."""
        pools = [i for i, layer in enumerate(self.layers) if isinstance(layer, nn.MaxPool3d)]
        return [self.layers[a:b] for a, b in zip([0, *pools], [*pools, len(self.layers)], strict=True)]


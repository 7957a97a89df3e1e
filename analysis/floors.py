"""Floors that learning must beat: what can be had from clips (N, 3, T, H, W) without a network."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor


class Thumbnail(nn.Module):
    """Clips (N, 3, T, H, W) as mean pictures of 12 x 16 px, (N, 576, 1, 1, 1), whatever the order of their frames."""

    SIZE = (12, 16)

    def forward(self, clips: Tensor) -> Tensor:
        # in float32 another order would be rounded otherwise, and votes among equals fall by that
        mean = clips.mean(dim=2, dtype=torch.float64).to(clips.dtype)
        return F.adaptive_avg_pool2d(mean, self.SIZE).flatten(1)[:, :, None, None, None]


class Cues(nn.Module):
    """Brightness, contrast and sharpness of each frame of clips (N, 3, T, H, W) alone -> (N, 15 T - 6, 1, 1, 1).

    What fades, exposure and compression leave: key frames, for one, are sharper. The numbers as they are, sorted, and
    their steps from frame to frame: as they are, their sizes, these sorted, and the skewness of the steps, as of a slow
    fall and a sudden rise.
    """

    def forward(self, clips: Tensor) -> Tensor:
        grey = clips.mean(dim=1)
        edges = (grey[..., 1:, :] - grey[..., :-1, :]).abs().mean(dim=(2, 3)) + (
            grey[..., 1:] - grey[..., :-1]).abs().mean(dim=(2, 3))
        found = []
        for own in (grey.mean(dim=(2, 3)), grey.std(dim=(2, 3)), edges):
            change = own.diff(dim=1)
            skewness = (change**3).mean(dim=1, keepdim=True) / (change.std(dim=1, keepdim=True)**3 + 1e-12)
            found += [own, own.sort(dim=1).values, change, change.abs(), change.abs().sort(dim=1).values, skewness]
        return torch.cat(found, dim=1)[:, :, None, None, None]


class Differences(nn.Module):
    """How much each frame of clips (N, 3, T, H, W) differs from the one before -> (N, 3 T - 1, 1, 1, 1).

    One number a frame, as it is, its logarithm, that sorted, and by how much the largest is above the second and the
    middle one: a cut.
    """

    def forward(self, clips: Tensor) -> Tensor:
        size = clips.diff(dim=2).abs().mean(dim=(1, 3, 4))
        log = (size + 1e-4).log()
        ordered = log.sort(dim=1, descending=True).values
        above = ordered[:, :1] - ordered[:, [1, ordered.shape[1] // 2]]
        return torch.cat([size, log, ordered, above], dim=1)[:, :, None, None, None]


FLOORS: dict[str, type[nn.Module]] = {"mean picture": Thumbnail, "cues": Cues, "frame differences": Differences}

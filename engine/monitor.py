"""Watching a training run: means, embeddings, values that are not finite, collapse."""
import math
from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from core.dist import rank, world_size
from dataset.augment import MEAN, STD
from models.dualvar import TERMS, Output, term_of
from models.gather import gather
from models.losses import ranked_first, top1

Scalar = Tensor | float | tuple[Tensor, Tensor]  # the last: a sum and its weight
WEIGHT_OF = "weight of "


class Meter:
    """Running means of named scalars, kept on the device until they are read; of pairs (sum, weight), sums by weights.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def update(self, values: Mapping[str, Scalar]) -> None:
        for name, value in values.items():
            if isinstance(value, tuple):
                value, weight = value
                self.add(WEIGHT_OF + name, weight)
            self.add(name, value)
        self.count += 1

    def add(self, name: str, value: Tensor | float) -> None:
        """Add to a sum what was not known when its steps were counted."""
        self.sums[name] = self.sums.get(name, 0) + torch.as_tensor(value, dtype=torch.float32).detach()

    def _stacked(self, device: torch.device) -> tuple[list[str], Tensor]:
        names = sorted(self.sums)  # in one order on all processes
        return names, torch.stack([self.sums[name].to(device) for name in names]) if names else torch.zeros(0)

    def means(self, device: torch.device) -> dict[str, float]:
        """-> {name: float}, averaged over processes too; starts afresh. What has no weight is left out."""
        names, values = self._stacked(device)
        values = values / self.count
        if world_size() > 1:
            dist.all_reduce(values)
            values /= world_size()
        found = dict(zip(names, values.tolist(), strict=True))
        self.sums, self.count = {}, 0
        weights = {name: found.pop(WEIGHT_OF + name) for name in names if WEIGHT_OF + name in found}
        return {name: value / weights.get(name, 1) for name, value in found.items() if weights.get(name, 1) > 0}

    def state(self, device: torch.device) -> dict:
        """What a checkpoint keeps: every process's sums, as plain types. All processes must call it."""
        names, values = self._stacked(device)
        rows = [values]
        if world_size() > 1 and names:
            rows = [torch.empty_like(values) for _ in range(world_size())]
            dist.all_gather(rows, values)
        return {"count": self.count, "names": names, "sums": [row.tolist() for row in rows]}

    def restore(self, state: dict) -> None:
        """Take up what `state` gave; with another number of processes each takes the mean of the former ones' sums."""
        rows = torch.tensor(state["sums"])
        mine = rows[rank()] if len(rows) == world_size() else rows.mean(dim=0)
        self.sums, self.count = dict(zip(state["names"], mine, strict=True)), state["count"]


class FiniteWatch:
    """Finds the first step whose loss or gradient was not finite, looking only when asked: that waits for a GPU.

    patience: steps in a row whose gradient may be, being skipped, as fp16 does to find the scale of its loss.
    """

    def __init__(self, patience: int = 0):
        self.flags: dict[int, Tensor] = {}
        self.patience = patience
        self.in_a_row: Tensor | int = 0

    def add(self, step: int, loss: Tensor, gradient: Tensor) -> None:
        self.in_a_row = torch.where(gradient.detach().isfinite(), 0, self.in_a_row + 1)
        self.flags[step] = loss.detach().isfinite() & (self.in_a_row <= self.patience)

    def first_bad(self) -> int | None:
        """-> the step, or None; starts afresh."""
        flags = torch.stack(list(self.flags.values())).tolist() if self.flags else []
        bad = [step for step, finite in zip(self.flags, flags, strict=True) if not finite]
        self.flags = {}
        return bad[0] if bad else None


@torch.no_grad()
def embedding_monitors(out: Output, temperature: float, permutation: Tensor) -> dict[str, Scalar]:
    """Of a pretrainer's output: top-1 of each loss, chance and similarities of contrastive ones, spread.

    Of a term that shuffles segments also the top-1 of those segments alone that `permutation` (B, n) really moves, as
    (how many are right, how many there are): over all of them 1/2 (of two segments) is reached by embeddings that know
    their place in the clip and nothing of its content.
    """
    values: dict[str, Scalar] = {}
    moved = permutation != torch.arange(permutation.shape[1], device=permutation.device)
    for name, logits in out.logits.items():
        term = TERMS[term_of(name)]
        values[f"top1/{name}"] = top1(logits)
        if term.shuffles:
            rows = torch.cat([moved, moved], dim=1).flatten()  # those of the view, then those of its counterparts
            values[f"top1_permuted/{name}"] = (ranked_first(logits) & rows).sum(), rows.sum()
        if term.contrasts:
            similarity = logits * temperature
            values[f"similarity/{name}_positive"] = similarity[:, 0].mean()
            values[f"similarity/{name}_negative"] = similarity[:, 1:].mean()
            values[f"chance_loss/{name}"] = math.log(logits.shape[1])
    for head, embedding in out.embeddings.items():
        # 1 when the directions are spread evenly, 0 when all embeddings are one
        whole = gather(embedding)  # of a part, as of one sample, it is less
        values[f"feature_std/{head}"] = whole.std(dim=0, correction=0).mean() * whole.shape[-1] ** 0.5
    return values


def sheet_of_views(views: Tensor, every: int = 4) -> Tensor:
    """Views (B, V, 3, T, H, W) of up to 4 samples as one picture (3, h, w): a row a view, every 4th frame."""
    mean, std = (views.new_tensor(x)[:, None, None, None] for x in (MEAN, STD))
    frames = (views[:4] * std + mean).clamp(0, 1)[:, :, :, ::every]
    b, v, c, t, h, w = frames.shape
    return frames.permute(2, 0, 1, 4, 3, 5).reshape(c, b * v * h, t * w).cpu()


class CollapseWatch:
    """Says once when embeddings have become one, or when a contrastive loss stays where knowing nothing puts it."""

    def __init__(self, spread: float = 0.05, margin: float = 0.01, patience: int = 2):
        self.spread, self.margin, self.patience = spread, margin, patience
        self.epochs_at_chance, self.said = 0, False

    def warning(self, means: Mapping[str, float]) -> str | None:
        """An epoch's means -> a sentence, or None."""
        flat = [name for name, value in means.items() if name.startswith("feature_std/") and value < self.spread]
        stuck = [name.partition("/")[2] for name, chance in means.items() if name.startswith("chance_loss/")
                 and means.get(name.replace("chance_loss", "loss"), 0) > (1 - self.margin) * chance]
        self.epochs_at_chance = self.epochs_at_chance + 1 if stuck else 0
        if self.said or not (flat or self.epochs_at_chance >= self.patience):
            return None
        self.said = True
        what = (f"{flat[0]} is {means[flat[0]]:.3f} (1: embeddings spread evenly, 0: all the same)" if flat else
                f"the {stuck[0]} loss has been at its chance level, {means[f'chance_loss/{stuck[0]}']:.2f}, for "
                f"{self.epochs_at_chance} epochs")
        return f"warning: collapse? {what}: a lower --lr, a longer --warmup or a larger --batch_size may help"

"""A backbone, a loss term and a framework of a newcomer, added through the doors that docs/architecture.md names.

    python toys.py train.py --net tiny --framework byol --mode clip-same ...    an entry script that knows them
    python toys.py steps OUTPUT PARTS    losses and gradients of one step -> OUTPUT/<processes>_<rank>.pt
"""
import copy
import importlib
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from core.dist import rank, world_size
from core.exits import run
from models import FRAMEWORKS
from models.backbones import BACKBONES
from models.backbones.base import Backbone, scaled
from models.dualvar import TERMS, Embedded, Option, Pretrainer, Term, normalised, restore_segments, total_loss

# --- a backbone: a class in a file of its own, and one line -----------------------------------------------------


class Tiny(Backbone):
    """Two convolutions."""

    rules = {"release": [(r"^second\.", "block.")]}

    def __init__(self, width=1.0):
        super().__init__()
        channels = scaled(32, width), scaled(64, width)
        self.first = nn.Sequential(nn.Conv3d(3, channels[0], 3, (1, 2, 2), 1, bias=False), nn.BatchNorm3d(channels[0]),
                                   nn.ReLU())
        self.second = nn.Sequential(nn.Conv3d(*channels, 3, 2, 1, bias=False), nn.BatchNorm3d(channels[1]), nn.ReLU())
        self.feature_dim = channels[1]

    def parts(self):
        return [self.first, self.second]


# --- a term: a function, and one line ---------------------------------------------------------------------------

def same_loss(framework, embedded):
    """Views 1 and 3, which have the same frames, agree."""
    return {"same": (1 - (embedded.view1 * embedded.view3).sum(dim=-1).mean(), None)}


# --- a framework: a class in a file of its own, and one line -----------------------------------------------------

class Byol(Pretrainer):
    """As BYOL (Grill et al. 2020): a predictor beside the encoder, a target encoder, no negatives."""

    options = (Option("target_momentum", "--target-m", 0.99, "momentum of the target encoder", (0, 1)),)

    def __init__(self, encoder, terms, temperature=0.07, theta=0.05, sr_clamp=None, target_momentum=0.99):
        super().__init__(encoder, terms, temperature, theta, sr_clamp)
        self.target = copy.deepcopy(encoder).requires_grad_(False)
        self.predictor = nn.ModuleDict({head: nn.Linear(size, size) for head in encoder.heads
                                        for size in encoder.head(head).shape[-1:]})
        self.target_momentum = target_momentum

    @property
    def encodes(self):
        return {1, 2}

    def backbones(self):
        return [self.encoder.backbone, self.target.backbone]

    def embed(self, views, permutation, encode):
        if self.training:
            with torch.no_grad():
                torch._foreach_lerp_(list(self.target.parameters()), list(self.encoder.parameters()),
                                     1 - self.target_momentum)
        with torch.no_grad():
            targets = normalised(encode(self.target, views[:, 1:2]))
        found = {}
        for head, x in encode(self.encoder, views[:, :1]).items():
            found[head] = Embedded(head, nn.functional.normalize(self.predictor[head](x[:, 0]), dim=-1),
                                   targets[head][:, 0])
        if self.needed & {"view3", "restored"}:
            shuffled, permutation = self.shuffled_view(views[:, 2], permutation)
            both = normalised(encode(self.encoder, torch.stack([views[:, 2], shuffled], dim=1)))
            for head, x in both.items():
                found[head].view3 = x[:, 0]
            if "segment" in both:
                found["segment"].restored = restore_segments(both["segment"][:, 1], permutation)
        return found

    def contrast(self, embedded, in_batch, against_queue):
        return 2 - 2 * (embedded.view1 * embedded.view2).sum(dim=-1).mean(), None


TOYS = [(BACKBONES, "tiny", Tiny), (TERMS, "same", Term("clip", ("view1", "view3"), same_loss, ("same",), 0.5)),
        (FRAMEWORKS, "byol", Byol)]
MODES = ("clip-same", "clip-sr-tc-same", "sr", "tc")


def add():
    for table, name, entry in TOYS:
        table[name] = entry


def steps(output, parts):
    """One step of each mode in double precision, batch norm with its running statistics."""
    from distributed_step import BATCH, share_of
    from golden.formula import noise

    from engine.gradcache import GradCache
    from engine.setup import distribute, start
    from models import build_pretrainer

    start("cpu")
    found = {}
    for mode in MODES:
        torch.manual_seed(0)
        model = build_pretrainer("byol", "tiny", mode, width=0.25).double()
        model_to_call, model = distribute(model, torch.device("cpu"), "local")
        model_to_call.train()
        model.encoder.eval()
        model.target.eval()
        views = share_of(noise((BATCH, 3, 3, 8, 24, 24), "step").double())
        permutation = share_of(torch.tensor([[0, 1], [1, 0]] * 4))
        cache = GradCache(model, parts) if parts > 1 else None
        out = cache(views, permutation) if cache else model_to_call(views, permutation)
        loss = total_loss(out.losses, {name: term.weight for name, term in TERMS.items()})
        if cache:
            cache.backward(loss)
        else:
            loss.backward()
        found[mode] = {"loss": loss.detach(), "gradients": {name: p.grad for name, p in model.named_parameters()
                                                            if p.grad is not None}}
    torch.save(found, Path(output) / f"{world_size()}_{rank()}.pt")
    if world_size() > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    add()
    del sys.argv[0]
    if sys.argv[0] == "steps":
        steps(sys.argv[1], int(sys.argv[2]))
    else:
        run(importlib.import_module(sys.argv[0].removesuffix(".py").replace("/", ".")).main)

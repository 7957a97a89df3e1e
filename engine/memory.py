"""How much memory a training step takes, before the run: the real step, on tensors that have a shape and no values.

The copy of the model, its gradients and momentum, the batch, and all that the forward and backward pass make are fake
tensors. A mode that sees every operation follows their storages, so what autograd keeps, and until when, is torch's own
doing. Fake tensors are on the CPU, because those of a GPU need one; what a GPU does otherwise is said where it is done.
"""
import copy
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from core.dist import rank, world_size
from dataset.augment import prepare
from models.backbones.base import Backbone
from models.dualvar import TERMS, Pretrainer, total_loss

from .gradcache import GradCache

GIB = 2**30
CONTEXT = 0.5  # GiB that CUDA itself takes of a GPU
# GiB that nvidia-smi shows of the smallest common GPU sold with so many GB: T4, A10G, A100, H100
GPUS = {80: 79.6, 40: 39.6, 24: 22.2, 16: 14.8}

Step = Callable[[Any, Tensor, int], None]  # (model, views (B, V, 3, T, H, W), parts): forward and backward pass


@dataclass(frozen=True)
class Way:
    """How a step is done. low: in bf16, or fp16, which is as large; accumulate, checkpointing: as the flags."""

    low: bool = False
    accumulate: int = 1
    checkpointing: bool = False


def pretraining_step(model: Pretrainer, views: Tensor, parts: int) -> None:
    """What train.py does with a batch, up to the gradients."""
    permutation = torch.zeros(len(views), model.encoder.segment_head.shape[0], dtype=torch.long)
    cached = GradCache(model, parts) if parts > 1 else None
    out = cached(views, permutation) if cached else model(views, permutation)
    loss = total_loss(out.losses, dict.fromkeys(TERMS, 1.0))
    model.zero_grad(set_to_none=True)
    if cached:
        cached.backward(loss)
    else:
        loss.backward()


def peak(model: nn.Module, step: Step, batch: Sequence[int], way: Way) -> int:
    """Bytes of the largest memory of this process in a step, without those of CUDA, cuDNN's workspaces and the like.

    model: not changed. batch: shape (B, V, T, H, W, 3) of this process's clips, uint8 as the loader makes them.
    """
    with FakeTensorMode(), Storages() as storages, GpuCasts():
        model = copy.deepcopy(model, {id(x): fake(x) for x in [*model.parameters(), *model.buffers()]}).train()
        model.no_sync = nullcontext  # type: ignore[assignment]  # which DistributedDataParallel would have added
        for network in model.modules():
            if isinstance(network, Backbone):
                network.low = torch.bfloat16 if way.low else None
                network.checkpointing = way.checkpointing
                network.forward = partial(part_by_part, network.forward, Counter(), {})  # type: ignore[method-assign]
        trained = [p for p in model.parameters() if p.requires_grad]
        for p in trained:
            p.grad = torch.empty_like(p)  # of the step before, whose momentum is there too
        kept = [torch.empty_like(p) for p in trained]
        if world_size() > 1:
            kept += [torch.empty_like(p) for p in trained]  # DistributedDataParallel's buckets
        clips = torch.empty(*batch, dtype=torch.uint8)  # on a GPU the next batch, copied ahead; on a CPU this one
        step(model, prepare(clips), way.accumulate)
        del kept
    return storages.peak


def fake(x: Tensor) -> Tensor:
    """A fake tensor like `x`, in the memory layout that `distribute` gives it."""
    layout = torch.channels_last_3d if x.dim() == 5 else torch.contiguous_format
    found = torch.empty(x.shape, dtype=x.dtype, memory_format=layout)
    return nn.Parameter(found, x.requires_grad) if isinstance(x, nn.Parameter) else found


def part_by_part(forward: Callable[[Tensor], Tensor], calls: Counter, shapes: dict, clips: Tensor) -> Tensor:
    """A backbone's forward, which for later parts of a batch (--accumulate) gives an empty feature map at once.

    All take the same memory as the first or, with gradient, as the second, which is the first that finds gradients.
    """
    key = clips.shape, torch.is_grad_enabled()
    calls[key] += 1
    if calls[key] > 1 + torch.is_grad_enabled():
        return clips.new_empty(shapes[key])
    features = forward(clips)
    shapes[key] = features.shape
    return features


class Storages(TorchDispatchMode):
    """Follows the storages of all tensors that are made within: `now` and `peak`, bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.alive: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: Mapping | None = None) -> Any:
        if func.namespace == "c10d":  # nothing is sent: a collective operation has its result in its first argument
            return args[0], torch._C._distributed_c10d.FakeWork().boxed()
        out = func(*args, **(kwargs or {}))
        for x in tree_iter(out):
            if isinstance(x, Tensor):
                self._add(x.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.alive:
            return

        def freed(_: weakref.ref) -> None:
            self.now -= size
            del self.alive[key]
        self.alive[key] = weakref.ref(storage, freed)
        self.now += size
        self.peak = max(self.peak, self.now)


class GpuCasts(TorchFunctionMode):
    """On CPUs autocast takes max pooling to float32, on GPUs it does not."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: Mapping | None = None) -> Any:
        with torch.autocast("cpu", enabled=False) if func is F.max_pool3d else nullcontext():
            return func(*args, **(kwargs or {}))

"""How much memory a training step or a forward pass takes: the real one, on tensors that have a shape and no values.

The copy of the model, its gradients and momentum, the batch, and all that forward and backward pass make are fake
tensors; a mode that sees every operation follows their storages. They are on the CPU: those of a GPU would need one.
"""
import copy
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._distributed_c10d import FakeWork
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from core.dist import alone, initialised, rank, world_size
from core.imports import first_line
from models.backbones.base import Backbone

from .precision import default_precision

# {GB by which a GPU is sold: GiB of a common one (H100, A100, A10, T4), less 0.5 that CUDA itself takes}
GPUS = {80: 79.6 - 0.5, 40: 39.3 - 0.5, 24: 22.4 - 0.5, 16: 15.0 - 0.5}

aten = torch.ops.aten
# {operation: its arguments that its results are as large as}, where torch takes long to find that out
AS_LARGE_AS = {aten.native_batch_norm.default: (0, 3, 3), aten.native_batch_norm_backward.default: (1, 2, 2),
               aten.threshold_backward.default: (0,)}

Step = Callable[[Any, Tensor, int], None]  # (model, views (B, V, 3, T, H, W), parts): forward and backward pass


@dataclass(frozen=True)
class Way:
    """How a step is done. low: in bf16, or fp16, which is as large; accumulate, checkpointing: as the flags."""

    low: bool = False
    accumulate: int = 1
    checkpointing: bool = False


def memory_plan(model: nn.Module, step: Step, batch: Sequence[int], device: torch.device, *, precision: str | None,
                accumulate: int, checkpointing: bool, dry_run: int | None, bn_splits: int = 1) -> str:
    """Text for the plan: the memory of a step in each process, which GPUs it fits and, of a dry run, what fits smaller.

    model, batch: as in `peak`; the others: as the flags. Only the first process looks. A dry run is one for GPUs,
    wherever it is made; of a start on a CPU no GPU is named.
    """
    if rank() != 0:
        return ""
    for_cpu = device.type == "cpu" and not dry_run
    if for_cpu:
        precision = default_precision(precision, device)
    own = Way(precision not in ("fp32", "tf32"), accumulate, checkpointing)
    known = precision not in (None, "auto")

    def said(gib: float) -> str:
        return f"{gib:.1f} GiB" if gib >= 1 else f"{gib * 1024:.0f} MiB"

    gib = cache(lambda way: peak(model, step, batch, way, "cpu" if for_cpu else "cuda") / 2**30)
    parts = [n for n in (accumulate << k for k in range(batch[0].bit_length()))
             if batch[0] % (n * bn_splits) == 0 and batch[0] // n > 1]
    ways = [own, *(Way(low, n, again) for n in parts for again in sorted({checkpointing, True})
                   for low in sorted({own.low, True}) if dry_run)]
    try:
        text = f"{said(gib(own))} a process in {precision if known else 'bf16'}"
        if not known:
            text += f", {said(gib(replace(own, low=False)))} in fp32"
        # {the first way that fits: the smallest GPU that it fits}
        fits = {next((way for way in ways if gib(way) <= room), None): gb for gb, room in GPUS.items()
                if not for_cpu}
    except RuntimeError as error:  # as of a network whose shapes depend on values
        return f"not known before the run: {first_line(error)}"
    for way, gb in fits.items():
        if way == own:
            text += f"; fits {gb} GB"
        elif way:
            more = [f"--accumulate {way.accumulate}"] if way.accumulate > accumulate else []
            more += ["--checkpointing"] if way.checkpointing > checkpointing else []
            more += ["--precision bf16"] if way.low > own.low else []
            text += f"; {gb} GB with {' '.join(more)} ({said(gib(way))})"
    return text


def peak(model: nn.Module, step: Step, batch: Sequence[int], way: Way, device: str = "cuda") -> int:
    """Bytes of the largest memory of this process in a step, as far as it is tensors.

    model: not changed, as it is before `distribute`. batch: shape (B, V, T, H, W, 3) of this process's clips. device:
    "cuda" or "cpu", on which autocast leaves max pools to float32. Raises RuntimeError where shapes depend on values.
    """
    with FakeTensorMode(), Storages() as storages:
        model = faked(model).train()
        trained = [p for p in model.parameters() if p.requires_grad]

        def give_gradients() -> None:
            for p in trained:
                if p.grad is None:
                    p.grad = torch.empty_like(p)

        model.no_sync = nullcontext  # type: ignore[assignment]  # which DistributedDataParallel would have added
        for module in model.modules():
            if isinstance(module, Backbone):
                module.low, module.checkpointing = torch.bfloat16 if way.low else None, way.checkpointing
                if way.accumulate > 1:
                    module.forward = partial(  # type: ignore[method-assign]
                        part_by_part, module.forward, {}, give_gradients)
            elif type(module) in (nn.BatchNorm1d, nn.BatchNorm3d):
                module.forward = partial(normalised, module)  # type: ignore[method-assign, arg-type]
            elif isinstance(module, nn.MaxPool3d) and device != "cpu":  # what is fake is on the CPU, autocast with it
                module.forward = torch.autocast("cpu", enabled=False)(module.forward)  # type: ignore[method-assign]
        give_gradients()  # of the step before
        # momentum and, with several processes, DistributedDataParallel's buckets of gradients
        kept = torch.empty(sum(p.numel() for p in trained), 2 if world_size() > 1 else 1)
        clips = torch.empty(*batch, dtype=torch.uint8)  # on a GPU the next batch, copied ahead; on a CPU this one
        views = torch.empty(*batch).movedim(-1, 2)  # as `prepare` gives them
        torch.empty_like(views)  # while a GPU blurs them
        with nullcontext() if initialised() else alone():
            step(model, views, way.accumulate)
        del kept, clips
        return storages.peak


def forward_peak(model: nn.Module, clips: Sequence[int]) -> int:
    """Bytes of the largest memory of `model(clips)` without gradients, in float32, clips of this shape; with weights.

    Raises RuntimeError where shapes depend on values, or such clips do not fit the model.
    """
    with FakeTensorMode(), Storages() as storages, torch.no_grad():
        faked(model)(torch.empty(*clips))
        return storages.peak


def faked(model: nn.Module) -> nn.Module:
    """A copy of a model, with shapes and no values."""
    return copy.deepcopy(model, {id(x): fake(x) for x in [*model.parameters(), *model.buffers()]})


def normalised(layer: nn.BatchNorm1d | nn.BatchNorm3d, x: Tensor) -> Tensor:
    """`layer(x)`, also where x has one value a channel: that is enough with those of other processes (--bn sync)."""
    assert layer.momentum is not None
    return torch.batch_norm(x, layer.weight, layer.bias, layer.running_mean, layer.running_var, layer.training,
                            layer.momentum, layer.eps, False)


def fake(x: Tensor) -> Tensor:
    """A fake tensor like `x`, in the memory layout that `distribute` gives it."""
    layout = torch.channels_last_3d if x.dim() == 5 else torch.contiguous_format
    found = torch.empty(x.shape, dtype=x.dtype, memory_format=layout)
    return nn.Parameter(found, x.requires_grad) if isinstance(x, nn.Parameter) else found


def part_by_part(forward: Callable[[Tensor], Tensor], shapes: dict, give_gradients: Callable[[], None],
                 clips: Tensor) -> Tensor:
    """A backbone's forward, which for later parts of a batch (--accumulate) gives an empty feature map at once.

    They take the same memory as the first, which finds the gradients that the second would: those of the first.
    """
    key = clips.shape, torch.is_grad_enabled()
    if key not in shapes:
        if torch.is_grad_enabled():
            give_gradients()
        features = forward(clips)
        shapes[key] = features.shape
        return features
    return clips.new_empty(shapes[key])


class Storages(TorchDispatchMode):
    """Follows the storages of all tensors that are made within: `now` and `peak`, bytes. Nothing is sent anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.alive: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: Mapping | None = None) -> Any:
        if func is torch.ops.prim.device.default:  # which is asked most often
            return torch.device("cpu")
        if func.namespace == "c10d":  # a collective operation puts its results into its first argument
            return args[0], FakeWork().boxed()
        if func in AS_LARGE_AS:
            found = [None if args[i] is None else torch.empty_like(args[i]) for i in AS_LARGE_AS[func]]
            out = tuple(found) if len(found) > 1 else found[0]
        else:
            out = func(*args, **(kwargs or {}))
        for x in tree_iter(out):
            if isinstance(x, Tensor):
                self.follow(x.untyped_storage())
        return out

    def follow(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.alive:
            return

        def freed(_: weakref.ref) -> None:
            self.now -= size
            del self.alive[key]
        self.alive[key] = weakref.ref(storage, freed)
        self.now += size
        self.peak = max(self.peak, self.now)

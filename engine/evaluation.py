"""What the test, retrieval and held-out accuracy share: a network's output for every video of a list."""
import json
import sys
from collections.abc import Callable, Collection, Sized
from dataclasses import asdict, dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader

from core.dist import rank, world_size
from core.errors import DataError, RunError
from core.imports import first_line
from core.inputs import COUNT, fault, parsed
from dataset.augment import prepare
from dataset.clips import VideoClips
from dataset.loader import EvalBatches, make_loader, return_memory
from models.backbones.base import Backbone
from models.protocol import spacing

from .agreement import of_all_processes
from .log import bar
from .precision import clip_shapes, set_precision
from .setup import flag_text
from .transfer import on_device

# Clips of a forward pass, whatever --batch_size. On the CPU ten of 16 x 112 x 112 are as fast as any number and need
# 1.6 GB in R(2+1)D; forty take 1.6 times as long each, and 5.6 GB.
CLIPS = {"cpu": 10, "cuda": 40}

# what reading or computing raises where files or the machine are the cause
FAILURES = (RuntimeError, DataError, OSError, EOFError)


def to_device(network: nn.Module, device: torch.device) -> nn.Module:
    """The network on `device`, for evaluation alone, in the memory layout that is fastest for 3-D convolutions."""
    return network.eval().requires_grad_(False).to(device).to(memory_format=torch.channels_last_3d)


def pass_sizes(lengths: Collection[int], batch: int, clips: int, device: torch.device) -> set[int]:
    """Clips that `over_videos` passes at a time: lists of `lengths` videos, `batch` at a time, `clips` of each."""
    most = CLIPS[device.type]
    loaded = {size * clips for length in lengths for size in (min(batch, length), length % batch)}
    return {n for whole in loaded for n in (min(most, whole), whole % most)} - {0}


def prepare_network(network: nn.Module, backbone: Backbone, lists: Collection[Sized], device: torch.device, *,
                    precision: str, batch_size: int, clips: int, seq_len: int,
                    img_dim: int) -> tuple[nn.Module, str]:
    """A network on `device` for evaluation of `lists`, its backbone in `precision` -> (network, precision chosen).

    clips: of a video, crops counted.
    """
    network = to_device(network, device)
    sizes = pass_sizes([len(videos) for videos in lists], batch_size, clips, device)
    precision, sentences = set_precision([backbone], precision, clip_shapes(sizes, seq_len, img_dim), device,
                                         training=False)
    for sentence in sentences if rank() == 0 else ():
        print(sentence)
    return network, precision


def eval_loader(data: VideoClips, device: torch.device, *, batch_size: int, workers: int,
                timeout: float) -> DataLoader:
    """This process's share of a data set, every sample once over all processes."""
    batches = EvalBatches(len(data), batch_size, rank(), world_size())
    return make_loader(data, batches, workers, device.type == "cuda", timeout)


@torch.inference_mode()
def over_videos(compute: Callable[[Tensor], Tensor], loader: DataLoader, videos: int, device: torch.device,
                description: str, average: bool = True) -> Tensor:
    """compute(clips (N, 3, T, H, W)) -> (N, C), averaged over each video's clips -> (videos, C) float32, CPU.

    Not averaged, the clips' values stand one after the other: (videos, clips * C).

    loader: this process's share of the list, as EvalBatches deals it; videos: of the whole list. In the order of the
    list, the same on every process and for any number of processes. Nothing waits for the device before the last
    batch; until then each process keeps its own rows there, at the end the whole table. A compiled network runs
    uncompiled, as every number of clips would be compiled anew.
    An error of one process ends it on all, in those without one of their own as RunError. Raises RunError where the
    output is not finite.
    """
    return_memory()  # the loader's processes, forked now, would have copies of it
    indices, rows = [], []
    failed: Exception | None = None
    table: Tensor | None = None
    try:
        with torch.compiler.set_stance("force_eager"):
            for batch in on_device(bar(loader, description), device, ("clips",)):
                clips = batch["clips"]
                values = torch.cat([forward(compute, part) for part in clips.flatten(0, 1).split(CLIPS[device.type])])
                values = values.unflatten(0, clips.shape[:2])
                rows.append(values.mean(dim=1) if average else values.flatten(1))
                indices.append(batch["index"])
        if rows:
            table = torch.zeros(videos, rows[0].shape[1], device=device)
            table[torch.cat(indices).to(device)] = torch.cat(rows)
    except FAILURES as error:
        failed = error
        if world_size() > 1:  # the others may take long to come to the end of theirs
            print(f"note: process {rank()} cannot go on, and waits for the others: {first_line(error)}",
                  file=sys.stderr, flush=True)
    reasons, widths = zip(*of_all_processes((failed and first_line(failed), 0 if table is None else table.shape[1])),
                          strict=True)
    if any(reasons):
        raise failed or RunError(f"another process: {next(filter(None, reasons))}")
    if table is None:  # this process has no videos
        table = torch.zeros(videos, max(widths), device=device)
    if world_size() > 1:  # each row is made by one process: the sum puts all of them together exactly
        dist.all_reduce(table)
    if not table.isfinite().all():
        raise RunError(f"{description}: the network's output is not finite; its weights are broken, or diverged")
    return table.cpu()


def share_statistics(model: nn.Module) -> None:
    """Give every process the first one's batch-norm statistics, which the checkpoint will hold."""
    for buffer in model.buffers() if world_size() > 1 else ():
        dist.broadcast(buffer, src=0)


def forward(compute: Callable[[Tensor], Tensor], clips: Tensor) -> Tensor:
    """A forward pass in the precision of evaluation: clips (N, T, H, W, 3) uint8 -> (N, C) float32."""
    return compute(prepare(clips[:, None]).squeeze(1)).float()


@dataclass(frozen=True)
class ClipFlags:
    """How the clips of a kept result were taken: the flags of these names. crops, fps: None where there are none."""

    seq_len: int
    ds: int
    img_dim: int
    resize: tuple[int, int]
    clips: int
    crops: int | None = None
    fps: float | None = None

    @property
    def spacing(self) -> str:
        """How far the frames of a clip are apart, as text."""
        return spacing(self.ds, self.fps)

    def values(self) -> dict:
        """As flags, plain types."""
        return {name: list(value) if isinstance(value, tuple) else value
                for name, value in asdict(self).items() if value is not None or name == "fps"}

    def to_json(self) -> str:
        return json.dumps(self.values())

    def from_json(self, text: str, where: str, hint: str) -> "ClipFlags":
        """The protocol of a kept result, with the same fields as this one; earlier versions wrote no fps.

        Where it differs from this one, which the flags gave, that is printed. Raises DataError, naming `where`, where
        `text` is none.
        """
        own = self.values()
        shape = {name: [COUNT] if isinstance(value, list) else COUNT for name, value in own.items() if name != "fps"}
        kept = {"fps": None, **parsed(text, shape, where, hint)}
        if kept.keys() != own.keys() or len(kept["resize"]) != 2 or fault(kept["fps"], (None, float)):
            raise DataError(f"{where} is damaged (it has {', '.join(kept)}; a resize is two numbers): {hint}")
        changed = {name for name in own if own[name] != kept[name]}
        kept["resize"] = tuple(kept["resize"])
        if changed and rank() == 0:
            print(f"note: taken as kept: {flag_text(kept, changed)}")
        return ClipFlags(**kept)

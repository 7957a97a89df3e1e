"""What the test, retrieval and held-out accuracy share: a network's output for every video of a list."""
import torch
import torch.distributed as dist

from core.dist import world_size
from core.errors import RunError
from dataset.augment import prepare
from dataset.loader import return_memory

from .log import bar

# Clips of a forward pass, whatever --batch_size. On the CPU ten of 16 x 112 x 112 are as fast as any number and need
# 1.6 GB in R(2+1)D; forty take 1.6 times as long each, and 5.6 GB.
CLIPS = {"cpu": 10, "cuda": 40}


def placed(network, device):
    """The network on `device`, for evaluation alone, in the memory layout that is fastest for 3-D convolutions."""
    return network.eval().requires_grad_(False).to(device, memory_format=torch.channels_last_3d)


def counts(lengths, batch, clips, device):
    """How many clips `over_videos` passes at a time: lists of `lengths` videos, `batch` at a time, `clips` of each."""
    most = CLIPS[device.type]
    loaded = {size * clips for length in lengths for size in (min(batch, length), length % batch)}
    return {n for whole in loaded for n in (min(most, whole), whole % most)} - {0}


@torch.inference_mode()
def over_videos(compute, loader, videos, device, description, average=True):
    """compute(clips (N, 3, T, H, W)) -> (N, C), averaged over each video's clips -> (videos, C) float32, CPU.

    Not averaged, the clips' values stand one after the other: (videos, clips * C).

    loader: this process's share of the list, as EvalBatches deals it; videos: of the whole list. In the order of the
    list, the same on every process and for any number of processes. Nothing waits for the device before the last
    batch; until then each process keeps its own rows there, at the end the whole table.
    Raises RunError where the output is not finite.
    """
    return_memory()  # the loader's processes, forked now, would have copies of it
    indices, rows = [torch.empty(0, dtype=torch.int64)], []
    for batch in bar(loader, description):
        clips = batch["clips"].to(device, non_blocking=True)
        values = torch.cat([forward(compute, part) for part in clips.flatten(0, 1).split(CLIPS[device.type])])
        values = values.unflatten(0, clips.shape[:2])
        rows.append(values.mean(dim=1) if average else values.flatten(1))
        indices.append(batch["index"])
    width = torch.tensor([rows[0].shape[1] if rows else 0], device=device)
    if world_size() > 1:
        dist.all_reduce(width, op=dist.ReduceOp.MAX)
    table = torch.zeros(videos, int(width), device=device)
    if rows:
        table[torch.cat(indices).to(device)] = torch.cat(rows)
    if world_size() > 1:  # each row is made by one process: the sum puts all of them together exactly
        dist.all_reduce(table)
    if not table.isfinite().all():
        raise RunError(f"{description}: the network's output is not finite; its weights are broken, or diverged")
    return table.cpu()


def share_statistics(model):
    """Give every process the first one's batch-norm statistics, which the checkpoint will hold."""
    for buffer in model.buffers() if world_size() > 1 else ():
        dist.broadcast(buffer, src=0)


def forward(compute, clips):
    """A forward pass in the precision of evaluation: clips (N, T, H, W, 3) uint8 -> (N, C) float32."""
    clips = prepare(clips[:, None]).squeeze(1).contiguous(memory_format=torch.channels_last_3d)
    return compute(clips).float()

"""What the test, retrieval and held-out accuracy share: a network's output for every video of a list."""
import ctypes
import json

import torch
import torch.distributed as dist

import utils
from dataset.augment import prepare
from dataset.loader import EvalBatches
from models.gather import rank, world_size
from models.log import bar, plain
from models.session import RunError

# Clips of a forward pass, whatever --batch_size. On the CPU ten of 16 x 112 x 112 are as fast as any number and need
# 1.6 GB in R(2+1)D; forty take 1.6 times as long each, and 5.6 GB.
CLIPS = {"cpu": 10, "cuda": 40}

PROTOCOL = ("seq_len", "ds", "img_dim", "resize", "clips", "crops")


def protocol_of(args):
    """How a result's clips were taken, as JSON to keep with it."""
    return json.dumps({name: value for name, value in plain(vars(args)).items() if name in PROTOCOL})


def take_protocol(args, text):
    """Make the flags say how a kept result's clips were taken; ValueError where `text` is not protocol_of's."""
    kept = json.loads(text)
    if not isinstance(kept, dict) or kept.keys() != {name for name in PROTOCOL if name in vars(args)} or not all(
            type(x) is int for value in kept.values() for x in (value if type(value) is list else [value])):
        raise ValueError("no protocol")
    kept["resize"] = tuple(kept["resize"])
    changed = [name for name, value in kept.items() if getattr(args, name) != value]
    if changed and rank() == 0:
        print("note: taken as kept: " + ", ".join(f"--{name} {kept[name]}" for name in changed))
    vars(args).update(kept)


def placed(network, device):
    """The network on `device`, for evaluation alone, in the memory layout that is fastest for 3-D convolutions."""
    if device.type == "cpu":
        keep_freed_memory()
    return network.eval().requires_grad_(False).to(device, memory_format=torch.channels_last_3d)


def keep_freed_memory():
    """Have glibc keep large blocks that are freed, for the next layer, instead of returning them to the system.

    Otherwise every activation's pages are zeroed anew. Other C libraries have no such setting and need none set.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def return_freed_memory():
    """Return what is kept: the loader's processes, forked after this, would have copies of it."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(ctypes.c_size_t(0))


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h


@torch.inference_mode()
def over_videos(compute, data, args, device, description):
    """compute(clips (N, 3, T, H, W)) -> (N, C), averaged over each video's clips -> (len(data), C) float32, CPU.

    In the order of the list, the same on every process and for any number of processes. Nothing waits for the
    device before the last batch; until then each process keeps its own rows there, at the end the whole table.
    Raises RunError where the output is not finite.
    """
    return_freed_memory()
    loader = utils.clip_loader(args, data, EvalBatches(len(data), args.batch_size, rank(), world_size()), device)
    indices, rows = [torch.empty(0, dtype=torch.int64)], []
    for batch in bar(loader, description):
        clips = batch["clips"].to(device, non_blocking=True)
        values = torch.cat([forward(compute, part) for part in clips.flatten(0, 1).split(CLIPS[device.type])])
        rows.append(values.unflatten(0, clips.shape[:2]).mean(dim=1))
        indices.append(batch["index"])
    width = torch.tensor([rows[0].shape[1] if rows else 0], device=device)
    if world_size() > 1:
        dist.all_reduce(width, op=dist.ReduceOp.MAX)
    table = torch.zeros(len(data), int(width), device=device)
    if rows:
        table[torch.cat(indices).to(device)] = torch.cat(rows)
    if world_size() > 1:  # each row is made by one process: the sum puts all of them together exactly
        dist.all_reduce(table)
    if not table.isfinite().all():
        raise RunError(f"{description}: the network's output is not finite; its weights are broken, or diverged")
    return table.cpu()


def forward(compute, clips):
    """A forward pass in the precision of evaluation: clips (N, T, H, W, 3) uint8 -> (N, C) float32."""
    clips = prepare(clips[:, None]).squeeze(1).contiguous(memory_format=torch.channels_last_3d)
    return compute(clips).float()

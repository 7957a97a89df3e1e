"""What test_batchnorm.py looks at in one or several gloo processes; each writes OUTPUT/<processes>_<rank>.pt.

    python batchnorm_step.py OUTPUT PROCESSES...

PROCESSES: what one process is to do, which has the numbers that so many processes must give.
"""
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from distributed_step import BATCH, share_of
from golden.formula import noise

import finetune
from core.dist import rank, world_size
from dataset.loader import TrainBatches
from engine.gradcache import GradCache
from engine.setup import distribute, start
from models import build_classifier, build_pretrainer

CPU = torch.device("cpu")
# name: (framework, network, parts, checkpointing)
PRETRAINING = {
    "simclr": ("simclr", "r3d", 1, False), "moco": ("moco", "r21d", 1, False),
    "simclr in parts": ("simclr", "r21d", 2, False), "moco in parts, checkpointing": ("moco", "r3d", 2, True),
}
# name: (batch, parts, --final_bn), by number of processes
FINETUNING = {
    3: {"16 over 3": (16, 1, True), "16 over 3 in parts": (16, 2, True)},
    4: {"5 over 4": (5, 1, True), "5 over 4 in parts": (5, 2, True), "3 over 4": (3, 1, True),
        "3 over 4 in parts": (3, 2, False)},
}


def results(model, losses):
    """Mean losses over processes, this one's gradients, and the state after the step."""
    if world_size() > 1:
        dist.all_reduce(losses)
    return {"losses": losses / world_size(), "state": model.state_dict(),
            "gradients": {name: p.grad for name, p in model.named_parameters() if p.grad is not None}}


def pretraining_step(framework, net, parts, checkpointing):
    torch.manual_seed(0)
    model = build_pretrainer(framework, net, width=0.0625, queue_size=16).double()
    model.encoder.backbone.checkpointing = checkpointing
    call, model = distribute(model, CPU, "sync")
    cache = GradCache(model.train(), parts) if parts > 1 else None
    views = noise((BATCH, 3, 3, 8, 24, 24), "step").double()
    out = (cache or call)(share_of(views), share_of(torch.tensor([[0, 1], [1, 0]] * (BATCH // 2))))
    loss = sum(out.losses.values())
    (cache or loss).backward(*[loss] if cache else [])
    return results(model, torch.stack(list(out.losses.values())).detach())


def finetuning_step(batch, parts, final_bn):
    torch.manual_seed(0)
    call, model = distribute(build_classifier("r21d", 3, 0.0625, final_bn=final_bn).double(), CPU, "sync")
    batches = TrainBatches(batch, batch, rank(), world_size(), parts=parts)
    index = torch.tensor([index for _, index in next(iter(batches))])
    clips, labels = noise((batch, 3, 16, 32, 32), "step").double()[index], index % 3
    scores, loss = finetune.forward_backward(call.train(), clips, labels, torch.amp.GradScaler("cpu", enabled=False),
                                             batches)
    assert len(scores) == sum(batches.own)
    return results(model, loss[None])


def low_precision_layer():
    """A layer on bf16, whose second channel's mean is far from zero: output, gradients, running statistics."""
    generator = torch.Generator().manual_seed(0)
    x, grad = torch.randn(2, BATCH, 3, 4, 5, 5, generator=generator)
    x[:, 1] += 50
    x, grad = (share_of(tensor).bfloat16().contiguous(memory_format=torch.channels_last_3d) for tensor in (x, grad))
    layer = torch.nn.BatchNorm3d(3)
    torch.nn.init.uniform_(layer.weight, generator=generator)
    layer = distribute(layer, CPU, "sync")[1]
    out = layer(x.requires_grad_())
    out.backward(grad)
    for p in layer.parameters() if world_size() > 1 else ():
        dist.all_reduce(p.grad)
    return {"inputs": (x.detach(), grad), "out": out.detach(), "input gradient": x.grad,
            "weight": layer.weight.detach(), "gradients": torch.stack([p.grad for p in layer.parameters()]),
            "running": torch.stack([layer.running_mean, layer.running_var])}


def main():
    start("cpu")
    found = {}
    for processes in [world_size()] if world_size() > 1 else map(int, sys.argv[2:]):
        if processes % 2 == 0:
            found.update((name, pretraining_step(*case)) for name, case in PRETRAINING.items() if name not in found)
        found.update((name, finetuning_step(*case)) for name, case in FINETUNING.get(processes, {}).items())
    found["bf16"] = low_precision_layer()
    torch.save(found, Path(sys.argv[1]) / f"{world_size()}_{rank()}.pt")
    if world_size() > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()

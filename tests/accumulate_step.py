"""What test_accumulate.py looks at in one or several gloo processes; each writes OUTPUT/<processes>_<rank>.pt.

    python accumulate_step.py OUTPUT PARTS
"""
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from distributed_step import BATCH, MODES, share_of
from golden.formula import noise

import finetune
from core.dist import rank, world_size
from dataset.loader import TrainBatches
from engine.gradcache import GradCache
from engine.setup import distribute, start
from models import build_classifier, build_pretrainer


def pretraining_step(framework, mode, parts):
    """Mean losses, all gradients and the state after a step's forward and backward pass, in double precision."""
    torch.manual_seed(0)
    model = build_pretrainer(framework, "r3d", mode, width=0.0625, queue_size=16).double()
    call, model = distribute(model, torch.device("cpu"), "local")
    call.train()
    model.encoder.eval()  # batch norm with its running statistics: batch statistics do depend on the split
    if framework == "moco":
        model.key_encoder.eval()
    cache = GradCache(model, parts)
    views, permutation = noise((BATCH, 3, 3, 8, 24, 24), "step").double(), torch.tensor([[0, 1], [1, 0]] * 4)
    out = cache(share_of(views), share_of(permutation))
    losses = out.losses
    cache.backward(sum(losses.values()))
    values = torch.stack(list(losses.values())).detach()
    if world_size() > 1:
        dist.all_reduce(values)
    return {"losses": dict(zip(losses, (values / world_size()).tolist(), strict=True)),
            "gradients": {name: p.grad for name, p in model.named_parameters() if p.grad is not None},
            "state": model.state_dict()}


def finetuning_step(parts):
    torch.manual_seed(0)
    call, model = distribute(build_classifier("r3d", 3, 0.0625).double(), torch.device("cpu"), "local")
    model.eval()
    clips, labels = noise((BATCH, 3, 8, 24, 24), "step").double(), torch.arange(BATCH) % 3
    _, loss = finetune.forward_backward(call, share_of(clips), share_of(labels),
                                        torch.amp.GradScaler("cpu", enabled=False),
                                        TrainBatches(BATCH, BATCH, rank(), world_size(), parts=parts))
    if world_size() > 1:
        dist.all_reduce(loss)
    return {"losses": {"loss": loss.item() / world_size()},
            "gradients": {name: p.grad for name, p in model.named_parameters()}, "state": model.state_dict()}


def main():
    start("cpu")
    parts = int(sys.argv[2])
    found = {f"{framework} {mode}": pretraining_step(framework, mode, parts)
             for framework in ("simclr", "moco") for mode in MODES}
    found["finetune"] = finetuning_step(parts)
    torch.save(found, Path(sys.argv[1]) / f"{world_size()}_{rank()}.pt")
    if world_size() > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()

"""What test_distributed.py looks at in one or several gloo processes; each writes OUTPUT/<processes>_<rank>.pt.

    python distributed_step.py OUTPUT
"""
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from golden.formula import noise

from core.dist import rank, world_size
from engine.monitor import embedding_monitors
from engine.setup import distribute, seed_everything, start
from models import build_pretrainer
from models.dualvar import Output, normalised
from models.gather import gather, shuffled, unshuffled

MODES = ("clip", "sr", "tc", "clip-sr", "clip-tc", "sr-tc", "clip-sr-tc")
BATCH = 8


def share_of(batch):
    return batch[rank()::world_size()]


def one_step(framework, mode):
    """Losses of the whole batch and all gradients, in double precision."""
    torch.manual_seed(0)
    model = build_pretrainer(framework, "r3d", mode, width=0.0625, queue_size=16).double()
    model.eval()  # batch norm with its running statistics: batch statistics do depend on the split
    call, model = distribute(model, torch.device("cpu"), "local")
    out = call(share_of(noise((BATCH, 3, 3, 8, 24, 24), "step").double()), share_of(torch.tensor([[0, 1], [1, 0]] * 4)))
    losses = out.losses
    sum(losses.values()).backward()
    values = torch.stack(list(losses.values())).detach()
    if world_size() > 1:
        dist.all_reduce(values)
    return {"losses": dict(zip(losses, (values / world_size()).tolist(), strict=True)),
            "gradients": {name: p.grad for name, p in model.named_parameters() if p.grad is not None}}


def key_shuffle():
    """Keys with and without shuffling, and by hand: encode another process's samples, send them back."""
    torch.manual_seed(0)
    model = build_pretrainer("moco", "r3d", "clip", width=0.0625, queue_size=16, shuffle_keys=True)
    view = share_of(noise((BATCH, 3, 8, 24, 24), "keys"))
    seed_everything(1, rank())  # only the first process's order counts
    state = {name: value.clone() for name, value in model.state_dict().items()}
    mixed = model.keys(view)["clip"]
    model.load_state_dict(state)
    seed_everything(1, rank())
    order = torch.randperm(BATCH)
    dist.broadcast(order, src=0)
    encoded = gather(normalised(model.key_encoder(share_of(gather(view)[order])[:, None]))["clip"][:, 0])
    by_hand = torch.empty_like(encoded)
    by_hand[order] = encoded
    model.load_state_dict(state)
    model.shuffle_keys = False
    plain = model.keys(view)["clip"]
    numbers = torch.arange(BATCH // world_size()) + 100 * rank()
    exchanged, order = shuffled(numbers)
    return {"mixed": mixed, "by hand": share_of(by_hand), "plain": plain, "numbers": numbers, "exchanged": exchanged,
            "back": unshuffled(exchanged, order)}


def main():
    start("cpu")
    found = {f"{framework} {mode}": one_step(framework, mode) for framework in ("simclr", "moco") for mode in MODES}
    if world_size() > 1:
        found["keys"] = key_shuffle()
    x = torch.arange(4.0)[rank()::world_size()].requires_grad_()
    ((gather(x) + gather(x)) ** 2).sum().backward()  # autograd hands one gradient to both
    found["twice"] = x.grad / world_size()
    embedding = share_of(noise((4, 16), "spread"))
    found["spread"] = embedding_monitors(Output({}, {}, {"clip": embedding}), 0.07, torch.zeros(1, 2))[
        "feature_std/clip"]
    seed_everything(0, 5, 7, rank())
    found["draws"] = torch.rand(4)
    torch.save(found, Path(sys.argv[1]) / f"{world_size()}_{rank()}.pt")
    if world_size() > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()

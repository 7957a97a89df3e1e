"""One training step on this process's share of a batch; run by test_distributed.py in one or several processes.

    python distributed_step.py OUTPUT FRAMEWORK MODE [--shuffle]

The first process writes the whole batch's losses and all gradients to OUTPUT.
"""
import sys

import torch
import torch.distributed as dist
from golden.formula import noise

import utils
from models import build_pretrainer
from models.gather import rank, world_size
from train import TERM


def main():
    output, framework, mode = sys.argv[1:4]
    args = utils.new_parser("step", "step")
    utils.add_run_flags(args)
    args = args.parse_args(["--device", "cpu"])
    utils.start(args)
    torch.manual_seed(0)
    model = build_pretrainer(framework, "r3d", mode, width=0.0625, queue_size=16)
    model.eval()  # batch norm with its running statistics: batch statistics do depend on the split
    call, model = utils.distribute(model, torch.device("cpu"), "local")
    share = slice(rank() * 8 // world_size(), (rank() + 1) * 8 // world_size())
    views = noise((8, 3, 3, 8, 24, 24), "step")[share]
    permutation = torch.tensor([[0, 1], [1, 0]] * 4)[share]
    out = call(views, permutation)
    losses = {name: value for name, value in out.items() if name in TERM}
    sum(losses.values()).backward()
    values = torch.stack(list(losses.values())).detach()
    if world_size() > 1:
        dist.all_reduce(values)
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    if rank() == 0:
        torch.save({"losses": dict(zip(losses, (values / world_size()).tolist(), strict=True)), "gradients": gradients},
                   output)
    if world_size() > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()

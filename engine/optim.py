"""SGD, its learning rate at any moment, and the norm of its gradients."""
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def sgd(model: nn.Module, lr: float, momentum: float, weight_decay: float) -> torch.optim.SGD:
    """The optimizer of the trained parameters, in one kernel where they are on a GPU.

    Momentum starts at zero, as if it had always been there. torch would make it at the first step, without values where
    it is fused: a first step that fp16 skips leaves it so, and the next one takes what was in that memory.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    fused = True if parameters and parameters[0].is_cuda else None
    optimizer = torch.optim.SGD(parameters, lr, momentum, weight_decay=weight_decay, fused=fused)
    if momentum:
        for p in parameters:
            optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
    return optimizer


def restore_momentum(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Take up the momentum of an optimizer's state dict. Weight decay and the like stay as the flags say."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, entry in state["state"].items():
        if own := optimizer.state.get(parameters[number]):
            own["momentum_buffer"].copy_(entry["momentum_buffer"])


def learning_rate(epoch: float, lr: float, epochs: int, schedule: Sequence[int] = (), gamma: float = 0.1,
                  warmup: float = 0, cosine: bool = False) -> float:
    """Learning rate at `epoch`, a float that grows with every step.

    Linear over the first `warmup` epochs, then cosine decay to 0 at `epochs`, or times `gamma` at each epoch of
    `schedule` that has been reached.
    """
    if epoch < warmup:
        return lr * epoch / warmup
    if cosine:
        return lr * 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup)))
    return lr * gamma ** sum(epoch >= milestone for milestone in schedule)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def take_step(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> Tensor:
    """Change the parameters by their gradients, which `scaler` has scaled -> their norm, as `gradient_norm`.

    In fp16, a step whose gradients are not finite is left out.
    """
    scaler.unscale_(optimizer)
    norm = gradient_norm(optimizer)
    scaler.step(optimizer)
    scaler.update()
    return norm


def gradient_norm(optimizer: torch.optim.Optimizer) -> Tensor:
    """L2 norm of all gradients, a scalar tensor; not finite where one of them is not."""
    return nn.utils.get_total_norm([p.grad for group in optimizer.param_groups for p in group["params"]
                                    if p.grad is not None])

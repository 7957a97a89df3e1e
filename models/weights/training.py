"""Whether a checkpoint is a training run's, whole, before anything of it is taken up."""
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import CheckpointError
from core.inputs import fault
from core.names import printable

from .match import counted, is_finite, misfit, strict_problems

METER = {"count": int, "names": [str], "sums": [list]}
# what engine.session.Session writes beside the tensors
PLAIN: dict[str, Any] = {"optimizer": {"state": dict, "param_groups": [dict]}, "flags": {str: object},
                         "inputs": {str: str}, "versions": {str: object}, "config": {str: object},
                         "meters": {"window": METER, "whole": METER}, "epoch": int, "step": int, "steps": int,
                         "replaced": int}
SCALER = {"scale": float, "growth_factor": float, "backoff_factor": float, "growth_interval": int,
          "_growth_tracker": int}
LARGEST = torch.finfo(torch.float32).max


def check_training_state(state: Mapping[str, Any], path: Path) -> None:
    """Raise CheckpointError, naming the entry, unless what is no tensor in a checkpoint is as a run writes it."""
    if "optimizer" not in state:
        raise CheckpointError(f"--resume {path} is not a training checkpoint: it holds weights only")
    wrong = fault(dict(state), PLAIN) or _numbers_fault(state) or _scaler_fault(state.get("scaler", {})) or next(
        (text for name in PLAIN["meters"] if (text := _meter_fault(name, state["meters"][name]))), None)
    if wrong:
        raise CheckpointError(f"--resume {path} is not a training checkpoint of this program: {wrong}")


def check_training_tensors(state: Mapping[str, Any], path: Path, model: nn.Module) -> None:
    """Raise CheckpointError, naming the tensor, unless a checkpoint's weights and momentum are those of `model`.

    state: as `check_training_state` lets it through.
    """
    source = f"--resume {path} is of another model or optimizer:"
    own = model.state_dict()
    problems = strict_problems(own, state["state_dict"]) | {"of another type": [
        f"{name} {value.dtype} for {own[name].dtype}" for name, value in state["state_dict"].items()
        if name in own and isinstance(value, Tensor) and value.dtype != own[name].dtype]}
    if any(problems.values()):
        raise CheckpointError(f"{source} {counted(problems)}")
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    buffers = state["optimizer"]["state"]
    momentum = state["flags"].get("momentum")
    if not buffers and momentum == 0:
        return
    if list(buffers) != list(range(len(trained))):
        raise CheckpointError(f"{source} its optimizer has the momentum of {len(buffers)} parameters, and not of the "
                              f"{len(trained)} that are trained, by number")
    for (name, p), entry in zip(trained.items(), buffers.values(), strict=True):
        buffer: Any = entry.get("momentum_buffer") if type(entry) is dict else None
        wrong = misfit(buffer, p)
        if not wrong and buffer.dtype != p.dtype:
            wrong = f"{buffer.dtype} for {p.dtype}"
        if wrong or not is_finite(buffer):
            wrong = wrong or "not finite"
            raise CheckpointError(f"{source} the momentum of {name} in it is {wrong}")


def _numbers_fault(state: Mapping[str, Any]) -> str | None:
    epoch, step, steps, epochs = state["epoch"], state["step"], state["steps"], state["flags"].get("epochs")
    if type(epochs) is not int:
        return "flags has no epochs, a whole number"
    if not (0 <= epoch < epochs and 0 < step <= steps and state["replaced"] >= 0):
        return (f"epoch {epoch} of {epochs}, step {step} of {steps} or replaced {state['replaced']} in it makes no "
                "sense")
    return None


def _scaler_fault(scaler: object) -> str | None:
    """Of the state of a GradScaler, {} where it is off."""
    if scaler == {}:
        return None
    if wrong := fault(scaler, SCALER, "scaler"):
        return wrong
    assert isinstance(scaler, dict)
    whole = (scaler["growth_factor"] > 1 > scaler["backoff_factor"] > 0 < scaler["scale"] < LARGEST
             and scaler["growth_interval"] > scaler["_growth_tracker"] >= 0)
    return None if whole else "scaler holds values that make no sense"


def _meter_fault(name: str, meter: Mapping[str, Any]) -> str | None:
    """Of engine.monitor.Meter.state."""
    count, names, sums = meter["count"], meter["names"], meter["sums"]
    if count < 0:
        return f"meters: {name} counts {count} steps"
    if strange := [key for key in names if key == "epoch" or not key.isprintable() or len(key) > 200]:
        return f"meters: {name} holds the name {printable(strange[0])[:80]}"
    if not sums or any(len(row) != len(names) or any(type(x) is not float for x in row) for row in sums):
        return f"meters: sums of {name} are not a number for each name"
    return None

"""A checkpoint's tensors against a model's: what fits, and what does not, tensor by tensor."""
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from core.errors import CheckpointError
from core.names import shown

from ..backbones.base import Backbone
from .names import COUNTER, is_head, locate, name_tables


def listed(names: Sequence[str], count: int) -> str:
    """The first names, as text for a message."""
    return ", ".join(map(shown, names[:count])) + (", ..." if len(names) > count else "")


def by_part(names: Iterable[str]) -> str:
    """Names counted by their first part, e.g. "encoder_q. 154, queue 1"."""
    parts = Counter(name.partition(".")[0] + ("." if "." in name else "") for name in names)
    return listed([f"{part} {count}" for part, count in parts.items()], 100)


def is_plain(value: object) -> TypeGuard[Tensor]:
    """Whether a checkpoint's value is a tensor that lies in memory as it is."""
    return isinstance(value, torch.Tensor) and value.layout == torch.strided and not (
        value.is_meta or value.is_quantized or value.is_nested)


def misfit(value: object, own: Tensor) -> str | None:
    """Why a checkpoint's `value` cannot become tensor `own`, as text; None where it can."""
    if not is_plain(value):
        return "a sparse, quantised or empty tensor" if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"
    if value.shape != own.shape:
        return f"{tuple(value.shape)} for {tuple(own.shape)}"
    if value.is_complex() or own.is_floating_point() and not value.is_floating_point():
        return f"{value.dtype} for {own.dtype}"
    return None


def is_finite(value: Tensor) -> bool:
    """Whether all of a tensor is finite as float32."""
    return bool(value.float().isfinite().all())


def is_negative(name: str, value: Tensor) -> bool:
    """Whether a tensor of this name is a batch norm's variance, and below 0 somewhere, of which there is no root."""
    return name.endswith("running_var") and bool((value < 0).any())


def refusal(source: str, problems: Mapping[str, Sequence[str]], total: int) -> CheckpointError:
    """CheckpointError that says what does not fit: {kind: names}, of `total` tensors."""
    return CheckpointError(f"{source} does not fit the model: {counted(problems)} of {total} tensors")


def counted(problems: Mapping[str, Sequence[str]]) -> str:
    """{kind: names} as text: how many of each kind there are, and the first."""
    return "; ".join(f"{len(names)} {kind} ({listed(names, 3)})" for kind, names in problems.items() if names)


def load_strict(model: nn.Module, state_dict: Mapping[str, Any], source: str = "the state dict") -> None:
    """load_state_dict that first compares all names, shapes and values; CheckpointError, and nothing loaded, if not."""
    own = model.state_dict()
    problems = strict_problems(own, state_dict)
    if any(problems.values()):
        raise refusal(source, problems, len(own))
    model.load_state_dict(state_dict)


def strict_problems(own: Mapping[str, Tensor], state_dict: Mapping[str, Any]) -> dict[str, list[str]]:
    """{kind: names} of all that keeps a state dict from being one like `own`; empty lists where it is."""
    faults = {key: misfit(state_dict[key], own[key]) for key in own if key in state_dict}
    return {"missing": [key for key in own if key not in state_dict],
            "unexpected": [key for key in state_dict if key not in own],
            "misshapen": [f"{key} {fault}" for key, fault in faults.items() if fault],
            "not finite": [key for key, fault in faults.items() if not (fault or is_finite(state_dict[key]))],
            "negative": [key for key, fault in faults.items() if not fault and is_negative(key, state_dict[key])]}


@dataclass
class Match:
    """How a state dict fits a backbone. Names are ours, but for `unexpected` and `aside`, which are the file's."""

    family: str  # whose names: ours, release, torchvision, ..., unknown
    prefix: str  # before the names in the file
    rivals: list[str]  # other prefixes under which as many names were found
    total: int  # tensors of the backbone
    network: str  # its class
    native: bool = False  # whether they are the backbone's own names
    other: str | None = None  # why it is another network of the same names
    pairs: dict[str, str] = field(default_factory=dict)  # the file's name -> ours, of tensors that fit
    tensors: dict[str, Tensor] = field(default_factory=dict)  # our name -> tensor in the backbone's type
    missing: list[str] = field(default_factory=list)
    misshapen: dict[str, str] = field(default_factory=dict)  # name -> why
    unexpected: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)  # not finite
    negative: list[str] = field(default_factory=list)  # variances below 0
    twice: list[str] = field(default_factory=list)  # two names of one tensor, with different values
    aside: list[str] = field(default_factory=list)  # heads, queues, other encoders
    filled: list[str] = field(default_factory=list)  # counters without a value in the file: 0
    cast: Counter[str] = field(default_factory=Counter)  # tensors of another floating type, by type

    @property
    def problems(self) -> dict[str, list[str]]:
        """{kind: names} of all that keeps the file from being this backbone; empty lists where it is."""
        return {"missing": self.missing, "unexpected": self.unexpected,
                "misshapen": [f"{name} {why}" for name, why in self.misshapen.items()],
                "contradictory": self.twice, "not finite": self.broken, "negative": self.negative}

    @property
    def fits(self) -> bool:
        return not any(self.problems.values()) and not self.rivals and self.other is None

    @property
    def prefixes(self) -> str:
        """Under what names such networks stand in the file, as text."""
        return listed([f"{prefix}*" for prefix in (self.prefix, *self.rivals)], 5)

    @property
    def notes(self) -> list[str]:
        """What was done to make it fit, as sentences."""
        notes = [f"{count} tensors are {dtype} in the file and become float32" for dtype, count in self.cast.items()]
        if self.filled:
            notes.append(f"{len(self.filled)} num_batches_tracked without a usable value are set to 0; they count "
                         "batches and have no effect here")
        return notes


def match(state_dict: Mapping[str, Any], backbone: Backbone, prefix: str | None = None) -> Match:
    """Compare a state dict in any known names with a backbone's -> Match.

    backbone: of which names, shapes and types count; prefix: where to look; None: found out.
    """
    own, tables = backbone.state_dict(), name_tables(backbone)
    found: dict[str, dict[str, Any]] = {}  # our name -> {the file's name: value}
    family, where, rivals = locate(state_dict, tables, prefix)
    native = family == "ours"
    result = Match(backbone.names if native else family, where, rivals, len(own), type(backbone).__name__, native)
    table = tables.get(family, {})
    for key, value in state_dict.items():
        tail = key[len(result.prefix):] if key.startswith(result.prefix) else None
        if tail in table:
            found.setdefault(table[tail], {})[key] = value
        elif tail is None or is_head(tail, family):
            result.aside.append(key)
        else:
            result.unexpected.append(key)
    for name, target in own.items():
        _enter(result, name, target, found.get(name, {}))
    for name in [name for name in result.missing if name.endswith(COUNTER)]:
        if name.removesuffix(COUNTER) + ".running_var" in result.tensors:
            result.missing.remove(name)
            result.filled.append(name)
            result.tensors[name] = torch.zeros((), dtype=own[name].dtype)
    return result


def check_fit(result: Match, source: str, forgiven: Sequence[str] = (), hint: str = "") -> None:
    """Raises CheckpointError for a Match with problems of kinds that are not forgiven, or with several candidates."""
    if any(names for kind, names in result.problems.items() if kind not in forgiven):
        raise CheckpointError(f"{refusal(source, result.problems, result.total)}{hint}")
    if result.other is not None:
        raise CheckpointError(f"{source} is of another network whose tensors have the same names: {result.other}{hint}")
    if result.rivals:
        raise CheckpointError(f"{source} holds more than one such network ({result.prefixes}): choose one with "
                              "--prefix of python -m models.weights convert")


def _enter(result: Match, name: str, target: Tensor, values: Mapping[str, Any]) -> None:
    """Enter one tensor of the backbone into a Match; values: {key: tensor} that the file has for it."""
    if not values:
        result.missing.append(name)
        return
    faults = [fault for value in values.values() if (fault := misfit(value, target))]
    first, *others = values.values()
    if faults:
        result.misshapen[name] = faults[0]
    elif not all(torch.equal(first.to(target.dtype), other.to(target.dtype)) for other in others):
        result.twice.append(" / ".join(values))
    elif not is_finite(first):
        # a counter that became infinite by halving is as good as none
        (result.missing if name.endswith(COUNTER) else result.broken).append(name)
    elif is_negative(name, first):
        result.negative.append(name)
    else:
        result.pairs.update(dict.fromkeys(values, name))
        result.tensors[name] = first.to(target.dtype)
        if first.dtype != target.dtype and target.is_floating_point():
            result.cast[str(first.dtype).removeprefix("torch.")] += 1

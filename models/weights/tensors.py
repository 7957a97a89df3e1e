"""Files of tensors in the format safetensors, read with checks: the length of a header, the header, JSON, the values.

The header gives each tensor's type, shape and place among the values, and nothing in the file can run code.
"""
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.errors import CheckpointError
from core.inputs import decoded, fault, fill, open_file, parsed
from core.names import shown

from .match import is_finite, is_negative, refusal

LONGEST_HEADER = 2**22  # bytes; a network of 10,000 tensors has a third of that
TYPES = {torch.float32: "F32", torch.int64: "I64"}  # those of networks here: weights, and counters of batch norms
ENTRY = {"dtype": str, "shape": [range(2**40)], "data_offsets": [range(2**50)]}


def read_tensors(path: Path, own: Mapping[str, Tensor], sha256: str, hint: str) -> dict[str, Tensor]:
    """The tensors of a file that are those of `own` in name, type and shape, on the CPU.

    own: a network's state dict, for instance on the meta device; sha256: of the whole file, 64 hexadecimal digits;
    hint: what to do where the file is another. Its header is compared with `own` before memory is taken for its values.
    Raises CheckpointError or DataError, naming the file, where it is another, damaged, or holds values that are not
    finite, or variances below 0.
    """
    try:
        with open_file(path, most=2**50) as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if not 2 <= length <= min(LONGEST_HEADER, size - 8):
                raise CheckpointError(f"{path} is no file of tensors: its header would have {length} bytes, of "
                                      f"{size} in the file: {hint}")
            header = bytearray(length)
            fill(memoryview(header), file, str(path), hint)
            name = f"the header of {path}"
            entries = parsed(decoded(bytes(header), name, hint), {str: object}, name, hint)
            places = _places(entries, own, path, size - 8 - length, hint)
            values = bytearray(size - 8 - length)
            fill(memoryview(values), file, str(path), hint)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}): {hint}") from error
    digest = hashlib.sha256(start)
    digest.update(header)
    digest.update(values)
    if digest.hexdigest() != sha256:
        raise CheckpointError(f"{path} is damaged: its SHA-256 is {digest.hexdigest()[:16]}..., and not "
                              f"{shown(sha256, 16)} as its config.json says: {hint}")
    found = {name: torch.frombuffer(values, dtype=own[name].dtype, count=own[name].numel(), offset=place)
             .clone().reshape(own[name].shape) for name, place in places.items()}
    wrong = {"not finite": [name for name, value in found.items() if not is_finite(value)],
             "negative": [name for name, value in found.items() if is_negative(name, value)]}
    if any(wrong.values()):
        raise refusal(str(path), wrong, len(own))
    return found


def bytes_of(own: Mapping[str, Tensor]) -> int:
    """Bytes that a file with the tensors of a state dict has at most."""
    return 8 + LONGEST_HEADER + sum(x.numel() * x.element_size() for x in own.values())


def _places(entries: dict[str, Any], own: Mapping[str, Tensor], path: Path, size: int, hint: str) -> dict[str, int]:
    """Where each tensor of `own` begins among the values, `size` bytes which the tensors fill without gap."""
    metadata = entries.pop("__metadata__", {})
    wrong = {name: _misfit(entry, own[name]) for name, entry in entries.items() if name in own}
    problems = {"missing": [name for name in own if name not in entries],
                "unexpected": [name for name in entries if name not in own],
                "misshapen": [f"{name} {text}" for name, text in wrong.items() if text]}
    if any(problems.values()):
        raise refusal(f"{path}, which must be as its config.json says,", problems, len(own))
    places = dict(sorted(((name, entry["data_offsets"]) for name, entry in entries.items()), key=lambda x: x[1]))
    ends = [0, *(end for _, end in places.values())]
    lengths = {name: value.numel() * value.element_size() for name, value in own.items()}
    whole = type(metadata) is dict and ends[-1] == size and all(
        begin == before and end - begin == lengths[name]
        for (name, (begin, end)), before in zip(places.items(), ends[:-1], strict=True))
    if not whole:
        raise CheckpointError(f"{path} is damaged: its tensors do not fill its {size} bytes of values, one after the "
                              f"other: {hint}")
    return {name: begin for name, (begin, _) in places.items()}


def _misfit(entry: object, own: Tensor) -> str | None:
    """Why a header's entry is not that of tensor `own`, as text, or None."""
    if wrong := fault(entry, ENTRY, "its entry"):
        return f"({wrong})"
    assert isinstance(entry, dict)
    if len(entry["data_offsets"]) != 2:
        return "(data_offsets are not two numbers)"
    there, here = (entry["dtype"], tuple(entry["shape"])), (TYPES[own.dtype], tuple(own.shape))
    return None if there == here else f"{shown(there[0])} {shown(there[1])} for {here[0]} {here[1]}"

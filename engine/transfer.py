"""The loader's batches on their way to the device."""
import functools
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor


@functools.cache
def stream_of_copies(device: torch.device) -> torch.cuda.Stream:
    """One for good: the memory that torch's allocator keeps belongs to a stream."""
    return torch.cuda.Stream(device)


def on_device(batches: Iterable[dict], device: torch.device, names: Sequence[str]) -> Iterator[dict]:
    """The batches, with the tensors of these names on `device`.

    A GPU copies them on a stream of its own, beside the step before: that has been handed to it, and goes on, when the
    next batch is asked for. The loader must have put them into pinned memory then.
    """
    if device.type != "cuda":
        yield from batches
        return
    copies = stream_of_copies(device)
    for batch in batches:
        with torch.cuda.stream(copies):
            moved: dict[str, Tensor] = {name: batch[name].to(device, non_blocking=True) for name in names}
        steps = torch.cuda.current_stream(device)
        steps.wait_stream(copies)
        for x in moved.values():
            x.record_stream(steps)  # its memory is free again when the step is over, not when it is copied
        yield {**batch, **moved}

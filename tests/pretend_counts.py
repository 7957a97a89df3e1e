"""What a step would cost on CUDA: waits of the host, launches and bytes, by line of the project.

Fed by pretend_cuda.py with every operator on its device. What is counted:

- a wait: the host stops until the device has done all work before. A copy between the devices that is blocking or whose
  memory is not pinned, the value of a tensor (`item`, `bool`, `tolist`), operators whose result has a size that depends
  on values (`nonzero`, a mask as index, `repeat_interleave` of a tensor, ...), `synchronize`;
- a launch: an operator that computes or copies on the device. Views and uninitialised memory are none. Some operators
  are several kernels of CUDA, so this is a lower bound;
- bytes: of the tensors that a launch reads and of those it writes, each once.
"""
import math
import os
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.utils._pytree import tree_iter

ROOT = f"{Path(__file__).resolve().parent.parent}{os.sep}"
TESTS = f"{ROOT}tests{os.sep}"


class Counts:
    """waits, launches and bytes, each a Counter by (line of the project, what)."""

    def __init__(self):
        self.waits, self.launches, self.bytes = Counter(), Counter(), Counter()

    def within(self, *files):
        """The part of the files whose paths from the project's root begin so."""
        part = Counts()
        for mine, its in zip(self.all(), part.all(), strict=True):
            its.update({key: n for key, n in mine.items() if key[0].startswith(files)})
        return part

    def all(self):
        return self.waits, self.launches, self.bytes

    def total(self):
        return {"waits": self.waits.total(), "launches": self.launches.total(), "bytes": self.bytes.total()}

    def as_json(self):
        return {name: [[*key, n] for key, n in counter.most_common()]
                for name, counter in zip(("waits", "launches", "bytes"), self.all(), strict=True)}

    @classmethod
    def from_json(cls, content):
        counts = cls()
        for name, counter in zip(("waits", "launches", "bytes"), counts.all(), strict=True):
            counter.update({(line, what): n for line, what, n in content[name]})
        return counts

    def add(self, other):
        for mine, its in zip(self.all(), other.all(), strict=True):
            mine.update(its)


OPEN = []  # the Counts that are being made


@contextmanager
def count():
    """`with count() as counts`: of what runs inside."""
    counts = Counts()
    OPEN.append(counts)
    try:
        yield counts
    finally:
        OPEN.remove(counts)


def count_steps(session_class):
    """-> list that grows by the Counts of every training step from now on; session_class: engine.session.Session.

    A step begins where its batch is asked for and ends where the next is.
    """
    found, steps = [], session_class.steps

    def counted(self, *args, **kwargs):
        batches = iter(steps(self, *args, **kwargs))
        while True:
            with count() as counts:
                try:
                    batch = next(batches)
                except StopIteration:
                    return
                found.append(counts)
                yield batch

    session_class.steps = counted
    return found


def note(counter, what, number=1):
    """Add to "waits", "launches" or "bytes" at the project's line that is being run."""
    for counts in OPEN:
        getattr(counts, counter)[line_of_project(), what] += number


def line_of_project():
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(ROOT) and not name.startswith(TESTS):
            return f"{name[len(ROOT):]}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"


def kernel(name, reads, writes):
    """Count a launch that torch does not see, such as one of Triton: `reads` and `writes` are lists of tensors."""
    note("launches", name)
    note("bytes", name, size(*reads, *writes))


# --- operators ---------------------------------------------------------------------------------------------------

# Names as in the schema, without their overload. Their results need values of the device on the host.
WAITING = {"aten::_local_scalar_dense", "aten::is_nonzero", "aten::equal", "aten::nonzero", "aten::masked_select",
           "aten::bincount", "aten::_unique", "aten::_unique2", "aten::unique_dim", "aten::unique_consecutive"}
INDEXING = {"aten::index", "aten::_unsafe_index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
# no work on the device; beside these, all views
IDLE = {"aten::empty", "aten::empty_like", "aten::empty_strided", "aten::new_empty", "aten::new_empty_strided",
        "aten::_unsafe_view", "aten::_local_scalar_dense", "aten::resize_", "aten::set_", "aten::record_stream"}
# these write their first argument and do not read it
WRITING = {f"aten::{name}_" for name in ("copy", "fill", "zero", "uniform", "normal", "random", "bernoulli")}
# these touch only as much of their first argument as their result has (the former) or as they are given (the latter)
READING_PARTS = {"aten::index", "aten::_unsafe_index", "aten::index_select", "aten::gather", "aten::embedding"}
WRITING_PARTS = {"aten::index_put_", "aten::_index_put_impl_", "aten::index_copy_", "aten::index_add_",
                 "aten::scatter_"}


def note_waits(name, args, kwargs, asked):
    """asked: the device that the operator was asked to make its result on, or None."""
    if name in ("aten::copy_", "aten::_to_copy"):
        to = args[0] if name == "aten::copy_" else None
        source = args[0] if to is None else args[1]
        on_device = to.is_cuda if to is not None else source.is_cuda if asked is None else asked.type == "cuda"
        if source.is_cuda != on_device:
            non_blocking = kwargs.get("non_blocking") or len(args) > 2 and args[2]
            host = source if on_device else to
            pinned = host is None or host.is_pinned()  # torch pins what it makes itself for a copy that does not block
            if not (non_blocking and pinned):
                note("waits", f"copy to the {'device' if on_device else 'CPU'}{', not pinned' if non_blocking else ''}")
    elif name in INDEXING:
        indices = [i for i in args[1] if i is not None]
        one_value = len(args) > 2 and args[2].numel() == 1  # with a mask this is masked_fill
        if any(i.dtype in (torch.bool, torch.uint8) for i in indices) and not one_value:
            note("waits", "mask as index")
        if not all(i.is_cuda for i in indices):
            note("waits", "index on the CPU")
    elif name == "aten::repeat_interleave" and kwargs.get("output_size") is None or name in WAITING:
        note("waits", name.removeprefix("aten::"))


def note_launch(func, args, kwargs, result):
    """args, kwargs and result: of the operator on the CPU."""
    name = func._schema.name
    if not OPEN or func.is_view or name in IDLE or not name.startswith(("aten::", "c10d::")):
        return
    tensors, results = tensors_in((args, kwargs)), tensors_in(result)
    results = [x for x in results if not any(x is given for given in tensors)]
    if name in READING_PARTS:
        amount = size(*tensors[1:]) + 2 * size(*results)
    elif name in WRITING_PARTS:
        amount = size(*tensors[1:]) + size(tensors[-1])
    else:
        given = arguments(func, args, kwargs)
        written = tensors_in([value for arg, value in given if arg.alias_info and arg.alias_info.is_write])
        unread = tensors[:1] if name in WRITING else tensors_in([value for arg, value in given if arg.is_out])
        amount = size(*tensors) - size(*unread) + size(*written) + size(*results)
    if amount:
        note("launches", name.partition("::")[2])
        note("bytes", name.partition("::")[2], amount)


def tensors_in(tree):
    return [x for x in tree_iter(tree) if isinstance(x, torch.Tensor)]


def arguments(func, args, kwargs):
    """[(argument of the schema, its value)] of those that are given."""
    schema = func._schema.arguments
    return [*zip(schema, args, strict=False), *((arg, kwargs[arg.name]) for arg in schema if arg.name in kwargs)]


def size(*tensors):
    """Bytes that tensors take; what is expanded counts once."""
    return sum(x.element_size() * math.prod(length if stride else min(length, 1)
                                            for length, stride in zip(x.shape, x.stride(), strict=True))
               for x in tensors)

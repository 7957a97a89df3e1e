"""A CUDA device that is not there, to run the whole project on and to count what a step costs on a real one.

`install()` changes torch in this process for good. From then on a tensor "on cuda" is a `PretendTensor`: its values lie
in memory of the CPU and are real, C++ takes it for a CPU tensor (so that autograd needs no driver), and Python is told
that it is on cuda. Every operator passes through `dispatch`, which

- takes every backward pass for one on the device: a process that has the pretend device computes on it alone;
- raises RuntimeError where tensors of different devices meet, as CUDA does;
- counts the waits of the host, the launches and the bytes of every operator on the device, by line of the project.

    python tests/pretend_run.py train.py --dataset ucf101 --net r3d ...     any entry script, and its counts

pretend_counts.py says what is counted. Not shown are: CUDA's own kernels, their layouts and rounding, NCCL, time,
memory, torch.compile, and what autocast on CUDA does to operators other than convolutions and linear layers (here it is
autocast on the CPU).

Own kernels, such as those of Triton, get `x.plain` of a PretendTensor, the CPU tensor that shares its memory, and are
counted by `pretend_counts.kernel`.
"""
import os
import sys
import time
import types

import pretend_counts
import torch
import torch._dynamo  # which optimizers import: before anything is changed
import torch.cuda.amp.common
import torch.distributed as dist
from pretend_counts import INDEXING, note, note_launch, note_waits
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map, tree_map_only

CPU, CUDA = torch.device("cpu"), torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
LOW = (torch.bfloat16, torch.float16)
aten = torch.ops.aten
# what Python runs between an operator's caller and `dispatch`
BETWEEN = (torch._compile.__file__, torch._dynamo.eval_frame.__file__)


# --- tensors -----------------------------------------------------------------------------------------------------

class PretendTensor(torch.Tensor):
    """A tensor on the pretend device; `plain` is the CPU tensor that shares its memory."""

    @staticmethod
    def __new__(cls, plain, requires_grad=False):
        tensor = torch.Tensor._make_subclass(cls, plain, requires_grad)
        tensor.plain = plain
        return tensor

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types_, args=(), kwargs=None):
        return dispatch(func, args, kwargs or {})

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    def get_device(self):
        return CUDA.index

    def to(self, *args, **kwargs):
        # torch's own compares the device with what C++ knows
        copy = kwargs.pop("copy", False)
        device, dtype, non_blocking, layout = torch._C._nn._parse_to(*args, **kwargs)
        wanted = {}
        if dtype is not None and dtype != self.dtype:
            wanted["dtype"] = dtype
        if device is not None and device.type != "cuda":
            wanted |= {"device": device, "non_blocking": non_blocking}
        if layout is not None and not self.is_contiguous(memory_format=layout):
            wanted["memory_format"] = layout
        return aten._to_copy.default(self, **wanted) if wanted or copy else self

    def cpu(self, memory_format=torch.preserve_format):
        return self.to("cpu", memory_format=memory_format)

    def cuda(self, *args, **kwargs):
        return self

    def tolist(self):
        return self.cpu().tolist()

    def new_tensor(self, data, *, dtype=None, device=None, requires_grad=False):
        return torch.tensor(data, dtype=dtype or self.dtype, device=device or CUDA, requires_grad=requires_grad)

    def numpy(self, *args, **kwargs):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    __array__ = numpy

    def pin_memory(self):
        raise RuntimeError("cannot pin a tensor on cuda")

    def is_pinned(self):
        return False

    def record_stream(self, stream):
        assert isinstance(stream, Stream), stream

    def __repr__(self, *, tensor_contents=None):
        return f"PretendTensor({self.plain})"

    def __reduce_ex__(self, protocol):  # as torch.save stores it: the values
        return self.plain.detach().__reduce_ex__(protocol)

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            new = self.detach().clone().requires_grad_(self.requires_grad)
            if getattr(self, "_is_param", False):  # what makes it a torch.nn.Parameter
                new._is_param = True
            memo[id(self)] = new
        return memo[id(self)]


def wrap(x):
    return PretendTensor(x) if isinstance(x, torch.Tensor) and not isinstance(x, PretendTensor) else x


def is_cuda(device):
    return device is not None and torch.device(device).type == "cuda"


# --- operators ---------------------------------------------------------------------------------------------------

# Names as in the schema, without their overload.
# CUDA takes no scalar of the CPU here, as it does elsewhere
NO_CPU_SCALARS = {"aten::cat", "aten::stack", "aten::index_copy_"}
COPIES = {"aten::copy_", "aten::_to_copy"}


def dispatch(func, args, kwargs):
    """Run an operator on the CPU and say of its result, and count, what CUDA would."""
    if func is torch.ops.prim.device.default:
        return CUDA
    name = func._schema.name
    flat = [x for x in tree_iter((args, kwargs)) if isinstance(x, torch.Tensor)]
    device_tensors = [x for x in flat if isinstance(x, PretendTensor)]
    backward = in_cpp_of_backward()
    asked = None if kwargs.get("device") is None else torch.device(kwargs["device"])
    if backward and asked is not None:  # the device that C++ sees in a gradient
        asked = CUDA if device_tensors else None
    on_device = is_cuda(asked) if asked is not None else bool(device_tensors)
    if name == "aten::copy_":
        on_device = isinstance(args[0], PretendTensor)
    if backward and not flat:
        on_device = True  # memory for a gradient
    if not on_device and not device_tensors:
        return func(*args, **kwargs)
    if not is_bucket_copy(name, backward, flat):
        check_devices(name, args, flat, device_tensors)
        note_waits(name, args, kwargs, asked)
    plain_args, plain_kwargs = tree_map_only(PretendTensor, lambda x: x.plain, (args, kwargs))
    if is_cuda(asked) or backward and "device" in kwargs:
        plain_kwargs["device"] = CPU
    plain_kwargs.pop("pin_memory", None)
    result = STAND_INS.get(func, func)(*plain_args, **plain_kwargs)
    note_launch(func, plain_args, plain_kwargs, result)
    if not on_device or name == "aten::_local_scalar_dense":
        return result
    known = {id(x.plain): x for x in device_tensors}
    return tree_map(lambda x: known[id(x)] if id(x) in known else wrap(x), result)


def in_cpp_of_backward():
    """Whether torch's C++ calls an operator in a backward pass, and not Python code of somebody's."""
    if torch._C._current_graph_task_id() == -1:
        return False
    frame = sys._getframe(1)
    while frame.f_code.co_filename in (__file__, *BETWEEN):
        frame = frame.f_back
    return frame.f_code.co_filename == torch.autograd.graph.__file__


def is_bucket_copy(name, backward, flat):
    """DistributedDataParallel's C++ makes its buckets where it sees the parameters, and copies gradients there."""
    return backward and name in ("aten::copy_", "aten::mul") and any(not isinstance(x, PretendTensor) for x in flat)


def check_devices(name, args, flat, device_tensors):
    if name in COPIES or not device_tensors:
        return
    strangers = [x for x in flat if not isinstance(x, PretendTensor)]
    if name in INDEXING:  # indices may be on the CPU
        strangers = [x for x in (args[0], *args[2:3]) if not isinstance(x, PretendTensor)]
    for x in strangers:
        if x.dim() > 0 or name in NO_CPU_SCALARS:
            raise RuntimeError("Expected all tensors to be on the same device, but found at least two devices, "
                               f"{CUDA} and cpu! ({name} of a CPU tensor {tuple(x.shape)})")


# --- stand-ins for kernels that only CUDA has, or that are right only there ------------------------------------------

STAND_INS = {}


def stand_in(operator):
    return lambda function: STAND_INS.setdefault(operator, function)


@stand_in(aten.convolution.default)
def convolution(x, weight, bias, *rest):
    """Low precision with sums in float32; the CPU's own bf16 kernels are wrong in places."""
    if x.dtype not in LOW:
        return aten.convolution.default(x, weight, bias, *rest)
    bias = None if bias is None else bias.float()
    return aten.convolution.default(x.float(), weight.float(), bias, *rest).to(x.dtype)


@stand_in(aten.convolution_backward.default)
def convolution_backward(gradient, x, weight, *rest):
    if x.dtype not in LOW:
        return aten.convolution_backward.default(gradient, x, weight, *rest)
    found = aten.convolution_backward.default(gradient.float(), x.float(), weight.float(), *rest)
    return tuple(None if y is None else y.to(x.dtype) for y in found)


@stand_in(aten.native_batch_norm.default)
def native_batch_norm(x, *rest):
    out, mean, invstd = aten.native_batch_norm.default(x.float(), *rest)
    return out.to(x.dtype), mean, invstd


@stand_in(aten.native_batch_norm_backward.default)
def native_batch_norm_backward(gradient, x, *rest):
    found, *others = aten.native_batch_norm_backward.default(gradient.float(), x.float(), *rest)
    return None if found is None else found.to(x.dtype), *others


# --- streams, events and the rest of torch.cuda ----------------------------------------------------------------------

class Stream:
    """Work is done when it is asked for, so a stream has nothing to put in order."""

    def __init__(self, device=None, priority=0, **kwargs):
        self.device = CUDA

    def wait_stream(self, stream):
        assert isinstance(stream, Stream), stream

    def wait_event(self, event):
        assert isinstance(event, Event), event

    def record_event(self, event=None):
        event = event or Event()
        event.record(self)
        return event

    def query(self):
        return True

    def synchronize(self):
        note("waits", "synchronize")

    def __enter__(self):
        STREAMS.append(self)
        return self

    def __exit__(self, *error):
        STREAMS.pop()


STREAMS = [Stream()]  # the last one is the current


class Event:
    def __init__(self, enable_timing=False, blocking=False, interprocess=False):
        self.timing, self.time = enable_timing, None

    def record(self, stream=None):
        self.time = time.perf_counter()

    def wait(self, stream=None):
        pass

    def query(self):
        return True

    def synchronize(self):
        note("waits", "synchronize")

    def elapsed_time(self, end):
        """Milliseconds"""
        if not (self.timing and end.timing):
            raise ValueError("Both events must be created with argument 'enable_timing=True'.")
        if self.time is None or end.time is None:
            raise ValueError("Both events must be recorded before calculating elapsed time.")
        return (end.time - self.time) * 1000


class Generator(torch.Generator):
    def __new__(cls, device="cpu"):
        return super().__new__(cls)


class Autocast(torch.autocast):
    """What runs under autocast on CUDA runs under that of the CPU."""

    def __init__(self, device_type, *args, **kwargs):
        super().__init__("cpu" if device_type == "cuda" else device_type, *args, **kwargs)


class Mode(TorchDispatchMode):
    """Catches what makes tensors, and operators of tensors that are on the CPU alone."""

    def __torch_dispatch__(self, func, types_, args=(), kwargs=None):
        return dispatch(func, args, kwargs or {})


def pin_memory(self, device=None):
    pinned = self.clone()
    pinned.untyped_storage().pretend_pinned = True
    return pinned


def is_pinned(self, device=None):  # so are views of what was pinned
    return getattr(self.untyped_storage(), "pretend_pinned", False)


def install(devices=1, bf16=True, memory=80 * 2**30):
    """Give this process `devices` pretend GPUs of `memory` bytes each, with bf16 or without."""
    properties = types.SimpleNamespace(name="Pretend GPU", total_memory=memory, major=8 if bf16 else 7, minor=0,
                                       multi_processor_count=108)
    cuda = {
        "is_available": lambda: True, "is_initialized": lambda: True, "_lazy_init": lambda: None,
        "_is_in_bad_fork": lambda: False, "device_count": lambda: devices, "current_device": lambda: CUDA.index,
        "set_device": lambda device: None, "get_device_name": lambda device=None: properties.name,
        "get_device_properties": lambda device=None: properties,
        "get_device_capability": lambda device=None: (properties.major, properties.minor),
        "is_bf16_supported": lambda including_emulation=True: bf16 or including_emulation,
        "manual_seed": lambda seed: None, "manual_seed_all": lambda seed: None,
        "empty_cache": lambda: None, "reset_peak_memory_stats": lambda device=None: None,
        "memory_allocated": lambda device=None: 0, "max_memory_allocated": lambda device=None: 0,
        "memory_reserved": lambda device=None: 0, "max_memory_reserved": lambda device=None: 0,
        "mem_get_info": lambda device=None: (memory, memory),
        "synchronize": lambda device=None: note("waits", "synchronize"),
        "is_current_stream_capturing": lambda: False, "Stream": Stream, "Event": Event,
        "current_stream": lambda device=None: STREAMS[-1], "default_stream": lambda device=None: STREAMS[0],
        "stream": lambda stream: stream, "set_stream": lambda stream: STREAMS.__setitem__(-1, stream),
    }
    for name, value in cuda.items():
        setattr(torch.cuda, name, value)
    torch.accelerator.current_device_index = torch.cuda.current_device
    torch.accelerator.set_device_index = torch.cuda.set_device
    torch.cuda.amp.common.amp_definitely_not_available = lambda: False
    torch.Generator = Generator
    torch.autocast = torch.amp.autocast = torch.amp.autocast_mode.autocast = Autocast
    # .to() makes new parameters, as C++ cannot exchange the data of a CPU tensor for that of a PretendTensor
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device="cuda") is made on the CPU and copied
    change_tensor()
    change_optimizer()
    change_process_group()
    change_augmentation()
    Mode().__enter__()


def change_tensor():
    to, tensor, as_tensor = torch.Tensor.to, torch.tensor, torch.as_tensor

    def to_index(self, *args, **kwargs):
        """"cuda" is the current device, for which C++ would ask the driver."""
        args = [CUDA if isinstance(x, (str, torch.device)) and is_cuda(x) else x for x in args]
        if is_cuda(kwargs.get("device")):
            kwargs["device"] = CUDA
        return to(self, *args, **kwargs)

    def as_tensor_there(data, dtype=None, device=None):
        # torch's own copies a tensor to where C++ sees it when another dtype is asked for: a wait that CUDA has not
        if isinstance(data, PretendTensor):
            return data.to(device=device or CUDA, dtype=dtype or data.dtype)
        return as_tensor(data, dtype=dtype, device=CUDA if is_cuda(device) else device)

    def tensor_there(data, *, device=None, **kwargs):
        return tensor(data, device=CUDA if is_cuda(device) else device, **kwargs)

    torch.Tensor.to, torch.as_tensor, torch.tensor = to_index, as_tensor_there, tensor_there
    torch.Tensor.cuda = lambda self, *args, non_blocking=False, **kwargs: self.to(CUDA, non_blocking=non_blocking)
    torch.Tensor.pin_memory, torch.Tensor.is_pinned = pin_memory, is_pinned


def change_optimizer():
    group = torch.optim.Optimizer._group_tensors_by_device_and_dtype

    def group_there(lists, with_indices=False):
        # by the device that Python sees: fused SGD would copy found_inf to the other, a wait that CUDA has not
        return {(CUDA if isinstance(found[0][0][0], PretendTensor) else device, dtype): found
                for (device, dtype), found in group(lists, with_indices).items()}

    torch.optim.Optimizer._group_tensors_by_device_and_dtype = staticmethod(group_there)


def change_augmentation():
    """Triton's launches are counted, and the plain code makes their values: test_augment_cuda.py compares the two."""
    try:
        from dataset import augment, augment_cuda
    except ImportError:  # no Triton: the plain code runs on the device
        return
    prepare = augment_cuda.prepare

    def count(kernel, grid, *arguments, **constants):
        pretend_counts.kernel(kernel.fn.__name__, [x for x in arguments if isinstance(x, torch.Tensor)], [])

    def prepare_there(frames, rows):
        clips = prepare(frames, rows)
        clips.plain.copy_(augment.prepare_plainly(frames.plain, rows))
        return clips

    augment_cuda.launch, augment_cuda.prepare = count, prepare_there


def change_process_group():
    init = dist.init_process_group

    def init_gloo(backend=None, *args, device_id=None, **kwargs):
        """gloo under the name of nccl"""
        assert device_id is None or is_cuda(device_id), device_id
        return init("gloo" if backend == "nccl" else backend, *args, **kwargs)

    dist.init_process_group = init_gloo

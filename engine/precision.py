"""Low precision where it is right and faster: each layer is compared with float32 before it is trusted.

Low precision has been silently wrong in places: bf16 weight gradients of Conv3d on CPUs with AVX512-BF16 at temporal
depth 2 (torch 2.13, 2.15), cuDNN 9.8 to 9.10 at large shapes (pytorch/pytorch#163539). Only convolutions, linear layers
and the products of attention compute in it under autocast; the statistics of norms, softmax, the pooled features, the
heads and the losses are float32.
"""
import copy
import errno
import functools
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from core.environment import text_variable
from core.errors import DataError, RunError, UsageError
from core.files import one_at_a_time, whole_file
from core.imports import first_line
from core.inputs import read_json
from core.names import shown
from models.backbones.base import Backbone
from models.batchnorm import own_statistics, undivided

from .agreement import of_all_processes

Shape = tuple[int, ...]
Layer = nn.Module  # of a kind that a backbone names in `compared`: one tensor in, one out

PRECISIONS = ("auto", "fp32", "tf32", "bf16", "fp16")
LOW = {"bf16": torch.bfloat16, "fp16": torch.float16}  # tf32 is float32 whose convolutions round what they multiply
# allowed relative error of a tensor's norm against float32 on the same rounded numbers, several times what rounding the
# result makes; of its largest value three times that
TOLERANCE = {"bf16": 2e-2, "fp16": 5e-3, "tf32": 5e-3}
WORTH = 1.2  # how much faster low precision must be to be chosen
PIECE = 2**26  # values that float32 is asked for at a time, so that the comparison needs little memory


def set_precision(backbones: Sequence[Backbone], precision: str, shapes: Sequence[Shape], device: torch.device,
                  training: bool = True) -> tuple[str, list[str]]:
    """Make backbones of one kind compute in `precision`, "auto" being the fastest that is right on this machine.

    shapes: of the clips (N, 3, T, H, W) that they will take at a time, the first being the one to time; training:
    whether backward passes will follow. Layers that disagree with float32 stay in it. fp32 is true float32, as is what
    the others leave in float32; tf32 lets a GPU use TF32 in convolutions. What was found is kept, by machine, versions
    and layer or network, in ~/.cache/dualvar/precision.json ($XDG_CACHE_HOME). All processes must call it and get the
    same.
    Returns (the precision chosen, sentences about it). Raises RunError where tf32 is asked for and is wrong.
    """
    allow_tf32(False)
    if precision == "fp32":
        return precision, []
    layers = [layer for shape in shapes for layer in layers_with_inputs(backbones[0], shape)]
    cache, sentences = Cache(device), []
    wrong = functools.partial(wrong_layers, layers, cache=cache, device=device)
    if precision == "auto":
        precision, sentence, own = choose(wrong, functools.partial(timings, backbones[0], shapes[0], training=training,
                                                                   cache=cache, device=device), candidates_on(device))
        sentences = [sentence]
    else:
        own = wrong(precision)
    if problem := cache.write():
        sentences.append(problem)
    if precision == "fp32":
        return precision, sentences
    total = len({name for name, *_ in layers})
    reasons = ", ".join(f"{name} ({reason})" for name, reason in own.items())
    if precision == "tf32" and own:
        raise RunError(f"--precision tf32: {len(own)} of {total} layers are wrong in it here, {reasons}: use fp32")
    if own:
        sentences.append(f"precision {precision}: {len(own)} of {total} layers stay in float32, being wrong here: "
                         f"{reasons}")
    allow_tf32(precision == "tf32")
    for backbone in backbones:
        lower(backbone, precision, own)
    return precision, sentences


def lower(backbone: Backbone, precision: str, kept: Iterable[str]) -> None:
    """Have a backbone compute in `precision`, its layers of the names `kept` in float32."""
    if precision in LOW:
        backbone.low = LOW[precision]
        for name in kept:
            layer = backbone.get_submodule(name)
            layer.forward = functools.partial(in_float32, layer.forward)  # type: ignore[method-assign]  # of this object


def choose(wrong: Callable[[str], dict[str, str]], timed: Callable[[dict[str, list[str]]], dict[str, Any]],
           candidates: Sequence[str]) -> tuple[str, str, dict[str, str]]:
    """The fastest precision -> (its name, a sentence, {layer that is wrong in it: what is wrong}).

    wrong: `wrong_layers` of a precision; timed: `timings` of {precision: layers that stay in float32}. Checking takes
    longer than timing, so it is the fastest that is checked, and timed again if layers of it must stay in float32.
    """
    kept: dict[str, list[str]] = {name: [] for name in candidates}
    while True:
        precision, sentence = of_all_processes(fastest(timed(kept)))[0]
        own = {} if precision == "fp32" else wrong(precision)
        if sorted(own) == kept.get(precision, []):
            return precision, sentence, own
        kept[precision] = sorted(own)
        if precision not in LOW:  # not a layer's affair
            del kept[precision]


def wrong_layers(layers: Sequence[tuple[str, Layer, Shape, bool]], precision: str, cache: "Cache",
                 device: torch.device) -> dict[str, str]:
    """{name: what is wrong} of the layers that disagree with float32 on any process."""
    wrong = {}
    for name, layer, shape, dense in layers:
        reason = cache.get(f"{precision} {signature(layer, shape, dense)}",
                           functools.partial(disagreement, layer, shape, dense, precision, device))
        if reason:
            wrong[name] = shown(reason)
    return {name: reason for found in of_all_processes(wrong) for name, reason in found.items()}


def clip_shapes(counts: Iterable[int], seq_len: int, img_dim: int) -> list[Shape]:
    """Shapes (N, 3, T, H, W) of clips, N each of `counts`, the largest first."""
    return sorted(((n, 3, seq_len, img_dim, img_dim) for n in counts), reverse=True)


def default_precision(precision: str | None, device: torch.device) -> str:
    """What --precision stands for where it is not given."""
    return precision or ("auto" if device.type == "cuda" else "fp32")


def check_precision(precision: str | None, device: str) -> None:
    """Raises UsageError where `precision` is not for a device, "cpu" or "cuda"."""
    if precision in ("fp16", "tf32") and device == "cpu":
        raise UsageError(f"--precision {precision} needs a GPU: use bf16 or fp32 on a CPU")
    if precision == "tf32" and not has_tf32():
        raise UsageError(f"--precision tf32: {torch.cuda.get_device_name()} has no TF32, give fp32 or fp16")


def has_tf32() -> bool:
    """Whether this process's GPU has TF32."""
    return torch.cuda.get_device_capability() >= (8, 0)


def allow_tf32(convolutions: bool) -> None:
    """Whether float32 convolutions may use TF32; matrix products, of which heads and losses are made, may not."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = convolutions


def in_float32(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        return forward(x.float())


# --- layers and what they are given ----------------------------------------------------------------------------

@torch.no_grad()
def layers_with_inputs(backbone: Backbone, shape: Shape) -> list[tuple[str, Layer, Shape, bool]]:
    """[(name, layer, shape of its input, whether that is channels last)] of the layers that a backbone has compared.

    shape: of the clips (N, 3, T, H, W). Two clips are passed through, in the layout in which the loader makes them:
    which layouts come of it depends on the device, and with one clip alone they may be others.
    """
    copied = copy.deepcopy(backbone).eval()
    found: list[tuple[str, Layer, Shape, bool]] = []
    copied.low = None
    layers: dict[str, Layer] = {}
    for name, layer in backbone.named_modules():
        if isinstance(layer, backbone.compared) and not any(name.startswith(f"{outer}.") for outer in layers):
            layers[name] = layer
    for name, layer in layers.items():
        def note(_: nn.Module, inputs: tuple[Tensor], name: str = name, layer: Layer = layer) -> None:
            x = inputs[0]
            dense = x.dim() == 5 and x.is_contiguous(memory_format=torch.channels_last_3d)
            rows = len(x) * shape[0] // len(clips)  # a clip may be several
            found.append((name, layer, (rows, *x.shape[1:]), dense))
        copied.get_submodule(name).register_forward_pre_hook(note)
    clips = torch.zeros(min(2, shape[0]), *shape[1:], device=next(backbone.parameters()).device)
    copied(clips.contiguous(memory_format=torch.channels_last_3d))
    return found


def signature(layer: Layer, shape: Shape, dense: bool) -> str:
    """What decides which kernel a layer runs."""
    layout = "channels last" if dense else "contiguous"
    weights = " ".join(f"{name} {tuple(p.shape)} {p.stride()}" for name, p in layer.named_parameters() if p.dim() > 1)
    return f"{layer} {weights} input {shape} {layout}"


def trial(layer: Layer, shape: Shape, dense: bool, low: torch.dtype,
          device: torch.device) -> tuple[Layer, Tensor, torch.Generator]:
    """A copy of `layer` and an input with values of their own, rounded to `low`, from no shared random state."""
    generator = torch.Generator(device).manual_seed(0)
    layer = copy.deepcopy(layer).to(device).requires_grad_(True)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, device=device) / p[0].numel() ** 0.5)
            p.copy_(p.to(low))
    x = torch.randn(shape, generator=generator, device=device).to(low)
    return layer, x.contiguous(memory_format=torch.channels_last_3d) if dense else x, generator


def disagreement(layer: Layer, shape: Shape, dense: bool, precision: str, device: torch.device) -> str | None:
    """What of a layer is not right in low precision at an input's shape and layout -> text, or None.

    Output, input gradient and parameter gradients, each by its Error against float32 on the same numbers.
    """
    low = LOW.get(precision)
    layer, x, generator = trial(layer, shape, dense, low or torch.float32, device)
    x.requires_grad_(True)
    allow_tf32(precision == "tf32")
    try:
        with torch.autocast(device.type, low, enabled=low is not None):
            out = layer(x)
        gradient = torch.randn(out.shape, generator=generator, device=device).to(out.dtype)
        gradient = gradient / (out.numel() / out.shape[1]) ** 0.25  # parameter gradients within fp16's range
        if dense:
            gradient = gradient.contiguous(memory_format=torch.channels_last_3d)
        out.backward(gradient)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # no kernel for it
        return first_line(error)[:100]
    finally:
        allow_tf32(False)
    got, x_gradient = [p.grad for p in layer.parameters()], x.grad
    assert x_gradient is not None
    layer.zero_grad()
    errors = {"output": Error(), "input gradient": Error()}
    with any_algorithm():
        for piece in torch.arange(len(x), device="cpu").split(max(1, PIECE // x[0].numel())):
            rows = slice(int(piece[0]), int(piece[-1]) + 1)
            inputs = x.detach()[rows].float().requires_grad_(True)
            wanted = layer(inputs)
            wanted.backward(gradient[rows].float())
            errors["output"].add(out.detach()[rows], wanted.detach())
            errors["input gradient"].add(x_gradient[rows], inputs.grad)
    for (name, p), got_gradient in zip(layer.named_parameters(), got, strict=True):
        errors[f"{name} gradient"] = Error().add(got_gradient, p.grad)
    found = {name: error() for name, error in errors.items()}
    bad = [f"{name} {value:.2g} off" for name, value in found.items() if not value <= TOLERANCE[precision]]
    return ", ".join(bad) or None


@contextmanager
def any_algorithm() -> Iterator[None]:
    """Within it cuDNN does not try which algorithm is fastest: in float32 all are right, and trying takes long."""
    former, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = former


class Error:
    """Relative error of pieces of a tensor: of the norm, or a third of that of the largest value if that is more."""

    def __init__(self) -> None:
        self.sums = torch.zeros(4, dtype=torch.float64)  # squared error and value; largest error and value

    def add(self, got: Tensor | None, wanted: Tensor | None) -> "Error":
        assert got is not None and wanted is not None  # gradients, which a backward pass has made
        error = got.float() - wanted
        self.sums[:2] += torch.stack([x.double().square().sum() for x in (error, wanted)]).cpu()
        self.sums[2:] = torch.maximum(self.sums[2:], torch.stack([x.abs().max() for x in (error, wanted)]).cpu())
        return self

    def __call__(self) -> float:
        squared, total, largest, scale = self.sums.tolist()
        return float("inf") if total == 0 else max((squared / total) ** 0.5, largest / scale / 3)


# --- speed ------------------------------------------------------------------------------------------------------

def candidates_on(device: torch.device) -> list[str]:
    """Precisions that "auto" compares with float32 on a device."""
    if device.type == "cpu":
        return ["bf16"]
    low = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return ["tf32", low] if has_tf32() else [low]


def timings(backbone: Backbone, shape: Shape, kept: dict[str, list[str]], training: bool, cache: "Cache",
            device: torch.device) -> dict[str, Any]:
    """What a pass of the whole backbone takes -> {"what": what was timed, "when": date, "seconds": {precision: s}}.

    kept: {precision to time: names of its layers that stay in float32}. Memory is what a pass needs, and a copy of the
    backbone. On a CPU two clips are passed: enough to see, and where low precision is emulated it is very slow. In
    training there are two at least, as one may be too few for batch norm without those of the other processes.
    """
    clips = min(shape[0], 2) if device.type == "cpu" else shape[0]
    clips = max(clips, 2) if training else clips
    stage = "training" if training else "evaluation"
    what = (f"{stage} of {type(backbone).__name__} ({backbone.feature_dim} features) on "
            + " x ".join(map(str, (clips, *shape[1:])))
            + (", checkpointing" if training and backbone.checkpointing else ""))

    def find() -> str:
        x = torch.randn((clips, *shape[1:]), generator=torch.Generator(device).manual_seed(0), device=device)
        x = x.contiguous(memory_format=torch.channels_last_3d)
        seconds: dict[str, float] = {}
        for precision, names in {"fp32": [], **kept}.items():
            tried = own_statistics(copy.deepcopy(backbone).requires_grad_(training).train(training))
            if clips < shape[0]:  # perhaps too few for --bn_splits
                undivided(tried)
            lower(tried, precision, names)
            allow_tf32(precision == "tf32")
            seconds[precision] = math.inf
            # a GPU's float32 is slow, and trying its algorithms slower: an estimate will do
            rough = device.type == "cuda" and precision == "fp32"
            try:
                with any_algorithm() if rough else nullcontext():
                    for _ in range(2 if rough else 4):  # the first makes memory and chooses kernels
                        seconds[precision] = min(seconds[precision], seconds_of_pass(tried, x, training))
                        if seconds[precision] > 4 * seconds["fp32"]:
                            break
            except RuntimeError as error:  # no memory in float32 perhaps, where half is enough; or no kernel
                if isinstance(error, torch.OutOfMemoryError) and precision == ["fp32", *kept][-1]:  # needs least
                    raise
            finally:
                allow_tf32(False)
            del tried
            torch.cuda.empty_cache()
        return json.dumps({"what": what, "when": time.strftime("%Y-%m-%d"), "seconds": seconds})

    return json.loads(cache.get(f"auto {what}, in float32 {json.dumps(kept)}", find,
                                functools.partial(readable, precisions={"fp32", *kept})))


def readable(text: str | None, precisions: Collection[str]) -> bool:
    """Whether these are timings of these precisions, and not what somebody made of the file."""
    try:
        found = json.loads(text or "")
        whole = {name: type(value) for name, value in found["seconds"].items()} == dict.fromkeys(precisions, float)
        positive = all(value > 0 for value in found["seconds"].values())  # nan is not
        return whole and positive and {"what", "when"} <= found.keys()
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return False


def seconds_of_pass(backbone: Backbone, x: Tensor, training: bool) -> float:
    """Time of a forward pass, and of the backward pass in training; on a CPU without what others compute meanwhile."""
    wait = torch.cuda.synchronize if x.is_cuda else lambda: None
    clock = time.perf_counter if x.is_cuda else lambda: time.process_time() / torch.get_num_threads()
    wait()
    start = clock()
    with torch.set_grad_enabled(training):
        out = backbone(x)
    if training:
        out.sum().backward()
        backbone.zero_grad(set_to_none=True)
    wait()
    return clock() - start


def fastest(found: dict[str, Any]) -> tuple[str, str]:
    """What timings found -> (the precision to take, a sentence): each lower one where it is WORTH it."""
    seconds, chosen = found["seconds"], "fp32"
    for name in seconds:  # from high to low
        if seconds[chosen] > WORTH * seconds[name]:
            chosen = name
    times = {name: f"{value:.3g} s" if value < math.inf else "more than memory or kernels allow"
             for name, value in seconds.items()}
    others = ", ".join(f"{text} in {name}" for name, text in times.items() if name != chosen)
    return chosen, (f"precision: {chosen}; {shown(found['what'], 300)} takes {times[chosen]} in it and {others} "
                    f"(timed {shown(found['when'])})")


# --- what was found before ----------------------------------------------------------------------------------------

def machine(device: torch.device) -> str:
    """What a finding depends on besides the layer."""
    if device.type == "cuda":
        name, cudnn = torch.cuda.get_device_name(device), torch.backends.cudnn.version()
        part = f"{name}, CUDA {torch.version.cuda}, cuDNN {cudnn}"
    else:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        facts = [line for line in lines if line.startswith(("model name", "flags"))]
        digest = hashlib.blake2b("\n".join(facts).encode(), digest_size=8).hexdigest()
        part = f"CPU {digest}, {torch.get_num_threads()} threads"
    return f"{part}, torch {torch.__version__}"


class Cache:
    """Findings of this machine and these versions by name; a file that is no such cache counts as empty.

    `note`: a sentence where the file could not be used, or None.
    """

    def __init__(self, device: torch.device):
        # where no home is known, as of a user whom the system does not know, nothing is kept
        home = text_variable("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        self.path = Path(home) / "dualvar" / "precision.json"
        self.machine = machine(device)
        self.new: dict[str, str | None] = {}
        self.note: str | None = None
        self.known = self._read().get(self.machine, {})

    def _read(self) -> dict[str, dict[str, str | None]]:
        if not os.path.lexists(self.path):
            return {}
        try:
            return read_json(self.path, {str: {str: (None, str)}}, "what it holds is found again")
        except DataError as error:
            self.note = f"note: {error}"
            return {}

    def get(self, name: str, find: Callable[[], str | None],
            usable: Callable[[str | None], bool] = lambda _: True) -> Any:
        """What was found under `name`, now by find() if never before, or if that is not `usable`: text or None."""
        if name not in self.known or not usable(self.known[name]):
            self.known[name] = self.new[name] = find()
        return self.known[name]

    def write(self) -> str | None:
        """Add what is new to the file -> a sentence where that cannot be done: it will be found again next time.

        Otherwise `note`.
        """
        if not self.new:
            return self.note
        try:
            if not self.path.is_absolute():
                raise FileNotFoundError(errno.ENOENT, "no home is known, or XDG_CACHE_HOME is relative",
                                        str(self.path))
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with one_at_a_time(self.path.parent):  # other processes and runs write there too
                note, content = self.note, self._read()
                self.note = note or self.note
                content.setdefault(self.machine, {}).update(self.new)
                with whole_file(self.path) as temporary:
                    temporary.write_text(json.dumps(content, indent=1) + "\n")
        except OSError as error:
            return f"note: what was found about precision is not kept: {error.filename or self.path}: {error.strerror}"
        return self.note

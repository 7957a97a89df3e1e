"""A network as a file that runs without this project: torch.export's, ONNX, or ONNX in 8 bits.

Such a file maps clips (B, 3, T, H, W) float32, normalised as our loader does it, to pooled features (B, D) float32, as
in evaluation. T, H and W are fixed in it, and B unless it is dynamic; what it expects is said in its metadata.
"""
import copy
import io
import json
import logging
import re
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from core.errors import RunError
from core.imports import first_line, optional
from core.names import shown
from dataset.augment import MEAN, STD

from ..backbones.base import Backbone
from ..classifier import pooled
from ..protocol import Protocol

FILES = {"torch-export": "model.pt2", "onnx": "model.onnx", "int8": "model.onnx"}  # by what --to names
METADATA = "metadata.json"  # within a file of torch.export's
INPUT, OUTPUT = "clip", "feature"
LARGEST_ONNX = 2**31  # bytes, of what protobuf writes
PAGE = Path(__file__).with_name("preprocess.py")
# What is computed in 8 bits, tried in this order: all that ONNX Runtime has integers for, or matrix products alone.
RECIPES: dict[str, list[str] | None] = {"all operations": None, "products alone": ["Conv", "Gemm", "MatMul"]}

Compute = Callable[[Tensor], Tensor]


class Features(nn.Module):
    """Clip (B, 3, T, H, W) -> pooled feature (B, D)."""

    def __init__(self, backbone: Backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, clip: Tensor) -> Tensor:
        return pooled(self.backbone, clip)


@contextmanager
def quiet() -> Iterator[None]:
    """Within it torch and ONNX Runtime do not tell what they think of their own ways, tracebacks included."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


# --- made ----------------------------------------------------------------------------------------------------

def check_packages(form: str) -> None:
    """Raise RunError where what a form needs, as --to names it, is not installed."""
    for name in () if form == "torch-export" else ("onnx", "onnxscript", "onnxruntime"):
        optional(name, f"export --to {form}")


def traced(backbone: Backbone, frames: int, size: int, batch: int | None) -> torch.export.ExportedProgram:
    """The graph of a network in evaluation mode for clips (batch, 3, frames, size, size); batch None: any number.

    Raises RunError where torch cannot make it. It keeps nothing of where this project lies.
    """
    network = Features(copy.deepcopy(backbone)).eval().requires_grad_(False)
    clips = torch.zeros(batch or 2, 3, frames, size, size)  # a dynamic size is traced as one above 1
    shapes = None if batch else {INPUT: {0: torch.export.Dim("batch")}}
    try:
        with quiet():
            program = torch.export.export(network, (clips,), dynamic_shapes=shapes)
    except Exception as error:  # of many kinds, whatever in a network cannot be traced
        advice = "" if batch else "; --batch N, with one number of clips, may do"
        raise RunError(f"torch.export cannot trace this network ({shown(first_line(error))}){advice}") from error
    program.example_inputs = None  # zeros of a whole batch, which would be saved
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def program_bytes(program: torch.export.ExportedProgram, metadata: Mapping[str, str]) -> bytes:
    """A file of torch.export's, which torch.export.load reads."""
    buffer = io.BytesIO()  # torch's own writer to a file hides what the system says
    torch.export.save(program, buffer, extra_files={METADATA: json.dumps(dict(metadata))})
    return buffer.getvalue()


def onnx_bytes(program: torch.export.ExportedProgram, metadata: Mapping[str, str]) -> bytes:
    """The same graph as a file of ONNX, all of it in one."""
    optional("onnxscript", "export")
    shapes = {INPUT: {0: "batch"}} if program.range_constraints else None  # else a dynamic size has no name to read
    with quiet():
        exported = torch.onnx.export(program, (), input_names=[INPUT], output_names=[OUTPUT], dynamic_shapes=shapes,
                                     dynamo=True, verbose=False)
    assert exported is not None
    model = exported.model_proto
    for thing in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info,
                  *model.graph.initializer):
        del thing.metadata_props[:]  # lines of this project, and paths
    for function in model.functions:
        for node in function.node:
            del node.metadata_props[:]
    return _with_metadata(model, metadata)


def int8_bytes(model: bytes, clips: Iterable[np.ndarray], metadata: Mapping[str, str],
               operations: list[str] | None = None) -> bytes:
    """ONNX in float32 -> with weights of 8 bits by channel, activations by their range on `clips`, batches of them.

    Weights have 7 bits in fact: on a CPU without VNNI the products of 8 and 8 bits overflow 16. operations: names of
    ONNX that are computed so; None: all that ONNX Runtime has integers for.
    """
    onnx, quantization = (optional(name, "export") for name in ("onnx", "onnxruntime.quantization"))
    prepare = optional("onnxruntime.quantization.shape_inference", "export").quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            self.clips: Iterator[np.ndarray] = iter(clips)

        def get_next(self) -> dict[str, np.ndarray] | None:
            clip = next(self.clips, None)
            return None if clip is None else {INPUT: clip}

    with tempfile.TemporaryDirectory() as folder, quiet():
        whole, prepared, written = (Path(folder) / f"{name}.onnx" for name in ("whole", "prepared", "int8"))
        whole.write_bytes(model)
        prepare(whole, prepared, skip_symbolic_shape=True)
        with ranges_taken_at_once():
            quantization.quantize_static(
                prepared, written, Reader(), quant_format=quantization.QuantFormat.QDQ, op_types_to_quantize=operations,
                per_channel=True, reduce_range=True, activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8)
        return _with_metadata(onnx.load(written), metadata)


@contextmanager
def ranges_taken_at_once() -> Iterator[None]:
    """Within it ONNX Runtime's calibration takes the range of a tensor as soon as it is there.

    Its own way orders the ranges behind all else, so that every tensor of the network is kept until the end: ten times
    the memory for mvit_v2_s.
    """
    onnxruntime = optional("onnxruntime", "export")
    kind = optional("onnxruntime.quantization.calibrate", "export").CalibraterBase
    usual = kind.create_inference_session

    def create(calibrator: Any) -> None:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
        options.intra_op_num_threads = torch.get_num_threads()
        calibrator.infer_session = onnxruntime.InferenceSession(
            calibrator.augmented_model_path, options, providers=calibrator.execution_providers)

    kind.create_inference_session = create
    try:
        yield
    finally:
        kind.create_inference_session = usual


def _with_metadata(model: Any, metadata: Mapping[str, str]) -> bytes:
    """A ModelProto of ONNX as the bytes of its file. Raises RunError where that would be too large a file."""
    if model.ByteSize() >= LARGEST_ONNX:
        raise RunError(f"this network has {model.ByteSize() / 1e9:.1f} GB, and a file of ONNX holds 2: take --to "
                       "torch-export")
    del model.metadata_props[:]
    for name, value in metadata.items():
        model.metadata_props.add(key=name, value=value)
    model.producer_name, model.doc_string = "dualvar", ""
    return model.SerializeToString()


def metadata_of(network: str, width: float, weights: str, protocol: Protocol, batch: int | None,
                form: str) -> dict[str, str]:
    """What an exported file says of itself: of which network, by the SHA-256 of its weights, and which clips it takes.
    """
    height, across = protocol.frame_size
    return {"network": network, "width": f"{width:g}", "weights_sha256": weights, "form": form,
            "input": f"{INPUT}: float32 ({batch or 'batch'}, 3, {protocol.seq_len}, {protocol.img_dim}, "
                     f"{protocol.img_dim}), red green blue, (value / 255 - mean) / std",
            "output": f"{OUTPUT}: float32 ({batch or 'batch'}, D), the pooled feature map",
            "batch": str(batch or "dynamic"), "frames": str(protocol.seq_len), "size": str(protocol.img_dim),
            "stride": str(protocol.ds), "fps": str(protocol.fps), "resize": f"{height}x{across}",
            "mean": json.dumps(MEAN), "std": json.dumps(STD)}


def page(protocol: Protocol) -> str:
    """The text of preprocess.py for clips of a protocol: plain Python without this project."""
    text = PAGE.read_text(encoding="utf-8")
    height, width = protocol.frame_size
    for names, values in (("FRAMES, STRIDE, CLIPS, FPS", (protocol.seq_len, protocol.ds, 10, protocol.fps)),
                          ("HEIGHT, WIDTH, SIZE", (height, width, protocol.img_dim))):
        text, count = re.subn(f"^{names} = [0-9, ]+(?:None +)?", f"{names} = {', '.join(map(str, values))}  ", text,
                              flags=re.MULTILINE)
        assert count == 1
    return text


# --- run and compared ----------------------------------------------------------------------------------------

def opened(path: Path, form: str) -> Compute:
    """An exported file, read from the disk -> its function, clips (B, 3, T, H, W) -> (B, D), on this CPU.

    form: what --to named. ONNX Runtime has as many threads as torch.
    """
    if form == "torch-export":
        return torch.export.load(path).module()
    onnxruntime = optional("onnxruntime", "export")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda clips: torch.from_numpy(session.run(None, {INPUT: clips.numpy()})[0])


def in_batches(compute: Compute, size: int, fixed: bool = False) -> Compute:
    """The same function, given `size` clips at a time; fixed: never less, the last being repeated."""
    def each(clips: Tensor) -> Tensor:
        found = []
        for part in clips.contiguous().split(size):
            lacking = size - len(part) if fixed else 0
            given = torch.cat([part, part[-1:].expand(lacking, *part.shape[1:])]) if lacking else part
            found.append(compute(given)[:len(part)])
        return torch.cat(found)

    return each


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """Largest difference within a feature (N, D), divided by the largest value of that feature; of all N the worst."""
    error = (found - wanted).abs().amax(dim=1) / wanted.abs().amax(dim=1)
    return float(error.nan_to_num(nan=0.0 if found.equal(wanted) else torch.inf).max())


def least_cosine(found: Tensor, wanted: Tensor, centred: bool = False) -> float:
    """Least cosine between features of the same clip (N, D); centred: less the mean of `wanted`, as retrieval compares.
    """
    centre = wanted.mean(dim=0) if centred else torch.zeros(wanted.shape[1])
    return float(F.cosine_similarity(found - centre, wanted - centre, dim=1).min())

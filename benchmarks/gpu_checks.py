"""What must be right on a GPU: sections of benchmarks/gpu.py. Each takes Settings and returns Findings.

The entry scripts run as commands, though within one process, which looks at what their convolutions compute in.
"""
import contextlib
import io
import os
import runpy
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.modules import module as hooks

from analysis.features import read_features
from benchmarks.common import alternate, register, table
from benchmarks.sections import Findings, NotHere, as_torchrun
from benchmarks.step import Step
from core.errors import RunError, UsageError
from dataset.local_dataset import REPOSITORY
from engine.log import log_rows
from engine.precision import LOW, candidates_on, clip_shapes, set_precision
from engine.setup import compile_backbones, distribute, seed_everything, start
from models import build_pretrainer
from models.backbones import BACKBONES
from models.backbones.base import Backbone
from models.dualvar import TERMS, total_loss

SIZE = 64  # side of the clips whose numbers are compared, at most
# Relative errors of losses and outputs that are allowed against float32 on the CPU.
TOLERANCE = {"fp32": 1e-3, "tf32": 1e-2, "fp16": 2e-2, "bf16": 5e-2}
# Of all gradients together in float32. At random weights they are badly conditioned: on a CPU those of float32 were up
# to 5 % from those of float64 (S3D), and those of low precision say nothing.
GRADIENTS = 1e-1
ALL_PRECISIONS = "r3d"  # the network that is tried in all of them
BATCH = 4  # videos of a step of the stages
# The stages of one precision: {name: script and flags}, at a small --lr: fp16 skips its first steps, and rounding grows
# with every step; {w} is the folder of the weights that the later ones start from.
STAGES = {
    "pretraining, SimCLR": "train.py --net r3d --mode clip-sr-tc --epochs 1 --lr 1e-5",
    "pretraining, MoCo": "train.py --net r21d --framework moco --moco-k 8 --epochs 1 --lr 1e-5",
    "fine-tuning": "finetune.py --pretrain {w}/pretrain/simclr/model/backbone.pth.tar --epochs 1 --hflip --lr 1e-4",
    "test": "test.py --checkpoint {w}/ft/ft/model/latest.pth.tar",
    "retrieval": "retrieval.py --pretrain {w}/pretrain/simclr/model/backbone.pth.tar --save_features features"}
NAMES = {"pretraining, SimCLR": "simclr", "pretraining, MoCo": "moco", "fine-tuning": "ft", "test": "test",
         "retrieval": "retrieval"}


@dataclass(frozen=True)
class Settings:
    """folder: frames/ and lists of data set `benchmark`, and room to write; batch_size: most videos of a step;
    ends: time.monotonic() at which a section hands in what it has."""

    folder: Path
    batch_size: int = 64
    img_dim: int = 112
    width: float = 1.0
    workers: int = 8
    rounds: int = 3
    ends: float = float("inf")

    def late(self):
        return time.monotonic() > self.ends

    def in_time(self, names, found, of=""):
        """Yields those of `names` for which there is time; Findings `found` get the others, with what they are `of`."""
        for name in names:
            if self.late():
                found.left.append(f"{of}{name}")
            else:
                yield name


def precisions():
    """Those that the GPU has: float32, the one that `auto` is likely to choose, the others."""
    *others, likely = candidates_on(torch.device("cuda", 0))
    return ["fp32", likely, *others, *sorted({"fp16"} - {likely})]


def quick_start():
    """cuDNN tries one algorithm a layer, not ten, on all the shapes that are to come: trying takes most of the time."""
    torch.backends.cudnn.benchmark_limit = 1


def apart(got, wanted):
    """Relative error of the norm."""
    got, wanted = (torch.as_tensor(np.asarray(x)).double().flatten() for x in (got, wanted))
    return float((got - wanted).norm() / wanted.norm())


# --- a step of every network ---------------------------------------------------------------------------------

def gradients(settings, net, precision, device):
    """-> (losses, all gradients, float32 vectors) of one step from the same weights and clips on any device."""
    side, videos = min(settings.img_dim, SIZE), 2
    seed_everything(0)
    model = build_pretrainer("simclr", net, "clip-sr-tc", 2, width=settings.width)
    views = torch.randn(videos, 3, 3, 16, side, side)
    model = distribute(model, device, "local")[1].train()
    set_precision(model.backbones(), precision, clip_shapes({videos * n for n in model.encodes}, 16, side), device)
    losses = model(views.to(device), torch.tensor([[1, 0]] * videos).to(device)).losses
    total_loss(losses, {name: term.weight for name, term in TERMS.items()}).backward()
    found = [p.grad.cpu().flatten() for p in model.parameters() if p.grad is not None]
    return torch.stack([loss.detach().cpu() for loss in losses.values()]).numpy(), torch.cat(found).numpy()


def numbers(settings):
    """Losses and gradients of one step of every network, one in all precisions, against float32 on the CPU."""
    found, rows = Findings(), []
    device = start("cuda")
    quick_start()
    for net in BACKBONES:
        wanted = gradients(settings, net, "fp32", torch.device("cpu"))
        for precision in settings.in_time(precisions()[:None if net == ALL_PRECISIONS else 2], found, f"{net} in "):
            got = gradients(settings, net, precision, device)
            errors = [apart(a, b) for a, b in zip(got, wanted, strict=True)]
            found.check(f"{net} in {precision}, losses", errors[0], TOLERANCE[precision])
            if precision == "fp32":
                found.check(f"{net} in {precision}, gradients", errors[1], GRADIENTS)
            rows.append([net, precision, *(f"{error:.1e}" for error in errors)])
    found.lines = table(["network", "precision", "losses: relative error", "gradients: relative error"], rows)
    return found


# --- the entry scripts ---------------------------------------------------------------------------------------

class Watch:
    """Context manager: looks into the training passes of all backbones of this process, but for those of the plan.

    dtypes: {dtype: convolutions that gave it}. stop_after: passes after which this process gets SIGTERM; None: never.
    """

    def __init__(self, stop_after=None):
        self.dtypes, self.inside, self.passes, self.stop_after = Counter(), False, 0, stop_after

    def __enter__(self):
        self.handles = [hooks.register_module_forward_pre_hook(self.before),
                        hooks.register_module_forward_hook(self.after)]
        return self

    def __exit__(self, *error):
        for handle in self.handles:
            handle.remove()

    def before(self, module, inputs):
        if isinstance(module, Backbone):
            planned = isinstance(inputs[0], FakeTensor)  # by engine/memory.py
            self.inside = module.training and torch.is_grad_enabled() and not planned

    def after(self, module, _inputs, out):
        if self.inside and isinstance(module, nn.Conv3d):
            self.dtypes[out.dtype] += 1
        if self.inside and isinstance(module, Backbone):
            self.inside, self.passes = False, self.passes + 1
            if self.passes == self.stop_after:
                os.kill(os.getpid(), signal.SIGTERM)


def entry_script(settings, words, *more):
    """Run an entry script with flags in this process, on the data set `benchmark` -> what it printed."""
    register(settings.folder)
    script, *given = words.split()
    flags = ["--dataset", "benchmark", "--seq_len", 16, "--ds", 1, "--img_dim", 32, "--workers", 0, *given, *more]
    if "--net" in given:
        flags += ["--width", 0.0625]
    if script in ("train.py", "finetune.py"):
        flags += ["--batch_size", BATCH, "--print_freq", 1]
    sys.argv, before = [script, *map(str, flags)], sys.argv
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            runpy.run_path(str(REPOSITORY / script), run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise RunError(f"{script} {' '.join(map(str, flags))} ended with exit code {end.code}") from end
    finally:
        sys.argv = before
    return printed.getvalue()


def values_of(name, folder):
    """What a stage computed, as one vector."""
    if name == "retrieval":
        return read_features(Path("features"), "test", "benchmark")[0].ravel()
    if name == "test":
        with np.load(next(folder.rglob("predictions.npz"))) as file:
            return file["probabilities"].ravel()
    return losses_of(log_rows(folder))


def losses_of(rows):
    """All losses of a run's epochs, as one vector."""
    return np.array([value for row in rows for name, value in sorted(row.items()) if "loss" in name])


def all_stages(settings, device, precision, weights):
    """Run all STAGES -> {name: (what it computed, {dtype: training convolutions}, layers that stay in float32)}.

    weights: folder below which the weights stand that fine-tuning, test and retrieval start from.
    """
    root, found = settings.folder / f"{device}-{precision}", {}
    root.mkdir()
    os.chdir(root)
    for name, words in STAGES.items():
        with Watch() as watch:
            printed = entry_script(settings, words.format(w=weights), "--device", device, "--precision", precision,
                                   "--name", NAMES[name])
        folder = next(path for path in Path("log/dualvar").glob(f"*/{NAMES[name]}"))
        log = folder / "log.txt"
        printed += log.read_text() if log.exists() else ""
        found[name] = values_of(name, folder), watch.dtypes, "stay in float32" in printed
    return found


def stages(settings):
    """Every stage in each precision against the CPU's float32, and whether its convolutions are in that precision."""
    found, rows = Findings(), []
    quick_start()
    weights = settings.folder / "cpu-fp32/log/dualvar"
    wanted = all_stages(settings, "cpu", "fp32", weights)
    for precision in settings.in_time(precisions(), found):
        low = LOW.get(precision, torch.float32)
        for name, (got, dtypes, kept) in all_stages(settings, "cuda", precision, weights).items():
            error = apart(got, wanted[name][0])
            found.check(f"{name} in {precision}", error, TOLERANCE[precision])
            count = sum(dtypes.values())
            if "pretraining" in name or name == "fine-tuning":
                right = dtypes[low] == count > 0 or kept and dtypes[low] > 0
                found.checks.append((f"{name} in {precision}: {dtypes[low]} of {count} convolutions gave {low}"
                                     + (", the others being wrong in it here" if kept else ""), right))
            rows.append([name, precision, f"{error:.1e}", f"{dtypes[low]} of {count}" if count else ""])
    found.lines = table(["stage", "precision", "relative error", "convolutions in this precision"], rows)
    return found


def resume(settings):
    """Stopped by a signal amid an epoch and resumed: the same log as an uninterrupted run, bit for bit.

    In one process, so that cuDNN's choice of algorithms is the same.
    """
    os.chdir(settings.folder)
    quick_start()
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(True, warn_only=True)
    found, rows = Findings(), []
    for precision in settings.in_time(precisions(), found):
        words = f"train.py --net r3d --epochs 2 --device cuda --precision {precision} --log_dir resume-{precision}"
        logs = {}
        for name, stop_after in (("whole", None), ("again", None), ("stopped", 1)):
            with Watch(stop_after):
                entry_script(settings, words, "--name", name)
        folder = settings.folder / f"resume-{precision}" / "dualvar/pretrain"
        at = len(log_rows(folder / "stopped"))
        entry_script(settings, words, "--name", "stopped", "--resume", "auto")
        logs = {name: losses_of(log_rows(folder / name)) for name in ("whole", "again", "stopped")}
        noise, error = (apart(logs[name], logs["whole"]) for name in ("again", "stopped"))
        found.checks.append((f"{precision}: stopped in epoch 0 before its end", at == 0))
        found.checks.append((f"{precision}: resumed, the losses of both epochs are {error:.1e} apart, those of two "
                             f"uninterrupted runs {noise:.1e}", error <= 3 * noise))
        rows.append([precision, f"{error:.1e}", f"{noise:.1e}"])
    found.lines = table(["precision", "resumed / uninterrupted: relative difference", "two uninterrupted runs"], rows)
    return found


# --- several processes, compiled networks ----------------------------------------------------------------------

def pretrained(settings, name, words, batch):
    """A short run of train.py in float32 -> its losses; called in each of its processes."""
    os.chdir(settings.folder)
    entry_script(settings, words, "--device", "cuda", "--precision", "fp32", "--name", name, "--batch_size", batch,
                 "--bn", "sync")
    return losses_of(log_rows(settings.folder / "log/dualvar/pretrain" / name))


def processes(settings):
    """One process on each GPU, synchronised batch norm, against one process."""
    gpus = torch.cuda.device_count()
    if gpus < 2:
        raise NotHere("this machine has one GPU: DistributedDataParallel and --bn sync need two")
    found, rows = Findings(), []
    for name in ("pretraining, SimCLR", "pretraining, MoCo"):
        batch = max(BATCH, 2 * gpus)
        one = pretrained(settings, f"{NAMES[name]}-1", STAGES[name], batch)
        many = as_torchrun(pretrained, gpus, settings.ends - time.monotonic(), settings, f"{NAMES[name]}-{gpus}",
                           STAGES[name], batch)
        error = apart(many[0], one)
        found.check(f"{name}, {gpus} processes against 1", error, TOLERANCE["fp32"])
        rows.append([name, gpus, f"{error:.1e}"])
    found.lines = table(["run", "GPUs", "losses against one process: relative error"], rows)
    return found


def compiled(settings):
    """--compile: the same losses, and what it gains."""
    steps, precision = {}, precisions()[1]
    for name in ("eager", "compiled"):
        steps[name] = Step("r3d", min(settings.batch_size, 16), settings.img_dim, width=settings.width,
                           precision=precision)
    try:
        compile_backbones(steps["compiled"].model.backbones(), steps["compiled"].device)
    except UsageError as error:
        raise NotHere(str(error)) from error
    losses = [np.array([loss.item() for loss in step.call(step.views, step.permutation).losses.values()])
              for step in steps.values()]
    found = Findings()
    found.check("losses of r3d, compiled against eager", apart(*losses[::-1]), TOLERANCE[precision])
    seconds = alternate(steps, settings.rounds)
    found.lines = table([f"r3d, {precision}", "ms a step"], [[name, f"{1000 * s:.1f}"] for name, s in seconds.items()])
    found.target("a compiled step of r3d / an eager one", seconds["compiled"] / seconds["eager"], most=1)
    return found

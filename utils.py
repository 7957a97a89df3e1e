"""What the entry scripts share: flags, device and processes, learning rate, going on with a run, data."""
import argparse
import json
import math
import os
import shutil
import signal
import warnings
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.distributed as dist
import torch.nn as nn

from core.dist import rank, world_size
from core.errors import UsageError
from dataset.clips import VideoClips
from dataset.crops import resize_for
from dataset.lists import local_dataset
from dataset.loader import EvalBatches, die_with_parent, keep_memory, make_loader
from dataset.reader import FrameReader
from dataset.storage import SOURCES, advice
from engine import evaluation
from engine.log import plain
from engine.precision import PRECISIONS, check_precision, set_precision
from engine.session import Session
from models.backbones import BACKBONES
from models.pretrained import load_backbone, stated
from models.weights.checkpoint import read_checkpoint

# --- flags ---------------------------------------------------------------------------------------------------

def new_parser(script, doc):
    return argparse.ArgumentParser(script, description=doc.strip().splitlines()[0], allow_abbrev=False,
                                   formatter_class=argparse.ArgumentDefaultsHelpFormatter)


def height_width(text):
    height, _, width = text.partition("x")
    return int(height), int(width)


def add_data_flags(parser, ds, batch_size, batch_help, split_type=int):
    group = parser.add_argument_group("data")
    group.add_argument("--dataset", default="ucf101", help="name in dataset/local_dataset.py")
    group.add_argument("--split", type=split_type, default=1,
                       help="number of the train/test split" + (", or all" if split_type is not int else ""))
    group.add_argument("--storage", choices=list(SOURCES), default="frames",
                       help="read extracted frames, the same packed by process_data/src/pack.py, or the videos")
    group.add_argument("--seq_len", type=int, default=16, help="frames of a clip (T)")
    group.add_argument("--ds", type=int, default=ds, help="frame stride of a clip")
    group.add_argument("--img_dim", type=int, default=112, help="side of the crop, pixels")
    group.add_argument("--resize", type=height_width, metavar="HxW",
                       help="frame size before the crop; None: 128x171 in proportion to img_dim (171x128 is the "
                            "release's, which squeezes the picture)")
    group.add_argument("--batch_size", type=int, default=batch_size, help=batch_help)
    group.add_argument("--workers", type=int, default=min(8, os.cpu_count()), help="loader processes of each process")
    group.add_argument("--loader_timeout", type=float, default=600, help="seconds to wait for a batch; 0: for ever")


def add_net_flags(parser, net, net_help="backbone", width=1.0):
    group = parser.add_argument_group("network")
    group.add_argument("--net", choices=list(BACKBONES), default=net, help=net_help)
    group.add_argument("--width", type=float, default=width, help="multiplies the channels; 1.0 is the publication's")
    return group


def add_optimisation_flags(parser, lr, wd, epochs, schedule, bn_choices):
    group = parser.add_argument_group("optimisation")
    group.add_argument("--lr", type=float, default=lr, help="SGD learning rate, not scaled by the batch size")
    group.add_argument("--momentum", type=float, default=0.9, help="SGD momentum")
    group.add_argument("--wd", type=float, default=wd, help="weight decay")
    group.add_argument("--epochs", type=int, default=epochs, help="passes over the list")
    group.add_argument("--schedule", type=int, nargs="*", default=schedule, help="epochs (from 0) at which lr drops")
    group.add_argument("--gamma", type=float, default=0.1, help="factor of each drop")
    group.add_argument("--warmup", type=float, default=0, help="epochs of linear warm-up, may be a fraction")
    group.add_argument("--cosine", action="store_true", help="cosine decay to 0 instead of --schedule")
    group.add_argument("--bn", choices=bn_choices, default="sync",
                       help="batch statistics over all processes (sync) or each one's own")
    speed = add_precision_flag(parser, "what the run began with, or ")
    speed.add_argument("--accumulate", type=int, default=1, metavar="N",
                       help="pass the batch in N parts, one at a time, for less memory")
    speed.add_argument("--checkpointing", action="store_true",
                       help="compute activations again in the backward pass instead of keeping them")
    speed.add_argument("--compile", action="store_true", help="torch.compile the backbone")
    return group


def add_precision_flag(parser, default=""):
    group = parser.add_argument_group("speed and memory")
    group.add_argument("--precision", choices=PRECISIONS,
                       help="of convolutions; auto: the fastest that is right on this machine; None: "
                            f"{default}auto on a GPU and fp32 on a CPU")
    return group


def add_run_flags(parser, training=True):
    group = parser.add_argument_group("run")
    group.add_argument("--log_dir", default="log", help="everything is written below this folder")
    group.add_argument("--prefix", default="dualvar", help="related runs go to <log_dir>/<prefix>/<stage>/<name>")
    group.add_argument("--name", help="folder of this run; None: made from the main flags")
    group.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto: cuda if there is one")
    group.add_argument("--seed", type=int, default=0, help="seed of every random draw")
    group.add_argument("--dry_run", action="store_true", help="check flags, paths and shapes, print the plan, stop")
    if training:
        group.add_argument("--resume", metavar="PATH|auto",
                           help="go on from a checkpoint; auto: from this run's latest, if there is one")
        group.add_argument("--override", action="store_true", help="go on although flags differ from the run's")
        group.add_argument("--save_freq", type=int, default=5, help="epochs between checkpoints that are kept")
        group.add_argument("--save_steps", type=int, default=0,
                           help="steps between saves within an epoch; 0: only at its end")
        group.add_argument("--keep", type=int, default=0, help="kept epoch checkpoints, older ones go; 0: all")
        group.add_argument("--keep_epoch", type=int, metavar="N",
                           help="epoch (from 0) whose checkpoint is written and stays in any case, to be evaluated")
        group.add_argument("--print_freq", type=int, default=10, help="steps between log lines")
        group.add_argument("--skip_bad_samples", type=int, default=0, metavar="N",
                           help="replace up to N samples whose frames cannot be read by others")


LARGEST = torch.finfo(torch.float32).max


def positive(args, *names):
    for name in names:
        if not 0 < getattr(args, name) < LARGEST:
            kind = " and a float32" if isinstance(getattr(args, name), float) else ""
            raise UsageError(f"--{name} must be above 0{kind}, got {getattr(args, name)}")


def not_negative(args, *names):
    for name in names:
        if not 0 <= getattr(args, name) < LARGEST:
            raise UsageError(f"--{name} must be 0 or more and a float32, got {getattr(args, name)}")


def check_data_flags(args):
    """Ranges of the data flags, and the frame size behind `--resize`."""
    positive(args, "seq_len", "ds", "img_dim", "batch_size", *(["width"] if args.width is not None else []))
    not_negative(args, "workers", "seed", "loader_timeout")
    args.resize = tuple(args.resize or resize_for(args.img_dim))
    if min(args.resize) < args.img_dim:
        raise UsageError(f"--resize {args.resize[0]}x{args.resize[1]} is smaller than --img_dim {args.img_dim}")


def check_segments(args):
    positive(args, "n_series")
    if args.seq_len % args.n_series:
        raise UsageError(f"--seq_len {args.seq_len} is not divisible by --n_series {args.n_series}")


def check_time_reverse(args):
    if not 0 <= args.time_reverse <= 1:
        raise UsageError(f"--time_reverse {args.time_reverse} is no probability")


def check_shapes(args, net, clips=None):
    """Pass a clip of this size through the network, made thin: some need a minimum of frames or pixels.

    clips: in training, how many share batch statistics.
    """
    size = min(args.seq_len, 64), min(args.img_dim, 256), min(args.img_dim, 256)  # only the small do not fit
    with torch.inference_mode(), torch.random.fork_rng(devices=[]):
        try:
            features = BACKBONES[net](width=0).eval()(torch.zeros(1, 3, *size))
        except RuntimeError as error:
            raise UsageError(f"--net {net} cannot take clips of --seq_len {args.seq_len} and --img_dim {args.img_dim}: "
                             f"{str(error).splitlines()[0]}") from error
    if clips == 1 and features[0, 0].numel() == 1:
        raise UsageError("--batch_size: a process (or --bn_splits part) has one clip, and its feature map one value: "
                         "batch norm needs more, as in a larger batch, --seq_len or --img_dim")


def check_training_flags(args, videos):
    """Ranges of the optimisation flags, and how the batch fits the processes and the list."""
    positive(args, "lr", "epochs", "save_freq", "print_freq", "gamma", "accumulate")
    not_negative(args, "momentum", "wd", "warmup", "save_steps", "keep", "skip_bad_samples")
    if args.keep_epoch is not None and not 0 <= args.keep_epoch < args.epochs:
        raise UsageError(f"--keep_epoch {args.keep_epoch}: the epochs are 0 to {args.epochs - 1}")
    if args.batch_size % world_size():
        raise UsageError(f"--batch_size {args.batch_size} is not divisible by the number of processes, {world_size()}")
    if args.batch_size // world_size() % args.accumulate:
        raise UsageError(f"--accumulate {args.accumulate} does not divide the {args.batch_size // world_size()} "
                         "samples of a process")
    if args.compile and args.checkpointing:
        raise UsageError("--compile and --checkpointing exclude each other: the compiler decides what to keep")
    check_precision(args.precision, args.device)
    if videos < args.batch_size:
        raise UsageError(f"--batch_size {args.batch_size} is larger than the training list, {videos} videos")
    if args.bn == "sync" and world_size() > 1 and args.device == "cpu":
        raise UsageError("--bn sync: torch has no synchronised batch norm on the CPU; with several processes there, "
                         "use --bn local")


# --- devices and processes -----------------------------------------------------------------------------------

def start(args):
    """Join the process group that torchrun announces, if any -> torch.device of this process."""
    kind = args.device if args.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch sees no CUDA device here")
    local, processes = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if kind == "cuda":
        if local >= torch.cuda.device_count():
            raise UsageError(f"process {local} of this machine has no GPU: it has {torch.cuda.device_count()}; "
                             "start as many processes as GPUs")
        torch.cuda.set_device(local)
        torch.backends.cudnn.benchmark = True
    if processes > 1:
        die_with_parent(signal.SIGTERM)  # torchrun's processes outlive it otherwise, and go on writing
        dist.init_process_group("nccl" if kind == "cuda" else "gloo")
    cv2.setNumThreads(1)
    if kind == "cpu":
        keep_memory()
    args.device = kind
    return torch.device(kind, local) if kind == "cuda" else torch.device("cpu")


def seed_everything(*numbers):
    """Seed torch from several integers; called before each epoch, so that a resumed run draws the same."""
    torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1))


def distribute(model, device, bn):
    """Move to the device and, with several processes, wrap in DistributedDataParallel -> (module to call, model)."""
    if bn == "sync" and world_size() > 1:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    # the layout in which 3-D convolutions are fastest, on CPUs and GPUs
    model = model.to(device, memory_format=torch.channels_last_3d)
    if world_size() == 1 or not any(p.requires_grad for p in model.parameters()):
        return model, model
    # every process fills MoCo's queues alike and keeps its own batch statistics: no buffer is sent around
    ids = [device.index] if device.type == "cuda" else None
    with warnings.catch_warnings():  # newer versions rename the argument, older ones know no other
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated")
        return nn.parallel.DistributedDataParallel(model, device_ids=ids, broadcast_buffers=False), model


def choose_precision(args, backbones, counts, device):
    """What --precision asks of backbones that take `counts` of clips; it becomes what it comes to -> sentences."""
    precision = args.precision or ("auto" if device.type == "cuda" else "fp32")
    shapes = sorted((n, 3, args.seq_len, args.img_dim, args.img_dim) for n in counts)
    args.precision, sentences = set_precision(backbones, precision, shapes, device)
    return sentences


def set_up_backbones(args, backbones, counts, device):
    """What --precision, --checkpointing and --compile ask of backbones of one kind, the first being trained.

    counts: of clips that they take at a time. -> (torch.amp.GradScaler, which does nothing but in fp16; sentences to
    log)
    """
    sentences = choose_precision(args, backbones, counts, device)
    backbones[0].checkpointing = args.checkpointing
    if args.compile:
        try:
            torch.compile(torch.nn.functional.silu)(torch.zeros(8, device=device))
        except Exception as error:  # whatever a compiler that is not there makes torch stumble over
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UsageError(f"--compile: torch.compile does not work here ({reason}); leave it out") from error
        for backbone in backbones:
            backbone.compile(dynamic=False)
    return torch.amp.GradScaler(device.type, enabled=args.precision == "fp16"), sentences


def sgd(args, model, device):
    """The optimizer, on a GPU in one kernel."""
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], args.lr, args.momentum,
                           weight_decay=args.wd, fused=True if device.type == "cuda" else None)


def learning_rate(args, epoch):
    """Learning rate at `epoch`, a float that grows with every step."""
    if epoch < args.warmup:
        return args.lr * epoch / args.warmup
    if args.cosine:
        return args.lr * 0.5 * (1 + math.cos(math.pi * (epoch - args.warmup) / (args.epochs - args.warmup)))
    return args.lr * args.gamma ** sum(epoch >= milestone for milestone in args.schedule)


def gradient_norm(optimizer):
    """L2 norm of all gradients, a scalar tensor; not finite where one of them is not."""
    return nn.utils.get_total_norm([p.grad for group in optimizer.param_groups for p in group["params"]
                                    if p.grad is not None])


# --- runs -----------------------------------------------------------------------------------------------------

def run_folder(args, stage, name):
    return Path(args.log_dir) / args.prefix / stage / (args.name or name)


def weights_name(path):
    """Short name of a checkpoint for a result's folder: its run's, where it lies in a run's model/ folder."""
    path = Path(path)
    return path.parent.parent.name if path.parent.name == "model" else path.name.partition(".")[0]


def print_plan(title, plan):
    """What --dry_run prints, and every run before it starts."""
    if rank() == 0:
        print(title)
        for name, value in plan.items():
            print(f"  {name:<12} {value}")


def precision_text(args):
    """What the plan says of speed and memory."""
    return (args.precision or "auto on a GPU, fp32 on a CPU") + "".join(
        f", {name}" for name in ("checkpointing", "compile") if getattr(args, name)) + (
        f", batch in {args.accumulate} parts" if args.accumulate > 1 else "")


def check_folder(folder):
    """-> the deepest folder there is on the way to `folder`; UsageError where nothing could be written there."""
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(f"{folder} cannot be written (--log_dir, --name, --save_features, --out): {there} is "
                         + ("not writable" if there.is_dir() else "no folder"))
    return there


def check_disk(args, folder, model, epochs):
    """Raise UsageError where the checkpoints of `epochs` more epochs would not fit on the disk."""
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    size = trained + sum(x.numel() * x.element_size() for x in model.state_dict().values())
    copies = min(math.ceil(epochs / args.save_freq), args.keep or math.inf) + (args.keep_epoch is not None)
    needed, there = size * (copies + 3), check_folder(folder)  # and the latest, the one before, one being written
    free = shutil.disk_usage(there).free
    if needed > free:
        raise UsageError(f"--log_dir: checkpoints will take {needed / 1e9:.3g} GB ({copies} epochs' of "
                         f"{size / 1e9:.3g} GB, and 3 more) and {there} has {free / 1e9:.3g} GB free: make room, give "
                         "another --log_dir, keep fewer (--keep) or save less often (--save_freq)")


def new_session(args, folder, model, optimizer, scaler, batches, videos, device, config, inputs, state):
    """engine.session.Session with what the flags say."""
    names = ("epochs", "print_freq", "save_freq", "save_steps", "keep", "keep_epoch", "skip_bad_samples")
    return Session(folder, model, optimizer, scaler, batches, videos, device, config, plain(vars(args)), inputs, state,
                   **{name: getattr(args, name) for name in names})


def open_weights(args, path):
    """The checkpoint at `path`, or None for untrained weights: `random`, or a dry run before the file is there."""
    if args.dry_run and path != "random" and not Path(path).exists():
        print(f"{path} is not there yet: a dry run goes on without it")
        path = "random"
    if path != "random":
        return read_checkpoint(path)
    if args.net is None:
        raise UsageError("--net: name the network, no checkpoint says which")
    return None


def net_of(args, checkpoint, path):
    """Network and width: a checkpoint's own word, which the flags must not contradict, or else the flags'."""
    net, width = stated(checkpoint["config"]) if checkpoint else (None, None)
    for name, own in (("net", net), ("width", width)):
        given = getattr(args, name)
        if given is not None and own is not None and given != own:
            raise UsageError(f"--{name} {given}: checkpoint {path} was trained with --{name} {own}")
    net, width = net or args.net, args.width if width is None else width
    if net is None:
        raise UsageError(f"--net: checkpoint {path} does not say which network it is of, name it")
    return net, 1.0 if width is None else width


def load_pretrained(backbone, checkpoint, path):
    """load_backbone, with what is to be known of the weights said."""
    result = load_backbone(backbone, checkpoint, path)
    notes, partial = list(result.notes), checkpoint["config"].get("partial")
    if isinstance(partial, list) and partial:
        notes.append(f"{len(partial)} tensors of {path} are untrained, it was converted with --allow_partial")
    for note in notes if rank() == 0 else ():
        print(f"note: {note}")


def note_unfinished(checkpoint, path):
    """Say where a classifier is not of its run's end."""
    epoch, step, steps, flags = (checkpoint.get(name) for name in ("epoch", "step", "steps", "flags"))
    epochs = flags.get("epochs") if isinstance(flags, dict) else None
    if rank() == 0 and epochs and steps and (epoch + 1, step) != (epochs, steps):
        print(f"note: {path} is of epoch {epoch}, step {step} of {steps}, of a run of {epochs} epochs: not its end")


# --- data ----------------------------------------------------------------------------------------------------

def clip_dataset(args, videos, sampler, crop, draw=None):
    """VideoClips of a list of data set --dataset, with the frame size of --resize; for training where `draw`."""
    mend = advice(args.storage, args.dataset) + ("; --skip_bad_samples N trains on without them" if draw else "")
    root = local_dataset(args.dataset).root(args.storage)
    reader = FrameReader(root, args.resize, mend, SOURCES[args.storage])
    return VideoClips(videos, reader, sampler, crop, draw, args.seed, bool(draw and args.skip_bad_samples))


def clip_loader(args, data, batches, device):
    return make_loader(data, batches, args.workers, device.type == "cuda", args.loader_timeout)


def over_videos(compute, data, args, device, description, average=True):
    """engine.evaluation.over_videos over a data set -> (len(data), C) float32, CPU."""
    batches = EvalBatches(len(data), args.batch_size, rank(), world_size())
    loader = clip_loader(args, data, batches, device)
    return evaluation.over_videos(compute, loader, len(data), device, description, average)


def place(args, network, backbone, lists, device):
    """`network` on `device` for evaluation of `lists`, its backbone in --precision."""
    placed = evaluation.placed(network, device)
    counts = evaluation.counts(map(len, lists), args.batch_size, args.clips * getattr(args, "crops", 1), device)
    sentences = choose_precision(args, [backbone], counts, device)
    for sentence in sentences if rank() == 0 else ():
        print(sentence)
    return placed


PROTOCOL = ("seq_len", "ds", "img_dim", "resize", "clips", "crops")


def protocol_of(args):
    """How a result's clips were taken, as JSON to keep with it."""
    return json.dumps({name: value for name, value in plain(vars(args)).items() if name in PROTOCOL})


def take_protocol(args, text):
    """Make the flags say how a kept result's clips were taken; ValueError where `text` is not protocol_of's."""
    kept = json.loads(text)
    if not isinstance(kept, dict) or kept.keys() != {name for name in PROTOCOL if name in vars(args)} or not all(
            type(x) is int for value in kept.values() for x in (value if type(value) is list else [value])):
        raise ValueError("no protocol")
    kept["resize"] = tuple(kept["resize"])
    changed = [name for name, value in kept.items() if getattr(args, name) != value]
    if changed and rank() == 0:
        print("note: taken as kept: " + ", ".join(f"--{name} {kept[name]}" for name in changed))
    vars(args).update(kept)

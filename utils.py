"""What the entry scripts share: flags, devices and processes, learning rate, meters, logs, checkpoints, evaluation."""
import argparse
import functools
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.distributed as dist
import torch.nn as nn
import torchvision
from tqdm import tqdm

from dataset.augment import prepare
from dataset.clips import VideoClips
from dataset.crops import resize_for
from dataset.files import whole_file
from dataset.lists import DataError, local_dataset
from dataset.loader import EvalBatches, make_loader
from dataset.reader import FrameReader
from models.backbones import BACKBONES
from models.checkpoint import CheckpointError, read_checkpoint, write_checkpoint
from models.gather import rank, world_size

REPOSITORY = Path(__file__).resolve().parent


class UsageError(ValueError):
    """A flag is wrong; the message is one sentence for the user."""


class RunError(RuntimeError):
    """A run cannot go on; the message is one sentence for the user."""


def run(main):
    """Call an entry script's main(argv); wrong input ends in one sentence and exit code 2 (flags) or 1."""
    try:
        main(sys.argv[1:])
    except UsageError as error:
        code, message = 2, str(error)
    except (DataError, CheckpointError, RunError, OSError) as error:
        code, message = 1, str(error).strip()
        if "Original Traceback" in message:  # raised in a loader's worker: the sentence is its last line
            message = message.splitlines()[-1].partition(": ")[2]
    else:
        return
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    sys.stdout.flush()
    print(f"error: {message}", file=sys.stderr, flush=True)
    sys.exit(code)


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
    group.add_argument("--seq_len", type=int, default=16, help="frames of a clip (T)")
    group.add_argument("--ds", type=int, default=ds, help="frame stride of a clip")
    group.add_argument("--img_dim", type=int, default=112, help="side of the crop, pixels")
    group.add_argument("--resize", type=height_width, metavar="HxW",
                       help="frame size before the crop; None: 128x171 in proportion to img_dim (171x128 is the "
                            "release's, which squeezes the picture)")
    group.add_argument("--batch_size", type=int, default=batch_size, help=batch_help)
    group.add_argument("--workers", type=int, default=min(8, os.cpu_count()), help="loader processes of each process")


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
        group.add_argument("--save_freq", type=int, default=5, help="epochs between checkpoints that are kept")
        group.add_argument("--print_freq", type=int, default=10, help="steps between log lines")


def positive(args, *names):
    for name in names:
        if not 0 < getattr(args, name) < math.inf:
            raise UsageError(f"--{name} must be above 0, got {getattr(args, name)}")


def not_negative(args, *names):
    for name in names:
        if not 0 <= getattr(args, name) < math.inf:
            raise UsageError(f"--{name} must be 0 or more, got {getattr(args, name)}")


def check_data_flags(args):
    """Ranges of the data flags, and the frame size behind `--resize`."""
    positive(args, "seq_len", "ds", "img_dim", "batch_size", *(["width"] if args.width is not None else []))
    not_negative(args, "workers", "seed")
    args.resize = tuple(args.resize or resize_for(args.img_dim))
    if min(args.resize) < args.img_dim:
        raise UsageError(f"--resize {args.resize[0]}x{args.resize[1]} is smaller than --img_dim {args.img_dim}")


def check_shapes(args, net, width):
    """Pass a clip's shape through the network: some need a minimum of frames or pixels."""
    with torch.device("meta"):
        try:
            BACKBONES[net](width).eval()(torch.empty(1, 3, args.seq_len, args.img_dim, args.img_dim))
        except RuntimeError as error:
            raise UsageError(f"--net {net} cannot take clips of --seq_len {args.seq_len} and --img_dim {args.img_dim}: "
                             f"{str(error).splitlines()[0]}") from error


def check_training_flags(args, videos):
    """Ranges of the optimisation flags, and how the batch fits the processes and the list."""
    positive(args, "lr", "epochs", "save_freq", "print_freq", "gamma")
    not_negative(args, "momentum", "wd", "warmup")
    if args.batch_size % world_size():
        raise UsageError(f"--batch_size {args.batch_size} is not divisible by the number of processes, {world_size()}")
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
        dist.init_process_group("nccl" if kind == "cuda" else "gloo")
    cv2.setNumThreads(1)
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


def learning_rate(args, epoch):
    """Learning rate at `epoch`, a float that grows with every step."""
    if epoch < args.warmup:
        return args.lr * epoch / args.warmup
    if args.cosine:
        return args.lr * 0.5 * (1 + math.cos(math.pi * (epoch - args.warmup) / (args.epochs - args.warmup)))
    return args.lr * args.gamma ** sum(epoch >= milestone for milestone in args.schedule)


def check_finite(loss, epoch, step):
    if not math.isfinite(loss):
        raise RunError(f"loss is {loss} at epoch {epoch} step {step}; the last good checkpoint is of the epoch before. "
                       "A lower --lr or --warmup may help")


# --- logs ----------------------------------------------------------------------------------------------------

class Meter:
    """Running means of named scalars, kept on the device until they are read."""

    def __init__(self):
        self.sums, self.count = {}, 0

    def update(self, values):
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0) + torch.as_tensor(value, dtype=torch.float32).detach()
        self.count += 1

    def means(self, device):
        """-> {name: float}, averaged over processes too; starts afresh."""
        names = sorted(self.sums)  # in one order on all processes
        values = torch.stack([self.sums[name].to(device) for name in names]) / self.count
        if world_size() > 1:
            dist.all_reduce(values)
            values /= world_size()
        means = dict(zip(names, values.tolist(), strict=True))
        self.sums, self.count = {}, 0
        return means


class RunLog:
    """The run's folder: log.txt, log.jsonl (one line an epoch), flags.json and TensorBoard events; first process only.

    When a run goes on from `epoch` (`step`), what an earlier try logged beyond that is taken out of log.jsonl and
    TensorBoard.
    """

    def __init__(self, folder, args, epoch=0, step=0, **facts):
        self.folder, self.main = Path(folder), rank() == 0
        if not self.main:
            return
        from torch.utils.tensorboard import SummaryWriter  # takes a second to import

        self.folder.mkdir(parents=True, exist_ok=True)
        self.text, self.json = self.folder / "log.txt", self.folder / "log.jsonl"
        if self.json.exists():
            whole = [row for row in self.json.read_text().splitlines() if row.endswith("}")]
            with whole_file(self.json) as temporary:
                temporary.write_text("".join(row + "\n" for row in whole if json.loads(row)["epoch"] < epoch))
        write_json(self.folder / "flags.json", {"flags": plain(vars(args)), "command": sys.argv, **versions(), **facts})
        self.writer = SummaryWriter(self.folder / "tensorboard", purge_step=step if step else None)

    def line(self, text):
        if self.main:
            tqdm.write(text)
            with open(self.text, "a") as file:
                file.write(text + "\n")

    def scalars(self, values, step):
        if self.main:
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)

    def images(self, name, pictures, step):
        """pictures: (3, H, W) float in [0, 1]"""
        if self.main:
            self.writer.add_image(name, pictures, step)

    def epoch(self, epoch, values):
        if self.main:
            with open(self.json, "a") as file:
                file.write(json.dumps({"epoch": epoch, **values}) + "\n")
            self.writer.flush()


def plain(flags):
    """Flags as plain types, for JSON and checkpoints."""
    return {name: list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
            for name, value in flags.items()}


@functools.cache
def versions():
    """Versions, commit and machine behind a run's numbers, and when it first asked for them."""
    git = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=REPOSITORY, capture_output=True, text=True)
    return {"commit": git.stdout.strip() or "not a git checkout", "python": platform.python_version(),
            "torch": str(torch.__version__), "torchvision": torchvision.__version__, "opencv": cv2.__version__,
            "numpy": np.__version__, "processes": world_size(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "started": time.strftime("%Y-%m-%d %H:%M:%S")}


def write_json(path, content):
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


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


def bar(iterable, description):
    """Progress bar of the first process; none where the output is no terminal."""
    return tqdm(iterable, desc=description, leave=False, disable=None if rank() == 0 else True)


# --- checkpoints ---------------------------------------------------------------------------------------------

def save_epoch(folder, args, config, model, optimizer, epoch):
    """`latest.pth.tar` after every epoch, and a copy `epoch<N>.pth.tar` every --save_freq epochs and at the end.

    Epochs count from 0, as in the release, which evaluated epoch189 of 200.
    """
    if rank() != 0:
        return
    latest = folder / "model" / "latest.pth.tar"
    write_checkpoint(latest, {"state_dict": model.state_dict(), "config": config, "epoch": epoch,
                              "optimizer": optimizer.state_dict(), "flags": plain(vars(args)), "versions": versions()})
    if (epoch + 1) % args.save_freq == 0 or epoch + 1 == args.epochs:
        with whole_file(latest.with_name(f"epoch{epoch}.pth.tar")) as temporary:
            shutil.copyfile(latest, temporary)


def find_resume(args, folder):
    """--resume -> path of the checkpoint to go on from, or None. A run is never begun over another's checkpoints."""
    latest = folder / "model" / "latest.pth.tar"
    if args.resume == "auto":
        return latest if latest.exists() else None
    if args.resume is None and latest.exists() and not args.dry_run:
        raise UsageError(f"{folder} holds a run already: go on with --resume auto, or choose another --name")
    if args.resume is not None and not Path(args.resume).is_file():
        raise CheckpointError(f"--resume {args.resume} does not exist")
    return args.resume


# flags that a run may change when it goes on; --epochs so that it can be made longer
FREE_FLAGS = {"workers", "device", "log_dir", "prefix", "name", "resume", "save_freq", "print_freq", "dry_run",
              "epochs"}


def resume(path, args, model, optimizer, config):
    """Restore model, queue, optimizer from `path` -> the epoch to go on with.

    Raises CheckpointError where the run was begun with other flags than these: it would not be either run.
    """
    checkpoint = read_checkpoint(path)
    if "optimizer" not in checkpoint:
        raise CheckpointError(f"--resume {path} is not a training checkpoint: it holds weights only")
    here = {**plain(vars(args)), **config}
    there = {**checkpoint.get("flags", {}), **checkpoint["config"]}
    differences = [f"{key} {there.get(key)} there, {here[key]} here" for key in here
                   if key not in FREE_FLAGS and there.get(key) != here[key]]
    if differences:
        raise CheckpointError(f"--resume {path} is of another run: {'; '.join(differences)}; repeat its flags, or "
                              "choose another --name (PREFIX= of the launchers)")
    model.load_state_dict(checkpoint["state_dict"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    return checkpoint["epoch"] + 1


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
    config = checkpoint["config"] if checkpoint else {}
    for name in ("net", "width"):
        given, own = getattr(args, name), config.get(name)
        if given is not None and own is not None and given != own:
            raise UsageError(f"--{name} {given}: checkpoint {path} was trained with --{name} {own}")
    net, width = config.get("net", args.net), config.get("width", args.width)
    if net is None:
        raise UsageError(f"--net: checkpoint {path} does not say which network it is of, name it")
    return net, 1.0 if width is None else width


# --- data and evaluation -------------------------------------------------------------------------------------

PROTOCOL = ("seq_len", "ds", "img_dim", "resize", "clips", "crops")


def protocol_of(args):
    """How a result's clips were taken, as JSON to keep with it."""
    return json.dumps({name: value for name, value in plain(vars(args)).items() if name in PROTOCOL})


def take_protocol(args, text):
    """Make the flags say how a kept result's clips were taken."""
    vars(args).update(json.loads(text))


def clip_dataset(args, videos, sampler, crop, draw=None):
    """VideoClips of a list of data set --dataset, with the frame size of --resize."""
    reader = FrameReader(local_dataset(args.dataset).frames, args.resize)
    return VideoClips(videos, reader, sampler, crop, draw, args.seed)


@torch.inference_mode()
def over_videos(compute, data, args, device, description):
    """compute(clips (N, 3, T, H, W)) -> (N, C), averaged over each video's clips -> (len(data), C) float32, CPU.

    In the order of the list, the same on every process and for any number of processes.
    """
    loader = make_loader(data, EvalBatches(len(data), args.batch_size, rank(), world_size()), args.workers,
                         device.type == "cuda")
    rows = {}
    for batch in bar(loader, description):
        clips = prepare(batch["clips"].to(device, non_blocking=True))
        values = compute(clips.flatten(0, 1)).unflatten(0, clips.shape[:2]).mean(dim=1)
        rows.update(zip(batch["index"].tolist(), values.cpu(), strict=True))
    # each row is made by one process: the sum over processes puts all of them together exactly
    width = torch.tensor([len(next(iter(rows.values()))) if rows else 0], device=device)
    if world_size() > 1:
        dist.all_reduce(width, op=dist.ReduceOp.MAX)
    table = torch.zeros(len(data), int(width))
    for index, row in rows.items():
        table[index] = row
    if world_size() > 1:
        table = table.to(device)
        dist.all_reduce(table)
    if not table.isfinite().all():
        raise RunError(f"{description}: the network's output is not finite; its weights are broken, or diverged")
    return table.cpu()

"""Flags that the entry scripts share, in groups, and their checks; after `frozen`, flags do not change any more."""
import argparse
import math
import os
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import torch
from torch import nn

from core.dist import world_size
from core.errors import UsageError
from core.names import shown
from dataset.crops import resize_for
from dataset.loader import default_workers
from dataset.storage import SOURCES
from models.backbones import BACKBONES
from models.protocol import FASTEST, SLOWEST, Protocol

from .precision import PRECISIONS, check_precision

# what --pretrain takes, besides the word random
WEIGHTS = ("a checkpoint (ours, the release's or another project's), a folder that python -m models.weights save "
           "wrote, hf:owner/name of the Hugging Face hub, or torchvision:r3d_18 and the like")


USUAL_DATA = {"dataset": "ucf101", "split": 1, "storage": "frames"}


class FrozenFlags(argparse.Namespace):
    """Flags that were checked. To change one is an error of the program: what follows from flags is a value of its own.
    """

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f"flag {name} is changed after the check of the flags")


def frozen(args: argparse.Namespace) -> FrozenFlags:
    """The same flags, which nothing can change."""
    found = FrozenFlags()
    vars(found).update(vars(args))
    return found


# --- groups --------------------------------------------------------------------------------------------------


def height_width(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    return int(height), int(width)


def add_data_flags(parser: argparse.ArgumentParser, batch_size: int, batch_help: str,
                   split_type: Callable[[str], Any] = int, *, ds: int = Protocol.ds,
                   weights: bool = True, folders: bool = False) -> argparse._ArgumentGroup:
    """ds, weights: as in `add_clip_flags`; folders: whether --videos may take the place of a data set."""
    group = add_list_flags(parser, split_type, folders)
    if folders:
        group.add_argument("--videos", metavar="DIR", help="instead of a data set: a folder of any videos, in any "
                           "depth, without classes, frames or lists")
        group.add_argument("--group", metavar="file|folder|REGEX", help="with --videos, what is one recording: each "
                           "file (None), all files of a folder, or what the part (?P<group>...) of a regular "
                           "expression on the path below DIR finds")
    add_clip_flags(group, ds, weights)
    group.add_argument("--batch_size", type=int, default=batch_size, help=batch_help)
    add_loader_flags(group)
    return group


def add_list_flags(parser: argparse.ArgumentParser, split_type: Callable[[str], Any] = int,
                   folders: bool = False) -> argparse._ArgumentGroup:
    """Which list of a data set is read, and from what. folders: as in `add_data_flags`."""
    group = parser.add_argument_group("data")
    of_dataset = {"dataset": "name in dataset/local_dataset.py",
                  "split": "number of the train/test split" + (", or all" if split_type is not int else ""),
                  "storage": "read extracted frames, the same packed by process_data/src/pack.py, or the videos"}
    options: dict[str, dict[str, Any]] = {"split": {"type": split_type}, "storage": {"choices": list(SOURCES)}}
    for name, text in of_dataset.items():
        usual = USUAL_DATA[name]
        group.add_argument(f"--{name}", default=None if folders else usual, **options.get(name, {}),
                           help=text + (f"; None: {usual}, unless there is --videos" if folders else ""))
    return group


def add_clip_flags(group: argparse._ArgumentGroup, ds: int = Protocol.ds, weights: bool = True) -> None:
    """ds: the paper's stride in this stage; weights: whether clips are by default those of weights, not the paper's."""
    usual = Protocol(ds=ds)
    none = "; None: as the weights were trained, {} where nothing says it" if weights else ""
    for name, text in (("seq_len", "frames of a clip (T)"), ("img_dim", "side of the crop, pixels")):
        value = getattr(usual, name)
        group.add_argument(f"--{name}", type=int, default=None if weights else value, help=text + none.format(value))
    group.add_argument("--ds", type=int, help="frame stride of a clip" + (none or "; None: {}").format(usual.ds))
    group.add_argument("--fps", type=float, help="frames a second of a clip, whatever its video has, instead of --ds")
    group.add_argument("--resize", type=height_width, metavar="HxW",
                       help="frame size before the crop; None: 128x171 in proportion to img_dim (171x128 is the "
                            "release's, which squeezes the picture)" + (
                                "; as the weights were trained, in proportion to --img_dim" if weights else ""))


def add_loader_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--workers", type=int, default=default_workers(),
                       help="loader processes of each process; by default the cores that this machine lets it use, "
                            "divided by its processes, and at most 8")
    group.add_argument("--loader_timeout", type=float, default=600, help="seconds to wait for a batch; 0: for ever")


def add_sampling_flags(group: argparse._ArgumentGroup) -> None:
    """How pretraining draws its clips and shuffles their segments."""
    group.add_argument("--time_reverse", type=float, default=0.5,
                       help="probability that a sample's clips run backwards (the release's --rand_flip)")
    group.add_argument("--centres", choices=["any", "inside"], default="any",
                       help="of clips: any frame, a clip being clamped at the ends of its video, or only those at "
                            "which it lies inside its video")
    group.add_argument("--permutations", choices=["any", "changed"], default="any",
                       help="orders of shuffled segments: any, or all but that in which they stood")
    group.add_argument("--segment_gap", type=int, default=0, metavar="G",
                       help="steps from frame to frame that are left out between two segments of a clip")


def add_net_flags(parser: argparse.ArgumentParser, net: str | None, net_help: str = "backbone",
                  width: float | None = 1.0) -> argparse._ArgumentGroup:
    group = parser.add_argument_group("network")
    group.add_argument("--net", choices=list(BACKBONES), default=net, help=net_help)
    group.add_argument("--width", type=float, default=width, help="multiplies the channels; 1.0 is the publication's")
    return group


def add_optimisation_flags(parser: argparse.ArgumentParser, lr: float, wd: float, epochs: int, schedule: list[int],
                           bn_choices: list[str]) -> argparse._ArgumentGroup:
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


def add_precision_flag(parser: argparse.ArgumentParser, default: str = "") -> argparse._ArgumentGroup:
    group = parser.add_argument_group("speed and memory")
    group.add_argument("--precision", choices=PRECISIONS,
                       help="of convolutions; auto: the fastest that is right on this machine; None: "
                            f"{default}auto on a GPU and fp32 on a CPU")
    return group


def process_count(text: str) -> int:
    if not 1 <= int(text) <= MOST_PROCESSES:
        raise ValueError
    return int(text)


def add_run_flags(parser: argparse.ArgumentParser, training: bool = True) -> None:
    group = parser.add_argument_group("run")
    group.add_argument("--log_dir", default="log", help="everything is written below this folder")
    group.add_argument("--prefix", default="dualvar", help="related runs go to <log_dir>/<prefix>/<stage>/<name>")
    group.add_argument("--name", help="folder of this run; None: made from the main flags")
    group.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto: cuda if there is one")
    group.add_argument("--seed", type=int, default=0, help="seed of every random draw")
    group.add_argument("--dry_run", type=process_count, nargs="?", const=1, metavar="N",
                       help="check flags, paths and shapes, print the plan, stop; for N processes, in this one")
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


# --- checks --------------------------------------------------------------------------------------------------

LARGEST, LARGEST_WHOLE = torch.finfo(torch.float32).max, 2**31 - 1
MOST_PROCESSES, MOST_WORKERS = 2**16, 2**10
MOST_WIDTH = 1000
LONGEST_TIMEOUT = 2_000_000  # seconds; the system's own clocks for waiting end a little above

# beyond what is usual, by flag: such networks are measured before they are built
LARGE = {"--width": 4, "--dim": 4096, "--series_dim": 4096, "--n_series": 4096, "--moco-k": 2**20}


def bounded(args: argparse.Namespace, names: Iterable[str], zero: bool) -> None:
    """Raise UsageError where a flag's number is below 0, or 0 where that is not allowed, or larger than it may be."""
    for name in names:
        value = getattr(args, name)
        most, text = (LARGEST, "a float32") if isinstance(value, float) else (LARGEST_WHOLE, "below 2**31")
        least = torch.finfo(torch.float32).tiny if isinstance(value, float) else 1
        if not (least <= value <= most or zero and value == 0):
            raise UsageError(f"--{name} must be {'0 or more' if zero else 'above 0'} and {text}, got {shown(value)}")


def positive(args: argparse.Namespace, *names: str) -> None:
    bounded(args, names, zero=False)


def not_negative(args: argparse.Namespace, *names: str) -> None:
    bounded(args, names, zero=True)


def at_most(args: argparse.Namespace, name: str, most: float) -> None:
    if getattr(args, name) > most:
        raise UsageError(f"--{name} must be at most {most}, got {getattr(args, name)}")


def machine_memory() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def check_memory(size: float, what: str) -> None:
    """Raise UsageError where `what` takes more bytes than this machine has memory."""
    if size > (there := machine_memory()):
        raise UsageError(f"{what} would take {size / 1e9:.3g} GB, and this machine has {there / 1e9:.3g} GB of memory")


def check_clips(args: argparse.Namespace, crops: int = 1) -> None:
    """Raise UsageError where --clips is no number, or a video's clips, of as many crops each, have no room."""
    positive(args, "clips")
    check_memory(3 * args.clips * args.seq_len * args.img_dim**2 * crops, f"--clips {args.clips}: the clips of a video")


def check_network(args: argparse.Namespace, build: Callable[[], nn.Module]) -> None:
    """Raise UsageError where the network of flags that ask for more than is usual has no room on this machine.

    build: makes it; here it has shapes and no values, and takes no memory.
    """
    given = {flag: getattr(args, flag.strip("-").replace("-", "_"), None) or 0 for flag in LARGE}
    large = [f"{flag} {value}" for flag, value in given.items() if value > LARGE[flag]]
    if not large:
        return
    said = f"the network of {', '.join(large)}"
    try:
        with torch.device("meta"):
            state = build().state_dict()
    except RuntimeError as error:
        if "overflow" not in str(error):
            raise
        raise UsageError(f"{said} has more weights than a computer can count") from error
    check_memory(sum(x.numel() * x.element_size() for x in state.values()), said)


def complete_data_flags(args: argparse.Namespace, device: torch.device) -> None:
    """Ranges of the data flags; --device and --resize become what they stand for."""
    args.device = device.type
    if args.fps is not None:
        positive(args, "fps")
        if not SLOWEST <= args.fps <= FASTEST:
            raise UsageError(f"--fps {args.fps:g} must be between {SLOWEST} and {FASTEST}")
        if args.ds is not None:
            raise UsageError("--ds and --fps both say how far the frames of a clip are apart: give one of them")
        args.ds = 1
    elif args.ds is None:
        args.ds = Protocol.ds
    positive(args, "seq_len", "ds", "img_dim", *({"batch_size"} & vars(args).keys()))
    args.resize = tuple(args.resize or resize_for(args.img_dim))
    if getattr(args, "width", None) is not None:
        positive(args, "width")
        at_most(args, "width", MOST_WIDTH)
    not_negative(args, "workers", "seed", "loader_timeout")
    at_most(args, "workers", MOST_WORKERS)
    at_most(args, "loader_timeout", LONGEST_TIMEOUT)
    if min(args.resize) < args.img_dim:
        raise UsageError(f"--resize {args.resize[0]}x{args.resize[1]} is smaller than --img_dim {args.img_dim}")
    frames = f"{args.seq_len} frames (--seq_len)"
    check_memory(3 * 4 * args.seq_len * args.img_dim**2, f"a clip of {frames} of --img_dim {args.img_dim}")
    check_memory(3 * args.seq_len * math.prod(args.resize),
                 f"{frames} of {shown(args.resize[0])} x {shown(args.resize[1])} pixels (--resize)")


def check_holdout(args: argparse.Namespace) -> None:
    if not 0 <= args.holdout < 1:
        raise UsageError(f"--holdout {args.holdout} is no fraction")


def complete_source_flags(args: argparse.Namespace) -> None:
    """--dataset, --split and --storage, or --videos, become what they stand for."""
    given = [f"--{name}" for name in USUAL_DATA if getattr(args, name) is not None]
    if args.videos is None:
        if args.group is not None:
            raise UsageError("--group goes with --videos: the recordings of a data set are told by "
                             "dataset/local_dataset.py")
        vars(args).update({name: usual for name, usual in USUAL_DATA.items() if getattr(args, name) is None})
        return
    if given:
        raise UsageError(f"--videos and {given[0]} both say what is read: give one of them")
    args.videos, args.storage, args.group = os.path.abspath(args.videos), "video", args.group or "file"
    args.dataset = f"videos of {folder_name(args.videos)}"


def folder_name(folder: str) -> str:
    """What a folder is called, whatever path leads to it."""
    return os.path.basename(os.path.realpath(folder)) or "/"


def check_segments(args: argparse.Namespace) -> None:
    positive(args, "n_series")
    if args.seq_len % args.n_series:
        raise UsageError(f"--seq_len {args.seq_len} is not divisible by --n_series {args.n_series}")


def check_sampling(args: argparse.Namespace) -> None:
    """Values of `add_sampling_flags`, and of --n_series."""
    check_segments(args)
    not_negative(args, "segment_gap")
    if not 0 <= args.time_reverse <= 1:
        raise UsageError(f"--time_reverse {args.time_reverse} is no probability")
    if args.n_series == 1 and (args.segment_gap or args.permutations == "changed"):
        raise UsageError("--n_series 1: one segment has no other order (--permutations changed) and no gap "
                         "(--segment_gap): take 2 or more, or leave these flags out")
    if args.segment_gap and args.ds * (args.seq_len + args.segment_gap * (args.n_series - 1)) > LARGEST_WHOLE:
        raise UsageError(f"--segment_gap {args.segment_gap}: a clip would reach over more frames than a video has, "
                         "take a smaller one")


def check_training_flags(args: argparse.Namespace, videos: int) -> None:
    """Ranges of the optimisation flags, and whether the list has a batch."""
    positive(args, "lr", "epochs", "save_freq", "print_freq", "gamma", "accumulate")
    not_negative(args, "momentum", "wd", "warmup", "save_steps", "keep", "skip_bad_samples")
    if not all(0 <= epoch <= LARGEST_WHOLE for epoch in args.schedule):
        raise UsageError(f"--schedule {shown(args.schedule)}: epochs are 0 or more and below 2**31")
    if math.log(args.lr) + len(args.schedule) * math.log(args.gamma) > math.log(LARGEST):
        raise UsageError(f"--gamma {args.gamma}: the learning rate would grow beyond a float32")
    if args.keep_epoch is not None and not 0 <= args.keep_epoch < args.epochs:
        raise UsageError(f"--keep_epoch {args.keep_epoch}: the epochs are 0 to {args.epochs - 1}")
    if args.compile and args.checkpointing:
        raise UsageError("--compile and --checkpointing exclude each other: the compiler decides what to keep")
    check_precision(args.precision, args.device)
    if videos < args.batch_size:
        raise UsageError(f"--batch_size {args.batch_size} is larger than the training list, {videos} videos")
    check_memory(3 * args.batch_size * args.seq_len * args.img_dim**2 / world_size(),
                 f"--batch_size {args.batch_size}: a process's clips")


def check_equal_shares(args: argparse.Namespace) -> None:
    """Whether the processes, and the parts in which each passes its samples, can have equally many."""
    if args.batch_size % world_size():
        raise UsageError(f"--batch_size {args.batch_size} is not divisible by the number of processes, {world_size()}")
    if args.batch_size // world_size() % args.accumulate:
        raise UsageError(f"--accumulate {args.accumulate} does not divide the {args.batch_size // world_size()} "
                         "samples of a process")

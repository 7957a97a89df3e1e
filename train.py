"""Self-supervised pretraining.

    python train.py --dataset ucf101 --net r21d --mode clip-sr-tc                       one GPU, or the CPU
    python train.py --videos recordings/ --net r21d --mode clip-sr-tc                   any videos, without lists
    torchrun --standalone --nproc_per_node 8 train.py --dataset ucf101 ...              8 GPUs, global batch the same
    torchrun --nnodes 2 --node_rank R --master_addr HOST --nproc_per_node 8 train.py ...  2 machines

Writes <log_dir>/<prefix>/pretrain/<name>/: model/epoch<N>.pth.tar, model/latest.pth.tar, at the end
model/backbone.pth.tar, log.txt, log.jsonl, flags.json and tensorboard/.
"""
import core.lifeline  # noqa: F401  # before what takes seconds to import

# isort: split
import math
import os
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

import utils
from analysis.variance import look_at_features
from core.dist import rank, world_size
from core.errors import DataError, UsageError
from core.exits import run
from core.files import write_text
from core.names import counted, shown
from core.parser import new_parser
from dataset.augment import PretrainDraw, blur_reach, prepare
from dataset.clips import SKIPPABLE, VideoClips, open_reader
from dataset.crops import FixedCrops, RandomCrop
from dataset.lists import VideoList, hold_out, local_dataset, open_list, video_groups
from dataset.loader import TrainBatches, make_loader
from dataset.reader import FrameReader
from dataset.sampling import EvenClips, PretrainViews
from dataset.unlisted import UnlistedVideos
from engine.flags import (
    add_data_flags,
    add_net_flags,
    add_optimisation_flags,
    add_run_flags,
    add_sampling_flags,
    check_equal_shares,
    check_holdout,
    check_network,
    check_sampling,
    check_training_flags,
    complete_data_flags,
    complete_source_flags,
    folder_name,
    frozen,
    not_negative,
    positive,
)
from engine.folders import check_disk, loader_memory
from engine.gradcache import GradCache, forward_backward
from engine.log import plain_types
from engine.memory import memory_plan
from engine.monitor import CollapseWatch, embedding_monitors, sheet_of_views
from engine.optim import learning_rate, set_learning_rate, sgd, take_step
from engine.precision import clip_shapes, default_precision, set_precision
from engine.resume import find_resume, fingerprints
from engine.session import RunSettings, Session
from engine.setup import check_shapes, compile_backbones, distribute, seed_everything, start, takes_segments
from engine.unlisted import FILES, LEFT_OUT, at_rate, find_unlisted, group_rule, list_unlisted
from models import FRAMEWORKS, build_pretrainer
from models.backbones import BACKBONES
from models.batchnorm import count_in_parts
from models.dualvar import TERMS, views_of_sample
from models.protocol import spacing
from models.weights.checkpoint import write_checkpoint

WATCHED_CLIPS = 2  # of each video that --eval_every looks at
HELD_OUT = "held_out.txt"  # names of videos that were not trained on; with --videos, as embed.py --list takes them


def flags():
    parser = new_parser("train.py", __doc__)
    add_sampling_flags(add_data_flags(parser, batch_size=64, batch_help="videos of a step, over all processes",
                                      weights=False, folders=True))
    group = add_net_flags(parser, "r21d")
    group.add_argument("--framework", choices=FRAMEWORKS, default="simclr",
                       help="what a clip is contrasted with: the batch (simclr), a queue (moco)")
    group.add_argument("--mode", default="clip-sr-tc", help=f"loss terms, of {', '.join(TERMS)}, joined by '-'")
    group.add_argument("--n_series", type=int, default=2, help="segments of a clip (n)")
    group.add_argument("--series_dim", type=int, default=64, help="dimensions of a segment's embedding")
    group.add_argument("--dim", type=int, default=128, help="dimensions of a clip's embedding")
    for name, framework in FRAMEWORKS.items():
        for option in framework.options:
            group.add_argument(option.flag, type=type(option.default), default=option.default,
                               help=f"{name} alone: {option.help}")
    group.add_argument("--bn_splits", type=int, default=1, help="parts of the batch with batch statistics of their own")
    group = parser.add_argument_group("loss")
    group.add_argument("--temperature", type=float, default=0.07, help="of the clip and tc terms")
    group.add_argument("--theta", type=float, default=0.05, help="temperature of shuffle-rank")
    group.add_argument("--sr_clamp", default="default",
                       help="cap of shuffle-rank's exponent, a number or none; default: 5 for SimCLR, none for MoCo")
    for name, term in TERMS.items():
        group.add_argument(f"--{name}_weight", type=float, default=term.weight, help=f"weight of the {name} term")
    add_optimisation_flags(parser, lr=0.003, wd=1e-4, epochs=200, schedule=[120, 160],
                           bn_choices=["sync", "shuffle", "local"])
    group = parser.add_argument_group("monitors")
    group.add_argument("--eval_every", type=int, default=10, metavar="E",
                       help="epochs between looks at the features (analysis/variance.py); 0: never")
    group.add_argument("--eval_videos", type=int, default=128, help="training videos that are looked at, or of those "
                       "held out")
    group.add_argument("--holdout", type=float, default=0.0, help="fraction of the training list that is not trained "
                       "on, whole recordings only: the features of these are looked at")
    add_run_flags(parser)
    return parser


def check(args, videos):
    """Everything that can be known before the first video is opened."""
    check_training_flags(args, videos)
    check_equal_shares(args)
    positive(args, "series_dim", "dim", "temperature", "theta", "bn_splits")
    positive(args, "eval_videos", "n_series")
    not_negative(args, "eval_every", *(f"{name}_weight" for name in TERMS))
    if args.eval_videos < 2:
        raise UsageError(f"--eval_videos {args.eval_videos}: videos are compared, so give 2 or more")
    if args.img_dim <= (reach := blur_reach(args.img_dim)):
        raise UsageError(f"--img_dim must be above {reach} for the blur, got {args.img_dim}")
    if args.bn == "sync" and args.bn_splits > 1 and world_size() > 1:
        raise UsageError("--bn sync takes statistics over all processes: --bn_splits goes with shuffle or local")
    framework = FRAMEWORKS[args.framework]
    try:
        for option in (option for other in FRAMEWORKS.values() for option in other.options):
            option.check(getattr(args, option.dest))
        framework.check(args.batch_size, **framework_options(args, args.framework))
    except ValueError as error:
        raise UsageError(str(error)) from error
    check_sampling(args)
    if args.bn == "shuffle" and not framework.shuffles_keys:
        raise UsageError("--bn shuffle shuffles MoCo's keys: use it with --framework moco")
    part = args.batch_size // world_size() // args.accumulate
    if part % args.bn_splits:
        raise UsageError(f"--bn_splits {args.bn_splits} does not divide the {part} samples of a process"
                         + (" and part (--accumulate)" if args.accumulate > 1 else ""))


def framework_options(args, framework):
    """{option: value} of a framework's own options."""
    return {option.name: getattr(args, option.dest) for option in FRAMEWORKS[framework].options}


def clamp_flag(text):
    try:
        clamp = None if text in ("default", "none") else float(text)
        if clamp is not None and not math.isfinite(clamp):
            raise ValueError
        return text if text == "default" else clamp
    except ValueError as error:
        raise UsageError(f"--sr_clamp {shown(text)}: expected a number, none or default") from error


def build(args):
    """-> (model, what build_pretrainer was called with)"""
    published = BACKBONES[args.net].protocol
    config = {"framework": args.framework, "net": args.net, "mode": args.mode, "n_series": args.n_series,
              "series_dim": args.series_dim, "dim": args.dim, "width": args.width, "temperature": args.temperature,
              "theta": args.theta, "sr_clamp": clamp_flag(args.sr_clamp), "bn_splits": args.bn_splits,
              **published.of_clips(args.seq_len, args.ds, args.img_dim, args.resize, args.fps).entry(published),
              **framework_options(args, args.framework)}
    if FRAMEWORKS[args.framework].shuffles_keys:
        config["shuffle_keys"] = args.bn == "shuffle"
    try:
        check_network(args, lambda: build_pretrainer(**config))
        model = build_pretrainer(**config)
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"--mode, --n_series: {error}") from error
    count_in_parts(model, args.accumulate)
    return model, config


def draws(args, videos, views):
    """-> (what draws the frames of a sample's views, what draws their augmentation and the order of the segments)"""
    sampler = PretrainViews(args.seq_len, args.ds, args.time_reverse, views, args.centres == "inside", args.n_series,
                            args.segment_gap)
    sampler.check_room(videos.names, videos.num_frames, videos.pace)
    return sampler, PretrainDraw(args.n_series, args.img_dim, args.permutations == "changed")


class Source(NamedTuple):
    """Videos to train on: their list, the rule that tells their recordings, reader(skippable) -> FrameReader, what the
    plan calls them and says of them, what tells their content apart, and path(name) for `HELD_OUT`."""

    videos: VideoList
    rule: str
    reader: Callable[..., FrameReader]
    title: str
    plan: dict[str, str]
    inputs: dict[str, str]
    path: Callable[[str], str]


def open_source(args):
    """The videos that --dataset or --videos names -> Source"""
    if args.videos is None:
        return Source(open_list(args.dataset, "train", args.split, args.storage, args.fps),
                      local_dataset(args.dataset).group, partial(open_reader, args.dataset, args.storage, args.resize),
                      f"{args.dataset} split {args.split}", {}, {}, str)
    found = find_unlisted(args.videos)
    check(args, len(found.paths))  # a wrong flag shows before their frames are counted
    rule = group_rule(args.group, [os.path.relpath(path, found.root) for path in found.paths])
    listed, place = list_unlisted(found, args.workers), found.place
    recordings = len(np.unique(video_groups(listed.videos.names, rule)))
    lost = f"; left out: cannot be taken {listed.left_out}, copies of others {listed.copies} ({place / LEFT_OUT})"

    def reader(skippable=False):
        hint = f": mend the file, or take it out of {args.videos}" + SKIPPABLE * skippable
        return FrameReader(found.root, args.resize, hint, UnlistedVideos)

    plan = {"list": f"{place / FILES}" + lost * (listed.left_out + listed.copies > 0)
                    + f"; files of other kinds: {found.others}" * (found.others > 0),
            **({"cut off?": f"{counted(len(listed.short), 'file')} with fewer frames than the header says, such as "
                            f"{listed.short[0]}"} if listed.short else {}),
            "recordings": f"{recordings}, by --group {args.group}"}
    videos = listed.videos if args.fps is None else at_rate(listed, args.fps)
    return Source(videos, rule, reader, f"videos of {args.videos}", plan,
                  {"content of the videos": listed.content}, partial(os.path.join, found.root))


def main(argv):
    args = flags().parse_args(argv)
    device = start(args.device, args.loader_timeout, args.dry_run)
    check_holdout(args)
    complete_source_flags(args)
    complete_data_flags(args, device)
    source = open_source(args)
    videos, held = source.videos, None
    if args.holdout:
        videos, held = hold_out(videos, args.holdout, source.rule, args.seed)
        if len(held) < 2:
            raise DataError(f"--holdout {args.holdout}: one video would be held out, and videos are compared: hold out "
                            "more")
    check(args, len(videos))
    args = frozen(args)

    parts = args.accumulate * args.bn_splits * (1 if args.bn == "sync" else world_size())
    check_shapes(args.net, args.seq_len, args.img_dim, args.batch_size // parts)
    seed_everything(args.seed)
    model, config = build(args)
    sampler, draw = draws(args, videos, views_of_sample(model.terms))
    data = VideoClips(videos, source.reader(skippable=True), sampler, RandomCrop(args.img_dim), draw, args.seed,
                      replace_bad=args.skip_bad_samples > 0)
    batches = TrainBatches(len(data), args.batch_size, rank(), world_size(), args.seed)
    where = folder_name(args.videos) if args.videos else args.dataset
    name = args.name or f"{args.framework}_{args.net}_{args.mode}_{where}"
    folder = utils.run_folder(args.log_dir, args.prefix, "pretrain", name)
    inputs = {**fingerprints(videos), **source.inputs}
    resume = find_resume(folder, plain_types(vars(args)), config, inputs, model, len(batches))
    precision = resume.precision if resume else args.precision
    clip_bytes = 3 * args.seq_len * args.img_dim**2
    utils.print_plan("Pretraining", {
        "model": f"{args.framework} {args.net} x {args.width}, mode {args.mode}, "
                 f"{sum(p.numel() for p in model.parameters() if p.requires_grad):,} trained parameters",
        "data": f"{source.title}, {len(data)} videos, {sampler.views} views of {args.seq_len} "
                f"frames at {spacing(args.ds, args.fps)}, {args.img_dim} px from {args.resize[0]}x{args.resize[1]}",
        **source.plan,
        **({"held out": f"{len(held)} videos, at whose features --eval_every looks"} if held else {}),
        "clips": f"{sampler.plan(videos.num_frames, videos.pace)}, permutations {args.permutations}",
        "batch": f"{args.batch_size} = {world_size()} processes x {args.batch_size // world_size()} on {device.type}",
        "loader": loader_memory(args.batch_size // world_size() * sampler.views * clip_bytes, args.workers),
        "batch norm": f"{args.bn}, {args.accumulate * args.bn_splits} parts a process" + (
            ": nothing to shuffle between" if args.bn == "shuffle" and parts == 1 else ""),
        "precision": utils.precision_text(precision, args.checkpointing, args.compile, args.accumulate),
        "memory": memory_plan(
            model, pretraining_step, (args.batch_size // world_size(), sampler.views, args.seq_len, args.img_dim,
                                      args.img_dim, 3), device, precision=precision, accumulate=args.accumulate,
            checkpointing=args.checkpointing, dry_run=args.dry_run, bn_splits=args.bn_splits),
        "length": f"{args.epochs} epochs x {len(batches)} steps, lr {args.lr}",
        "folder": folder, "resume": resume})
    epochs_done = resume.state["epoch"] if resume else 0
    check_disk(folder, model, args.epochs - epochs_done, args.save_freq, args.keep, args.keep_epoch)
    if args.dry_run:
        return

    model_to_call, model = distribute(model, device, args.bn)
    part = args.batch_size // world_size() // args.accumulate
    model.encoder.backbone.checkpointing = args.checkpointing
    precision, notes = set_precision(
        model.backbones(), default_precision(precision, device),
        clip_shapes({part * views for views in model.encodes}, args.seq_len, args.img_dim), device)
    if args.compile:
        compile_backbones(model.backbones(), device)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    optimizer = sgd(model, args.lr, args.momentum, args.wd)
    loader = make_loader(data, batches, args.workers, device.type == "cuda", args.loader_timeout)
    collapse = CollapseWatch()
    watched = held or videos
    some = np.linspace(0, len(watched) - 1, min(args.eval_videos, len(watched)))
    watched = watched.subset(np.unique(some.astype(int)))
    several = args.eval_every > 0 and args.n_series > 1
    segments = several and takes_segments(args.net, args.seq_len, args.img_dim, args.n_series)
    if several and not segments:
        notes.append(f"note: {args.net} cannot take the {args.seq_len // args.n_series} frames of a segment alone: "
                     "variance/within_clip is not measured")
    settings = RunSettings.of(args, folder, config, precision, inputs)
    with Session(settings, model, optimizer, scaler, batches, videos, device, resume) as session:
        for note in notes:
            session.log.line(note)
        if held and rank() == 0:
            write_text(folder / HELD_OUT, "".join(f"{source.path(name)}\n" for name in held.names))
        for epoch in range(session.epoch, args.epochs):
            train_epoch(model_to_call, model, loader, optimizer, scaler, epoch, args, device, session)
            due = args.eval_every and (epoch + 1) % args.eval_every == 0
            means = session.end_epoch(
                epoch, partial(measure_features, model, watched, source, args, device, segments) if due else None)
            if warning := collapse.warning(means):
                session.log.line(warning)
        if rank() == 0:
            write_checkpoint(folder / "model" / "backbone.pth.tar", {
                "state_dict": model.encoder.backbone.state_dict(),
                "config": {name: config[name] for name in ("net", "width", "protocol") if name in config}})
        session.log.line(f"Pretrained: {folder / 'model' / 'backbone.pth.tar'}")


def measure_features(model, videos, source, args, device, segments):
    """Measures of the backbone's features of some videos of a source -> {name: float}."""
    data = VideoClips(videos, source.reader(), EvenClips(args.seq_len, args.ds, WATCHED_CLIPS),
                      FixedCrops(args.img_dim))
    groups = np.unique(video_groups(videos.names, source.rule), return_inverse=True)[1]
    return look_at_features(model.encoder.backbone, data, torch.from_numpy(groups), args.n_series, device,
                            clips=WATCHED_CLIPS, batch_size=-(-args.batch_size // world_size()), workers=args.workers,
                            timeout=args.loader_timeout, segments=segments)


def train_epoch(model_to_call, model, loader, optimizer, scaler, epoch, args, device, session):
    """One pass over the training list, or what is left of it.

    model_to_call: `model`, or what DistributedDataParallel made of it.
    """
    model_to_call.train()
    cache = GradCache(model, args.accumulate) if args.accumulate > 1 else None
    weights = {name: getattr(args, f"{name}_weight") for name in TERMS}
    steps = len(session.batches)
    for step, batch in session.steps(loader, epoch, ("clips", "permutation")):
        seed_everything(args.seed, epoch, step, rank())
        set_learning_rate(optimizer, learning_rate(epoch + step / steps, args.lr, args.epochs, args.schedule,
                                                   args.gamma, args.warmup, args.cosine))
        views, permutation = prepare(batch["clips"], batch["augment"]), batch["permutation"]
        out, loss = forward_backward(model_to_call, cache, views, permutation, weights, scaler.scale)
        norm = take_step(optimizer, scaler)

        if epoch == step == 0:
            session.log.images("views", sheet_of_views(views), 0)
        session.record(step, loss, norm, {
            "loss/total": loss, **{f"loss/{name}": value for name, value in out.losses.items()},
            **embedding_monitors(out, args.temperature, permutation)})
        session.end_step(epoch, step, batch.get("error", ()))  # logs and saves, where it is time


def pretraining_step(model, views, parts):
    """What `train_epoch` does with a batch up to the gradients, for the memory that the plan says."""
    permutation = torch.zeros(len(views), model.encoder.segment_head.shape[0], dtype=torch.long)
    cache = GradCache(model, parts) if parts > 1 else None
    forward_backward(model, cache, views, permutation, dict.fromkeys(TERMS, 1.0))


if __name__ == "__main__":
    run(main, memory="a larger --accumulate, --checkpointing, --precision bf16 or a smaller --batch_size")

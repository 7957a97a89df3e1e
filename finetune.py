"""Supervised training of a pretrained backbone: fine-tuning (--train_what ft) or a linear probe (last).

    python finetune.py --dataset ucf101 --pretrain log/dualvar/pretrain/<name>/model/backbone.pth.tar
    torchrun --standalone --nproc_per_node 4 finetune.py ...

Writes <log_dir>/<prefix>/<ft or last>/<name>/: model/epoch<N>.pth.tar, model/latest.pth.tar, log.txt, log.jsonl,
flags.json and tensorboard/. The last epoch is the one to test; the test list is never looked at.
"""
import core.lifeline  # noqa: F401  # before what takes seconds to import

# isort: split

from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import torch
import torch.nn.functional as F

import utils
from core.dist import rank, world_size
from core.errors import UsageError
from core.exits import run
from core.parser import new_parser
from dataset.augment import FinetuneDraw, prepare
from dataset.clips import VideoClips, open_reader
from dataset.crops import FixedCrops, RandomCrop
from dataset.lists import hold_out, local_dataset, open_list
from dataset.loader import TrainBatches, make_loader
from dataset.sampling import CentreClip, RandomClip
from engine import evaluation
from engine.flags import (
    WEIGHTS,
    add_data_flags,
    add_net_flags,
    add_optimisation_flags,
    add_run_flags,
    check_holdout,
    check_network,
    check_training_flags,
    complete_data_flags,
    frozen,
)
from engine.folders import check_disk, loader_memory
from engine.log import plain_types
from engine.memory import memory_plan
from engine.optim import learning_rate, set_learning_rate, sgd, take_step
from engine.precision import clip_shapes, default_precision, set_precision
from engine.resume import find_resume, fingerprints
from engine.session import RunSettings, Session
from engine.setup import (
    check_shapes,
    compile_backbones,
    distribute,
    load_pretrained,
    open_weights,
    seed_everything,
    start,
    take_clips,
)
from models import build_classifier
from models.backbones import BACKBONES
from models.batchnorm import count_in_parts
from models.classifier import topk
from models.protocol import spacing
from models.weights.origins import LACKS, lacking

DS = 2  # the paper's stride

def flags():
    parser = new_parser("finetune.py", __doc__)
    add_data_flags(parser, batch_size=16, batch_help="clips of a step, over all processes", ds=DS)
    parser.add_argument("--holdout", type=float, default=0.0,
                        help="fraction of the training list kept back for a per-epoch accuracy, whole recordings only")
    parser.add_argument("--color_jitter", action="store_true", help="pretraining's colour jitter on training clips")
    parser.add_argument("--hflip", action="store_true", help="mirror training clips with probability 0.5")
    group = add_net_flags(parser, None, "backbone; None: what the checkpoint says", width=None)
    group.add_argument("--pretrain", required=True, metavar="WEIGHTS|random",
                       help=f"the backbone's weights: {WEIGHTS}; or the word random")
    group.add_argument("--train_what", choices=["ft", "last"], default="ft",
                       help="ft: everything; last: the linear layer on a frozen backbone (linear probe)")
    group.add_argument("--dropout", type=float, default=0.0, help="before the linear layer")
    group.add_argument("--final_bn", action="store_true", help="batch norm (no scale and shift) of the pooled features")
    group.add_argument("--l2_norm", action="store_true", help="L2 normalisation of the pooled features")
    add_optimisation_flags(parser, lr=0.05, wd=1e-3, epochs=150, schedule=[50, 100], bn_choices=["sync", "local"])
    add_run_flags(parser)
    return parser


def check(args):
    check_holdout(args)
    if not 0 <= args.dropout < 1:
        raise UsageError(f"--dropout {args.dropout} is no probability")


def check_shares(args):
    """Whether each part of the batch has enough clips for batch norm; processes may have unequally many, or none."""
    if args.accumulate > args.batch_size:
        raise UsageError(f"--accumulate {args.accumulate}: a --batch_size of {args.batch_size} has not so many parts")
    least = args.batch_size // args.accumulate // (world_size() if args.bn == "local" else 1)
    if least < 1:
        raise UsageError(f"--bn local: {world_size()} processes do not all get a clip of --batch_size "
                         f"{args.batch_size} in each part (--accumulate); use --bn sync")
    if args.final_bn and least < 2:
        raise UsageError("--final_bn needs 2 clips for its statistics: a larger --batch_size, fewer parts "
                         "(--accumulate), or --bn sync, which takes those of all processes")


def build(args, opened, num_classes):
    """-> (classifier with the backbone's weights, what build_classifier was called with, whether they are there)"""
    checkpoint, net, width = opened.checkpoint, opened.net, opened.width
    protocol = opened.clips.of_clips(args.seq_len, args.ds, args.img_dim, args.resize, args.fps)
    config = {"net": net, "num_classes": num_classes, "width": width, "dropout": args.dropout,
              "final_bn": args.final_bn, "l2_norm": args.l2_norm, "train_what": args.train_what,
              **protocol.entry(BACKBONES[net].published)}
    parts = args.accumulate * (1 if args.bn == "sync" else world_size())
    check_shapes(net, args.seq_len, args.img_dim, args.batch_size // parts if args.train_what == "ft" else None)
    check_network(args, lambda: build_classifier(**config))
    model = build_classifier(**config)
    count_in_parts(model, args.accumulate)
    if checkpoint:
        load_pretrained(model.backbone, checkpoint, args.pretrain)
        model.backbone.protocol = protocol
        if args.train_what == "last":  # the backbone stays what it is
            config |= {name: found for name in LACKS if (found := lacking(checkpoint, name, args.pretrain))}
    return model, config, checkpoint is not None or args.pretrain == "random"


def main(argv):
    args = flags().parse_args(argv)
    device = start(args.device, args.loader_timeout, args.dry_run)
    opened = open_weights(args.pretrain, args.net, args.width, args.dry_run)
    take_clips(args, [opened], DS)
    complete_data_flags(args, device)
    videos, held = open_list(args.dataset, "train", args.split, args.storage, args.fps), None
    check(args)
    if args.holdout:
        videos, held = hold_out(videos, args.holdout, local_dataset(args.dataset).group, args.seed)
    check_training_flags(args, len(videos))
    check_shares(args)
    args = frozen(args)

    seed_everything(args.seed)
    model, config, loaded = build(args, opened, len(videos.classes))
    reader = open_reader(args.dataset, args.storage, args.resize, skippable=True)
    data = VideoClips(videos, reader, RandomClip(args.seq_len, args.ds), RandomCrop(args.img_dim),
                      FinetuneDraw(args.color_jitter, args.hflip), args.seed, replace_bad=args.skip_bad_samples > 0)
    batches = TrainBatches(len(data), args.batch_size, rank(), world_size(), args.seed, args.accumulate)
    name = args.name or f"{config['net']}_{args.dataset}_split{args.split}"
    folder = utils.run_folder(args.log_dir, args.prefix, args.train_what, name)
    inputs = fingerprints(videos, model.backbone if loaded else None)
    resume = find_resume(folder, plain_types(vars(args)), config, inputs, model, len(batches))
    precision = resume.precision if resume else args.precision
    utils.print_plan("Fine-tuning" if args.train_what == "ft" else "Linear probe", {
        "model": f"{config['net']} x {config['width']} from {args.pretrain}, {len(videos.classes)} classes",
        "data": f"{args.dataset} split {args.split}, {len(videos)} videos, "
                f"{len(held) if held else 0} held out, {args.seq_len} frames at {spacing(args.ds, args.fps)}, "
                f"{args.img_dim} px",
        "batch": f"{args.batch_size} over {world_size()} process{'' if world_size() == 1 else 'es'} on {device.type}",
        "loader": loader_memory(batches.loaded * args.seq_len * 3 * args.img_dim**2, args.workers),
        "precision": utils.precision_text(precision, args.checkpointing, args.compile, args.accumulate),
        "memory": memory_plan(
            model, finetuning_step, (batches.loaded, 1, args.seq_len, args.img_dim, args.img_dim, 3), device,
            precision=precision, accumulate=args.accumulate, checkpointing=args.checkpointing, dry_run=args.dry_run),
        "length": f"{args.epochs} epochs x {len(batches)} steps, lr {args.lr}",
        "folder": folder, "resume": resume})
    epochs_done = resume.state["epoch"] if resume else 0
    check_disk(folder, model, args.epochs - epochs_done, args.save_freq, args.keep, args.keep_epoch)
    if args.dry_run:
        return

    model_to_call, model = distribute(model, device, args.bn)
    part = max(batches.sizes)  # the same on all processes
    sizes = batches.sizes | (evaluation.pass_sizes([len(held)], args.batch_size, 1, device) if held else set())
    model.backbone.checkpointing = args.checkpointing
    shapes = [*clip_shapes([part], args.seq_len, args.img_dim),
              *clip_shapes(sizes - {part}, args.seq_len, args.img_dim)]
    precision, notes = set_precision([model.backbone], default_precision(precision, device), shapes, device,
                                     training=args.train_what == "ft")
    if args.compile:
        compile_backbones([model.backbone], device)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    optimizer = sgd(model, args.lr, args.momentum, args.wd)
    loader = make_loader(data, batches, args.workers, device.type == "cuda", args.loader_timeout)
    settings = RunSettings.of(args, folder, config, precision, inputs)
    with Session(settings, model, optimizer, scaler, batches, videos, device, resume) as session:
        for note in notes:
            session.log.line(note)
        for epoch in range(session.epoch, args.epochs):
            train_epoch(model_to_call, loader, optimizer, scaler, epoch, args, device, session)
            values = session.end_epoch(epoch, partial(held_out_accuracy, model, held, args, device) if held else None)
            session.log.line(f"epoch {epoch}: " + ", ".join(f"{name} {value:.4f}" for name, value in values.items()))
        session.log.line(f"Trained: {folder / 'model' / 'latest.pth.tar'}")


def train_epoch(model, loader, optimizer, scaler, epoch, args, device, session):
    """One pass over the training list, or what is left of it."""
    model.train()
    steps = len(session.batches)
    for step, batch in session.steps(loader, epoch, ("clips", "label")):
        seed_everything(args.seed, epoch, step, rank())
        set_learning_rate(optimizer, learning_rate(epoch + step / steps, args.lr, args.epochs, args.schedule,
                                                   args.gamma, args.warmup, args.cosine))
        clips, labels = prepare(batch["clips"], batch["augment"])[:, 0], batch["label"]
        optimizer.zero_grad(set_to_none=True)
        scores, loss = forward_backward(model, clips, labels, scaler, session.batches)
        norm = take_step(optimizer, scaler)

        accuracy = topk(scores, labels[:len(scores)], args.batch_size / world_size())
        session.record(step, loss, norm, {"loss": loss, **accuracy})
        session.end_step(epoch, step, batch.get("error", ())[:len(scores)])  # logs and saves, where it is time


def forward_backward(model, clips, labels, scaler, batches):
    """Scores and loss of this process's clips, its parts of `batches` passed one at a time and their gradients summed.

    The mean over processes of the losses is the whole batch's mean loss, and so are the gradients, whatever the
    number of clips that each process has: with none, it takes part in the statistics and averages only.
    """
    scores, losses, own = [], [], sum(batches.own)
    pieces = zip(clips[:own].split(batches.own), labels[:own].split(batches.own), strict=True)
    for i, (some, right) in enumerate(pieces, 1):
        last = i == len(batches.own) or world_size() == 1  # the processes' gradients are averaged once
        with nullcontext() if last else model.no_sync():
            scores.append(model(some))
            losses.append(F.cross_entropy(scores[-1], right, reduction="sum") * world_size() / batches.batch)
            scaler.scale(losses[-1]).backward()
        scores[-1], losses[-1] = scores[-1].detach(), losses[-1].detach()
    return torch.cat(scores), sum(losses)


def finetuning_step(model, views, parts):
    """What `train_epoch` does with a batch up to the gradients, for the memory that the plan says."""
    batches = SimpleNamespace(own=[len(part) for part in views.chunk(parts)], batch=len(views) * world_size())
    model.zero_grad(set_to_none=True)
    labels = torch.zeros(len(views), dtype=torch.long)
    forward_backward(model, views[:, 0], labels, torch.amp.GradScaler("cpu", enabled=False), batches)


def held_out_accuracy(model, held, args, device):
    """Top-1 and top-5 of the middle clip, centre crop, of each held-out video."""
    data = VideoClips(held, open_reader(args.dataset, args.storage, args.resize), CentreClip(args.seq_len, args.ds),
                      FixedCrops(args.img_dim))
    model.eval()
    evaluation.share_statistics(model)
    loader = evaluation.eval_loader(data, device, batch_size=args.batch_size, workers=args.workers,
                                    timeout=args.loader_timeout)
    scores = evaluation.over_videos(model, loader, len(data), device, "held out")
    accuracy = topk(scores, torch.from_numpy(held.labels))
    return {f"held_out_{name}": value.item() for name, value in accuracy.items()}


if __name__ == "__main__":
    run(main, memory="a larger --accumulate, --checkpointing, --precision bf16 or a smaller --batch_size")

"""Self-supervised pretraining.

    python train.py --dataset ucf101 --net r21d --mode clip-sr-tc                       one GPU, or the CPU
    torchrun --nproc_per_node 8 train.py --dataset ucf101 ...                           8 GPUs, global batch the same
    torchrun --nnodes 2 --node_rank R --master_addr HOST --nproc_per_node 8 train.py ...  2 machines

Writes <log_dir>/<prefix>/pretrain/<name>/: model/epoch<N>.pth.tar, model/latest.pth.tar, at the end
model/backbone.pth.tar, log.txt, log.jsonl, flags.json and tensorboard/.
"""
import time

import numpy as np
import torch

import utils
from analysis.variance import kinds_of_features, measures, nearest_of_other_groups
from core.dist import rank, world_size
from core.errors import UsageError
from core.exits import run
from dataset.augment import BLUR_TAPS, MEAN, STD, PretrainDraw, prepare
from dataset.crops import FixedCrops, RandomCrop
from dataset.lists import local_dataset, open_list, video_groups
from dataset.loader import TrainBatches
from dataset.sampling import EvenClips, PretrainViews
from engine import evaluation
from engine.gradcache import GradCache
from engine.monitor import CollapseWatch, embedding_monitors
from engine.resume import find_resume, fingerprints, resume_text
from models import FRAMEWORKS, build_pretrainer
from models.dualvar import parse_mode
from models.weights.checkpoint import write_checkpoint

# the loss term that each of a pretrainer's losses belongs to
TERM = {"clip": "clip", "tc": "tc", "sr_view1": "sr", "sr_view3": "sr"}


def flags():
    parser = utils.new_parser("train.py", __doc__)
    utils.add_data_flags(parser, ds=4, batch_size=64, batch_help="videos of a step, over all processes")
    parser.add_argument("--time_reverse", type=float, default=0.5,
                        help="probability that a sample's clips run backwards (the release's --rand_flip)")
    group = utils.add_net_flags(parser, "r21d")
    group.add_argument("--framework", choices=FRAMEWORKS, default="simclr", help="where negatives come from")
    group.add_argument("--mode", default="clip-sr-tc", help="loss terms, clip, sr and tc joined by '-'")
    group.add_argument("--n_series", type=int, default=2, help="segments of a clip (n)")
    group.add_argument("--series_dim", type=int, default=64, help="dimensions of a segment's embedding")
    group.add_argument("--dim", type=int, default=128, help="dimensions of a clip's embedding")
    group.add_argument("--moco-k", dest="moco_k", type=int, default=16384, help="MoCo: entries of the queue")
    group.add_argument("--moco-m", dest="moco_m", type=float, default=0.999, help="MoCo: momentum of the key encoder")
    group.add_argument("--bn_splits", type=int, default=1, help="parts of the batch with batch statistics of their own")
    group = parser.add_argument_group("loss")
    group.add_argument("--temperature", type=float, default=0.07, help="of the clip and tc terms")
    group.add_argument("--theta", type=float, default=0.05, help="temperature of shuffle-rank")
    group.add_argument("--sr_clamp", default="default",
                       help="cap of shuffle-rank's exponent, a number or none; default: 5 for SimCLR, none for MoCo")
    for term in ("clip", "sr", "tc"):
        group.add_argument(f"--{term}_weight", type=float, default=1.0, help=f"weight of the {term} term")
    utils.add_optimisation_flags(parser, lr=0.003, wd=1e-4, epochs=200, schedule=[120, 160],
                           bn_choices=["sync", "shuffle", "local"])
    group = parser.add_argument_group("monitors")
    group.add_argument("--eval_every", type=int, default=10, metavar="E",
                       help="epochs between looks at the features (analysis/variance.py); 0: never")
    group.add_argument("--eval_videos", type=int, default=128, help="training videos that are looked at")
    utils.add_run_flags(parser)
    return parser


def check(args, videos):
    """Everything that can be known before the first video is opened."""
    utils.check_training_flags(args, videos)
    utils.positive(args, "series_dim", "dim", "temperature", "theta", "bn_splits")
    utils.not_negative(args, "clip_weight", "sr_weight", "tc_weight", "eval_every")
    if args.eval_videos < 2:
        raise UsageError(f"--eval_videos {args.eval_videos}: videos are compared, so give 2 or more")
    if args.img_dim <= BLUR_TAPS // 2:
        raise UsageError(f"--img_dim must be above {BLUR_TAPS // 2} for the blur, got {args.img_dim}")
    if args.framework == "simclr" and args.batch_size < 2:
        raise UsageError("--batch_size must be at least 2: SimCLR's negatives are the batch's other videos")
    if not 0 <= args.moco_m <= 1:
        raise UsageError(f"--moco-m {args.moco_m} is not between 0 and 1")
    if args.bn == "sync" and args.bn_splits > 1 and world_size() > 1:
        raise UsageError("--bn sync takes statistics over all processes: --bn_splits goes with shuffle or local")
    positive_queue = args.moco_k > 0 and args.moco_k % args.batch_size == 0
    if args.framework == "moco" and not positive_queue:
        raise UsageError(f"--moco-k {args.moco_k} is not divisible by --batch_size {args.batch_size}")
    utils.check_segments(args)
    if args.bn == "shuffle" and args.framework != "moco":
        raise UsageError("--bn shuffle shuffles MoCo's keys: use it with --framework moco")
    part = args.batch_size // world_size() // args.accumulate
    if part % args.bn_splits:
        raise UsageError(f"--bn_splits {args.bn_splits} does not divide the {part} samples of a process"
                         + (" and part (--accumulate)" if args.accumulate > 1 else ""))
    utils.check_time_reverse(args)


def clamp_flag(text):
    try:
        return text if text == "default" else None if text == "none" else float(text)
    except ValueError as error:
        raise UsageError(f"--sr_clamp {text}: expected a number, none or default") from error


def build(args):
    """-> (model, what build_pretrainer was called with)"""
    config = {"framework": args.framework, "net": args.net, "mode": args.mode, "n_series": args.n_series,
              "series_dim": args.series_dim, "dim": args.dim, "queue_size": args.moco_k, "width": args.width,
              "temperature": args.temperature, "theta": args.theta, "sr_clamp": clamp_flag(args.sr_clamp),
              "momentum": args.moco_m, "bn_splits": args.bn_splits, "shuffle_keys": args.bn == "shuffle"}
    try:
        return build_pretrainer(**config), config
    except ValueError as error:
        raise UsageError(f"--mode, --n_series: {error}") from error


def sheet(views, every=4):
    """Views (B, V, 3, T, H, W) of up to 4 samples as one picture (3, h, w): a row a view, every 4th frame."""
    mean, std = (views.new_tensor(x)[:, None, None, None] for x in (MEAN, STD))
    frames = (views[:4] * std + mean).clamp(0, 1)[:, :, :, ::every]
    b, v, c, t, h, w = frames.shape
    return frames.permute(2, 0, 1, 4, 3, 5).reshape(c, b * v * h, t * w).cpu()


def main(argv):
    args = flags().parse_args(argv)
    device = utils.start(args)
    utils.check_data_flags(args)
    videos = open_list(args.dataset, "train", args.split, args.storage)
    check(args, len(videos))

    parts = args.accumulate * args.bn_splits * (1 if args.bn == "sync" else world_size())
    utils.check_shapes(args, args.net, args.batch_size // parts)
    utils.seed_everything(args.seed)
    model, config = build(args)
    terms = parse_mode(args.mode)
    sampler = PretrainViews(args.seq_len, args.ds, args.time_reverse, views=3 if "sr" in terms else 2)
    draw = PretrainDraw(args.n_series, args.img_dim)
    data = utils.clip_dataset(args, videos, sampler, RandomCrop(args.img_dim), draw)
    batches = TrainBatches(len(data), args.batch_size, rank(), world_size(), args.seed)
    folder = utils.run_folder(args, "pretrain", f"{args.framework}_{args.net}_{args.mode}_{args.dataset}")
    inputs = fingerprints(videos)
    state = find_resume(args, folder, config, inputs)
    utils.print_plan("Pretraining", {
        "model": f"{args.framework} {args.net} x {args.width}, mode {args.mode}, "
                 f"{sum(p.numel() for p in model.parameters() if p.requires_grad):,} trained parameters",
        "data": f"{args.dataset} split {args.split}, {len(data)} videos, {sampler.views} views of {args.seq_len} "
                f"frames at stride {args.ds}, {args.img_dim} px from {args.resize[0]}x{args.resize[1]}",
        "batch": f"{args.batch_size} = {world_size()} processes x {args.batch_size // world_size()} on {device.type}",
        "batch norm": f"{args.bn}, {args.accumulate * args.bn_splits} parts a process" + (
            ": nothing to shuffle between" if args.bn == "shuffle" and parts == 1 else ""),
        "precision": utils.precision_text(args),
        "length": f"{args.epochs} epochs x {len(batches)} steps, lr {args.lr}",
        "folder": folder, "resume": resume_text(state)})
    utils.check_disk(args, folder, model, args.epochs - (state["epoch"] if state else 0))
    if args.dry_run:
        return

    call, model = utils.distribute(model, device, args.bn)
    part = args.batch_size // world_size() // args.accumulate
    scaler, notes = utils.set_up_backbones(args, model.backbones(), {part * v for v in model.encodes}, device)
    cache = GradCache(call, model, args.accumulate)
    optimizer = utils.sgd(args, model, device)
    loader = utils.clip_loader(args, data, batches, device)
    collapse = CollapseWatch()
    watched = videos.subset(np.unique(np.linspace(0, len(videos) - 1, args.eval_videos).astype(int)))
    with utils.new_session(args, folder, model, optimizer, scaler, batches, videos, device, config, inputs,
                           state) as session:
        for note in notes:
            session.log.line(note)
        for epoch in range(session.epoch, args.epochs):
            train_epoch(cache, loader, optimizer, scaler, epoch, args, device, session)
            due = args.eval_every and (epoch + 1) % args.eval_every == 0
            found = look_at_features(model, watched, args, device) if due else {}
            if warning := collapse.look(session.end_epoch(epoch, found)):
                session.log.line(warning)
        if rank() == 0:
            write_checkpoint(folder / "model" / "backbone.pth.tar", {
                "state_dict": model.encoder.backbone.state_dict(), "config": {"net": args.net, "width": args.width}})
        session.log.line(f"Pretrained: {folder / 'model' / 'backbone.pth.tar'}")


def look_at_features(model, videos, args, device):
    """Measures of the backbone's features of a part of the training list, in float32 -> {name: float}."""
    backbone, clips = model.encoder.backbone, 2
    was_training, low, backbone.low = backbone.training, backbone.low, None
    backbone.eval()
    evaluation.share_statistics(backbone)
    data = utils.clip_dataset(args, videos, EvenClips(args.seq_len, args.ds, clips), FixedCrops(args.img_dim))
    features = utils.over_videos(lambda x: kinds_of_features(backbone, x, args.n_series), data, args, device,
                                 "features", average=False).unflatten(1, (clips, 3 + args.n_series, -1))
    backbone.train(was_training)
    backbone.low = low
    groups = np.unique(video_groups(videos.names, local_dataset(args.dataset).group), return_inverse=True)[1]
    return {**measures(features, args.n_series), **nearest_of_other_groups(
        features[:, :, 0], torch.from_numpy(videos.labels), torch.from_numpy(groups))}


def train_epoch(cache, loader, optimizer, scaler, epoch, args, device, session):
    """One pass over the training list, or what is left of it."""
    cache.call.train()
    weights = {"clip": args.clip_weight, "sr": args.sr_weight, "tc": args.tc_weight}
    steps = len(session.batches)
    clock = time.perf_counter()
    for step, batch in session.steps(loader, epoch):
        utils.seed_everything(args.seed, epoch, step, rank())
        for group in optimizer.param_groups:
            group["lr"] = utils.learning_rate(args, epoch + step / steps)
        views = prepare(batch["clips"].to(device, non_blocking=True), batch["augment"])
        data_time = time.perf_counter() - clock
        permutation = batch["permutation"].to(device, non_blocking=True)
        out = cache(views, permutation)
        losses = {name: value for name, value in out.items() if name in TERM}
        loss = sum(weights[TERM[name]] * value for name, value in losses.items())
        optimizer.zero_grad(set_to_none=True)
        cache.backward(scaler.scale(loss))
        scaler.unscale_(optimizer)
        norm = utils.gradient_norm(optimizer)
        scaler.step(optimizer)
        scaler.update()
        step_time = time.perf_counter() - clock
        clock = time.perf_counter()

        if epoch == step == 0:
            session.log.images("views", sheet(views), 0)
        session.after_step(epoch, step, loss, norm, {
            "loss/total": loss, **{f"loss/{name}": value for name, value in losses.items()},
            **embedding_monitors(out, args.temperature, permutation), "gradient_norm": norm,
            "time/data": data_time, "time/step": step_time}, batch.get("error", ()))


if __name__ == "__main__":
    run(main)

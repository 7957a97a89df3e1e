"""Nearest-neighbour retrieval: do the training videos closest to a test video show the same action?

    python retrieval.py --dataset ucf101 --pretrain log/dualvar/pretrain/<name>/model/backbone.pth.tar

Protocol of the publication: split 1, the pretrained weights as they are, ten clips of a video, pooled features
averaged over them; the features of each list centred by its own mean and L2-normalised, cosine similarity;
R@k: one of the k nearest training videos has the query's class.
Writes <log_dir>/<prefix>/retrieval/<name>/results.json.
"""
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

import utils
from analysis.features import read_features, write_features
from analysis.nearest import nearest
from core.dist import rank
from core.errors import DataError, UsageError
from core.exits import run
from core.files import take_lock, write_json
from dataset.crops import FixedCrops
from dataset.lists import open_list
from dataset.sampling import EvenClips
from engine.log import plain, versions
from engine.precision import check_precision
from models import build_backbone
from models.classifier import pooled

KS = (1, 5, 10, 20, 50)


def flags():
    parser = utils.new_parser("retrieval.py", __doc__)
    utils.add_data_flags(parser, ds=4, batch_size=4, batch_help="videos of a loader's batch")
    group = utils.add_net_flags(parser, None, "backbone; None: what the checkpoint says", width=None)
    group.add_argument("--pretrain", metavar="PATH|random|thumbnail",
                       help="checkpoint with the backbone's weights (ours or the release's), or the word random, or "
                            "thumbnail: each clip's mean picture and no network")
    group = parser.add_argument_group("protocol")
    group.add_argument("--clips", type=int, default=10, help="clips of a video, evenly spaced in time")
    group.add_argument("--save_features", metavar="DIR", help="write <part>_features.npy, _labels.npy, _names.txt")
    group.add_argument("--per_clip", action="store_true",
                       help="with --save_features: each clip's features too, <part>_clips.npy, for pictures of them")
    group.add_argument("--load_features", metavar="DIR", help="use features that --save_features wrote")
    utils.add_precision_flag(parser)
    utils.add_run_flags(parser, training=False)
    return parser


def topk_accuracy(query, query_labels, gallery, gallery_labels, ks):
    """R@k of query features (Q, D) against gallery features (G, D), labels (Q,) and (G,) -> {k: share in [0, 1]}.

    Each set is centred by its own mean and L2-normalised here, the gallery without a copy of it; similarity is
    cosine, and of equally similar gallery rows the lower index counts as nearer. Raises ValueError where a k exceeds
    the gallery, or where features or their mean are not finite.
    """
    query, query_labels, gallery, gallery_labels = map(torch.as_tensor, (query, query_labels, gallery, gallery_labels))
    if max(ks) > len(gallery):
        raise ValueError(f"R@{max(ks)} needs a gallery of at least {max(ks)} videos, this one has {len(gallery)}")
    query_mean, gallery_mean = query.mean(dim=0), gallery.mean(dim=0)
    if not (query_mean.isfinite().all() and gallery_mean.isfinite().all()):  # as the mean of anything else is
        raise ValueError("features are not finite")
    indices = nearest(F.normalize(query - query_mean, dim=1), gallery, max(ks),
                      unit=lambda rows: F.normalize(rows - gallery_mean, dim=1))
    right = gallery_labels[indices] == query_labels[:, None]
    return {k: int(right[:, :k].any(dim=1).sum()) / len(query) for k in ks}


class Thumbnail(nn.Module):
    """The floor that learning must beat: clips (N, 3, T, H, W) as mean pictures of 12 x 16 px, (N, 576, 1, 1, 1)."""

    def forward(self, clips):
        return F.adaptive_avg_pool2d(clips.mean(dim=2), (12, 16)).flatten(1)[:, :, None, None, None]


def build(args):
    """Backbone with the weights that --pretrain names."""
    if args.pretrain == "thumbnail":
        args.precision = "fp32"
        return Thumbnail()
    return open_backbone(args, args.pretrain)


def open_backbone(args, weights):
    """Backbone with the weights of a checkpoint, or random ones."""
    checkpoint = utils.open_weights(args, weights)
    net, width = utils.net_of(args, checkpoint, weights)
    utils.check_shapes(args, net)
    backbone = build_backbone(net, width)
    if checkpoint:
        utils.load_pretrained(backbone, checkpoint, weights)
    return backbone


def features_of_list(args, folder, part, videos, flag):
    """Saved features of a list, checked to be of this very list -> ((N, D), their protocol as text)"""
    values, labels, names, protocol = read_features(folder, part, flag)
    if names.tolist() != videos.names.tolist() or labels.tolist() != videos.labels.tolist():
        raise DataError(f"{flag}: {folder} is of another list than {args.dataset}'s {part} list of split {args.split}")
    return torch.from_numpy(values), protocol


def load_features(args, part, videos):
    """Features of a list, (N, D), checked to be of this very list; the flags take over their protocol."""
    values, protocol = features_of_list(args, args.load_features, part, videos, "--load_features")
    try:
        utils.take_protocol(args, protocol)
    except ValueError as error:
        raise DataError(f"--load_features: {Path(args.load_features) / 'protocol.json'} is damaged: write the features "
                        "again") from error
    return values


def main(argv):
    args = flags().parse_args(argv)
    device = utils.start(args)
    utils.check_data_flags(args)
    utils.positive(args, "clips")
    check_precision(args.precision, args.device)
    if (args.pretrain is None) == (args.load_features is None):
        raise UsageError("give --pretrain (weights) or --load_features (features made from them), one of them")
    if args.save_features and args.load_features:
        raise UsageError("--save_features has nothing to write with --load_features")
    if args.per_clip and not args.save_features:
        raise UsageError("--per_clip is what --save_features DIR writes: give both")
    lists = {part: open_list(args.dataset, part, args.split, args.storage) for part in ("train", "test")}
    utils.seed_everything(args.seed)
    backbone = build(args) if args.pretrain else None
    features = {part: load_features(args, part, videos) for part, videos in lists.items()} if args.load_features else {}
    if len({values.shape[1] for values in features.values()}) > 1:
        raise DataError(f"--load_features: the two lists' features in {args.load_features} differ in length")
    source = args.pretrain or args.load_features
    folder = utils.run_folder(args, "retrieval", f"{utils.weights_name(source)}_on_{args.dataset}")
    utils.print_plan("Retrieval", {
        "weights": source, "gallery": f"{args.dataset} split {args.split} train, {len(lists['train'])} videos",
        "queries": f"{args.dataset} split {args.split} test, {len(lists['test'])} videos",
        "features": f"pooled, mean of {args.clips} clips, {args.seq_len} frames at stride {args.ds}, {args.img_dim} px",
        "similarity": "cosine, each list centred by its own mean", "folder": folder})
    utils.check_folder(folder)
    if args.save_features:
        utils.check_folder(Path(args.save_features))
    if args.dry_run:
        return

    lock = take_lock(folder, "run folder") if rank() == 0 else None
    if backbone is not None:
        utils.place(args, backbone, backbone, lists.values(), device)
    clips = {}
    for part, videos in lists.items():
        if part in features:
            continue
        data = utils.clip_dataset(args, videos, EvenClips(args.seq_len, args.ds, args.clips), FixedCrops(args.img_dim))
        features[part] = utils.over_videos(lambda x: pooled(backbone, x), data, args, device, part, not args.per_clip)
        if args.per_clip:
            clips[part] = features[part].unflatten(1, (args.clips, -1))
            features[part] = clips[part].mean(dim=1)
    if rank() != 0:
        return
    if args.save_features:
        write_features(args.save_features, lists, features, clips, utils.protocol_of(args))
    ks = [k for k in KS if k <= len(lists["train"])]
    accuracy = topk_accuracy(features["test"], lists["test"].labels, features["train"], lists["train"].labels, ks)
    print("  ".join(f"R@{k} {value:.4f}" for k, value in accuracy.items())
          + "".join(f"  (no R@{k}: the gallery is smaller)" for k in KS[len(ks):]))
    write_json(folder / "results.json", {
        "results": {f"R@{k}": value for k, value in accuracy.items()}, "classes": len(lists["test"].classes),
        "gallery": len(lists["train"]), "queries": len(lists["test"]),
        "flags": plain(vars(args)), **versions()})
    print(f"written to {folder}")
    lock.close()


if __name__ == "__main__":
    run(main)

"""Nearest-neighbour retrieval: do the training videos closest to a test video show the same action?

    python retrieval.py --dataset ucf101 --pretrain log/dualvar/pretrain/<name>/model/backbone.pth.tar

Protocol of the publication: split 1, the pretrained weights as they are, ten clips of a video, pooled features
averaged over them; the features of each list centred by its own mean and L2-normalised, cosine similarity;
R@k: one of the k nearest training videos has the query's class.
Writes <log_dir>/<prefix>/retrieval/<name>/results.json.
"""
import core.lifeline  # noqa: F401  # before what takes seconds to import

# isort: split
from functools import partial
from pathlib import Path

import utils
from analysis.features import AGAIN, features_fingerprint, read_features_of, write_features
from analysis.floors import Thumbnail
from analysis.nearest import KS, topk_accuracy
from core.dist import rank
from core.errors import DataError, UsageError
from core.exits import crashes_go_to, run
from core.files import take_lock, write_json
from core.parser import new_parser
from core.versions import versions
from dataset.clips import VideoClips, open_reader
from dataset.crops import FixedCrops
from dataset.lists import open_list
from dataset.sampling import EvenClips
from engine import evaluation
from engine.flags import (
    WEIGHTS,
    add_data_flags,
    add_net_flags,
    add_precision_flag,
    add_run_flags,
    check_clips,
    check_network,
    complete_data_flags,
    frozen,
)
from engine.folders import check_folder, weights_name
from engine.log import plain_types
from engine.precision import check_precision, default_precision
from engine.setup import open_weights, seed_everything, start, take_clips
from models import build_backbone
from models.classifier import pooled
from models.weights.checkpoint import fingerprint

__all__ = ["flags", "main", "topk_accuracy"]

DS = 4  # the paper's stride


def flags():
    parser = new_parser("retrieval.py", __doc__)
    add_data_flags(parser, batch_size=4, batch_help="videos of a loader's batch", ds=DS)
    group = add_net_flags(parser, None, "backbone; None: what the checkpoint says", width=None)
    group.add_argument("--pretrain", metavar="WEIGHTS|random|thumbnail",
                       help=f"the backbone's weights: {WEIGHTS}; or the word random, or thumbnail: each clip's mean "
                            "picture and no network")
    group = parser.add_argument_group("protocol")
    group.add_argument("--clips", type=int, default=10, help="clips of a video, evenly spaced in time")
    group.add_argument("--save_features", metavar="DIR", help="write <part>_features.npy, _labels.npy, _names.txt")
    group.add_argument("--per_clip", action="store_true",
                       help="with --save_features: each clip's features too, <part>_clips.npy, for pictures of them")
    group.add_argument("--load_features", metavar="DIR", help="use features that --save_features wrote")
    add_precision_flag(parser)
    add_run_flags(parser, training=False)
    return parser


def check_sources(args):
    if (args.pretrain is None) == (args.load_features is None):
        raise UsageError("give --pretrain (weights) or --load_features (features made from them), one of them")
    if args.save_features and args.load_features:
        raise UsageError("--save_features has nothing to write with --load_features")
    if args.per_clip and not args.save_features:
        raise UsageError("--per_clip is what --save_features DIR writes: give both")


def check(args):
    check_clips(args)
    check_precision(args.precision, args.device)


def load_features(folder, lists, protocol, dataset, split):
    """Saved features of both lists, {part: (N, D)}, checked to be of these very lists, and their protocol."""
    features = {}
    for part, videos in lists.items():
        features[part], text = read_features_of(folder, part, videos, "--load_features", dataset, split)
        protocol = protocol.from_json(text, f"--load_features: {Path(folder) / 'protocol.json'}", AGAIN)
    if len({values.shape[1] for values in features.values()}) > 1:
        raise DataError(f"--load_features: the two lists' features in {folder} differ in length")
    return features, protocol


def extract(args, backbone, lists, device):
    """Pooled features of both lists -> ({part: (N, D) mean over clips}, {part: (N, clips, D)} or {}, precision)"""
    precision = "fp32" if isinstance(backbone, Thumbnail) else default_precision(args.precision, device)
    backbone, precision = evaluation.prepare_network(
        backbone, backbone, lists.values(), device, precision=precision, batch_size=args.batch_size, clips=args.clips,
        seq_len=args.seq_len, img_dim=args.img_dim)
    features, clips = {}, {}
    for part, videos in lists.items():
        data = VideoClips(videos, open_reader(args.dataset, args.storage, args.resize),
                          EvenClips(args.seq_len, args.ds, args.clips), FixedCrops(args.img_dim))
        loader = evaluation.eval_loader(data, device, batch_size=args.batch_size, workers=args.workers,
                                        timeout=args.loader_timeout)
        features[part] = evaluation.over_videos(lambda x: pooled(backbone, x), loader, len(data), device, part,
                                                average=not args.per_clip)
        if args.per_clip:
            clips[part] = features[part].unflatten(1, (args.clips, -1))
            features[part] = clips[part].mean(dim=1)
    return features, clips, precision


def main(argv):
    args = flags().parse_args(argv)
    device = start(args.device, args.loader_timeout, args.dry_run)
    check_sources(args)
    source, opened = args.pretrain or args.load_features, None
    if args.pretrain and args.pretrain != "thumbnail":
        opened = open_weights(args.pretrain, args.net, args.width, args.dry_run)
    take_clips(args, [opened] if opened else [], DS)
    complete_data_flags(args, device)
    check(args)
    args = frozen(args)
    lists = {part: open_list(args.dataset, part, args.split, args.storage, args.fps) for part in ("train", "test")}
    protocol = evaluation.ClipFlags(args.seq_len, args.ds, args.img_dim, args.resize, args.clips, fps=args.fps)
    seed_everything(args.seed)
    weights = None
    if args.load_features:
        features, protocol = load_features(args.load_features, lists, protocol, args.dataset, args.split)
    elif opened is None:
        backbone = Thumbnail()
    else:
        check_network(args, partial(build_backbone, opened.net, opened.width))
        backbone = opened.backbone(args.seq_len, args.img_dim)
        weights = fingerprint(backbone.state_dict(), backbone.protocol)
    name = args.name or f"{weights_name(source)}_on_{args.dataset}"
    folder = utils.run_folder(args.log_dir, args.prefix, "retrieval", name)
    utils.print_plan("Retrieval", {
        "weights": source, "gallery": f"{args.dataset} split {args.split} train, {len(lists['train'])} videos",
        "queries": f"{args.dataset} split {args.split} test, {len(lists['test'])} videos",
        "features": f"pooled, mean of {protocol.clips} clips, {protocol.seq_len} frames at {protocol.spacing}, "
                    f"{protocol.img_dim} px",
        "similarity": "cosine, each list centred by its own mean", "folder": folder})
    check_folder(folder)
    if args.save_features:
        check_folder(Path(args.save_features))
    if args.dry_run:
        return

    lock = take_lock(folder, "run folder") if rank() == 0 else None
    crashes_go_to(folder)
    clips, precision, saved = {}, args.precision, None
    if not args.load_features:
        features, clips, precision = extract(args, backbone, lists, device)
    if rank() != 0:
        return
    if args.save_features:
        write_features(args.save_features, lists, features, clips, protocol.to_json())
        saved = features_fingerprint(args.save_features)
    ks = [k for k in KS if k <= len(lists["train"])]
    accuracy = topk_accuracy(features["test"], lists["test"].labels, features["train"], lists["train"].labels, ks)
    print("  ".join(f"R@{k} {value:.4f}" for k, value in accuracy.items())
          + "".join(f"  (no R@{k}: the gallery is smaller)" for k in KS[len(ks):]))
    write_json(folder / "results.json", {
        "results": {f"R@{k}": value for k, value in accuracy.items()}, "classes": len(lists["test"].classes),
        "gallery": len(lists["train"]), "queries": len(lists["test"]), "weights": weights, "features": saved,
        "flags": {**plain_types(vars(args)), **protocol.values(), "precision": precision}, **versions()})
    print(f"written to {folder}")
    lock.close()


if __name__ == "__main__":
    run(main, memory="--precision bf16 or a smaller --batch_size")

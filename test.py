"""Ten-clip test of a fine-tuned or linear-probe classifier.

    python test.py --dataset ucf101 --checkpoint log/dualvar/ft/<name>/model/latest.pth.tar
    python test.py --dataset ucf101 --split all --checkpoint 'log/dualvar/ft/<name>_split{split}/model/latest.pth.tar'

Class probabilities are averaged over ten clips, evenly spaced in time, and over the spatial crops. Writes
<log_dir>/<prefix>/test/<name>/: results.json, and for each split in split<NN>/ predictions.npz (names, labels,
probabilities), classes.csv, confusion.csv and confusion.png.
"""
import core.lifeline  # noqa: F401  # before what takes seconds to import

# isort: split
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import utils
from core.dist import rank
from core.errors import CheckpointError, DataError, UsageError
from core.exits import crashes_go_to, run
from core.files import take_lock, whole_file, write_json
from core.inputs import fault, read_npz
from core.names import cell, shown
from core.parser import new_parser
from core.versions import versions
from dataset.clips import VideoClips, open_reader
from dataset.crops import FixedCrops
from dataset.lists import local_dataset, open_list
from dataset.sampling import EvenClips
from engine import evaluation
from engine.flags import (
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
from engine.setup import check_shapes, note_partial, open_weights, start, take_clips
from models import build_backbone, build_classifier
from models.classifier import topk
from models.weights import torchvision_zoo
from models.weights.checkpoint import fingerprint
from models.weights.loading import load_classifier
from models.weights.origins import LACKS, config_of

# arguments of a classifier, as its checkpoint keeps them
CONFIG = {"net": str, "num_classes": int, "width": float, "dropout": float, "final_bn": bool, "l2_norm": bool,
          "train_what": str}
LAYERS = ("fc.", "final_fc.")  # how names of a classifier's layers begin, ours or the release's
INPUTS = {"inputs": {str: str}}
TEST_AGAIN = "test again"
PREDICTIONS = {"names": ("U", 1), "labels": ("i8", 1), "classes": ("U", 1), "protocol": ("U", 0),
               "probabilities": ("f4", 2)}  # of predictions.npz, as read_npz takes them
DS = 2  # the paper's stride


def split_or_all(text):
    return text if text == "all" else int(text)


def flags():
    parser = new_parser("test.py", __doc__)
    add_data_flags(parser, batch_size=4, batch_help="videos of a loader's batch", split_type=split_or_all, ds=DS)
    group = add_net_flags(parser, None, "backbone; None: what the checkpoint says", width=None)
    group.add_argument("--checkpoint", metavar="PATH", help="classifier to test, also a folder or hf:owner/name "
                       "with its heads; {split} stands for the split's number")
    group = parser.add_argument_group("protocol")
    group.add_argument("--clips", type=int, default=10, help="clips of a video, evenly spaced in time")
    group.add_argument("--crops", type=int, choices=[1, 5, 10], default=1,
                       help="centre; with the four corners; with all of them mirrored")
    group.add_argument("--from_predictions", metavar="DIR", help="folder of an earlier test: reuse its probabilities")
    add_precision_flag(parser)
    add_run_flags(parser, training=False)
    return parser


def check_sources(args, splits):
    if (args.checkpoint is None) == (args.from_predictions is None):
        raise UsageError("give --checkpoint (a classifier) or --from_predictions (its probabilities), one")
    if args.checkpoint == "random":
        raise UsageError("--checkpoint random: such a classifier is at chance; name one that finetune.py trained")
    if (args.checkpoint or "").startswith(torchvision_zoo.PREFIX):
        raise UsageError(f"--checkpoint {shown(args.checkpoint)}: the classes of torchvision's weights are not those "
                         "of a data set here; fine-tune them first")
    if args.checkpoint and len(splits) > 1 and "{split}" not in args.checkpoint:
        raise UsageError("--split all: each split has its own classifier, so --checkpoint must hold {split}, "
                               "which stands for the split's number")


def check(args):
    check_clips(args, args.crops)
    check_precision(args.precision, args.device)


def open_classifier(args, split):
    """The checkpoint of a split, whose config is that of a classifier."""
    path = args.checkpoint.replace("{split}", str(split))
    opened = open_weights(path, args.net, args.width, args.dry_run)
    config = config_of(opened.checkpoint) if opened.checkpoint else {}
    if wrong := fault(config, {str: object}, "its config") or fault(
            config, {name: kind for name, kind in CONFIG.items() if name in config}):
        raise CheckpointError(f"checkpoint {path}: its config is not of this program ({wrong})")
    if opened.checkpoint and "num_classes" not in config and (
            config or not any(name.startswith(LAYERS) for name in opened.checkpoint["state_dict"])):
        raise CheckpointError(f"checkpoint {path} has no classes: fine-tune it first, or if it is fine-tuned save it "
                              "with --heads")
    return opened


def load(args, opened, num_classes):
    """The classifier of a split, built as its checkpoint says and loaded strictly -> (it, which weights it has)"""
    path, checkpoint, net, width = opened.path, opened.checkpoint, opened.net, opened.width
    config = config_of(checkpoint) if checkpoint else {}
    check_shapes(net, args.seq_len, args.img_dim)
    if config.get("num_classes", num_classes) != num_classes:
        raise CheckpointError(f"checkpoint {path} has {config['num_classes']} classes, {args.dataset} {num_classes}")
    try:
        check_network(args, lambda: build_backbone(net, width))
        model = build_classifier(**{**{name: value for name, value in config.items() if name not in LACKS},
                                    "net": net, "width": width, "num_classes": num_classes})
    except UsageError:
        raise
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"checkpoint {path}: its config is not of this program ({shown(error)})") from error
    if checkpoint:
        load_classifier(model, checkpoint, path)
        note_partial(checkpoint, path)
        utils.note_unfinished(checkpoint, path)
    before = checkpoint["inputs"].get("pretrained weights") if checkpoint and not fault(checkpoint, INPUTS) else None
    return model, {"weights": fingerprint(model.state_dict(), model.backbone.protocol), "pretrained": before,
                   "train_what": config.get("train_what")}


def predict(args, model, videos, split, device, precision):
    """-> ((N, classes) mean class probabilities of every test video, the precision chosen)"""
    model, precision = evaluation.prepare_network(
        model, model.backbone, [videos], device, precision=precision, batch_size=args.batch_size,
        clips=args.clips * args.crops, seq_len=args.seq_len, img_dim=args.img_dim)
    data = VideoClips(videos, open_reader(args.dataset, args.storage, args.resize),
                      EvenClips(args.seq_len, args.ds, args.clips), FixedCrops(args.img_dim, args.crops))
    loader = evaluation.eval_loader(data, device, batch_size=args.batch_size, workers=args.workers,
                                    timeout=args.loader_timeout)
    return evaluation.over_videos(lambda clips: model(clips).softmax(dim=1), loader, len(data), device,
                                  f"split {split}"), precision


def saved_predictions(folder, videos, split, protocol):
    """Probabilities that an earlier test of the same list wrote, (N, classes), and their protocol."""
    path = Path(folder) / f"split{split:02d}" / "predictions.npz"
    if not path.is_file():
        raise DataError(f"--from_predictions: {path} does not exist")
    try:
        names, labels, classes, text, probabilities = read_npz(path, PREDICTIONS, TEST_AGAIN).values()
        protocol = protocol.from_json(str(text), str(path), TEST_AGAIN)
    except DataError as error:
        raise DataError(f"--from_predictions: {error}") from error
    same = all(np.array_equal(a, b) for a, b in ((names, videos.names), (labels, videos.labels),
                                                  (classes, videos.classes)))
    if not same or probabilities.shape != (len(videos), len(videos.classes)):
        raise DataError(f"--from_predictions: {path} is of another list than split {split} of this data set")
    return torch.from_numpy(probabilities), protocol


def report(folder, videos, probabilities, protocol):
    """Write a split's files -> {top1, top5, mean_class, videos}. protocol: as JSON."""
    labels = torch.from_numpy(videos.labels)
    accuracy = {name: value.item() for name, value in topk(probabilities, labels).items()}
    classes, predicted = len(videos.classes), probabilities.argmax(dim=1)
    confusion = torch.bincount(labels * classes + predicted, minlength=classes**2).view(classes, classes).numpy()
    count = confusion.sum(axis=1)
    per_class = np.divide(confusion.diagonal(), count, out=np.full(classes, np.nan), where=count > 0)
    accuracy.update(mean_class=float(np.nanmean(per_class)), videos=len(videos))
    with whole_file(folder / "predictions.npz") as path, open(path, "wb") as file:
        np.savez(file, names=videos.names, labels=videos.labels, classes=videos.classes, protocol=protocol,
                 probabilities=probabilities.numpy())
    names = [cell(name) for name in videos.classes]
    table = pd.DataFrame({"class": names, "videos": count, "correct": confusion.diagonal(), "accuracy": per_class})
    with whole_file(folder / "classes.csv") as path:
        table.to_csv(path, index=False)
    with whole_file(folder / "confusion.csv") as path:
        pd.DataFrame(confusion, names, names).to_csv(path, index_label="true \\ predicted")
    return accuracy


def draw(folder):
    """Draw confusion.png of a split's folder."""
    from analysis import figures, run_pictures  # matplotlib takes a second to import
    figures.save(run_pictures.confusion(folder), folder / "confusion", ["png"])


def main(argv):
    args = flags().parse_args(argv)
    device = start(args.device, args.loader_timeout, args.dry_run)
    splits = range(1, local_dataset(args.dataset).splits + 1) if args.split == "all" else [args.split]
    check_sources(args, splits)
    opened = {split: open_classifier(args, split) for split in splits} if args.checkpoint else {}
    take_clips(args, list(opened.values()), DS)
    complete_data_flags(args, device)
    check(args)
    args = frozen(args)
    lists = {split: open_list(args.dataset, "test", split, args.storage, args.fps) for split in splits}
    protocol = evaluation.ClipFlags(args.seq_len, args.ds, args.img_dim, args.resize, args.clips, args.crops, args.fps)
    saved, models, weights = {}, {}, {}
    for split, videos in lists.items():
        if args.from_predictions:
            saved[split], protocol = saved_predictions(args.from_predictions, videos, split, protocol)
        else:
            models[split], weights[f"split{split:02d}"] = load(args, opened[split], len(videos.classes))
    name = weights_name(args.checkpoint or args.from_predictions).replace("{split}", "N")
    folder = utils.run_folder(args.log_dir, args.prefix, "test", args.name or f"{name}_on_{args.dataset}")
    utils.print_plan("Test", {
        "classifier": args.checkpoint or f"probabilities of {args.from_predictions}",
        "data": ", ".join(f"{args.dataset} split {split}, {len(videos)} videos" for split, videos in lists.items()),
        "protocol": f"{protocol.clips} clips x {protocol.crops} crops of {protocol.seq_len} frames at "
                    f"{protocol.spacing}, {protocol.img_dim} px",
        "folder": folder})
    check_folder(folder)
    if args.dry_run:
        return
    lock = take_lock(folder, "run folder") if rank() == 0 else None
    crashes_go_to(folder)
    results, precision = {}, default_precision(args.precision, device)
    for split, videos in lists.items():
        if saved:
            probabilities = saved[split]
        else:
            probabilities, precision = predict(args, models[split], videos, split, device, precision)
        if rank() == 0:
            results[f"split{split:02d}"] = report(folder / f"split{split:02d}", videos, probabilities,
                                                  protocol.to_json())
    if rank() != 0:
        return
    if len(results) > 1:
        names = next(iter(results.values()))
        results["mean"] = {name: float(np.mean([row[name] for row in results.values()])) for name in names}
    print(pd.DataFrame(results).T.to_string(float_format="{:.4f}".format))
    write_json(folder / "results.json", {
        "results": results, "classes": len(next(iter(lists.values())).classes), "weights": weights,
        "flags": {**plain_types(vars(args)), **protocol.values(), "precision": precision}, **versions()})
    print(f"written to {folder}")
    for split in lists:  # at the end: no result is lost where a picture fails
        draw(folder / f"split{split:02d}")
    lock.close()


if __name__ == "__main__":
    run(main, memory="--precision bf16 or a smaller --batch_size")

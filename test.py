"""Ten-clip test of a fine-tuned or linear-probe classifier.

    python test.py --dataset ucf101 --checkpoint log/dualvar/ft/<name>/model/latest.pth.tar
    python test.py --dataset ucf101 --split all --checkpoint 'log/dualvar/ft/<name>_split{split}/model/latest.pth.tar'

Class probabilities are averaged over ten clips, evenly spaced in time, and over the spatial crops. Writes
<log_dir>/<prefix>/test/<name>/: results.json, and for each split in split<NN>/ predictions.npz (names, labels,
probabilities), classes.csv, confusion.csv and confusion.png.
"""
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import utils
from core.dist import rank
from core.errors import CheckpointError, DataError, UsageError
from core.exits import run
from core.files import take_lock, whole_file, write_json
from dataset.crops import FixedCrops
from dataset.lists import local_dataset, open_list
from dataset.sampling import EvenClips
from engine.log import plain, versions
from engine.precision import check_precision
from models import build_classifier
from models.classifier import topk
from models.pretrained import load_classifier


def split_or_all(text):
    return text if text == "all" else int(text)


def flags():
    parser = utils.new_parser("test.py", __doc__)
    utils.add_data_flags(parser, ds=2, batch_size=4, batch_help="videos of a loader's batch",
                         split_type=split_or_all)
    group = utils.add_net_flags(parser, None, "backbone; None: what the checkpoint says", width=None)
    group.add_argument("--checkpoint", metavar="PATH", help="classifier to test; {split} stands for the split's number")
    group = parser.add_argument_group("protocol")
    group.add_argument("--clips", type=int, default=10, help="clips of a video, evenly spaced in time")
    group.add_argument("--crops", type=int, choices=[1, 5, 10], default=1,
                       help="centre; with the four corners; with all of them mirrored")
    group.add_argument("--from_predictions", metavar="DIR", help="folder of an earlier test: reuse its probabilities")
    utils.add_precision_flag(parser)
    utils.add_run_flags(parser, training=False)
    return parser


def check(args, splits):
    utils.positive(args, "clips")
    check_precision(args.precision, args.device)
    if (args.checkpoint is None) == (args.from_predictions is None):
        raise UsageError("give --checkpoint (a classifier) or --from_predictions (its probabilities), one")
    if args.checkpoint and len(splits) > 1 and "{split}" not in args.checkpoint:
        raise UsageError("--split all: each split has its own classifier, so --checkpoint must hold {split}, "
                               "which stands for the split's number")


def load(args, split, num_classes):
    """The classifier of a split, built as its checkpoint says and loaded strictly."""
    path = args.checkpoint.replace("{split}", str(split))
    checkpoint = utils.open_weights(args, path)
    config = checkpoint["config"] if checkpoint else {}
    if config and "num_classes" not in config:
        raise CheckpointError(f"checkpoint {path} is of pretraining and has no classes: fine-tune it first")
    net, width = utils.net_of(args, checkpoint, path)
    utils.check_shapes(args, net)
    if config.get("num_classes", num_classes) != num_classes:
        raise CheckpointError(f"checkpoint {path} has {config['num_classes']} classes, {args.dataset} {num_classes}")
    try:
        model = build_classifier(**{**config, "net": net, "width": width, "num_classes": num_classes})
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"checkpoint {path}: its config is not of this program ({error})") from error
    if checkpoint:
        load_classifier(model, checkpoint, path)
        utils.note_unfinished(checkpoint, path)
    return model


def predict(args, model, videos, split, device):
    """(N, classes) mean class probabilities of every test video."""
    model = utils.place(args, model, model.backbone, [videos], device)
    data = utils.clip_dataset(args, videos, EvenClips(args.seq_len, args.ds, args.clips),
                              FixedCrops(args.img_dim, args.crops))
    return utils.over_videos(lambda clips: model(clips).softmax(dim=1), data, args, device, f"split {split}")


def saved_predictions(args, videos, split):
    """Probabilities that an earlier test of the same list wrote; the flags take over its protocol."""
    path = Path(args.from_predictions) / f"split{split:02d}" / "predictions.npz"
    if not path.is_file():
        raise DataError(f"--from_predictions: {path} does not exist")
    try:
        with np.load(path, allow_pickle=False) as file:
            saved = dict(file)
        names, labels, classes, probabilities = (saved[x] for x in ("names", "labels", "classes", "probabilities"))
        utils.take_protocol(args, str(saved["protocol"]))
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"--from_predictions: {path} is damaged: test again") from error
    same = all(np.array_equal(a, b) for a, b in ((names, videos.names), (labels, videos.labels),
                                                  (classes, videos.classes)))
    if not same or probabilities.shape != (len(videos), len(videos.classes)) or not np.isfinite(probabilities).all():
        raise DataError(f"--from_predictions: {path} is of another list than split {split} of this data set")
    return torch.from_numpy(probabilities)


def report(folder, videos, probabilities, protocol):
    """Write a split's files -> {top1, top5, mean_class, videos}."""
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
    table = pd.DataFrame({"class": videos.classes, "videos": count, "correct": confusion.diagonal(),
                          "accuracy": per_class})
    with whole_file(folder / "classes.csv") as path:
        table.to_csv(path, index=False)
    with whole_file(folder / "confusion.csv") as path:
        pd.DataFrame(confusion, videos.classes, videos.classes).to_csv(path, index_label="true \\ predicted")
    from analysis import figures
    figures.save(figures.confusion(confusion / np.maximum(count, 1)[:, None], videos.classes), folder / "confusion",
                  ["png"])
    return accuracy


def main(argv):
    args = flags().parse_args(argv)
    device = utils.start(args)
    utils.check_data_flags(args)
    splits = range(1, local_dataset(args.dataset).splits + 1) if args.split == "all" else [args.split]
    check(args, splits)
    lists = {split: open_list(args.dataset, "test", split, args.storage) for split in splits}
    saved, models = {}, {}
    for split, videos in lists.items():
        if args.from_predictions:
            saved[split] = saved_predictions(args, videos, split)
        else:
            models[split] = load(args, split, len(videos.classes))
    name = utils.weights_name(args.checkpoint or args.from_predictions).replace("{split}", "N")
    folder = utils.run_folder(args, "test", f"{name}_on_{args.dataset}")
    utils.print_plan("Test", {
        "classifier": args.checkpoint or f"probabilities of {args.from_predictions}",
        "data": ", ".join(f"{args.dataset} split {split}, {len(videos)} videos" for split, videos in lists.items()),
        "protocol": f"{args.clips} clips x {args.crops} crops of {args.seq_len} frames at stride {args.ds}, "
                    f"{args.img_dim} px",
        "folder": folder})
    utils.check_folder(folder)
    if args.dry_run:
        return
    lock = take_lock(folder, "run folder") if rank() == 0 else None
    results = {}
    for split, videos in lists.items():
        probabilities = saved[split] if saved else predict(args, models[split], videos, split, device)
        if rank() == 0:
            results[f"split{split:02d}"] = report(folder / f"split{split:02d}", videos, probabilities,
                                                  utils.protocol_of(args))
    if rank() != 0:
        return
    if len(results) > 1:
        names = next(iter(results.values()))
        results["mean"] = {name: float(np.mean([row[name] for row in results.values()])) for name in names}
    print(pd.DataFrame(results).T.to_string(float_format="{:.4f}".format))
    write_json(folder / "results.json", {"results": results, "classes": len(next(iter(lists.values())).classes),
                                         "flags": plain(vars(args)), **versions()})
    print(f"written to {folder}")
    lock.close()


if __name__ == "__main__":
    run(main)

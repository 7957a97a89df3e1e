"""A network as a file that runs without this project, kept where it gives the network's own features on real clips.

    python -m models.weights export DIR --to onnx --dataset ucf101

DIR: a folder that `save` wrote. Writes DIR/<form>/: the file and preprocess.py, which makes its clips; and what was
found to DIR/config.json and the card. A file is loaded again from the disk, and is nowhere unless it agrees: in float32
within 1e-5 of the largest value of a feature; in 8 bits every clip's cosine 0.99 or more, and R@1 within 2 points.
"""
import argparse
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from core.errors import CheckpointError, RunError, UsageError
from core.files import whole_files
from core.imports import first_line
from core.inputs import COUNT, fault, hash_of, read_text
from core.names import markdown, shown
from core.versions import machine, versions
from dataset.loader import default_workers
from dataset.storage import SOURCES
from engine.flags import MOST_WORKERS, at_most, check_memory, not_negative, positive
from engine.memory import forward_peak
from engine.setup import feature_map, start
from models.backbones.base import Backbone
from models.protocol import LARGEST, LONGEST, Protocol
from models.weights import export as exporter
from models.weights.share import CARD, CONFIG, file_of, from_pretrained, read_config

from .export_trial import SIZES, RealClips, Trial, page_error

TRIED = 4  # test videos whose clips are compared
MOST_BATCH = 1024
TITLE = "Exported files"
ENTRY = {"frames": str, "size": str, "batch": str, "bytes": COUNT, "agreement": str, "dataset": str,
         "split": COUNT, "videos": COUNT, "clips": COUNT, "ms": float, "ms_network": float, "machine": str,
         "threads": COUNT, "preprocessing": (None, float)}  # of config.json, what the card is made of
AGAIN = "write the folder again with python -m models.weights save"


def add_flags(commands: Any) -> None:
    """The command, among the others of python -m models.weights."""
    parser = commands.add_parser("export", help="write the network of a folder as a file that runs without this "
                                                "project, if it gives the same features")
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder that `save` wrote")
    parser.add_argument("--to", choices=list(exporter.FILES), required=True,
                        help="a program of torch.export; ONNX in float32; or ONNX in 8 bits, fitted to training clips")
    parser.add_argument("--batch", type=batch_size, default="dynamic", metavar="dynamic|N",
                        help="clips that the file takes at a time: any number, or N (default: dynamic)")
    parser.add_argument("--frames", type=int, metavar="T", help="frames of a clip; default: as the folder says")
    parser.add_argument("--size", type=int, metavar="S", help="side of a clip, pixels; default: as the folder says")
    parser.add_argument("--dataset", required=True, help="whose clips it is tried on, a name in "
                                                         "dataset/local_dataset.py")
    parser.add_argument("--split", type=int, default=1, help="number of the train/test split (default: 1)")
    parser.add_argument("--storage", choices=list(SOURCES), default="frames", help="of the clips (default: frames)")
    parser.add_argument("--clips", type=int, default=10, help="clips of a video (default: 10, as retrieval.py)")
    parser.add_argument("--videos", type=int, metavar="N",
                        help=f"of each list, evenly spread; default: {TRIED} of the test list in float32, and in 8 "
                             "bits all of both lists, for R@1")
    parser.add_argument("--workers", type=int, default=default_workers(), help="loader processes")
    parser.set_defaults(does=export)


def batch_size(text: str) -> int | None:
    if text == "dynamic":
        return None
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MOST_BATCH:
        raise argparse.ArgumentTypeError(f"{shown(text)} is neither dynamic nor a number from 1 to {MOST_BATCH}")
    return int(text)


# --- the command ---------------------------------------------------------------------------------------------

def protocol_of(args: argparse.Namespace, network: Backbone, net: str) -> Protocol:
    """The clips that the file will take, by the flags.

    Raises UsageError where the network, called `net`, cannot take such clips, or this machine has no memory for them.
    """
    own = network.protocol
    for name, most in (("frames", LONGEST), ("size", LARGEST)):
        if getattr(args, name) is not None and not 1 <= getattr(args, name) < most:
            raise UsageError(f"--{name} {shown(getattr(args, name))} is not a number from 1 to {most - 1}")
    frames, size = args.frames or own.seq_len, args.size or own.img_dim
    try:
        feature_map(net, frames, size)
    except RuntimeError as error:
        raise UsageError(f"{net} cannot take clips of --frames {frames} and --size {size}: "
                         f"{first_line(error)}") from error
    clips = max(args.batch or max(SIZES), args.clips)
    check_memory(forward_peak(network, (clips, 3, frames, size, size)),
                 f"{clips} clips of {frames} frames of {size} px in {net}")
    if note := network.size_note(frames, size):
        print(f"note: {net} with clips of --frames {frames} --size {size}: {note}")
    return own.of_clips(frames, own.ds, size, own.frame_size_for(size), own.fps)


@contextmanager
def kept_where_whole(folder: Path, form: str) -> Iterator[dict[str, Path]]:
    """Where to write the four files of an export to, which are in their places when all went well, and else nowhere.
    """
    place = folder / form
    if place.is_symlink():
        raise CheckpointError(f"{place} is a link, and may lead anywhere: remove it")
    paths = [place / exporter.FILES[form], place / exporter.PAGE.name, folder / CONFIG, folder / CARD]
    try:
        with whole_files(paths) as temporary:
            yield dict(zip(("file", "page", "config", "card"), temporary, strict=True))
    finally:
        if place.is_dir() and not any(place.iterdir()):
            place.rmdir()


def fitted(trial: Trial, program: torch.export.ExportedProgram, path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    """Write a file in 8 bits that agrees -> what it keeps of the features. Raises RunError where none does."""
    whole, reasons = exporter.onnx_bytes(program, {}), []
    for name, operations in exporter.RECIPES.items():
        calibration = trial.real.calibration(trial.batch or 1)
        path.write_bytes(exporter.int8_bytes(whole, calibration, {**metadata, "in_8_bits": name}, operations))
        found, wrong = trial.of_int8(exporter.opened(path, "int8"))
        if wrong is None:
            return {"in_8_bits": name, **found}
        reasons.append(f"with {name} in 8 bits {wrong}")
        print(reasons[-1])
    raise RunError(f"no file of this network in 8 bits agrees with it: {'; '.join(reasons)}: nothing is kept, --to "
                   "onnx is in float32")


def export(args: argparse.Namespace) -> None:
    if not args.folder.is_dir():
        raise CheckpointError(f"{args.folder} is no folder: name one that python -m models.weights save wrote")
    exporter.check_packages(args.to)
    positive(args, "clips", "split", *["videos"] * (args.videos is not None))
    not_negative(args, "workers")
    at_most(args, "workers", MOST_WORKERS)
    start("cpu")
    config = read_config(args.folder)
    before = config.get("exports", {})
    wrong = fault(before, {str: ENTRY}, "exports") or next(
        (f"exports has {shown(name)}" for name in before if name not in exporter.FILES), None)
    if wrong:
        raise CheckpointError(f"{args.folder / CONFIG} is damaged ({wrong}): {AGAIN}")
    read_text(file_of(args.folder, CARD), AGAIN)  # it must be there, before anything takes long
    network = from_pretrained(args.folder)
    assert isinstance(network, Backbone)
    protocol = protocol_of(args, network, config["network"])
    real = RealClips(args.dataset, args.split, args.storage, protocol, args.clips, args.videos, args.workers)
    trial = Trial(network, real, args.batch, TRIED if args.to == "int8" else args.videos or TRIED)
    if args.to == "int8":
        real.listed("train")  # it must be there, before anything takes long
    metadata = exporter.metadata_of(config["network"], config["width"], config["sha256"], protocol, args.batch,
                                    args.to)
    if args.to in before:
        print(f"note: {args.to}/{exporter.FILES[args.to]} of {clips_text(before[args.to])} is replaced, if the new one "
              "agrees")
    print(f"writing {args.to}/{exporter.FILES[args.to]}: seconds for a small network, many minutes for a large one"
          + (", as all clips of both lists pass the network and the file" if args.to == "int8" and not args.videos
             else ""), flush=True)
    program = exporter.traced(network, protocol.seq_len, protocol.img_dim, args.batch)
    with kept_where_whole(args.folder, args.to) as paths:
        paths["page"].write_text(exporter.page(protocol), encoding="utf-8")
        of_page = page_error(paths["page"], trial)
        if args.to == "int8":
            agreement = fitted(trial, program, paths["file"], metadata)
        else:
            write = exporter.program_bytes if args.to == "torch-export" else exporter.onnx_bytes
            paths["file"].write_bytes(write(program, metadata))
            agreement = trial.of_float(exporter.opened(paths["file"], args.to))
        found = {
            "bytes": paths["file"].stat().st_size,
            **{name: hash_of(paths[file], hashlib.sha256(), most=2**40)
               for name, file in (("sha256", "file"), ("page_sha256", "page"))}, **metadata,
            "dataset": args.dataset, "split": args.split, "clips": args.clips, "videos": len(trial.tried),
            "batches": list(trial.sizes), **agreement, "agreement": agreement_of(agreement),
            **trial.times(exporter.opened(paths["file"], args.to)),
            "preprocessing": of_page, "machine": machine(),
            "threads": torch.get_num_threads(),
            "versions": {name: versions()[name] for name in ("commit", "python", "torch")}}
        now = read_config(args.folder)  # another export may have ended meanwhile
        if now["sha256"] != config["sha256"]:
            raise CheckpointError(f"{args.folder} has other weights than when this export began: {AGAIN}")
        exports = {**now.get("exports", {}), args.to: found}
        paths["config"].write_text(json.dumps({**now, "exports": exports}, indent=1) + "\n", encoding="utf-8")
        card = read_text(file_of(args.folder, CARD), AGAIN)
        paths["card"].write_text(with_section(card, section(exports)), encoding="utf-8")
    print("\n".join(sentences(found)))
    print(f"written to {args.folder / args.to}: {exporter.FILES[args.to]}, {exporter.PAGE.name}; {CONFIG} and {CARD} "
          "say so too")


# --- said ----------------------------------------------------------------------------------------------------

def agreement_of(found: Mapping[str, Any]) -> str:
    """What a file keeps of the network's features, as text."""
    if "relative_error" in found:
        error = found["relative_error"]
        return "its features bit for bit" if error == 0 else f"within {error:.1e} of the largest value of a feature"
    return (f"cosine {found['cosine']:.4f} or more ({found['cosine_centred']:.3f} less the mean feature), R@1 "
            f"{found['r1']:.3f} where float32 has {found['r1_float32']:.3f}, {found['in_8_bits']} in 8 bits")


def clips_text(found: Mapping[str, Any]) -> str:
    return markdown(f"{found['frames']} x {found['size']} x {found['size']}, batch {found['batch']}")


def page_text(found: Mapping[str, Any]) -> str:
    error = found["preprocessing"]
    return ("not compared, as it does not read packed videos" if error is None else "those of our loader bit for bit"
            if error == 0 else f"within {error:.2g} of those of our loader, as its JPEG decoder has a scale more")


def tried_on(found: Mapping[str, Any]) -> str:
    """The videos whose clips a file was compared on."""
    searched = {"gallery", "queries"} <= found.keys()
    what = f"{found['gallery']} training and {found['queries']}" if searched else f"{found['videos']}"
    return f"{what} test videos of {found['dataset']} split {found['split']}, {found['clips']} clips each"


def sentences(found: Mapping[str, Any]) -> list[str]:
    return [f"{found['network']} x {found['width']} as {found['form']}: clips {clips_text(found)}",
            f"  agreement    {found['agreement']}; {tried_on(found)}, in batches of "
            f"{', '.join(map(str, found['batches']))}",
            f"  size         {found['bytes'] / 1e6:.1f} MB",
            f"  time         {found['ms']:.1f} ms a clip, {found['cpu_ms']:.1f} of the processor's; the network by "
            f"torch {found['ms_network']:.1f}, {found['cpu_ms_network']:.1f} ({found['threads']} threads, batches of "
            f"{min(found['batches'])})",
            f"  clips        of preprocess.py: {page_text(found)}"]


def section(exports: Mapping[str, Mapping[str, Any]]) -> str:
    """The part of the card about exported files."""
    lines = [f"## {TITLE}", "",
             "These run without the project: `preprocess.py` beside each makes its clips of a video, and needs numpy "
             "and opencv-python alone. Clips are `(B, 3, T, H, W)` float32, their features `(B, D)`. Each file was "
             "loaded from the disk and compared with the network itself on real clips.", "",
             "| file | clips | MB | agreement | tried on | ms a clip | ms by torch |",
             "|---|---|---:|---|---|---:|---:|"]
    for name, one in exports.items():
        lines.append(f"| `{name}/{exporter.FILES[name]}` | {clips_text(one)} | {one['bytes'] / 1e6:.1f} | "
                     f"{markdown(one['agreement'])} | {markdown(tried_on(one))} | {one['ms']:.1f} | "
                     f"{one['ms_network']:.1f} |")
    lines += ["", *dict.fromkeys(f"Timed on {markdown(one['machine'])}; {one['threads']} threads." for one in
                                 exports.values())]
    lines += [f"The clips of `{name}/preprocess.py` are {page_text(one)}." for name, one in exports.items()]
    return "\n".join([*lines, "", ""])


def with_section(card: str, text: str) -> str:
    """A card with this part in place of the one it has, or at its end."""
    found = re.search(rf"^## {TITLE}\n.*?(?=^## |\Z)", card, re.MULTILINE | re.DOTALL)
    before, after = (card[:found.start()], card[found.end():]) if found else (card.rstrip("\n") + "\n\n", "")
    return (before + text + after).rstrip("\n") + "\n"

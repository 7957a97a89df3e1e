"""Vectors for about every second of any videos: files, folders of files, or a list of them.

    python embed.py --pretrain weights/mine --out index recordings/ more/*.mp4
    python embed.py --pretrain torchvision:r3d_18 --out index --window 2 --hop 1 recordings/

A window is a clip whose frames are evenly spread over its seconds, whatever the file's frame rate; its vector is the
pooled feature of retrieval. Writes OUT/vectors.npy and segments.csv, a row for each window, and what could not be read,
unreadable.csv. Started again, it goes on; files that have changed are done anew. docs/embed.md says more.
"""
import core.lifeline  # noqa: F401  # before what takes seconds to import

# isort: split
import os
import sys
from functools import partial
from glob import glob
from pathlib import Path

from tqdm import tqdm

import utils
from analysis.embedder import network_for
from analysis.floors import Thumbnail
from analysis.index import UNREADABLE, Index, read_files, read_unreadable
from core.dist import world_size
from core.errors import DataError, UsageError
from core.exits import crashes_go_to, run
from core.inputs import read_lines
from core.names import counted, quoted
from core.parser import new_parser
from core.versions import versions
from dataset.by_time import cut_short, look_at_video
from dataset.loader import default_workers, surviving_items
from dataset.unlisted import SUFFIXES, Fault, fault_of, look_at_files, videos_below, with_fault
from dataset.windows import Chunks, ClipSize
from engine import evaluation
from engine.embedding import check_seconds, spans_of, vectors_of, windows_of
from engine.flags import (
    WEIGHTS,
    add_clip_flags,
    add_net_flags,
    add_precision_flag,
    check_network,
    complete_data_flags,
    frozen,
)
from engine.folders import check_folder
from engine.log import plain_types
from engine.precision import check_precision, default_precision, set_precision
from engine.setup import open_weights, start, take_clips
from engine.unlisted import KEEP, for_a_while
from models import build_backbone
from models.protocol import Protocol

WORDS = ("random", "thumbnail")  # of --pretrain, which are no paths
SAME = ("weights", "dim", "precision", "windows", "clips")
BATCH = 500  # files at least that are looked at before their windows are read


def flags():
    parser = new_parser("embed.py", __doc__)
    parser.add_argument("paths", nargs="*", metavar="PATH", help="video, folder of videos in any depth, or pattern")
    parser.add_argument("--list", type=Path, metavar="FILE", help="text file with a path in each line")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the vectors, new or of the "
                        "same weights and windows")
    parser.add_argument("--pretrain", required=True, metavar="WEIGHTS|random|thumbnail",
                        help=f"{WEIGHTS}; or the word random, or thumbnail: each clip's mean picture and no network")
    group = parser.add_argument_group("windows")
    group.add_argument("--window", type=float, metavar="SECONDS", help="over which the frames of a clip are spread; "
                       "None: --seq_len frames at --fps, or at --ds in a video with 30 frames a second")
    group.add_argument("--hop", type=float, metavar="SECONDS", help="from one window to the next; None: half a window")
    add_clip_flags(group)
    add_net_flags(parser, None, "backbone; None: what the checkpoint says", width=None)
    add_precision_flag(parser)
    group = parser.add_argument_group("run")
    group.add_argument("--workers", type=int, default=default_workers(), help="processes that decode")
    group.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto: cuda if there is one")
    group.add_argument("--seed", type=int, default=0, help="of random weights")
    group.add_argument("--retry", action="store_true", help="try files again that could not be read "
                       "and have not changed")
    group.add_argument("--prune", action="store_true", help="forget files that are gone, and their windows")
    group.add_argument("--dry_run", action="store_true", help="find the videos, print the plan, stop")
    parser.set_defaults(loader_timeout=0)  # a large file is read for as long as it takes
    return parser


def check(args):
    check_precision(args.precision, args.device)
    for name in ("window", "hop"):
        if getattr(args, name) is not None:
            check_seconds(f"--{name}", getattr(args, name))
    own = [name for name in ("net", "width", "precision") if getattr(args, name) is not None]
    if args.pretrain == "thumbnail" and own:
        raise UsageError(f"--{own[0]} is of networks, and --pretrain thumbnail has none: leave it out")
    if args.window is not None and (args.ds, args.fps) != (None, None):
        raise UsageError("--window and --ds or --fps all say how far the frames of a clip are apart: give one of them")
    if not args.paths and args.list is None:
        raise UsageError("name videos, folders of videos, or a list of them (--list FILE)")
    if world_size() > 1:
        raise UsageError("embed.py is one process, which decodes in --workers others: start it without torchrun")


# --- which videos --------------------------------------------------------------------------------------------

def places_of(word):
    """Files and folders that a word names -> sorted paths; none, where there is no such."""
    if not is_gone(word):
        return [word]
    if "**" not in Path(word).parts:
        return sorted(glob(word))
    # glob's own ** follows links to folders, in circles too
    parts = Path(word).parts
    fixed = next(i for i, part in enumerate(parts) if set("*?[") & set(part))
    base, rest = Path(*parts[:fixed]), Path(*parts[fixed:])
    found = [path.relative_to(base) for path in base.glob(str(rest))] if base.is_dir() else []
    return sorted(str(base / path) for path in found if not any(part.startswith(".") for part in path.parts))


def find(paths, listed):
    """Paths as they were given -> ({real path: why it cannot be taken, or None}, files of folders passed over)

    Links are followed, and each file is taken once.
    """
    found, others = {}, 0
    rows = read_lines(listed, "name a text file with a path in each line") if listed else ()
    for word, named in [*((word, True) for word in paths), *((word, False) for word in rows)]:
        if not word:
            continue
        places = [] if (wrong := fault_of(word)) else places_of(word)
        if not places and named:
            raise DataError(f"{quoted(word)}: {wrong or 'there is no such file or folder'}")
        if not places:
            found[os.path.abspath(word)] = wrong or "there is no such file or folder"
        for place in places:
            if not os.path.isdir(place):
                found[real(place)] = None
                continue
            inside = videos_below(place)
            others += inside.others
            found.update({**inside.faults, **dict.fromkeys(map(real, inside.paths))})
    return {printed(path): fault or fault_of(path) for path, fault in found.items()}, others


def real(path):
    """Where a path leads, or the path itself where that is nowhere."""
    found = os.path.realpath(path)
    return found if os.path.exists(found) else os.path.abspath(path)


def printed(path):
    """A path as it stands in tables, which hold no bytes that are not UTF-8."""
    return path.encode(errors="backslashreplace").decode()


def is_gone(path):
    """Whether there is no such file; one that cannot be asked for, as on a disk with faults, may be there."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def lower(network, args, device):
    """Have the network compute on the device, in the precision of the flags -> the precision chosen"""
    if isinstance(network, Thumbnail):
        return "fp32"
    evaluation.to_device(network, device)
    shape = (evaluation.CLIPS[device.type], 3, args.seq_len, args.img_dim, args.img_dim)
    precision, sentences = set_precision([network], default_precision(args.precision, device), [shape], device,
                                         training=False)
    print(*sentences, sep="\n", end="\n" * bool(sentences))
    return precision


def main(argv):
    args = flags().parse_args(argv)
    device = start(args.device)
    check(args)
    opened = None
    if args.pretrain != "thumbnail":
        opened = open_weights(args.pretrain, args.net, args.width)
    take_clips(args, [opened] if opened else [], Protocol.ds)
    complete_data_flags(args, device)
    if args.pretrain not in WORDS and os.path.exists(args.pretrain):
        args.pretrain = os.path.abspath(args.pretrain)  # for those who look through the index later
    args = frozen(args)
    windows = windows_of(Protocol(args.seq_len, args.ds, args.img_dim, fps=args.fps), args.window, args.hop)
    size = ClipSize(args.resize, args.img_dim)
    paths, others = find(args.paths, args.list)
    if opened:
        check_network(args, partial(build_backbone, opened.net, opened.width))
    refused = [f"{quoted(path)}: {reason}" for path, reason in paths.items() if reason]
    network, weights, dim = network_for(opened, args.seq_len, args.img_dim, args.seed)
    precision = lower(network, args, device)
    utils.print_plan("Embedding", {
        "weights": args.pretrain,
        "vectors": f"{dim} numbers for every {windows.hop:.3g} s, of windows of {windows.window:.3g} s",
        "windows": f"{windows.frames} frames, one in {windows.window / windows.frames:.3g} s, {args.img_dim} px of "
                   f"{args.resize[0]} x {args.resize[1]}",
        "videos": f"{len(paths) - len(refused)}" + (
            f"; {len(refused)} that cannot be taken, such as {refused[0]}" if refused else "") + (
            f"; {counted(others, 'other file')} in the folders, no videos by their names or hidden" if others else ""),
        "folder": args.out})
    if not paths:
        raise DataError("there is no video in what was named: folders are searched for files that end in "
                        + " ".join(sorted(SUFFIXES)))
    check_folder(args.out)
    if args.dry_run:
        return None
    manifest = {"weights": weights, "dim": dim, "precision": precision, "windows": windows._asdict(),
                "clips": {"resize": list(size.resize), "img_dim": size.img_dim},
                "flags": plain_types(vars(args)), **versions()}
    with Index(args.out, manifest, SAME) as index:
        crashes_go_to(args.out)
        return embed(args, index, paths, windows, size, network, device)


class Looked:
    """What is known of the files that were named, beside the index.

    Attributes: `known`: {path: Known with VideoFacts}; `unreadable`: {path: Known with a Fault}, of this run; `before`:
    of earlier ones; `tried`: those of earlier ones that are not tried again; `opened`: how many could be opened.
    """

    def __init__(self, index, paths, prune, retry):
        """paths: {path: why it cannot be taken, or None}; prune, retry: the flags"""
        self.index = index
        self.known, self.before = read_files(index.folder), read_unreadable(index.folder)
        if prune:
            forget_gone(index, self.known, self.before)
        self.unreadable = {path: with_fault(reason) for path, reason in paths.items() if reason}
        self.tried = {path: one for path, one in self.before.items()
                      if one.bytes >= 0 and path in paths and not retry and not self.is_cut_short(path, one)}
        self.at_first = self.known | self.tried
        self.opened = 0

    def is_cut_short(self, path, one):
        """Whether all that is wrong with a file is its end: the windows before that may not be in the index yet."""
        return path in self.known and one == with_fault(cut_short(self.known[path].facts), *self.known[path][:2])

    def write(self):
        self.index.write_files(self.known, self.before | self.unreadable)

    def look(self, batch, workers):
        """Look at files, whose windows are dropped where they have changed -> {path: Known} of those with windows"""
        found = {}
        looks = look_at_files(batch, self.at_first, look_at_video, workers, "looking at videos")
        while part := dict(for_a_while(looks, KEEP)):
            self.index.drop([path for path, one in part.items() if self.has_changed(path, one)])
            for path, one in part.items():
                self.enter(path, one)
            found.update((path, one) for path, one in part.items() if not isinstance(one.facts, Fault))
            if any(self.at_first.get(path) != one for path, one in part.items()):
                self.write()
        self.opened += len(found)
        return {path: found[path] for path in batch if path in found}

    def has_changed(self, path, one):
        """Whether a file is another than the one whose windows are in the index."""
        if isinstance(one.facts, Fault):
            return one.bytes >= 0 and one != self.tried.get(path)
        return self.index.done.get(path, ("", 0))[0] not in ("", one.facts.hash)

    def enter(self, path, one):
        if not isinstance(one.facts, Fault):
            self.known[path] = one
            if said := cut_short(one.facts):
                self.unreadable[path] = with_fault(said, *one[:2])
            return
        self.unreadable[path] = one
        if path in self.known and self.known[path][:2] == one[:2]:
            self.opened += 1  # but is broken later on
        elif one.bytes >= 0:
            self.known.pop(path, None)

    def enter_read(self, read):
        """What came of reading windows: (path, Known with a Fault, or None), as they come."""
        while part := dict(for_a_while(read, KEEP)):
            if broken := {path: one for path, one in part.items() if one}:
                self.unreadable.update(broken)
                self.write()


def embed(args, index, paths, windows, size, network, device):
    """Embed what is not in the index yet -> exit code, 1 where no video could be read"""
    looked = Looked(index, paths, args.prune, args.retry)
    good, first, rows = [path for path, reason in paths.items() if not reason], 0, index.rows
    while first < len(good):
        batch = good[first:first + max(BATCH, len(looked.known) // 10)]  # the tables of many files are long
        found = looked.look(batch, args.workers)
        looked.enter_read(embed_batch(args, index, found, looked.before, windows, size, network, device,
                                      f"videos {first + 1} to {first + len(batch)} of {len(good)}"))
        for path in found.keys() - looked.unreadable.keys():
            looked.before.pop(path, None)
        first += len(batch)
        if first < len(good):  # for who reads a log, where there is no bar
            print(f"{first} of {len(good)} videos: {counted(index.rows - rows, 'new window')}", flush=True)
    looked.write()
    count = sum(count for _, count in index.done.values())
    left = sum(count for path, (_, count) in index.done.items() if paths.get(path, "not named") or is_gone(path))
    print(f"written to {args.out}: {counted(count, 'window')} in all, {index.rows - rows} of them new; " + (
        f"{left} of files that were not named or are gone (--prune forgets what is gone); " if left else "")
        + f"{counted(looked.opened, 'video')} could be opened")
    say_unreadable(args.out, looked.unreadable, looked.tried)
    return 0 if looked.opened else 1


def say_unreadable(folder, unreadable, tried):
    if unreadable:
        path, one = next(iter(unreadable.items()))
        again = sum(tried.get(path) == one for path, one in unreadable.items())
        print(f"{len(unreadable)} could not be read, or not to the end: {folder / UNREADABLE}, such as "
              f"{quoted(path)}: {one.facts.reason}" + (
                  f"; {again} of them, unchanged, {'was' if again == 1 else 'were'} not tried again (--retry does)"
                  if again else ""),
              file=sys.stderr)


def forget_gone(index, known, unreadable):
    """Forget files that are gone, in the index and in tables by their paths."""
    gone = {path for path in index.done.keys() | known.keys() | unreadable.keys() if is_gone(path)}
    count = len(gone & (index.done.keys() | known.keys()))
    windows = sum(index.done[path][1] for path in gone & index.done.keys())
    index.drop(gone)
    for table in (known, unreadable):
        for path in gone & table.keys():
            del table[path]
    print(f"{counted(count, 'file')} of the index {'is' if count == 1 else 'are'} gone: forgotten, with "
          f"{counted(windows, 'window')}")


def embed_batch(args, index, found, before, windows, size, network, device, description):
    """Embed what is not in the index yet of some files. Yields (path, Known with a Fault where it cannot be read to its
    end, or None) as they are read.

    before: such of earlier runs; of a file that has nothing new they still hold
    """
    videos = [(path, one.facts) for path, one in found.items()]
    done = [index.done.get(path, ("", 0))[1] for path, _ in videos]
    chunks = Chunks(videos, windows, size, done)
    items = surviving_items(chunks, min(args.workers, len(chunks)), chunks.video)
    untouched = found.keys() - {videos[number][0] for number in chunks.video.tolist()}
    broken = {path: before[path] for path in untouched if path in before and before[path][:2] == found[path][:2]}
    yield from broken.items()
    with tqdm(desc=description, total=int(chunks.count.sum()), unit="window", leave=False, disable=None) as bar:
        for item in items:
            path, facts = videos[chunks.video[item["index"]]]
            first, clips = int(chunks.first[item["index"]]), item.get("clips", ())  # none: its process ended
            bar.update(int(chunks.count[item["index"]]))
            if len(clips) and path not in broken:
                index.append(path, facts, spans_of(windows, facts, first, len(clips)),
                             vectors_of(network, clips, device))
            if item["error"]:
                broken.setdefault(path, with_fault(item["error"], *found[path][:2 if item["lasting"] else 0]))
            yield path, broken.get(path)


if __name__ == "__main__":
    run(main, stopped="what is done is kept; start it again to go on", memory="fewer --workers")

"""Pack each video's frames into one file.

    python process_data/src/pack.py --dataset ucf101

Reads <frames>/<class>/<video>/image_00001.jpg ... as extract_frame.py writes them and writes, byte for byte the same
JPEGs, <out>/<class>/<video>.zip (stored, not compressed; dataset/storage.py says why) and <out>/manifest.csv. Training
takes it with --storage packed and sees the same pixels. The frames may be removed afterwards.

Every frame is decoded first: a video with a damaged or missing frame is reported and not packed. A file gets its name
when it is complete, so a run that was stopped, however that was, is completed by starting it again. A video whose
folder has changed since is packed again. The exit code is 0 where all videos are packed, else 1 (--allow_failures: 0).
"""
import os
import shutil
import sys
import time
import zipfile
from contextlib import closing
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import core  # noqa: F401  # before what takes seconds to import

# isort: split
os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
from tqdm import tqdm

from core.errors import DataError, UsageError
from core.exits import run
from core.files import FULL, TEMPORARY, take_lock, whole_file
from core.inputs import read_bytes
from core.jobs import WorkerDied, run_jobs
from core.names import name_fault
from core.parser import new_parser
from dataset.lists import local_dataset
from dataset.reader import FRAME_NAME, MOST_BYTES
from dataset.storage import MOST_FRAMES, PACKED_SUFFIX, Packed
from process_data.src.common import (
    GO_ON,
    MANIFEST,
    available_cores,
    check_range,
    first,
    full_disk,
    plural,
    read_manifest,
    visible,
)
from process_data.src.extract_frame import write_manifest
from process_data.src.frame_check import examine
from process_data.src.write_csv import all_names, find_folders

PROBED = 50  # videos whose sizes are taken to estimate the size of all


def pack(name, frames, out, quick):
    """Pack one video -> (frames, None), or (None, why not); an OSError for a disk that is full."""
    check = examine(name, frames, quick)
    if check.faults:
        return None, "; ".join(f"{fault} ({detail})" if detail else fault for fault, detail in check.faults)
    if check.frames > MOST_FRAMES:
        return None, f"{check.frames} frames, and a packed file holds {MOST_FRAMES}: cut the video into shorter ones"
    try:
        with whole_file(out / (name + PACKED_SUFFIX)) as path, zipfile.ZipFile(path, "w") as file:
            for number in range(1, check.frames + 1):
                frame = FRAME_NAME.format(number)
                entry = zipfile.ZipInfo(frame)  # dated 1980, so that the same frames make the same file
                entry.external_attr = 0o644 << 16
                file.writestr(entry, read_bytes(frames / name / frame, MOST_BYTES))
        return check.frames, None
    except (OSError, zipfile.LargeZipFile) as error:
        return None, error if getattr(error, "errno", None) in FULL else f"{type(error).__name__}: {error}"


def is_packed(name, frames, out, manifest):
    """Whether there is a whole packed file, newer than the folder and its frames, with as many as the manifest says."""
    path = out / (name + PACKED_SUFFIX)
    try:
        packed_at = path.stat().st_mtime_ns
        if packed_at < max(entry.stat().st_mtime_ns for entry in (frames / name, *visible(frames / name))):
            return False
        with Packed(path) as packed:
            return name not in manifest or len(packed.entries) == int(manifest[name]["frames"])
    except (OSError, DataError):  # examine says what is wrong
        return False


def remove_leftovers(out):
    """Remove the files that a killed run had begun."""
    for folder in visible(out):
        for path in Path(folder.path).glob(f"{TEMPORARY}*{PACKED_SUFFIX}") if os.path.isdir(folder.path) else ():
            path.unlink()


def check_same_settings(manifest, args):
    """Raises UsageError where --out holds videos of frames extracted with other settings: nobody would notice a mix."""
    packed = read_manifest(args.out / MANIFEST)
    for column in ("short_side", "quality"):
        here, there = ({row[column] for row in rows.values()} for rows in (manifest, packed))
        if here and there and here != there:
            raise UsageError(f"--out {args.out}: its videos were packed from frames of --{column} "
                             f"{first(sorted(there))}, those in {args.frames} are of {first(sorted(here))}; give "
                             "another --out, or remove the folder")


def check_room(todo, args):
    """Raises DataError where the videos in `todo` will not fit on the disk, estimated from the sizes of some."""
    probed = todo[::-(-len(todo) // PROBED)] if todo else []
    sizes = [sum(entry.stat().st_size for entry in visible(args.frames / name) if os.path.isfile(entry.path))
             for name in probed]
    needed, free = sum(sizes) / max(len(sizes), 1) * len(todo), shutil.disk_usage(args.out).free
    if needed > free:
        raise DataError(f"--out {args.out}: {plural(len(todo), 'video')} will take about {needed / 1e9:.3g} GB and the "
                        f"disk has {free / 1e9:.3g} GB free: make room, or give another --out")


def pack_all(todo, args):
    """-> ({video: frames} of those packed, [(video, why not)]). Raises OSError where the disk is full."""
    work = partial(pack, frames=args.frames, out=args.out, quick=args.quick)
    done, failed = {}, []
    with closing(run_jobs(work, todo, args.workers)) as jobs:
        for name, result in tqdm(jobs, total=len(todo), unit="video", disable=None, smoothing=0.05):
            frames, reason = (None, result.reason) if isinstance(result, WorkerDied) else result
            if isinstance(reason, OSError):
                raise reason
            if reason:
                failed.append((name, reason))
            else:
                done[name] = frames
    return done, failed


def parse(argv):
    parser = new_parser("process_data/src/pack.py", __doc__)
    parser.add_argument("--dataset", default="ucf101", help="a name in dataset/local_dataset.py")
    parser.add_argument("--frames", type=Path, help="folder of <class>/<video>/image_00001.jpg; None: the data set's")
    parser.add_argument("--out", type=Path, help="folder to write; None: the data set's in local_dataset.py")
    parser.add_argument("--workers", type=int, default=available_cores(), help="processes")
    parser.add_argument("--quick", action="store_true",
                        help="do not decode: damage that leaves a frame's end whole stays unseen")
    parser.add_argument("--allow_failures", action="store_true", help="exit with 0 even where videos failed")
    args = parser.parse_args(argv)
    local = local_dataset(args.dataset)
    args.frames, args.out = args.frames or local.frames, args.out or local.root("packed")
    check_range("--workers", args.workers, 1, 1024)
    if args.out.resolve() == args.frames.resolve():
        raise UsageError(f"--out {args.out} is the folder of frames: give another")
    return args


def main(argv):
    args, start = parse(argv), time.perf_counter()
    (folders, nameless), manifest = find_folders(args.frames), read_manifest(args.frames / MANIFEST)
    with full_disk("--out", args.out), take_lock(args.out, "--out"):
        return pack_folders(args, start, folders, nameless, manifest)


def pack_folders(args, start, folders, nameless, manifest):
    """All but what find_folders and read_manifest read -> exit code."""
    long = {name: fault for name in all_names(folders) if (fault := name_fault(os.path.basename(name) + PACKED_SUFFIX))}
    refused = [f"{args.frames / name}: with {PACKED_SUFFIX}, {fault}: rename the folder"
               for name, fault in long.items()]
    refused += [f"no list can carry the name {name}: rename the folder" for name in nameless]
    names = [name for name in all_names(folders) if name not in long]
    check_same_settings(manifest, args)
    remove_leftovers(args.out)
    todo = [name for name in names if not is_packed(name, args.frames, args.out, manifest)]
    check_room(todo, args)
    known = {**read_manifest(args.out / MANIFEST), **manifest}
    write_manifest(args.out / MANIFEST, known)  # before a kill could leave videos whose settings nobody knows
    try:
        done, failed = pack_all(todo, args)
    finally:
        remove_leftovers(args.out)
    write_manifest(args.out / MANIFEST, {name: row for name, row in known.items()
                                         if os.path.exists(args.out / (name + PACKED_SUFFIX))})
    for name, reason in failed:
        print(f"failed: {args.frames / name}: {reason}", file=sys.stderr)
    for sentence in refused:
        print(f"failed: {sentence}", file=sys.stderr)
    if failed:
        print("to mend them: remove their folders and run extract_frame.py, then this again")
    print(f"packed {len(done)}, already there {len(names) - len(todo)}, failed {len(failed) + len(refused)}; "
          f"{sum(done.values())} frames in {time.perf_counter() - start:.1f} s; packed videos and {MANIFEST} in "
          f"{args.out}")
    return 1 if (failed or refused) and not args.allow_failures else 0


if __name__ == "__main__":
    run(main, stopped=GO_ON)

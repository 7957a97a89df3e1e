"""Turn video files into numbered JPEG frames.

    python process_data/src/extract_frame.py --dataset ucf101 --videos /data/UCF-101

Reads <videos>/<class>/<video>.avi (.mp4 .mkv .webm .mov), for copies of Kinetics also
<videos>/{train,val,test}/<class>/<video>, and writes <frames>/<class>/<video>/image_00001.jpg ...
with the shorter side scaled to --short_side (smaller videos are enlarged to it) and <frames>/manifest.csv.

The videos of Something-Something v2 and Diving48 all lie in one folder, <videos>/<video>.webm. Their classes are in the
official lists, --splits, which place the frames in <frames>/<class>/<video>/; a video in no list is left out.

A video is extracted into a hidden folder, which gets its name when it is complete, so a run that was stopped, however
that was, is completed by starting it again. A video of which no frame can be decoded fails; one that has fewer frames
than its header says is kept, with both numbers in the manifest.
"""
import csv
import errno
import hashlib
import json
import math
import os
import re
import shutil
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import core  # noqa: F401  # before what takes seconds to import

# isort: split
os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # silent: this script reports what is wrong with a video
import cv2
from tqdm import tqdm

from core.errors import DataError, UsageError
from core.exits import run
from core.files import FULL, TEMPORARY, csv_lines, take_lock
from core.inputs import open_file, read_json
from core.jobs import WorkerDied, run_jobs
from core.parser import new_parser
from dataset.lists import local_dataset
from dataset.reader import FRAME_NAME, MOST_PIXELS
from dataset.video import FEW, BrokenVideo, open_video
from process_data.src.common import (
    COLUMNS,
    GO_ON,
    MANIFEST,
    available_cores,
    check_range,
    find_flat_videos,
    find_videos,
    first,
    full_disk,
    plural,
    read_manifest,
    readable,
    visible,
    write_files,
)
from process_data.src.frame_check import frame_numbers
from process_data.src.official_lists import FLAT, READERS, folder_of_lists

SHORT_SIDE = {"k400": 150, "demo": 64}  # pixels; 240 for all other data sets
RECORD = ".record.json"  # in each video's folder: its row of the manifest, and
ENDS = "source_ends"  # a hash of the first and the last bytes of the video, of which there are
COMPARED = 2**16  # each
# hidden folders, of a video that is worked on and of its former frames; the second kind are those of earlier versions
WORKING = re.compile(rf"{re.escape(TEMPORARY)}[0-9a-f]{{32}}(_old)?")
FORMER_WORKING = re.compile(r"\..+\.partial", re.DOTALL)


def scaled_size(width, height, short_side):
    """Size with the shorter side at `short_side`, aspect ratio kept -> (width, height)."""
    scale = short_side / min(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def decode(path, folder, short_side, quality):
    """Write the frames of a video into `folder` -> their columns of the manifest.

    Raises BrokenVideo, or OSError where a frame cannot be written.
    """
    count, size, method = 0, None, None
    with open_video(path) as capture:
        # a damaged header may give any number, or none
        header, fps = (value if 0 <= (value := capture.get(kind)) < 1e9 else 0.0
                       for kind in (cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FPS))
        while True:
            there, frame = capture.read()
            if not there:
                break
            if size is None:
                height, width = frame.shape[:2]
                size = scaled_size(width, height, short_side)
                if math.prod(size) > MOST_PIXELS:
                    raise BrokenVideo(path, f"has {width} x {height} pixels, scaled {size[0]} x {size[1]}: too many")
                method = cv2.INTER_AREA if short_side < min(width, height) else cv2.INTER_CUBIC
            if frame.shape[1::-1] != size:
                frame = cv2.resize(frame, size, interpolation=method)
            encoded, data = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, quality])
            if not encoded:
                raise BrokenVideo(path, f"has a frame {count + 1} that cannot be encoded as JPEG")
            count += 1
            with open(os.path.join(folder, FRAME_NAME.format(count)), "wb") as file:
                file.write(data)
    if count == 0:
        raise BrokenVideo(path, "holds no frame that can be decoded")
    return {"frames": count, "header_frames": int(header), "fps": round(fps, 3), "width": size[0],
            "height": size[1]}


def hash_of_ends(path):
    """Of the first and the last COMPARED bytes of a file. Raises OSError."""
    with open_file(path, 2**62) as file:
        head = file.read(COMPARED)
        file.seek(max(os.fstat(file.fileno()).st_size - COMPARED, 0))
        return hashlib.blake2b(head + file.read(COMPARED), digest_size=16).hexdigest()


def working_folders(final):
    """Where a video is extracted, and where its former frames wait until that is done: of no other video -> [path]."""
    parent, name = os.path.split(final)
    hidden = os.path.join(parent, TEMPORARY + hashlib.blake2b(os.fsencode(name), digest_size=16).hexdigest())
    return [hidden, f"{hidden}_old"]


def stranger(folder):
    """The name of something in a folder that this script does not write into one -> text, or None."""
    with os.scandir(folder) as entries:
        return next((entry.name for entry in entries if not entry.is_file(follow_symlinks=False)
                     or entry.name != RECORD and not frame_numbers([entry.name])), None)


def remove_own(path):
    """Remove a working folder, or a link in its place, if it exists and holds nothing that is not of this script."""
    if os.path.islink(path):
        os.unlink(path)
    elif os.path.isdir(path) and stranger(path) is None:
        shutil.rmtree(path)


def extract(video, frames, short_side, quality):
    """Extract one video -> (its row of the manifest, None) or (None, why not); leaves a complete folder or none.

    Why not is an OSError where the disk is full.
    """
    cv2.setNumThreads(1)
    final = os.path.join(frames, video.name)
    partial_folder, old = working_folders(final)
    class_folder = os.path.dirname(final)
    try:
        if os.path.lexists(class_folder) and not os.path.isdir(class_folder):
            return None, f"{class_folder} is no folder: remove it"
        if os.path.lexists(final) and (name := stranger(final)):
            return None, (f"{final} holds {readable(name)}, which is not of this script: move it away, or remove the "
                          "folder, to extract the video again")
        for leftover in (partial_folder, old):
            remove_own(leftover)
        os.makedirs(partial_folder)
        source = video.path.encode("utf-8", "backslashreplace").decode()  # a folder above it may not be UTF-8
        ends = hash_of_ends(video.path)
        row = {"video": video.name, "source": source, **decode(video.path, partial_folder, short_side, quality),
               "short_side": short_side, "quality": quality, "source_bytes": video.size, "opencv": cv2.__version__}
        with open(os.path.join(partial_folder, RECORD), "w", encoding="utf-8") as file:
            json.dump(row | {ENDS: ends}, file)
        if os.path.lexists(final):  # of an older file; moved, as a folder that is half removed would seem complete
            os.rename(final, old)
        os.rename(partial_folder, final)
        remove_own(old)
        return row, None
    except BrokenVideo as error:
        return None, error.reason
    except (OSError, cv2.error) as error:
        return None, error if getattr(error, "errno", None) in FULL else f"{type(error).__name__}: {error}"
    finally:
        remove_own(partial_folder)


def write_manifest(path, rows):
    write_files({path: csv_lines([COLUMNS, *([rows[name][column] for column in COLUMNS] for name in sorted(rows))])})


def find_extracted(root):
    """-> ({video: row} of all complete folders under `root`, {video: why its folder is not to be touched}).

    The manifest is written at the end of a run; folders that a killed run left have a record of their own, which is
    read. Its hidden folders are removed, and no other ones.
    """
    rows, foreign = {}, {}
    known = read_manifest(root / MANIFEST)
    for class_folder in visible(root):
        if not os.path.isdir(class_folder.path):
            continue
        with os.scandir(class_folder.path) as entries:
            leftovers = [entry.path for entry in entries if WORKING.fullmatch(entry.name)
                         or FORMER_WORKING.fullmatch(entry.name) and not entry.is_symlink()]
        for path in leftovers:
            remove_own(path)
        for folder in visible(class_folder.path):
            name = f"{class_folder.name}/{folder.name}"
            try:
                row = known.get(name) or read_record(folder.path, name)
                if frames_are_there(folder.path, row):
                    rows[name] = row
            except DataError as error:
                foreign[name] = str(error)
            except OSError as error:
                foreign[name] = f"{folder.path} cannot be read ({error.strerror})"
    return rows, foreign


def read_record(folder, name):
    """The row that the folder of video `name` has in its own record, as read_manifest gives it.

    Raises DataError where there is no record, or a damaged one.
    """
    path = os.path.join(folder, RECORD)
    if not os.path.lexists(path):
        raise DataError(f"{folder} is there and not of this script: remove it to extract the video")
    hint = f"remove {folder} to extract the video again"
    row = read_json(path, dict.fromkeys(COLUMNS, (str, float)) | {"frames": int}, hint)
    row = {column: str(row[column]) for column in COLUMNS} | {"video": name}
    if max(map(len, row.values())) > csv.field_size_limit():
        raise DataError(f"{path} is damaged (too long for {MANIFEST}): {hint}")
    return row


def frames_are_there(folder, row):
    """Whether the folder has the frames that its row says and no other ones, and the last is not empty."""
    frames, last = int(row["frames"]), os.path.join(folder, FRAME_NAME.format(int(row["frames"])))
    numbers = frame_numbers(os.listdir(folder))
    return (numbers[:1] == [1] and len(numbers) == numbers[-1] == frames and os.path.exists(last)
            and os.path.getsize(last) > 0)


def is_unchanged(video, row, folder):
    """Whether a video has as many bytes as its row says, and the same ends as its folder's record says.

    Earlier versions did not record the ends.
    """
    if row["source_bytes"] != str(video.size):
        return False
    try:
        recorded = read_json(os.path.join(folder, RECORD), {ENDS: str})[ENDS]
    except DataError:
        return True
    try:
        return recorded == hash_of_ends(video.path)
    except OSError:  # extract says so
        return False


def check_same_settings(rows, videos, args):
    """Raises UsageError where videos were extracted with other settings: nobody would notice a mix."""
    for flag in ("short_side", "quality"):
        others = [row[flag] for row in rows.values() if row[flag] != str(getattr(args, flag))]
        if others:
            raise UsageError(f"--{flag} {getattr(args, flag)}: {plural(len(others), 'video')} in {args.frames} "
                             f"were extracted with --{flag} {others[0]}; give that, another --frames, or remove "
                             "the folder")


def parse(argv):
    parser = new_parser("process_data/src/extract_frame.py", __doc__)
    parser.add_argument("--dataset", default="ucf101", help="a name in dataset/local_dataset.py")
    parser.add_argument("--videos", type=Path, help="folder of <class>/<video>, or of the videos themselves where the "
                        "lists give the classes; None: the data set's")
    parser.add_argument("--frames", type=Path, help="folder to write; None: the data set's in local_dataset.py")
    parser.add_argument("--splits", type=Path, help="folder of the official lists, where they give the classes; None: "
                        "`splits` beside the frames")
    parser.add_argument("--layout", choices=FLAT, help="format of lists that give the classes; None: by --dataset")
    parser.add_argument("--short_side", type=int, help="pixels of the shorter side; None: 240, k400 150, demo 64")
    parser.add_argument("--quality", type=int, default=80, help="JPEG quality, 1 to 100")
    parser.add_argument("--workers", type=int, default=available_cores(), help="processes")
    parser.add_argument("--allow_failures", action="store_true", help="exit with 0 even where videos failed")
    args = parser.parse_args(argv)
    local = local_dataset(args.dataset)
    args.frames = args.frames or local.frames
    args.videos = args.videos or local.root("video")
    if args.layout is None and args.dataset in FLAT:
        args.layout = args.dataset
    if args.layout is None and args.splits:
        raise UsageError(f"--splits {args.splits}: the classes of {args.dataset} are its folders of videos; the lists "
                         f"are for write_csv.py, or for a --layout of {', '.join(FLAT)}")
    args.splits = folder_of_lists(args.splits, local.frames) if args.layout else None
    if args.short_side is None:
        args.short_side = SHORT_SIDE.get(args.dataset, 240)
    check_range("--short_side", args.short_side, 8, 4096, "pixels")
    check_range("--quality", args.quality, 1, 100)
    check_range("--workers", args.workers, 1, 1024)
    return args


def remove_traces(final):
    """Remove the working folders of a video whose extraction was cut off, and its class folder if empty."""
    for path in working_folders(final):
        remove_own(path)
    try:
        final.parent.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.ENOTDIR):
            raise


def extract_all(todo, rows, args):
    """Extract the videos in `todo` and add their rows to `rows` -> (these rows, [(path, why it failed)]).

    Of a file that has changed and fails, the frames of its former content stay.

    However it ends (by Ctrl-C too), no working folder is left and the manifest has all complete ones. Raises OSError
    where the disk is full.
    """
    new, failed, pending = {}, [], {video.name for video in todo}
    write_manifest(args.frames / MANIFEST, rows)  # should this run be killed, it does not name folders that are gone
    work = partial(extract, frames=str(args.frames), short_side=args.short_side, quality=args.quality)
    jobs = run_jobs(work, todo, args.workers)
    try:
        for video, result in tqdm(jobs, total=len(todo), unit="video", disable=None, smoothing=0.05):
            died = isinstance(result, WorkerDied)
            row, reason = (None, result.reason) if died else result
            if not died:
                pending.discard(video.name)
            if isinstance(reason, OSError):
                raise reason
            if row is None:
                failed.append((video.path, reason + "; the frames of its former content stay" * (video.name in rows)))
            else:
                new[video.name] = rows[video.name] = row
    finally:
        jobs.close()
        for name in pending:  # a worker may have finished its video and been stopped before it could say so
            final = args.frames / name
            with suppress(DataError):
                row = read_record(final, name)
                if frames_are_there(final, row):
                    rows[name] = row
            if not final.exists():
                rows.pop(name, None)
        for video in todo:
            if video.name in pending or video.name not in rows:
                remove_traces(args.frames / video.name)
        write_manifest(args.frames / MANIFEST, rows)
    return list(new.values()), failed


def report(new, failed):
    """Print which videos failed or have fewer frames than expected -> number of frames written."""
    short = [row for row in new if row["frames"] < row["header_frames"]]
    few = [f"{row['video']} ({row['frames']} of {row['header_frames']})" for row in short
           if row["frames"] < FEW * row["header_frames"]]
    if short:
        print(f"note: {plural(len(short), 'video')} gave fewer frames than the header says (see {MANIFEST})"
              + (f", {len(few)} of them less than {FEW:.0%}: {first(few)}" if few else ""))
    for path, reason in failed:
        print(f"failed: {readable(path)}: {reason}", file=sys.stderr)
    return sum(row["frames"] for row in new)


def look(args):
    """Where the videos are and what they will be called -> Found; prints what is left aside."""
    if args.layout:
        _, splits = READERS[args.layout](args.splits, args.frames)
        listed = [name for split in splits for names in split.train + split.test for name in names]
        found = find_flat_videos(args.videos, {name.partition("/")[2]: name for name in listed})
        if absent := sorted({*listed} - {*found.named}):
            print(f"note: {plural(len(absent), 'video')} of the lists {'is' if len(absent) == 1 else 'are'} not in "
                  f"{args.videos}: {first(absent, 3)}")
    else:
        found = find_videos(args.videos)
    for what, paths, why in (("file", found.others, "not taken for a video"),
                             ("video", found.unlisted, f"left out, in no list with labels in {args.splits}")):
        if paths:
            print(f"note: {plural(len(paths), what)} in {args.videos} {why}: {first(map(readable, paths), 3)}")
    return found


def main(argv):
    args, start = parse(argv), time.perf_counter()
    found = look(args)
    with full_disk("--frames", args.frames), take_lock(args.frames, "--frames"):
        return extract_videos(args, start, found.videos, found.refused)


def extract_videos(args, start, videos, refused):
    """All but the listing of the videos; refused: [(path, why it is none)] -> exit code."""
    rows, foreign = find_extracted(args.frames)
    check_same_settings(rows, videos, args)
    present = [video for video in videos if video.name in rows
               and is_unchanged(video, rows[video.name], args.frames / video.name)]
    refused += [(video.path, foreign[video.name]) for video in videos if video.name in foreign]
    skipped = {video.name for video in present} | set(foreign)
    todo = [video for video in videos if video.name not in skipped]
    new, failed = extract_all(todo, rows, args)
    failed += refused
    frames = report(new, failed)
    done = len(todo) + len(refused) - len(failed)
    print(f"done {done}, already there {len(present)}, failed {len(failed)}; {frames} frames in "
          f"{time.perf_counter() - start:.1f} s; frames and {MANIFEST} in {args.frames}")
    return 1 if failed and not args.allow_failures else 0


if __name__ == "__main__":
    run(main, stopped=GO_ON)

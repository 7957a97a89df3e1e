"""Check all frames of a video, in a folder or a packed file: what verify.py and pack.py do in their workers."""
import hashlib
import itertools
import os
import re
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from core.errors import DataError
from core.inputs import read_bytes
from dataset.reader import FRAME_NAME, MOST_BYTES, decode_jpeg
from dataset.storage import PACKED_SUFFIX, Packed
from process_data.src.common import first

PREFIX, SUFFIX = FRAME_NAME.partition("{")[0], FRAME_NAME.rpartition("}")[2]
NO_FOLDER, NO_FRAMES, GAPS = "no folder of frames", "no frames", "gaps in the numbering"
NO_PACKED, BAD_PACKED = "no packed file", "damaged packed files"
ZERO, TRUNCATED, UNDECODABLE = "zero-byte frames", "truncated frames", "undecodable frames"
CHANGED = "frames changed since they were packed"
SIZE = "frames of another size"

JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
PARTIAL = re.compile("remature end|Corrupt JPEG data")  # the decoder's words for a picture that is not complete


@dataclass(frozen=True, slots=True)
class VideoCheck:
    """What was found out about a video."""

    frames: int
    last: int  # highest frame number, 0 without frames
    digest: bytes | None  # hash of all frames, None where there is not a byte
    faults: tuple  # of (fault, detail)


class Unusable(Exception):
    """A video whose frames cannot be listed; its arguments are (fault, detail)."""


def frame_numbers(names):
    """Sorted numbers of the frames among names of files; other files are ignored."""
    pattern = re.compile(rf"{re.escape(PREFIX)}(\d+){re.escape(SUFFIX)}")
    found = map(pattern.fullmatch, names)
    return sorted(int(match[1]) for match in found if match and match[0] == FRAME_NAME.format(int(match[1])))


def name_runs(runs):
    """[(1, 1), (3, 5)] -> "image_00001.jpg, image_00003.jpg to image_00005.jpg"."""
    return first(FRAME_NAME.format(low) + (f" to {FRAME_NAME.format(high)}" if high > low else "")
                 for low, high in runs)


@contextmanager
def open_folder(root, video):
    """A folder of JPEGs; yields (frame numbers, function from a number to (bytes, fault or None))."""
    folder = Path(root, video)
    try:
        numbers = frame_numbers(os.listdir(folder))
    except OSError as error:
        raise Unusable(NO_FOLDER, error.strerror) from error

    def read(number):
        return read_bytes(folder / FRAME_NAME.format(number), MOST_BYTES), None

    yield numbers, read


@contextmanager
def open_packed(root, video):
    """As open_folder, for a packed video."""
    path = Path(root, video + PACKED_SUFFIX)
    if not path.is_file():
        raise Unusable(NO_PACKED, "" if not path.exists() else "not a file")
    try:
        packed = Packed(path)
    except DataError as error:
        raise Unusable(BAD_PACKED, str(error)) from error
    with packed:
        names = packed.entries["name"].tolist()
        numbers = frame_numbers(map(os.fsdecode, names))
        position = {name: i for i, name in enumerate(names)}

        def read(number):
            entry = packed.entries[["offset", "size", "crc"]][position[FRAME_NAME.format(number).encode()]]
            offset, size, crc = entry.tolist()
            data = packed.read(offset, size)
            return data, None if zlib.crc32(data) == crc else CHANGED

        yield numbers, read


OPENERS = {"frames": open_folder, "packed": open_packed}


def check_frame(data, quick):
    """Bytes of a frame -> (fault or None, shape of the picture, None where it was not decoded)."""
    if not data:
        return ZERO, None
    if not data.rstrip(b"\0").endswith(JPEG_END):
        return TRUNCATED if data.startswith(JPEG_START) else UNDECODABLE, None
    if quick:
        return None, None
    try:
        return None, decode_jpeg(data, "").shape
    except DataError as error:
        return TRUNCATED if PARTIAL.search(str(error)) else UNDECODABLE, None


def examine(name, root, quick, storage="frames"):
    """All of a video's frames -> VideoCheck."""
    try:
        with OPENERS[storage](root, name) as (numbers, read):
            return check_frames(numbers, read, quick)
    except Unusable as error:
        return VideoCheck(0, 0, None, (error.args,))


def check_frames(numbers, read, quick):
    """Check the frames with these numbers -> VideoCheck; read: the function that open_folder yields."""
    if not numbers:
        return VideoCheck(0, 0, None, ((NO_FRAMES, ""),))
    faults, digest, size, shapes = {}, hashlib.blake2b(digest_size=16), 0, {}
    for number in numbers:
        fault, shape, reason = None, None, ""
        try:
            data, fault = read(number)
            if not fault:
                fault, shape = check_frame(data, quick)
        except (OSError, DataError) as error:
            data, fault, reason = b"", UNDECODABLE, f" ({getattr(error, 'strerror', error)})"
        digest.update(len(data).to_bytes(8, "little") + data)
        size += len(data)
        if shape and shape != shapes.setdefault("first", shape):
            faults.setdefault((SIZE, " (not {1}x{0})".format(*shapes["first"])), []).append(number)
        if fault:
            faults.setdefault((fault, reason), []).append(number)
    listed = [(fault, first(map(FRAME_NAME.format, which), 5) + reason) for (fault, reason), which in faults.items()]
    gaps = [(low + 1, high - 1) for low, high in itertools.pairwise([0, *numbers]) if high - low > 1]
    if gaps:
        listed.append((GAPS, f"no {name_runs(gaps)}"))
    if numbers[0] == 0:
        listed.append((GAPS, f"{FRAME_NAME.format(0)} is never read: the first is {FRAME_NAME.format(1)}"))
    return VideoCheck(len(numbers), numbers[-1], digest.digest() if size else None, tuple(listed))

"""What the tools of process_data share: flags, listing videos, writing files."""
import os
from contextlib import contextmanager
from dataclasses import dataclass

from core.errors import DataError, UsageError
from core.files import FULL, whole_files
from core.inputs import read_table
from core.names import name_fault, quoted
from dataset.lists import FRAMES, class_fault
from dataset.video import PARTS, VIDEO_SUFFIXES

MANIFEST = "manifest.csv"
GO_ON = "what is finished is kept; start the same command again to go on"  # after Ctrl-C
COLUMNS = ("video", "source", "frames", "header_frames", "fps", "width", "height", "short_side", "quality",
           "source_bytes", "opencv")


def check_range(flag, value, low, high, unit=""):
    """Raises UsageError unless low <= value <= high."""
    if not low <= value <= high:
        raise UsageError(f"{flag} {value}: give a number from {low} to {high}{' ' + unit if unit else ''}")


def available_cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def first(names, count=10):
    """The first names, and how many more there are, as text for a message."""
    names = list(names)
    return ", ".join(map(str, names[:count])) + (f" and {len(names) - count} more" if len(names) > count else "")


def plural(count, noun):
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


@dataclass(frozen=True)
class Video:
    """name: "class/video" without the suffix; path: of the file; size: in bytes."""

    name: str
    path: str
    size: int


def visible(folder):
    """Entries of a folder that are not hidden, sorted by name."""
    with os.scandir(folder) as entries:
        return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)


def class_folders(root):
    """Folders that hold videos: <root>/<class>, or <root>/{train,val,validate,test}/<class>."""
    for folder in visible(root):
        if not os.path.isdir(folder.path):  # false for a link that leads round in circles, where is_dir raises
            continue
        try:
            inside = [entry.path for entry in visible(folder.path)] if folder.name in PARTS else []
        except OSError:  # find_videos says so
            inside = []
        if any(map(os.path.isdir, inside)) and not any(map(os.path.isfile, inside)):
            yield from visible(folder.path)
        else:
            yield folder


class Found:
    """What a look through folders of videos has found.

    named: {name: Video}; others: paths of the files that are no videos; refused: [(path, why)], links that lead
    nowhere, folders that cannot be read, what is called as a video and is no file, and names that no list can carry;
    unlisted: paths of the videos that are in no list, where lists place the videos.
    """

    def __init__(self):
        self.named, self.others, self.refused, self.unlisted = {}, [], [], []

    @property
    def videos(self):
        """[Video] sorted by name."""
        return [self.named[name] for name in sorted(self.named)]

    def set_aside(self, entry, called_as_video=False):
        if called_as_video or not os.path.exists(entry.path):
            self.refused.append((entry.path, lost_link(entry.path) or "is no regular file"))
        else:
            self.others.append(entry.path)

    def files(self, entries):
        """Yields (name without suffix, entry) of the files that are called as videos; sets the others aside."""
        for entry in entries:
            stem, suffix = os.path.splitext(entry.name)
            called_as_video = suffix.lower() in VIDEO_SUFFIXES
            if called_as_video and os.path.isfile(entry.path):
                yield stem, entry
            else:
                self.set_aside(entry, called_as_video and not os.path.isdir(entry.path))

    def add(self, name, entry):
        """Raises DataError where another file has the name."""
        if name in self.named:
            raise DataError(f"{entry.path} and {self.named[name].path} would both become {name}: "
                            "remove or rename one of them")
        self.named[name] = Video(name, entry.path, entry.stat().st_size)


def find_videos(root):
    """Videos in <root>/<class>/ -> Found.

    Raises UsageError where `root`, the flag --videos, is no folder, and DataError where it holds no video or where two
    files would get the same name.
    """
    if not os.path.isdir(root):
        raise UsageError(f"--videos {root} is not a folder: give the folder that holds <class>/<video>")
    found = Found()
    for entry in visible(root):
        if not os.path.isdir(entry.path):
            found.set_aside(entry)
    for folder in class_folders(root):
        try:
            entries = visible(folder.path)
        except OSError as error:
            found.refused.append((folder.path, f"cannot be read ({error.strerror})"))
            continue
        if fault := class_fault(folder.name):
            found.refused.append((folder.path, f"no list can carry its name, as {fault}: rename the folder"))
            continue
        for stem, entry in found.files(entries):
            if fault := name_fault(stem):
                found.refused.append((entry.path, f"no list can carry its name, as {fault}: rename the file"))
            else:
                found.add(f"{folder.name}/{stem}", entry)
    if not found.named and not found.refused:
        raise DataError(f"--videos {root} holds no video in <class>/<video>{{{','.join(VIDEO_SUFFIXES)}}}")
    return found


def find_flat_videos(root, places):
    """Videos that lie in `root` itself, which the lists place in classes -> Found.

    places: {file's name without suffix: class/video}. Raises as find_videos does.
    """
    if not os.path.isdir(root):
        raise UsageError(f"--videos {root} is not a folder: give the folder that holds the videos themselves")
    found = Found()
    for stem, entry in found.files(visible(root)):
        if stem in places:
            found.add(places[stem], entry)
        else:
            found.unlisted.append(entry.path)
    if not found.named and not found.refused:
        raise DataError(f"--videos {root} holds no <video>{{{','.join(VIDEO_SUFFIXES)}}} of the lists: give the folder "
                        "that holds the videos themselves")
    return found


def lost_link(path):
    """What is wrong with a link that leads nowhere -> text, None where the path is there."""
    try:
        os.stat(path)
        return None
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def readable(path):
    """A path as a message shows it: as it is, or escaped where its line would not show what it is."""
    text = str(path)
    return text if text.isprintable() and text == text.strip() else repr(text)


def write_files(texts):
    """Write {path: text}, all of them or none, as whole_files does: an error leaves the old files."""
    with whole_files(texts) as temporaries:
        for temporary, text in zip(temporaries, texts.values(), strict=True):
            temporary.write_text(text, encoding="utf-8", newline="")


@contextmanager
def full_disk(flag, folder):
    """Raises DataError, naming the flag, in place of the OSError of a disk that is full."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise DataError(f"{flag} {folder}: {error.strerror}: make room and start the same command again; what is "
                        "finished is kept") from error


def read_manifest(path):
    """{video: row} of a manifest; {} where there is no file."""
    if not os.path.lexists(path):
        return {}
    hint = "remove it and run extract_frame.py again (it extracts nothing twice)"
    rows = {row["video"]: row for row in read_table(path, COLUMNS, hint)}
    for video, row in rows.items():
        if not FRAMES.fullmatch(row["frames"]):
            raise DataError(f"{path}: the frames of {quoted(video)} are {quoted(row['frames'])}, not a number: {hint}")
    return rows

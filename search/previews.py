"""Pictures of windows: a still, and an animation that any browser plays. Made when they are asked for, and kept."""
import hashlib
import threading
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from core.errors import DataError
from core.files import TEMPORARY, whole_file
from dataset.unlisted import Known
from dataset.video import content_hash
from dataset.windows import VideoFacts, frames_at

from .library import Library

HEIGHT, RATE, MOST_FRAMES = 144, 8, 96  # pixels; pictures a second of an animation, and at most
WIDEST = 4  # times the height: wider ones are squeezed
LARGE, AROUND = 288, 3  # pixels and seconds of those that are played
AT_A_TIME = 2  # previews that are made
MOST_KEPT = 2**30  # bytes of the previews that are kept, about


class Previews:
    """Pictures of the segments of a library, in its own folder. Files are read, never written."""

    def __init__(self, library: Library) -> None:
        self.library, self.folder = library, library.own / "previews"
        self.slots, self.lock = threading.Semaphore(AT_A_TIME), threading.Lock()
        self.making: dict[str, threading.Lock] = {}  # by name of the file: two browsers may ask for one
        # of files with another time than when they were embedded: size and time, whether the content is the same
        self.compared: dict[str, tuple[tuple[int, int], bool]] = {}
        self.size = MOST_KEPT + 1  # of the folder; not known before it is looked at

    def facts(self, place: int) -> tuple[str, VideoFacts]:
        """A segment's file and what is known of it. Raises DataError where it is gone, or has changed."""
        path = self.library.files[self.library.file[place]]
        known = self.library.known.get(path)
        try:
            now = Path(path).stat()
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror})") from error
        if known is None or not self._unchanged(path, known, (now.st_size, now.st_mtime_ns)):
            raise DataError(f"{path} has changed since it was embedded: run embed.py again, and start this page again")
        return path, known.facts

    def _unchanged(self, path: str, known: Known, stamp: tuple[int, int]) -> bool:
        """Whether a file has the content that was embedded, also at another time: a copy, or touched."""
        if stamp == known[:2] or stamp[0] != known.bytes:
            return stamp == known[:2]
        if self.compared.get(path, (None, False))[0] != stamp:
            self.compared[path] = stamp, content_hash(path) == known.facts.hash
        return self.compared[path][1]

    def still(self, place: int) -> Path:
        """A JPEG of the middle of a segment. Raises DataError where the video cannot be read."""
        middle = (self.library.start[place] + self.library.end[place]) / 2
        return self._made(place, f"{middle:.3f}", ".jpg", np.array([middle]), HEIGHT)

    def moving(self, place: int, around: bool = False) -> Path:
        """A WebP animation of a segment, and of the seconds around it if `around`. Raises DataError as `still`."""
        start, end = max(self.library.start[place] - AROUND * around, 0), self.library.end[place] + AROUND * around
        times = np.arange(start, end, max(1 / RATE, (end - start) / MOST_FRAMES))
        return self._made(place, f"{start:.3f}_{end:.3f}", ".webp", times, LARGE if around else HEIGHT)

    def _made(self, place: int, name: str, suffix: str, times: np.ndarray, height: int) -> Path:
        path, facts = self.facts(place)
        target = self.folder / hashlib.blake2b(f"{facts.hash} {name} {height}".encode(), digest_size=12).hexdigest()
        target = target.with_suffix(suffix)
        with self.lock:
            own = self.making.setdefault(target.name, threading.Lock())
        with own, self.slots:
            if not target.exists():
                pictures = [self._small(picture, height) for picture in frames_at(path, facts, times)]
                with whole_file(target) as temporary, open(temporary, "wb") as file:
                    if suffix == ".jpg":
                        pictures[0].save(file, "JPEG", quality=80)
                    else:
                        step = float(np.mean(np.diff(times))) if len(times) > 1 else 0.2
                        pictures[0].save(file, "WEBP", save_all=True, append_images=pictures[1:], loop=0, quality=60,
                                         duration=round(1000 * step))
                self._make_room(target)
        return target

    def _make_room(self, new: Path) -> None:
        """Delete the oldest previews where they are too large together, until a tenth of the room is free."""
        with self.lock:
            self.size += new.stat().st_size
            if self.size <= MOST_KEPT:
                return
            kept = sorted(((path, path.stat()) for path in self.folder.iterdir()
                           if path != new and not path.name.startswith(TEMPORARY)),
                          key=lambda one: one[1].st_mtime_ns)
            self.size = new.stat().st_size + sum(one.st_size for _, one in kept)
            for path, one in kept if self.size > MOST_KEPT else ():
                path.unlink(missing_ok=True)
                self.size -= one.st_size
                if self.size <= 0.9 * MOST_KEPT:
                    return

    @staticmethod
    def _small(picture: np.ndarray, height: int) -> Image.Image:
        width = max(1, min(round(picture.shape[1] * height / picture.shape[0]), WIDEST * height))
        return Image.fromarray(cv2.cvtColor(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA),
                                            cv2.COLOR_BGR2RGB))

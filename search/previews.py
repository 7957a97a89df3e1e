"""Pictures of windows: made when they are asked for, by processes of their own, and kept."""
import hashlib
import queue
import threading
from pathlib import Path

import numpy as np

from core.errors import DataError
from core.files import TEMPORARY, whole_file
from core.jobs import Worker, WorkerDied
from dataset.by_time import VideoFacts
from dataset.unlisted import Known
from dataset.video import content_hash

from .library import Library
from .pictures import Wanted, make

HEIGHT, RATE, MOST_FRAMES = 144, 8, 96  # pixels; pictures a second of an animation, and at most
LARGE, AROUND = 288, 3  # pixels and seconds of those that are played
AT_A_TIME, PATIENCE = 2, 60  # previews that are made; seconds for each
MOST_KEPT = 2**30  # bytes of the previews that are kept, about


class Previews:
    """Pictures of the segments of a library, in its own folder. Files are read, never written."""

    def __init__(self, library: Library) -> None:
        self.library, self.folder = library, library.own / "previews"
        self.lock, self.workers = threading.Lock(), queue.SimpleQueue[Worker]()
        for _ in range(AT_A_TIME):
            self.workers.put(Worker(make))
        self.making = [threading.Lock() for _ in range(64)]  # by name of the file: two browsers may ask for one
        # of files with another time than when they were embedded: size and time, whether the content is the same
        self.compared: dict[str, tuple[tuple[int, int], bool]] = {}
        self.size = MOST_KEPT + 1  # of the folder; not known before it is looked at

    def facts(self, place: int) -> tuple[str, VideoFacts]:
        """A segment's file and what is known of it. Raises DataError where it is gone, or has changed."""
        path, known = self.library.files[self.library.file[place]], self.library.known_of(place)
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
        return self._made(place, f"{middle:.3f}", np.array([middle]), HEIGHT, moving=False)

    def around(self, place: int) -> tuple[float, float]:
        """Between which seconds a segment is played: some before it and after, within the video."""
        facts, end = self.library.facts(place), self.library.end[place] + AROUND
        return max(self.library.start[place] - AROUND, 0), min(end, facts.seconds) if facts else end

    def moving(self, place: int, around: bool = False) -> Path:
        """A WebP animation of a segment, and of the seconds around it if `around`. Raises DataError as `still`."""
        start, end = self.around(place) if around else (self.library.start[place], self.library.end[place])
        times = np.arange(start, end, max(1 / RATE, (end - start) / MOST_FRAMES))
        return self._made(place, f"{start:.3f}_{end:.3f}", times, LARGE if around else HEIGHT, moving=True)

    def _made(self, place: int, name: str, times: np.ndarray, height: int, moving: bool) -> Path:
        path, facts = self.facts(place)
        target = self.folder / hashlib.blake2b(f"{facts.hash} {name} {height}".encode(), digest_size=12).hexdigest()
        target = target.with_suffix(".webp" if moving else ".jpg")
        with self.making[hash(target.name) % len(self.making)]:
            if not target.exists():
                with whole_file(target) as temporary:
                    self._make(Wanted(path, facts, times, height, moving, temporary))
                self._make_room(target)
        return target

    def _make(self, wanted: Wanted) -> None:
        worker = self.workers.get()
        try:
            said = worker.do(wanted, PATIENCE)
        finally:
            self.workers.put(worker)
        if isinstance(said, WorkerDied):
            raise DataError(f"video {wanted.video} cannot be shown: {said.reason}")
        if said is not None:
            raise said

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

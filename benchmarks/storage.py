"""Containers for frames compared: folders of JPEGs, stored zip, LMDB, HDF5, tar with an index; and the videos.

    python benchmarks/storage.py --dataset ucf101-5class

Packs the frames of a data set into each kind of container in a temporary folder and reads from all of them the frames
of the same random pretraining samples (two clips of 16 frames, stride 4). LMDB and HDF5 are left out where their
packages (lmdb, h5py) are not installed. Written to benchmarks/results/storage.md unless --out says otherwise.
"""
import importlib.util
import json
import multiprocessing
import os
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.common import alternate, heading, new_parser, table, write
from core.errors import DataError
from core.exits import run
from dataset.lists import local_dataset, open_list
from dataset.reader import FRAME_NAME, FrameFolders, FrameReader
from dataset.sampling import PretrainViews
from dataset.storage import PackedFrames
from dataset.video import VideoFiles
from engine.flags import positive
from process_data.src.pack import pack

FRAMES = "folders of JPEGs"


def frames_of(folder):
    return [path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix == ".jpg"]


def ends_of(frames):
    """Where each frame ends and the next begins: (N + 1,) int64."""
    return np.cumsum([0, *map(len, frames)], dtype=np.int64)


class Container:
    """Base of the containers tried; opened by the process that reads, as handles do not outlive a fork."""

    def __init__(self, path):
        self.path, self.process = path, None

    def read(self, video, indices):
        """Yields (bytes, name) for each of `indices`, as a source of dataset/storage.py."""
        if self.process != os.getpid():
            self.open()
            self.process = os.getpid()
        yield from ((data, video) for data in self.get(video, indices))

    def close(self):
        self.file.close()
        self.process = None


class Lmdb(Container):
    """One value a video: number of frames, their ends, the frames."""

    @staticmethod
    def write(path, folders):
        import lmdb
        with lmdb.open(str(path), map_size=1 << 40, subdir=False) as env:
            for name, folder in folders.items():
                frames = frames_of(folder)
                ends = ends_of(frames)
                with env.begin(write=True) as change:
                    change.put(name.encode(), len(ends).to_bytes(8, "little") + ends.tobytes() + b"".join(frames))

    def open(self):
        import lmdb
        self.file = lmdb.open(str(self.path), subdir=False, readonly=True, lock=False)

    def get(self, video, indices):
        with self.file.begin(buffers=True) as reading:
            value = reading.get(video.encode())
            count = int.from_bytes(value[:8], "little")
            ends, start = np.frombuffer(value, np.int64, count, 8), 8 + 8 * count
            for index in indices:
                yield bytes(value[start + ends[index]:start + ends[index + 1]])


class Hdf5(Container):
    """Two data sets a video: its frames end to end, and their ends."""

    @staticmethod
    def write(path, folders):
        import h5py
        with h5py.File(path, "w") as file:
            for name, folder in folders.items():
                frames = frames_of(folder)
                file[f"{name}/jpeg"] = np.frombuffer(b"".join(frames), np.uint8)
                file[f"{name}/ends"] = ends_of(frames)

    def open(self):
        import h5py
        self.file = h5py.File(self.path, "r", locking=False)

    def get(self, video, indices):
        ends, data = self.file[f"{video}/ends"][:], self.file[f"{video}/jpeg"]
        for index in indices:
            yield data[ends[index]:ends[index + 1]].tobytes()


class Tar(Container):
    """A tar of all videos, as WebDataset has it, and an index of where each frame lies, without which it has none."""

    @staticmethod
    def write(path, folders):
        index = {}
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for name, folder in folders.items():
                places = index[name] = []
                for file in sorted(folder.glob("*.jpg")):
                    tar.add(file, f"{name}/{file.name}")
                    size = file.stat().st_size
                    places.append((tar.offset - (size + 511) // 512 * 512, size))
        path.with_suffix(".json").write_text(json.dumps(index))

    def open(self):
        self.index = {name: np.array(places) for name, places in
                      json.loads(self.path.with_suffix(".json").read_text()).items()}
        self.file = open(self.path, "rb", buffering=0)

    def get(self, video, indices):
        for offset, size in self.index[video][indices].tolist():
            yield os.pread(self.file.fileno(), size, offset)


def write_zips(path, folders, frames):
    for name in folders:
        pack(name, frames, path, True)


def build(work, folders, frames, skipped):
    """Write all containers -> ({name: (class, path)}, {name: seconds})."""
    writers = {"stored zip a video": (PackedFrames, lambda path: write_zips(path, folders, frames), ""),
               "LMDB": (Lmdb, lambda path: Lmdb.write(path, folders), "lmdb"),
               "HDF5": (Hdf5, lambda path: Hdf5.write(path, folders), "h5py"),
               "tar with index": (Tar, lambda path: Tar.write(path, folders), "")}
    stores, seconds = {FRAMES: (FrameFolders, frames)}, {FRAMES: 0.0}
    for name, (kind, writer, package) in writers.items():
        if package and importlib.util.find_spec(package) is None:
            skipped.append(f"{name} left out: the package {package} is not installed")
            continue
        path, start = work / name.replace(" ", "_") / "store", time.perf_counter()
        path.parent.mkdir()
        writer(path)
        os.sync()
        stores[name], seconds[name] = (kind, path), time.perf_counter() - start
        print(f"{name} written in {seconds[name]:.0f} s", file=sys.stderr)
    return stores, seconds


def draw_samples(videos, count):
    """[(video, distinct frames of a pretraining sample)]"""
    sampler, rng = PretrainViews(16, 4), np.random.default_rng(0)
    rows = rng.integers(len(videos), size=count)
    return [(str(videos.names[row]), np.unique(sampler(int(videos.num_frames[row]), rng))) for row in rows]


def read_all(source, samples):
    return [data for video, indices in samples for data, _ in source.read(video, indices)]


def files_of(path, folders):
    """All files of a container, of the folders of frames those in use."""
    if path.is_file():
        return [path, *path.parent.glob("*.json")]
    roots = [path / name for name in folders] if (path / next(iter(folders))).is_dir() else [path]
    return [Path(root, name) for top in roots for root, _, names in os.walk(top) for name in names]


def drop_from_memory(files):
    for path in files:
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def time_alone(kind, path, samples):
    """Seconds from nothing to the bytes of the samples, in a new process."""
    def measure(channel):
        start = time.perf_counter()
        read_all(kind(path), samples)
        channel.send(time.perf_counter() - start)
    return in_fork(measure)[0]


def in_fork(*functions):
    """Call each in a forked process, which sends one value -> the values."""
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe() for _ in functions]
    processes = [context.Process(target=function, args=(theirs,))
                 for function, (_, theirs) in zip(functions, pipes, strict=True)]
    for process, (_, theirs) in zip(processes, pipes, strict=True):
        process.start()
        theirs.close()
    values = [ours.recv() for ours, _ in pipes]
    for process in processes:
        process.join()
    return values


def two_readers(kind, path, samples):
    """Seconds for two forked processes to read half of the samples each: the slower one's."""
    def reader(part):
        def measure(channel):
            cv2.setNumThreads(1)
            start = time.perf_counter()
            read_all(kind(path), part)
            channel.send(time.perf_counter() - start)
        return measure
    return max(in_fork(reader(samples[::2]), reader(samples[1::2])))


def flags():
    parser = new_parser("benchmarks/storage.py", __doc__, out=Path("benchmarks/results/storage.md"))
    parser.add_argument("--dataset", default="ucf101-5class", help="name in dataset/local_dataset.py, with frames")
    parser.add_argument("--samples", type=int, default=300, help="random samples to read")
    parser.add_argument("--rounds", type=int, default=5, help="times all containers are read in turn; medians count")
    return parser


def compare(stores, seconds, folders, samples, args):
    """-> rows of the table, one a container."""
    sources = {name: kind(path) for name, (kind, path) in stores.items()}
    wanted = {name: read_all(source, samples[:3]) for name, source in sources.items()}
    if different := [name for name, data in wanted.items() if data != wanted[FRAMES]]:
        raise DataError(f"{different[0]} gives other bytes than the folders of JPEGs: its reader is wrong")
    files = {name: files_of(path, folders) for name, (_, path) in stores.items()}
    warm = alternate({name: lambda source=source: read_all(source, samples) for name, source in sources.items()},
                     args.rounds)
    for source in sources.values():
        if isinstance(source, Container):
            source.close()  # LMDB cannot be opened in a forked process while its parent has it open
    two = {name: np.median([two_readers(*stores[name], samples) for _ in range(args.rounds)]) for name in stores}
    cold = {}
    for name in stores:
        drop_from_memory(files[name])
        cold[name] = time_alone(*stores[name], samples)
    n, frames = len(samples), len(files[FRAMES])
    payload, rows = sum(path.stat().st_size for path in files[FRAMES]), []
    for name in stores:
        size = sum(path.stat().st_size for path in files[name])
        disk = sum(path.stat().st_blocks for path in files[name]) * 512
        rows.append([name, len(files[name]), f"{(size - payload) / frames:.0f}", f"{disk / payload:.2f}",
                     f"{warm[name] / n * 1e3:.2f}", f"{warm[FRAMES] / warm[name]:.1f}", f"{two[name] / n * 1e3:.2f}",
                     f"{cold[name] / n * 1e3:.1f}", f"{time_alone(*stores[name], samples[:1]) * 1e3:.1f}",
                     f"{seconds[name]:.0f}" if seconds[name] else ""])
    return rows


def compare_with_decoding(local, stores, samples, rounds):
    """Samples through the reader, decoded and scaled to 128 x 171 -> rows of the table."""
    roots = {"frames": (FrameFolders, local.frames), "packed": stores["stored zip a video"]}
    if local.root("video").is_dir():
        roots["video"] = (VideoFiles, local.root("video"))
    samples = samples[:max(len(samples) // 10, 1)]
    readers = {name: FrameReader(root, (128, 171), "", kind) for name, (kind, root) in roots.items()}
    took = alternate({name: lambda reader=reader: [list(reader.read(*sample)[0]) for sample in samples]
                      for name, reader in readers.items()}, rounds)
    return [[f"`--storage {name}`", f"{seconds / len(samples) * 1e3:.1f}", f"{took['frames'] / seconds:.2f}"]
            for name, seconds in took.items()]


def main(argv):
    args = flags().parse_args(argv)
    positive(args, "samples", "rounds")
    local, videos = local_dataset(args.dataset), open_list(args.dataset, "train", 1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    cv2.setNumThreads(1)
    folders, skipped = {str(name): local.frames / name for name in sorted(videos.names)}, []
    samples = draw_samples(videos, args.samples)
    height, width = cv2.imread(str(local.frames / videos.names[0] / FRAME_NAME.format(1))).shape[:2]
    with tempfile.TemporaryDirectory(prefix="storage_", dir=os.environ.get("TMPDIR")) as work:
        stores, seconds = build(Path(work), folders, local.frames, skipped)
        rows = compare(stores, seconds, folders, samples, args)
        decoded = compare_with_decoding(local, stores, samples, args.rounds)
    distinct = np.mean([len(indices) for _, indices in samples])
    write(args.out, [
        *heading("Storage of frames", f"{len(videos)} videos of {args.dataset}, {sum(videos.num_frames)} frames of "
                 f"{width} x {height}; {len(samples)} random samples of {distinct:.1f} distinct frames; one thread",
                 *skipped),
        "Bytes of the JPEGs only, not decoded; ms a sample. *Cold*: after the system was told to forget the files, "
        "once. *First*: opening and one sample in a new process. The zips are written by pack.py, which looks at each "
        "frame's ends, makes checksums and syncs each file.", "",
        *table(["container", "files", "bytes more a frame", "disk / JPEGs", "warm", "x folders", "2 forked readers",
                "cold", "first", "written in s"], rows), "",
        "The same with decoding and scaling to 171 x 128, ms a sample:", "",
        *table(["storage", "ms", "x frames"], decoded)])


if __name__ == "__main__":
    run(main)

"""Reading frames from videos by their numbers: --storage video against other readers and what it must decode at least.

    python benchmarks/video.py --out benchmarks/results/video.md       a minute or two
    python benchmarks/video.py --long recording.mp4

One random clip of 16 frames at stride 4 of each of a few videos, and 32 frames at stride 4 at random places of a long
one. The limit is decoding the group of pictures alone: from the last frame before the clip that needs no other, to the
clip's last. Other readers are OpenCV, torchcodec, PyAV and decord, those of them that are there
(benchmarks/requirements.txt; torchcodec needs FFmpeg's shared libraries as well).
"""
import functools
import importlib
import itertools
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.common import alternate, choose, heading, new_parser, table, write
from core.exits import run
from dataset.sampling import PretrainViews
from dataset.video import VideoFiles, decoded, frame_times, open_video
from engine.flags import positive

OURS, FIRST = "--storage video", "--storage video, first time"
START, LIMIT = "from the start on", "its group of pictures"


def flags():
    parser = new_parser("benchmarks/video.py", __doc__, videos=True)
    parser.add_argument("--count", type=int, default=12, help="videos to take, spread over the folder; a clip each")
    parser.add_argument("--long", type=Path, help="a long video; None: one of --seconds is written, in MPEG-4")
    parser.add_argument("--seconds", type=int, default=200, help="of the long video that is written")
    parser.add_argument("--rounds", type=int, default=5, help="repetitions, of which the fastest counts")
    return parser


# --- readers: path, ascending frame numbers, frames of the video -> (frames, H, W, 3) uint8 RGB, one thread -------

def by_torchcodec(path, numbers, count, seek_mode):
    from torchcodec.decoders import VideoDecoder
    decoder = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode=seek_mode)
    return decoder.get_frames_at(numbers).data.numpy()


def by_pyav(path, numbers, count, seek):
    import av
    with av.open(path, metadata_errors="ignore") as file:  # some of HMDB51 have titles that are no text
        stream = file.streams.video[0]
        stream.codec_context.thread_count = 1
        frames = enumerate(file.decode(stream))
        if seek:  # by the time that a frame of this number has at a constant rate
            rate, begin = float(stream.average_rate * stream.time_base), stream.start_time or 0
            file.seek(begin + round(numbers[0] / rate), stream=stream)
            frames = ((round((frame.pts - begin) * rate), frame) for frame in file.decode(stream))
        wanted, found = set(numbers), {}
        for number, frame in frames:
            if number in wanted:
                found[number] = frame.to_ndarray(format="rgb24")
            if number >= numbers[-1]:
                break
        return np.stack([found[number] for number in numbers])


def by_opencv(path, numbers, count):
    with open_video(path) as capture:
        capture.set(cv2.CAP_PROP_POS_FRAMES, numbers[0])
        found = [capture.grab() and (number not in numbers or capture.retrieve()[1][..., ::-1])
                 for number in range(numbers[0], numbers[-1] + 1)]
        return np.stack([picture for picture in found if picture is not True])


def by_decord(path, numbers, count):
    import decord
    return decord.VideoReader(path, num_threads=1).get_batch(numbers).asnumpy()


PEERS = {"torchcodec": ("torchcodec", functools.partial(by_torchcodec, seek_mode="exact")),
         "torchcodec, approximate seeking": ("torchcodec", functools.partial(by_torchcodec, seek_mode="approximate")),
         "OpenCV, its own seeking": ("cv2", by_opencv),
         "PyAV, its own seeking": ("av", functools.partial(by_pyav, seek=True)),
         "PyAV from the start on": ("av", functools.partial(by_pyav, seek=False)), "decord": ("decord", by_decord)}


def absent(package):
    """Why a package cannot be used here -> text, or None where it can."""
    try:
        importlib.import_module(package)
    except ImportError:
        return "not installed"
    except (RuntimeError, OSError) as error:  # torchcodec without FFmpeg's libraries
        return f"does not load: {str(error).strip().splitlines()[0]}"
    return None


def refused(reader, work):
    """Why another reader cannot read the videos to where they are asked for -> text, or None where it can."""
    for one in work:
        try:
            reader(*one)
        except Exception as error:  # each has errors of its own
            return f"fails at {Path(one[0]).name}: {str(error).strip().splitlines()[0]}"
    return None


def by_us(source, path, numbers, count):
    return np.stack([picture for picture, _ in source.read(path, numbers, count)])


def new_source():
    source = VideoFiles("/")
    source.path = str  # videos are named by their paths here
    return source


def group_of_pictures(keys, path, numbers, count):
    """Open a video and decode as many frames as from the key frame before the clip on, but its first ones: no search.
    """
    key = int(keys[path][keys[path] <= numbers[0]][-1])
    return by_us(new_source(), path, [number - key for number in numbers], None)


# --- videos --------------------------------------------------------------------------------------------------

def write_long(videos, path, seconds):
    """All frames of some videos, again and again, as one."""
    out, left = None, 25 * seconds
    for video in itertools.cycle(videos):
        for picture in decoded(video, range(count_of(video)), None):
            if out is None:
                size = picture.shape[1::-1]
                out = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 25, size)
            out.write(cv2.resize(picture, size))
            left -= 1
            if not left:
                out.release()
                return


def count_of(path):
    """Frames of a video that can be decoded."""
    with open_video(path) as capture:
        return sum(1 for _ in iter(capture.grab, False))


# --- the report ----------------------------------------------------------------------------------------------

def compared(title, work, rounds, limit):
    """Lines of a table; work: [(path, ascending numbers, frames of the video)]; limit: whether to measure it."""
    again, lacking = new_source(), {}
    ways = {OURS: functools.partial(by_us, again), FIRST: lambda *one: by_us(new_source(), *one),
            START: lambda path, numbers, _: by_us(new_source(), path, numbers, None)}
    if limit:
        keys = {path: frame_times(path).keys for path, _, _ in work}
        ways[LIMIT] = functools.partial(group_of_pictures, keys)
    for name, (package, function) in PEERS.items():
        if reason := absent(package) or refused(function, work):
            lacking[name] = reason
        else:
            ways[name] = function

    def same(way):  # share of frames; a decoder's rounding differs by less than a grey level
        return np.concatenate([np.abs(way(*one).astype(np.int16) - ways[START](*one)).mean(axis=(1, 2, 3)) < 1
                               for one in work]).mean()

    agree = {name: f"{100 * same(way):.0f} %" for name, way in ways.items() if name != LIMIT}
    found = alternate({name: lambda way=way: [way(*one) for one in work] for name, way in ways.items()}, rounds,
                      time.process_time)
    base = LIMIT if limit else OURS
    rows = [[name, f"{1000 * seconds / len(work):.1f} ms", f"{seconds / found[base]:.2f}", agree.get(name, "")]
            for name, seconds in found.items()] + [[name, reason, "", ""] for name, reason in lacking.items()]
    return ["", f"## {title}", "", *table(["reader, one thread", "processor's time of a clip", f"in units of {base}",
                                          f"frames as {START}"], rows)]


def main(argv):
    args = flags().parse_args(argv)
    positive(args, "count", "rounds", "seconds")
    cv2.setNumThreads(0)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        source = choose(args.videos, args.count, Path(folder) / "videos")
        videos = sorted(map(str, (Path(folder) / "videos").glob("*/*")))
        sampler = PretrainViews(16, 4)
        short = [(path, np.unique(sampler(count, rng)[0]).tolist(), count)
                 for path, count in ((path, count_of(path)) for path in videos)]
        long = args.long or Path(folder) / "long.mp4"
        if args.long is None:
            write_long(videos, long, args.seconds)
        count = count_of(long)
        places = rng.integers(0, max(count - 128, 1), 8)
        work = [(str(long), list(range(place, min(place + 128, count), 4)), count) for place in places.tolist()]
        lines = [*heading("Reading frames from videos", f"videos of {source}; the long one: "
                          + (str(args.long) if args.long else f"their frames for {args.seconds} s, MPEG-4")
                          + f", {count} frames, of which {len(frame_times(long).keys)} need no others"),
                 *compared(f"A random clip of 16 frames, stride 4, of {len(short)} videos", short, args.rounds, False),
                 *compared("32 frames, stride 4, at a random place of the long video", work, args.rounds, True), "",
                 "Frames are asked for by number, counted from the start. A reader that finds them by time stamps "
                 "gives others where the file has none of its own, as an AVI with H.264."]
    write(args.out, lines)


if __name__ == "__main__":
    run(main)

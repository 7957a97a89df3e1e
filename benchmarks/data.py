"""The loader's cost of a pretraining sample, on one core, in units of decoding its frames.

    python benchmarks/data.py --out benchmarks/results/data.md       a minute

A few videos are extracted at 240 pixels and at training size, and the latter packed. Measured on the same random
samples (3 views of 16 frames at stride 4, the first and third of the same frames): decoding the distinct frames and
nothing else; what a loader worker does (read, decode, resize, crop, draw, collate); that and the augmentation; and the
usual way, PIL and torchvision frame by frame. `--profile` says where the worker's time goes.

Last, one random clip of each sample is read from its video: `--storage video` against torchcodec, PyAV and decord,
those of them that are there (benchmarks/requirements.txt; torchcodec needs FFmpeg's shared libraries as well).
"""
import cProfile
import functools
import importlib
import io
import itertools
import pstats
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch
import torchvision.transforms.v2.functional as tv
from PIL import Image
from torch.utils.data import default_collate

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.common import alternate, choose, extract, heading, new_parser, run_script, table, write
from core.exits import run
from dataset.augment import BLUR as BLUR_COLUMN
from dataset.augment import FACTORS, JITTER, MEAN, ORDER, SIGMA, STD, PretrainDraw, prepare
from dataset.clips import VideoClips
from dataset.crops import RandomCrop
from dataset.loader import keep_memory
from dataset.reader import FRAME_NAME, FrameReader
from dataset.sampling import PretrainViews
from dataset.storage import SOURCES, VideoFiles
from engine.flags import positive

SIZE, RESIZE = 112, (128, 171)
PEER = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)


def flags():
    parser = new_parser("benchmarks/data.py", __doc__, videos=True)
    parser.add_argument("--count", type=int, default=24, help="videos to take, spread over the folder; a sample each")
    parser.add_argument("--rounds", type=int, default=15, help="repetitions, of which the fastest counts")
    parser.add_argument("--profile", action="store_true", help="print where the worker's time goes")
    return parser


def data_set(root, videos, storage="frames"):
    """The data set as train.py makes it."""
    reader = FrameReader(root, RESIZE, source=SOURCES[storage])
    return VideoClips(videos, reader, PretrainViews(16, 4), RandomCrop(SIZE), PretrainDraw(2, SIZE))


def frames_of(frames, videos):
    """Of each sample of `data_set` (paths of its frames (views, T), its distinct JPEGs)."""
    sampler, drawn = PretrainViews(16, 4), []
    for index, (name, count) in enumerate(zip(videos.names, videos.num_frames, strict=True)):
        indices = sampler(int(count), np.random.default_rng([0, 0, index]))  # as VideoClips draws them
        paths = [[frames / name / FRAME_NAME.format(i + 1) for i in view] for view in indices]
        drawn.append((paths, [path.read_bytes() for path in sorted({path for view in paths for path in view})]))
    return drawn


def decode(drawn):
    for _, jpegs in drawn:
        for jpeg in jpegs:
            cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)


def load(data):
    """As a worker makes batches: of 8 videos, one GPU's share of the publication's 64."""
    for start in range(0, len(data), 8):
        default_collate([data[0, index] for index in range(start, min(start + 8, len(data)))])


def load_and_augment(data):
    """A sample at a time, as a worker would."""
    for index in range(len(data)):
        sample = default_collate([data[0, index]])
        prepare(sample["clips"], sample["augment"])


def usual_sample(views, rows, resize=RESIZE, size=SIZE):
    """A sample as most code of this field makes it, the published one too: every frame of every view by itself.

    views: paths of its frames, (views, T); rows: of augmentation, (views, LENGTH) -> (views, 3, T, H, W) float32.
    """
    clips, (top, left) = [], ((have - size) // 2 for have in resize)
    for view, row in zip(views, rows, strict=True):
        frames = []
        for path in view:
            picture = tv.resize(Image.open(io.BytesIO(path.read_bytes())).convert("RGB"), list(resize))
            picture = tv.crop(picture, top, left, size, size)
            if row[JITTER]:
                for operation in row[ORDER]:
                    picture = PEER[int(operation)](picture, row[FACTORS][int(operation)])
            if row[BLUR_COLUMN]:
                picture = tv.gaussian_blur(picture, [13, 13], [row[SIGMA]] * 2)
            frames.append(tv.normalize(tv.to_dtype(tv.to_image(picture), torch.float32, scale=True), MEAN, STD))
        clips.append(torch.stack(frames, dim=1))
    return torch.stack(clips)


def usual_way(drawn, parameters):
    """parameters: rows of augmentation for each sample."""
    for (paths, _), rows in zip(drawn, parameters, strict=True):
        usual_sample(paths, rows)


# --- a clip of a video: path, ascending frame numbers -> (frames, H, W, 3) uint8 RGB, decoded with one thread ----

def by_torchcodec(path, indices, seek_mode):
    from torchcodec.decoders import VideoDecoder
    decoder = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode=seek_mode)
    return decoder.get_frames_at(indices).data.numpy()


def by_pyav(path, indices):
    """From the start on: an AVI with H.264, as UCF101's here, has no time stamps to seek by that would be exact."""
    import av
    wanted = set(indices)
    with av.open(path) as file:
        stream = file.streams.video[0]
        stream.codec_context.thread_count = 1
        frames = itertools.islice(file.decode(stream), indices[-1] + 1)
        return np.stack([frame.to_ndarray(format="rgb24") for i, frame in enumerate(frames) if i in wanted])


def by_decord(path, indices):
    import decord
    return decord.VideoReader(path, num_threads=1).get_batch(indices).asnumpy()


PEERS = {"torchcodec": ("torchcodec", functools.partial(by_torchcodec, seek_mode="exact")),
         "torchcodec, approximate seeking": ("torchcodec", functools.partial(by_torchcodec, seek_mode="approximate")),
         "PyAV from the start on": ("av", by_pyav), "decord": ("decord", by_decord)}


def absent(package):
    """Why a package cannot be used here -> text, or None where it can."""
    try:
        importlib.import_module(package)
    except ImportError:
        return "not installed"
    except (RuntimeError, OSError) as error:  # torchcodec without FFmpeg's libraries
        return f"does not load: {str(error).strip().splitlines()[0]}"
    return None


def video_clips(args, folder, videos):
    """Lines of the table of readers: a clip of 16 frames, stride 4, of each video; ours is --storage video's."""
    source, sampler = VideoFiles(folder), PretrainViews(16, 4)
    work = [(name, source.path(name), np.unique(sampler(int(count), np.random.default_rng([0, 0, i]))[0]).tolist())
            for i, (name, count) in enumerate(zip(videos.names, videos.num_frames, strict=True))]
    ours, lacking = "OpenCV from the start on, as --storage video", {}
    ways = {ours: lambda name, _, indices: np.stack([picture for picture, _ in source.read(name, indices)])}
    for name, (package, function) in PEERS.items():
        if reason := absent(package):
            lacking[name] = reason
        else:
            ways[name] = lambda _, path, indices, function=function: function(path, indices)

    def same(way):  # share of frames; a decoder's rounding differs by less than a grey level
        got, wanted = (np.concatenate([read(*one) for one in work]) for read in (way, ways[ours]))
        return np.mean(np.abs(got.astype(np.int16) - wanted).mean(axis=(1, 2, 3)) < 1)

    agree = {name: same(way) for name, way in ways.items()}
    found = alternate({name: lambda way=way: [way(*one) for one in work] for name, way in ways.items()}, args.rounds)
    rows = [[name, f"{1000 * seconds / len(work):.1f} ms", f"{found[ours] / seconds:.2f}", f"{100 * agree[name]:.0f} %"]
            for name, seconds in found.items()] + [[name, reason, "", ""] for name, reason in lacking.items()]
    return ["", "## A random clip of 16 frames, stride 4, from its video", "",
            *table(["reader, one thread", "a clip", "ours / this", "frames that are the same as ours"], rows), "",
            "Frames are asked for by number, counted from the start. A reader that finds them by time stamps gives "
            "others where the file has none of its own, as an AVI with H.264."]


def measure(args, folder):
    """-> {what: seconds for all samples}, frames a sample, samples, where the videos were, (height, width) of both,
    lines about readers of videos."""
    source = choose(args.videos, args.count, folder / "videos")
    large, small = ((folder / str(side), extract(folder / "videos", folder / str(side), side)) for side in (240, 128))
    run_script("process_data/src/pack.py", "--frames", small[0], "--out", folder / "packed")
    data, data_small, packed = data_set(*large), data_set(*small), data_set(folder / "packed", small[1], "packed")
    drawn, drawn_small = frames_of(*large), frames_of(*small)
    parameters = [data[0, index]["augment"].tolist() for index in range(len(data))]
    # by size, and apart from augmentation, whose floats drive frames out of the cache: a worker does one thing only
    seconds = alternate({"decode": lambda: decode(drawn), "worker": lambda: load(data)}, args.rounds)
    seconds |= alternate({"decode small": lambda: decode(drawn_small), "worker small": lambda: load(data_small),
                          "worker packed": lambda: load(packed)}, args.rounds)
    augmented = alternate({"decode": lambda: decode(drawn), "cpu": lambda: load_and_augment(data),
                           "cpu packed": lambda: load_and_augment(packed)}, args.rounds)
    seconds |= {name: augmented[name] for name in ("cpu", "cpu packed")} | {"decode again": augmented["decode"]}
    seconds |= alternate({"usual": lambda: usual_way(drawn, parameters)}, 2)
    if args.profile:
        for name, which in (("240 high", data), ("training size, packed", packed)):
            profile = cProfile.Profile()
            profile.runcall(load, which)
            print(f"\n{name}:")
            pstats.Stats(profile).sort_stats("tottime").print_stats(12)
    sizes = [cv2.imdecode(np.frombuffer(one[0][1][0], np.uint8), 1).shape[:2] for one in (drawn, drawn_small)]
    readers = video_clips(args, folder / "videos", large[1])
    return seconds, np.mean([len(jpegs) for _, jpegs in drawn]), len(data), source, sizes, readers


def main(argv):
    args = flags().parse_args(argv)
    positive(args, "count", "rounds")
    # as in a loader's worker
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    keep_memory()
    with tempfile.TemporaryDirectory() as folder:
        s, frames, count, source, sizes, readers = measure(args, Path(folder))
    row = "{:.2f} ms".format
    ms = {name: 1000 * value / count for name, value in s.items()}
    tall, short = (f"{height}x{width}" for height, width in sizes)
    lines = [*heading("Loading a pretraining sample", f"{count} samples of videos of {source}, "
                      f"{frames:.1f} distinct frames each; frames of {tall} and {short}; one core, one thread"),
             *table(["a sample, one core", "time", "in units of", "ratio", "target"], [
                 [f"decoding its distinct frames, {tall}", row(ms["decode"]), "", "", ""],
                 [f"decoding its distinct frames, {short}", row(ms["decode small"]), "", "", ""],
                 [f"loader worker, {tall}", row(ms["worker"]), f"decoding {tall}",
                  f"{s['worker'] / s['decode']:.2f}", "<= 1.5"],
                 [f"loader worker, {short}", row(ms["worker small"]), f"decoding {short}",
                  f"{s['worker small'] / s['decode small']:.2f}", "<= 1.3"],
                 [f"loader worker, {short}, packed", row(ms["worker packed"]), f"decoding {short}",
                  f"{s['worker packed'] / s['decode small']:.2f}", "<= 1.3"],
                 [f"with augmentation on the CPU, {tall}", row(ms["cpu"]), f"decoding {tall}",
                  f"{s['cpu'] / s['decode again']:.2f}", "<= 3.5"],
                 [f"PIL and torchvision, frame by frame, {tall}", row(ms["usual"]), f"decoding {tall}",
                  f"{s['usual'] / s['decode again']:.2f}", ""]]), "",
             *table(["samples a second and core", "rate", "against PIL and torchvision", "target"], [
                 [f"loader worker, {short}, packed", f"{1000 / ms['worker packed']:.0f}",
                  f"{s['usual'] / s['worker packed']:.1f} x", ">= 25 x"],
                 [f"with augmentation on the CPU, {short}, packed", f"{1000 / ms['cpu packed']:.0f}",
                  f"{s['usual'] / s['cpu packed']:.1f} x", ">= 6 x"],
                 [f"PIL and torchvision, {tall}", f"{1000 / ms['usual']:.1f}", "1", ""]]), *readers]
    write(args.out, lines)


if __name__ == "__main__":
    run(main)

"""Ten-clip test and retrieval features: videos per second against decoding each clip's frames separately.

    python benchmarks/evaluate.py --out benchmarks/results/evaluate.md      about 3 minutes on 2 cores

The usual way reads, decodes and resizes (PIL) the frames of each clip for itself, one video a forward pass, contiguous
float32; ours is test.py's and retrieval.py's. Both read the same 240-high JPEGs with as many workers, and each runs in
a process of its own. Weights are random.
"""
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.common import TRAIN, alone, choose, extract, heading, new_parser, register, table, write, write_lists
from core.exits import run
from dataset.augment import MEAN, STD
from dataset.clips import VideoClips, open_reader
from dataset.crops import FixedCrops, resize_for
from dataset.lists import open_list
from dataset.reader import FRAME_NAME
from dataset.sampling import EvenClips, ten_clip_indices
from engine import evaluation
from engine.flags import not_negative, positive
from engine.precision import default_precision
from engine.setup import start
from models import build_backbone, build_classifier
from models.classifier import pooled

CLIPS, BATCH = 10, 2


@dataclass(frozen=True)
class Stage:
    """What is computed of a video. classifier: class probabilities, as test.py's; else features, as retrieval.py's."""

    net: str
    classifier: bool
    ds: int  # frame stride, the script's default


STAGES = {"R3D, ten-clip test": Stage("r3d", True, 2), "R(2+1)D, retrieval": Stage("r21d", False, 4)}


def flags():
    parser = new_parser("benchmarks/evaluate.py", __doc__, videos=True)
    parser.add_argument("--count", type=int, default=8, help="videos that are evaluated")
    parser.add_argument("--workers", type=int, default=2, help="loader processes")
    parser.add_argument("--width", type=float, default=1.0, help="multiplies the networks' channels")
    return parser


def write_data(root, videos, count):
    """Frames, 240 high, and list of `count` videos under `root` -> where the videos are from."""
    source = choose(videos, count, root / "videos")
    write_lists(root, extract(root / "videos", root / "frames", 240), "test")
    return source


# --- the two ways --------------------------------------------------------------------------------------------

class SeparateClips(Dataset):
    """The usual way's videos: all frames of all clips, each decoded and resized by itself."""

    def __init__(self, videos, root, ds, side):
        self.videos, self.root, self.ds, self.side = videos, root, ds, side

    def __len__(self):
        return len(self.videos)

    def __getitem__(self, index):
        """-> (clips, 3, T, H, W) float32"""
        side, frames = self.side, self.root / self.videos.names[index]
        height, width = resize_for(side)
        top, left = (height - side) // 2, (width - side) // 2
        clips = []
        for clip in ten_clip_indices(int(self.videos.num_frames[index]), TRAIN["seq_len"], self.ds, CLIPS):
            pictures = []
            for frame in clip:
                with Image.open(frames / FRAME_NAME.format(frame + 1)) as file:
                    picture = file.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
                window = picture.crop((left, top, left + side, top + side))
                tensor = torch.from_numpy(np.array(window)).permute(2, 0, 1).float() / 255
                pictures.append((tensor - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None])
            clips.append(torch.stack(pictures, dim=1))
        return torch.stack(clips)


def build(stage, width):
    """-> (network, compute(clips) -> rows) of a stage."""
    torch.manual_seed(0)
    if stage.classifier:
        network = build_classifier(stage.net, 101, width).eval()
        return network, lambda clips: network(clips).softmax(dim=1)
    network = build_backbone(stage.net, width).eval()
    return network, lambda clips: pooled(network, clips)


def measure(way, name, root, workers, width, side=TRAIN["img_dim"]):
    """Evaluate all videos -> seconds of {"all", "sample" (one worker, one video), "forward" (CLIPS clips)}.

    way: "usual" or "ours"; name: of a stage; side: of the clips, pixels.
    """
    stage, precision, seq_len = STAGES[name], "fp32", TRAIN["seq_len"]
    register(root)
    device = start()
    videos = open_list("benchmark", "test", 1)
    network, compute = build(stage, width)
    clips = torch.randn(CLIPS, 3, seq_len, side, side, device=device)
    if way == "ours":
        network, precision = evaluation.prepare_network(
            network, network.backbone if stage.classifier else network, [videos], device,
            precision=default_precision(None, device), batch_size=BATCH, clips=CLIPS, seq_len=seq_len, img_dim=side)
        clips = clips.contiguous(memory_format=torch.channels_last_3d)
        data = VideoClips(videos, open_reader("benchmark", "frames", resize_for(side)),
                          EvenClips(seq_len, stage.ds, CLIPS), FixedCrops(side))
        seconds = {"forward": timed(lambda: compute(clips), rounds=1), "sample": timed(lambda: data[0, 0], threads=1)}
        begun = time.perf_counter()
        loader = evaluation.eval_loader(data, device, batch_size=BATCH, workers=workers,
                                        timeout=TRAIN["loader_timeout"])
        evaluation.over_videos(compute, loader, len(data), device, name)
    else:
        data = SeparateClips(videos, root / "frames", stage.ds, side)
        network.to(device)
        seconds = {"forward": timed(lambda: compute(clips), rounds=1), "sample": timed(lambda: data[0], threads=1)}
        begun = time.perf_counter()
        with torch.no_grad():
            for batch in DataLoader(data, batch_size=1, num_workers=workers):
                compute(batch.flatten(0, 1).to(device)).mean(dim=0).cpu()
    whole = time.perf_counter() - begun
    operations = count_operations(network, compute, clips)
    return {**seconds, "all": whole, "operations": operations, "videos": len(videos), "precision": precision}


@torch.inference_mode()
def timed(function, threads=None, rounds=3):
    """Least seconds of a call, after one that is not counted."""
    usual = torch.get_num_threads()
    torch.set_num_threads(threads or usual)
    seconds = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    torch.set_num_threads(usual)
    return min(seconds[1:])


@torch.inference_mode()
def count_operations(network, compute, clips):
    """Floating-point operations of the convolutions in a forward pass of `clips`."""
    total = []

    def count(module, _clips, out):
        total.append(2 * out.numel() * module.weight[0].numel())

    hooks = [module.register_forward_hook(count) for module in network.modules()
             if isinstance(module, torch.nn.Conv3d)]
    compute(clips[:1])
    for hook in hooks:
        hook.remove()
    return sum(total) * len(clips)


# --- reporting -----------------------------------------------------------------------------------------------

def stage_rows(stage, usual, ours):
    """Lines of a stage's table: whole, and its parts a video."""
    n = ours["videos"]
    rows = [(f"{stage}: videos/s", n / usual["all"], n / ours["all"], usual["all"] / ours["all"]),
            ("a video, whole, s", usual["all"] / n, ours["all"] / n, usual["all"] / ours["all"])]
    for part, text in (("sample", "its sample in one worker: read, decode, resize, crop, s"),
                       ("forward", "its forward pass alone, s")):
        rows.append((text, usual[part], ours[part], usual[part] / ours[part]))
    rate = [x["operations"] / x["forward"] / 1e9 for x in (usual, ours)]
    rows.append(("its convolutions' GFLOP/s in that", *rate, rate[1] / rate[0]))
    return [[text, *(f"{value:.3g}" for value in values), f"{ratio:.2f}"] for text, *values, ratio in rows]


def main(argv):
    args = flags().parse_args(argv)
    positive(args, "count", "width")
    not_negative(args, "workers")
    rows, precisions = [], set()
    with tempfile.TemporaryDirectory() as root:
        source = write_data(Path(root), args.videos, args.count)
        for stage in STAGES:
            found = {way: alone(measure, way, stage, Path(root), args.workers, args.width) for way in ("usual", "ours")}
            rows += stage_rows(stage, **found)
            precisions.add(found["ours"]["precision"])
    a = torch.randn(2048, 2048, device="cuda" if torch.cuda.is_available() else "cpu")
    peak = 2 * 2048**3 / timed(lambda: a @ a, rounds=5) / 1e9
    write(args.out, [
        *heading("Ten-clip test and retrieval features", f"{args.count} videos ({source}), 240 high, {CLIPS} clips of "
                 f"{TRAIN['seq_len']} x {TRAIN['img_dim']} x {TRAIN['img_dim']}, {args.workers} workers, "
                 f"{torch.get_num_threads()} threads; the usual way in float32, ours in "
                 f"{' and '.join(sorted(precisions))}"),
        *table(["", "usual way", "ours", "ratio"], rows), "",
        f"Target: at least 3 times the videos/s. A float32 2048 x 2048 matrix product runs at {peak:.0f} GFLOP/s here: "
        "forward passes that come near it can only be made faster by a lower precision, and what decoding saves counts "
        "only where cores are free for it."])


if __name__ == "__main__":
    run(main)

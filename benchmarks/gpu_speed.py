"""How fast a GPU trains and evaluates: sections of benchmarks/gpu.py. Each takes Settings and returns Findings."""
import gc
import shutil
import time
from dataclasses import replace

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks import evaluate
from benchmarks.common import MIB, alternate, register, table
from benchmarks.data import usual_sample
from benchmarks.sections import Findings
from benchmarks.step import Step
from dataset.augment import PretrainDraw, prepare
from dataset.clips import VideoClips
from dataset.crops import RandomCrop, resize_for
from dataset.lists import open_list
from dataset.loader import TrainBatches, make_loader
from dataset.reader import FRAME_NAME, FrameReader
from dataset.sampling import PretrainViews
from engine.gradcache import forward_backward
from engine.memory import Way, peak
from engine.precision import LOW, allow_tf32
from engine.setup import start
from models import build_pretrainer
from models.dualvar import TERMS

SKIPPED = 2  # steps of a training loop before the clock starts
PUBLISHED_BATCH = 8  # videos of a GPU and step
# rows of the table of a training step
BARE, STEP = "bare backbone, {precision}", "step, {precision}, augmented clips being there"
RESIDENT = "augmentation and step, the same batch again and again"
TRAINING = "training: {workers} loader workers, augmentation, step"
PLAIN, PUBLISHED = "plain step: float32, torch's default layout", "published way: PIL, float clips, plain step"


def largest(settings, net, tf32=False, **options):
    """-> (a Step of as many videos, settings.batch_size or less, as memory allows, how many they are)

    tf32: whether float32 convolutions may use TF32, as torch has it by default.
    """
    videos = settings.batch_size
    while True:
        try:
            step = Step(net, videos, settings.img_dim, width=settings.width, **options)
            if tf32:
                allow_tf32(True)
            step()
            return step, videos
        except torch.OutOfMemoryError:
            step = None
            gc.collect()  # the error's traceback holds activations
            torch.cuda.empty_cache()
            if videos == 1:
                raise
            videos //= 2


# --- loaders ---------------------------------------------------------------------------------------------------

def videos_of(settings, count):
    """The list `benchmark`, repeated to `count` videos."""
    register(settings.folder)
    videos = open_list("benchmark", "train", 1)
    return videos.subset(np.arange(count) % len(videos))


def our_loader(settings, videos, steps):
    """As train.py's."""
    reader = FrameReader(settings.folder / "frames", resize_for(settings.img_dim))
    data = VideoClips(videos_of(settings, videos * steps), reader, PretrainViews(16, 4), RandomCrop(settings.img_dim),
                      PretrainDraw(2, settings.img_dim))
    return make_loader(data, TrainBatches(len(data), videos), settings.workers, pin_memory=True)


class Published(Dataset):
    """Samples as the published code makes them: PIL and torchvision in the loader, which hands out float clips."""

    def __init__(self, settings, count):
        self.videos, self.root, self.side = videos_of(settings, count), settings.folder / "frames", settings.img_dim

    def __len__(self):
        return len(self.videos)

    def __getitem__(self, index):
        """-> (3, 3, T, H, W) float32"""
        rng, folder = np.random.default_rng([0, 0, index]), self.root / self.videos.names[index]
        views = [[folder / FRAME_NAME.format(i + 1) for i in view]
                 for view in PretrainViews(16, 4)(int(self.videos.num_frames[index]), rng)]
        rows = PretrainDraw(2, self.side)(3, rng)["augment"].tolist()
        return usual_sample(views, rows, resize_for(self.side), self.side)


def published_loader(settings, videos, steps):
    """With fewer workers where /dev/shm could not hold the float clips that are ready."""
    batch = 4 * videos * 9 * 16 * settings.img_dim**2
    fits = shutil.disk_usage("/dev/shm").free // (3 * batch)  # two batches are ready, one is being made
    return DataLoader(Published(settings, videos * steps), videos, num_workers=min(settings.workers, int(fits)),
                      pin_memory=True, drop_last=True)


def seconds_a_step(batches, step, skipped):
    """Mean time of a step on each of the batches, without the first `skipped`; step(batch)."""
    begun, count = 0.0, 0
    for number, batch in enumerate(batches):
        step(batch)
        if number + 1 == skipped:
            torch.cuda.synchronize()
            begun = time.perf_counter()
        count += number >= skipped
    torch.cuda.synchronize()
    return (time.perf_counter() - begun) / count


# --- sections --------------------------------------------------------------------------------------------------

def our_way(settings, step, videos):
    """-> ({what: (seconds, videos of a step)}, peak memory of a step in MiB)"""
    seconds = alternate({BARE: step.bare, STEP: step}, settings.rounds)

    def whole(batch):
        step.views = prepare(batch["clips"].to(step.device, non_blocking=True), batch["augment"])
        step()

    steps = SKIPPED + 4 * settings.rounds
    loader = our_loader(settings, videos, steps)
    one = next(iter(loader))
    torch.cuda.reset_peak_memory_stats()
    seconds[RESIDENT] = seconds_a_step([one] * steps, whole, SKIPPED)
    memory = torch.cuda.max_memory_allocated() / MIB
    seconds[TRAINING] = seconds_a_step(loader, whole, SKIPPED)
    return {name: (value, videos) for name, value in seconds.items()}, memory


def planned(settings, net, videos, precision):
    """MiB that train.py's plan would say for this step."""
    model = build_pretrainer("simclr", net, "clip-sr-tc", 2, width=settings.width)

    def step(model, views, _parts):
        forward_backward(model, None, views, torch.zeros(len(views), 2, dtype=torch.long), dict.fromkeys(TERMS, 1.0))

    return peak(model, step, (videos, 3, 16, settings.img_dim, settings.img_dim, 3), Way(low=precision in LOW)) / MIB


def plain_step(settings, net):
    """As `largest`: in float32, torch's default layout and TF32."""
    return largest(settings, net, tf32=True, precision="fp32", layout=torch.contiguous_format)


def plain_way(settings, net):
    step, videos = plain_step(settings, net)
    return {PLAIN: (alternate({PLAIN: step}, settings.rounds)[PLAIN], videos)}


def published_way(settings, net):
    step, videos = plain_step(replace(settings, batch_size=min(settings.batch_size, PUBLISHED_BATCH)), net)

    def whole(clips):
        step.views = clips.to(step.device, non_blocking=True)
        step()

    workers = max(1, settings.workers)  # each of them has made a batch before the clock starts
    loader = published_loader(settings, videos, 3 * workers)
    return {PUBLISHED: (seconds_a_step(loader, whole, workers), videos)}


def training(settings, net):
    """A training step of `net`, from the bare backbone to the loader, and how others make one."""
    step, videos = largest(settings, net, precision="auto")
    ways, memory = our_way(settings, step, videos)
    precision, choosing, plan = step.precision, step.choosing, planned(settings, net, videos, step.precision)
    del step
    found = Findings()
    others = {PUBLISHED: published_way, PLAIN: plain_way}
    for name in settings.in_time(others, found):
        gc.collect()
        torch.cuda.empty_cache()
        ways |= others[name](settings, net)
    rate = {name: videos / seconds for name, (seconds, videos) in ways.items()}
    found.lines = [*table([net, "videos a step", "ms a step", "videos/s", "our training / this"], [
        [name.format(precision=precision, workers=settings.workers), videos, f"{1000 * seconds:.1f}",
         f"{rate[name]:.1f}", f"{rate[TRAINING] / rate[name]:.2f}"] for name, (seconds, videos) in ways.items()]), "",
        f"Peak memory of a step: {memory:,.0f} MiB; the plan says {plan:,.0f} MiB. Choosing the precision took "
        f"{choosing:.0f} s, once on a machine for this network and size."]
    found.target(f"{net}: step / bare backbone", ways[STEP][0] / ways[BARE][0], most=1.10)
    found.target(f"{net}: share of training that waits for the loader",
                 max(0, 1 - ways[RESIDENT][0] / ways[TRAINING][0]), most=0.05)
    found.target(f"{net}: peak memory / what the plan says", memory / plan, least=0.9, most=1.1)
    return found


def evaluation(settings):
    """Ten-clip test and retrieval features, against decoding each clip's frames by itself."""
    found, rows = Findings(), []
    for stage in evaluate.STAGES:
        measured = {way: evaluate.measure(way, stage, settings.folder, settings.workers, settings.width,
                                          settings.img_dim) for way in ("usual", "ours")}
        rows += evaluate.stage_rows(stage, **measured)
        found.target(f"{stage}: videos/s against the usual way", measured["usual"]["all"] / measured["ours"]["all"],
                     least=3)
    found.lines = table(["", "usual way", "ours", "ratio"], rows)
    return found


def augmentation(settings):
    """`prepare` on a batch of bytes that is on the GPU."""
    device, side = start("cuda"), settings.img_dim
    rng = np.random.default_rng(0)
    size = (settings.batch_size, 3, 16, side, side, 3)
    clips = torch.from_numpy(rng.integers(0, 256, size, dtype=np.uint8)).pin_memory()
    rows = torch.from_numpy(np.stack([PretrainDraw(2, side)(3, rng)["augment"] for _ in range(size[0])])).pin_memory()
    there = clips.to(device)
    seconds = alternate({"copy to the GPU": lambda: clips.to(device, non_blocking=True),
                         "augmentation": lambda: prepare(there, rows)}, settings.rounds)
    moved = {"copy to the GPU": clips.numel(), "augmentation": 5 * clips.numel()}  # bytes read, floats written
    return Findings(table([f"{size[0]} x 3 clips of 16 x {side} x {side}", "ms", "GB/s"], [
        [name, f"{1000 * s:.2f}", f"{moved[name] / s / 1e9:.0f}"] for name, s in seconds.items()]) + [
        "", "GB/s: of the bytes of the clips and the floats of the result, each counted once."])

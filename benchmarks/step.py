"""The training step against forward and backward of the bare backbone, layouts, memory, and bf16 against float32.

    python benchmarks/step.py --out benchmarks/results/step.md                        about 6 minutes on 2 cores
    python benchmarks/step.py --curve benchmarks/results/precision.png --dataset ucf101-5class     a loss curve each

A step is SimCLR clip-sr-tc: encode 3 views and the shuffled one, losses, backward, gradient norm, SGD and what is
logged. It starts from augmented clips, as the backbone does, of noise: their content costs nothing.
"""
import functools
import re
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.common import TRAIN, Peak, alone, alternate, heading, new_parser, run_script, table, write
from core.dist import world_size
from core.exits import run
from engine.flags import positive
from engine.gradcache import GradCache, forward_backward
from engine.monitor import embedding_monitors
from engine.optim import sgd, take_step
from engine.precision import clip_shapes, default_precision, set_precision
from engine.setup import distribute, seed_everything, start
from models import build_pretrainer
from models.dualvar import TERMS

NETS = ("r21d", "r3d", "s3d")
MEMORY = {"the whole batch": {}, "--accumulate 4": {"accumulate": 4}, "--checkpointing": {"checkpointing": True},
          "both": {"accumulate": 4, "checkpointing": True}}


def flags():
    parser = new_parser("benchmarks/step.py", __doc__)
    parser.add_argument("--batch_size", type=int, default=2, help="videos of a step; four clips each")
    parser.add_argument("--img_dim", type=int, default=112, help="side of the clips, pixels")
    parser.add_argument("--rounds", type=int, default=2, help="repetitions, of which the fastest counts")
    parser.add_argument("--curve", type=Path, help="file for a plot of the loss in float32 and bf16, instead of times")
    parser.add_argument("--dataset", default="ucf101-5class", help="what --curve trains on")
    return parser


class Step:
    """One step of SimCLR clip-sr-tc as train.py takes it, and the bare backbone on as many clips.

    batch_size: of all processes; img_dim, seq_len: size of the clips; the other settings are train.py's flags of that
    name. `precision` becomes what it came to, `choosing` the seconds that took.
    """

    def __init__(self, net, batch_size, img_dim, *, mode="clip-sr-tc", width=1.0, seq_len=TRAIN["seq_len"],
                 precision=None, accumulate=1, checkpointing=False, layout=torch.channels_last_3d):
        self.device = start()
        seed_everything(0)
        model = build_pretrainer("simclr", net, mode, TRAIN["n_series"], width=width, temperature=TRAIN["temperature"])
        self.call, self.model = distribute(model, self.device, "local")
        self.model.to(memory_format=layout).train()
        videos = batch_size // world_size()
        sizes = {videos // accumulate * views for views in self.model.encodes}
        self.model.encoder.backbone.checkpointing = checkpointing
        begun = time.perf_counter()
        self.precision, self.notes = set_precision(
            self.model.backbones(), default_precision(precision, self.device),
            clip_shapes(sizes, seq_len, img_dim), self.device)
        self.choosing = time.perf_counter() - begun
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        self.cache = GradCache(self.model, accumulate) if accumulate > 1 else None
        self.weights = {name: term.weight for name, term in TERMS.items()}
        self.optimizer = sgd(self.model, TRAIN["lr"], TRAIN["momentum"], TRAIN["wd"])
        size = (videos, 3, 3, seq_len, img_dim, img_dim)
        self.views = torch.randn(size, device=self.device)
        self.clips = [torch.randn(views * videos, *size[2:], device=self.device) for views in self.model.encodes]
        self.permutation = torch.tensor([[1, 0]], device=self.device).repeat(videos, 1)

    def __call__(self):
        out, _ = forward_backward(self.call, self.cache, self.views, self.permutation, self.weights, self.scaler.scale)
        take_step(self.optimizer, self.scaler)
        embedding_monitors(out, TRAIN["temperature"], self.permutation)

    def bare(self):
        self.model.zero_grad(set_to_none=True)
        for clips in self.clips:  # as a step passes them
            self.model.encoder.backbone(clips).sum().backward()


def seconds(args, net, precision, what="step", layout=torch.channels_last_3d):
    """Of a step, or of the "bare" backbone, in a process of its own: -> (least, precision it came to, notes)."""
    step = Step(net, args.batch_size, args.img_dim, precision=precision, layout=layout)
    found = alternate({"all": step if what == "step" else step.bare}, args.rounds)
    return found["all"], step.precision, step.notes


def times(args, net):
    """A network's row of the table of times, and what was said about precision."""
    auto, chosen, notes = alone(seconds, args, net, "auto")
    step = auto if chosen == "fp32" else alone(seconds, args, net, "fp32")[0]
    bare = alone(seconds, args, net, "fp32", "bare")[0]
    auto_bare = bare if chosen == "fp32" else alone(seconds, args, net, "auto", "bare")[0]
    contiguous = alone(seconds, args, net, "fp32", "step", torch.contiguous_format)[0]
    row = [net, f"{step:.2f} s", f"{step / bare:.3f}", f"{auto / auto_bare:.3f}", f"{contiguous / step:.2f}x",
           f"{contiguous / auto:.2f}x"]
    print(*row, file=sys.stderr, flush=True)
    return row, notes


def peak(settings):
    """MiB by which a step, the second of its process, raises the largest memory; its batch can be cut in four."""
    step = Step("r3d", 4, 64, precision="fp32", **settings)
    step()
    step.optimizer.zero_grad(set_to_none=True)
    with Peak() as found:
        step()
    return found.mib


def memory():
    """Rows of the table of memory: each way in a process of its own."""
    found = {name: alone(peak, settings) for name, settings in MEMORY.items()}
    whole = found["the whole batch"]
    return [[name, f"{value:.0f} MiB", f"{value / whole:.2f}"] for name, value in found.items()]


def profile(args):
    """Rows of the operations in which a step and the bare backbone spend their time (r3d), as shares of a step."""
    step, sums = Step("r3d", args.batch_size, args.img_dim, precision="fp32"), []
    for function in (step, step.bare):
        function()
        with torch.profiler.profile() as found:
            function()
        on = "self_device_time_total" if step.device.type == "cuda" else "self_cpu_time_total"
        sums.append({event.key: getattr(event, on) for event in found.key_averages()})
    whole = sum(sums[0].values())
    order = sorted(sums[0], key=sums[0].get, reverse=True)[:8]
    return [[f"`{name}`", *(f"{100 * one.get(name, 0) / whole:.1f} %" for one in sums)] for name in order] + [
        ["all", *(f"{100 * sum(one.values()) / whole:.1f} %" for one in sums)]]


def curve(args):
    """Train the same tiny network in float32 and bf16, plot the losses -> lines of a report."""
    from analysis.figures import new_figure  # matplotlib takes a second to import

    losses = {}
    with tempfile.TemporaryDirectory() as folder:
        for precision in ("fp32", "bf16"):
            run_script("train.py", "--dataset", args.dataset, "--net", "r3d", "--width", 0.125, "--img_dim", 32,
                       "--seq_len", 8, "--batch_size", 16, "--lr", 0.02, "--epochs", 2, "--warmup", 0.5, "--bn",
                       "local", "--print_freq", 1, "--workers", 1, "--log_dir", folder, "--name", precision,
                       "--precision", precision)
            text = Path(folder, "dualvar", "pretrain", precision, "log.txt").read_text()
            losses[precision] = torch.tensor([float(x) for x in re.findall(r"^epoch .* total ([\d.]+)", text, re.M)])
    figure = new_figure(7, 4)
    axes = figure.subplots()
    for (precision, values), style in zip(losses.items(), ("-", "--"), strict=True):
        axes.plot(values, style, label=precision)
    axes.set(xlabel="step", ylabel="loss, clip + TC + SR", title=f"r3d x 0.125, {args.dataset}, same clips and seed")
    axes.legend()
    figure.savefig(args.curve, dpi=120)
    apart = (losses["bf16"] - losses["fp32"]).abs() / losses["fp32"]
    last = {precision: float(values[-10:].mean()) for precision, values in losses.items()}
    return [f"bf16 against float32, {len(apart)} steps of the same clips: losses {100 * apart.mean():.2f} % apart in "
            f"the mean, {100 * apart.max():.2f} % at most; the last ten have a mean of {last['bf16']:.3f} and "
            f"{last['fp32']:.3f}."]


def main(argv):
    args = flags().parse_args(argv)
    positive(args, "batch_size", "img_dim", "rounds")
    head = functools.partial(heading, "The training step")
    if args.curve:
        return write(args.out, [*head(), *curve(args)])
    rows, notes = zip(*(times(args, net) for net in NETS), strict=True)
    write(args.out, [
        *head(f"{args.batch_size} videos a step, 4 clips of 16 x {args.img_dim} x {args.img_dim} each, "
              f"{torch.get_num_threads()} threads, the fastest of {args.rounds}",
              *dict.fromkeys(note for some in notes for note in some)),
        "## Time", "", *table(["network", "step, float32", "step / bare backbone", "the same, auto precision",
                               "contiguous float32 / step", "contiguous float32 / step, auto"], rows), "",
        "## Peak memory of a step beyond the model's (r3d, 4 videos of 64 px, float32)", "",
        *table(["", "memory", "of the whole"], memory()), "",
        "## Where the time goes (r3d, float32), as shares of a step", "",
        *table(["operation", "step", "bare backbone"], profile(args))])


if __name__ == "__main__":
    run(main)

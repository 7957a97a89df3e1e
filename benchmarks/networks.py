"""Forward passes of every network: clips per second in float32, in auto precision, and as exported files.

    python benchmarks/networks.py      3 minutes of one core, one of them for the export of MViTv2-S (see --nets)
    python benchmarks/networks.py --width 1 --img_dim 112 --clips 2 --out benchmarks/results/networks.md         10

Weights are random, clips are noise, and 8 bits are fitted to the same noise: this asks for time, not for agreement,
which python -m models.weights export does. One thread, and seconds that it computed, which others on the machine
lengthen little. All ways of a network are called in turn, and the least time of each counts; float32 is measured twice,
and how far the two are apart is what a ratio is worth.
"""
import copy
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.common import alternate, heading, new_parser, table, write
from core.errors import RunError
from core.exits import run
from engine import evaluation
from engine.flags import positive
from engine.precision import clip_shapes, set_precision
from engine.setup import check_shapes, seed_everything, start
from models import build_backbone
from models.backbones import BACKBONES
from models.classifier import pooled
from models.weights import export

EXPORTED = {"torch-export": "torch.export", "onnx": "ONNX Runtime", "int8": "8 bits"}


def flags():
    parser = new_parser("benchmarks/networks.py", __doc__)
    parser.add_argument("--nets", nargs="+", choices=list(BACKBONES), default=list(BACKBONES), help="networks to time")
    parser.add_argument("--width", type=float, default=0.25, help="multiplies the networks' channels")
    parser.add_argument("--seq_len", type=int, default=16, help="frames of a clip")
    parser.add_argument("--img_dim", type=int, default=64, help="side of a clip, pixels")
    parser.add_argument("--clips", type=int, default=4, help="clips of a forward pass")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions, of which the fastest counts")
    return parser


def exported(backbone, clips, folder):
    """{form: its function or, where there is none, why}, and the seconds that making them took."""
    begun, (batch, _, frames, side, _) = time.process_time(), clips.shape
    try:
        program = export.traced(backbone, frames, side, batch)
        whole = export.onnx_bytes(program, {})
    except RunError as error:
        return dict.fromkeys(EXPORTED, str(error)), time.process_time() - begun
    made = {"torch-export": lambda: export.program_bytes(program, {}), "onnx": lambda: whole,
            "int8": lambda: export.int8_bytes(whole, [clips.numpy()], {})}
    found = {}
    for form, make in made.items():
        path = folder / form / export.FILES[form]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(make())
        found[form] = export.opened(path, form)
    return found, time.process_time() - begun


def measure(net, args, device):
    """-> (row of the table, sentences about it)"""
    seed_everything(0)
    backbone = build_backbone(net, args.width).eval().requires_grad_(False)
    clips = torch.randn(args.clips, 3, args.seq_len, args.img_dim, args.img_dim)
    last = clips.contiguous(memory_format=torch.channels_last_3d)
    with tempfile.TemporaryDirectory() as folder:
        files, seconds = exported(backbone, clips, Path(folder))
        plain = evaluation.to_device(backbone, device)
        auto = copy.deepcopy(plain)
        chosen, _ = set_precision([auto], "auto", clip_shapes([args.clips], args.seq_len, args.img_dim), device,
                                  training=False)
        ways = {"float32": lambda: pooled(plain, last), "auto": lambda: pooled(auto, last),
                **{form: lambda form=form: files[form](clips) for form in files if callable(files[form])},
                "again": lambda: pooled(plain, last)}
        with torch.inference_mode():
            least = alternate(ways, args.rounds, time.process_time)
    ratios = {name: f"{least['float32'] / value:.2f}" for name, value in least.items()}
    notes = [f"{net}: {found}" for found in {x for x in files.values() if isinstance(x, str)}]
    return [net, f"{args.clips / least['float32']:.1f}", ratios["again"], f"{ratios['auto']} ({chosen})",
            *(ratios.get(form, "-") for form in EXPORTED), f"{seconds:.0f}"], notes


def main(argv):
    args = flags().parse_args(argv)
    positive(args, "width", "seq_len", "img_dim", "clips", "rounds")
    export.check_packages("int8")
    device = start("cpu")
    torch.set_num_threads(1)
    for net in args.nets:
        check_shapes(net, args.seq_len, args.img_dim)
    rows, notes = zip(*(measure(net, args, device) for net in args.nets), strict=True)
    write(args.out, [
        *heading("Forward passes of every network", f"{args.clips} clips of {args.seq_len} x {args.img_dim} x "
                 f"{args.img_dim}, width {args.width:g}; one thread, whose own seconds count; other work ran on the "
                 "machine, and `again` is float32 a second time, which shows what a ratio is worth"),
        *table(["network", "float32, clips/s", "again", "auto", *EXPORTED.values(), "s to export"], rows), "",
        "Ratios: clips per second divided by those of float32; above 1 is faster. `auto` is what --precision auto "
        "comes to on this machine.", *(f"- {note}" for found in notes for note in found)])


if __name__ == "__main__":
    run(main)

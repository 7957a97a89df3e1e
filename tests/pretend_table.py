"""What a training step costs on a GPU, counted on the pretend one: prints the table of docs/speed.md.

    python tests/pretend_table.py                          takes a minute
    python tests/pretend_table.py augmentation VIDEOS      its last line alone
"""
import json
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # started by itself

import numpy as np
import pretend_counts
from helpers import REPOSITORY, SMALL, environment, make_dataset, succeed

# flags of train.py; three steps each, of which the second neither draws pictures nor logs
SIZE = [*SMALL, "--device", "cuda", "--width", "0.0625", "--batch_size", "4", "--epochs", "1", "--print_freq", "100",
        "--eval_every", "0", "--precision", "bf16"]
MOCO = ["--framework", "moco", "--moco-k", "8", "--bn", "shuffle"]
S3DG = ["--net", "s3dg", "--img_dim", "32", "--seq_len", "16"]
# {name: (processes, flags)}
RUNS = {
    "SimCLR, R3D": (1, ["--net", "r3d"]),
    "MoCo, R3D": (1, ["--net", "r3d", *MOCO]),
    "SimCLR, R3D, 2 processes, `--bn sync`": (2, ["--net", "r3d"]),
    "MoCo, R3D, 2 processes, `--bn shuffle`": (2, ["--net", "r3d", *MOCO]),
    "SimCLR, S3D-G, 2 processes, `--bn sync`": (2, S3DG),
}
BATCH = 64, 3, 16, 112, 112  # videos, views, frames, height, width of the pretraining recipes


def pretend_environment(root, **more):
    """Environment of a process that may import the files beside this one, with its own finds about precision."""
    return environment(root, PYTHONPATH=f"{REPOSITORY}:{REPOSITORY / 'tests'}", **more)


def steps_of(name, root, folder):
    """[Counts of each training step] of the first process of a run of RUNS; it writes below `folder`."""
    processes, flags = RUNS[name]
    counts = folder / "counts.json"
    succeed("tests/pretend_run.py", "train.py", *SIZE, *flags, "--name", "p", cwd=folder, processes=processes,
            env=pretend_environment(root, PRETEND_COUNTS=str(counts)))
    return [pretend_counts.Counts.from_json(step) for step in json.loads(counts.read_text())]


def augmentation(videos):
    """Counts of `prepare` for `videos` of a BATCH, and bytes of their float clips. It changes torch in this process."""
    import pretend_cuda
    import torch

    from dataset.augment import PretrainDraw, prepare

    pretend_cuda.install()
    rng = np.random.default_rng(0)
    clips = torch.randint(0, 256, (videos, *BATCH[1:], 3), dtype=torch.uint8).to("cuda")
    rows = torch.from_numpy(np.stack([PretrainDraw(2)(BATCH[1], rng)["augment"] for _ in range(videos)]))
    prepare(clips[:1], rows[:1])  # whether its kernels work is tried once
    with pretend_counts.count() as counts:
        prepare(clips, rows.pin_memory())
    return counts, 4 * clips.numel()


def augmentation_sentence(videos):
    counts, clips = augmentation(videos)
    total = counts.total()
    return (f"Augmentation of {BATCH[0]} x {BATCH[1]} clips of {'x'.join(map(str, BATCH[2:]))}: "
            f"{total['waits']} waits, {total['launches']} launches, {total['bytes'] * BATCH[0] / videos / 1e9:.1f} GB, "
            f"{total['bytes'] / clips:.1f} times the float clips ({videos} videos counted)")


def main():
    print("| one step of | waits | launches | MB moved | in augmentation: waits | launches |\n"
          "|---|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        root = make_dataset(Path(folder) / "data")
        for number, name in enumerate(RUNS):
            place = Path(folder) / str(number)
            place.mkdir()
            step = steps_of(name, root, place)[1]
            part = step.within("dataset/augment")
            print(f"| {name} | {step.waits.total()} | {step.launches.total()} | {step.bytes.total() / 1e6:.0f} | "
                  f"{part.waits.total()} | {part.launches.total()} |", flush=True)
    print(flush=True)
    subprocess.run([sys.executable, __file__, "augmentation", "64"], check=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["augmentation"]:
        print(augmentation_sentence(int(sys.argv[2])))
    else:
        main()

"""Going on with a run: which checkpoint, and whether it is of the run that the flags describe."""
import sys

from core.dist import rank, world_size
from core.errors import CheckpointError, UsageError
from models.weights.checkpoint import (
    check_training_state,
    epoch_copies,
    fingerprint,
    read_checkpoint,
    read_last_good,
    saved_checkpoints,
)

from .log import plain
from .precision import PRECISIONS, check_precision

# flags that a run may change when it goes on; --epochs so that it can be made longer
FREE_FLAGS = {"workers", "loader_timeout", "skip_bad_samples", "device", "log_dir", "prefix", "name", "resume",
              "storage", "override", "save_freq", "save_steps", "keep", "keep_epoch", "print_freq", "dry_run", "epochs",
              "checkpointing", "eval_every", "eval_videos"}

# what runs did before there were these flags
BEFORE = {"precision": "fp32", "accumulate": 1, "compile": False}


def fingerprints(videos, backbone=None):
    """What a training run reads, told apart by content -> {name: text}."""
    inputs = {"training list": videos.fingerprint()}
    return inputs if backbone is None else {**inputs, "pretrained weights": fingerprint(backbone.state_dict())}


def find_resume(args, folder, config, inputs):
    """--resume -> the checkpoint to go on from, read and compared with these flags, or None to begin.

    A run is never begun over another's checkpoints; "aside" in the result says which files to rename, {path: prefix}.
    Raises CheckpointError where the checkpoint is of a run with
    other flags (it would be neither), unless --override.
    """
    saved = saved_checkpoints(folder / "model")
    if args.resume is None:
        if saved and not args.dry_run:
            raise UsageError(f"{folder} holds a run already: go on with --resume auto, or choose another --name")
        return None
    if args.resume == "auto":
        if not saved:
            return None
        state, damaged = read_last_good(folder / "model")
        aside = dict.fromkeys(damaged, "damaged")  # or it would take the place of a whole one
        if damaged and rank() == 0:
            print(f"warning: {'; '.join(damaged.values())}: going on from {state['path']}", file=sys.stderr)
    else:
        state = {**read_checkpoint(args.resume), "path": args.resume}
    check_training_state(state)
    if args.resume != "auto":  # copies of epochs to come are another try's, and must not be taken for this one's
        done = state["epoch"] if state["step"] == state["steps"] else state["epoch"] - 1
        aside = {path: "former" for epoch, path in epoch_copies(folder / "model").items() if epoch > done}
    there = {**BEFORE, **state["flags"], **state["config"], **state["inputs"]}
    if args.precision in (None, "auto"):  # a run keeps what it began with, on whatever machine it goes on
        if there["precision"] not in PRECISIONS[1:]:
            raise CheckpointError(f"--resume {state['path']} is not a training checkpoint of this program: its "
                                  "precision is unknown")
        args.precision = there["precision"]
        check_precision(args.precision, args.device)
    here = {**plain(vars(args)), **config, **inputs}
    for flags in (here, there):  # frames packed or not are the same pixels, those of the videos are not
        flags["pixels"] = "of the videos" if flags.get("storage") == "video" else "of extracted frames"
    if args.bn != "sync":  # each process takes batch statistics of its own
        here["processes"], there["processes"] = world_size(), state["versions"].get("processes")
    if foreign := set(config) - set(state["config"]):
        raise CheckpointError(f"--resume {state['path']} is of another stage or program: its model has no "
                              f"{', '.join(sorted(foreign))}")
    free = FREE_FLAGS - ({"epochs"} if args.cosine else set())
    differences = [f"{key} {there.get(key)} there, {here[key]} here" for key in here
                   if key not in free and there.get(key) != here[key]]
    if differences and not args.override:
        raise CheckpointError(f"--resume {state['path']} is of another run: {'; '.join(differences)}; repeat its "
                              "flags, choose another --name (PREFIX= of the launchers), or insist with --override")
    if differences and rank() == 0:
        print(f"warning: --override: {'; '.join(differences)}", file=sys.stderr)
    return {**state, "aside": aside}


def resume_text(state):
    """What the plan says of a checkpoint to go on from."""
    return state and f"{state['path']}: epoch {state['epoch']}, {state['step']} steps of it"

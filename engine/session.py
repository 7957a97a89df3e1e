"""What surrounds the steps of a training run: means, logs, checkpoints, signals and going on after a stop."""
import errno
import multiprocessing
import os
import signal
import sys
import threading
import time

import torch
import torch.distributed as dist

from core.dist import rank, world_size
from core.errors import CheckpointError, RunError, Stopped
from core.files import take_lock, whole_file
from models.weights.checkpoint import LATEST, write_latest

from .log import RunLog, bar, versions
from .monitor import FiniteWatch, Meter

STOPPED = "STOPPED"  # file in the folder of a run that was asked to stop; a launcher goes no further then

# steps in a row that fp16 may skip while it looks for the scale of its loss, which 2**16 steps down to 2**-8
SKIPPED_STEPS = 24

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what the system says of a full disk


def end_children():
    """Kill loader workers, which ignore all other signals."""
    for child in multiprocessing.active_children():
        child.kill()


class Interrupt:
    """SIGINT, SIGTERM and SIGUSR1 ask the run to stop after its step; a second one, over a second later, ends it.

    A launcher may hand on a signal that the terminal sends as well, hence the second. The signals are read by a
    thread, for Python looks at them only between two operations of the main thread.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

    def __init__(self):
        self.name = None
        pipe, self.end = os.pipe()
        os.set_blocking(self.end, False)
        self.former = {number: signal.signal(number, lambda *_: None) for number in self.SIGNALS}
        self.former_pipe = signal.set_wakeup_fd(self.end, warn_on_full_buffer=False)
        threading.Thread(target=self._listen, args=(pipe,), daemon=True).start()

    def _listen(self, pipe):
        first = None
        while byte := os.read(pipe, 1):
            number = byte[0]
            if number not in self.SIGNALS:
                continue
            if first is None:
                first, self.name = time.monotonic(), signal.Signals(number).name
                print(f"{self.name}: finishing this step and saving; once more ends it at once", file=sys.stderr,
                      flush=True)
            elif time.monotonic() - first > 1:
                end_children()
                os._exit(128 + number)
        os.close(pipe)

    def close(self):
        signal.set_wakeup_fd(self.former_pipe)
        for number, handler in self.former.items():
            signal.signal(number, handler)
        os.close(self.end)


class Exchange:
    """Sums of a few numbers over all processes at every step, on the CPU and a step late: no GPU waits for them."""

    def __init__(self, count):
        self.group = dist.new_group(backend="gloo") if world_size() > 1 else None
        self.nothing, self.pending = [0] * count, None

    def __call__(self, *values):
        """-> the sums of these values (one process), or of those in the call before (several)."""
        if self.group is None:
            return values
        sums = self.drain()
        mine = torch.tensor(values)
        self.pending = dist.all_reduce(mine, group=self.group, async_op=True), mine
        return sums

    def drain(self):
        """-> the sums that are still to come, after which none are. All processes must call it."""
        if self.pending is None:
            return self.nothing
        (work, sums), self.pending = self.pending, None
        work.wait()
        return sums.tolist()


class Session:
    """Around the training loop: `with Session(...) as session`, then `steps`, `after_step` and `end_epoch`.

    model, optimizer, scaler (torch.amp.GradScaler), config (what the model was built with), flags and inputs
    (fingerprints of what is read): what checkpoints hold; batches: TrainBatches; videos: VideoList; state: a checkpoint
    to go on from, or None; epochs, print_freq, save_freq, save_steps, keep, keep_epoch, skip_bad_samples: the flags of
    that name. Attributes: epoch to begin with, log.
    Takes the folder's lock: a second run there gets DataError.
    """

    def __init__(self, folder, model, optimizer, scaler, batches, videos, device, config, flags, inputs, state=None, *,
                 epochs, print_freq, save_freq, save_steps, keep, keep_epoch, skip_bad_samples):
        self.folder, self.model, self.optimizer, self.scaler, self.device = folder, model, optimizer, scaler, device
        self.batches, self.videos = batches, videos
        self.config, self.flags, self.inputs = config, flags, inputs
        self.epochs, self.print_freq, self.save_freq, self.save_steps = epochs, print_freq, save_freq, save_steps
        self.keep, self.keep_epoch, self.skip_bad_samples = keep, keep_epoch, skip_bad_samples
        self.epoch = self.step = self.replaced = self.signals = 0
        self.window, self.whole = Meter(), Meter()
        self.finite = FiniteWatch(SKIPPED_STEPS if scaler.is_enabled() else 0)
        self.last_good = "there is no checkpoint yet"
        if rank() == 0:
            self.lock = take_lock(folder, "run folder")
            for leftover in [*(folder / "model").glob(".partial_*"), folder / "model/next.pth.tar", folder / STOPPED]:
                leftover.unlink(missing_ok=True)
            for path, word in state["aside"].items() if state else ():
                path.replace(path.with_name(f"{word}_{path.name}"))
        if state:
            self._restore(state)
        self._agree()
        self.log = RunLog(folder, flags, self.epoch, self.epoch * len(batches) + self.step, videos=len(videos),
                          effective_batch=batches.batch)
        if state:
            self.log.line(f"going on from {state['path']} at epoch {self.epoch} step {self.step}")

    def __enter__(self):
        self.exchange, self.interrupt = Exchange(2), Interrupt()
        return self

    def __exit__(self, _kind, error, _traceback):
        self.interrupt.close()
        if rank() == 0:
            self.lock.close()
        if isinstance(error, OSError) and error.errno in FULL:
            raise RunError(f"the checkpoint or log could not be written to {self.folder} ({error.strerror}); "
                           f"{self.last_good}. Make room and go on with --resume auto") from error

    def _restore(self, state):
        fused = [group["fused"] for group in self.optimizer.param_groups]  # this device's, not the former one's
        try:
            self.model.load_state_dict(state["state_dict"])
            self.optimizer.load_state_dict(state["optimizer"])
            if state.get("scaler"):
                self.scaler.load_state_dict(state["scaler"])
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(f"{state['path']} is of another model or optimizer: "
                                  f"{' '.join(str(error).split())[:200]}") from error
        for group, value in zip(self.optimizer.param_groups, fused, strict=True):
            group["fused"] = value
        steps = len(self.batches)
        if state["step"] == state["steps"]:
            self.epoch = state["epoch"] + 1
        else:  # within an epoch; where --override has changed its steps, it starts over
            self.epoch = state["epoch"]
            if state["steps"] == steps:
                self.step = state["step"]
                for name, meter in (("window", self.window), ("whole", self.whole)):
                    meter.restore(state["meters"][name])
        self.replaced = state["replaced"]
        self.last_good = f"the last good checkpoint is {state['path']}"

    def _agree(self):
        """Raise RunError where processes would not train the same steps: a folder or list that is not shared."""
        if world_size() == 1:
            return
        mine = torch.tensor([self.epoch, self.step, len(self.batches), len(self.videos)], device=self.device)
        low, high = mine.clone(), mine.clone()
        dist.all_reduce(low, op=dist.ReduceOp.MIN)
        dist.all_reduce(high, op=dist.ReduceOp.MAX)
        for name, a, b in zip(("first epoch", "first step", "steps an epoch", "videos"), low.tolist(), high.tolist(),
                              strict=True):
            if a != b:
                raise RunError(f"the processes disagree on the {name}, {a} and {b}: all machines must see the same "
                               "log folder, lists and frames")

    def steps(self, loader, epoch):
        """(step, batch) of an epoch, from where the run goes on."""
        self.batches.start(epoch, self.step)
        yield from enumerate(bar(loader, f"epoch {epoch}", total=len(self.batches), initial=self.step), self.step)
        self.step = 0

    def after_step(self, epoch, step, loss, gradient_norm, values, errors=()):
        """Log a step's loss and `values` (scalars by name), save and stop where it is time.

        errors: why samples of this process's batch were replaced, "" for those that were not.
        """
        steps = len(self.batches)
        if self.scaler.is_enabled():
            skipped = ~gradient_norm.isfinite()
            values = {**values, "gradient_norm": gradient_norm.masked_fill(skipped, 0), "skipped_steps": skipped}
        self.window.update(values)
        self.whole.update(values)
        self.finite.add(step, loss, gradient_norm)
        errors = [error for error in errors if error]
        for error in errors:
            print(f"sample replaced: {error}", file=sys.stderr, flush=True)
        self._count(*self.exchange(int(self.interrupt.name is not None), len(errors)))
        if (step + 1) % self.print_freq == 0 or step + 1 == steps:
            self._check_finite(epoch)
            self._print(epoch, step)
        if step + 1 == steps:
            return
        stop = self.signals
        if stop or self.save_steps and (step + 1) % self.save_steps == 0:
            self._save(epoch, step + 1)
        if stop:
            self._stop(f"epoch {epoch} step {step + 1} of {steps}")

    def end_epoch(self, epoch, more=None):
        """Log the epoch's means and `more`, save, stop if asked to -> the values logged."""
        self._count(*self.exchange.drain())
        values = {"lr": self._rate(), "data/replaced": self.replaced, **self.whole.means(self.device), **(more or {})}
        last_step = (epoch + 1) * len(self.batches) - 1
        self.log.scalars({f"epoch/{name}": value for name, value in values.items()}, last_step)
        self.log.epoch(epoch, values)  # before the checkpoint: a run that goes on drops lines it will write again
        self._save(epoch, len(self.batches))
        if self.signals and epoch + 1 < self.epochs:
            self._stop(f"epoch {epoch}")
        return values

    def _rate(self):
        return self.optimizer.param_groups[0]["lr"]

    def _print(self, epoch, step):
        means, steps = self.window.means(self.device), len(self.batches)
        self.log.scalars({**means, "lr": self._rate(), "data/replaced": self.replaced}, epoch * steps + step)
        self.log.line(f"epoch {epoch} step {step + 1}/{steps} lr {self._rate():.5f} " + " ".join(
            f"{name.removeprefix('loss/')} {value:.3f}" for name, value in means.items()
            if name.startswith(("loss", "top", "time"))))

    def _count(self, signals, replaced):
        """Take up what all processes together were told: signals received, samples replaced."""
        self.signals += signals
        self.replaced += replaced
        if replaced:
            self.log.line(f"{replaced} samples replaced because a frame cannot be read, {self.replaced} so far")
        if self.replaced > self.skip_bad_samples:
            raise RunError(f"{self.replaced} samples could not be read, more than --skip_bad_samples "
                           f"{self.skip_bad_samples}; {self.last_good}. Find all such videos with process_data/src/"
                           "verify.py")

    def _check_finite(self, epoch):
        bad = self.finite.first_bad()
        if bad is None:
            return
        path = self.folder / "not_finite.txt"
        if rank() == 0:
            with whole_file(path) as temporary:
                temporary.write_text(f"epoch {epoch} step {bad}\n" + "".join(
                    f"{name}\n" for name in self.videos.names[self.batches.whole(epoch, bad)]), encoding="utf-8")
        raise RunError(f"loss or gradient is not finite at epoch {epoch} step {bad} (its videos are in {path}); "
                       f"{self.last_good}. A lower --lr or a --warmup may help")

    def _save(self, epoch, done):
        """Make this the latest checkpoint: `done` steps of `epoch` are behind it. All processes must call it."""
        self._check_finite(epoch)
        self._count(*self.exchange.drain())
        self.log.flush()
        meters = {name: meter.state(self.device) for name, meter in (("window", self.window), ("whole", self.whole))}
        if rank() != 0:
            return
        folder = self.folder / "model"
        content = {"state_dict": self.model.state_dict(), "config": self.config, "epoch": epoch, "step": done,
                   "steps": len(self.batches), "meters": meters, "replaced": self.replaced,
                   "optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict(),
                   "flags": self.flags, "inputs": self.inputs, "versions": versions()}
        copy = done == len(self.batches) and (
            (epoch + 1) % self.save_freq == 0 or epoch + 1 == self.epochs or epoch == self.keep_epoch)
        write_latest(folder, content, epoch if copy else None, self.keep, self.keep_epoch)
        self.last_good = f"the last good checkpoint is {folder / LATEST}, of epoch {epoch} step {done}"

    def _stop(self, where):
        sentence = (f"stopped by {self.interrupt.name or 'a signal to another process'} after {where}, saved in "
                    f"{self.folder / 'model' / LATEST}; the same command with --resume auto goes on from there")
        self.log.line(sentence)
        self.log.flush()
        if rank() == 0:
            with whole_file(self.folder / STOPPED) as temporary:
                temporary.write_text(sentence + "\n")
        raise Stopped

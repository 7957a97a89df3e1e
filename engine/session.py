"""A training run's state around its loop: means, log, checkpoints, and where it goes on after a stop."""
import argparse
import errno
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from core.dist import rank
from core.errors import RunError, Stopped
from core.exits import crashes_go_to
from core.files import FULL, check_regular, take_lock, whole_file
from core.imports import first_line
from core.versions import versions
from dataset.lists import VideoList
from dataset.loader import TrainBatches
from models.weights.checkpoint import LATEST, become_latest, write_latest

from .agreement import Exchange, check_agreement
from .clock import StepClock
from .evaluation import FAILURES
from .log import RunLog, bar, log_rows, plain_types
from .monitor import FiniteWatch, Meter
from .optim import restore_momentum
from .replacement import Replacements
from .resume import Resume
from .stop import STOPPED, Interrupt
from .transfer import on_device

# steps in a row that fp16 may skip while it looks for the scale of its loss, which 2**16 steps down to 2**-8
SKIPPED_STEPS = 24


@dataclass(frozen=True)
class RunSettings:
    """What a run writes down of itself, and what it keeps on disk."""

    folder: Path
    config: Mapping[str, Any]  # arguments that the model was built with
    flags: Mapping[str, Any]  # all flags, as plain types
    inputs: Mapping[str, str]  # fingerprints of what is read
    epochs: int
    print_freq: int = 10  # steps between lines of the log
    save_steps: int = 0  # steps between checkpoints within an epoch; 0: at its end alone
    save_freq: int = 5  # epochs between the copies epoch<N>.pth.tar
    keep: int = 0  # copies that stay, older ones go; 0: all
    keep_epoch: int | None = None  # epoch whose copy is written and stays in any case
    skip_bad_samples: int = 0

    @classmethod
    def of(cls, args: argparse.Namespace, folder: Path, config: Mapping[str, Any], precision: str,
           inputs: Mapping[str, str]) -> "RunSettings":
        """By the flags of a training script; precision: the one that was chosen."""
        own = ("epochs", "print_freq", "save_steps", "save_freq", "keep", "keep_epoch", "skip_bad_samples")
        return cls(folder, config, {**plain_types(vars(args)), "precision": precision}, inputs,
                   **{name: getattr(args, name) for name in own})


class Session:
    """Used as `with Session(...) as session`; the training loop calls, in this order:

    `steps` for the batches of an epoch; after each step `record` and `end_step`; after the epoch `end_epoch`.

    scaler: a torch.amp.GradScaler; batches and videos: of the training list; resume: where to go on from, or None.
    Attributes: `epoch` to begin with, `log`, `stopping`: whether a signal asked a process of the run to stop.
    Takes the folder's lock: a second run there gets DataError.
    """

    def __init__(self, settings: RunSettings, model: nn.Module, optimizer: torch.optim.Optimizer,
                 scaler: torch.amp.GradScaler, batches: TrainBatches, videos: VideoList, device: torch.device,
                 resume: Resume | None = None):
        self.settings, self.model, self.optimizer, self.scaler = settings, model, optimizer, scaler
        self.batches, self.videos, self.device = batches, videos, device
        self.folder = settings.folder
        crashes_go_to(self.folder)
        self.epoch = self.step = 0
        self.stopping = False
        self.since_log, self.epoch_means, self.clock = Meter(), Meter(), StepClock(device)
        self.finite = FiniteWatch(SKIPPED_STEPS if scaler.is_enabled() else 0)
        self.replacements = Replacements(settings.skip_bad_samples)
        self.last_good = "there is no checkpoint yet"
        if rank() == 0:
            self.lock = take_lock(self.folder, "run folder")
            if resume:
                log_rows(self.folder)  # where it is damaged, nothing has been changed yet
            model_folder = self.folder / "model"
            written = ("latest.pth.tar", "next.pth.tar", "backbone.pth.tar", f"epoch{settings.epochs - 1}.pth.tar")
            for path in [*(self.folder / name for name in ("log.txt", "log.jsonl", "flags.json", STOPPED)),
                         *(model_folder / name for name in written)]:
                check_regular(path, follow=True)  # not after days
            for leftover in [*model_folder.glob(".partial_*"), model_folder / "next.pth.tar", self.folder / STOPPED]:
                leftover.unlink(missing_ok=True)
            for path, word in resume.aside.items() if resume else ():
                path.replace(path.with_name(f"{word}_{path.name}"))
            if resume and resume.named:
                become_latest(model_folder, resume.path)
        if resume:
            self._restore(resume)
        check_agreement(device, first_epoch=self.epoch, first_step=self.step, steps_an_epoch=len(batches),
                        videos=len(videos))
        self.log = RunLog(self.folder, settings.flags, self.epoch, self.epoch * len(batches) + self.step,
                          videos=len(videos), effective_batch=batches.batch)
        if resume:
            self.log.line(f"going on from {resume.path} at epoch {self.epoch} step {self.step}")

    def __enter__(self) -> "Session":
        self._exchange, self.interrupt = Exchange(2), Interrupt().__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.interrupt.__exit__(kind, error, trace)
        if rank() == 0:
            self.lock.close()
        if isinstance(error, OSError) and error.errno in (*FULL, errno.EFBIG):
            raise RunError(f"the checkpoint or log could not be written to {self.folder} ({error.strerror}); "
                           f"{self.last_good}. Make room and go on with --resume auto") from error

    def _restore(self, resume: Resume) -> None:
        state = resume.state  # find_resume has checked it
        self.model.load_state_dict(state["state_dict"])
        restore_momentum(self.optimizer, state["optimizer"])
        if state.get("scaler"):
            self.scaler.load_state_dict(state["scaler"])
        if state["step"] == state["steps"]:
            self.epoch = state["epoch"] + 1
        else:  # within an epoch; where --override has changed its steps, it starts over
            self.epoch = state["epoch"]
            if state["steps"] == len(self.batches):
                self.step = state["step"]
                for name, meter in self._meters():
                    meter.restore(state["meters"][name])
        self.replacements.total = state["replaced"]
        self.last_good = f"the last good checkpoint is {resume.path}"

    def steps(self, loader: Iterable[dict], epoch: int, moved: Sequence[str]) -> Iterator[tuple[int, dict]]:
        """(step, batch) of an epoch, from where the run goes on.

        moved: names of the batch's tensors that are wanted on the device.
        """
        self.batches.start(epoch, self.step)
        loaded = bar(loader, f"epoch {epoch}", total=len(self.batches), initial=self.step)
        yield from enumerate(self.clock.batches(on_device(loaded, self.device, moved)), self.step)
        self.step = 0

    def record(self, step: int, loss: Tensor, gradient_norm: Tensor, values: Mapping[str, Tensor | float]) -> None:
        """Take a step's values, scalars by name, into the means; loss and gradient norm are looked at for inf and nan.

        With them what the step took (engine/clock.py). Nothing waits for a GPU here.
        """
        values = {**values, "gradient_norm": gradient_norm, **self.clock.done()}
        if self.scaler.is_enabled():
            skipped = ~gradient_norm.isfinite()
            values = {**values, "gradient_norm": gradient_norm.masked_fill(skipped, 0), "skipped_steps": skipped}
        self.since_log.update(values)
        self.epoch_means.update(values)
        self.finite.add(step, loss, gradient_norm)

    def end_step(self, epoch: int, step: int, errors: Iterable[str] = ()) -> None:
        """Log and save where it is time; tell all processes of signals, and of samples of this one's batch that were
        replaced (errors: why).

        With several processes what they hear is a step old. Raises RunError where more samples were replaced than
        --skip_bad_samples allows, or a loss or gradient was not finite, and Stopped after a signal.
        """
        its, done, steps = self.settings, step + 1, len(self.batches)
        self._take_up(*self._exchange(int(self.interrupt.name is not None), self.replacements.report(errors)))
        if done == steps or done % its.print_freq == 0:
            self._log_means(epoch, step)
        if done == steps:
            return  # `end_epoch` saves
        if self.stopping or its.save_steps and done % its.save_steps == 0:
            self._save(epoch, done)
        if self.stopping:
            self._stop(f"epoch {epoch} step {done} of {steps}")

    def end_epoch(self, epoch: int, measure: Callable[[], dict[str, float]] | None = None) -> dict[str, float]:
        """Log and save the epoch, with what measure() gives by name -> all that was logged.

        Where measure() fails, the log says so: a look does not end a run. Raises as `end_step`.
        """
        values = self._log_epoch(epoch, self._look(measure, epoch) if measure else {})
        self._save(epoch, len(self.batches))
        if self.stopping and epoch + 1 < self.settings.epochs:
            self._stop(f"epoch {epoch}")
        return values

    def _take_up(self, signals: int, replaced: int) -> None:
        self.stopping = self.stopping or signals > 0
        if sentence := self.replacements.add(replaced):
            self.log.line(sentence)
        self.replacements.check(self.last_good)

    def _log_means(self, epoch: int, step: int) -> None:
        """Log the means since the last log line. Raises RunError where a loss or gradient was not finite."""
        self._check_finite(epoch)
        self._count_device_time()
        means, steps = self.since_log.means(self.device), len(self.batches)
        self.log.scalars({**means, "lr": self._rate(), "data/replaced": self.replacements.total}, epoch * steps + step)
        self.log.line(f"epoch {epoch} step {step + 1}/{steps} lr {self._rate():.5f} " + " ".join(
            f"{name.removeprefix('loss/')} {value:.3f}" for name, value in means.items()
            if name.startswith(("loss", "top", "time"))))

    def _look(self, measure: Callable[[], dict[str, float]], epoch: int) -> dict[str, float]:
        try:
            return measure()
        except FAILURES as error:
            self.log.line(f"note: epoch {epoch} could not be looked at, and training goes on: {first_line(error)}")
            return {}

    def _log_epoch(self, epoch: int, more: Mapping[str, float]) -> dict[str, float]:
        """Log the epoch's means and `more` -> all of them. `_save` must follow: it makes this the epoch's record."""
        self._take_up(*self._exchange.drain())
        self._count_device_time()
        values = {"lr": self._rate(), "data/replaced": self.replacements.total, **self.epoch_means.means(self.device),
                  **more}
        last_step = (epoch + 1) * len(self.batches) - 1
        self.log.scalars({f"epoch/{name}": value for name, value in values.items()}, last_step)
        self.log.epoch(epoch, values)  # before the checkpoint: a run that goes on drops lines it will write again
        return values

    def _save(self, epoch: int, done: int) -> None:
        """Make this the latest checkpoint: `done` steps of `epoch` are behind it. All processes must call it.

        After a whole epoch, where it is time, a copy epoch<N>.pth.tar is made too. Raises RunError where a loss or
        gradient was not finite: no checkpoint holds such values.
        """
        self._check_finite(epoch)
        self._take_up(*self._exchange.drain())
        self._count_device_time()
        self.log.flush()
        meters = {name: meter.state(self.device) for name, meter in self._meters()}
        if rank() != 0:
            return
        its, folder, steps = self.settings, self.folder / "model", len(self.batches)
        content = {"state_dict": self.model.state_dict(), "config": dict(its.config), "epoch": epoch, "step": done,
                   "steps": steps, "meters": meters, "replaced": self.replacements.total,
                   "optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict(),
                   "flags": dict(its.flags), "inputs": dict(its.inputs), "versions": versions()}
        copy = done == steps and (
            (epoch + 1) % its.save_freq == 0 or epoch + 1 == its.epochs or epoch == its.keep_epoch)
        write_latest(folder, content, epoch if copy else None, its.keep, its.keep_epoch)
        self.last_good = f"the last good checkpoint is {folder / LATEST}, of epoch {epoch} step {done}"

    def _stop(self, where: str) -> NoReturn:
        """End the run, which has just been saved after `where`, in a way that a launcher sees. Raises Stopped."""
        sentence = (f"stopped by {self.interrupt.name or 'a signal to another process'} after {where}, saved in "
                    f"{self.folder / 'model' / LATEST}; the same command with --resume auto goes on from there")
        self.log.line(sentence)
        self.log.flush()
        if rank() == 0:
            with whole_file(self.folder / STOPPED) as temporary:
                temporary.write_text(sentence + "\n")
        raise Stopped(sentence)

    def _meters(self) -> list[tuple[str, Meter]]:
        """Those that a checkpoint keeps, with their names there."""
        return [("window", self.since_log), ("whole", self.epoch_means)]

    def _count_device_time(self) -> None:
        seconds = self.clock.device_seconds()
        if seconds is not None:
            for _, meter in self._meters():
                meter.add("time/gpu", seconds)

    def _rate(self) -> float:
        return self.optimizer.param_groups[0]["lr"]

    def _check_finite(self, epoch: int) -> None:
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

"""Questions about time that any list of videos can be asked, without labels: which frames make their clips.

Every task is an example or more of each video, a clip or two each, with an answer that lies in the order of frames, or
in when they were taken, and that is equally often each of its classes within a video or in expectation.

arrow      forward or backward                              Wei et al. 2018, "Learning and Using the Arrow of Time"
shuffle    frames in their order, or shuffled               Misra et al. 2016, "Shuffle and Learn"
order n    in which of the n! orders n segments stand       Lee et al. 2017 (OPN); Xu et al. 2019 (VCOP)
precedence which of two clips of the video comes first      Fernando et al. 2015, Xu et al. 2019
speed      at 1, 2 or 4 times a stride                      Benaim et al. 2020 (SpeedNet); Yao et al. 2020 (PRP)
position   first, middle or last third of the video
cut        frames without a gap, or some left out amid      Jenni et al. 2020, "temporal transformations"

Control: the same, of a video whose frames were all shuffled before. What is found in it, the construction gives away.
"""
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

SPEEDS = (1, 2, 4)
DRAWN_ORDERS = 6  # of one task's n! orders, at most, in one video
MEAN_OF = 4  # frames of a clip, evenly spread, for the floor that is the mean over single frames


class Task(NamedTuple):
    """A question.

    title: as printed; classes: number of answers; examples: names of the clips of each, and its answer, None where it
    is drawn for each video
    """

    title: str
    classes: int
    examples: tuple[tuple[tuple[str, ...], int | None], ...]

    @property
    def chance(self) -> float:
        return 1 / self.classes


def orders_task(n: int) -> Task:
    count = math.factorial(n)
    examples = tuple(((f"order{n}_{k}",), None) for k in range(min(count, DRAWN_ORDERS)))
    return Task(f"order of {n}", count, examples)


TASKS: dict[str, Task] = {
    "arrow": Task("arrow of time", 2, ((("true",), 0), (("reversed",), 1))),
    "shuffle": Task("shuffled frames", 2, ((("true",), 0), (("shuffled",), 1))),
    **{f"order{n}": orders_task(n) for n in (2, 3, 4)},
    "precedence": Task("which clip is first", 2, ((("earlier", "later"), 0), (("later", "earlier"), 1))),
    "speed": Task("speed", len(SPEEDS), tuple(((f"speed{k}",), i) for i, k in enumerate(SPEEDS))),
    "position": Task("position in the video", 3, tuple(((f"third{i}",), i) for i in range(3))),
    "cut": Task("jump cut", 2, ((("uncut",), 0), (("cut",), 1)))}

# what the class probe is asked about, of videos with labels: the clip as it is, and what is left of it otherwise
CLASS_CLIPS = ("true", "reversed", "shuffled", "still")
CLIPS = tuple(dict.fromkeys([*(name for task in TASKS.values() for names, _ in task.examples for name in names),
                             *CLASS_CLIPS]))  # all clips of a video, by name, in this order


def segment_length(length: int, n: int) -> tuple[int, int]:
    """Of a clip of `length` frames in n segments: (frames of each, steps left out between two of them).

    What is left out is half a segment, so that no order, the true one included, is without a gap at its joints.
    """
    return length // n, max(length // n // 2, 1)


def segments(order: Sequence[int], length: int) -> np.ndarray:
    """Steps of a clip (length,) of n segments of equal length, with gaps between them, in an order, (n,) of 0 to n - 1.
    """
    own, gap = segment_length(length, len(order))
    return np.concatenate([part * (own + gap) + np.arange(own) for part in order])


def fits_length(task: str, length: int) -> bool:
    """Whether clips of so many frames can be asked a task: segments must be of equal length, without a frame left over,
    which would tell where it belongs.
    """
    return not task.startswith("order") or length % int(task[len("order"):]) == 0


def margin(task: str, length: int) -> int:
    """Frames at both ends of a video that a task's clips leave out. Fast clips and clips with a cut are wider than
    others, and would reach an end, which may be black or a title, more often.
    """
    return length // 2 if task in ("speed", "cut") else 0


def steps(task: str, length: int) -> int:
    """Steps of the stride that the clips of a task need of a video, from the first frame to the last.

    Of the clip itself, "clip", length - 1.
    """
    if task.startswith("order"):
        n = int(task[len("order"):])
        own, gap = segment_length(length, n)
        return n * own - 1 + (n - 1) * gap
    return {"clip": length - 1, "arrow": length - 1, "shuffle": length - 1, "precedence": 2 * length - 1,
            "speed": max(SPEEDS) * (length - 1), "position": length - 1 + length // 2,
            "cut": length - 1 + length // 2}[task]


def choose_stride(task: str, frames: np.ndarray, length: int, ds: int, share: float = 0.9) -> int:
    """The largest stride up to ds at which `share` of the videos have the frames that a task needs, at least 1.

    frames: (V,) int, of the videos. Speed begins at half of ds, for its 2x to be ds.
    """
    most = max(ds // 2, 1) if task == "speed" else ds
    needed, left_out = steps(task, length), 2 * margin(task, length)
    return next((stride for stride in range(most, 1, -1) if np.mean(frames > needed * stride + left_out) >= share), 1)


def draw_clips(frames: int, length: int, strides: Mapping[str, int], rate: float,
               rng: np.random.Generator) -> tuple[dict[str, np.ndarray], dict[str, list[int]], set[str]]:
    """Clips of one video -> ({name of CLIPS: indices (length,)}, {task: answers that were drawn}, tasks that fit).

    frames: of the video; strides: {task: stride}, that of the clip itself under "clip"; rate: frames a second by those
    of the other videos, for speed. Clips of a task for which the video is too short are its first frame, repeated.
    """
    clips = {name: np.zeros(length, np.int64) for name in CLIPS}
    answers: dict[str, list[int]] = {}
    fit: set[str] = set()
    run = np.arange(length)

    def start(task: str, scale: float = 1.0) -> int | None:
        """Where the clips of a task begin, uniform over the video without its ends; None: it is too short."""
        ends = margin(task, length)
        last = frames - 1 - 2 * ends - math.ceil(steps(task, length) * strides[task] * scale)
        where = rng.random()  # drawn in any case, so that other tasks' clips do not depend on this one's
        if last < 0:
            return None
        fit.update(("arrow", "shuffle") if task == "clip" else (task,))
        return int(where * (last + 1)) + ends

    begin, mixed = start("clip"), rng.permutation(length)
    if begin is not None:
        true = begin + run * strides["clip"]
        clips |= {"true": true, "reversed": true[::-1], "shuffled": true[mixed],
                  "still": np.full(length, true[length // 2])}

    for name in (name for name in TASKS if name.startswith("order")):
        begin = start(name) if fits_length(name, length) else None
        n = int(name[len("order"):])
        orders = list(itertools.permutations(range(n)))
        answers[name] = rng.permutation(len(orders))[:DRAWN_ORDERS].tolist()
        if begin is not None:
            clips |= {f"{name}_{k}": begin + segments(orders[number], length) * strides[name]
                      for k, number in enumerate(answers[name])}

    begin, between, stride = start("precedence"), rng.random(), strides["precedence"]
    if begin is not None:
        # of the two places one is drawn from what is left beside the other, so that both can be anywhere
        spare = frames - 1 - steps("precedence", length) * stride
        low, high = sorted((begin, int(between * (spare + 1))))
        clips |= {"earlier": low + run * stride, "later": high + (length + run) * stride}

    # a slower step than one frame would show frames twice
    stride = strides["speed"] * rate
    begin = start("speed", rate) if stride > 0.99 else None
    if begin is not None:
        middle = begin + steps("speed", length) * stride / 2
        clips |= {f"speed{k}": np.floor(middle + (run - (length - 1) / 2) * k * stride + 0.5).astype(np.int64).clip(
            0, frames - 1) for k in SPEEDS}

    begin, stride = start("position"), strides["position"]
    places = frames - (length - 1) * stride  # at which a clip can begin
    parts = [(i + rng.random()) / 3 for i in range(3)]
    if begin is not None:
        clips |= {f"third{i}": int(part * places) + run * stride for i, part in enumerate(parts)}

    begin, stride = start("cut"), strides["cut"]
    jump, at, later = length // 2, rng.integers(length // 4, length - length // 4), rng.integers(2)
    if begin is not None:
        clips |= {"uncut": begin + (run + later * jump) * stride,
                  "cut": begin + (run + np.where(run < at, 0, jump)) * stride}
    return clips, answers, fit


@dataclass(frozen=True)
class Plan:
    """The clips of a list of V videos.

    clips: names, those of CLIPS that some video is long enough for. indices: (V, R, T) int, frames of every row, R rows
    a video: these C clips, the same of the shuffled videos, then stills, one frame repeated. answers: {task: (V, E)
    int}. fit: {task: (V,) bool}, the videos that are long enough. single: (V, C) int, the row of the still of each
    clip's middle frame; spread: (V, C, MEAN_OF) int, those of frames that are evenly spread over it; both None where
    there are no stills.
    """

    clips: tuple[str, ...]
    indices: np.ndarray
    answers: dict[str, np.ndarray]
    fit: dict[str, np.ndarray]
    single: np.ndarray | None
    spread: np.ndarray | None


def make_plan(frames: np.ndarray, rates: np.ndarray, length: int, strides: Mapping[str, int], seed: Sequence[int],
              stills: bool) -> Plan:
    """Draw the clips of each video.

    frames: (V,) int, of the videos; rates: (V,) float, their frames a second by those of the others; length: T; seed:
    of the draw, integers; stills: whether to add the stills
    """
    videos = []
    for index, (count, rate) in enumerate(zip(frames.tolist(), rates.tolist(), strict=True)):
        rng = np.random.default_rng([*seed, index])
        videos.append((*draw_clips(count, length, strides, rate, rng), rng.permutation(count)))
    fit_of = {name: np.array([name in fit for _, _, fit, _ in videos]) for name in TASKS}
    asked = {name for task in TASKS if fit_of[task].any() for names, _ in TASKS[task].examples for name in names}
    used = tuple(name for name in CLIPS if name in asked or name in CLASS_CLIPS)
    rows, shown = [], []
    for clips, _, _, mixed in videos:
        own = np.stack([clips[name] for name in used])
        rows.append(np.concatenate([own, mixed[own]]))
        # of the frames in the order of the video: a clip and its permutations have the same
        spread = np.sort(own, axis=1)[:, (np.arange(MEAN_OF) * 2 + 1) * length // (2 * MEAN_OF)]
        shown.append(np.concatenate([own[:, [length // 2]], spread], axis=1))
    answers_of = {name: np.array([answers.get(name, [answer for _, answer in task.examples])
                                  for _, answers, _, _ in videos]) for name, task in TASKS.items()}
    if not stills:
        return Plan(used, np.stack(rows), answers_of, fit_of, None, None)
    distinct = [np.unique(own, return_inverse=True) for own in shown]
    most = max(len(values) for values, _ in distinct)
    offset = 2 * len(used)
    for i, (values, _) in enumerate(distinct):
        padded = np.pad(values, (0, most - len(values)), mode="edge")
        rows[i] = np.concatenate([rows[i], np.repeat(padded[:, None], length, axis=1)])
    where = offset + np.stack([which.reshape(len(used), 1 + MEAN_OF) for _, which in distinct])
    return Plan(used, np.stack(rows), answers_of, fit_of, where[:, :, 0], where[:, :, 1:])

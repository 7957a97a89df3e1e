"""Answers to the tasks of temporal_tasks.py from frozen features: a linear probe, a vote of neighbours, intervals."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from dataset.lists import VideoList, video_groups

from .probe import different_first, divided, fit, predicted_by_vote, said_by_few
from .temporal_output import BY_VOTE, FEWEST_RECORDINGS
from .temporal_tasks import CLASS_CLIPS, TASKS, Plan, Task

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)  # of scikit-learn's C
NEIGHBOURS = 10
RESAMPLES = 10_000
SURE = 0.999  # confidence of the interval around a control in which chance must lie


@dataclass(frozen=True)
class Side:
    """One list in one draw: features (V, R, D) float32 of all rows of its plan."""

    videos: VideoList
    plan: Plan
    features: np.ndarray

    def of(self, clip: str, kind: str) -> np.ndarray:
        """Features (V, D) of a clip by its name.

        kind: "clips"; "control", of the shuffled videos; "single", its middle frame alone; "mean", of single frames
        """
        column, every = self.plan.clips.index(clip), np.arange(len(self.features))
        if kind == "single" and self.plan.single is not None:
            return self.features[every, self.plan.single[:, column]]
        if kind == "mean" and self.plan.spread is not None:
            return self.features[every[:, None], self.plan.spread[:, column]].mean(axis=1)
        return self.features[:, column + len(self.plan.clips) * (kind == "control")]

    def examples(self, name: str, kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of a task, of the videos that are long enough -> features (N, E, D), answers (N, E), videos (N,), numbers."""
        fit = np.flatnonzero(self.plan.fit[name])
        values = [np.concatenate([self.of(clip, kind) for clip in clips], axis=1)[fit]
                  for clips, _ in TASKS[name].examples]
        return np.stack(values, axis=1), self.plan.answers[name][fit], fit


class Measured(NamedTuple):
    """Share of right answers of the videos, mean over draws, with an interval of 95 % and its standard error."""

    mean: float
    low: float
    high: float
    error: float


def without_labels(videos: VideoList, group: str, seed: int) -> tuple[VideoList, VideoList]:
    """As `analysis.probe.divided`, where labels play no part."""
    alike = VideoList(videos.names, videos.num_frames, np.zeros(len(videos), int), np.array(["any"]))
    return divided(alike, group, seed)


def choose_strength(features: np.ndarray, answers: np.ndarray, videos: VideoList, group: str, seed: int) -> float:
    """Of STRENGTHS the one that is best on recordings held out of the training list; of equals the strongest.

    features: (V, E, D); answers: (V, E); videos: these V
    """
    _, held = without_labels(videos, group, seed)
    inside = np.isin(videos.names, held.names)
    own = features[~inside].reshape(-1, features.shape[2]), answers[~inside].ravel()
    other = features[inside].reshape(-1, features.shape[2]), answers[inside].ravel()
    if len(np.unique(own[1])) < 2:
        return STRENGTHS[0]
    return STRENGTHS[int(np.argmax([fit(*own, strength).score(*other) for strength in STRENGTHS]))]


def answered(train: Side, test: Side, name: str, kind: str, group: str, seed: int) -> dict[str, np.ndarray]:
    """Right answers to a task -> {"linear", "neighbours": (V,) share of a test video's examples, nan: it has none}.

    The probe's strength is chosen on recordings held out of the training list.
    """
    features, answers, own = train.examples(name, kind)
    queries, truth, asked = test.examples(name, kind)
    strength = choose_strength(features, answers, train.videos.subset(own), group, seed)
    flat, labels = features.reshape(-1, features.shape[2]), answers.ravel()
    flat_queries = queries.reshape(-1, queries.shape[2])
    said = {"linear": fit(flat, labels, strength).predict(flat_queries),
            "neighbours": voted(flat_queries, flat, labels)}
    found = {}
    for how, values in said.items():
        found[how] = np.full(len(test.videos), np.nan)
        found[how][asked] = (values.reshape(truth.shape) == truth).mean(axis=1)
    return found


def voted(queries: np.ndarray, gallery: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """What the nearest of the gallery (N, D), whose answers are (N,), say of queries (Q, D) -> (Q,)."""
    return np.asarray(predicted_by_vote(*map(torch.from_numpy, (queries, gallery, answers)),
                                        min(NEIGHBOURS, len(gallery))))


def answered_by_few(train: Side, test: Side, name: str, shots: Sequence[int], group: str,
                    seed: int) -> dict[int, np.ndarray]:
    """Right answers of linear probes that were trained on k videos, all their examples -> {k: (V,) as in `answered`}.

    The videos are of different recordings as far as there are, and those of a smaller k among those of a larger one.
    Nothing else of the training list is used: the probe is that of analysis.probe --shots.
    """
    features, answers, own = train.examples(name, "clips")
    queries, truth, asked = test.examples(name, "clips")
    order = different_first(np.random.default_rng(seed).permutation(len(own)),
                            video_groups(train.videos.names[own], group))
    found = {}
    for k in shots:
        said = said_by_few(features[order[:k]].reshape(-1, features.shape[2]), answers[order[:k]].ravel(),
                           queries.reshape(-1, queries.shape[2]))
        found[k] = np.full(len(test.videos), np.nan)
        found[k][asked] = (said.reshape(truth.shape) == truth).mean(axis=1)
    return found


def class_gaps(train: Side, test: Side, group: str, seed: int) -> dict[str, np.ndarray]:
    """Right classes, (V,) -> {"<clip>": told by clips as they are, "<clip> itself": by such clips}, linear probes; and
    the same by a vote of neighbours, with BY_VOTE behind.

    clip: each of CLASS_CLIPS, which the test videos show; the first are the clips as they are.
    """
    own, asked = (np.flatnonzero(side.plan.fit["arrow"]) for side in (train, test))
    videos, labels = train.videos.subset(own), train.videos.labels[own]

    def tellers(clip: str) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
        features = train.of(clip, "clips")[own]
        strength = choose_strength(features[:, None], labels[:, None], videos, group, seed)
        return {"": fit(features, labels, strength).predict,
                BY_VOTE: lambda queries: voted(queries, features, labels)}

    true, found = tellers(CLASS_CLIPS[0]), {}
    for clip in CLASS_CLIPS:
        own_tellers = {} if clip == CLASS_CLIPS[0] else {f"{clip} itself": tellers(clip)}
        for kind, by in {clip: true, **own_tellers}.items():
            for way, tell in by.items():
                found[kind + way] = np.full(len(test.videos), np.nan)
                found[kind + way][asked] = tell(test.of(clip, "clips")[asked]) == test.videos.labels[asked]
    return found


def measured(draws: Sequence[np.ndarray], recordings: np.ndarray, seed: int = 0) -> Measured:
    """Mean over videos and draws, with an interval from resampled recordings (of videos, where these are few).

    draws: (V,) each, shares of right answers, nan where a video has none; recordings: (V,) of the videos
    """
    values = np.mean(draws, axis=0)  # nan where a video is too short, in every draw
    means = resampled(values, recordings, seed)
    low, high = np.quantile(means, (0.025, 0.975))
    return Measured(float(np.nanmean(values)), float(low), float(high), float(means.std()))


def resampled(values: np.ndarray, recordings: np.ndarray, seed: int = 0) -> np.ndarray:
    """Means (RESAMPLES,) of values (V,), nan left out, over recordings drawn anew, or videos where these are few."""
    known = np.isfinite(values)
    values, which = values[known], units(recordings[known])
    count = which.max() + 1
    sums, sizes = np.bincount(which, values, count), np.bincount(which, minlength=count)
    taken = np.random.default_rng(seed).integers(count, size=(RESAMPLES, count))
    return sums[taken].sum(axis=1) / sizes[taken].sum(axis=1)


def units(recordings: np.ndarray) -> np.ndarray:
    """(V,) names of the recordings of videos -> (V,) int, numbers of the recordings, of the videos if these are few."""
    names, which = np.unique(recordings, return_inverse=True)
    return np.arange(len(recordings)) if len(names) < FEWEST_RECORDINGS else which


def is_above(own: np.ndarray, floor: np.ndarray, recordings: np.ndarray, tests: int) -> bool:
    """Whether shares (V,) are above a floor's on the same videos: a paired t-test, one-sided, 5 % over all `tests`.

    Never where recordings are fewer than FEWEST_RECORDINGS: videos of one recording are not independent.
    """
    from scipy.stats import t
    difference = own - floor
    count = len(np.unique(recordings[np.isfinite(difference)]))
    if count < FEWEST_RECORDINGS:
        return False
    error = without_bias(float(resampled(difference, recordings).std()), count)
    return bool(np.nanmean(difference) > t.ppf(1 - 0.05 / tests, count - 1) * error)


def without_bias(error: float, count: int) -> float:
    """A standard error from `count` units drawn anew, which is too small by a little, made right."""
    return error * (count / (count - 1)) ** 0.5


def is_chance(control: Measured, task: Task, count: int) -> bool:
    """Whether a control, in which nothing is to be found, does not differ from chance: a t-test, two-sided, 1 - SURE.

    count: of what was drawn anew for its standard error
    """
    from scipy.stats import t
    reach = t.ppf((1 + SURE) / 2, count - 1) * without_bias(control.error, count)
    return bool(abs(control.mean - task.chance) <= reach + 1e-9)

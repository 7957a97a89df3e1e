"""Pictures of the report: which are drawn of the runs that there are, and drawing them into the page."""
import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from core.errors import CheckpointError, DataError, RunError, UsageError
from core.exits import explain

from . import pictures
from .modes import parse_cell
from .page import Page
from .report_tables import first_seeds
from .runs import STAGES, Run, Runs

LISTS = ("dataset", "split", "storage")  # flags that say which lists are read
MOST_PANELS = 4  # of pictures side by side


class Picture(NamedTuple):
    name: str  # of its file, without ending
    caption: str
    flags: list[str]  # of analysis.pictures

    @property
    def shows_frames(self) -> bool:
        """Whether frames of videos can be seen in it."""
        return self.flags[0] in ("gallery", "views", "segments", "timeline")


def representatives(runs: Iterable[Run]) -> list[Run]:
    """What stands side by side: first seeds, without thumbnails; random weights where little else is there."""
    chosen = [run for run in first_seeds(runs) if run.flags.get("pretrain") != "thumbnail"]
    trained = [run for run in chosen if run.flags.get("pretrain") != "random"]
    return (trained if len(trained) > 2 else chosen)[:MOST_PANELS]


def titles(runs: Sequence[Run]) -> list[str]:
    """Short names for panels: the modes of cells of the table, or the runs' names where those say more."""
    modes = [cell.mode for run in runs if (cell := parse_cell(run.name)) and cell.known]
    return modes if len(set(modes)) == len(runs) else [run.name for run in runs]


def pictures_to_draw(found: Runs, datasets: Iterable[str]) -> Iterator[Picture]:
    for stage, text in STAGES.items():
        if begun := [run for run in found[stage] if run.rows]:
            note = " (R@1 among training videos of other recordings)" if stage == "pretrain" else ""
            yield Picture(f"curves_{stage}", f"{text.capitalize()}: what was measured over the epochs{note}.",
                          ["curves", "--runs", *(str(run.folder) for run in begun)])
    for dataset in datasets:
        own = {stage: [run for run in runs if run.dataset == dataset] for stage, runs in found.items()}
        yield from pictures_of_features(dataset, [run for run in own["retrieval"] if run.features()])
        yield from pictures_of_tests(dataset, representatives(own["test"]))
        yield from pictures_of_videos(dataset, representatives(run for run in own["pretrain"]
                                                               if run.flags["split"] is not None))


def pictures_of_features(dataset: str, searched: Sequence[Run]) -> Iterator[Picture]:
    """searched: retrievals that saved their features."""
    if clips := representatives(run for run in searched if run.has_clip_features()):
        yield Picture(f"tsne_{dataset}", f"{dataset}: t-SNE of training features, one point a clip, coloured by class. "
                      "Clips of one video that fall on one point have lost their differences.",
                      ["tsne", "--features", *(str(run.features()) for run in clips), "--titles", *titles(clips)])
    if some := representatives(searched):
        last = some[-1]
        yield Picture(f"gallery_{dataset}", f"{dataset}, {last.name}: test videos and the five nearest training "
                      "videos, with cosines; ✓ same class, ✗ another.",
                      ["gallery", "--features", str(last.features()), *flags_of(last, LISTS)])


def pictures_of_tests(dataset: str, tests: Sequence[Run]) -> Iterator[Picture]:
    if tests:
        pair = [tests[0], tests[-1]] if len(tests) > 1 else tests
        yield Picture(f"classes_{dataset}", f"{dataset}: accuracy of each class, in the order in which the runs "
                      "differ.", ["classes", "--test", *(str(run.folder) for run in pair), "--titles", *titles(pair)])
        yield Picture(f"confusion_{dataset}", f"{dataset}, {tests[-1].name}: confusion of the test.",
                      ["confusion", "--test", str(tests[-1].folder)])


def pictures_of_videos(dataset: str, trained: Sequence[Run]) -> Iterator[Picture]:
    """Videos as pretraining sees them. trained: pretraining runs."""
    if not trained:
        return
    own = data_flags(trained[-1]) + ["--n_series", str(trained[-1].flags["n_series"])]
    seen = own + [word for name in ("time_reverse", "centres", "permutations", "segment_gap")
                  if name in trained[-1].flags for word in (f"--{name}", str(trained[-1].flags[name]))]
    yield Picture(f"views_{dataset}", f"{dataset}: augmented views of training videos, as in epoch 0.",
                  ["views", *seen])
    yield Picture(f"segments_{dataset}", f"{dataset}: view 3 and its segments as shuffle-rank shuffles them.",
                  ["segments", *seen])
    weights = {run: run.folder / "model" / "backbone.pth.tar" for run in trained}
    if there := [run for run, path in weights.items() if path.is_file()]:
        yield Picture(f"timeline_{dataset}", f"{dataset}: cosine between the segments of the longest test video, each "
                      "encoded alone, centred by the mean of other videos.",
                      ["timeline", *own, "--pretrain", *(str(weights[run]) for run in there),
                       "--titles", *titles(there)])


def flags_of(run: Run, names: Iterable[str]) -> list[str]:
    return [word for name in names for word in (f"--{name}", str(run.flags[name]))]


def data_flags(run: Run) -> list[str]:
    """How a run read its videos, as flags."""
    pace = "ds" if run.flags["fps"] is None else "fps"
    return [*flags_of(run, (*LISTS, "seq_len", pace, "img_dim", "seed")), "--resize",
            "x".join(map(str, run.flags["resize"]))]


def draw_pictures(page: Page, wanted: Iterable[Picture]) -> list[str]:
    """Draw pictures into the page -> sentences about those that could not be drawn."""
    failed = []
    for name, caption, flags in wanted:
        argv = [*flags, "--out", str(page.folder / "pictures" / name)]
        try:
            pictures.main(argv)
        except (DataError, UsageError, CheckpointError, RunError, OSError) as error:
            failed.append(f"picture {name}: {explain(error) or error}")
            continue
        except SystemExit:  # argparse has said what of
            failed.append(f"picture {name}: a name or value of its runs is no flag of a command: "
                          f"python -m analysis.pictures {shlex.join(argv)}")
            continue
        page.picture(page.folder / "pictures" / f"{name}.png", caption,
                     "python -m analysis.pictures " + shlex.join(argv))
    return failed

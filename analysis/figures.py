"""The pictures of videos and numbers: arrays in, a matplotlib figure out, `save` writes it.

Colours are Okabe and Ito's, which the colour-blind tell apart; where there are more classes than colours, or a
picture may be printed in grey, shape or text says the same.
"""
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context, rcParams
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from core.errors import RunError
from core.files import whole_file

# names are text: a dollar in one begins no formula
rcParams.update({"text.parse_math": False, "text.usetex": False})

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#000000")
MARKERS = "os^DvPX*<>hpd8"
DASHES = ("-", "--", "-.", ":")
RIGHT, WRONG, QUERY = COLOURS[0], COLOURS[5], "#777777"
MOST_IN_LEGEND = 40
KINDS = ("png", "pdf", "svg")


def save(figure: Figure, path: Path, kinds: Sequence[str] = KINDS) -> list[Path]:
    """Write `path` with the ending of each kind, at 150 dpi where it has pixels -> the paths.

    Raises RunError where matplotlib cannot draw it.
    """
    paths = [path.with_name(f"{path.name}.{kind}") for kind in kinds]
    try:
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # laid out once for all kinds
        for target, kind in zip(paths, kinds, strict=True):
            undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(kind)  # same bytes for the same data
            with whole_file(target) as temporary, rc_context({"svg.hashsalt": "dualvar"}):
                figure.savefig(temporary, format=kind, dpi=150, metadata=undated, bbox_inches="tight", pad_inches=0.05)
    except (ValueError, TypeError, ArithmeticError, RuntimeError, MemoryError) as error:
        raise RunError(f"{path}.{kinds[0]} cannot be drawn ({' '.join(str(error).split())[:200]}); the numbers in it "
                       "are kept, draw it again with python -m analysis.pictures") from error
    return paths


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size, inches."""
    return Figure(figsize=(width, height), layout="constrained")


def style_of(number: int) -> tuple[str, str]:
    """Colour and marker of class `number`: neighbours differ in colour."""
    return COLOURS[number % len(COLOURS)], MARKERS[number // len(COLOURS) % len(MARKERS)]


def scatter(panels: Sequence[tuple[str, np.ndarray, np.ndarray]], classes: Sequence[str]) -> Figure:
    """Points of several representations side by side, coloured by class.

    panels: [(title, points (N, 2), labels (N,))]; classes: (C,) str in label order.
    """
    width = max(3.6 * len(panels), 4.5)
    figure = new_figure(width, 4.4)
    shown = sorted(set(itertools.chain.from_iterable(labels.tolist() for _, _, labels in panels)))
    for axes, (title, points, labels) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for number in shown:
            colour, marker = style_of(shown.index(number))
            axes.scatter(*points[labels == number].T, s=5, c=colour, marker=marker, linewidths=0, alpha=0.8,
                         rasterized=True)
        axes.set_title(title)
        axes.set(xticks=[], yticks=[], aspect="equal", adjustable="datalim")
    if len(shown) <= MOST_IN_LEGEND:
        handles = [Line2D([], [], linestyle="", color=style_of(i)[0], marker=style_of(i)[1], label=classes[number])
                   for i, number in enumerate(shown)]
        column = 0.5 + 0.075 * max(len(classes[number]) for number in shown)  # inches that a name takes
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(shown), max(1, int(width / column))),
                      fontsize=8, frameon=False)
    return figure


def gallery(rows: Sequence[tuple[np.ndarray, str, Sequence[tuple[np.ndarray, str, float]]]]) -> Figure:
    """Queries with what was found for them, nearest first.

    rows: [(picture, class, [(picture, class, similarity)])], pictures (h, w, 3) uint8 RGB of one size.
    """
    columns = 1 + max(len(found) for _, _, found in rows)
    grid, texts = [], []
    for picture, query, found in rows:
        tiles, words = [(picture, QUERY)], [(f"{query}\nquery", "black")]
        for near, name, similarity in found:
            sign, colour = ("✓", RIGHT) if name == query else ("✗", WRONG)
            tiles.append((near, colour))
            words.append((f"{name}\n{sign} {similarity:.2f}", colour))
        grid.append(tiles)
        texts.append(words)
    figure = new_figure(1.75 * columns, 1.7 * len(rows) + 0.1)
    axes = figure.subplots()
    across, down = mosaic(axes, grid, below=0.36)
    for y, words in zip(down, texts, strict=True):
        for x, (text, colour) in zip(across, words, strict=False):
            axes.text(x, y, text, fontsize=7.5, color=colour, ha="center", va="top")
    return figure


def mosaic(axes: Axes, grid: Sequence[Sequence[tuple[np.ndarray, str]]], below: float = 0.06,
           border: float = 0.035) -> tuple[np.ndarray, np.ndarray]:
    """Pictures in rows, each framed in its colour, drawn as one image.

    grid: [[(picture (h, w, 3) uint8, colour)]], all of one size; below: white under each row, a share of the height.
    -> (the middle of each column, the lower edge of each row), in the coordinates of `axes`
    """
    height, width = grid[0][0][0].shape[:2]
    times = max(1, round(100 / height))  # small frames are enlarged, so that their border can be thin
    height, width = times * height, times * width
    edge = round(border * height)
    step_y, step_x = height + 2 * edge + round(below * height), width + 3 * edge
    canvas = np.full((step_y * len(grid), step_x * max(map(len, grid)), 3), 255, np.uint8)
    for i, tiles in enumerate(grid):
        for j, (picture, colour) in enumerate(tiles):
            y, x = i * step_y, j * step_x
            canvas[y:y + height + 2 * edge, x:x + width + 2 * edge] = np.array(to_rgb(colour)) * 255
            canvas[y + edge:y + edge + height, x + edge:x + edge + width] = picture.repeat(times, 0).repeat(times, 1)
    axes.imshow(canvas, interpolation="nearest" if times > 1 else None)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    columns = np.arange(max(map(len, grid))) * step_x + width / 2 + edge
    return columns, np.arange(len(grid)) * step_y + height + 2.5 * edge


def confusion(rates: np.ndarray, classes: Sequence[str]) -> Figure:
    """Confusion matrix (C, C), rows summing to 1; names are left out where they would not be legible."""
    size = min(3 + 0.25 * len(classes), 20)
    figure = new_figure(size + 1, size)
    axes = figure.subplots()
    picture = axes.imshow(rates, cmap="cividis", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="true")
    if len(classes) <= 120:
        font = 8 if len(classes) <= 60 else 5
        axes.set_xticks(range(len(classes)), classes, rotation=90, fontsize=font)
        axes.set_yticks(range(len(classes)), classes, fontsize=font)
    if len(classes) <= 20:
        for (i, j), rate in np.ndenumerate(rates):
            axes.text(j, i, f"{rate:.2f}", ha="center", va="center", fontsize=7,
                      color="black" if rate > 0.6 else "white")
    figure.colorbar(picture, label="share of the class's videos", shrink=0.8)
    return figure


def class_bars(classes: np.ndarray, runs: Mapping[str, np.ndarray]) -> Figure:
    """Accuracy of each class in one run or several, the classes in the order of first less last.

    classes: (C,) str; runs: {name: (C,) in [0, 1], nan where a class has no videos}.
    """
    values = np.array(list(runs.values()))
    known = np.nan_to_num(values)
    order = np.lexsort((known[0], known[0] - known[-1]))
    names = [f"{name} (no videos)" if np.isnan(own).all() else name
             for name, own in zip(classes, values.T, strict=True)]
    thick = 0.8 / len(runs)
    figure = new_figure(7, 1.2 + len(classes) * (0.12 + 0.14 * len(runs)))
    axes = figure.subplots()
    for i, own in enumerate(runs.values()):
        places = np.arange(len(classes)) + thick * (len(runs) / 2 - 0.5 - i)
        axes.barh(places, np.nan_to_num(own[order]), thick, color=COLOURS[i % len(COLOURS)],
                  hatch=("", "///", "...", "xxx")[i % 4], edgecolor="white", linewidth=0)
        if np.isfinite(own).any():
            axes.axvline(np.nanmean(own), color=COLOURS[i % len(COLOURS)], linestyle=DASHES[i % 4], linewidth=1)
    axes.set_yticks(range(len(classes)), np.array(names)[order], fontsize=8)
    axes.set(xlim=(0, 1), ylim=(-0.6, len(classes) - 0.4), xlabel="accuracy (lines: mean over classes)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(axes.containers, list(runs), loc="outside upper center", ncols=min(len(runs), 3), frameon=False,
                  fontsize=8)
    return figure


def curves(panels: Mapping[str, Sequence[tuple[str, np.ndarray, np.ndarray]]]) -> Figure:
    """Lines of several runs, a panel a measure.

    panels: {measure: [(run, epochs (N,), values (N,))]}; lines of one name, as the seeds of one experiment, look the
    same.
    """
    names = list(dict.fromkeys(name for lines in panels.values() for name, _, _ in lines))
    styles = {name: {"color": COLOURS[i % len(COLOURS)], "linestyle": DASHES[i // len(COLOURS) % len(DASHES)],
                     "marker": MARKERS[i % len(MARKERS)], "markersize": 3.5} for i, name in enumerate(names)}
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = new_figure(max(3.3 * columns, 4.5), 2.5 * rows + 0.5)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(panels):]:
        axes.set_axis_off()
    for axes, (measure, lines) in zip(grid, panels.items(), strict=False):
        for name, at, values in lines:
            axes.plot(at, values, linewidth=1.3, **styles[name], markevery=max(len(at) // 8, 1))
        axes.set_title(measure, fontsize=9)
        axes.set_xlabel("epoch", fontsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    figure.legend(handles=[Line2D([], [], label=name, **style) for name, style in styles.items()],
                  loc="outside lower center", ncols=columns, fontsize=8, frameon=False)
    return figure


def sheet(rows: Sequence[tuple[str, Sequence[np.ndarray], Sequence[str]]]) -> Figure:
    """Strips of frames. rows: [(text, frames [(h, w, 3) uint8 RGB], a frame's colour each)], of equal length."""
    figure = new_figure(0.95 * len(rows[0][1]) + 1.3, 1.0 * len(rows))
    axes = figure.subplots()
    _, down = mosaic(axes, [list(zip(frames, colours, strict=True)) for _, frames, colours in rows])
    axes.set_yticks(down - down[0] / 2, [text for text, _, _ in rows], fontsize=8)
    axes.tick_params(length=0)
    return figure


def timeline(panels: Sequence[tuple[str, np.ndarray]], frames: Sequence[np.ndarray], starts: np.ndarray) -> Figure:
    """Similarity between the segments of a video, and of each to the first, under the video's frames.

    panels: [(title, (S, S) similarities in [-1, 1])]; frames: [(h, w, 3) uint8 RGB], spread evenly over the video;
    starts: (S,) frame at which each segment begins, in even steps.
    """
    figure = new_figure(max(3.1 * len(panels), 5), 6)
    strip, maps, lines = figure.subfigures(3, 1, height_ratios=(0.9, 2.6, 1.8))
    for axes, frame in zip(strip.subplots(1, len(frames), squeeze=False)[0], frames, strict=True):
        axes.imshow(frame)
        axes.set_axis_off()
    half = (starts[1] - starts[0]) / 2
    low = np.floor(10 * min(similarity.min() for _, similarity in panels)) / 10  # one scale for all panels
    edges = (starts[0] - half, starts[-1] + half, starts[-1] + half, starts[0] - half)
    grid = maps.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, similarity) in zip(grid, panels, strict=True):
        picture = axes.imshow(similarity, cmap="cividis", vmin=low, vmax=1, extent=edges)
        axes.set_title(title, fontsize=9)
        axes.tick_params(labelsize=7)
    maps.colorbar(picture, ax=list(grid), label="cosine", shrink=0.9)
    axes = lines.subplots()
    for i, (_, similarity) in enumerate(panels):
        axes.plot(starts, similarity[0], color=COLOURS[i % len(COLOURS)], linestyle=DASHES[i % len(DASHES)],
                  marker=MARKERS[i % len(MARKERS)], markersize=3.5)
    axes.set(xlabel="frame at which the segment begins", ylabel="cosine to the first")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(axes.lines, [title for title, _ in panels], fontsize=8, frameon=False)
    return figure


def dots(rows: Sequence[tuple[str, float, Mapping[str, tuple[float, float, float] | str], Mapping[str, float],
                              Mapping[str, float]]], label: str, hollow: str, looks: Mapping[str, str]) -> Figure:
    """Shares with their intervals, beside what they must be above.

    rows: [(title, chance, {name: (share, low, high), or a text in their place}, {floor: share}, {name: share of its
    own floor, as a hollow mark})], with the same names in each; label: of the axis; hollow: of the hollow marks; looks:
    {name: what it is called}, those of one look the same.
    """
    names, floors, looking = list(rows[0][2]), list(rows[0][3]), list(dict.fromkeys(looks.values()))
    kinds = [looking.index(looks[name]) for name in names]
    apart = 0.8 / max(len(names), 2)
    figure = new_figure(7.5, 1.4 + len(rows) * (0.26 + 0.1 * len(names)))
    axes = figure.subplots()
    for place, (_, chance, shares, ticks, own) in enumerate(rows):
        axes.plot([chance] * 2, [place - 0.45, place + 0.45], color="black", linewidth=1.2)
        for i, floor in enumerate(floors):
            axes.plot([ticks[floor]] * 2, [place - 0.33, place + 0.33], color="#777777", linewidth=1.4,
                      linestyle=DASHES[i % len(DASHES)])
        for i, name in enumerate(names):
            y, share = place + apart * (i - (len(names) - 1) / 2), shares[name]
            colour, marker = COLOURS[kinds[i] % len(COLOURS)], MARKERS[kinds[i] % len(MARKERS)]
            if name in own:
                axes.plot(own[name], y, marker=marker, markersize=4, color=colour,
                          markerfacecolor="white", markeredgewidth=0.8)
            if isinstance(share, str):
                axes.text(chance, y, f" {share}", fontsize=6.5, va="center", color=colour)
            else:
                axes.plot(share[1:], [y, y], color=colour, linewidth=1.3)
                axes.plot(share[0], y, color=colour, marker=marker, markersize=5)
        if place:
            axes.axhline(place - 0.5, color="#dddddd", linewidth=0.6)
    axes.set_yticks(range(len(rows)), [title for title, *_ in rows], fontsize=8)
    axes.set(xlim=(0, 1.02), ylim=(len(rows) - 0.5, -0.5), xlabel=label)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    handles = [Line2D([], [], color=COLOURS[i % len(COLOURS)], marker=MARKERS[i % len(MARKERS)], markersize=5,
                      label=name) for i, name in enumerate(looking)]
    handles += [Line2D([], [], color="#777777", linestyle=DASHES[i % len(DASHES)], label=floor)
                for i, floor in enumerate(floors)] + [Line2D([], [], color="black", label="chance")]
    handles.append(Line2D([], [], linestyle="", color="#777777", marker="o", markersize=4, markerfacecolor="white",
                          label=hollow))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure

"""Draw the pictures of asset/.

    python asset/draw.py

overview.png is drawn by draw_overview.py. finetune_acc.png and retrieval_acc.png show the paper's figures
(analysis/paper.py) and nothing of ours, feat_dist.png our own runs of asset/evidence/. Lengths are inches, sizes
of type points; a README shows a picture half as wide as it is.
"""
import io
import sys
import textwrap
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import core  # noqa: F401  # before what takes seconds to import

# isort: split
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from analysis.figures import COLOURS
from analysis.paper import FINETUNED, RETRIEVAL
from asset import draw_overview
from asset.draw_overview import DPI, GREY, INK, PALE
from core.exits import run
from core.inputs import read_table
from core.parser import new_parser

ASSET = Path(__file__).resolve().parent
WIDTH = 8
EVIDENCE = {"demo": 3.92, "ucf101-5class": 0.9}  # data set: where its row of panels is
OURS = "#0072b2"  # DualVar's colour
# of the other methods, with a marker each: told apart by the colour-blind and in grey print too
OTHERS = {"RSPNet": ("#d55e00", "s"), "TempTrans": ("#009e73", "^"), "Pace": ("#e69f00", "D"), "PRP": ("#cc79a7", "v")}
SOURCE = ("Figures of the paper (BMVC 2021, arXiv 2107.01194), official split 1. They are not ours: DualVar’s were "
          "not run again here at full size. ")


def new_picture(height, title, note):
    """Figure of WIDTH x height with a title on top and a note at its foot."""
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white")
    figure.text(0.12 / WIDTH, 1 - 0.12 / height, title, size=12, weight="bold", color=INK, va="top")
    figure.text(0.12 / WIDTH, 0.12 / height, textwrap.fill(note, 122), size=8.5, color=GREY, va="bottom",
                linespacing=1.3)
    return figure


def add_axes(figure, left, bottom, width, height):
    """Axes at a place in inches, without frame."""
    whole = figure.get_figheight()
    axes = figure.add_axes((left / WIDTH, bottom / whole, width / WIDTH, height / whole))
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=9, labelcolor=INK)
    return axes


def save(figure, target):
    """Write a figure as a PNG of at most 256 colours."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=DPI)
    Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(target, optimize=True)
    print(f"{target}: {target.stat().st_size / 1000:.0f} kB")


# --- the paper's figures -------------------------------------------------------------------------------------

def draw_finetune_acc(folder):
    """Top-1 after fine-tuning, a bar a method on either data set, percent to one scale."""
    rows = sorted(FINETUNED, key=lambda row: row[2:])
    ours = [method.startswith("DualVar") for method, *_ in rows]
    figure = new_picture(4.9, "The paper’s top-1 after fine-tuning, %", f"{SOURCE}Its rows (blue, bold) name the "
                         "pretraining set and are of R(2+1)D, 16×112×112.")
    places, inch = np.arange(len(rows)), 4.85 / 150  # of a percent
    for column, name, left, most in ((2, "UCF101", 2.15, 90), (3, "HMDB51", 5.55, 60)):
        axes = add_axes(figure, left, 0.6, most * inch, 3.75)
        values = [row[column] for row in rows]
        bars = axes.barh(places, values, 0.72, color=[OURS if mine else PALE for mine in ours])
        for label, mine in zip(axes.bar_label(bars, fmt="%.1f", padding=3, size=9, color=INK), ours, strict=True):
            label.set_weight("bold" if mine else "normal")
        axes.set(xlim=(0, most), xticks=[], ylim=(-0.6, len(rows) - 0.4), yticks=[])
        axes.set_title(name, loc="left", size=10, weight="bold", color=INK, pad=4)
        axes.axvline(0, color=GREY, linewidth=0.8)
        if column == 2:
            axes.set_yticks(places, [f"{method}, {on}" if on else method for method, on, *_ in rows], va="center")
            for label, mine in zip(axes.get_yticklabels(), ours, strict=True):
                label.set(weight="bold" if mine else "normal", color=OURS if mine else INK)
    save(figure, folder / "finetune_acc.png")


def draw_retrieval_acc(folder):
    """R@k over k, a line a method, named at its end."""
    figure = new_picture(4.4, "The paper’s retrieval on UCF101: R@k, %", f"{SOURCE}R@k: any of the k nearest training "
                         "videos has the query’s class. The abstract has 46.1 at k = 1.")
    axes = add_axes(figure, 0.5, 1, 6.1, 2.95)
    ks = list(RETRIEVAL["DualVar"])
    axes.set(xscale="log", xlim=(0.9, 53), ylim=(18, 92), yticks=range(20, 91, 10))
    axes.set_xticks(ks, map(str, ks))
    axes.set_xticks([], minor=True)
    axes.set_xlabel("k, nearest training videos", size=9, color=INK)
    axes.grid(axis="y", color=PALE, linewidth=0.6, alpha=0.6)
    for method, found in RETRIEVAL.items():
        colour, marker = OTHERS.get(method, (OURS, "o"))
        mine = method not in OTHERS
        style = dict(size=9, weight="bold" if mine else "normal", color=OURS if mine else INK)
        # DualVar's is the widest line and lies below, so that RSPNet's is seen where they meet
        axes.plot(ks, list(found.values()), color=colour, marker=marker, linewidth=3.5 if mine else 1.4,
                  markersize=9 if mine else 4.5, zorder=2 if mine else 3)
        axes.text(55, found[50] + {"RSPNet": 2.6, "DualVar": -0.9}.get(method, 0), f"{method} {found[50]:.1f}",
                  va="center", **style)
        for k in ks[:-1] if mine else ():
            axes.annotate(f"{found[k]:.1f}", (k, found[k]), (0, 8), textcoords="offset points", ha="center", **style)
    save(figure, folder / "retrieval_acc.png")


def draw_feat_dist(folder):
    """Our t-SNE of training features, one point a clip: a row a data set, a panel a mode."""
    note = ("t-SNE of training features, one point a clip, coloured by class: ours, of the small runs in "
            "asset/evidence/, seed 0. Clips of one video that fall on one point have lost their differences.")
    figure = new_picture(6.75, "What is left of the differences within a video", note)
    for name, bottom in EVIDENCE.items():
        rows = read_table(ASSET / f"evidence/{name}/pictures/tsne_{name}.csv", ("panel", "video", "clip", "x", "y"))
        table = pd.DataFrame(rows).astype({"x": float, "y": float})
        labels, classes = pd.factorize(table["video"].str.partition("/")[0], sort=True)
        for column, (mode, own) in enumerate(table.groupby("panel", sort=False)):
            axes = add_axes(figure, 0.14 + 2.62 * column, bottom, 2.5, 2.3)
            for number, colour in enumerate(COLOURS[:len(classes)]):
                points = own.loc[labels[own.index] == number, ["x", "y"]].to_numpy()
                axes.scatter(*points.T, s=2.5, linewidths=0, c=colour)
            axes.set(xticks=[], yticks=[])
            axes.set_title(f"{name}: {mode}", size=9, color=INK)
            axes.spines[:].set(visible=True, color=PALE)
        handles = [Line2D([], [], linestyle="", marker="o", markersize=4, color=colour, label=label)
                   for colour, label in zip(COLOURS, classes, strict=False)]
        figure.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, (bottom - 0.02) / 6.75),
                      ncols=4 if len(classes) > 6 else 5, fontsize=8.5, frameon=False, handletextpad=0)
    save(figure, folder / "feat_dist.png")


def main(argv):
    new_parser("asset/draw.py", __doc__).parse_args(argv)
    draw_overview.main()

    draw_finetune_acc(ASSET)
    draw_retrieval_acc(ASSET)

    draw_feat_dist(ASSET)


if __name__ == "__main__":
    run(main)

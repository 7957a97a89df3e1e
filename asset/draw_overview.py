"""Draw asset/overview.png: a video becomes views, views become embeddings, embeddings make the loss.

    python asset/draw_overview.py

The frames are of a rendered video, sampled by the project's own rule. Lengths are pixels, y points down.
"""
import io
import itertools
import sys
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Polygon, Rectangle
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from asset.overview_video import render_video
from dataset.sampling import centred_clip_indices

DPI = 200
SEGMENTS = ("#0072b2", "#e69f00")  # segments 1 and 2: blue and orange, told apart by the colour-blind too
INK, GREY, PALE, TINT = "#1a1a1a", "#555555", "#c4c4c4", "#dfe7f1"
PULL = dict(color="#00795a", linewidth=1.8, solid_capstyle="butt")
PUSH = dict(color="#b5307c", dashes=(2.2, 1.2))

VIDEO = dict(seed=0, group=1112, frames=150, height=128, width=171)
CENTRES = (36, 106)  # of clips 1 and 2
SHOWN = (0, 5, 10, 15)  # frames of a clip that are drawn: two of each segment
# each view's own augmentation: corner of its crop (y, x), turn of the hue, saturation, brightness, blur
AUGMENT = {"view 1": ((6, 38), 0, 1.0, 1.0, 0), "view 2": ((10, 26), 0.19, 0.8, 1.2, 0),
           "view 3": ((14, 32), -0.12, 0.6, 1.7, 1.2)}

figure = Figure(figsize=(2000 / DPI, 1000 / DPI), dpi=DPI, facecolor="white")
axes = figure.add_axes((0, 0, 1, 1))
axes.set(xlim=(0, 2000), ylim=(1000, 0), autoscale_on=False)
axes.axis("off")


def write(x, y, text, size=9, **style):
    """Lines of text, the first with its baseline at y."""
    for i, line in enumerate(text.split("\n")):
        axes.text(x, y + 32 * i, line, **{"size": size, "color": INK, **style})


def picture(frame, x, y):
    """A BGR frame, pixel for pixel; its upper left corner is (x, y)."""
    height, width = frame.shape[:2]
    axes.imshow(frame[..., ::-1], extent=(x, x + width, y + height, y), aspect="auto", interpolation="nearest",
                zorder=2)


def box(x, y, width, height, face):
    axes.add_patch(FancyBboxPatch((x + 8, y + 8), width - 16, height - 16, boxstyle="round,pad=8,rounding_size=10",
                                  facecolor=face, edgecolor=GREY))


def path(*points, **style):
    axes.plot(*zip(*points, strict=True), **{"color": GREY, "linewidth": 1.4, "solid_joinstyle": "miter", **style})


def arrow(*points, **style):
    """A path with a head at its end."""
    path(*points[:-1], **style)
    style = {"color": GREY, "linewidth": 1.4, **style}
    axes.add_patch(FancyArrowPatch(*points[-2:], arrowstyle="-|>", mutation_scale=9, shrinkA=0, shrinkB=0, **style))


def bar(x, y, cells, colour):
    """An embedding, one cell for 16 dimensions; its upper left corner is (x, y)."""
    for i in range(cells):
        axes.add_patch(Rectangle((x + 14 * i, y), 14, 22, facecolor=colour, edgecolor="white", linewidth=0.6))


def segment_set(x, y, colours=SEGMENTS):
    """Two embeddings of 64 dimensions, together 152 wide."""
    for i, colour in enumerate(colours):
        bar(x + 96 * i, y, 4, colour)


def augment(clip, corner, turn, saturation, brightness, blur):
    """Frames (N, H, W, 3) uint8 BGR -> N crops of 112 pixels, all changed alike."""
    crops = []
    for frame in clip[:, corner[0]:corner[0] + 112, corner[1]:corner[1] + 112]:
        hsv = cv2.cvtColor(frame.astype(np.float32) / 255, cv2.COLOR_BGR2HSV)
        hsv[..., 0] = (hsv[..., 0] + 360 * turn) % 360
        hsv[..., 1:] = np.clip(hsv[..., 1:] * (saturation, brightness), 0, 1)
        crop = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR) * 255
        crops.append((cv2.GaussianBlur(crop, (0, 0), blur) if blur else crop).astype(np.uint8))
    return crops


def draw_clip(crops, y, order=(0, 1)):
    """The crops of segment `order[j]` in place j, framed in the segment's colour."""
    for place, segment in enumerate(order):
        x = 70 + 252 * place
        axes.add_patch(Rectangle((x, y), 240, 124, facecolor=SEGMENTS[segment], linewidth=0))
        for i in range(2):
            picture(crops[2 * segment + i], x + 6 + 116 * i, y + 6)


def draw_views():
    video = render_video(**VIDEO)
    indices = [centred_clip_indices(len(video), 16, 4, centre) for centre in CENTRES]

    write(70, 28, "video", weight="bold")
    write(562, 28, "two clips at random centres", ha="right")
    axes.add_patch(Rectangle((70, 40), 492, 76, facecolor=INK))
    for i, frame in enumerate(video[np.linspace(0, len(video) - 1, 6).astype(int)]):
        picture(cv2.resize(frame, (78, 58), interpolation=cv2.INTER_AREA), 74 + 81 * i, 49)
    for number, clip in enumerate(indices, 1):
        left, right = 70 + 492 * clip[[0, -1]] / len(video)
        path((left, 122), (left, 134), (right, 134), (right, 122), color=INK)
        write((left + right) / 2, 164, f"clip {number}", ha="center")
    arrow((452, 155), (502, 155), (502, 220))
    arrow((140, 155), (34, 155), (34, 626), (70, 626))
    arrow((34, 454), (70, 454))

    for view, clip, y, text in (("view 2", 1, 220, "clip 2, augmented"), ("view 1", 0, 392, "clip 1, augmented"),
                                ("view 3", 0, 564, "clip 1, augmented anew")):
        crops = augment(video[indices[clip][list(SHOWN)]], *AUGMENT[view])
        draw_clip(crops, y)
        write(70, y - 12, view, weight="bold")
        write(176, y - 12, text)
    for segment, colour in enumerate(SEGMENTS):
        arrow((190 + 252 * segment, 690), (442 - 252 * segment, 740), color=colour, linewidth=2)
    draw_clip(crops, 742, order=(1, 0))
    write(70, 896, "x′", weight="bold")
    write(108, 896, "view 3, its segments shuffled")
    write(70, 948, "4 of a clip’s 16 frames are shown:", color=GREY)
    for x, segment in ((70, 0), (270, 1)):
        axes.add_patch(Rectangle((x, 962), 20, 20, facecolor=SEGMENTS[segment], linewidth=0))
        write(x + 30, 981, f"segment {segment + 1}", color=GREY)


def draw_network():
    for y in (282, 454, 626, 804):
        arrow((562, y), (624, y))
    axes.add_patch(Polygon([(624, 214), (788, 300), (788, 786), (624, 872)], facecolor=TINT, edgecolor=GREY))
    write(706, 470, "backbone", weight="bold", ha="center")
    write(706, 506, "shared by\nall views", ha="center")
    write(706, 610, "R3D, C3D,\nR(2+1)D,\nS3D, S3D-G", ha="center", color=GREY)
    arrow((788, 543), (808, 543))
    box(808, 300, 44, 486, face="white")
    write(832, 543, "global average pool", rotation=90, ha="center", va="center")
    for y in (163, 600):
        arrow((852, 543), (874, 543), (874, y), (896, y))
    for y, height, text, name, out in ((44, 238, 84, "clip head", "128-d,\nL2 norm 1"),
                                       (304, 590, 500, "segment\nhead", "n = 2 rows\nof 64-d,\neach of\nL2 norm 1")):
        box(896, y, 154, height, face=TINT)
        write(973, text - 32 * name.count("\n"), name, weight="bold", ha="center")
        write(973, text + 46, "Linear\nReLU\nLinear", ha="center")
        write(973, text + 150, out, ha="center")
    for y in (163, 429, 735):
        arrow((1050, y), (1085, y))
    write(624, 948, "MoCo: a momentum copy (0.999)\nwithout gradient encodes view 2", color=GREY)


def card(y, height, title, term):
    box(1085, y, 899, height, face="white")
    write(1106, y + 40, title, size=10.5, weight="bold")
    write(1962, y + 38, term, weight="bold", family="monospace", ha="right", color=GREY)


def draw_contrast(y, left, right, label):
    """Names and pushes of two embeddings and negatives, which end at `left`; the two begin at `right`."""
    path((left, y + 52), (right, y + 13), **PUSH)
    path((left, y + 60), (right, y + 99), **PUSH)
    write(1426, y - 12, f"{label} 1", ha="center")
    write(1426, y + 138, f"{label} 2", ha="center")
    write(1181, y + 94, "negatives", ha="center")


def draw_losses():
    card(44, 238, "Clip contrast", "clip")
    for x, y, colour in ((1370, 132, GREY), (1370, 222, GREY), (1125, 177, PALE)):
        bar(x, y, 8, colour)
    path((1426, 156), (1426, 220), **PULL)
    draw_contrast(132, 1243, 1364, "z of view")
    write(1540, 126, "Negatives\nSimCLR: both views of the\nother videos of the batch\n"
          "MoCo: for view 1, a queue\nof 16384 keys")

    card(304, 250, "Temporal-coherent contrast (TC)", "tc")
    for x, y, colours in ((1350, 398, SEGMENTS), (1350, 488, SEGMENTS), (1105, 443, (PALE, PALE))):
        segment_set(x, y, colours)
    for start, end in itertools.product((1378, 1474), repeat=2):
        path((start, 422), (end, 486), **PULL)
    draw_contrast(398, 1263, 1344, "view")
    write(1540, 408, "Similarity of two clips: mean\nover all n × n segment pairs\n"
          "Negatives as above; MoCo: a\nqueue of 16384 segment sets")

    card(576, 318, "Shuffle-rank (SR)", "sr")
    for y in (662, 746, 830):
        segment_set(1350, y)
        path((1410, y + 11), (1442, y + 11), **PUSH)
    for x, y in itertools.product((-48, 48), (686, 770)):
        path((1426 + x, y), (1426 + x, y + 58), **PULL)
        path((1426 + 0.84 * x, y), (1426 - 0.84 * x, y + 58), **PUSH)
    segment_set(1105, 746, SEGMENTS[::-1])
    arrow((1265, 757), (1342, 757))
    write(1426, 650, "view 1", ha="center")
    write(1426, 880, "view 3", ha="center")
    write(1105, 732, "x′ as encoded")
    write(1105, 798, "put back in order")
    write(1540, 680, "Each segment is closer to its\ncounterpart than to every\nother segment of both sets")
    write(1540, 792, "Half for views 1 and x′,\nhalf for views 3 and x′")

    write(1106, 948, "total = clip + TC + SR", size=12, weight="bold")
    write(1106, 981, "--mode picks the terms, each has a weight", color=GREY)
    path((1700, 940), (1750, 940), **PULL)
    write(1764, 948, "pulled together")
    path((1700, 973), (1750, 973), **PUSH)
    write(1764, 981, "pushed apart")


def main():
    draw_views()
    draw_network()
    draw_losses()
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=DPI)
    target = Path(__file__).with_name("overview.png")
    Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(target, optimize=True)
    print(f"{target}: {target.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()

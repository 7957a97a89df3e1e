"""The page's answers: Flask routes. Only what is in the index is served, by number, to pages of this server alone."""
import csv
import io
import logging
import shlex
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from flask import Flask, Response, abort, jsonify, render_template, request, send_file

from core.inputs import fault
from core.names import cell, one_line
from dataset.by_time import TOLERANCE, VideoFacts

from .asked import Asked, number
from .guard import guard
from .labels import Labels
from .library import Library, Query
from .previews import Previews
from .upload import MOST_BYTES, Embedder

PAGE = 60  # segments of a page
MOST_FOUND = 960  # similar segments
MOST_FOLDERS, MOST_GROUPS = 2000, 200  # to choose from; of near-duplicates
FIRST = 24  # segments of each group
TWINS = 0.98  # cosine of near-duplicates
MOST_LABELLED = 2**20  # bytes that say which windows get a label
EVEN = "crop=trunc(iw/2)*2:trunc(ih/2)*2"  # sides, which H.264 needs where it is to play everywhere
# Files are decoded from their start on: where ffmpeg seeks, it is wrong by some frames in AVI with B-frames and MPEG.
# Pictures keep their times, to 1/90000 s, which are not multiples of the frame rate.
SCRIPT = """#!/bin/sh
# cuts the selected windows out of their files, encoded anew, without sound
mode=$(ffmpeg -v error -h long | grep -q fps_mode && echo -fps_mode || echo -vsync)  # before 5.1
failed=0
trap 'rm -f .partial_cut_*.mp4; exit 1' INT TERM HUP
cut() {  # file, filters, target
  if [ -e "$3" ]; then
    echo "$3 is there already, and stays as it is" >&2
    failed=1
  elif ! ffmpeg -nostdin -v error -abort_on empty_output -copyts -i "$1" -map 0:v:0 -vf "$2" $mode vfr \\
      -enc_time_base 1:90000 -c:v libx264 -crf 18 -pix_fmt yuv420p -an -y ".partial_$3"; then
    echo "$3 could not be cut from $1" >&2
    rm -f ".partial_$3"
    failed=1
  else
    mv ".partial_$3" "$3"
  fi
}"""


def cut(path: str, facts: VideoFacts | None, start: float, end: float, target: str) -> str:
    """A line of cut.sh that writes the pictures which frames_at gives between two times."""
    standing = max(start + TOLERANCE - (1 / facts.fps if facts else 0), 0)  # the picture at `start` may have begun then
    filters = (f"settb=AVTB,setpts=PTS-STARTPTS,trim={standing:.6f}:{end - TOLERANCE:.6f},"
               f"setpts=gt(N\\,0)*max(PTS-{start:.3f}/TB\\,0),{EVEN}")
    return f"cut {shlex.quote('file:' + path)} {shlex.quote(filters)} {target}"


def make_app(library: Library) -> Flask:
    app = Flask(__name__)
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # pictures that wait for others are no fault
    guard(app)
    app.config["MAX_CONTENT_LENGTH"] = MOST_BYTES
    labels, previews, embedder, asked = Labels(library), Previews(library), Embedder(library), Asked(library)

    def told(found: Iterable[int], scores: np.ndarray | None = None) -> list[dict[str, Any]]:
        """Segments as the page takes them; around: seconds between which they are played."""
        return [{"id": int(place), "file": library.files[library.file[place]], "label": labels.of.get(int(place), ""),
                 "start": round(float(library.start[place]), 3), "end": round(float(library.end[place]), 3),
                 "around": [round(float(side), 3) for side in previews.around(place)],
                 **({} if scores is None else {"score": round(float(scores[i]), 4)})}
                for i, place in enumerate(found)]

    # --- pages and data --------------------------------------------------------------------------------------

    @app.get("/")
    def page() -> str:
        return render_template("page.html", folder=one_line(str(library.folder)), count=len(library),
                               files=len(library.files))

    @app.get("/api/overview")
    def overview() -> Response:
        folders = library.folders()
        return jsonify(folders=folders[:MOST_FOLDERS], left_out=max(len(folders) - MOST_FOLDERS, 0),
                       labels=sorted(set(labels.of.values())))

    @app.get("/api/map")
    def points() -> Response:
        """x, y in 0..65535 and the segment's number: little-endian uint16, uint16, uint32."""
        shown, where = library.map()
        table = np.empty(len(shown), np.dtype([("x", "<u2"), ("y", "<u2"), ("id", "<u4")]))
        table["x"], table["y"] = (where * 65535).round().astype(np.uint16).T
        table["id"] = shown
        return Response(table.tobytes(), mimetype="application/octet-stream")

    @app.get("/api/segments")
    def segments() -> Response:
        if request.args.get("ids"):
            return jsonify(segments=told(asked.places(request.args["ids"])))
        allowed, first = asked.allowed(), int(number("first", 0))
        all_of_them = np.arange(len(library)) if allowed is None else np.flatnonzero(allowed)
        if request.args.get("labelled"):
            all_of_them = all_of_them[np.isin(all_of_them, list(labels.of))]
        # every n-th, so that a page shows the whole index and not its first file
        if request.args.get("spread"):
            step = np.unique(np.linspace(0, max(len(all_of_them) - 1, 0), PAGE).round().astype(int))
            return jsonify(total=len(all_of_them), segments=told(all_of_them[step] if len(all_of_them) else []))
        return jsonify(total=len(all_of_them), segments=told(all_of_them[first:first + PAGE]))

    @app.get("/api/similar")
    def similar() -> Response:
        (like, dropped, wanted), (unlike, other, unwanted) = (
            asked.examples(request.args.get(name, "")) for name in ("like", "unlike"))
        if not len(wanted):
            abort(400, "choose a window first")
        scores, allowed = library.cosines(Query(wanted, unwanted)), asked.allowed()
        if request.args.get("each"):
            allowed = library.best_of_files(scores, allowed)
        found = library.best(scores, int(number("count", PAGE, 1, MOST_FOUND)), allowed)
        return jsonify(segments=told(found, scores[found]), most=MOST_FOUND, examples=told(like + unlike),
                       uploads=dropped | other)

    @app.get("/api/duplicates")
    def duplicates() -> Response:
        groups = library.duplicates(number("least", TWINS, 0.5, 1), asked.allowed())
        shown = groups[:MOST_GROUPS]
        return jsonify(groups=[told(group[:FIRST]) for group in shown], rest=[group[FIRST:] for group in shown],
                       total=len(groups), least=TWINS)

    @app.post("/api/upload")
    def upload() -> Response:
        file = request.files.get("video")
        if file is None:
            abort(400, "there is no file")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "video"
            file.save(path)
            found = embedder.vectors(path)
        name = (file.filename or "file")[:200]
        return jsonify(id=asked.keep(name, found), name=name, windows=len(found))

    # --- pictures --------------------------------------------------------------------------------------------

    def picture(path: Path, kind: str) -> Response:
        return send_file(path, kind, conditional=True)

    @app.get("/still/<int:place>")
    def still(place: int) -> Response:
        return picture(previews.still(asked.places(str(place))[0]), "image/jpeg")

    @app.get("/moving/<int:place>")
    def moving(place: int) -> Response:
        return picture(previews.moving(asked.places(str(place))[0], bool(number("around", 0, 0, 1))), "image/webp")

    # --- labels ----------------------------------------------------------------------------------------------

    @app.post("/api/label")
    def label() -> Response:
        if (request.content_length or 0) > MOST_LABELLED:
            abort(400, "too many windows at once")
        try:
            said = request.get_json(silent=True)
        except RecursionError:
            said = None
        if fault(said, {"label": str, "ids": [int]}):
            abort(400, "a label needs windows")
        same = labels.set(asked.places(",".join(map(str, said["ids"])), 10_000), said["label"])
        return jsonify(ids=same, labels=sorted(set(labels.of.values())), labelled=len(labels.of))

    @app.get("/api/guesses")
    def guesses() -> Response:
        names, found, accuracy = labels.guesses()
        best, allowed = found.argmax(axis=1), asked.allowed()
        sure = found.max(axis=1)
        new = np.ones(len(library), bool) if allowed is None else allowed.copy()
        new[list(labels.of)] = False

        def of(order: np.ndarray, mask: np.ndarray) -> list[dict[str, Any]]:
            one = library.best(order, FIRST, mask)
            return [{**segment, "guess": names[best[place]], "probability": round(float(sure[place]), 3)}
                    for place, segment in zip(one.tolist(), told(one), strict=True)]

        return jsonify(labels=names, accuracy=accuracy, counts=np.bincount(best[new], minlength=len(names)).tolist(),
                       surest={name: of(sure, new & (best == i)) for i, name in enumerate(names)},
                       unsure=of(-sure, new))

    # --- what is taken away ----------------------------------------------------------------------------------

    @app.get("/export/<kind>")
    def export(kind: str) -> Response:
        if kind not in ("selection.csv", "cut.sh"):
            abort(404)
        wanted = asked.places(request.args.get("ids", ""), 10_000) or sorted(labels.of)
        if not wanted:
            abort(400, "choose windows first, or label some")
        rows = told(wanted)
        if kind == "selection.csv":
            text = io.StringIO()
            csv.writer(text).writerows([("file", "start", "end", "label"), *(
                (cell(row["file"]), row["start"], row["end"], cell(row["label"])) for row in rows)])
            return download(text.getvalue(), kind, "text/csv")
        lines = [cut(row["file"], library.facts(place), row["start"], row["end"], f"cut_{library.row[place]:06d}.mp4")
                 for place, row in zip(wanted, rows, strict=True)]
        return download("\n".join([SCRIPT, *lines, "exit $failed", ""]), kind, "text/x-shellscript")

    def download(text: str, name: str, kind: str) -> Response:
        return Response(text, mimetype=kind, headers={"Content-Disposition": f"attachment; filename={name}"})

    return app

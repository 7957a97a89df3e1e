"""The report of small runs: what it says, that it is whole, and that a browser shows it without complaint."""
import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
from helpers import NARROW, PATIENCE, SMALL, InProcess, make_dataset

from analysis import page, report, report_pictures, report_tables
from analysis.runs import find_runs
from core.errors import DataError, UsageError

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with all stages' runs of two pretrainings, one with two seeds, and the report of it."""
    folder = tmp_path_factory.mktemp("runs")
    make_dataset(folder, frames=14)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)

        class Output:  # capsys is for single tests
            def readouterr(self):
                return "", ""

        call = InProcess(folder, monkeypatch, Output())
        where = [*SMALL, "--dataset", "ucf101", "--log_dir", "log", "--prefix", "small"]
        for name, mode in (("x_clip_seed0", "clip"), ("x_all", "clip-sr-tc")):
            assert call("train.py", *where, *NARROW, "--mode", mode, "--name", name, "--epochs", 2, "--batch_size", 4,
                        "--eval_every", 1)[0] == 0
            weights = f"log/small/pretrain/{name}/model/backbone.pth.tar"
            assert call("retrieval.py", *where, "--pretrain", weights, "--name", name, "--clips", 2, "--save_features",
                        f"log/small/features/{name}", "--per_clip")[0] == 0
        for stage in ("pretrain", "retrieval"):  # stands for a second seed
            shutil.copytree(f"log/small/{stage}/x_clip_seed0", f"log/small/{stage}/x_clip_seed1")
        assert call("finetune.py", *where, "--pretrain", weights, "--name", "x_all_on", "--epochs", 1, "--batch_size",
                    4)[0] == 0
        assert call("test.py", *where, "--checkpoint", "log/small/ft/x_all_on/model/latest.pth.tar", "--name",
                    "x_all_ft_on", "--clips", 2)[0] == 0
        assert call("analysis/probe.py", "--dataset", "ucf101", "--features", "log/small/features/x_all", "--seeds", 2,
                    "--k", 1, "--shots", 1)[0] == 0
        assert call("analysis/report.py", "log/small", "--planned", "pretrain/x_all", "test/x_other",
                    "pretrain/x_other")[0] == 0
    return folder / "log/small"


class Reader(HTMLParser):
    """Text, pictures, outside addresses and unclosed elements of a page."""

    def __init__(self, text):
        super().__init__()
        self.text, self.pictures, self.open, self.addresses = "", [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)
        if tag == "img":
            assert attributes["alt"]
            self.pictures.append(attributes["src"])
        self.addresses += [attributes[name] for name in ("src", "href") if name in attributes]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_needs_nothing_beside_it(runs):
    found = Reader((runs / "report/all/index.html").read_text())
    assert found.open == [] and all(address.startswith(("data:", "#s")) for address in found.addresses)
    assert "<script" not in (runs / "report/all/index.html").read_text()
    for source in found.pictures:
        data = base64.b64decode(source.partition(",")[2])
        assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).std() > 5
    # curves of two stages, t-SNE, gallery, classes, confusion, views, segments, similarity over time
    assert len(found.pictures) == 9 == len(list((runs / "report/all/pictures").glob("*.pdf")))


def test_videos_that_were_held_out_differ_from_the_papers():
    before = SimpleNamespace(dataset="ucf101", flags={"framework": "moco", "holdout": 0.1})
    result = SimpleNamespace(dataset="ucf101", stage="retrieval", flags={})
    compared = report_tables.Compared([], [], [], "UCF101", "UCF101")
    assert report_tables.differences(result, None, before, compared) == [("pretraining", "holdout 0.1 for 0.0")]


def test_results_stand_beside_the_papers_with_what_differs(runs):
    folder = runs / "report/all/tables"
    found = pd.read_csv(folder / "results.csv").set_index(["run", "what"])
    for name in ("x_clip_seed0", "x_clip_seed1", "x_all"):
        own = json.loads((runs / "retrieval" / name / "results.json").read_text())["results"]
        assert found.loc[(name, "retrieval"), "R@1"] == own["R@1"]
    for measure in ("linear probe", "1-shot"):
        assert found.loc[("x_all", "retrieval"), f"{measure} of features"].count("±") == 1
    tested = json.loads((runs / "test/x_all_ft_on/results.json").read_text())["results"]["split01"]
    assert found.loc[("x_all_ft_on", "fine-tuned, test"), "top-1"] == tested["top1"]
    beside = pd.read_csv(folder / "beside_the_paper.csv").set_index("run")
    assert beside.loc["x_all_ft_on", "paper's"] == "79.0" and beside.loc["x_all_ft_on", "on"] == "UCF101"
    assert beside.loc["x_all", "paper's"] == "46.7, 63.1, 69.7" and "x_clip_seed1" not in beside.index
    differs = beside["differs also in"]
    page_text = (runs / "report/all/index.html").read_text()
    common, common_of_tests = (re.search(rf"Ours for the paper&#39;s, in every {stage}: ([^<]*)</p>", page_text)[1]
                               for stage in ("retrieval", "test"))
    assert re.search(r"fine-tuning: .*batch_size 4 for 16, epochs 1 for 100.*; pretraining: ", common_of_tests)
    assert common.startswith("evaluation: seq_len 4 for 16, img_dim 24 for 112, ds 2 for 4, clips 2 for 10; "
                             "pretraining: net r3d for r21d, width 0.0625 for 1.0, ")
    assert "clip_weight 1.0 for 0.125" in common and "data set" not in common and "mode" not in common
    assert differs["x_clip_seed0"] == "pretraining: mode clip for clip-sr-tc" and pd.isna(differs["x_all"])
    assert common_of_tests.startswith("evaluation: seq_len 4 for 16, img_dim 24 for 112, clips 2 for 10; fine-tuning: ")
    for kind in ("md", "tex"):
        assert "x\\_all" in (folder / "results.tex").read_text() and f"{100 * tested['top1']:.1f}" in (
            folder / f"beside_the_paper.{kind}").read_text()


def test_what_was_not_run_is_said(runs):
    text = Reader((runs / "report/all/index.html").read_text()).text
    assert "x_other: not run (test, pretrain)" in text and "x_all: not run" not in text
    assert "no GPU: everything here ran on CPUs" in text
    assert "--batch_size 4" in text and "--width 0.0625" in text and "--wd 0.0001" in text
    assert "python -m analysis.pictures tsne --features" in text
    assert "--time_reverse 0.5 --centres any --permutations any --segment_gap 0 --out" in text


def test_an_experiments_own_runs(runs, monkeypatch, tmp_path):
    monkeypatch.chdir(runs.parent.parent)
    monkeypatch.setattr(report, "draw_pictures", lambda *_: ["picture p: a reason"])
    lines = (runs / "pretrain/x_all/log.jsonl").read_text().splitlines()
    stopped = tmp_path / "log"
    shutil.copytree(runs, stopped)
    (stopped / "pretrain/x_all/log.jsonl").write_text(lines[0] + "\n")
    report.main([str(stopped), "--experiment", "x_all", "--out", str(tmp_path / "out")])
    text = Reader((tmp_path / "out/index.html").read_text()).text
    assert "x_clip" not in text and "picture p: a reason" in text
    assert "pretrain/x_all: 1 of 2 epochs, not its end" in text
    for arguments, message in ((["--experiment", "y"], "no runs of y"), (["--dataset", "demo"], "no runs on demo")):
        with pytest.raises(UsageError, match=message):
            report.main([str(stopped), *arguments])
    (stopped / "pretrain/x_all/flags.json").write_text("{")
    with pytest.raises(DataError, match="flags.json is damaged"):
        report.main([str(stopped)])


def test_frames_of_videos_can_be_left_out(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(runs.parent.parent)
    drawn = []
    monkeypatch.setattr(report, "draw_pictures", lambda _, wanted: drawn.extend(wanted) or [])
    report.main([str(runs), "--no_frames", "--out", str(tmp_path / "out")])
    assert [picture.flags[0] for picture in drawn] == ["curves", "curves", "tsne", "classes", "confusion"]
    text = Reader((tmp_path / "out/index.html").read_text()).text
    assert "(--no_frames): gallery_ucf101, views_ucf101, segments_ucf101, timeline_ucf101." in text


def test_a_picture_that_cannot_be_drawn_is_named_and_what_has_not_begun_left_out(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(runs.parent.parent)
    shutil.copytree(runs, tmp_path / "log")
    (tmp_path / "log/pretrain/x_all/log.jsonl").write_text("")
    (tmp_path / "log/features/x_all/train_clips.npy").unlink()
    found = find_runs(tmp_path / "log")
    drawn = {picture.name: picture.flags for picture in report_pictures.pictures_to_draw(found, ["ucf101"])}
    assert len(drawn) == 9 and not [text for text in drawn["curves_pretrain"] if "x_all" in text]
    lines = report_tables.not_run(found, [])
    assert "pretrain/x_all: 0 of 2 epochs, not its end" in lines
    own, wanted = page.Page("t", tmp_path / "out"), [("p", "", drawn["views_ucf101"]), ("q", "", drawn["curves_ft"])]
    (failed,) = report_pictures.draw_pictures(own, wanted)  # the data set of the fixture is gone
    assert re.match(r"picture p: frames of ucf101 are not at ", failed) and len(own.parts) == 2


def test_results_of_modes_are_a_table_and_unknown_modes_are_named(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "draw_pictures", lambda *_: [])
    for name in ("clip_ucf101_split1_seed0", "newer_ucf101_split1_seed0"):
        shutil.copytree(runs / "retrieval/x_all", tmp_path / "log/retrieval" / name)
    report.main([str(tmp_path / "log")])
    table = pd.read_csv(tmp_path / "log/report/all/tables/evidence_ucf101_split1.csv")
    assert table["mode"].tolist() == ["clip"] and table["seeds"].tolist() == [1]
    text = Reader((tmp_path / "log/report/all/index.html").read_text()).text
    assert "newer_ucf101_split1_seed0 is not in the table by mode: newer is neither" in text


def test_tables_are_escaped():
    table = pd.DataFrame({"a_b": ["50 % | <x>", "~"], "n": [0.12345, None], "k": [3, 4], "m": ["0.1 ± 0.2", ""]})
    assert page.markdown(table).splitlines() == [
        "| a\\_b | n | k | m |", "| --- | ---: | ---: | ---: |", "| 50 % \\| &lt;x&gt; | 0.123 | 3 | 0.1 ± 0.2 |",
        "| \\~ |  | 4 |  |"]
    assert page.csv_text(pd.DataFrame({"=a": ["@x", "'=y", "z"], "n": [-0.5, 1, 2]})) == (
        "'=a,n\n'@x,-0.5\n''=y,1.0\nz,2.0\n")
    text = page.latex(table)
    assert "{lrrr}" in text and r"50 \% | <x> & 0.123 & 3 & 0.1 $\pm$ 0.2 \\" in text and r"a\_b & n" in text
    assert r"\textasciitilde{}" in text


def browse(address, *flags, cwd):
    """Chromium without a window -> (standard output, what the page's console and the network say)"""
    done = subprocess.run([CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                           "--enable-logging=stderr", "--user-data-dir=profile", *flags, address], cwd=cwd,
                          capture_output=True, text=True, timeout=PATIENCE)
    return done.stdout, [line for line in done.stderr.splitlines() if re.search(r"CONSOLE|net_error|ERR_", line)
                         and "file://" in line]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Skips where there is no Chromium, or one that cannot open a file here, as one in a sandbox cannot."""
    if CHROMIUM is None:
        pytest.skip("no chromium here")
    folder = tmp_path_factory.mktemp("browser")
    (folder / "page.html").write_text("<html><body>a page that is shown</body></html>")
    try:
        shown, _ = browse((folder / "page.html").as_uri(), "--dump-dom", cwd=folder)
    except (OSError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"{CHROMIUM} does not run here: {error}")
    if "a page that is shown" not in shown:
        pytest.skip(f"{CHROMIUM} cannot open a file in {folder}")


@pytest.mark.parametrize("width", [1200, 500])
def test_a_browser_shows_it(browser, runs, tmp_path, width):
    source = (runs / "report/all/index.html").read_text()
    measuring = tmp_path / "measuring.html"
    measuring.write_text(source.replace("</body>", """<script>
        const pictures = [...document.images], sized = pictures.filter(x => x.complete && x.naturalWidth > 100);
        document.title = [document.documentElement.scrollWidth, innerWidth, pictures.length, sized.length].join(" ");
        </script></body>"""))
    out, _ = browse(measuring.as_uri(), f"--window-size={width},900", "--dump-dom", cwd=tmp_path)
    wide, window, pictures, sized = map(int, re.search(r"<title>([\d ]+)</title>", out)[1].split())
    assert wide <= window <= width and pictures == sized == 9  # tables and pictures scroll, the page does not
    _, complaints = browse((runs / "report/all/index.html").as_uri(), f"--window-size={width},2000",
                           "--screenshot=shot.png", cwd=tmp_path)
    assert complaints == []
    shot = cv2.imread(str(tmp_path / "shot.png"))
    assert shot.shape[1] == width and shot.std() > 5

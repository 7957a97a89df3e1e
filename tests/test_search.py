"""Looking through an index: exact search, the map, labels, and what the page's server answers and refuses."""
import io
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import FAST
from test_video import write_video

flask = pytest.importorskip("flask", reason="of requirements-search.txt")
waitress = pytest.importorskip("waitress", reason="of requirements-search.txt")

from analysis.index import Index, Known  # noqa: E402
from core.errors import DataError  # noqa: E402
from dataset.windows import VideoFacts  # noqa: E402
from search.app import make_app  # noqa: E402
from search.labels import Labels  # noqa: E402
from search.library import Library, Query  # noqa: E402

PORT = 8765
MANIFEST = {"weights": "thumbnail", "windows": {"window": 1.0, "hop": 1.0, "frames": 4},
            "clips": {"resize": [27, 37], "img_dim": 24}, "flags": {"pretrain": "thumbnail"}}
NAMES = ["/disk/a/one.mp4", "/disk/a/<img src=x onerror='alert(1)'>.mp4", "/disk/b/\u202etwo, \"q\".mp4"]


def write_index(folder, vectors, files=NAMES, hop=1.0):
    """An index whose windows belong to the files in turn."""
    manifest = {**MANIFEST, "dim": vectors.shape[1]}
    with Index(folder, manifest, ["weights"]) as index:
        share = np.array_split(np.arange(len(vectors)), len(files))
        for number, (file, rows) in enumerate(zip(files, share, strict=True)):
            starts = np.arange(len(rows)) * hop
            index.append(file, VideoFacts(f"{number:032x}", 25.0, 0.0, len(rows) * hop),
                         np.stack([starts, starts + 1], axis=1), vectors[rows])
        index.write_files({file: Known(1, 1, VideoFacts(f"{i:032x}", 25.0, 0.0, 9.0))
                           for i, file in enumerate(files)}, {})


@pytest.fixture
def library(tmp_path):
    vectors = np.random.default_rng(0).standard_normal((90, 16)).astype(np.float32) + 2
    write_index(tmp_path / "index", vectors)
    return Library(tmp_path / "index")


@pytest.fixture
def client(library):
    return make_app(library).test_client()


def ask(client, path, method="get", **options):
    headers = {"Host": f"127.0.0.1:{PORT}", **({"Origin": f"http://127.0.0.1:{PORT}"} if method == "post" else {}),
               **options.pop("headers", {})}
    return getattr(client, method)(path, headers=headers, **options)


# --- search --------------------------------------------------------------------------------------------------

def test_search_is_exact(library):
    vectors = np.array(library.vectors, np.float64)
    unit = vectors - vectors.mean(0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    for like, unlike in (([3], []), ([3, 40], []), ([3, 40], [5, 6])):
        wanted = unit[like].mean(0) - (unit[unlike].mean(0) if unlike else 0)
        expected = unit @ (wanted / np.linalg.norm(wanted))
        found = library.cosines(Query(library.of(like), library.of(unlike)))
        np.testing.assert_allclose(found, expected, atol=2e-6)
        assert library.best(found, 7).tolist() == np.argsort(-expected, kind="stable")[:7].tolist()
    assert library.best(np.ones(5), 3).tolist() == [0, 1, 2]
    assert library.best(found, 1000).tolist() == np.argsort(-found, kind="stable").tolist()


def test_filters(library):
    allowed = library.allowed("/disk/a")
    assert set(library.file[allowed]) == {0, 1} and library.allowed("/disk/a/one").sum() == 0
    late = library.allowed("", after=5, before=7)
    assert set(library.start[late]) == {5.0, 6.0}
    assert library.allowed() is None
    best = library.best(library.cosines(Query(library.of([80]), library.of([]))), 5, allowed)
    assert set(library.file[best]) <= {0, 1}
    assert library.folders() == [("/disk", 90), ("/disk/a", 60), ("/disk/b", 30)]


def test_segments_whose_vectors_are_not_in_order_of_rows(tmp_path):
    vectors = np.eye(6, dtype=np.float32)
    write_index(tmp_path / "i", vectors, ["/a", "/b", "/c"])
    with Index(tmp_path / "i", {**MANIFEST, "dim": 6}, ["weights"]) as index:
        index.drop(["/b"])
        index.append("/b", VideoFacts("f" * 32, 25.0, 0.0, 1.0), np.array([[0.0, 1.0]]), vectors[:1])
    library = Library(tmp_path / "i")
    assert library.row.tolist() == [0, 1, 4, 5, 6] and len(library.vectors) == 7
    found = library.cosines(Query(library.of([0]), library.of([])))
    assert len(found) == 5 and library.best(found, 2).tolist() == [0, 4]  # /b is like /a's first now


def test_near_duplicates_do_not_count_windows_that_overlap(tmp_path):
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((30, 16)).astype(np.float32)
    vectors[1] = vectors[0]  # overlaps in the same file
    vectors[17] = vectors[2] + 1e-4
    vectors[25] = vectors[17]
    write_index(tmp_path / "i", vectors, hop=0.5)
    library = Library(tmp_path / "i")
    assert library.duplicates(0.99) == [[2, 17, 25]]
    assert library.duplicates(0.99, library.allowed("/disk/a")) == [[2, 17]]


def test_the_map_keeps_what_is_alike_together_and_is_computed_once(tmp_path, monkeypatch):
    vectors = np.random.default_rng(0).standard_normal((90, 16)).astype(np.float32) * 0.1
    vectors[30:60, 0] += 5
    vectors[60:, 1] += 5
    write_index(tmp_path / "i", vectors)
    library = Library(tmp_path / "i")
    shown, points = library.map()
    assert shown.tolist() == list(range(90)) and points.min() >= 0 and points.max() <= 1
    centres = np.array([points[i:i + 30].mean(0) for i in (0, 30, 60)])
    spread = max(points[i:i + 30].std(0).max() for i in (0, 30, 60))
    assert min(np.linalg.norm(centres[i] - centres[j]) for i, j in ((0, 1), (0, 2), (1, 2))) > 4 * spread
    monkeypatch.setattr(np.linalg, "eigh", None)
    assert np.array_equal(Library(tmp_path / "i").map()[1], points)


def test_a_probe_of_labels(library):
    labels = Labels(library)
    with pytest.raises(DataError, match="two labels or more"):
        labels.guesses()
    truth = np.array(library.vectors)[:, 0] > 2
    for place in range(0, 90, 2):
        labels.set([place], "high  jump" if truth[place] else "low")
    names, found, accuracy = labels.guesses()
    assert names == ["high jump", "low"] and np.allclose(found.sum(1), 1, atol=1e-5) and accuracy > 0.7
    assert ((found[:, 0] > 0.5) == truth).mean() > 0.8
    again = Labels(Library(library.folder))
    assert again.of == labels.of
    again.set([0], "")
    assert 0 not in Labels(Library(library.folder)).of
    text = (library.folder / "labels.csv").read_text()
    (library.folder / "labels.csv").write_text(text.replace(f",{0:032x},", ",old,", 1) + "/gone.mp4,h,0.000,1.000,x\n")
    assert len(Labels(Library(library.folder)).of) == len(again.of) - 1  # the file's content is another now
    kept = Labels(Library(library.folder))
    kept.set([4], "low")
    assert "/gone.mp4,h,0.000,1.000,x\n" in (library.folder / "labels.csv").read_text()


# --- the server ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("headers", [
    {"Host": "evil.example"}, {"Host": f"127.0.0.1.evil.example:{PORT}"}, {"Host": "10.0.0.1"}, {"Origin": "http://127.0.0.1:80"},
    {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}])
@pytest.mark.parametrize("path", ["/", "/api/overview", "/api/similar?like=1", "/still/1", "/export/cut.sh"])
def test_no_other_page_can_drive_it(headers, path, client):
    answer = ask(client, path, headers=headers)
    assert answer.status_code == 403 and "error" in answer.json


def test_a_change_needs_a_page_of_this_server(client, library):
    body = {"ids": [1], "label": "x"}
    answer = client.post("/api/label", json=body, headers={"Host": f"127.0.0.1:{PORT}"})
    assert answer.status_code == 403 and not (library.folder / "labels.csv").exists()
    assert ask(client, "/api/label", "post", json=body).json == {"labels": ["x"], "labelled": 1}


@pytest.mark.parametrize("path, code", [
    ("/still/90", 400), ("/moving/99999999999999999999", 400), ("/still/-1", 404), ("/still/../../etc/passwd", 404),
    ("/static/../app.py", 404), ("/api/similar?like=", 400), ("/api/similar?like=1,x", 400), ("/api/nothing", 404),
    ("/api/similar?like=u1", 400), ("/api/similar?like=1&count=0", 400), ("/api/similar?like=1&count=nan", 400),
    ("/api/similar?like=" + ",".join("1" * 300), 400), ("/export/other", 404), ("/api/segments?first=-1", 400),
    ("/api/duplicates?least=2", 400), ("/api/guesses", 409)])
def test_nonsense_is_one_sentence(path, code, client):
    answer = ask(client, path)
    assert answer.status_code == code
    assert code == 404 and path.startswith("/static") or isinstance(answer.json["error"], str)


@pytest.mark.parametrize("body", [None, [], {"ids": [1]}, {"ids": ["1"], "label": "x"}, {"ids": [90], "label": "x"},
                                  {"ids": [-1], "label": "x"}, {"ids": 1, "label": "x"}])
def test_bad_labels_are_refused(body, client, library):
    answer = ask(client, "/api/label", "post", json=body)
    assert answer.status_code == 400 and not (library.folder / "labels.csv").exists()


def test_names_are_data_and_nothing_comes_from_elsewhere(client):
    page = ask(client, "/")
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    text = page.get_data(as_text=True)
    assert "http://" not in text.replace("http://www.w3.org", "") and "https://" not in text and "<script>" not in text
    answer = ask(client, "/api/segments?spread=1").json
    assert {segment["file"] for segment in answer["segments"]} == {*NAMES} and answer["total"] == 90


def test_exports(client):
    ask(client, "/api/label", "post", json={"ids": [31, 62], "label": "=SUM(A1)"})
    table = ask(client, "/export/selection.csv").get_data(as_text=True).splitlines()
    assert table[0] == "file,start,end,label" and len(table) == 3 and "'=SUM(A1)" in table[1]
    script = ask(client, "/export/cut.sh?ids=0,31,62").get_data(as_text=True)
    assert script.count("ffmpeg ") == 3 and "'file:/disk/a/<img src=x onerror='\"'\"'alert(1)'\"'\"'>.mp4'" in script
    assert "-ss 1.000" in script and "-t 1.000" in script


# --- with videos ---------------------------------------------------------------------------------------------

@pytest.fixture
def disk(program, tmp_path):
    """An index of three real small videos, by mean pictures."""
    for i, name in enumerate(("one", "two", "three")):
        write_video(tmp_path / f"disk/{name}.mp4", frames=50 + i)
    code, _, error = program("embed.py", "--pretrain", "thumbnail", "--img_dim", "24", "--seq_len", "4", *FAST[:2],
                             "--window", "0.5", "--hop", "0.5", "--out", "index", tmp_path / "disk")
    assert code == 0, error
    return tmp_path / "disk"


def test_previews_are_made_once_and_videos_that_are_gone_are_named(disk, monkeypatch):
    from PIL import Image

    import search.previews as previews
    client = make_app(Library(Path("index"))).test_client()
    still, moving = (ask(client, f"/{kind}/2") for kind in ("still", "moving"))
    assert Image.open(io.BytesIO(still.data)).format == "JPEG"
    animation = Image.open(io.BytesIO(moving.data))
    assert animation.format == "WEBP" and animation.n_frames == 4
    assert Image.open(io.BytesIO(ask(client, "/moving/2?around=1").data)).n_frames > 8
    assert moving.headers["Cache-Control"] == "no-cache"
    monkeypatch.setattr(previews, "frames_at", None)
    assert ask(client, "/moving/2").data == moving.data
    (disk / "one.mp4").unlink()
    shutil.copy(disk / "two.mp4", disk / "three.mp4")
    for place, said in ((0, "one.mp4 cannot be read"), (4, "three.mp4 has changed")):
        answer = ask(client, f"/still/{place}")
        assert answer.status_code == 409 and said in answer.json["error"], answer.json


def test_two_browsers_may_ask_for_one_picture(disk, monkeypatch):
    import search.previews as previews
    library, made, own = Library(Path("index")), [], previews.frames_at

    def slow(*arguments):
        made.append(arguments)
        time.sleep(0.2)
        return own(*arguments)

    monkeypatch.setattr(previews, "frames_at", slow)
    pictures, found = previews.Previews(library), []
    threads = [threading.Thread(target=lambda: found.append(pictures.still(1).read_bytes())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and len(found) == 4 and len(set(found)) == 1


def test_a_dropped_file_is_compared(disk):
    client = make_app(Library(Path("index"))).test_client()
    with open(disk / "two.mp4", "rb") as file:
        answer = ask(client, "/api/upload", "post", data={"video": (file, "<b>.mp4")})
    assert answer.status_code == 200 and answer.json["windows"] == 4 and answer.json["name"] == "<b>.mp4"
    found = ask(client, f"/api/similar?like={answer.json['id']}&count=4").json["segments"]
    assert sum(segment["file"].endswith("two.mp4") for segment in found) >= 1 and found[0]["score"] > 0.5
    answer = ask(client, "/api/upload", "post", data={"video": (io.BytesIO(b"no film" * 99), "x.mp4")})
    assert answer.status_code == 409 and answer.json["error"].startswith("it is no AVI, MP4, MOV, MKV or WebM")
    assert ask(client, "/api/upload", "post", data={}).status_code == 400


def test_uploads_are_bounded(library):
    app = make_app(library)
    app.config["MAX_CONTENT_LENGTH"] = 1000
    answer = ask(app.test_client(), "/api/upload", "post", data={"video": (io.BytesIO(b"x" * 5000), "x.mp4")})
    assert answer.status_code == 413 and "MiB at most" in answer.json["error"]


def test_bad_indices_and_ports_are_one_sentence(program, tmp_path):
    for flags, code, said in ((["nowhere"], 1, "nowhere/index.json cannot be read"),
                              (["x", "--port", "99999"], 2, "no port"), ([], 2, "required: DIR")):
        found, _, error = program("search/__main__.py", *flags)
        assert found == code and said in error and error.count("\n") == 1, error
    write_index(tmp_path / "index", np.ones((3, 4), np.float32))
    (tmp_path / "index/vectors.npy").write_bytes(b"\x93NUMPY\x01\x00v\x00" + b"x" * 200)
    found, _, error = program("search/__main__.py", "index")
    assert found == 1 and "vectors.npy is damaged" in error


@pytest.mark.slow
def test_in_a_browser(disk):
    """Load, search, go back, label, train, at a phone's width too; the console is silent, nothing is too wide."""
    sync = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
    browser_path = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser_path is None:
        pytest.skip("no Chromium here")
    server = waitress.create_server(make_app(Library(Path("index"))), host="127.0.0.1", port=PORT + 1)
    threading.Thread(target=server.run, daemon=True).start()
    said = []
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        for width in (1280, 390):
            page = browser.new_page(viewport={"width": width, "height": 800})
            page.on("console", lambda message: said.append(message.text))
            page.on("pageerror", lambda error: said.append(str(error)))
            page.goto(f"http://127.0.0.1:{PORT + 1}/")
            page.wait_for_selector(".card")
            assert page.locator(".card").count() == 12
            page.locator(".card .show").nth(4).focus()
            page.keyboard.press("Enter")
            page.wait_for_selector("text=the most similar first")
            assert page.locator(".card .text").first.inner_text().count("cosine 1.000") == 1
            page.go_back()
            page.wait_for_selector("text=evenly spread")
            for place, key in ((0, "1"), (5, "2"), (10, "2")):
                page.locator(".card .show").nth(place).focus()
                page.keyboard.press(key)
                page.wait_for_selector(f".card:nth-child({place + 1}) .label:not([hidden])")
            page.evaluate("document.querySelectorAll('details.part').forEach((part) => { part.open = true; })")
            page.click("#train")
            page.wait_for_selector("text=Least sure")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            page.close()
        browser.close()
    server.close()
    assert said == []
    rows = (Path("index") / "labels.csv").read_text().splitlines()
    assert len(rows) == 4


def test_two_at_once(library):
    labels, failed = Labels(library), []

    def give(number):
        try:
            for place in range(number, 90, 4):
                labels.set([place], f"label {number}")
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=give, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and len(Labels(Library(library.folder)).of) == 90

"""Looking through an index: exact search, the map, labels, and what the page's server answers and refuses."""
import io
import os
import queue
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import FAST, PATIENCE
from test_video import write_video

flask = pytest.importorskip("flask", reason="of requirements-search.txt")
waitress = pytest.importorskip("waitress", reason="of requirements-search.txt")

from analysis.index import Index, Known, read_files  # noqa: E402
from core.errors import DataError  # noqa: E402
from core.files import take_lock  # noqa: E402
from dataset.by_time import VideoFacts, frames_at, look_at_video  # noqa: E402
from dataset.unlisted import write_known  # noqa: E402
from search import upload  # noqa: E402
from search.app import make_app  # noqa: E402
from search.guard import make_server  # noqa: E402
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


@contextmanager
def served(app, **options):
    """-> the port of 127.0.0.1 where an app answers"""
    server = make_server(app, host="127.0.0.1", port=0, **options)

    ended = threading.Event()

    def serve():  # as server.run() does, which cannot be ended from another thread
        while not ended.is_set():
            server.asyncore.loop(timeout=0.05, map=server._map, count=1)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield server.effective_port
    finally:
        ended.set()
        thread.join()
        server.task_dispatcher.shutdown()
        server.asyncore.close_all(server._map)


def test_connections_that_say_nothing_do_not_block_the_page(tmp_path):
    write_index(tmp_path, np.eye(3, dtype=np.float32), ["/a.mp4"])
    with served(make_app(Library(tmp_path)), threads=2) as port, ExitStack() as silent:
        for _ in range(150):
            silent.enter_context(socket.create_connection(("127.0.0.1", port))).sendall(b"GET / HTTP/1.1\r\n")
        with socket.create_connection(("127.0.0.1", port), timeout=60) as asking:
            asking.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            assert asking.recv(12) == b"HTTP/1.1 200"


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


def test_the_most_similar_window_of_each_file(library, client):
    found = library.cosines(Query(library.of([3]), library.of([])))
    for allowed in (None, library.allowed("/disk/a"), library.allowed("", after=25)):
        best = np.flatnonzero(library.best_of_files(found, allowed))
        there = np.arange(90) if allowed is None else np.flatnonzero(allowed)
        assert best.tolist() == [max(there[library.file[there] == file], key=lambda place: (found[place], -place))
                                 for file in np.unique(library.file[there])]
    assert np.flatnonzero(library.best_of_files(np.ones(90, np.float32))).tolist() == [0, 30, 60]
    answer = ask(client, "/api/similar?like=3&each=1&unlike=40").json
    assert len(answer["segments"]) == 3 and len({one["file"] for one in answer["segments"]}) == 3
    assert [one["id"] for one in answer["examples"]] == [3, 40] and answer["uploads"] == {}


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
    assert library.duplicates(0.99, library.allowed(after=1000)) == []


def test_all_of_a_large_group_of_near_duplicates_can_be_seen(tmp_path):
    write_index(tmp_path / "i", np.eye(2, 4, dtype=np.float32).repeat(40, axis=0), [f"/{i}.mp4" for i in range(80)])
    client = make_app(Library(tmp_path / "i")).test_client()
    found = ask(client, "/api/duplicates").json
    for group, rest, first in zip(found["groups"], found["rest"], (0, 40), strict=True):
        assert [one["id"] for one in group] + rest == list(range(first, first + 40)) and len(group) == 24
    assert ask(client, "/api/segments?ids=39,3").json["segments"][0]["file"] == "/39.mp4"


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


def test_labels_belong_to_the_content_under_any_name(tmp_path):
    """Also while the index still has the windows of the former name."""
    vectors, folder = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32), tmp_path / "i"
    write_index(folder, vectors, ["/a", "/b"])
    Labels(Library(folder)).set([1, 3], "jump")
    with Index(folder, {**MANIFEST, "dim": 4}, ["weights"]) as index:
        times = np.array([[0.0, 1.0], [1.0, 2.0]])
        index.append("/renamed", VideoFacts(f"{0:032x}", 25.0, 0.0, 3.0), times, vectors[:2])
    labels = Labels(Library(folder))
    assert labels.of == {1: "jump", 3: "jump", 7: "jump"}
    assert labels.set([7], "") == [1, 7] and Labels(Library(folder)).of == {3: "jump"}
    assert labels.set([0], "run") == [0, 6]
    with Index(folder, {**MANIFEST, "dim": 4}, ["weights"]) as index:
        index.drop(["/a"])
    library = Library(folder)
    named = {(library.files[library.file[place]], library.start[place]): own
             for place, own in Labels(library).of.items()}
    assert named == {("/b", 0.0): "jump", ("/renamed", 0.0): "run"}


def test_guesses_are_counted_among_windows_without_labels_that_pass_the_filter(library, client):
    for place in range(0, 90, 3):
        ask(client, "/api/label", "post", json={"ids": [place], "label": "ab"[place % 2]})
    for address, windows in (("/api/guesses", 60), ("/api/guesses?folder=/disk/b", 20),
                             ("/api/guesses?folder=/disk/b&before=3", 2)):
        found = ask(client, address).json
        assert sum(found["counts"]) == windows
        assert [len(found["surest"][name]) for name in found["labels"]] == [min(count, 24) for count in found["counts"]]


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
    assert ask(client, "/api/label", "post", json=body).json == {"ids": [1], "labels": ["x"], "labelled": 1}


@pytest.mark.parametrize("path, code", [
    ("/still/90", 400), ("/moving/99999999999999999999", 400), ("/still/-1", 404), ("/still/../../etc/passwd", 404),
    ("/static/../app.py", 404), ("/api/similar?like=", 400), ("/api/similar?like=1,x", 400), ("/api/nothing", 404),
    ("/api/similar?like=u1", 400), ("/api/similar?like=1&count=0", 400), ("/api/similar?like=1&count=nan", 400),
    ("/api/similar?like=" + ",".join("1" * 300), 400),
    ("/api/similar?like=" + "9" * 5000, 400), ("/export/other", 404), ("/api/segments?first=-1", 400),
    ("/api/duplicates?least=2", 400), ("/api/segments?after=3&before=3", 400), ("/api/guesses", 409)])
def test_nonsense_is_one_sentence(path, code, client):
    answer = ask(client, path)
    assert answer.status_code == code
    assert code == 404 and path.startswith("/static") or isinstance(answer.json["error"], str)


@pytest.mark.parametrize("body", [None, [], {"ids": [1]}, {"ids": ["1"], "label": "x"}, {"ids": [90], "label": "x"},
                                  {"ids": [-1], "label": "x"}, {"ids": 1, "label": "x"}])
def test_bad_labels_are_refused(body, client, library):
    answer = ask(client, "/api/label", "post", json=body)
    assert answer.status_code == 400 and not (library.folder / "labels.csv").exists()


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"ids":[1],"label":"' + b"x" * 2**20 + b'"}', b"\xff\xfe", b""],
                         ids=["deep", "large", "no text", "nothing"])
def test_bodies_that_are_no_labels_are_refused(body, client, library):
    answer = ask(client, "/api/label", "post", data=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400 and not (library.folder / "labels.csv").exists()


def test_headers_alone_may_be_asked_for(client):
    assert ask(client, "/", "head").status_code == 200 and ask(client, "/api/label", "head").status_code == 405


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
    assert len(re.findall("^cut '?file:", script, re.MULTILINE)) == 3
    assert "'file:/disk/a/<img src=x onerror='\"'\"'alert(1)'\"'\"'>.mp4'" in script
    assert "-ss" not in script and script.count("trim=0.960500:1.999500,") == 1


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
def test_the_cut_list_cuts_videos_of_any_size(tmp_path):
    path = tmp_path / "it's \"odd\" $(x).avi"
    made = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc=size=65x49:rate=25:duration=3", "-c:v", "ffv1",
            "-pix_fmt", "yuv444p", path]
    subprocess.run(made, check=True)
    write_index(tmp_path / "index", np.eye(3, dtype=np.float32), [str(path)])
    client = make_app(Library(tmp_path / "index")).test_client()
    (tmp_path / "cut.sh").write_bytes(ask(client, "/export/cut.sh?ids=0,2").data)
    done = subprocess.run(["sh", "cut.sh"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pieces = [tmp_path / f"cut_00000{row}.mp4" for row in (0, 2)]
    assert [look_at_video(str(piece)).seconds for piece in pieces] == pytest.approx([1, 1], abs=0.05)
    # what is there stays, and what cannot be cut leaves nothing: the rest is cut, and the exit code says it
    pieces[1].unlink()
    before, script = pieces[0].read_bytes(), (tmp_path / "cut.sh").read_text()
    for text, words in ((script, "cut_000000.mp4 is there already"),
                        (script.replace("odd", "gone"), "cut_000002.mp4 could not be cut from file:"),
                        (script.replace("trim=1.96", "trim=7.00"), "cut_000002.mp4 could not be cut from file:")):
        done = subprocess.run(["sh"], input=text, cwd=tmp_path, text=True, capture_output=True)
        assert done.returncode == 1 and words in done.stderr and pieces[0].read_bytes() == before, done.stderr
        assert pieces[1].exists() == (text == script)
        pieces[1].unlink(missing_ok=True)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
@pytest.mark.parametrize("name, encoded", [
    ("x.avi", "libx264 -bf 2 -g 12"), ("x.ts", "libx264 -bf 2 -g 12"), ("x.mpg", "mpeg2video -bf 2"),
    ("x.flv", "libx264 -bf 2"), ("x.avi", "mpeg4 -bf 2 -vtag XVID"), ("x.mkv", "libx264 -bf 2")])
def test_pieces_show_what_was_embedded(name, encoded, tmp_path):
    """Each frame is a little brighter than the one before it."""
    path = str(tmp_path / name)
    subprocess.run(["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "color=size=64x48:rate=25:duration=2.8,"
                    "format=yuv420p,geq=lum=40+3*N:cb=128:cr=128", "-c:v", *encoded.split(), "-b:v", "2M", path],
                   check=True)
    write_index(tmp_path / "index", np.eye(4, dtype=np.float32), [path], hop=0.5)  # 12.5 frames
    client = make_app(Library(tmp_path / "index")).test_client()
    (tmp_path / "cut.sh").write_bytes(ask(client, "/export/cut.sh?ids=0,1,2,3").data)
    done = subprocess.run(["sh", "cut.sh"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    def brightness(video, times):
        return [picture.mean() for picture in frames_at(video, look_at_video(video), times)]

    for row, start in enumerate((0, 0.5, 1, 1.5)):
        piece, times = str(tmp_path / f"cut_{row:06d}.mp4"), np.arange(0, 1, 0.01) + 0.002
        assert look_at_video(piece).last < 1
        np.testing.assert_allclose(brightness(piece, times), brightness(path, start + times), atol=1.5)


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

    client = make_app(Library(Path("index"))).test_client()
    still, moving = (ask(client, f"/{kind}/2") for kind in ("still", "moving"))
    assert Image.open(io.BytesIO(still.data)).format == "JPEG"
    animation = Image.open(io.BytesIO(moving.data))
    assert animation.format == "WEBP" and animation.n_frames == 4
    around = ask(client, "/api/segments").json["segments"][2]["around"]
    assert around == [0, 2] and Image.open(io.BytesIO(ask(client, "/moving/2?around=1").data)).n_frames == 2 * 8
    assert moving.headers["Cache-Control"] == "no-cache"
    os.utime(disk / "two.mp4", (1, 1))  # the same content at another time
    assert ask(client, "/still/8").status_code == 200
    monkeypatch.setattr("search.previews.Worker.do", None)
    assert ask(client, "/moving/2").data == moving.data and ask(client, "/still/8").status_code == 200
    (disk / "one.mp4").unlink()
    shutil.copy(disk / "two.mp4", disk / "three.mp4")
    for place, said in ((0, "one.mp4 cannot be read"), (4, "three.mp4 has changed")):
        answer = ask(client, f"/still/{place}")
        assert answer.status_code == 409 and said in answer.json["error"], answer.json


def test_windows_belong_to_the_content_that_was_embedded(disk):
    """While embed.py has looked at a new content of a file, and not yet embedded it."""
    known = read_files(Path("index"))
    path = next(path for path in known if path.endswith("one.mp4"))
    now = Path(path).stat()
    write_known(Path("index/files.csv"), VideoFacts._fields, known | {
        path: Known(now.st_size, now.st_mtime_ns, known[path].facts._replace(hash="f" * 32))})
    client = make_app(Library(Path("index"))).test_client()
    assert ask(client, "/still/0").status_code == 409 and ask(client, "/still/4").status_code == 200
    ask(client, "/api/label", "post", json={"label": "old", "ids": [0]})
    assert known[path].facts.hash in Path("index/labels.csv").read_text()


def hang(wanted):
    time.sleep(PATIENCE)


def test_a_video_at_which_the_decoder_crashes_costs_its_picture_alone(disk, monkeypatch):
    """Such as one that is damaged where no window was read from."""
    import search.previews as previews
    made = previews.Previews(Library(Path("index")))
    made.workers = queue.SimpleQueue()
    made.workers.put(worker := previews.Worker(os._exit))
    with pytest.raises(DataError, match=r"one.mp4 cannot be shown: its process died \(exit code 1"):
        made.still(0)
    assert not list(made.folder.iterdir())
    worker.function = previews.make
    assert made.still(0).exists()
    monkeypatch.setattr(previews, "PATIENCE", 0.2)
    made.workers.get()
    made.workers.put(previews.Worker(hang))
    with pytest.raises(DataError, match="one.mp4 cannot be shown: it took more than 0.2 s"):
        made.still(1)
    assert len(list(made.folder.iterdir())) == 1


def test_an_index_that_cannot_be_written_is_looked_through_all_the_same(disk, monkeypatch, capsys, tmp_path):
    import search.__main__ as page
    answers = {}

    def serve(app):
        client = app.test_client()
        paths = ("/still/0", "/api/map", "/api/similar?like=1")
        answers.update({path: ask(client, path).status_code for path in paths})

    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr("search.guard.create_server", lambda app, **_: SimpleNamespace(run=lambda: serve(app)))
    monkeypatch.setattr(os, "access", lambda *_: False)
    before = sorted(Path("index").rglob("*"))
    page.main(["index", "--port", "0"])
    assert set(answers.values()) == {200} and len(answers) == 3
    assert sorted(Path("index").rglob("*")) == before and not list((tmp_path / "temporary").iterdir())
    assert capsys.readouterr().out.startswith("note: index cannot be written: no labels can be given, and pictures are")


def test_the_oldest_previews_make_room(disk, monkeypatch):
    import search.previews as previews
    made = previews.Previews(Library(Path("index")))
    first = made.still(0)
    size = first.stat().st_size
    monkeypatch.setattr(previews, "MOST_KEPT", int(4.5 * size))
    for place in range(1, 12):
        newest = made.still(place)
        time.sleep(0.01)  # the file system's clock
    kept = sorted(made.folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert sum(path.stat().st_size for path in kept) <= 4.5 * size and not first.exists() and kept[-1] == newest
    assert len(kept) >= 2 and made.still(0).exists()  # made again
    others = previews.Previews(Library(Path("index")))  # those of an earlier page count too
    others.still(3)
    assert sum(path.stat().st_size for path in others.folder.iterdir()) <= 4.5 * size


def test_two_browsers_may_ask_for_one_picture(disk, monkeypatch):
    import search.previews as previews
    library, made, own = Library(Path("index")), [], previews.Worker.do

    def slow(*arguments):
        made.append(arguments)
        time.sleep(0.2)
        return own(*arguments)

    monkeypatch.setattr(previews.Worker, "do", slow)
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
    found = ask(client, f"/api/similar?like={answer.json['id']},3&count=4").json
    assert found["uploads"] == {answer.json["id"]: "<b>.mp4"} and [one["id"] for one in found["examples"]] == [3]
    found = ask(client, f"/api/similar?like={answer.json['id']}&count=4").json["segments"]
    assert sum(segment["file"].endswith("two.mp4") for segment in found) >= 1 and found[0]["score"] > 0.5
    answer = ask(client, "/api/upload", "post", data={"video": (io.BytesIO(b"no film" * 99), "x.mp4")})
    assert answer.status_code == 409 and answer.json["error"].startswith("it is no AVI, MP4, MOV, MKV, WebM, FLV")
    assert ask(client, "/api/upload", "post", data={}).status_code == 400


def test_uploads_are_bounded(library):
    app = make_app(library)
    app.config["MAX_CONTENT_LENGTH"] = 1000
    answer = ask(app.test_client(), "/api/upload", "post", data={"video": (io.BytesIO(b"x" * 5000), "x.mp4")})
    assert answer.status_code == 413 and "MiB at most" in answer.json["error"]


@pytest.mark.parametrize("header", ["Content-Length: 600000000", "Transfer-Encoding: chunked"])
def test_an_upload_over_the_bound_is_refused_before_it_is_stored(header, library, monkeypatch, tmp_path):
    """As it comes in, by the server itself: of one whose length is said not a byte is wanted."""
    (tmp_path / "uploads").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "uploads"))
    with served(make_app(library), max_request_body_size=2**20) as port:
        with socket.create_connection(("127.0.0.1", port), timeout=30) as own:
            own.sendall(f"POST /api/upload HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nOrigin: http://127.0.0.1:{port}\r\n"
                        f"Content-Type: multipart/form-data; boundary=x\r\n{header}\r\n\r\n".encode())
            if "chunked" in header:
                own.sendall((b"%x\r\n" % 2**16 + b"x" * 2**16 + b"\r\n") * 32)
            assert own.recv(1000).startswith(b"HTTP/1.1 413 ")
    assert list((tmp_path / "uploads").iterdir()) == []


def test_a_body_that_another_page_sends_is_refused_before_it_is_stored(library, monkeypatch, tmp_path):
    (tmp_path / "uploads").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "uploads"))
    with served(make_app(library)) as port:
        for method, host, origin, said in (
                ("POST", f"127.0.0.1:{port}", "https://evil.example", b"another page asks"),
                ("POST", "evil.example", "http://evil.example", b"under another name than 127.0.0.1"),
                ("GET", "evil.example", "http://evil.example", b"under another name than 127.0.0.1")):
            with socket.create_connection(("127.0.0.1", port), timeout=30) as own:
                own.sendall(f"{method} /api/upload HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\n"
                            "Content-Length: 400000000\r\n\r\n".encode())
                answer = b"".join(iter(lambda: own.recv(1000), b""))  # until the server closes it
                assert answer.startswith(b"HTTP/1.1 400 ") and said in answer
    assert list((tmp_path / "uploads").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("limit, value, said", [
    ("seconds", 1, "more time than a dropped file may (1 s of a processor)"),
    ("memory", 2**30, "more memory than a dropped file may (1 GiB)"),
    ("bytes", 1000, "more room than a dropped file may")])
def test_what_decodes_an_upload_has_limits(limit, value, said, disk, monkeypatch):
    client = make_app(Library(Path("index"))).test_client()
    monkeypatch.setitem(upload.LIMITS, limit, value)
    with open(disk / "two.mp4", "rb") as file:
        answer = ask(client, "/api/upload", "post", data={"video": (file, "x.mp4")})
    assert answer.status_code == 409 and said in answer.json["error"], answer.json
    assert ask(client, "/api/segments").status_code == 200


@pytest.mark.parametrize("body, said", [("kill -SEGV $$", "it ends the program that decodes it (Segmentation fault)"),
                                        ("kill -KILL $$", "(Killed): it is damaged, or needs more memory"),
                                        ("exit 3", "it cannot be decoded"),
                                        ("exec sleep 60", "it takes more time than a dropped file may")])
def test_a_decoder_that_crashes_or_hangs_ends_alone(body, said, library, monkeypatch, tmp_path):
    (tmp_path / "python").write_text(f"#!/bin/sh\n{body}\n")
    (tmp_path / "python").chmod(0o755)
    (tmp_path / "uploads").mkdir()
    monkeypatch.setattr(upload.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(upload.Embedder, "load", lambda self: None)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "uploads"))
    monkeypatch.setitem(upload.LIMITS, "seconds", 0.2 if "sleep" in body else 60)
    client = make_app(library).test_client()
    answer = ask(client, "/api/upload", "post", data={"video": (io.BytesIO(b"x" * 2**20), "x.mp4")})
    assert answer.status_code == 409 and said in answer.json["error"], answer.json
    assert ask(client, "/api/segments").status_code == 200
    assert list((tmp_path / "uploads").iterdir()) == []  # nothing is kept


def test_a_dropped_file_is_not_compared_with_an_index_of_other_weights(library):
    library.manifest["weights"] = "0" * 16
    answer = ask(make_app(library).test_client(), "/api/upload", "post", data={"video": (io.BytesIO(b"x"), "x.mp4")})
    assert answer.status_code == 409 and "thumbnail are other weights than those of the index" in answer.json["error"]


def test_one_file_is_read_at_a_time_and_others_are_told(library, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()

    def clips(self, video):
        begun.set()
        assert go_on.wait(60)
        raise DataError("it is read now")

    monkeypatch.setattr(upload.Embedder, "load", lambda self: "network")
    monkeypatch.setattr(upload.Embedder, "_clips", clips)
    app, answers = make_app(library), []

    def drop():
        answers.append(ask(app.test_client(), "/api/upload", "post", data={"video": (io.BytesIO(b"x"), "x.mp4")}))

    first = threading.Thread(target=drop)
    first.start()
    assert begun.wait(60)
    drop()
    go_on.set()
    first.join()
    drop()
    assert [answer.json["error"] for answer in answers] == [
        "another file is being read: drop this one when it is done", "it is read now", "it is read now"]


def test_a_preview_is_no_wider_than_a_panorama():
    from search.pictures import small
    assert small(np.zeros((16, 16000, 3), np.uint8), 144).size == (4 * 144, 144)
    assert small(np.zeros((90, 160, 3), np.uint8), 144).size == (256, 144)


def test_bad_indices_and_ports_are_one_sentence(program, tmp_path):
    for flags, code, said in ((["nowhere"], 1, "nowhere holds no index: name a folder that was embed.py's --out"),
                              (["x", "--port", "99999"], 2, "no port"), ([], 2, "required: DIR")):
        found, _, error = program("search/__main__.py", *flags)
        assert found == code and said in error and error.count("\n") == 1, error
    write_index(tmp_path / "index", np.ones((3, 4), np.float32))
    with take_lock(tmp_path / "index/.search", "page"):
        found, _, error = program("search/__main__.py", "index")
    assert found == 1 and "index is served already, in another program: use that page, or end it" in error
    (tmp_path / "index/vectors.npy").write_bytes(b"\x93NUMPY\x01\x00v\x00" + b"x" * 200)
    found, _, error = program("search/__main__.py", "index")
    assert found == 1 and "vectors.npy is damaged" in error and "make the index anew in another folder" in error
    write_index(tmp_path / "other", np.ones((90, 4), np.float32))
    os.truncate(tmp_path / "other/vectors.npy", 500)
    found, _, error = program("search/__main__.py", "other")
    assert found == 1 and error.endswith(
        "vectors.npy is damaged, or no table of float32: make the index anew in another folder\n")


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

"""The page of python -m search in a real browser: Debian's Chromium, driven by playwright.

LOOK=DIR keeps pictures of it there, and prints how long a map of 50,000 points takes.
"""
import base64
import csv
import os
import re
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import FAST, environment, succeed

sync = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
pytest.importorskip("waitress", reason="of requirements-search.txt")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here")]

from test_search import served, write_index  # noqa: E402

from dataset.by_time import look_at_video  # noqa: E402
from search.app import make_app  # noqa: E402
from search.library import Library  # noqa: E402

WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 800}
TURNED = "\u202e"  # what follows is written from right to left, until something ends it
SEEN = "\\u202e"  # as the page shows it
NAMES = ("one.mp4", f"two{TURNED} \".mp4", "<b>three & 'four'.mp4")


@pytest.fixture(scope="module")
def browser():
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    """An index of three real small videos, by mean pictures."""
    root = tmp_path_factory.mktemp("page")
    (root / "disk").mkdir()
    for i, name in enumerate(NAMES):  # of different colours
        writer = cv2.VideoWriter(str(root / "disk" / name), cv2.VideoWriter_fourcc(*"mp4v"), 25, (65, 49))
        for frame in range(50):
            picture = np.random.default_rng(frame).integers(0, 60, (49, 65, 3), np.uint8)
            picture[..., i] += 100
            picture[10:20, frame:frame + 10] = 250
            writer.write(picture)
        writer.release()
    succeed("embed.py", "--pretrain", "thumbnail", "--img_dim", "24", "--seq_len", "4", *FAST[:2], "--window", "0.5",
            "--hop", "0.5", "--out", root / "index", root / "disk", cwd=root, env=environment(root))
    return root


@pytest.fixture
def address(embedded, tmp_path):
    """Of the page of a copy of that index, without labels."""
    shutil.copytree(embedded / "index", tmp_path / "index")
    with served(make_app(Library(tmp_path / "index"))) as port:
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture
def visit(browser, address):
    """Opens the page, or another -> Page; at the end the console must have been silent, and no file asked elsewhere."""
    said, contexts = [], []

    def opened(url=address, context=None, **options):
        if context is None:
            context = browser.new_context(**{"viewport": WIDE, **options})
            contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        # the test itself reads the map back
        page.on("console", lambda message: said.extend([message.text] * ("Canvas2D: Multiple" not in message.text)))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.extend([request.url] * (not request.url.startswith((url, "data:")))))
        page.goto(url)
        page.wait_for_selector(".card")
        return page

    opened.said = said
    yield opened
    for context in contexts:
        context.close()
    assert said == []


def keep(page, name):
    if "LOOK" in os.environ:
        page.screenshot(path=Path(os.environ["LOOK"]) / f"{name}.png", full_page=True)


def until(page, condition, argument=None):
    """Wait until an expression holds; the page's policy forbids playwright to ask it within the page."""
    for _ in range(600):
        if page.evaluate(condition, argument):
            return
        page.wait_for_timeout(50)
    raise AssertionError(condition)


MAP_IS_DRAWN = "document.getElementById('map').getContext('2d').getImageData(0, 0, 640, 480).data.some(Boolean)"


def open_parts(page):
    page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")


def label(page, given):
    """Give windows labels by keys: {place: key}."""
    for place, key in given.items():
        page.locator(".card .show").nth(place).focus()
        page.keyboard.press(key)
        page.wait_for_selector(f".card:nth-child({place + 1}) .label:not([hidden])")


@pytest.mark.parametrize("viewport", [pytest.param(WIDE, marks=pytest.mark.kept), PHONE], ids=["wide", "phone"])
def test_search_back_label_and_train(viewport, visit, tmp_path):
    page = visit(viewport=viewport)
    assert page.locator(".card").count() == 12
    page.locator(".card .show").nth(4).click()
    page.wait_for_selector("text=the most similar first")
    assert page.locator(".card .text").first.inner_text().count("cosine 1.000") == 1
    page.go_back()
    page.wait_for_selector("text=evenly spread")
    page.go_forward()
    page.wait_for_selector("text=the most similar first")
    page.go_back()
    page.wait_for_selector("text=evenly spread")
    open_parts(page)
    page.fill("[aria-label='label of key 2']", "jump")
    page.keyboard.press("Tab")
    label(page, {0: "1", 5: "2", 10: "2"})
    page.click("#train")
    page.wait_for_selector("text=Least sure: label these")
    guesses = page.locator(".card .text").all_inner_texts()
    assert all("label 1\u2069?" in text or "jump\u2069?" in text for text in guesses) and len(guesses) >= 9
    assert all(int(text.split("\u2069? ")[1].split(" %")[0]) >= 50 for text in guesses)
    assert page.locator("text=Surest of \u2068jump\u2069; ").count() == 1
    assert "Accuracy on files" in page.inner_text("#probe")
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    with open(tmp_path / "index/labels.csv", encoding="utf-8") as file:
        assert sorted(row["label"] for row in csv.DictReader(file)) == ["jump", "jump", "label 1"]
    keep(page, f"guesses_{viewport['width']}")


WHERE = """([selector, text]) => {
  const range = document.createRange(), texts = document.createTreeWalker(document.querySelector(selector), 4);
  while (texts.nextNode()) {
    const at = texts.currentNode.data.lastIndexOf(text);
    if (at < 0) continue;
    range.setStart(texts.currentNode, at);
    range.setEnd(texts.currentNode, at + text.length);
    return range.getBoundingClientRect().left;
  }
}"""
DROP = """([text, name]) => {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)), files = new DataTransfer();
  files.items.add(new File([bytes], name));
  const event = (kind) => new DragEvent(kind, { dataTransfer: files, bubbles: true, cancelable: true });
  const map = document.getElementById("map"), shown = [];
  for (const kind of ["dragover", "drop"]) {
    map.dispatchEvent(event(kind));
    shown.push(document.body.classList.contains("dropping"));
  }
  return shown;
}"""


def test_a_file_is_dropped_or_chosen(visit, embedded):
    page, video = visit(), embedded / "disk" / NAMES[1]
    name = f"<i>my & {TURNED}own.mp4"
    assert page.evaluate(DROP, [base64.b64encode(video.read_bytes()).decode(), name]) == [True, False]
    page.wait_for_selector("text=the most similar first")
    assert page.locator("#query button").inner_text() == f"+ \u2068{name.replace(TURNED, SEEN)}\u2069 ×"
    keep(page, "turned")
    # the sign and the cross stand on their own sides of the name
    left, right = (page.evaluate(WHERE, ["#query button", sign]) for sign in "+×")
    assert left < right
    assert page.locator(".card .name").first.inner_text() == NAMES[1].replace(TURNED, SEEN)
    page.reload()  # its name is not forgotten
    page.wait_for_selector("text=the most similar first")
    assert page.locator("#query button").inner_text() == f"+ \u2068{name.replace(TURNED, SEEN)}\u2069 ×"
    open_parts(page)
    page.check("#each")
    page.wait_for_selector("text=3 windows, the most similar first")
    assert sorted(page.locator(".card .name").all_inner_texts()) == sorted(name.replace(TURNED, SEEN) for name in NAMES)
    page.locator("#query button").click()  # out of the query again
    page.wait_for_selector("text=evenly spread")
    assert visit.said == []
    page.set_input_files("#file", {"name": "x.mp4", "mimeType": "video/mp4", "buffer": b"no film" * 99})
    page.wait_for_selector(".error")
    assert page.inner_text("#said").startswith("\u2068x.mp4\u2069: it is no AVI, MP4, MOV, MKV, WebM, FLV, WMV or MPEG")
    assert len(visit.said) == 1 and "409" in visit.said.pop()  # the browser's own line


def test_names_cannot_turn_what_is_shown(visit, tmp_path):
    turning = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    name = f"{turning}gnp.avi"
    write_index(tmp_path / turning, np.eye(3, 4, dtype=np.float32), [f"/{turning}/a/{name}"])
    with served(make_app(Library(tmp_path / turning))) as port:
        page = visit(f"http://127.0.0.1:{port}/")
        page.locator(".card .like").first.click()
        page.wait_for_selector("#query .like")
        page.locator(".card .show").first.focus()
        page.keyboard.press("p")
        escaped = ascii(turning)[1:-1]
        assert page.inner_text("#playing").startswith(f"/{escaped}/a/{escaped}gnp.avi, ")
        assert page.locator(".card .name").first.inner_text() == f"{escaped}gnp.avi"
        assert page.inner_text("h1").endswith(escaped)
        text = page.evaluate("document.title + document.documentElement.outerHTML")
        values = page.eval_on_selector_all("option", "all => all.map((one) => one.value).join('')")
        assert set(turning) & set(values)  # what is sent is the name itself
        left = page.evaluate("document.querySelectorAll('option').forEach((one) => one.removeAttribute('value')), "
                             "document.title + document.documentElement.outerHTML")
        assert turning in text and set(turning) & set(left) <= {"\u2068", "\u2069"}  # the page's own
    visit.said[:] = [text for text in visit.said if "409" not in text]  # the videos are not there


def test_two_browsers_at_once(visit, tmp_path):
    """Each keeps its own query and choice; labels are the index's, and neither takes away what the other gave."""
    one, two = visit(), visit()
    one.locator(".card .show").nth(4).click()
    one.wait_for_selector("text=the most similar first")
    two.locator(".card").nth(2).get_by_role("button", name="choose").click()
    assert (one.inner_text("#count"), two.inner_text("#count")) == (
        "", "1 chosen: number keys and Export are for these")
    assert two.locator("text=evenly spread").count() == 1
    two.click("#none")
    segment = "(n) => (({ file, start }) => [file, start])(document.querySelectorAll('.card')[n].segment)"
    wanted = {}
    for number in range(3):  # in turn
        for page, place, key in ((two, 3 * number, "1"), (one, number + 1, "2")):
            label(page, {place: key})
            file, start = page.evaluate(segment, place)
            wanted[file, f"{start:.3f}"] = f"label {key}"
    with open(tmp_path / "index/labels.csv", encoding="utf-8", newline="") as file:
        assert {(row["file"], row["start"]): row["label"] for row in csv.DictReader(file)} == wanted
    two.reload()
    two.wait_for_selector(".card")
    assert two.locator(".card .label:not([hidden])").count() == len(wanted) > 3


def test_exports_are_what_was_chosen(visit, embedded, tmp_path):
    page = visit()
    for place in (1, 6, 10):
        page.locator(".card").nth(place).get_by_role("button", name="choose").click()
    assert page.inner_text("#count").startswith("3 chosen: ")
    for button in ("csv", "cuts"):
        with page.expect_download() as download:
            page.click(f"#{button}")
        download.value.save_as(tmp_path / download.value.suggested_filename)
    with open(tmp_path / "selection.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(Path(row["file"]).name for row in rows) == sorted(NAMES)
    assert all(float(row["end"]) - float(row["start"]) == 0.5 for row in rows)
    script = (tmp_path / "cut.sh").read_text()
    assert script.startswith("#!/bin/sh") and len(re.findall("^cut '?file:", script, re.MULTILINE)) == 3
    if shutil.which("ffmpeg"):
        done = subprocess.run(["sh", "cut.sh"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        cuts = sorted(tmp_path.glob("cut_*.mp4"))
        assert len(cuts) == 3 and all(abs(look_at_video(str(cut)).seconds - 0.5) < 0.06 for cut in cuts)


def focused(page):
    return page.evaluate("(document.activeElement.ariaLabel || document.activeElement.id || "
                         "document.activeElement.innerText || document.activeElement.tagName).trim()")


def test_names_of_keys_a_query_that_begins_with_minus_and_an_empty_export(visit):
    page = visit()
    open_parts(page)
    page.click("#csv")
    until(page, "document.getElementById('said').textContent.includes('choose windows first, or label some')")
    assert len(visit.said) == 1 and "400" in visit.said.pop()  # Chromium's own note of it
    page.locator("#labels input").nth(4).fill("fifth")
    page.keyboard.press("Tab")
    page.reload()
    page.wait_for_selector(".card")
    assert [box.input_value() for box in page.locator("#labels input").all()] == [*[""] * 4, "fifth", *[""] * 4]
    # a key without a name keeps the one that it gave, and another page of the index sees it
    other = visit(context=page.context)
    label(page, {0: "2", 4: "7"})
    page.reload()
    page.wait_for_selector(".card")
    expected = ["", "label 2", "", "", "fifth", "", "label 7", "", ""]
    open_parts(page)
    for one in (page, other):
        until(one, "(wanted) => [...document.querySelectorAll('#labels input')]"
                   ".every((box, i) => box.value === wanted[i])", expected)
    other.locator("#labels input").nth(5).fill("sixth")
    other.keyboard.press("Tab")
    until(page, "document.querySelectorAll('#labels input')[5].value === 'sixth'")
    page.locator(".card .unlike").nth(0).click()
    until(page, "document.getElementById('said').textContent.startsWith('Choose a window that they')")
    page.locator(".card .like").nth(1).click()
    until(page, "document.querySelectorAll('#query button').length === 2")
    assert page.locator("#query button").all_inner_texts()[1].startswith("−")


def test_by_keyboard_alone(visit, tmp_path):
    page = visit()
    page.keyboard.press("Tab")
    assert focused(page) == "To the windows"
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowDown")
    assert "show what is like it" in focused(page)
    first = focused(page)
    page.keyboard.press("ArrowRight")
    second = focused(page)
    page.keyboard.press("ArrowLeft")
    assert focused(page) == first != second
    page.keyboard.press("Space")
    assert page.inner_text("#count").startswith("1 chosen: ") and page.locator(".card.chosen").count() == 1
    page.keyboard.press("Space")
    assert page.inner_text("#count") == ""
    page.keyboard.press("p")
    assert page.locator("#player").is_visible() and page.inner_text("#playing").endswith(", 0:00.0 to 0:02.0")
    page.keyboard.press("Escape")
    assert not page.locator("#player").is_visible() and focused(page) == first
    page.keyboard.press("3")
    page.wait_for_selector(".card .label:not([hidden])")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=the most similar first")
    assert focused(page) == first  # which is what is most like itself
    page.keyboard.press("ArrowRight")
    page.keyboard.press("-")
    page.wait_for_selector("#query .unlike")
    assert page.locator("#query button").count() == 2
    # each control is reached, in the order of the page, and can be seen when it is in focus
    page.keyboard.press("Escape")
    page.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
    page.locator(".skip").focus()
    seen = []
    while page.evaluate("document.activeElement !== document.body") and len(seen) < 400:
        seen.append(at := focused(page))
        assert page.evaluate("""() => { const one = document.activeElement, box = one.getBoundingClientRect();
            const shown = one.matches('.hidden') ? one.parentElement : one;
            return box.width > 0 && getComputedStyle(shown).outlineStyle === 'solid'; }"""), at
        page.keyboard.press("Tab")
    buttons = page.eval_on_selector_all("#map, #file, select, aside input, aside button, summary",
                                        "all => all.map((one) => (one.ariaLabel || one.id || one.innerText).trim())")
    assert [name for name in seen if name in buttons] == buttons


def test_light_and_dark(visit):
    style, colours = "getComputedStyle(document.body)", []
    for scheme in ("light", "dark"):
        page = visit(color_scheme=scheme)
        until(page, MAP_IS_DRAWN)
        colours.append(page.evaluate(f"[{style}.backgroundColor, {style}.color]"))
        page.emulate_media(color_scheme={"light": "dark", "dark": "light"}[scheme])  # while it is open
        colours.append(page.evaluate(f"[{style}.backgroundColor, {style}.color]"))
    assert colours[0] == colours[3] == ["rgb(255, 255, 255)", "rgb(26, 26, 26)"]
    assert colours[1] == colours[2] == ["rgb(20, 20, 20)", "rgb(238, 238, 238)"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, PHONE], ids=["wide", "phone"])
def test_accessible(viewport, scheme, visit):
    """As axe-core checks it: contrast, names, landmarks, headings, structure."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="of tests/requirements.txt").Axe()
    page = visit(viewport=viewport, color_scheme=scheme)

    def check(where):
        # all rules, not those of WCAG alone
        found = axe.run(page).response["violations"]
        assert not found, (where, [(one["help"], [node["html"][:200] for node in one["nodes"]]) for one in found])

    check("start")
    open_parts(page)
    label(page, {0: "1", 5: "2", 9: "2"})
    page.locator(".card .row button").nth(3).click()
    check("labels, a window that is chosen, all parts open")
    page.locator(".card .like").first.click()
    page.wait_for_selector("#query .like")
    page.locator(".card .unlike").nth(4).click()
    page.wait_for_selector("#query .unlike")
    check("a query")
    page.click("#train")
    page.wait_for_selector("text=Least sure")
    check("guesses")
    page.keyboard.press("Escape")
    page.locator(".card .row button").nth(2).click()
    check("player")


FRAMES = """async (number) => {
  const map = document.getElementById("map"), box = map.getBoundingClientRect(), times = [];
  const send = (kind, x) => map.dispatchEvent(new PointerEvent(kind, {
    pointerId: 1, clientX: box.left + x, clientY: box.top + 90, bubbles: true }));
  map.setPointerCapture = () => {};
  send("pointerdown", 100);
  let last = await new Promise(requestAnimationFrame);
  for (let i = 0; i < number; i++) {
    send("pointermove", 110 + i);
    const now = await new Promise(requestAnimationFrame);
    times.push(now - last);
    last = now;
  }
  send("pointerup", 100);
  return times;
}"""


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """An index of 100,000 windows of 400 files that are not there."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("many") / "index"
    vectors = rng.standard_normal((100_000, 32), np.float32) + 3 * rng.standard_normal((20, 32)).repeat(5000, axis=0)
    write_index(folder, vectors.astype(np.float32), [f"/disk/{i % 8}/{i:04d}.mp4" for i in range(400)])
    return folder


def test_the_rest_of_a_group_of_near_duplicates_is_opened(visit, tmp_path):
    write_index(tmp_path / "twins", np.eye(2, 4, dtype=np.float32).repeat((100, 3), axis=0),
                [f"/{i}.mp4" for i in range(103)])
    with served(make_app(Library(tmp_path / "twins"))) as port:
        page = visit(f"http://127.0.0.1:{port}/")
        page.click("#twins")
        for shown in (24, 84):
            page.wait_for_selector(f"text=The first {shown} of 100 windows like each other")
            page.click("text=More of this group")
        page.wait_for_selector("h2:text-is('100 windows like each other')")
        assert page.locator("#found h2").all_inner_texts() == [f"{n} windows like each other" for n in (100, 3)]
        assert page.locator("#found ul").first.locator(".card").count() == 100
        assert page.locator("text=More of this group").count() == 0 and focused(page).startswith("84.mp4")
        page.close()  # or it would ask for pictures when the server has ended
    visit.said[:] = [text for text in visit.said if "409" not in text]  # the videos are not there


def test_100_000_windows(many, visit):
    with served(make_app(Library(many))) as port:
        page = visit(f"http://127.0.0.1:{port}/")
        until(page, MAP_IS_DRAWN)
        assert "60 of 100000 windows" in page.inner_text("#said")
        box = page.locator("#map").bounding_box()
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        until(page, "!document.getElementById('said').innerText.includes('evenly spread')")
        if "no window at that point" in page.inner_text("#said"):
            page.locator(".card .show").nth(30).click()
        page.wait_for_selector("text=the most similar first")
        page.click("#more")
        page.wait_for_selector("text=120 windows, the most similar first")
        page.select_option("#folder", "/disk/3")
        page.wait_for_selector("text=60 windows, the most similar first")
        names = page.eval_on_selector_all(".card .name", "all => all.map((one) => one.title)")
        assert len(names) == 60 and all("/disk/3/" in name for name in names)
        before = page.evaluate("document.getElementById('map').toDataURL()")
        page.click("#nearer")
        page.click("#nearer")
        times = page.evaluate(FRAMES, 30)
        assert page.evaluate("document.getElementById('map').toDataURL()") != before
        page.click("#whole")
        until(page, "(before) => document.getElementById('map').toDataURL() === before", before)
        if "LOOK" in os.environ:
            print(f"a frame while the map moves: median {np.median(times):.0f} ms, longest {max(times):.0f} ms")
        keep(page, "many")
    # the browser's own lines: the videos are not there
    visit.said[:] = [text for text in visit.said if "409" not in text]

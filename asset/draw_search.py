"""Take the pictures of the page of python -m search in docs/search.md: asset/search.png and search_phone.png.

    python asset/draw_search.py

The videos are rendered (asset/overview_video.py) and embedded by their mean pictures. Needs requirements-search.txt,
playwright (tests/requirements.txt) and a Chromium.
"""
import io
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import core  # noqa: F401  # before what takes seconds to import

# isort: split
import cv2
from PIL import Image

from asset.overview_video import render_video
from core.errors import RunError
from core.exits import run
from core.files import whole_file
from core.imports import optional
from core.parser import new_parser

ASSET = Path(__file__).resolve().parent
PLACES = ("harbour", "meadow", "station")  # folders of the videos
VIDEOS, FRAMES, SIZE = 8, 125, (144, 192)  # of a folder; of a video, at 25 a second
COLOURS = 256  # of a picture


def render(folder):
    for place, name in enumerate(PLACES):
        (folder / name).mkdir(parents=True)
        for number in range(VIDEOS):
            path = folder / name / f"{name} {number + 1}.mp4"
            writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 25, SIZE[::-1])
            for frame in render_video(place, number, FRAMES, *SIZE):
                writer.write(frame)
            writer.release()


def save(path, page):
    """What the page shows, in few colours."""
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        picture.save(file, "PNG", optimize=True)


def opened(browser, address, **options):
    page = browser.new_page(reduced_motion="reduce", **options)
    page.goto(address)
    page.wait_for_selector(".card")
    return page


def look(browser, address):
    page = opened(browser, address, viewport={"width": 1280, "height": 860})
    for number, name in enumerate(("turns", "rests"), 1):
        page.fill(f"[aria-label='label of key {number}']", name)
        page.keyboard.press("Tab")
    page.locator(".card .show").nth(20).click()
    page.wait_for_selector("text=the most similar first")
    for place, key in ((0, "1"), (1, "1"), (5, "2")):
        page.locator(".card .show").nth(place).focus()
        page.keyboard.press(key)
        page.wait_for_selector(f".card:nth-child({place + 1}) .label:not([hidden])")
    page.locator(".card .unlike").nth(9).click()
    page.wait_for_selector("#query .unlike")
    page.wait_for_load_state("networkidle")
    page.evaluate("window.scrollTo(0, 0)")
    save(ASSET / "search.png", page)
    page = opened(browser, address, viewport={"width": 390, "height": 780}, color_scheme="dark")
    page.locator("#found").scroll_into_view_if_needed()
    page.evaluate("document.querySelector('main').scrollIntoView()")
    page.wait_for_load_state("networkidle")
    save(ASSET / "search_phone.png", page)


def main(argv):
    new_parser("asset/draw_search.py", __doc__).parse_args(argv)
    sync = optional("playwright.sync_api", "driving the browser", "tests/requirements.txt")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        raise RunError("there is no Chromium here: install it (on Debian: apt install chromium)")
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        render(root / "recordings")
        subprocess.run([sys.executable, "embed.py", "--pretrain", "thumbnail", "--img_dim", "32", "--seq_len", "8",
                        "--window", "2", "--hop", "1", "--out", root / "index", root / "recordings"],
                       cwd=ASSET.parent, check=True)
        with subprocess.Popen([sys.executable, "-m", "search", root / "index", "--port", "0"], cwd=ASSET.parent,
                              text=True, stdout=subprocess.PIPE) as server, sync.sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            look(browser, re.search(r"http://\S+", server.stdout.readline())[0])
            browser.close()
            server.terminate()


if __name__ == "__main__":
    run(main)

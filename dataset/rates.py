"""Frames a second of a data set's videos, which --fps and questions about speed need."""
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from core.errors import DataError
from core.inputs import csv_rows, read_text
from core.names import shown

from .video import MOST_RATE, VideoFiles, open_video

HINT = "extract the frames again"


def frame_rates(root: Path, storage: str, names: np.ndarray) -> np.ndarray | str:
    """Frames a second of each of `names` (N,) -> (N,) float64; or a text, why they are not known.

    root: folder of what is read, in which extraction left a manifest; without one, video files' headers are read.
    """
    path = root / "manifest.csv"
    if path.is_file():
        rates = _of_manifest(path, names)
    elif storage == "video":
        try:
            rates = _of_headers(VideoFiles(root), names)
        except DataError as error:
            return str(error)
    else:
        return f"{path} is not there"
    unknown = np.flatnonzero(~((rates > 0) & (rates < MOST_RATE)))
    if len(unknown):
        return f"{path if path.is_file() else root} has no frame rate of {shown(str(names[unknown[0]]))}"
    return rates


def _of_manifest(path: Path, names: np.ndarray) -> np.ndarray:
    table = csv_rows(read_text(path, HINT), path, HINT)
    _, head = next(table, (1, []))
    if not {"video", "fps"} <= set(head):
        raise DataError(f"{path} row 1: there is no column video, or none called fps: {HINT}")
    video, fps = head.index("video"), head.index("fps")
    rows = {fields[video]: fields[fps] for _, fields in table if len(fields) == len(head)}
    rates = np.full(len(names), np.nan)
    for i, name in enumerate(names.tolist()):
        try:
            rates[i] = float(rows[name])
        except (KeyError, ValueError):
            pass
    return rates


def _of_headers(files: VideoFiles, names: np.ndarray) -> np.ndarray:
    from core.dist import rank  # which imports torch: tools for data do without
    rates = np.full(len(names), np.nan)
    progress = tqdm(names.tolist(), "frame rates", unit="video", leave=False, disable=None if rank() == 0 else True)
    for i, name in enumerate(progress):
        with open_video(files.path(name)) as capture:
            rates[i] = capture.get(cv2.CAP_PROP_FPS)
    return rates

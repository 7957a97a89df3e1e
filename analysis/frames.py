"""Frames of videos for pictures: which are shown, and reading them small."""
import numpy as np

from dataset.clips import open_reader
from dataset.lists import VideoList
from dataset.reader import FrameReader

SMALL = (96, 128)  # height and width of whole frames


def evenly(length: int, count: int) -> np.ndarray:
    """At most `count` of 0..length - 1, evenly spread -> (N,) int64"""
    return np.unique(np.linspace(0, length - 1, count).round().astype(np.int64))


def small_reader(dataset: str, storage: str) -> FrameReader:
    """Reader of a data set's frames at SMALL."""
    return open_reader(dataset, storage, SMALL)


def middle_frame(reader: FrameReader, videos: VideoList, index: int) -> tuple[np.ndarray, str]:
    """-> (middle frame of a video (h, w, 3) uint8, its class)"""
    frame = next(reader.read(videos.names[index], np.array([videos.num_frames[index] // 2]))[0])
    return frame, videos.classes[videos.labels[index]]

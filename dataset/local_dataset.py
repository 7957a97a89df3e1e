"""Where the data sets are on this machine: the one file to edit.

A data set called `name` needs three things, the first of them in one of three kinds (--storage):

    frames       <frames>/<class>/<video>/image_00001.jpg, ...   written by process_data/src/extract_frame.py
     or packed   <packed>/<class>/<video>.zip                    written from them by process_data/src/pack.py
     or videos   <videos>/<class>/<video>.avi, ...               the originals; also <videos>/<video>.webm, ...
    lists        <lists>/{train,test}_split0N.csv                written by process_data/src/write_csv.py
    class_index  <lists>/ClassInd.txt                            written with them

Change DATA below (or set DUALVAR_DATA), give a single data set its own folder, or add a line for your own
videos: `"mine": standard("mine")`. Every stage then takes `--dataset mine`. A data set whose official lists have a
format of their own also needs a reader, in process_data/src/official_lists.py.
"""
import re
from dataclasses import dataclass
from pathlib import Path

from core.environment import folder_variable

REPOSITORY = Path(__file__).resolve().parent.parent
DATA = folder_variable("DUALVAR_DATA", REPOSITORY / "data")
LISTS = folder_variable("DUALVAR_LISTS", REPOSITORY / "process_data" / "data")

# Videos cut from one recording must stay on one side of a hold-out. The rule is a regular expression on
# "class/video" whose `group` names the recording; a video that does not match is a group of its own.
UCF101_GROUP = r"(?P<group>.+_g\d+)_c\d+"  # v_Lunges_g08_c01: group 8 of its class
DEMO_GROUP = r".+_(?P<group>g\d+)_c\d+"  # a demo group (one appearance) runs through all classes
DIVING48_GROUP = r"[^/]+/(?P<group>.+)_\d+"  # LSe4bcYXRWw_00009: YouTube's name of the recording, of all classes
HMDB51_GROUP = r"([^/]+)/(?P<group>.+)_\1_[fhlu]_(?:cm|nm)_np\d+_(?:ba|fr|le|ri)_(?:bad|goo|med)_\d+"
# smash12: tens of numbers are one recording, in all classes; from 31 on all are, as those of the test list begin there
TENNIS_GROUP = r".*?(?P<group>/(?=[a-z_]+(?:3[1-9]|[45]\d)$)|[012]?(?=\d$)|30$).*"
NO_GROUP = r"(?P<group>.+)"
FOLDER_GROUP = r"(?P<group>(?:.*/)?)[^/]+"  # of videos without lists: all in one folder


@dataclass(frozen=True)
class LocalDataset:
    frames: Path
    lists: Path
    group: str
    splits: int
    packed: Path | None = None  # None: `packed` beside the frames
    videos: Path | None = None  # None: `videos` beside the frames

    def __post_init__(self) -> None:
        if "group" not in re.compile(self.group).groupindex:
            raise ValueError(f"dataset/local_dataset.py: rule {self.group!r} has no part (?P<group>...), "
                             "which names the recording of a video")

    def root(self, storage: str) -> Path:
        """Folder of a kind of storage: "frames", "packed" or "video"."""
        return {"frames": self.frames, "packed": self.packed or self.frames.with_name("packed"),
                "video": self.videos or self.frames.with_name("videos")}[storage]

    @property
    def class_index(self) -> Path:
        return self.lists / "ClassInd.txt"


def standard(name: str, group: str = NO_GROUP, splits: int = 1) -> LocalDataset:
    """The layout that the tools in process_data write by default.

    group: rule that finds a video's recording, as above; splits: how many divisions into train and test there are.
    """
    return LocalDataset(DATA / name / "frames", LISTS / name, group, splits)


DATASETS = {
    "ucf101": standard("ucf101", UCF101_GROUP, splits=3),
    "hmdb51": standard("hmdb51", HMDB51_GROUP, splits=3),
    "k400": standard("k400"),
    "ssv2": standard("ssv2"),
    "diving48": standard("diving48", DIVING48_GROUP),
    "demo": standard("demo", DEMO_GROUP),
    "ucf101-5class": standard("ucf101-5class", UCF101_GROUP, splits=3),  # a subset, as an example
    "tennis-7class": standard("tennis-7class", TENNIS_GROUP),  # the class is the motion
    "folder": standard("folder"),
}

"""What clips the weights of a network expect: how long, how large, and how their values are normalised."""
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from core.errors import CheckpointError
from core.inputs import fault
from dataset.augment import MEAN, STD
from dataset.crops import resize_for

Triple = tuple[float, float, float]

CLIP_FLAGS = ("seq_len", "ds", "fps", "img_dim", "resize")  # what flags say of clips, and their fields of Protocol
LONGEST, LARGEST = 2**12, 2**14  # frames and strides; pixels
SLOWEST, FASTEST = 0.001, 10000  # frames a second
SHAPE = {"seq_len": range(1, LONGEST), "ds": range(1, LONGEST), "fps": (None, float), "img_dim": range(1, LARGEST),
         "resize": (None, [range(1, LARGEST)]), "mean": [float], "std": [float]}


def spacing(ds: int, fps: float | None) -> str:
    """How far the frames of a clip are apart, as text."""
    return f"stride {ds}" if fps is None else f"{fps / ds:.6g} frames a second"


@dataclass(frozen=True)
class Protocol:
    """Clips of `seq_len` frames at stride `ds`, cropped to `img_dim` pixels and normalised by `mean` and `std`.

    fps: frames a second whose stride this is, whatever a video has; None: of each video's own.
    resize: (H, W) of the frames before the crop; None: 128 x 171 in proportion to img_dim, as where --resize is not
    given. mean, std: of red, green and blue in 0..1. The defaults are the paper's clips, normalised as our loader does
    it; the classes of networks of others state what the published weights expect.
    """

    seq_len: int = 16
    ds: int = 4
    img_dim: int = 112
    resize: tuple[int, int] | None = None
    mean: Triple = MEAN
    std: Triple = STD
    fps: float | None = None

    @property
    def frame_size(self) -> tuple[int, int]:
        """(H, W) of the frames before the crop."""
        return self.resize or resize_for(self.img_dim)

    def frame_size_for(self, img_dim: int) -> tuple[int, int]:
        """(H, W) of the frames before crops of another size, in the same proportion."""
        if self.resize is None:
            return resize_for(img_dim)
        height, width = self.resize
        return round(height * img_dim / self.img_dim), round(width * img_dim / self.img_dim)

    def flags(self, img_dim: int | None = None) -> dict[str, Any]:
        """{name: what the flag would be}, of CLIP_FLAGS, --ds or --fps being None; img_dim: where this one is given."""
        side = img_dim or self.img_dim
        ds, fps = (self.ds, None) if self.fps is None else (None, self.fps / self.ds)
        return {"seq_len": self.seq_len, "ds": ds, "fps": fps, "img_dim": side, "resize": self.frame_size_for(side)}

    @property
    def spacing(self) -> str:
        """How far the frames of a clip are apart, as text."""
        return spacing(self.ds, self.fps)

    @property
    def normalisation(self) -> str:
        mean, std = (" ".join(f"{x:.6g}" for x in values) for values in (self.mean, self.std))
        return f"mean {mean}, std {std}"

    def __str__(self) -> str:
        height, width = self.frame_size
        return (f"{self.seq_len} frames at {self.spacing}, {self.img_dim} pixels of {height} x {width}, "
                f"{self.normalisation}")

    def of_clips(self, seq_len: int, ds: int, img_dim: int, resize: tuple[int, int],
                 fps: float | None = None) -> "Protocol":
        """The same normalisation of other clips, by the flags of these names: of weights that were trained on them."""
        return replace(self, seq_len=seq_len, ds=ds, fps=fps, img_dim=img_dim,
                       resize=None if resize == resize_for(img_dim) else resize)

    def conversion(self) -> tuple[list[float], list[float]]:
        """Clips of our loader -> these: clip * scale + shift, by channel. -> (scale, shift)"""
        channels = list(zip(self.mean, self.std, MEAN, STD, strict=True))
        return [own / std for _, std, _, own in channels], [(own - mean) / std for mean, std, own, _ in channels]

    @property
    def converts(self) -> bool:
        """Whether the clips of our loader are normalised in another way."""
        return (self.mean, self.std) != (MEAN, STD)

    def values(self) -> dict[str, Any]:
        """As plain types, for JSON and checkpoints."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()
                if name != "fps" or value is not None}

    def entry(self, net: "Protocol") -> dict[str, Any]:
        """What a checkpoint's config says of it: {} where it is that of the network's class, `net`."""
        return {} if self == net else {"protocol": self.values()}

    @staticmethod
    def read(values: object, where: str) -> "Protocol":
        """The inverse of `values`. Raises CheckpointError, naming `where`, for anything else or sizes out of bounds."""
        if isinstance(values, Mapping):
            values = {"fps": None, **values}
        wrong = fault(values, SHAPE)
        if not wrong:
            assert isinstance(values, Mapping)
            wrong = _number_fault(values)
        if wrong:
            raise CheckpointError(f"{where}: its clip protocol makes no sense ({wrong})")
        assert isinstance(values, Mapping)
        given: dict[str, Any] = {name: values[name] for name in SHAPE}
        given |= {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
        return Protocol(**given)


def _number_fault(values: Mapping[str, Any]) -> str | None:
    """What of a dictionary of the right shape has no right length or size -> text, or None."""
    resize, side = values["resize"], values["img_dim"]
    if resize is not None and (len(resize) != 2 or min(resize) < side):
        return f"resize is not height and width of img_dim {side} or more"
    for name in ("mean", "std"):
        if len(values[name]) != 3:
            return f"{name} has {len(values[name])} values, not three"
    if values["fps"] is not None and not SLOWEST <= values["fps"] <= FASTEST:
        return f"fps is not between {SLOWEST} and {FASTEST}"
    if not all(math.fabs(x) <= 1000 for x in values["mean"]):
        return "mean is not between -1000 and 1000"
    if not all(0.001 <= x <= 1000 for x in values["std"]):
        return "std is not between 0.001 and 1000"
    return None

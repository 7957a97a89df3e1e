"""Video networks: clip (B, 3, T, H, W) float -> feature map (B, feature_dim, t, h, w). base.py has their contract."""
from collections import UserDict
from importlib import import_module

from .base import Backbone
from .c3d import C3D
from .resnet3d import R3D, R21D
from .s3d import S3D, S3DG
from .s3d_rspnet import RSPNetS3DG
from .slow import SlowR50


class Networks(UserDict):
    """Networks by name. One that stands as "module.Class" of this folder is imported when it is first asked for."""

    def __getitem__(self, name: str) -> type[Backbone]:
        found = super().__getitem__(name)
        if isinstance(found, str):
            module, kind = found.split(".")
            found = self.data[name] = getattr(import_module(f".{module}", __name__), kind)
        return found


BACKBONES = Networks({
    # the paper's and the release's
    "r3d": R3D, "r21d": R21D, "s3d": S3D, "s3dg": S3DG, "c3d": C3D,
    # torchvision's, which takes seconds to import
    "r3d_18": "video_resnet.R3D18", "mc3_18": "video_resnet.MC318", "r2plus1d_18": "video_resnet.R2Plus1D18",
    "s3d_tv": "s3d_torchvision.TorchvisionS3D", "mvit_v2_s": "mvit.MViTv2S", "swin3d_t": "swin3d.Swin3DT",
    # SlowFast's and RSPNet's
    "slow_r50": SlowR50, "s3dg_rspnet": RSPNetS3DG,
})

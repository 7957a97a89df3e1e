"""Video networks: clip (B, 3, T, H, W) float -> feature map (B, feature_dim, t, h, w). base.py has their contract."""
from .base import Backbone
from .c3d import C3D
from .resnet3d import R3D, R21D
from .s3d import S3D, S3DG

BACKBONES: dict[str, type[Backbone]] = {"r3d": R3D, "r21d": R21D, "s3d": S3D, "s3dg": S3DG, "c3d": C3D}

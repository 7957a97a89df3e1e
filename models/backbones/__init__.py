"""Video networks: clip (B, 3, T, H, W) float -> feature map (B, feature_dim, t, h, w)."""
from .c3d import c3d
from .resnet3d import r3d, r21d
from .s3d import s3d, s3dg

BACKBONES = {"r3d": r3d, "r21d": r21d, "s3d": s3d, "s3dg": s3dg, "c3d": c3d}

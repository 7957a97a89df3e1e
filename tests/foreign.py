"""Networks of other projects, rebuilt from their papers and the names of their tensors: what their weights compute.

Each takes `width`, as ours do, so that the tests are quick, and returns the feature map before pooling and heads.
"""
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.video import r3d_18


def scaled(channels, width):
    return max(4, round(channels * width))


class Tree(nn.Module):
    """Modules under dotted names."""

    def put(self, name, module):
        *path, leaf = name.split(".")
        inside = self
        for part in path:
            if part not in inside._modules:
                inside.add_module(part, Tree())
            inside = inside._modules[part]
        inside.add_module(leaf, module)

    def run(self, name, x):
        return self.get_submodule(name)(x)


def conv(c_in, c_out, kernel, stride=(1, 1, 1), bias=False, dilation=1):
    """Padded so that stride 1 keeps the size; dilation: in space."""
    t, k, _ = kernel
    return nn.Conv3d(c_in, c_out, kernel, stride, (t // 2, dilation * (k // 2), dilation * (k // 2)),
                     (1, dilation, dilation), bias=bias)


# --- Slow R50 (Feichtenhofer et al. 2019, table 1), in the names of three projects --------------------------------

SLOW_STAGES = ((3, 64, 1, 1), (4, 128, 1, 2), (6, 256, 3, 2), (3, 512, 3, 2))  # blocks, channels, kernel, stride


def slowfast_name(stage, block, role):
    """stage 1: the stem. role: "conv" or "bn" and a, b or c, or 1 for the shortcut."""
    kind, which = role
    if stage == 1:
        return f"s1.pathway0_stem.{kind}"
    where = f"s{stage}.pathway0_res{block}."
    if which == "1":
        return f"{where}branch1{'_bn' if kind == 'bn' else ''}"
    return f"{where}branch2.{which}{'_bn' if kind == 'bn' else ''}"


def pytorchvideo_name(stage, block, role):
    kind, which = role[0].replace("bn", "norm"), role[1]
    if stage == 1:
        return f"blocks.0.{kind}"
    where = f"blocks.{stage - 1}.res_blocks.{block}."
    return where + (f"branch1_{kind}" if which == "1" else f"branch2.{kind}_{which}")


def mmaction2_name(stage, block, role):
    kind, which = role
    if stage == 1:
        return f"conv1.{kind}"
    part = "downsample" if which == "1" else f"conv{'abc'.index(which) + 1}"
    return f"layer{stage - 1}.{block}.{part}.{kind}"


class SlowR50(Tree):
    def __init__(self, name, width=1.0, detector=False):
        """detector: with the last stage as SlowFast's detectors have it, dilated instead of strided."""
        super().__init__()
        self.name, c_in = name, scaled(64, width)
        self.put(name(1, 0, ("conv", "")), conv(3, c_in, (1, 7, 7), (1, 2, 2)))
        self.put(name(1, 0, ("bn", "")), nn.BatchNorm3d(c_in))
        for stage, (blocks, channels, t, stride) in enumerate(SLOW_STAGES, 2):
            inner, out = scaled(channels, width), scaled(4 * channels, width)
            last = detector and stage == 5
            for block in range(blocks):
                s = 1 if block or last else stride
                layers = {"a": conv(c_in, inner, (t, 1, 1)),
                          "b": conv(inner, inner, (1, 3, 3), (1, s, s), dilation=2 if last else 1),
                          "c": conv(inner, out, (1, 1, 1))}
                if not block:
                    layers["1"] = conv(c_in, out, (1, 1, 1), (1, s, s))
                for which, layer in layers.items():
                    self.put(name(stage, block, ("conv", which)), layer)
                    self.put(name(stage, block, ("bn", which)), nn.BatchNorm3d(layer.out_channels))
                c_in = out

    def layer(self, stage, block, which, x):
        return self.run(self.name(stage, block, ("bn", which)), self.run(self.name(stage, block, ("conv", which)), x))

    def forward(self, x):
        x = F.max_pool3d(self.layer(1, 0, "", x).relu(), (1, 3, 3), (1, 2, 2), (0, 1, 1))
        for stage, (blocks, *_) in enumerate(SLOW_STAGES, 2):
            for block in range(blocks):
                y = self.layer(stage, block, "b", self.layer(stage, block, "a", x).relu()).relu()
                y = self.layer(stage, block, "c", y)
                x = (y + (x if block else self.layer(stage, block, "1", x))).relu()
        return x


# what SlowFast writes into its files, in part
CFG = """AUG:
  ENABLE: false
DATA:
  MEAN:
  - 0.4
  - 0.45
  - 0.5
  NUM_FRAMES: 16
  SAMPLING_RATE: 4
  STD: [0.225, 0.225, 0.25]
  TRAIN_CROP_SIZE: 112
RESNET:
  SPATIAL_DILATIONS:
  - - 1
  - - 1
  - - 1
  - - 1
  SPATIAL_STRIDES: [[1], [2], [2], [2]]
  STRIDE_1X1: false
"""


# --- RSPNet (Chen et al. 2021): C3D, the small R(2+1)D, S3D-G ----------------------------------------------------

class RSPNetC3D(Tree):
    pools = {"2": (1, 2, 2), "3a": (2, 2, 2), "4a": (2, 2, 2), "5a": (2, 2, 2)}  # before these layers

    def __init__(self, width=1.0):
        super().__init__()
        c_in = 3
        self.layers = {"1": 64, "2": 128, "3a": 256, "3b": 256, "4a": 512, "4b": 512, "5a": 512, "5b": 512}
        for name, channels in self.layers.items():
            self.put(f"conv{name}", conv(c_in, scaled(channels, width), (3, 3, 3), bias=True))
            c_in = scaled(channels, width)
            self.put(f"bn{name}", nn.BatchNorm3d(c_in))

    def forward(self, x):
        for name in self.layers:
            if name in self.pools:
                x = F.max_pool3d(x, self.pools[name])
            x = self.run(f"bn{name}", self.run(f"conv{name}", x)).relu()
        return x


class RSPNetR21D(Tree):
    def __init__(self, width=1.0):
        super().__init__()
        c64, c128, c256, c512 = (scaled(c, width) for c in (64, 128, 256, 512))
        self.factored("conv1", "bn1", 3, c64, (3, 7, 7), (1, 2, 2))
        stages = (c64, c64, 1), (c64, c128, 2), (c128, c256, 2), (c256, c512, 2)
        for stage, (c_in, c_out, stride) in enumerate(stages, 2):
            where = f"conv{stage}.block1."
            self.factored(f"{where}conv1", f"{where}bn1", c_in, c_out, (3, 3, 3), (stride,) * 3)
            self.factored(f"{where}conv2", f"{where}bn2", c_out, c_out, (3, 3, 3))
            if stride > 1:
                self.factored(f"{where}downsampleconv", f"{where}downsamplebn", c_in, c_out, (1, 1, 1), (2, 2, 2))

    def factored(self, name, bn, c_in, c_out, kernel, stride=(1, 1, 1)):
        t, k, _ = kernel
        middle = t * k * k * c_in * c_out // (k * k * c_in + t * c_out)
        self.put(f"{name}.spatial_conv", conv(c_in, middle, (1, k, k), (1, *stride[1:])))
        self.put(f"{name}.bn", nn.BatchNorm3d(middle))
        self.put(f"{name}.temporal_conv", conv(middle, c_out, (t, 1, 1), (stride[0], 1, 1)))
        self.put(bn, nn.BatchNorm3d(c_out))

    def layer(self, name, bn, x):
        for part in ("spatial_conv", "bn"):
            x = self.run(f"{name}.{part}", x)
        return self.run(bn, self.run(f"{name}.temporal_conv", x.relu()))

    def forward(self, x):
        x = self.layer("conv1", "bn1", x).relu()
        for stage in (2, 3, 4, 5):
            where = f"conv{stage}.block1."
            y = self.layer(f"{where}conv1", f"{where}bn1", x).relu()
            y = self.layer(f"{where}conv2", f"{where}bn2", y)
            x = (y + (x if stage == 2 else self.layer(f"{where}downsampleconv", f"{where}downsamplebn", x))).relu()
        return x


# channels of the branches of the Inception blocks of S3D (Xie et al. 2018)
MIXED = {
    "3b": (64, 96, 128, 16, 32, 32), "3c": (128, 128, 192, 32, 96, 64),
    "4b": (192, 96, 208, 16, 48, 64), "4c": (160, 112, 224, 24, 64, 64), "4d": (128, 128, 256, 24, 64, 64),
    "4e": (112, 144, 288, 32, 64, 64), "4f": (256, 160, 320, 32, 128, 128),
    "5b": (256, 160, 320, 32, 128, 128), "5c": (384, 192, 384, 48, 128, 128),
}


def before_mixed(name, x):
    """The pools between the stages of S3D."""
    if name == "3b":
        return F.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))
    return F.max_pool3d(x, 3, 2, 1) if name == "4b" else F.max_pool3d(x, 2, 2) if name == "5b" else x


class RSPNetS3DG(Tree):
    """Its stem strides in time within the first, spatial convolution; gates follow separable convolutions alone."""

    def __init__(self, width=1.0):
        super().__init__()
        c_in = scaled(192, width)
        self.separable("feature.sepConv1", 3, scaled(64, width), 7, 2)
        self.basic("feature.basicConv3d", scaled(64, width), scaled(64, width), (1, 1, 1))
        self.separable("feature.sep_conv2", scaled(64, width), c_in, 3)
        for name, channels in MIXED.items():
            where = f"feature.sepInc_{name}."
            c0, c1a, c1b, c2a, c2b, c3 = (scaled(c, width) for c in channels)
            self.basic(f"{where}branch0", c_in, c0, (1, 1, 1))
            for branch, (a, b) in {"branch1": (c1a, c1b), "branch2": (c2a, c2b)}.items():
                self.basic(f"{where}{branch}.0", c_in, a, (1, 1, 1))
                self.separable(f"{where}{branch}.1", a, b, 3)
            self.basic(f"{where}branch3.1", c_in, c3, (1, 1, 1))
            c_in = c0 + c1b + c2b + c3

    def basic(self, name, c_in, c_out, kernel, stride=(1, 1, 1)):
        self.put(f"{name}.conv3d", conv(c_in, c_out, kernel, stride))
        self.put(f"{name}.bn", nn.BatchNorm3d(c_out, eps=1e-3, momentum=1e-3))

    def separable(self, name, c_in, c_out, k, stride=1):
        self.basic(f"{name}.sep_conv.0", c_in, c_out, (1, k, k), (stride,) * 3)
        self.basic(f"{name}.sep_conv.1", c_out, c_out, (k, 1, 1))
        self.put(f"{name}.excitation", nn.Conv3d(c_out, c_out, 1))

    def run_basic(self, name, x):
        return self.run(f"{name}.bn", self.run(f"{name}.conv3d", x)).relu()

    def run_separable(self, name, x):
        x = self.run_basic(f"{name}.sep_conv.1", self.run_basic(f"{name}.sep_conv.0", x))
        return x * torch.sigmoid(self.run(f"{name}.excitation", F.adaptive_avg_pool3d(x, 1)))

    def forward(self, x):
        x = F.max_pool3d(self.run_separable("feature.sepConv1", x), (1, 3, 3), (1, 2, 2), (0, 1, 1))
        x = self.run_separable("feature.sep_conv2", self.run_basic("feature.basicConv3d", x))
        for name in MIXED:
            x = before_mixed(name, x)
            where = f"feature.sepInc_{name}."
            one, two = (self.run_separable(f"{where}{branch}.1", self.run_basic(f"{where}{branch}.0", x))
                        for branch in ("branch1", "branch2"))
            pooled = self.run_basic(f"{where}branch3.1", F.max_pool3d(x, 3, 1, 1))
            x = torch.cat([self.run_basic(f"{where}branch0", x), one, two, pooled], dim=1)
        return x


# --- CoCLR (Han et al. 2020): S3D and S3D-G ------------------------------------------------------------------------

class CoCLRS3D(Tree):
    """Every part stands under two names, its own and its place in a block."""

    def __init__(self, width=1.0, gating=False):
        super().__init__()
        self.gating, c_in = gating, scaled(192, width)
        self.separable("Conv_1a", 3, scaled(64, width), 7)
        self.basic("Conv_2b", scaled(64, width), scaled(64, width))
        self.separable("Conv_2c", scaled(64, width), c_in, 3)
        for name, channels in MIXED.items():
            where = f"Mixed_{name}."
            c0, c1a, c1b, c2a, c2b, c3 = (scaled(c, width) for c in channels)
            self.basic(f"{where}branch0.0", c_in, c0)
            for branch, (a, b) in {"branch1": (c1a, c1b), "branch2": (c2a, c2b)}.items():
                self.basic(f"{where}{branch}.0", c_in, a)
                self.separable(f"{where}{branch}.1", a, b, 3)
            self.basic(f"{where}branch3.1", c_in, c3)
            for branch, c_out in enumerate((c0, c1b, c2b, c3)):
                if gating:
                    self.put(f"{where}gating_b{branch}.fc", nn.Linear(c_out, c_out))
            c_in = c0 + c1b + c2b + c3
        for name, part in list(self.named_children()):
            stage, letter = name[-2:]
            self.put(f"block{stage}.{'abcdef'.index(letter)}", part)

    def basic(self, name, c_in, c_out):
        self.put(f"{name}.conv", conv(c_in, c_out, (1, 1, 1)))
        self.put(f"{name}.bn", nn.BatchNorm3d(c_out))

    def separable(self, name, c_in, c_out, k):
        stride = 2 if k == 7 else 1
        self.put(f"{name}.conv1", conv(c_in, c_out, (1, k, k), (1, stride, stride)))
        self.put(f"{name}.conv2", conv(c_out, c_out, (k, 1, 1), (stride, 1, 1)))
        self.put(f"{name}.bn1", nn.BatchNorm3d(c_out))
        self.put(f"{name}.bn2", nn.BatchNorm3d(c_out))

    def run_basic(self, name, x):
        return self.run(f"{name}.bn", self.run(f"{name}.conv", x)).relu()

    def run_separable(self, name, x):
        x = self.run(f"{name}.bn1", self.run(f"{name}.conv1", x)).relu()
        return self.run(f"{name}.bn2", self.run(f"{name}.conv2", x)).relu()

    def forward(self, x):
        x = F.max_pool3d(self.run_separable("Conv_1a", x), (1, 3, 3), (1, 2, 2), (0, 1, 1))
        x = self.run_separable("Conv_2c", self.run_basic("Conv_2b", x))
        for name in MIXED:
            x, where = before_mixed(name, x), f"Mixed_{name}."
            found = [self.run_basic(f"{where}branch0.0", x)]
            found += [self.run_separable(f"{where}{branch}.1", self.run_basic(f"{where}{branch}.0", x))
                      for branch in ("branch1", "branch2")]
            found.append(self.run_basic(f"{where}branch3.1", F.max_pool3d(x, 3, 1, 1)))
            if self.gating:
                gates = [self.run(f"{where}gating_b{i}.fc", y.mean((2, 3, 4))) for i, y in enumerate(found)]
                found = [y * torch.sigmoid(gate)[:, :, None, None, None] for y, gate in zip(found, gates, strict=True)]
            x = torch.cat(found, dim=1)
        return x


# --- TCLR (Dave et al. 2022): torchvision's R3D-18 with other strides ---------------------------------------------

def tclr_r3d_18():
    """Up to its pool: clips of 16 x 16 pixels -> the values of their map in a row."""
    network = r3d_18(weights=None)
    first = network.layer4[0]
    first.conv1[0] = nn.Conv3d(256, 512, 3, (1, 2, 2), (2, 1, 1), (2, 1, 1), bias=False)
    first.downsample[0] = nn.Conv3d(256, 512, 1, (1, 2, 2), bias=False)
    network.avgpool = network.fc = nn.Identity()
    return network.eval()


def tclr_head():
    head = Tree()
    for name, module in {"fc1": nn.Linear(512, 512), "bn1": nn.BatchNorm1d(512), "bn2": nn.BatchNorm1d(128),
                         "fc2": nn.Linear(512, 128, bias=False)}.items():
        head.put(name, module)
    return head

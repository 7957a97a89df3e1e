"""The names that others give to our backbones' tensors, and where in a checkpoint such names stand."""
import re
from collections import Counter

# Rules from our name to theirs, (pattern, replacement), applied in turn.
_RELEASE_RESNET = [
    (r"^stem\.", "conv1."), (r"^stem_bn\.", "bn1."), (r"^stage([2-5])\.", r"conv\1.block1."),
    (r"\.shortcut\.", ".downsampleconv."), (r"\.shortcut_bn\.", ".downsamplebn."),
    (r"\.(spatial|temporal)\.", r".\1_conv."),
    (r"(conv[12]|downsampleconv)\.weight$", r"\1.temporal_spatial_conv.weight"),
]
_TORCHVISION_STAGES = [
    (r"^stage([2-5])\.", lambda m: f"layer{int(m[1]) - 1}.0."), (r"\.bn([12])\.", r".conv\1.1."),
    (r"\.shortcut\.weight$", ".downsample.0.weight"), (r"\.shortcut_bn\.", ".downsample.1."),
]
FAMILIES = {
    # its S3D is CoCLR's, names included
    "release": {
        "r3d": _RELEASE_RESNET, "r21d": _RELEASE_RESNET, "c3d": [(r"^layers\.", "")],
        "s3d": [
            (r"^stem\.", "Conv_1a."), (r"^conv(2[bc])\.", r"Conv_\1."),
            (r"^mixed([345])\.(\d)\.", lambda m: f"Mixed_{m[1]}{'bcdef'[int(m[2])]}."),
            (r"\.branches\.0\.", ".branch0.0."), (r"\.branches\.", ".branch"), (r"\.gates\.", ".gating_b"),
            (r"\.spatial\.", ".conv1."), (r"\.spatial_bn\.", ".bn1."),
            (r"\.temporal\.", ".conv2."), (r"\.temporal_bn\.", ".bn2."),
        ],
    },
    # its R(2+1)D has no counterpart of our factored shortcuts, and other widths between the two steps of some
    # convolutions; both of its networks have further blocks, layer<i>.1, where ours have one a stage
    "torchvision": {
        "r3d": [(r"^stem\.", "stem.0."), (r"^stem_bn\.", "stem.1."), (r"\.(conv[12])\.", r".\1.0."),
                *_TORCHVISION_STAGES],
        "r21d": [(r"^stem\.spatial\.", "stem.0."), (r"^stem\.bn\.", "stem.1."), (r"^stem\.temporal\.", "stem.3."),
                 (r"^stem_bn\.", "stem.4."), (r"\.(conv[12])\.spatial\.", r".\1.0.0."),
                 (r"\.(conv[12])\.bn\.", r".\1.0.1."), (r"\.(conv[12])\.temporal\.", r".\1.0.3."),
                 *_TORCHVISION_STAGES],
    },
}
# The release registers every part of S3D twice, `Conv_1a` also as `block1.0`.
_TWINS = {"Conv_1a": "block1.0", "Conv_2b": "block2.1", "Conv_2c": "block2.2",
          **{f"Mixed_{i}{letter}": f"block{i}.{j}" for i, letters in ((3, "bc"), (4, "bcdef"), (5, "bc"))
             for j, letter in enumerate(letters, 1)}}
# copies of the encoder that is trained
_KEY_SIDE = re.compile(r"(^|[._])(k|key|momentum|teacher|target|ema|sampler)[._]")
_HEAD = re.compile(r"fc|head|queue|classifier|final_bn|mlp|pred|proj|linear|logit")


def _architecture(own):
    if "layers.conv1.weight" in own:
        return "c3d"
    return "r3d" if "stem.weight" in own else "s3d" if "conv2b.conv.weight" in own else "r21d"


def name_tables(own):
    """{family: {its name of a tensor: ours}} for the names of a backbone's tensors. Two names may mean one tensor."""
    architecture = _architecture(own)
    tables = {"ours": {name: name for name in own}}
    for family, rules in FAMILIES.items():
        if architecture not in rules:
            continue
        tables[family] = {}
        for name in own:
            theirs = name
            for pattern, replacement in rules[architecture]:
                theirs = re.sub(pattern, replacement, theirs)
            tables[family][theirs] = name
            part, _, leaf = theirs.partition(".")
            if (family, architecture) == ("release", "s3d"):
                tables[family][f"{_TWINS[part]}.{leaf}"] = name
    return tables


def locate(keys, tables, prefix=None):
    """Where the names of a checkpoint are those of a backbone -> (family, prefix, other prefixes that do as well).

    tables: the backbone's `name_tables`. The prefix under which most names are found wins, key encoders and the like
    coming last; it may be anything (`module.encoder_q.0.`), and is `prefix` where that is given. Family "unknown"
    where no name is found.
    """
    votes = Counter()
    for key in keys:
        starts = [0, *(dot.end() for dot in re.finditer(r"\.", key))]
        votes.update((family, key[:start]) for start in starts for family, table in tables.items()
                     if key[start:] in table and prefix in (None, key[:start]))
    if not votes:
        return "unknown", prefix or "", []
    most = max(votes.values())
    found = [place for place, count in votes.items() if 2 * count >= most]
    found = [place for place in found if not _KEY_SIDE.search(place[1])] or found
    most = max(votes[place] for place in found)
    # C3D's names of the release under `layers.` are ours: the same tensors are one place
    places = {frozenset(place[1] + name for name in tables[place[0]]): place
              for place in reversed(found) if votes[place] == most}
    (family, prefix), *others = reversed(places.values())
    return family, prefix, [other for _, other in others]


def is_head(name):
    """Whether a tensor beside a backbone's is of a head or a queue, by the first part of its name."""
    return bool(_HEAD.search(name.partition(".")[0]))

"""Weights under others' names: the release's and ours, loaded strictly."""
import re

import torch

from .checkpoint import CheckpointError, strip_module
from .classifier import Classifier
from .dualvar import Pretrainer
from .moco import MoCo

# A backbone's tensors: pattern in the release's name -> ours, each rule applied in turn.
RESNET_RULES = [
    (r"temporal_spatial_conv\.", ""), (r"spatial_conv\.", "spatial."), (r"temporal_conv\.", "temporal."),
    (r"downsampleconv\.", "shortcut."), (r"downsamplebn\.", "shortcut_bn."),
    (r"^conv1\.", "stem."), (r"^bn1\.", "stem_bn."), (r"^conv([2-5])\.block1\.", r"stage\1."),
]
C3D_RULES = [(r"^", "layers.")]
S3D_RULES = [
    (r"^Conv_1a\.", "stem."), (r"^Conv_(2[bc])\.", r"conv\1."),
    (r"(^|\.)conv1\.", r"\1spatial."), (r"(^|\.)bn1\.", r"\1spatial_bn."),
    (r"(^|\.)conv2\.", r"\1temporal."), (r"(^|\.)bn2\.", r"\1temporal_bn."),
    (r"^Mixed_([345])([b-f])\.", lambda m: f"mixed{m[1]}.{'bcdef'.index(m[2])}."),
    (r"\.branch0\.0\.", ".branches.0."), (r"\.branch([1-3])\.", r".branches.\1."), (r"\.gating_b", ".gates."),
]
# The release registers every stage of S3D twice: block<i>.<j> is the j-th of these (pools have no tensors).
S3D_BLOCKS = {
    "block1": ["Conv_1a"], "block2": ["", "Conv_2b", "Conv_2c"], "block3": ["", "Mixed_3b", "Mixed_3c"],
    "block4": ["", "Mixed_4b", "Mixed_4c", "Mixed_4d", "Mixed_4e", "Mixed_4f"], "block5": ["", "Mixed_5b", "Mixed_5c"],
}
HEAD_RULES = {
    "simclr": [("encoder_q.2.", "encoder.clip_head.layers.0."), ("encoder_q.4.", "encoder.clip_head.layers.2."),
               ("series_proj_head.", "encoder.segment_head.layers.")],
    "moco": [("encoder_q.2.", "encoder.clip_head.layers.0."), ("encoder_q.4.", "encoder.clip_head.layers.2."),
             ("encoder_k.2.", "key_encoder.clip_head.layers.0."), ("encoder_k.4.", "key_encoder.clip_head.layers.2."),
             ("series_proj_head_q.", "encoder.segment_head.layers."),
             ("series_proj_head_k.", "key_encoder.segment_head.layers.")],
}
BACKBONE_PREFIXES = ("encoder.backbone.", "backbone.", "encoder_q.0.", "")


def _without_prefix(state_dict, prefix):
    return {key[len(prefix):]: value for key, value in state_dict.items() if key.startswith(prefix)}


def _drop_s3d_twins(state_dict):
    """Keep one of S3D's two registrations, after checking that they agree."""
    kept = {}
    for key, value in state_dict.items():
        block, _, rest = key.partition(".")
        if block not in S3D_BLOCKS:
            kept[key] = value
            continue
        index, _, leaf = rest.partition(".")
        twin = f"{S3D_BLOCKS[block][int(index)]}.{leaf}"
        if twin not in state_dict or not torch.equal(state_dict[twin], value):
            raise CheckpointError(f"tensors {key} and {twin} are the same one in the release, and differ here")
    return kept


def convert_backbone(state_dict):
    """A backbone's tensors in the release's names or ours -> ours."""
    if "Conv_1a.conv1.weight" in state_dict:
        state_dict, rules = _drop_s3d_twins(state_dict), S3D_RULES
    elif "conv3a.weight" in state_dict:
        rules = C3D_RULES
    elif any(key.startswith("conv1.") for key in state_dict):
        rules = RESNET_RULES
    else:
        return state_dict
    renamed = {}
    for key, value in state_dict.items():
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    return renamed


def backbone_tensors(state_dict):
    """The backbone's tensors of any model of ours or the release's (pretrainer, classifier, backbone), in our names."""
    for prefix in BACKBONE_PREFIXES:
        if any(key.startswith(prefix) for key in state_dict):
            return convert_backbone(_without_prefix(state_dict, prefix))
    return {}


def _prefixed(prefix, tensors):
    return {prefix + key: value for key, value in tensors.items()}


def _convert_pretrainer(state_dict, model):
    moco = isinstance(model, MoCo)
    converted = _prefixed("encoder.backbone.", convert_backbone(_without_prefix(state_dict, "encoder_q.0.")))
    if moco:
        converted |= _prefixed("key_encoder.backbone.", convert_backbone(_without_prefix(state_dict, "encoder_k.0.")))
    for key, value in state_dict.items():
        if key.startswith(("encoder_q.0.", "encoder_k.0.")):
            continue
        for old, new in HEAD_RULES["moco" if moco else "simclr"]:
            if key.startswith(old):
                # the release writes a linear layer as a 1 x 1 x 1 convolution
                key, value = new + key[len(old):], value.flatten(1) if value.ndim == 5 else value
                break
        converted[key] = value
    if moco and {"queue", "series_queue", "queue_ptr"} <= converted.keys():
        converted["queue"] = converted["queue"].T
        converted["segment_queue"] = converted.pop("series_queue").T.unflatten(1, (model.segment_queue.shape[1], -1))
        converted["queue_position"] = converted.pop("queue_ptr").reshape(())
    return converted


def load_released(model, state_dict):
    """Load a state dict in the release's names into a backbone, a pretrainer or a classifier, strictly.

    A backbone takes its tensors from a state dict of any of the three. Every tensor of the model must be
    given, in its shape, and none left over; raises CheckpointError, with the model untouched, otherwise.
    """
    state_dict = strip_module(state_dict)
    if isinstance(model, Pretrainer):
        state_dict = _convert_pretrainer(state_dict, model)
    elif isinstance(model, Classifier):
        head = {key.replace("final_fc.0.", "fc."): value for key, value in state_dict.items()
                if not key.startswith("backbone.")}
        state_dict = head | _prefixed("backbone.", convert_backbone(_without_prefix(state_dict, "backbone.")))
    else:
        state_dict = backbone_tensors(state_dict)
    load_strict(model, state_dict)


def load_strict(model, state_dict, source="the state dict"):
    """load_state_dict that first compares all names and shapes and raises one CheckpointError, loading nothing."""
    own = model.state_dict()
    missing = [key for key in own if key not in state_dict]
    unexpected = [key for key in state_dict if key not in own]
    misshapen = [f"{key} {tuple(state_dict[key].shape)} for {tuple(own[key].shape)}"
                 for key in own if key in state_dict and state_dict[key].shape != own[key].shape]
    broken = [key for key in own if key in state_dict and not state_dict[key].isfinite().all()]
    problems = [f"{len(keys)} {kind} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
                for kind, keys in (("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen),
                                   ("not finite", broken)) if keys]
    if problems:
        raise CheckpointError(f"{source} does not fit the model: {'; '.join(problems)} of {len(own)} tensors")
    model.load_state_dict(state_dict)


def load_backbone(backbone, checkpoint, path):
    """All backbone tensors of a checkpoint from read_checkpoint into `backbone`; CheckpointError if they do not fit."""
    load_strict(backbone, backbone_tensors(checkpoint["state_dict"]), f"checkpoint {path}")


def load_classifier(model, checkpoint, path):
    """A whole classifier, backbone and linear layer, of ours or the release's; CheckpointError if it does not fit."""
    if any(key.startswith("final_fc.") for key in checkpoint["state_dict"]):
        load_released(model, checkpoint["state_dict"])
    else:
        load_strict(model, checkpoint["state_dict"], f"checkpoint {path}")

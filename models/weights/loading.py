"""Loading weights into our networks, strictly: ours, the release's, and what has their names."""
from torch import Tensor, nn

from ..backbones.base import Backbone
from ..classifier import Classifier
from ..dualvar import Pretrainer
from ..moco import MoCo
from .checkpoint import strip_module
from .match import Match, check_fit, load_strict
from .origins import matched, protocol_of

# the release's names of heads -> ours
HEAD_RULES = {
    "simclr": [("encoder_q.2.", "encoder.clip_head.layers.0."), ("encoder_q.4.", "encoder.clip_head.layers.2."),
               ("series_proj_head.", "encoder.segment_head.layers.")],
    "moco": [("encoder_q.2.", "encoder.clip_head.layers.0."), ("encoder_q.4.", "encoder.clip_head.layers.2."),
             ("encoder_k.2.", "key_encoder.clip_head.layers.0."), ("encoder_k.4.", "key_encoder.clip_head.layers.2."),
             ("series_proj_head_q.", "encoder.segment_head.layers."),
             ("series_proj_head_k.", "key_encoder.segment_head.layers.")],
}


def load_backbone(backbone: Backbone, checkpoint: dict, path: object) -> Match:
    """All backbone tensors of a checkpoint from read_checkpoint, in any known names, into `backbone` -> Match.

    Its protocol becomes that of the weights. Raises CheckpointError, with the backbone untouched, where a tensor is
    missing, misshapen or not finite, or where the file has more of a backbone than this one or is of another network
    of the same names.
    """
    result = matched(checkpoint, backbone)
    check_fit(result, f"checkpoint {path}", hint=f"; python -m models.weights inspect {path} shows what it holds")
    protocol = protocol_of(checkpoint, result, backbone.published, f"checkpoint {path}")
    backbone.load_state_dict(result.tensors)
    backbone.protocol = protocol
    return result


def load_classifier(model: Classifier, checkpoint: dict, path: object) -> None:
    """A whole classifier, backbone and linear layer, of ours or the release's; CheckpointError if it does not fit."""
    released = any(key.startswith("final_fc.") for key in checkpoint["state_dict"])
    (load_released if released else load_strict)(model, checkpoint["state_dict"], f"checkpoint {path}")


def load_released(model: nn.Module, state_dict: dict[str, Tensor], source: str = "the state dict") -> None:
    """Load a state dict in the release's names into a backbone, a pretrainer or a classifier, strictly.

    A backbone takes its tensors from a state dict of any of the three. Every tensor of the model must be
    given, in its shape, and none left over; raises CheckpointError, with the model untouched, otherwise.
    """
    state_dict = strip_module(state_dict)
    if isinstance(model, Pretrainer):
        state_dict = _convert_pretrainer(state_dict, model, source)
    elif isinstance(model, Classifier):
        head = {key.replace("final_fc.0.", "fc."): value for key, value in state_dict.items()
                if not key.startswith("backbone.")}
        state_dict = head | _renamed(state_dict, model.backbone, "backbone.", "backbone.", source)
    elif isinstance(model, Backbone):
        state_dict = _renamed(state_dict, model, None, "", source)
    load_strict(model, state_dict, source)


def _renamed(state_dict: dict[str, Tensor], backbone: Backbone, old: str | None, new: str,
             source: str) -> dict[str, Tensor]:
    """A backbone's tensors under prefix `old` (None: found out), in our names under prefix `new`."""
    result = matched({"state_dict": state_dict}, backbone, old)
    check_fit(result, source)
    return {new + name: value for name, value in result.tensors.items()}


def _convert_pretrainer(state_dict: dict[str, Tensor], model: Pretrainer, source: str) -> dict[str, Tensor]:
    moco = isinstance(model, MoCo)
    n_series = model.encoder.segment_head.shape[0]
    converted = _renamed(state_dict, model.encoder.backbone, "encoder_q.0.", "encoder.backbone.", source)
    if moco:
        converted |= _renamed(state_dict, model.encoder.backbone, "encoder_k.0.", "key_encoder.backbone.", source)
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
        converted["segment_queue"] = converted.pop("series_queue").T.unflatten(1, (n_series, -1))
        converted["queue_position"] = converted.pop("queue_ptr").reshape(())
    return converted

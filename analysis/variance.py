"""What features keep of the differences between videos, within a video and within a clip: measures without labels.

All are of features that were centred by their mean over the videos at hand and L2-normalised, as retrieval's are; so
runs can be compared, and the mean squared length of all features, their whole variance, is 1.
"""
import numpy as np
import torch
from torch import Tensor

from dataset.clips import VideoClips
from engine import evaluation
from models.backbones.base import Backbone
from models.classifier import pooled
from models.dualvar import shuffle_segments

from .nearest import centre_and_normalise, vote


def kinds_of_features(backbone: Backbone, clips: Tensor, n: int, segments: bool = True) -> Tensor:
    """Pooled features of clips (N, 3, T, H, W) and of what is made of them -> (N, (3 + n) * D).

    In this order: the clip itself; with its n segments shuffled (each moves one place on, the last to the front); in
    reversed time; and each of the n segments alone, as a clip of T / n frames; without `segments` these are left out.
    """
    order = torch.arange(n, device=clips.device).roll(1).expand(len(clips), n)
    shuffled, reversed_ = shuffle_segments(clips, order), clips.flip(2)
    alone = clips.chunk(n, dim=2) if segments else ()
    return torch.cat([pooled(backbone, x.contiguous(memory_format=torch.channels_last_3d))
                      for x in (clips, shuffled, reversed_, *alone)], dim=1)


def measures(features: Tensor, differ: Tensor | None = None) -> dict[str, float]:
    """Of features (V, K, 3 + n, D) of V videos, K clips each, as kinds_of_features orders them -> {name: float}.

    V and K are 2 or more. differ: (V,) bool, whether the clips of a video do, which those of a short one do not; None:
    all. What is said of clips of one video is said of these videos, and left out where there are none.

    With f the features of clip k of video v and g those of its segments, of unit length:
    variance/within_video   mean over v of the variance of f over k, summed over the D dimensions
    variance/between_video  variance over v of the mean of f over k, less within_video / K, which clips that differ
                            add to it (as in analysis of variance; where videos do not differ it is 0, or just below)
    variance/within_clip    mean over v and k of the variance of g over the n segments
    ratio/...               the last and the first by between_video, where that is above 0
    alignment               mean squared distance of two clips of a video (Wang & Isola 2020), 2 within_video
    uniformity              log of the mean of exp(-2 d^2) over clips of two videos (ibid.); lower is more even
    order/shuffled          mean distance 1 - cos of a clip and its shuffled self, by that of clips of two videos:
                            0 where order leaves no trace
    order/reversed          the same of a clip in reversed time
    effective_rank          exp of the entropy of the singular values of all f (Roy & Vetterli 2007), 1 to D
    All variances are unbiased. Without segments (n = 0) what is of them is left out.
    """
    videos, clips = features.shape[:2]
    features = features.double()
    own, segments = features[:, :, 0], features[:, :, 3:]
    centre = own.mean(dim=(0, 1))
    unit = centre_and_normalise(features[:, :, :3], centre)
    f = unit[:, :, 0]
    own_variance = f.var(dim=1).sum(dim=-1)
    between = f.mean(dim=1).var(dim=0).sum() - own_variance.mean() / clips
    within = own_variance if differ is None else own_variance[differ.to(own_variance.device)]
    flat = f.flatten(0, 1)
    cosines = flat @ flat.T
    video = torch.arange(videos, device=flat.device).repeat_interleave(clips)
    apart = cosines[video[:, None] != video]
    order = 1 - (f[:, :, None] * unit[:, :, 1:]).sum(dim=-1).mean(dim=(0, 1))
    singular = torch.linalg.svdvals(own.flatten(0, 1) - centre)
    share = singular / singular.sum()
    distance = (1 - apart).mean()
    variances = {"within_video": within.mean()} if len(within) else {}
    if segments.shape[2]:
        parts = centre_and_normalise(segments, segments.mean(dim=(0, 1, 2)))
        variances["within_clip"] = parts.var(dim=2).sum(dim=-1).mean()
    found = {**{f"variance/{name}": value for name, value in variances.items()}, "variance/between_video": between,
             **{f"ratio/{name}": value / between for name, value in variances.items() if between > 0},
             **({"alignment": 2 * within.mean()} if len(within) else {}),
             "uniformity": torch.exp(-2 * (2 - 2 * apart)).mean().log(),
             "order/shuffled": order[0] / distance, "order/reversed": order[1] / distance,
             "effective_rank": torch.exp(-torch.special.xlogy(share, share).sum())}
    return {name: value.item() for name, value in found.items()}


def nearest_of_other_groups(features: Tensor, labels: Tensor, groups: Tensor, k: int = 10) -> dict[str, float]:
    """How often labels agree with the nearest videos of another recording, all videos being queries and gallery.

    features: (V, K, D), averaged over the clips, centred and L2-normalised here; labels, groups: (V,) int.
    -> {"retrieval/R@1": share whose nearest has the query's label, "retrieval/vote": share whose label a `vote` of the
    k nearest gives}, over the videos whose label another recording has too.
    """
    f = centre_and_normalise(features.double().mean(dim=1))
    cosines = f @ f.T
    cosines[groups[:, None] == groups] = -torch.inf
    possible = ((labels[:, None] == labels) & (groups[:, None] != groups)).any(dim=1)
    if not possible.any():
        return {}
    near = cosines[possible].topk(min(k, len(f) - 1), dim=1)
    right, found = labels[possible], labels[near.indices]
    return {"retrieval/R@1": (found[:, 0] == right).double().mean().item(),
            "retrieval/vote": (vote(found, near.values) == right).double().mean().item()}


def look_at_features(backbone: Backbone, data: VideoClips, groups: Tensor, n: int, device: torch.device, *, clips: int,
                     batch_size: int, workers: int, timeout: float, segments: bool = True) -> dict[str, float]:
    """`measures` and `nearest_of_other_groups` of a backbone in training, in float32; it goes on as it was.

    data: samples of `clips` clips each, of videos whose recordings are groups (V,) int; n: segments of a clip;
    segments: whether the network can take one alone. Every process must call it. Of videos of one class it is asked how
    often the nearest other video is of the same recording ("recording/..."), where recordings have several.
    """
    was_training, low = backbone.training, backbone.low
    backbone.eval()
    try:
        if low:  # a compiled network is compiled anew where this attribute comes to be its own
            backbone.low = None
        evaluation.share_statistics(backbone)
        loader = evaluation.eval_loader(data, device, batch_size=batch_size, workers=workers, timeout=timeout)
        features = evaluation.over_videos(lambda x: kinds_of_features(backbone, x, n, segments), loader, len(data),
                                          device, "features", average=False)
    finally:
        backbone.train(was_training)
        if low:
            backbone.low = low
    features = features.unflatten(1, (clips, 3 + n * segments, -1))
    differ = torch.tensor([len(np.unique(data.frames_of(i, np.random.default_rng(0)), axis=0)) == clips
                           for i in range(len(data))])
    if len(data.videos.classes) > 1:
        near = nearest_of_other_groups(features[:, :, 0], torch.from_numpy(data.videos.labels), groups)
    else:
        near = {name.replace("retrieval", "recording"): value for name, value in nearest_of_other_groups(
            features[:, :, 0], groups, torch.arange(len(groups))).items()}
    return {**measures(features, differ), **near}

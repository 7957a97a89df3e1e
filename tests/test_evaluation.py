"""A network's output for every video of a list: order, mean over clips, size of the forward passes."""
import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from core.errors import RunError
from dataset.augment import MEAN, STD
from dataset.loader import EvalBatches, make_loader
from engine import evaluation
from models import build_backbone
from models.classifier import pooled


class Brightness(Dataset):
    """Video i has `views` clips of 2 x 4 x 4, whose values are i + 10 * view."""

    def __init__(self, size, views):
        self.size, self.views = size, views

    def __len__(self):
        return self.size

    def __getitem__(self, key):
        values = key[1] + 10 * torch.arange(self.views, dtype=torch.uint8)
        return {"clips": values[:, None, None, None, None].expand(-1, 2, 4, 4, 3).contiguous(), "index": key[1]}


def evaluate(compute, size=7, views=10, batch_size=4):
    loader = make_loader(Brightness(size, views), EvalBatches(size, batch_size), 0)
    return evaluation.over_videos(compute, loader, size, torch.device("cpu"), "videos")


@pytest.mark.parametrize("views,batch_size", [(1, 1), (1, 16), (3, 4), (10, 4), (23, 2)])
def test_rows_are_the_means_of_each_videos_clips(views, batch_size):
    passes = []

    def red(clips):
        assert clips.shape[1:] == (3, 2, 4, 4) and torch.is_inference_mode_enabled()
        assert clips.is_contiguous(memory_format=torch.channels_last_3d)
        passes.append(len(clips))
        return clips[:, :, 0, 0, 0] * torch.tensor(STD) + torch.tensor(MEAN)

    table = evaluate(red, views=views, batch_size=batch_size)
    expected = (np.arange(7) + 10 * np.arange(views).mean()) / 255
    assert table.dtype == torch.float32 and np.allclose(table, expected[:, None], atol=1e-6)
    assert sum(passes) == 7 * views and max(passes) <= evaluation.CLIPS["cpu"]


def test_low_precision_is_averaged_in_float32():
    table = evaluate(lambda clips: clips.mean(dim=(1, 2, 3, 4))[:, None].bfloat16())
    assert table.dtype == torch.float32 and not torch.equal(table, table.bfloat16().float())


def test_output_that_is_not_finite_is_refused():
    with pytest.raises(RunError, match="videos: the network's output is not finite"):
        evaluate(lambda clips: clips.flatten(1)[:, :1] / 0)


def test_an_error_without_words_is_one_all_the_same():
    """As that of a loader's broken pipe; the other videos would have rows of zeros."""
    def ends():
        yield {"clips": torch.zeros(1, 1, 2, 4, 4, 3, dtype=torch.uint8), "index": torch.tensor([0])}
        raise EOFError
    with pytest.raises(EOFError):
        evaluation.over_videos(lambda clips: clips.flatten(1)[:, :1], ends(), 3, torch.device("cpu"), "videos")


def test_a_table_that_memory_has_no_room_for_ends_as_the_passes_do(monkeypatch):
    """Before processes exchange what went wrong, so that none waits for another."""
    def full(*_, **__):
        raise torch.OutOfMemoryError("no room")
    told = []
    monkeypatch.setattr(evaluation, "of_all_processes", lambda value: told.append(value) or [value])
    monkeypatch.setattr(torch, "zeros", full)
    with pytest.raises(torch.OutOfMemoryError):
        evaluate(lambda clips: clips.flatten(1)[:, :1])
    assert told == [("no room", 0)]


def test_a_placed_network_gives_the_same_features():
    torch.manual_seed(0)
    clips, network = torch.randn(3, 3, 8, 32, 32), build_backbone("r21d", 0.25).eval()
    with torch.inference_mode():
        before = pooled(network, clips)
        placed = evaluation.to_device(network.train(), torch.device("cpu"))
        after = pooled(placed, clips.contiguous(memory_format=torch.channels_last_3d))
    assert not placed.training and placed.stem.spatial.weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert torch.allclose(before, after, rtol=1e-4, atol=1e-6)


def test_counts_are_of_the_passes_that_are_made():
    """Whether the batch divides the list or not, and the clips the batch."""
    for lengths, batch, clips in (([8], 4, 10), ([15, 24], 5, 10), ([7, 3], 4, 3), ([1], 4, 10), ([9], 1, 1)):
        most = evaluation.CLIPS["cpu"]
        made = {min(most, n - start) for length in lengths for first in range(0, length, batch)
                for n in [min(batch, length - first) * clips] for start in range(0, n, most)}
        assert evaluation.pass_sizes(lengths, batch, clips, torch.device("cpu")) == made

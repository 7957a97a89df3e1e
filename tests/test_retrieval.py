"""Nearest neighbours in chunks against the whole matrix of similarities."""
import resource

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import NARROW, SMALL, InProcess, make_dataset

from analysis.features import read_features, write_features
from analysis.nearest import nearest
from core.errors import DataError
from core.exits import explain
from dataset.lists import VideoList
from models.classifier import pooled
from retrieval import Thumbnail, topk_accuracy


def plain_nearest(query, gallery, k):
    """By the whole matrix; of equal similarities the lower index first."""
    return (query @ gallery.T).sort(dim=1, descending=True, stable=True).indices[:, :k]


def whole_numbers(*size, high, seed=0):
    """Rows whose inner products are exact however they are summed, many of them equal."""
    return torch.randint(-high, high + 1, size, generator=torch.Generator().manual_seed(seed)).float()


@pytest.mark.parametrize("gallery_size,k", [(1000, 50), (1000, 1), (257, 256), (60, 60), (1, 1)])
@pytest.mark.parametrize("queries,chunk", [(7, 1), (7, 33), (64, 256), (100, 5000)])
@pytest.mark.parametrize("high", [1, 1000])
def test_chunks_give_what_the_whole_matrix_gives(gallery_size, k, queries, chunk, high):
    query, gallery = whole_numbers(50, 6, high=high), whole_numbers(gallery_size, 6, high=high, seed=1)
    found = nearest(query, gallery, k, queries=queries, chunk=chunk)
    assert found.dtype == torch.int64 and torch.equal(found, plain_nearest(query, gallery, k))


@pytest.mark.parametrize("order", [1, -1], ids=["ever nearer", "ever farther"])
def test_every_row_or_none_replaces_those_before(order):
    gallery = (order * torch.arange(1.0, 901))[:, None]
    query = torch.tensor([[1.0], [-1.0], [0.0]])
    assert torch.equal(nearest(query, gallery, 20, chunk=64), plain_nearest(query, gallery, 20))


def test_rows_that_are_not_contiguous():
    query, gallery = whole_numbers(6, 40, high=9).T, whole_numbers(12, 500, high=9, seed=1).T[:, ::2]
    assert not query.is_contiguous() and not gallery.is_contiguous()
    assert torch.equal(nearest(query, gallery, 10, queries=16, chunk=64), plain_nearest(query, gallery, 10))


def test_no_queries():
    assert nearest(torch.zeros(0, 4), torch.ones(9, 4), 3).shape == (0, 3)


def test_unit_is_applied_to_the_gallery_alone():
    query, gallery = whole_numbers(20, 6, high=9), whole_numbers(300, 6, high=9, seed=1)
    found = nearest(query, gallery, 5, unit=lambda rows: -2 * rows, chunk=64)
    assert torch.equal(found, plain_nearest(query, -2 * gallery, 5))


def test_accuracy_is_that_of_centred_cosine_similarity():
    """In double precision, against sorting the whole matrix; the sets have means of their own."""
    generator = torch.Generator().manual_seed(0)
    query, gallery = (torch.randn(n, 16, generator=generator, dtype=torch.float64) + shift
                      for n, shift in ((3000, 2), (5000, -1)))
    query_labels, gallery_labels = torch.arange(3000) % 100, torch.arange(5000) % 100
    ks = (1, 5, 50)
    units = [F.normalize(x - x.mean(dim=0), dim=1) for x in (query, gallery)]
    right = gallery_labels[plain_nearest(*units, 50)] == query_labels[:, None]
    expected = {k: right[:, :k].any(dim=1).double().mean().item() for k in ks}
    found = topk_accuracy(query.numpy(), query_labels.numpy(), gallery, gallery_labels, ks)
    assert found == pytest.approx(expected, abs=1e-12) and 0 < found[1] < found[5] < found[50] < 1


def test_features_are_left_as_they_were():
    query, gallery = whole_numbers(10, 6, high=9), whole_numbers(60, 6, high=9, seed=1)
    kept = query.clone(), gallery.clone()
    topk_accuracy(query, torch.zeros(10), gallery, torch.zeros(60), (1, 5))
    assert torch.equal(query, kept[0]) and torch.equal(gallery, kept[1])


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_features_that_are_not_finite_are_refused(value):
    features = torch.ones(60, 6)
    features[7, 3] = value
    for pair in ((features, torch.ones(60, 6)), (torch.ones(60, 6), features)):
        with pytest.raises(ValueError, match="not finite"):
            topk_accuracy(pair[0], torch.zeros(60), pair[1], torch.zeros(60), (1,))


def test_k_beyond_the_gallery_is_refused():
    with pytest.raises(ValueError, match="R@50 needs a gallery of at least 50 videos, this one has 49"):
        topk_accuracy(torch.ones(3, 6), torch.zeros(3), torch.ones(49, 6), torch.zeros(49), (1, 50))


def test_thumbnails_are_mean_pictures():
    clips = torch.rand(2, 3, 4, 24, 32, generator=torch.Generator().manual_seed(0))
    found = pooled(Thumbnail(), clips).view(2, 3, 12, 16)
    assert torch.allclose(found[1, 2, 5, 7], clips[1, 2, :, 10:12, 14:16].mean())


def test_features_of_each_clip_are_kept_and_their_mean_is_what_is_ranked(tmp_path, monkeypatch, capsys):
    make_dataset(tmp_path)
    call = InProcess(tmp_path, monkeypatch, capsys)
    for name, more in (("a", ["--per_clip"]), ("b", [])):
        code, _, error = call("retrieval.py", *SMALL, *NARROW, "--pretrain", "random", "--clips", 3,
                              "--log_dir", tmp_path, "--name", name, "--save_features", tmp_path / name, *more)
        assert code == 0, error
    clips, _, names, _ = read_features(tmp_path / "a", "test", "--features", "clips")
    means = [read_features(tmp_path / name, "test", "--features")[0] for name in ("a", "b")]
    assert clips.shape == (len(names), 3, means[0].shape[1]) and np.std(clips, axis=1).max() > 0
    np.testing.assert_array_equal(*means)
    np.testing.assert_allclose(clips.mean(axis=1), means[0], rtol=1e-6)
    with pytest.raises(DataError, match=r"test_clips.npy does not exist: .* --per_clip"):
        read_features(tmp_path / "b", "test", "--features", "clips")


def test_a_full_disk_says_so_and_leaves_no_features(tmp_path):
    """A limit on the size of files stands for the disk."""
    videos = VideoList(np.array(["a/b"] * 400), np.ones(400, int), np.zeros(400, int), np.array(["a"]))
    lists, limits = {"train": videos, "test": videos}, resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10000, limits[1]))
    try:
        with pytest.raises(OSError) as found:
            write_features(tmp_path / "f", lists, {part: torch.ones(400, 64) for part in lists}, {}, "{}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert explain(found.value) == f"{tmp_path}/f/train_features.npy: File too large"
    assert list((tmp_path / "f").iterdir()) == []


def test_names_keep_what_python_takes_for_the_end_of_a_line(tmp_path):
    names = np.array(["a/b\u2028c", "a/d\x85", "a/e\x0bf", "a/=1"])
    lists = {part: VideoList(names, np.ones(4, int), np.zeros(4, int), np.array(["a"])) for part in ("train", "test")}
    write_features(tmp_path, lists, {part: torch.eye(4) for part in lists}, {}, "{}")
    values, labels, found, _ = read_features(tmp_path, "test", "--features")
    assert found.tolist() == names.tolist() and np.array_equal(values, np.eye(4)) and labels.tolist() == [0] * 4
    np.testing.assert_array_equal(np.load(tmp_path / "test_features.npy"), values)
    write_features(tmp_path, lists, {part: torch.eye(4) * 1e38 for part in lists}, {}, "{}")
    with pytest.raises(DataError, match=r"test_features.npy holds values beyond 1e\+15"):
        read_features(tmp_path, "test", "--features")

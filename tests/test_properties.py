"""Properties that hold for every input, searched by hypothesis: sampling, shuffling, lists, batches, crops, draws.

The search is the same in every run (derandomize), so that a failure repeats.
"""
import csv

import numpy as np
import pytest
import torch
from helpers import pictures_of
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from core.errors import DataError
from dataset import augment
from dataset.crops import FixedCrops, RandomCrop
from dataset.lists import VideoList, hold_out, read_class_index, read_list, video_groups
from dataset.loader import EvalBatches, TrainBatches
from dataset.local_dataset import NO_GROUP, UCF101_GROUP
from dataset.sampling import CentreClip, EvenClips, PretrainViews, RandomClip, centred_clip_indices, ten_clip_indices
from models.dualvar import random_permutation, restore_segments, shuffle_segments
from models.gather import shuffled, unshuffled
from process_data.src.write_csv import to_csv

holds = settings(derandomize=True, deadline=None, max_examples=100, database=None,
                 suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure
LENGTHS, FRAMES, STRIDES, SEEDS = st.integers(1, 2000), st.integers(1, 64), st.integers(1, 16), st.integers(0, 2**32)


# --- which frames --------------------------------------------------------------------------------------------

def centred(num_frames, seq_len, ds, centre):
    """The formula, index by index."""
    return [min(max((i - seq_len // 2) * ds + centre, 0), num_frames - 1) for i in range(seq_len)]


@holds
@given(LENGTHS, FRAMES, STRIDES, st.data())
def test_centred_clip(num_frames, seq_len, ds, data):
    centre = data.draw(st.integers(0, num_frames - 1))
    indices = centred_clip_indices(num_frames, seq_len, ds, centre)
    assert indices.tolist() == centred(num_frames, seq_len, ds, centre)
    assert CentreClip(seq_len, ds)(num_frames, None).tolist() == [centred(num_frames, seq_len, ds, num_frames // 2)]


@holds
@given(LENGTHS, FRAMES, STRIDES)
def test_ten_clips(num_frames, seq_len, ds):
    spare = max(num_frames - seq_len * ds, 0)
    expected = [[min(j * spare // 9 + i * ds, num_frames - 1) for i in range(seq_len)] for j in range(10)]
    assert ten_clip_indices(num_frames, seq_len, ds).tolist() == expected
    assert EvenClips(seq_len, ds)(num_frames, None).tolist() == expected


@holds
@given(LENGTHS, FRAMES, STRIDES, st.integers(1, 100))
@example(3, 1, 1, 99)
def test_any_number_of_even_clips(num_frames, seq_len, ds, clips):
    spare = max(num_frames - seq_len * ds, 0)
    starts = [j * spare // max(clips - 1, 1) for j in range(clips)]
    indices = ten_clip_indices(num_frames, seq_len, ds, clips)
    assert indices.shape == (clips, seq_len) and indices[:, 0].tolist() == starts


@holds
@given(LENGTHS, FRAMES, STRIDES, SEEDS, st.sampled_from([0, 0.5, 1]), st.sampled_from([2, 3]))
def test_random_clips_are_centred_clips(num_frames, seq_len, ds, seed, time_reverse, views):
    rng = np.random.default_rng(seed)
    one = RandomClip(seq_len, ds)(num_frames, rng)
    assert one.tolist() == [centred(num_frames, seq_len, ds, one[0, seq_len // 2])]  # index T/2 is the centre
    clips = PretrainViews(seq_len, ds, time_reverse, views)(num_frames, rng)
    assert clips.shape == (views, seq_len) and clips.min() >= 0 and clips.max() < num_frames
    ways = [[centred(num_frames, seq_len, ds, clip[seq_len // 2]) == clip.tolist() for clip in turned]
            for turned in (clips, clips[:, ::-1])]
    may_be = [time_reverse < 1, time_reverse > 0]
    assert any(all(way) and may for way, may in zip(ways, may_be, strict=True))  # all views forwards, or all back
    assert views == 2 or (clips[2] == clips[0]).all()


# --- segments and batches that are shuffled and put back -----------------------------------------------------

@st.composite
def clips_and_orders(draw):
    """clips (B, 3, T, 2, 1) of distinct values, segment orders (B, n)"""
    batch, n, length = draw(st.integers(1, 4)), draw(st.integers(1, 8)), draw(st.integers(1, 4))
    orders = torch.tensor([draw(st.permutations(range(n))) for _ in range(batch)])
    return torch.arange(batch * 3 * n * length * 2).view(batch, 3, n * length, 2, 1), orders


@holds
@given(clips_and_orders())
def test_shuffle_and_its_inverse(case):
    clips, orders = case
    batch, n = orders.shape
    length = clips.shape[2] // n
    mixed = shuffle_segments(clips, orders)
    for b in range(batch):
        for j in range(n):
            k = int(orders[b, j])
            assert torch.equal(mixed[b, :, j * length:(j + 1) * length], clips[b, :, k * length:(k + 1) * length])
    assert torch.equal(shuffle_segments(mixed, orders.argsort(dim=1)), clips)

    def embed(x):  # any function of a segment alone
        return x.unflatten(2, (n, length)).permute(0, 2, 1, 3, 4, 5).flatten(2) * 2

    assert torch.equal(restore_segments(embed(mixed), orders), embed(clips))


@holds
@given(st.integers(1, 20), st.integers(1, 10))
def test_clips_are_cut_evenly_or_not_at_all(frames, n):
    clips, orders = torch.zeros(1, 3, frames, 1, 1), torch.arange(n)[None]
    if frames % n == 0:
        assert torch.equal(shuffle_segments(clips, orders), clips)
    else:
        with pytest.raises(ValueError, match=f"{frames} frames .* {n} segments"):
            shuffle_segments(clips, orders)


@holds
@given(st.integers(1, 50), st.integers(1, 16), SEEDS)
def test_random_permutation(batch, n, seed):
    orders = random_permutation(batch, n, generator=torch.Generator().manual_seed(seed))
    assert orders.shape == (batch, n) and orders.dtype == torch.long
    assert torch.equal(orders.sort(dim=1).values, torch.arange(n).expand(batch, n))
    assert torch.equal(orders, random_permutation(batch, n, generator=torch.Generator().manual_seed(seed)))


@holds
@given(st.integers(1, 100), SEEDS)
def test_keys_come_back_in_order(batch, seed):
    x = torch.arange(2 * batch).view(batch, 2)
    mixed, order = shuffled(x, torch.Generator().manual_seed(seed))
    assert torch.equal(mixed, x[order]) and torch.equal(order.sort().values, torch.arange(batch))
    assert torch.equal(unshuffled(3 * mixed, order), 3 * x)


# --- lists ---------------------------------------------------------------------------------------------------

def legal(name):
    return name not in (".", "..") and len(name.encode()) <= 255


# any folder name of Linux without control characters; spaces, quotes and commas often
characters = st.one_of(st.sampled_from(' ,"\'\\;#é'),
                       st.characters(codec="utf-8", exclude_characters="/\u2028\u2029", exclude_categories=["Cc"]))
videos = st.text(characters, min_size=1, max_size=40).filter(legal)
# a class has no white space at its ends, and no byte order mark, which would be taken for the file's
classes = videos.filter(lambda name: name == name.strip() and name[0] != "\N{ZERO WIDTH NO-BREAK SPACE}")
MARKS, LINE_ENDS = st.sampled_from(["utf-8", "utf-8-sig"]), st.sampled_from(["\n", "\r\n"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("lists")


@holds
@given(st.lists(classes, min_size=1, max_size=4, unique=True), st.data(), MARKS, LINE_ENDS)
def test_lists_are_read_as_they_were_written(folder, names, data, encoding, line_end):
    rows = data.draw(st.dictionaries(st.tuples(st.sampled_from(names), videos), st.integers(1, 999_999_999),
                                     min_size=1, max_size=8))
    counts = {f"{name}/{video}": count for (name, video), count in rows.items()}
    texts = {"ClassInd.txt": "".join(f"{i} {name}\n" for i, name in enumerate(names, 1)),
             "l.csv": to_csv(list(counts), counts)}
    for file, text in texts.items():
        (folder / file).write_bytes(text.replace("\n", line_end).encode(encoding))
    index = read_class_index(folder / "ClassInd.txt")
    assert index == {name: label for label, name in enumerate(names)}
    read = read_list(folder / "l.csv", index)
    assert dict(zip(read.names.tolist(), read.num_frames.tolist(), strict=True)) == counts
    assert read.names.tolist() == list(counts) and read.classes.tolist() == names
    assert [names[label] for label in read.labels] == [name for name, _ in rows]
    assert read.num_frames.dtype == read.labels.dtype == np.int64


contents = st.one_of(st.binary(max_size=60), st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace")),
                     st.text('a/,"1. \n\r\t\0', max_size=20).map(str.encode))


@holds
@given(contents)
@example(b"a/v,1\na/w,2\n")
@example(b"1 a\n2 b\n")
def test_any_file_is_a_list_or_gets_a_sentence(folder, content):
    path = folder / "any.txt"
    path.write_bytes(content)
    for read in (read_class_index, lambda path: read_list(path, {"a": 0, "b": 1})):
        try:
            assert len(read(path))
        except DataError as error:
            assert "any.txt" in str(error) and len(str(error).splitlines()) == 1


def mostly(good, bad):
    """(text, whether it is good), good nine times in ten"""
    return st.integers(0, 9).flatmap(lambda i: st.tuples(st.sampled_from(bad if i == 5 else good), st.just(i != 5)))


NUMBERS = ["", "-1", "+1", "1.0", "1e3", "0x1", "1_0", "1 2", "\N{ARABIC-INDIC DIGIT ONE}", "\N{SUPERSCRIPT TWO}",
           "9" * 30]
FOLDERS = ["", ".", "..", "../a", "/a", "a/", "a/..", "a\0", "\N{EURO SIGN}" * 86]
BREAKS = ["a\nb", "a\rb"]


@settings(holds, max_examples=300)
@given(st.lists(st.tuples(mostly(["a", "b"], ["c", "a ", "A", *FOLDERS, *BREAKS]),
                          mostly(["v", " w", "x ", "..y", "z.", '"', ",", "a\\b", "\N{EURO SIGN}" * 85],
                                 [*FOLDERS, *BREAKS]),
                          mostly(["1", " 2", "003", "4\t", "999999999"], ["0", "000", *NUMBERS])),
                min_size=1, max_size=6))
def test_the_first_bad_row_of_a_list_is_named(folder, rows):
    path, seen, first = folder / "rows.csv", set(), None
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows((f"{a}/{v}", n) for (a, _), (v, _), (n, _) in rows)
    for row, ((a, known), (v, legal_name), (_, number)) in enumerate(rows, 1):
        if first is None and not (known and legal_name and number and (a, v) not in seen):
            first = row
        seen.add((a, v))
    if first is None:
        read = read_list(path, {"a": 0, "b": 1})
        assert read.names.tolist() == [f"{a}/{v}" for (a, _), (v, _), _ in rows]
        assert read.num_frames.tolist() == [int(n) for *_, (n, _) in rows]
    else:
        with pytest.raises(DataError, match=f"rows.csv row {first}: "):
            read_list(path, {"a": 0, "b": 1})


@settings(holds, max_examples=300)
@given(st.lists(st.tuples(mostly(["{}", "0{}", " {}"], ["0", "-{}", "{}.", "{}0", *NUMBERS]), st.sampled_from(" \t"),
                          mostly(["a", "b", "c d", "..e", "f ", '"g"', "\N{EURO SIGN}" * 85], FOLDERS)),
                min_size=1, max_size=6))
def test_the_first_bad_row_of_a_class_index_is_named(folder, rows):
    path, names, first = folder / "rows.txt", [], None
    lines = [n.format(row) + space + name for row, ((n, _), space, (name, _)) in enumerate(rows, 1)]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    for row, ((_, number), _, (name, legal_name)) in enumerate(rows, 1):
        if first is None and not (number and legal_name and name.strip() not in names):
            first = row
        names.append(name.strip())
    if first is None:
        assert read_class_index(path) == {name: label for label, name in enumerate(names)}
    else:
        with pytest.raises(DataError, match=f"rows.txt row {first}: "):
            read_class_index(path)


@holds
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 12), st.integers(1, 4)), min_size=1, max_size=60,
                unique=True), st.floats(0.01, 0.99), SEEDS, st.sampled_from([UCF101_GROUP, NO_GROUP]))
def test_hold_out_divides_no_group(rows, fraction, seed, rule):
    names = np.array([f"C{c}/v_C{c}_g{g:02d}_c{i:02d}" for c, g, i in rows])
    labels = np.array([c for c, _, _ in rows])
    whole = VideoList(names, np.arange(1, len(rows) + 1), labels, np.array(["C0", "C1", "C2", "C3"]))
    try:
        kept, held = hold_out(whole, fraction, rule, seed)
    except DataError as error:
        assert "--holdout" in str(error)
        return
    sides = [video_groups(part.names, rule) for part in (kept, held)]
    assert len(kept) and len(held) and not set(sides[0]) & set(sides[1])
    both = sorted([*zip(kept.num_frames, kept.names, kept.labels, strict=True),
                   *zip(held.num_frames, held.names, held.labels, strict=True)])
    assert both == list(zip(whole.num_frames, whole.names, whole.labels, strict=True))
    _, largest = np.unique(video_groups(names, rule), return_counts=True)
    for c in set(held.labels):  # the last group taken may go beyond the share by half its videos
        assert (held.labels == c).sum() <= fraction * (labels == c).sum() + largest.max() / 2
    assert hold_out(whole, fraction, rule, seed)[1].names.tolist() == held.names.tolist()


# --- batches -------------------------------------------------------------------------------------------------

@holds
@given(st.integers(0, 200), st.integers(1, 40), st.integers(1, 8), SEEDS, st.integers(0, 50), st.data())
def test_training_batches(size, batch, world, seed, epoch, data):
    passes = data.draw(st.integers(1, batch))
    parts = [TrainBatches(size, batch, rank, world, seed, passes) for rank in range(world)]
    alone = TrainBatches(size, batch, seed=seed, parts=passes)
    for batches in (*parts, alone):
        batches.start(epoch)
    whole = list(alone)
    assert len(whole) == len(alone) == size // batch and all(len(keys) == batch for keys in whole)
    indices = [index for keys in whole for _, index in keys]
    assert len(set(indices)) == len(indices) and set(indices) <= set(range(size))
    assert {e for keys in whole for e, _ in keys} <= {epoch}
    assert all(len(part) == size // batch for part in parts) and max(alone.own) - min(alone.own) <= 1
    for keys, *shares in zip(whole, *parts, strict=True):
        for own, share in zip(parts, shares, strict=True):
            assert len(share) == max(sum(own.own), 1)  # one that has none loads one for its shape
        # each part is dealt by itself: part i of the processes together is part i of one process
        pieces = [np.split(np.array(share[:sum(own.own)]).reshape(-1, 2), np.cumsum(own.own)[:-1])
                  for own, share in zip(parts, shares, strict=True)]
        for i, wanted in enumerate(np.split(np.array(keys), np.cumsum(alone.own)[:-1])):
            for r, own in enumerate(pieces):
                assert np.array_equal(own[i], wanted[r::world])
    assert alone.sizes == set(alone.own)
    assert parts[0].sizes == {n for part in parts for n in part.own} - {0}
    step = data.draw(st.integers(0, len(whole)))
    alone.start(epoch, step)
    assert list(alone) == whole[step:]


@holds
@given(st.integers(0, 200), st.integers(1, 20), st.integers(1, 8))
def test_evaluation_batches(size, batch, world):
    parts = [EvalBatches(size, batch, rank, world) for rank in range(world)]
    assert [len(part) for part in parts] == [len(list(part)) for part in parts]
    # process r has batches r, r + W, ...: the same batches whatever W
    dealt = sorted(keys for part in parts for keys in part)
    assert dealt == list(EvalBatches(size, batch))
    assert [key for keys in dealt for key in keys] == [(0, index) for index in range(size)]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


# --- crops and augmentation ----------------------------------------------------------------------------------

@st.composite
def views_and_size(draw):
    """Clips (V, T, H, W, 3) whose pixels say where they stand, and a crop's side"""
    views, frames = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    height, width = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    shape = (views, frames, height, width, 3)
    return np.arange(np.prod(shape)).reshape(shape), draw(st.integers(1, min(height, width)))


@holds
@given(views_and_size(), SEEDS)
def test_random_crops_are_one_window_of_a_view(case, seed):
    views, size = case
    crops = RandomCrop(size)(*pictures_of(views), np.random.default_rng(seed))
    assert crops.shape == (*views.shape[:2], size, size, 3)
    for view, crop in zip(views, crops, strict=True):
        top, left = np.argwhere(view[0, ..., 0] == crop[0, 0, 0, 0])[0]
        assert (crop == view[:, top:top + size, left:left + size]).all()


@holds
@given(views_and_size(), st.sampled_from([1, 5, 10]))
def test_fixed_crops_are_windows_and_their_mirrors(case, number):
    clips, size = case
    height, width = clips.shape[2:4]
    corners = [(round((height - size) / 2), round((width - size) / 2)),
               (0, 0), (0, width - size), (height - size, 0), (height - size, width - size)]
    crops = FixedCrops(size, number)(*pictures_of(clips))
    assert crops.shape == (len(clips) * number, clips.shape[1], size, size, 3)
    for c, clip in enumerate(clips):
        mine = crops[c * number:(c + 1) * number]
        for w, (top, left) in enumerate(corners[:min(number, 5)]):
            window = clip[:, top:top + size, left:left + size]
            assert (mine[2 * w if number == 10 else w] == window).all()
            assert number < 10 or (mine[2 * w + 1] == window[:, :, ::-1]).all()


@holds
@given(st.integers(1, 5), st.integers(1, 8), st.integers(7, 224), SEEDS)
def test_pretraining_draws_are_in_range(views, n_series, img_dim, seed):
    drawn = augment.PretrainDraw(n_series, img_dim)(views, np.random.default_rng(seed))
    rows, blur = drawn["augment"], img_dim / 112
    assert rows.shape == (views, augment.LENGTH) and rows.dtype == np.float32
    assert sorted(drawn["permutation"].tolist()) == list(range(n_series)) and drawn["permutation"].dtype == np.int64
    check_rows(rows)
    assert (rows[:, augment.SIGMA] >= np.float32(0.1 * blur)).all()
    assert (rows[:, augment.SIGMA] <= np.float32(2.0 * blur)).all()
    assert not rows[:, augment.MIRROR].any()


@holds
@given(st.integers(1, 5), st.booleans(), st.booleans(), SEEDS)
def test_finetuning_draws_are_in_range(views, color_jitter, hflip, seed):
    rows = augment.FinetuneDraw(color_jitter, hflip)(views, np.random.default_rng(seed))["augment"]
    check_rows(rows)
    assert color_jitter or not rows[:, augment.JITTER].any()
    assert hflip or not rows[:, augment.MIRROR].any()


def check_rows(rows):
    assert (np.sort(rows[:, augment.ORDER]) == np.arange(4)).all()
    factors, hue = rows[:, augment.FACTORS][:, :3], rows[:, augment.FACTORS][:, 3]
    assert (np.abs(factors - 1) <= np.float32(0.8) + 1e-6).all() and (np.abs(hue) <= np.float32(0.2)).all()
    assert np.isin(rows[:, [augment.JITTER, augment.BLUR, augment.MIRROR]], (0, 1)).all()


@settings(holds, max_examples=30)
@given(st.integers(1, 2), st.integers(1, 2), st.integers(1, 2), st.integers(7, 12), SEEDS)
def test_prepared_clips_are_pictures(batch, views, frames, side, seed):
    """Whatever is drawn: finite, of the network's shape, between black and white, and a sample for itself."""
    rng = np.random.default_rng(seed)
    clips = torch.from_numpy(rng.integers(0, 256, (batch, views, frames, side, side, 3), dtype=np.uint8))
    rows = torch.from_numpy(np.stack([augment.PretrainDraw(2, side)(views, rng)["augment"] for _ in range(batch)]))
    out = augment.prepare(clips, rows)
    assert out.shape == (batch, views, 3, frames, side, side) and out.dtype == torch.float32
    mean, std = (torch.tensor(x)[:, None, None, None] for x in (augment.MEAN, augment.STD))
    pictures = out * std + mean
    assert pictures.isfinite().all() and pictures.min() > -1e-5 and pictures.max() < 1 + 1e-5
    assume(batch > 1)
    assert torch.allclose(augment.prepare(clips[1:], rows[1:]), out[1:], atol=1e-5)

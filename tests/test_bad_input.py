"""A table of wrong input to every entry point: one sentence, an exit code, no traceback, nothing written."""

import json

import numpy as np
import pytest
import torch
from helpers import NARROW, SMALL, InProcess, make_dataset

from dataset.lists import read_class_index
from models import build_backbone, build_classifier, build_pretrainer

TRAIN = [*SMALL, *NARROW, "--batch_size", "4", "--name", "p"]
FINETUNE, TEST = [*SMALL, "--batch_size", "4"], SMALL

TABLE = [(f"train.py {case}", code, message) for case, code, message in [
    ("--dataset nosuch", 2, "--dataset nosuch is not in dataset/local_dataset.py"),
    ("--split 4", 2, "--split 4: ucf101 has splits 1 to 3"), ("--split 0", 2, "--split 0"),
    ("--split 2", 1, "train_split02.csv cannot be read (No such file"),
    ("--seq_len 5", 2, "--seq_len 5 is not divisible by --n_series 2"), ("--seq_len x", 2, "--seq_len"),
    ("--batch_size 0", 2, "--batch_size must be above 0"), ("--batch_size 50", 2, "--batch_size 50 is larger than"),
    ("--batch_size 1", 2, "--batch_size must be at least 2"), ("--mode clip-x", 2, "clip-x"),
    ("--mode clip-clip", 2, "clip-clip"), ("--framework moco --moco-k 10", 2, "--moco-k 10 is not divisible"),
    ("--framework moco --moco-k 0", 2, "--moco-k 0"), ("--framework byol", 2, "--framework"),
    ("--bn shuffle", 2, "--bn shuffle shuffles MoCo's keys"), ("--bn_splits 3", 2, "--bn_splits 3 does not divide"),
    ("--bn_splits 0", 2, "--bn_splits must be above 0"), ("--time_reverse 2", 2, "--time_reverse 2.0"),
    ("--centres middle", 2, "--centres"), ("--permutations none", 2, "--permutations"),
    ("--centres inside --ds 3", 2, "--centres inside: 12 of 12 videos are shorter than the 10 frames"),
    ("--centres inside --segment_gap 2", 2, "(1 fits all)"), ("--segment_gap -1", 2, "--segment_gap must be 0 or more"),
    ("--segment_gap 2147483647", 2, "a clip would reach over more frames than a video has"),
    ("--mode clip-tc --n_series 1 --permutations changed", 2, "--n_series 1: one segment has no other order"),
    ("--mode clip-tc --n_series 1 --segment_gap 1", 2, "--n_series 1: one segment has no other order"),
    ("--sr_clamp x", 2, "--sr_clamp x: expected a number"), ("--img_dim 0", 2, "--img_dim must be above 0"),
    ("--img_dim 5", 2, "--img_dim must be above 6"), ("--resize 9x9", 2, "--resize 9x9 is smaller than"),
    ("--resize no", 2, "--resize"), ("--lr -1", 2, "--lr must be above 0"), ("--lr nan", 2, "--lr must be above 0"),
    ("--resume odd_state.tar", 1, "of this program: epoch is not a whole number"),
    ("--keep_epoch 500", 2, "epochs are 0 to"),
    ("--resume negative.tar", 1, "epoch -7 of 3"), ("--resume stranger.tar", 1, "its content has no inputs, versions"),
    ("--resume .", 1, "checkpoint . is a folder"), ("--lr 1e39", 2, "--lr must be above 0 and a float32"),
    ("--log_dir broken/split01/predictions.npz", 2, "predictions.npz is no folder"),
    ("--log_dir dangling", 2, "dangling is no folder"),
    ("--lr inf", 2, "--lr"), ("--epochs 0", 2, "--epochs must be above 0"), ("--gamma 0", 2, "--gamma"),
    ("--wd -1", 2, "--wd must be 0 or more"), ("--warmup -1", 2, "--warmup"), ("--temperature 0", 2, "--temperature"),
    ("--theta 0", 2, "--theta"), ("--moco-m 7", 2, "--moco-m 7.0"), ("--clip_weight -1", 2, "--clip_weight"),
    ("--width nan", 2, "--width"), ("--width 0", 2, "--width"), ("--net r50", 2, "--net"),
    ("--net s3d --seq_len 2", 2, "--net s3d cannot take clips of --seq_len 2"),
    ("--framework moco --batch_size 1 --moco-k 4 --img_dim 16", 2, "batch norm needs more"),
    ("--n_series 1", 2, "n_series"),
    ("--n_series 0", 2, "--n_series"), ("--series_dim 0", 2, "--series_dim"), ("--workers -1", 2, "--workers"),
    ("--loader_timeout -1", 2, "--loader_timeout"), ("--seed -1", 2, "--seed"), ("--save_freq 0", 2, "--save_freq"),
    ("--save_steps -1", 2, "--save_steps"), ("--keep -1", 2, "--keep"), ("--print_freq 0", 2, "--print_freq"),
    ("--skip_bad_samples -1", 2, "--skip_bad_samples"), ("--nosuch", 2, "--nosuch"), ("--epoch 3", 2, "--epoch"),
    ("--device cuda", 2, "--device cuda: torch sees no CUDA device"),
    ("--resume no.tar", 1, "no.tar does not exist"), ("--resume backbone.tar", 1, "it holds weights only"),
    ("--resume pretrainer.tar", 1, "is of another stage"), ("--resume cut.tar", 1, "cut.tar is damaged"),
    ("--log_dir backbone.tar", 2, "backbone.tar is no folder"), ("--log_dir /proc/none", 2, "/proc"),
    ("--width 3000000", 2, "--width must be at most 1000"),
    ("--epochs 100000000 --save_freq 1", 2, "free: make room"),
]] + [(f"finetune.py {case}", code, message) for case, code, message in [
    ("", 2, "--pretrain"), ("--pretrain none.tar", 1, "none.tar does not exist"),
    ("--pretrain .", 1, ". has no config.json"),
    ("--pretrain random", 2, "--net: name the network"), ("--pretrain cut.tar", 1, "cut.tar is damaged"),
    ("--pretrain empty.tar", 1, "empty.tar is damaged"), ("--pretrain evil.tar", 1, "it could run code"),
    ("--pretrain list.tar", 1, "list.tar holds no state_dict"), ("--pretrain keys.tar", 1, "holds no state_dict"),
    ("--pretrain nan.tar", 1, "not finite (stem.weight)"), ("--pretrain seven.tar --net r21d", 2, "--net r21d: "),
    ("--pretrain seven.tar --width 0.5", 2, "--width 0.5: checkpoint seven.tar was trained with"),
    ("--pretrain backbone.tar --holdout 1.5", 2, "--holdout 1.5"),
    ("--pretrain backbone.tar --holdout 0.001", 1, "--holdout 0.001"),
    ("--pretrain backbone.tar --dropout 1", 2, "--dropout 1.0"), ("--pretrain backbone.tar --bn shuffle", 2, "--bn"),
    ("--pretrain backbone.tar --train_what head", 2, "--train_what"),
    ("--pretrain backbone.tar --final_bn --batch_size 1", 2, "--final_bn"),
    ("--pretrain random --net r3d --batch_size 1 --img_dim 16", 2, "batch norm needs more"),
    ("--pretrain unknown.tar", 2, "--net: checkpoint unknown.tar does not show"),
]] + [(f"test.py {case}", code, message) for case, code, message in [
    ("", 2, "give --checkpoint"), ("--checkpoint seven.tar --from_predictions x", 2, "give --checkpoint"),
    ("--checkpoint seven.tar", 1, "has 7 classes, ucf101 2"), ("--checkpoint pretrainer.tar", 1, "fine-tune it first"),
    ("--checkpoint random --net r3d", 2, "at chance"),
    ("--checkpoint none.tar", 1, "none.tar does not exist"), ("--from_predictions nowhere", 1, "nowhere"),
    ("--checkpoint seven.tar --split all", 2, "{split}"), ("--checkpoint seven.tar --split x", 2, "--split"),
    ("--checkpoint two.tar --clips 0", 2, "--clips"), ("--checkpoint two.tar --crops 3", 2, "--crops"),
    ("--checkpoint strange.tar", 1, "strange.tar: its config is not of this program"),
    ("--from_predictions broken", 1, "predictions.npz is not an .npz file"),
    ("--checkpoint evil.tar", 1, "could run code"),
    ("--checkpoint torchvision:r3d_18 --dry_run", 2, "the classes of torchvision's weights are not those of a data"),
]] + [(f"retrieval.py {case}", code, message) for case, code, message in [
    ("", 2, "give --pretrain"), ("--pretrain backbone.tar --load_features f", 2, "give --pretrain"),
    ("--load_features f --save_features g", 2, "nothing to write"), ("--load_features nowhere", 1, "nowhere"),
    ("--load_features features", 1, "features.npy is not an array"),
    ("--load_features empty", 1, "protocol.json is damaged"),
    ("--load_features lengths", 1, "differ in length"), ("--load_features whole_numbers", 1, "of float32"),
    ("--load_features latin", 1, "row 13: not UTF-8"),
    ("--pretrain backbone.tar --save_features two.tar", 2, "is no folder"), ("--pretrain nan.tar", 1, "not finite"),
    ("--pretrain none.tar", 1, "none.tar does not exist"), ("--pretrain evil.tar", 1, "it could run code"),
    ("--pretrain backbone.tar --per_clip", 2, "--save_features DIR"),
]] + [
    ("models.weights inspect none.tar", 1, "none.tar does not exist"),
    ("models.weights inspect evil.tar", 1, "it could run code"),
    ("models.weights convert backbone.tar seven.tar", 1, "seven.tar exists"),
    ("models.weights convert backbone.tar backbone.tar", 1, "is the file to convert"),
    ("models.weights convert backbone.tar out.tar --net r21d", 2, "was trained with --net r3d"),
    ("models.weights convert keys.tar out.tar", 1, "holds no state_dict"),
    ("models.weights", 2, "command"),
    ("models.weights convert backbone.tar out.tar --width 1e23", 2, "at most 4, got 1e+23"),
    ("models.weights convert backbone.tar out.tar --width nan", 2, "at most 4, got nan"),
    ("models.weights convert backbone.tar o\x1but.tar", 2, r"'o\x1but.tar': it holds the control character"),
    ("models.weights convert backbone.tar o\udcfft.tar", 2, r"'o\udcfft.tar': it is not UTF-8"),
    ("process_data/src/extract_frame.py --videos nowhere", 2, "--videos nowhere is not a folder"),
    ("process_data/src/extract_frame.py --videos features", 1, "holds no video"),
    ("process_data/src/extract_frame.py --videos features --short_side 1", 2, "--short_side 1"),
    ("process_data/src/extract_frame.py --videos features --quality 101", 2, "--quality 101"),
    ("process_data/src/extract_frame.py --videos features --workers 0", 2, "--workers 0"),
    ("process_data/src/extract_frame.py --dataset nosuch", 2, "--dataset nosuch"),
    ("process_data/src/write_csv.py --splits features --frames nowhere", 2, "--frames nowhere is not a folder"),
    ("process_data/src/write_csv.py --splits features --out out", 1, "classInd.txt"),
    ("process_data/src/write_csv.py --layout folder --holdout 2 --out out", 2, "--holdout 2"),
    ("process_data/src/write_csv.py --exclude none.txt --out out", 2, "none.txt"),
    ("process_data/src/verify.py --dataset nosuch", 2, "--dataset nosuch"),
    ("process_data/src/verify.py --frames nowhere", 2, "nowhere"),
    ("process_data/src/verify.py --lists nowhere", 2, "nowhere"),
    ("process_data/src/render_demo.py --videos v --splits s --size 4", 2, "--size 4"),
    ("process_data/src/render_demo.py --videos v --splits s --groups 0", 2, "--groups 0"),
]
ALWAYS = {"train.py": TRAIN, "finetune.py": FINETUNE, "test.py": TEST, "retrieval.py": TEST}


class Malicious:
    def __reduce__(self):
        return (open, ("pickle_was_run", "w"))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """Folder with a data set and files to go wrong with."""
    folder = make_dataset(tmp_path_factory.mktemp("bad"))
    config = {"net": "r3d", "width": 0.0625}
    weights = build_backbone("r3d", 0.0625).state_dict()
    pretrainer = build_pretrainer("simclr", "r3d", width=0.0625).state_dict()
    meter = {"count": 0, "names": [], "sums": [[]]}
    state = {"state_dict": pretrainer, "config": config, "optimizer": {"state": {}, "param_groups": []},
             "flags": {"epochs": 3}, "inputs": {}, "versions": {}, "meters": {"window": meter, "whole": meter},
             "epoch": 0, "step": 1, "steps": 1, "replaced": 0}
    for name, content in {
            "backbone": {"state_dict": weights, "config": config},
            "pretrainer": state, "odd_state": {**state, "epoch": "3"}, "negative": {**state, "epoch": -7},
            "stranger": {"state_dict": pretrainer, "optimizer": {}, "flags": []},
            "strange": {"state_dict": {}, "config": {**config, "num_classes": 2, "colour": 3}},
            "nan": {"state_dict": {**weights, "stem.weight": weights["stem.weight"] / 0}, "config": config},
            "unknown": {"state_dict": {"x": torch.zeros(3)}, "config": "text"}, "list": [weights],
            "evil": {"state_dict": Malicious()},
            "keys": {"state_dict": {1: torch.zeros(1)}},
            **{name: {"state_dict": build_classifier("r3d", n, 0.0625).state_dict(),
                      "config": {**config, "num_classes": n}} for name, n in (("two", 2), ("seven", 7))}}.items():
        torch.save(content, folder / f"{name}.tar")
    data = (folder / "backbone.tar").read_bytes()
    (folder / "cut.tar").write_bytes(data[:len(data) // 2])
    (folder / "empty.tar").touch()
    for name in ("broken/split01/predictions.npz", "features/train_features.npy", "features/protocol.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"\x93NUMPY")
    for part in ("train", "test"):
        (folder / f"features/{part}_names.txt").write_text("")
        (folder / f"features/{part}_labels.npy").write_bytes(b"")
    (folder / "dangling").symlink_to("nowhere")
    make_features(folder / "empty", protocol="null")
    make_features(folder / "lengths", sizes=(4, 5))
    make_features(folder / "whole_numbers", kind=np.int64)
    make_features(folder / "latin", encoding="latin-1")
    return folder


def make_features(folder, sizes=(4, 4), kind=np.float32, encoding="utf-8", protocol=None):
    """What --save_features writes of the data set beside `folder`, with something wrong."""
    folder.mkdir()
    for part, size in zip(("train", "test"), sizes, strict=True):
        names = [line.partition(",")[0] for line in
                 (folder.parent / f"lists/ucf101/{part}_split01.csv").read_text().splitlines()]
        classes = read_class_index(folder.parent / "lists/ucf101/ClassInd.txt")
        np.save(folder / f"{part}_features.npy", np.zeros((len(names), size), kind))
        np.save(folder / f"{part}_labels.npy", np.array([classes[name.partition("/")[0]] for name in names]))
        more = "" if encoding == "utf-8" else "caf\xe9\n"
        (folder / f"{part}_names.txt").write_text("".join(f"{name}\n" for name in names) + more, encoding=encoding)
    kept = {"seq_len": 4, "ds": 2, "img_dim": 24, "resize": [27, 37], "clips": 10}
    (folder / "protocol.json").write_text(protocol or json.dumps(kept))


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize("call,code,message", TABLE, ids=[f"{case[0]}" for case in TABLE])
def test_wrong_input_gets_a_sentence(workplace, monkeypatch, capsys, call, code, message):
    script, *flags = call.split()
    if "cuda" in flags and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    monkeypatch.chdir(workplace)
    before = tree(workplace)
    got, _, error = InProcess(workplace, monkeypatch, capsys)(script, *ALWAYS.get(script, []), *flags)
    assert got == code and message in error, error
    assert "error: " in error.strip().splitlines()[-1] and "Traceback" not in error
    assert tree(workplace) == before


def test_more_processes_than_gpus(workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    code, _, error = InProcess(workplace, monkeypatch, capsys)("train.py", *TRAIN, "--device", "cuda")
    assert code == 2 and "process 1 of this machine has no GPU: it has 1" in error

"""Figures of the paper (BMVC 2021, arXiv 2107.01194) for tables and charts beside ours; they are the paper's, not ours.

All are percentages, of official split 1. Fine-tuned, DualVar's are of R(2+1)D and clips of 16 x 112 x 112; of the other
methods, as the paper quotes them, pretraining set, network and size of the clips are not kept here.
"""
from typing import Any

# (method, what it was pretrained on, top-1 on UCF101, top-1 on HMDB51) after fine-tuning, mean of ten clips
FINETUNED = [
    ("DualVar (MoCo)", "UCF101", 78.5, 47.5),
    ("DualVar (SimCLR)", "UCF101", 79.0, 45.4),
    ("DualVar (SimCLR)", "K400", 82.0, 51.2),
    ("Shuffle&Learn", None, 50.2, 18.1),
    ("OPN", None, 59.8, 23.8),
    ("VCP", None, 66.3, 32.2),
    ("VCOP", None, 72.4, 30.9),
    ("PRP", None, 72.1, 35.0),
    ("SpeedNet", None, 81.1, 48.8),
    ("TempTrans", None, 81.6, 46.4),
    ("MemDPC", None, 78.1, 41.2),
    ("CoCLR", None, 87.9, 54.6),
    ("VideoMoCo", None, 78.7, 49.2),
    ("BE (MoCo)", None, 72.4, 42.3),
    ("Pace", None, 77.1, 36.6),
    ("RSPNet", None, 81.1, 44.6),
]

# method: {k: R@k} on UCF101
RETRIEVAL = {
    "PRP": {1: 23.2, 5: 38.1, 10: 46.0, 20: 55.7, 50: 68.4},
    "Pace": {1: 25.6, 5: 42.7, 10: 51.3, 20: 61.3, 50: 74.0},
    "TempTrans": {1: 26.1, 5: 48.5, 10: 59.1, 20: 69.6, 50: 82.8},
    "RSPNet": {1: 41.1, 5: 59.4, 10: 68.4, 20: 77.8, 50: 88.7},
    "DualVar": {1: 46.7, 5: 63.1, 10: 69.7, 20: 78.0, 50: 87.8},  # the abstract has 46.1 for R@1
}

CLIP = {"seq_len": 16, "fps": None, "img_dim": 112}
NETWORK = {"net": "r21d", "width": 1.0}
SGD = {"momentum": 0.9, "gamma": 0.1, "cosine": False, "warmup": 0}

# What DualVar's were made with: {stage: {flag of ours: value}}, batches over all GPUs. "finetune" is after UCF101.
# Pretraining's checkpoint of epoch 189 (from 0) and fine-tuning's last were evaluated. RETRIEVAL's network is not said.
PROTOCOL: dict[str, dict[str, Any]] = {
    "pretrain": {**NETWORK, **CLIP, **SGD, "mode": "clip-sr-tc", "ds": 4, "n_series": 2, "series_dim": 64, "split": 1,
                 "batch_size": 64, "epochs": 200, "lr": 0.003, "wd": 1e-4, "schedule": [120, 160], "bn": "sync",
                 "temperature": 0.07, "theta": 0.05, "time_reverse": 0.5, "centres": "any", "permutations": "any",
                 "segment_gap": 0, "holdout": 0.0, "sr_weight": 1.0, "tc_weight": 1.0},
    "finetune": {**NETWORK, **CLIP, **SGD, "ds": 2, "split": 1, "batch_size": 16, "epochs": 100, "lr": 0.05, "wd": 1e-3,
                 "schedule": [30, 60, 80], "holdout": 0.0, "color_jitter": True, "hflip": True},
    "test": {**CLIP, "ds": 2, "split": 1, "clips": 10, "crops": 1},
    "retrieval": {**CLIP, "ds": 4, "split": 1, "clips": 10},
}
PROTOCOL["finetune_k400"] = {**PROTOCOL["finetune"], "epochs": 150, "schedule": [50, 100]}

#!/usr/bin/env bash
# shellcheck disable=SC2034  # what is set here is used by launch.sh
# The flags of every experiment, each once. Sourced by launch.sh, which calls `recipe EXPERIMENT` for the arrays
# NETWORK, PRETRAIN, FINETUNE, PROBE, TEST and RETRIEVAL and for TARGETS, the sets to fine-tune on.
#
# An experiment is called <framework>_<net>_<mode>_<pretraining set>, or demo.

# experiments: the names of those that have launchers, one a line
experiments() {
    local file
    for file in paper_scripts/pretrain/*.sh; do
        file=${file##*/}
        printf '\n    %s' "${file%.sh}"
    done
}

recipe() {
    if [ "$1" = demo ]; then demo_recipe; else paper_recipe "$1"; fi
}

# The publication's: sizes and schedules for a global batch of 64 (pretraining) and 16 (fine-tuning).
paper_recipe() {
    # a network's name may hold a _ itself
    local framework=${1%%_*} set=${1##*_} net=${1#*_} mode
    net=${net%_*} mode=${net##*_} net=${net%_*}
    if [[ $1 != ?*_?*_?*_?* ]]; then
        wrong "${1:-nothing} is not an experiment <framework>_<net>_<mode>_<pretraining set>, nor demo; there are:" \
            "$(experiments)"
    fi
    local clip=(--seq_len 16 --img_dim 112)
    SET=$set TARGETS=$set
    case "$set" in ucf101 | k400) TARGETS="ucf101 hmdb51" ;; esac
    EVAL_EPOCH=${EVAL_EPOCH:-189}
    NETWORK=(--net "$net" --width 1.0)
    PRETRAIN=("${clip[@]}" --framework "$framework" --mode "$mode" --ds 4 --n_series 2 --series_dim 64 --batch_size 64
              --lr 0.003 --wd 1e-4 --epochs 200 --schedule 120 160 --save_freq 5 --bn sync)
    case "$framework" in
        # The release's gather lost 7/8 of the clip term's gradient on its 8 GPUs; this weight is that, on any number.
        simclr) PRETRAIN+=(--clip_weight 0.125) ;;
        moco) PRETRAIN+=(--moco-k 16384) ;;
        *) wrong "$1: recipes.sh has no recipe for the framework $framework, only for simclr and moco" ;;
    esac
    FINETUNE=("${clip[@]}" --ds 2 --batch_size 16 --lr 0.05 --wd 1e-3 --color_jitter --hflip)
    if [ "$set" = k400 ]; then
        FINETUNE+=(--epochs 150 --schedule 50 100)
    else
        FINETUNE+=(--epochs 100 --schedule 30 60 80)
    fi
    PROBE=("${FINETUNE[@]}" --final_bn)
    TEST=("${clip[@]}" --ds 2)
    RETRIEVAL=("${clip[@]}" --ds 4)
}

# Small enough for two CPU cores: an eighth of the width, 8 frames of 16 pixels, minutes instead of days. Clips are
# never reversed: in this set the direction of time is the class. `run` also trains the mode clip, to compare.
demo_recipe() {
    local clip=(--seq_len 8 --ds 1 --img_dim 16 --resize 32x32)
    SET=demo TARGETS=demo
    EVAL_EPOCH=${EVAL_EPOCH:-last}
    NETWORK=(--net r3d --width 0.125)
    PRETRAIN=("${clip[@]}" --framework simclr --mode clip-sr-tc --batch_size 32 --lr 0.05 --epochs 30 --warmup 1.5 --cosine
              --time_reverse 0 --sr_weight 0.3 --save_freq 30)
    FINETUNE=("${clip[@]}" --batch_size 16 --lr 0.05 --wd 1e-4 --epochs 15 --cosine)
    PROBE=("${FINETUNE[@]}" --final_bn)
    TEST=("${clip[@]}")
    RETRIEVAL=("${clip[@]}")
}

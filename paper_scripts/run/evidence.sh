#!/usr/bin/env bash
# Does it work? Modes x seeds on real video, all with the same budget, beside random weights and the thumbnail floor.
# What is done is passed over, what was stopped goes on; ends in a table and a report of what there is.
#
#   bash paper_scripts/run/evidence.sh                    R3D at a quarter of its width, 56 px: for CPUs
#   DATASET (ucf101-5class or demo), SPLIT, MODES, SEEDS, EPOCHS: which cells, and the budget of each
#   PRETRAIN_FLAGS, FINETUNE_FLAGS, COMMON_FLAGS (--net r21d --width 1 --img_dim 112 on a GPU): come last and win
#   LOG_DIR, PYTHON: as for the launchers; results are in LOG_DIR/evidence
set -eu -o pipefail
here=$(dirname "$(readlink -f "$0")")/..
# shellcheck source=env.sh
source "$here/env.sh" requirements.txt
DATASET=${DATASET:-ucf101-5class} SPLIT=${SPLIT:-1} LOG=${LOG_DIR:-log}
all_modes="clip clip-sr clip-sr-tc tc sr-tc" all_seeds="0 1 2"
MODES=${MODES:-$all_modes} SEEDS=${SEEDS:-$all_seeds}
case "$DATASET" in
    demo)
        common=(--net r3d --width 0.125 --img_dim 16 --seq_len 8 --ds 4)
        pretrain=(--time_reverse 0 --epochs "${EPOCHS:-40}") ;;
    *)
        common=(--net r3d --width 0.25 --img_dim 56 --seq_len 16 --ds 4)
        pretrain=(--epochs "${EPOCHS:-60}") ;;
esac
# shellcheck disable=SC2206  # lists of words
common+=(--dataset "$DATASET" --split "$SPLIT" --log_dir "$LOG" --prefix evidence ${COMMON_FLAGS:-})
# shellcheck disable=SC2206
pretrain+=(--batch_size 32 --lr 0.05 --warmup 4 --cosine --clip_weight 1 --keep 1 ${PRETRAIN_FLAGS:-})
# shellcheck disable=SC2206
finetune=(--batch_size 16 --lr 0.02 --wd 1e-4 --epochs 20 --cosine --hflip ${FINETUNE_FLAGS:-})

# cell NAME WEIGHTS SEED: retrieval and its features, linear probe, fine-tuning and ten-clip test of weights
cell() {
    local name=$1 weights=$2 seed=$3 runs=$LOG/evidence
    if [ ! -e "$runs/retrieval/$name/results.json" ]; then
        "$PYTHON" retrieval.py "${common[@]}" --seed "$seed" --pretrain "$weights" --name "$name" \
            --save_features "$runs/features/$name" --per_clip
    fi
    if [ ! -e "$runs/features/$name/probe.json" ]; then
        "$PYTHON" -m analysis.probe --dataset "$DATASET" --features "$runs/features/$name"
    fi
    if [ "$weights" != thumbnail ] && [ ! -e "$runs/test/$name/results.json" ]; then
        rm -f "$runs/ft/$name/STOPPED"
        "$PYTHON" finetune.py "${common[@]}" "${finetune[@]}" --seed "$seed" --pretrain "$weights" --name "$name" \
            --resume auto
        if [ -e "$runs/ft/$name/STOPPED" ]; then exit 0; fi
        "$PYTHON" test.py "${common[@]}" --checkpoint "$runs/ft/$name/model/latest.pth.tar" --name "$name"
    fi
}

suffix=${DATASET}_split$SPLIT planned=()
for mode in $all_modes; do
    for seed in $all_seeds; do
        for stage in pretrain retrieval test; do planned+=("$stage/${mode}_${suffix}_seed$seed"); done
    done
done
cell "thumbnail_$suffix" thumbnail 0
for seed in $SEEDS; do
    cell "random_${suffix}_seed$seed" random "$seed"
    for mode in $MODES; do
        name=${mode}_${suffix}_seed$seed weights=$LOG/evidence/pretrain/${mode}_${suffix}_seed$seed
        if [ ! -e "$weights/model/backbone.pth.tar" ]; then
            rm -f "$weights/STOPPED"
            "$PYTHON" train.py "${common[@]}" "${pretrain[@]}" --seed "$seed" --mode "$mode" --name "$name" --resume auto
            if [ -e "$weights/STOPPED" ]; then exit 0; fi
        fi
        cell "$name" "$weights/model/backbone.pth.tar" "$seed"
    done
done
"$PYTHON" -m analysis.evidence "$LOG/evidence"
"$PYTHON" -m analysis.report "$LOG/evidence" --dataset "$DATASET" --planned "${planned[@]}"

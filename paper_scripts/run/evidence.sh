#!/usr/bin/env bash
# shellcheck source-path=SCRIPTDIR/..
# Does it work? Modes x seeds on real video, all with the same budget, beside random weights and the thumbnail floor.
# What is done is passed over, what was stopped goes on; ends in a table and a report of what there is. Prints each
# command before it runs it; with --show it only prints those that are left to run.
#
#   bash paper_scripts/run/evidence.sh                    R3D at a quarter of its width, 56 px: for CPUs
#   DATASET (ucf101-5class, tennis-7class, demo or your own), SPLIT, MODES, SEEDS, EPOCHS: which cells, and the budget
#   of each; LRS: learning rates of modes, as in "clip=0.01 clip-sr=0.03", 0.05 for the others; SHOTS: few labels of
#   the probe, 1 5 10
#   PRETRAIN_FLAGS, FINETUNE_FLAGS, COMMON_FLAGS (--net r21d --width 1 --img_dim 112 on a GPU): come last and win
#   LOG_DIR, PYTHON: as for the launchers; results are in LOG_DIR/evidence
set -eu -o pipefail
here=$(dirname "$(readlink -f "$0")")/..
# shellcheck source=common.sh
source "$here/common.sh"
show='' dry_run=''
for flag in "$@"; do
    [ "$flag" = --show ] || wrong "$flag: evidence.sh takes --show only; flags of the stages go into PRETRAIN_FLAGS= etc."
    show=1
done
DATASET=${DATASET:-ucf101-5class} LRS=${LRS:-} SPLIT=${SPLIT:-1} LOG=${LOG_DIR:-log}
all_modes="clip clip-sr clip-sr-tc tc sr-tc" all_seeds="0 1 2"
MODES=${MODES:-$all_modes} SEEDS=${SEEDS:-$all_seeds}
whole_number SPLIT "$SPLIT" 1 99 "the number of a train/test split"
whole_number EPOCHS "${EPOCHS:-60}" 1 99999 "the number of epochs of pretraining"
set -f  # a * in lists of words is no pattern
for name in PRETRAIN_FLAGS FINETUNE_FLAGS COMMON_FLAGS; do flags_of "$name"; done
path_of LOG_DIR "$LOG" "the folder of the results"
one_word DATASET "$DATASET" "the name of a data set in dataset/local_dataset.py"
for mode in $MODES; do
    if ! [[ $mode =~ ^[a-z0-9]+(-[a-z0-9]+)*$ ]]; then
        wrong "MODES=$mode is not a mode: it is names of loss terms with dashes between, as in clip-sr-tc"
    fi
done
for name in GPUS NNODES; do
    [ "${!name:-1}" = 1 ] || wrong "$name=${!name@Q}: a cell is small, so each runs as one process; unset $name"
done
GPUS=1 NNODES=1
for word in $LRS; do
    if ! [[ $word =~ ^[a-z0-9-]+=[0-9]*\.?[0-9]+$ ]]; then
        wrong "LRS=$word is not a mode and its learning rate, as in clip=0.01"
    fi
    case " $MODES " in *" ${word%=*} "*) ;; *) wrong "LRS=$word is of a mode that is not run: MODES are $MODES" ;; esac
done
for seed in $SEEDS; do whole_number SEEDS "$seed" 0 4294967295 "a seed"; done
SHOTS=${SHOTS-1 5 10}
for k in $SHOTS; do whole_number SHOTS "$k" 1 99999 "a number of training videos of each class"; done
# shellcheck source=env.sh
if [ -z "$show" ]; then source "$here/env.sh" requirements.txt; fi
# shellcheck source=commands.sh
source "$here/commands.sh"
hflip=--hflip
case "$DATASET" in
    demo)
        common=(--net r3d --width 0.125 --img_dim 16 --resize 32x32 --seq_len 8 --ds 1)
        pretrain=(--time_reverse 0 --epochs "${EPOCHS:-40}") ;;
    tennis-7class)  # left and right are classes
        common=(--net r3d --width 0.25 --img_dim 56 --seq_len 16 --ds 2) hflip=''
        pretrain=(--epochs "${EPOCHS:-100}") ;;
    *)
        common=(--net r3d --width 0.25 --img_dim 56 --seq_len 16 --ds 4)
        pretrain=(--epochs "${EPOCHS:-60}") ;;
esac
# shellcheck disable=SC2206  # lists of words
common+=(--dataset "$DATASET" --split "$SPLIT" --log_dir "$LOG" --prefix evidence ${COMMON_FLAGS:-})
# shellcheck disable=SC2206
pretrain+=(--batch_size 32 --warmup 4 --cosine --clip_weight 1 --keep 1 ${PRETRAIN_FLAGS:-})
# shellcheck disable=SC2206
finetune=(--batch_size 16 --lr 0.02 --wd 1e-4 --epochs 20 --cosine $hflip ${FINETUNE_FLAGS:-})

# learning_rate MODE: of LRS, or the one for all
learning_rate() {
    local word
    for word in $LRS; do
        if [ "${word%=*}" = "$1" ]; then echo "${word#*=}"; return; fi
    done
    echo 0.05
}

# cell NAME WEIGHTS SEED: retrieval and its features, linear probe, what is known of time, fine-tuning and ten-clip test
cell() {
    local name=$1 weights=$2 seed=$3 runs=$LOG/evidence asked_seed=0  # about time, with the same clips for all weights
    if [ ! -e "$runs/retrieval/$name/results.json" ]; then
        launch retrieval.py "${common[@]}" --seed "$seed" --pretrain "$weights" --name "$name" \
            --save_features "$runs/features/$name" --per_clip
    fi
    if [ ! -e "$runs/features/$name/probe.json" ]; then
        # shellcheck disable=SC2086  # a list of words
        run_python -m analysis.probe --dataset "$DATASET" --features "$runs/features/$name" \
            ${SHOTS:+--shots $SHOTS}
    fi
    if [ "$weights" != thumbnail ] && [ ! -e "$runs/temporal/$name/results.json" ]; then
        if [ "$weights" = random ]; then asked_seed=$seed; fi
        run_python -m analysis.temporal "${common[@]}" --seed "$asked_seed" --pretrain "$weights" --titles "$name" \
            --name "$name"
    fi
    if [ "$weights" != thumbnail ] && [ ! -e "$runs/test/$name/results.json" ]; then
        train "$runs/ft/$name" finetune.py "${common[@]}" "${finetune[@]}" --seed "$seed" --pretrain "$weights" \
            --name "$name" --resume auto
        launch test.py "${common[@]}" --checkpoint "$runs/ft/$name/model/latest.pth.tar" --name "$name"
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
            train "$weights" train.py "${common[@]}" --lr "$(learning_rate "$mode")" "${pretrain[@]}" --seed "$seed" \
                --mode "$mode" --name "$name" --resume auto
        fi
        cell "$name" "$weights/model/backbone.pth.tar" "$seed"
    done
done
run_python -m analysis.evidence "$LOG/evidence"
run_python -m analysis.report "$LOG/evidence" --dataset "$DATASET" --planned "${planned[@]}"

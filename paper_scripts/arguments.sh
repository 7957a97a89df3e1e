#!/usr/bin/env bash
# shellcheck source-path=SCRIPTDIR
# shellcheck disable=SC2034,SC2154  # what is set here is used by launch.sh; it sets `here`
# Sourced by launch.sh: what was asked for, checked as far as that needs no Python -> mode, experiment and its recipe,
# show and dry_run (empty: no), the array FLAGS, and SPLIT, EVAL_EPOCH, GPUS (empty: not said), NNODES, NODE_RANK,
# MASTER_PORT.

# a launcher's folder and name, asked for before common.sh goes elsewhere
mode=$(basename "$(cd "$(dirname "$0")" && pwd)") experiment=$(basename "$0" .sh)
# shellcheck source=common.sh
source "$here/common.sh"
# shellcheck source=recipes.sh
source "$here/recipes.sh"

show='' dry_run='' FLAGS=() before=''
for flag in "$@"; do
    case "$before $flag" in
        *' --dry_run='* | '--dry_run '[0-9]*) wrong "$flag: a launcher's --dry_run takes no number, GPUS and NNODES do" ;;
    esac
    before=$flag
    case "$flag" in
        --show) show=1 ;;
        --dry_run) dry_run=1 ;;
        *) FLAGS+=("$flag") ;;
    esac
done
modes="pretrain finetune finetune_hmdb51 linear_probe test test_hmdb51 retrieval run report"
if [ "$experiment" = launch ]; then
    [ ${#FLAGS[@]} -gt 0 ] ||
        wrong "give a mode and an experiment: bash paper_scripts/launch.sh <mode> <experiment>; modes: $modes"
    mode=${FLAGS[0]} experiment=${FLAGS[1]:-} FLAGS=("${FLAGS[@]:2}")
fi
case " $modes " in *" $mode "*) ;; *) wrong "$mode is not a mode; there are: $modes" ;; esac
asked_epoch=${EVAL_EPOCH:-}
recipe "$experiment"

set -f  # a * in them is no pattern
for name in PRETRAIN_FLAGS RETRIEVAL_FLAGS FINETUNE_FLAGS TEST_FLAGS RENDER_FLAGS; do flags_of "$name"; done
# shellcheck disable=SC2086  # the *_FLAGS are lists of words
for flag in "${FLAGS[@]}" ${PRETRAIN_FLAGS:-} ${RETRIEVAL_FLAGS:-} ${FINETUNE_FLAGS:-} ${TEST_FLAGS:-}; do
    case "$flag" in
        --dry_run) dry_run=1 ;;
        --log_dir* | --prefix* | --name* | --dataset* | --split* | --pretrain* | --checkpoint* | --net*)
            wrong "$flag: this launcher sets it; use LOG_DIR=, PREFIX=, SPLIT=, PRETRAINED= or another experiment" ;;
    esac
done
# a pretraining of another length has no use for the recipe's epoch
case "$mode ${FLAGS[*]} ${PRETRAIN_FLAGS:-}" in
    "run "*--epochs* | "pretrain "*--epochs*) if [ -z "$asked_epoch" ]; then EVAL_EPOCH=last; fi ;;
esac

SPLIT=${SPLIT:-1} GPUS=${GPUS:-} NNODES=${NNODES:-1} MASTER_PORT=${MASTER_PORT:-29500}
if [ "$SPLIT" != all ]; then
    whole_number SPLIT "$SPLIT" 1 99 "the number of a train/test split, or all in the modes test and test_hmdb51"
elif [[ $mode != test* ]]; then
    wrong "SPLIT=all is for test and test_hmdb51: give $mode a number"
fi
if [ "$EVAL_EPOCH" != last ]; then
    whole_number EVAL_EPOCH "$EVAL_EPOCH" 0 99999 "the epoch of pretraining to start from, counted from 0, or last"
fi
whole_number GPUS "${GPUS:-1}" 1 1024 "the number of processes on this machine (CUDA_VISIBLE_DEVICES chooses GPUs)"
whole_number NNODES "$NNODES" 1 1024 "the number of machines"
if [ "$NNODES" -gt 1 ] && [ -z "${NODE_RANK:-}" ]; then
    wrong "NNODES=$NNODES needs NODE_RANK, this machine's number from 0 to $((NNODES - 1))"
fi
NODE_RANK=${NODE_RANK:-0}
whole_number NODE_RANK "$NODE_RANK" 0 $((NNODES - 1)) "this machine's number among NNODES=$NNODES"
if [ "$NNODES" -gt 1 ] && [ -z "${MASTER_ADDR:-}" ]; then
    wrong "NNODES=$NNODES needs MASTER_ADDR, the name or address of the first machine"
fi
one_word MASTER_ADDR "${MASTER_ADDR:-}" "the name or address of the first machine"
path_of LOG_DIR "${LOG_DIR:-}" "the folder of the results"
path_of PREFIX "${PREFIX:-}" "the folder of this experiment's results in LOG_DIR"
path_of PRETRAINED "${PRETRAINED:-}" "the checkpoint to start from"
whole_number MASTER_PORT "$MASTER_PORT" 1 65535 "a port of the first machine that the others can reach"

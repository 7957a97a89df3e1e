#!/usr/bin/env bash
# shellcheck source-path=SCRIPTDIR
# One stage of one experiment:  bash paper_scripts/<mode>/<experiment>.sh [--show] [flags of the stage's script]
# Every such script is a link to this one (`bash paper_scripts/launch.sh <mode> <experiment>` is the same).
# It prints each command before it runs it; with --show it only prints them, and needs no environment for that.
#
# modes        pretrain finetune finetune_hmdb51 linear_probe test test_hmdb51 retrieval; run: all of them in order,
#              once --dry_run has tried each; report: a page of what there is of them, and what is not
# experiments  recipes.sh explains their names and holds their flags; flags given here come last and win
# environment  GPUS (processes of this machine, default all its GPUs; none: one process on the CPU, and one with
#              --show); on several machines NNODES, NODE_RANK, MASTER_ADDR, MASTER_PORT;
#              LOG_DIR, PREFIX (results are in LOG_DIR/PREFIX, log/dualvar);
#              SPLIT (number, or all for testing); PRETRAINED (checkpoint to start from), EVAL_EPOCH (pretraining
#              epoch to take, or last); PYTHON;
#              for run: PRETRAIN_FLAGS, RETRIEVAL_FLAGS, FINETUNE_FLAGS, TEST_FLAGS (and RENDER_FLAGS for demo) go
#              to one kind of stage each
set -eu -o pipefail

here=$(dirname "$(readlink -f "$0")")
# shellcheck source=arguments.sh
source "$here/arguments.sh"
set -- "${FLAGS[@]}"
# shellcheck source=env.sh
if [ -z "$show" ]; then source "$here/env.sh" requirements.txt; fi
# shellcheck source=commands.sh
source "$here/commands.sh"
if [ -z "$GPUS" ]; then
    if [ -z "$show" ]; then GPUS=$("$PYTHON" -c 'import torch; print(torch.cuda.device_count())'); fi
    if [ "${GPUS:-0}" = 0 ]; then GPUS=1; fi
fi
LOG=${LOG_DIR:-log}/${PREFIX:-dualvar}
WHERE=(--log_dir "${LOG_DIR:-log}" --prefix "${PREFIX:-dualvar}")

# The split to pretrain on must be the one to test on, where both are of one set.
own_split=1 pretrained_as=$experiment
if [ "${TARGETS%% *}" = "$SET" ] && [ "$SPLIT" != 1 ]; then
    own_split=$SPLIT pretrained_as=${experiment}_split$SPLIT
fi

pretrained() {
    local file=epoch$EVAL_EPOCH
    if [ "$EVAL_EPOCH" = last ]; then file=backbone; fi
    echo "${PRETRAINED:-$LOG/pretrain/$pretrained_as/model/$file.pth.tar}"
}

pretrain() {
    local keep=()
    if [ "$EVAL_EPOCH" != last ]; then keep=(--keep_epoch "$EVAL_EPOCH"); fi
    train "$LOG/pretrain/$pretrained_as" train.py "${NETWORK[@]}" "${PRETRAIN[@]}" --dataset "$SET" --split "$own_split" \
        "${WHERE[@]}" --name "$pretrained_as" --resume auto "${keep[@]}" "$@"
}

# classify STAGE SET FLAGS...: fine-tune (ft) or probe (last) on a set's split
classify() {
    local stage=$1 set=$2 recipe=("${FINETUNE[@]}") name=${experiment}_on_${2}_split$SPLIT
    shift 2
    if [ "$stage" = last ]; then recipe=("${PROBE[@]}"); fi
    train "$LOG/$stage/$name" finetune.py --train_what "$stage" "${NETWORK[@]}" "${recipe[@]}" --dataset "$set" \
        --split "$SPLIT" --pretrain "$(pretrained)" "${WHERE[@]}" --name "$name" --resume auto "$@"
}

# evaluate STAGE SET FLAGS...: ten-clip test of what classify trained
evaluate() {
    local stage=$1 set=$2 split=$SPLIT
    shift 2
    if [ "$split" = all ]; then split='{split}'; fi
    launch test.py "${NETWORK[@]}" "${TEST[@]}" --dataset "$set" --split "$SPLIT" "${WHERE[@]}" \
        --checkpoint "$LOG/$stage/${experiment}_on_${set}_split$split/model/latest.pth.tar" \
        --name "${experiment}_${stage}_on_${set}_split$SPLIT" "$@"
}

# retrieve WEIGHTS NAME FLAGS...
retrieve() {
    local weights=$1 name=$2
    shift 2
    launch retrieval.py "${NETWORK[@]}" "${RETRIEVAL[@]}" --dataset "${TARGETS%% *}" --split "$SPLIT" \
        --pretrain "$weights" "${WHERE[@]}" --name "$name" --save_features "$LOG/features/$name" --per_clip "$@"
}

# report FLAGS...: of everything that `run` would make
report() {
    local set planned=("pretrain/$pretrained_as" "retrieval/$pretrained_as")
    if [ "$experiment" = demo ]; then
        planned+=(retrieval/demo_thumbnail retrieval/demo_random pretrain/demo_clip retrieval/demo_clip)
    else
        planned+=("last/${experiment}_on_${TARGETS%% *}_split$SPLIT"
                  "test/${experiment}_last_on_${TARGETS%% *}_split$SPLIT")
    fi
    for set in $TARGETS; do
        planned+=("ft/${experiment}_on_${set}_split$SPLIT" "test/${experiment}_ft_on_${set}_split$SPLIT")
    done
    run_python -m analysis.report "$LOG" --experiment "$experiment" --planned "${planned[@]}" ${dry_run:+--dry_run} "$@"
}

# of the flags given, those that every stage has -> array COMMON, for the stages after training
common_flags() {
    COMMON=()
    while [ $# -gt 0 ]; do
        case "$1" in
            --width=* | --img_dim=* | --seq_len=* | --ds=* | --fps=* | --resize=* | --storage=* | --precision=* | \
                --workers=* | --loader_timeout=* | --device=* | --seed=*)
                COMMON+=("$1") ;;
            --width | --img_dim | --seq_len | --ds | --fps | --resize | --storage | --precision | --workers | \
                --loader_timeout | --device | --seed)
                COMMON+=("$1" "${2:-}") ;;
        esac
        shift
    done
}

# all_stages FLAGS...: what run runs
all_stages() {
    local set
    common_flags "$@"
    # shellcheck disable=SC2086  # the *_FLAGS are lists of words
    {
        if [ "$experiment" = demo ]; then
            retrieve thumbnail demo_thumbnail "${COMMON[@]}" ${RETRIEVAL_FLAGS:-}
            retrieve random demo_random "${COMMON[@]}" ${RETRIEVAL_FLAGS:-}
            pretrained_as=demo_clip pretrain "$@" ${PRETRAIN_FLAGS:-} --mode clip
            retrieve "$(pretrained_as=demo_clip pretrained)" demo_clip "${COMMON[@]}" ${RETRIEVAL_FLAGS:-}
        fi
        pretrain "$@" ${PRETRAIN_FLAGS:-}
        retrieve "$(pretrained)" "$pretrained_as" "${COMMON[@]}" ${RETRIEVAL_FLAGS:-}
        if [ "$experiment" != demo ]; then
            classify last "${TARGETS%% *}" "$@" ${FINETUNE_FLAGS:-}
            evaluate last "${TARGETS%% *}" "${COMMON[@]}" ${TEST_FLAGS:-}
        fi
        for set in $TARGETS; do
            classify ft "$set" "$@" ${FINETUNE_FLAGS:-}
            evaluate ft "$set" "${COMMON[@]}" ${TEST_FLAGS:-}
        done
    }
}

run_all() {
    if [ "$experiment" = demo ]; then prepare_demo; fi
    if [ -n "$dry_run" ]; then all_stages "$@"; return; fi
    if [ -z "$show" ]; then  # what does not fit the last stage would be found days later
        echo "Trying all stages for GPUS=$GPUS NNODES=$NNODES:"
        dry_run=1
        all_stages "$@"
        dry_run=''
        echo "All stages fit."
    fi
    all_stages "$@"
    run_python -m analysis.summary "$LOG" "$experiment"
}

prepare_demo() {
    # shellcheck disable=SC2086
    run_python process_data/src/render_demo.py ${RENDER_FLAGS:-}
    run_python process_data/src/extract_frame.py --dataset demo
    run_python process_data/src/write_csv.py --dataset demo
}

case "$mode" in
    pretrain) pretrain "$@" ;;
    finetune) classify ft "${TARGETS%% *}" "$@" ;;
    finetune_hmdb51) classify ft hmdb51 "$@" ;;
    linear_probe)
        common_flags "$@"
        classify last "${TARGETS%% *}" "$@"
        evaluate last "${TARGETS%% *}" "${COMMON[@]}" ;;
    test) evaluate ft "${TARGETS%% *}" "$@" ;;
    test_hmdb51) evaluate ft hmdb51 "$@" ;;
    retrieval) retrieve "$(pretrained)" "$pretrained_as" "$@" ;;
    run) run_all "$@" ;;
    report) report "$@" ;;
esac

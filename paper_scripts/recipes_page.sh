#!/usr/bin/env bash
# shellcheck source-path=SCRIPTDIR
# Prints docs/recipes.md from recipes.sh and from what the launchers say to --show:
#   bash paper_scripts/recipes_page.sh > docs/recipes.md
set -eu -o pipefail
export LC_ALL=C
here=$(dirname "$(readlink -f "$0")")
# shellcheck source=common.sh
source "$here/common.sh"
# shellcheck source=recipes.sh
source "$here/recipes.sh"
unset EVAL_EPOCH  # the recipes' own

# the paper's GPUs
PRETRAIN_GPUS=8 FINETUNE_GPUS=4

# value FLAG FLAGS...: the words after FLAG, with commas between several
value() {
    local wanted=$1 found='' word inside=''
    shift
    for word in "$@"; do
        if [[ $word == -* ]]; then
            inside=''
            if [ "$word" = "$wanted" ]; then inside=1 found=''; fi
        elif [ -n "$inside" ]; then
            found+="${found:+, }$word"
        fi
    done
    echo "$found"
}

# batch GPUS FLAGS...: "8 x 8 = 64"
batch() {
    local gpus=$1 whole
    shift
    whole=$(value --batch_size "$@")
    echo "$gpus x $((whole / gpus)) = $whole"
}

# training_row STAGE GPUS FLAGS...: a line of the table of schedules
training_row() {
    local stage=$1 gpus=$2
    shift 2
    echo "| $stage | $(batch "$gpus" "$@") | $(value --lr "$@") | $(value --schedule "$@") | $(value --epochs "$@") |" \
        "$(value --wd "$@") | $(value --seq_len "$@") x $(value --ds "$@") | $(value --img_dim "$@") |"
}

# show GPUS MODE EXPERIMENT: what the launcher prints, whatever the caller's environment says
show() { env -i PATH="$PATH" LC_ALL=C PYTHON=python GPUS="$1" bash paper_scripts/launch.sh "$2" "$3" --show; }

# thousands NUMBER: 29800 as 29,800
thousands() { sed -E ':again; s/([0-9])([0-9]{3})($|,)/\1,\2\3/; t again' <<<"$1"; }

# steps_row STAGE VIDEOS FLAGS...: a line of the table of steps
steps_row() {
    local stage=$1 videos=$2 steps
    shift 2
    steps=$((videos / $(value --batch_size "$@")))
    echo "| $stage | $(thousands "$videos") | $steps | $(thousands $((steps * $(value --epochs "$@")))) |"
}

# stage TITLE GPUS MODE EXPERIMENT: its launcher as a comment, its commands
stage() {
    echo "# $1: GPUS=$2 bash paper_scripts/$3/$4.sh"
    show "$2" "$3" "$4"
}

details() { printf '<details>\n<summary>%s</summary>\n\n```bash\n' "$1"; }
end_details() { printf '```\n\n</details>\n'; }

# commands EXPERIMENT: folded up
commands() {
    local experiment=$1
    recipe "$experiment"
    details "<code>$experiment</code>"
    stage "pretraining" "$PRETRAIN_GPUS" pretrain "$experiment"
    stage "retrieval" 1 retrieval "$experiment"
    stage "linear probe and its test" "$FINETUNE_GPUS" linear_probe "$experiment"
    stage "fine-tuning on UCF101" "$FINETUNE_GPUS" finetune "$experiment"
    stage "its test" 1 "test" "$experiment"
    stage "fine-tuning on HMDB51" "$FINETUNE_GPUS" finetune_hmdb51 "$experiment"
    stage "its test" 1 test_hmdb51 "$experiment"
    end_details
}

# family EXPERIMENT...: what they have in common, what differs as a table, their commands
family() {
    local experiment flag own
    recipe "$1"
    own="--framework $(value --framework "${PRETRAIN[@]}")"
    for flag in --clip_weight --moco-k; do
        if [ -n "$(value "$flag" "${PRETRAIN[@]}")" ]; then own+=" $flag $(value "$flag" "${PRETRAIN[@]}")"; fi
    done
    echo "Pretraining with \`$own\` on \`$SET\`, fine-tuning for $(value --epochs "${FINETUNE[@]}") epochs."
    echo
    echo "| experiment | \`--net\` | \`--mode\` |"
    echo "|---|---|---|"
    for experiment in "$@"; do
        recipe "$experiment"
        echo "| \`$experiment\` | $(value --net "${NETWORK[@]}") | $(value --mode "${PRETRAIN[@]}") |"
    done
    echo
    for experiment in "$@"; do commands "$experiment"; done
}

ucf101=9537 hmdb51=3570  # training videos of the official split 1
simclr=() moco=()  # the experiments of the paper's table 2
for net in r21d r3d s3dg c3d; do
    for mode in clip clip-sr clip-sr-tc; do
        simclr+=("simclr_${net}_${mode}_ucf101") moco+=("moco_${net}_${mode}_ucf101")
    done
done
recipe simclr_r21d_clip-sr-tc_k400
after_k400=("${FINETUNE[@]}")
recipe simclr_r21d_clip-sr-tc_ucf101
batch=$(value --batch_size "${PRETRAIN[@]}") clip_weight=$(value --clip_weight "${PRETRAIN[@]}")

cat <<END
<!-- Do not edit: bash paper_scripts/recipes_page.sh > docs/recipes.md writes this page. -->

# Recipes

The full command of each stage of each experiment. Run them from the repository root, in the order in which they are
listed. A launcher prints its commands with \`--show\`, for your number of GPUs, your paths and your split:

\`\`\`bash
GPUS=2 SPLIT=2 bash paper_scripts/run/simclr_r21d_clip-sr-tc_ucf101.sh --show
\`\`\`

The flags come from [recipes.sh](../paper_scripts/recipes.sh). [Training](training.md) and [evaluation](evaluation.md)
explain what they mean.

- [What was run here](#what-was-run-here)
- [Schedules and batch sizes](#schedules-and-batch-sizes)
- [The weight of the clip term](#the-weight-of-the-clip-term)
- [Commands](#commands): [SimCLR](#simclr-on-ucf101), [MoCo](#moco-on-ucf101), [ablations](#ablations-on-ucf101),
  [Kinetics-400](#kinetics-400), [demo](#demo)

## What was run here

Of the experiments on this page, only the [demo](#demo) was run. **The paper's recipes were not run here**, and none of the
paper's numbers has been reproduced, so there are no training times. What the tests check: every command is accepted by its
script, every network can be built, and some of the launchers are started with \`--dry_run\` on small data sets.

## Schedules and batch sizes

| stage | GPUs x videos = batch | learning rate | x 0.1 at epoch | epochs | weight decay | frames x stride | pixels |
|---|---|---|---|---|---|---|---|
$(training_row "pretraining" "$PRETRAIN_GPUS" "${PRETRAIN[@]}")
$(training_row "fine-tuning after UCF101" "$FINETUNE_GPUS" "${FINETUNE[@]}")
$(training_row "fine-tuning after Kinetics-400" "$FINETUNE_GPUS" "${after_k400[@]}")
$(training_row "linear probe after UCF101" "$FINETUNE_GPUS" "${PROBE[@]}")

The numbers of GPUs are the paper's: $PRETRAIN_GPUS for pretraining, $FINETUNE_GPUS for fine-tuning. The linear probe is this project's own
and follows the fine-tuning recipe. Test and retrieval take ten clips of each video, at stride $(value --ds "${TEST[@]}") and $(value --ds "${RETRIEVAL[@]}"), with the
centre crop; one GPU is enough for them.

**Batch.** \`--batch_size\` is the *global* batch, which is divided over the processes: \`GPUS=2\` trains with 2 x $((batch / 2)) = $batch,
\`GPUS=1\` with 1 x $batch. Losses and gradients stay the same, because the recipes synchronise batch norm (\`--bn sync\`). If a
batch does not fit into the memory, \`--accumulate N\` passes it in N parts; batch norm then takes its statistics over a part.

**Steps.** The last, incomplete batch of an epoch is left out.

| stage | training videos | steps per epoch | steps |
|---|---:|---:|---:|
$(steps_row "pretraining on UCF101, split 1" $ucf101 "${PRETRAIN[@]}")
$(steps_row "fine-tuning on UCF101, split 1" $ucf101 "${FINETUNE[@]}")
$(steps_row "fine-tuning on HMDB51, split 1" $hmdb51 "${FINETUNE[@]}")

**Learning rate.** SGD with momentum 0.9, no warm-up. The rate drops at the start of the epochs in the table, which are
counted from 0. It is not scaled with the batch size: if you change \`--batch_size\`, choose \`--lr\` as well.

**Which checkpoint.** Pretraining saves every $(value --save_freq "${PRETRAIN[@]}") epochs. As in the release, the checkpoint of epoch $EVAL_EPOCH (counted from 0)
is evaluated and not the last one; \`--keep_epoch $EVAL_EPOCH\` makes sure that it is there. \`EVAL_EPOCH=last\` takes the last one.
Fine-tuning is tested after its last epoch. The test list never chooses a checkpoint.

## The weight of the clip term

The SimCLR recipes set \`--clip_weight $clip_weight\`, which is 1/$PRETRAIN_GPUS. The release gathers the clip embeddings of its $PRETRAIN_GPUS GPUs, but
passes no gradient back through the gather. When the gradients are averaged over the GPUs, only 1/$PRETRAIN_GPUS of the clip term's
gradient is left. Here the gather passes gradients back, so the gradient is exact on any number of GPUs. The weight restores
what the release trained, and it is the same for 1 or 64 GPUs. \`--clip_weight 1\` trains with the whole clip term.

No other term needs such a weight. The release's TC gradient is close to the exact one (0.93 of its size, cosine 0.976). SR
compares segments of one video, so nothing is gathered. In MoCo, the keys that are gathered have no gradient anyway.

## Commands

Unfold an experiment to see its commands. The comment above a command is the launcher that runs it.

### SimCLR on UCF101

$(family "${simclr[@]}")

### MoCo on UCF101

$(family "${moco[@]}")

### Ablations on UCF101

Without the clip term, so its weight has no effect.

$(family simclr_r3d_sr-tc_ucf101 simclr_r3d_tc_ucf101)

### Kinetics-400

$(family simclr_r21d_clip-sr-tc_k400)

### Demo

The demo's recipe is not the paper's: it is made for two CPU cores. The classes differ only in the order of time, so clips are
never reversed. These are the commands of \`bash paper_scripts/run/demo.sh\` on one process.

$(details "<code>demo</code>"; show 1 run demo; end_details)
END

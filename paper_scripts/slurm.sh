#!/usr/bin/env bash
# shellcheck source-path=SCRIPTDIR
# Submits a launcher as a Slurm job that saves itself before its time limit, is requeued and goes on, until it is done:
#   bash paper_scripts/slurm.sh <mode> <experiment> [--show] [flags of the stage's script] [-- options of sbatch]
#   bash paper_scripts/slurm.sh run simclr_r21d_clip-sr-tc_k400 -- --nodes 2 --gpus-per-node 8 --time 24:00:00
# It prints the batch script with --show and submits nothing. docs/clusters.md explains the rest.
#
# modes, experiments, environment  those of launch.sh; GPUS, NNODES, NODE_RANK, MASTER_* are set from the allocation
# SBATCH_*                         options of sbatch, as sbatch reads them; those after -- win
set -eu -o pipefail

here=$(dirname "$(readlink -f "$0")")
# shellcheck source=common.sh
source "$here/common.sh"

show='' words=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    if [ "$1" = --show ]; then show=1; else words+=("$1"); fi
    shift
done
if [ $# -gt 0 ]; then shift; fi  # what is left are sbatch's
[ ${#words[@]} -ge 2 ] || wrong "give a mode and an experiment: bash paper_scripts/slurm.sh <mode> <experiment>"
# the launcher knows what is wrong with them, before anything is submitted
env -u NNODES -u NODE_RANK -u MASTER_ADDR -u MASTER_PORT bash "$here/launch.sh" "${words[@]}" --show >/dev/null || exit
if [ -z "$show" ]; then
    command -v sbatch >/dev/null || die "there is no sbatch here: submit from a machine of the cluster, or start" \
        "without Slurm: bash paper_scripts/launch.sh ${words[*]:0:2}"
    # shellcheck source=env.sh
    source "$here/env.sh" requirements.txt  # here, not at once on all nodes, which may not reach the internet
fi
LOG=${LOG_DIR:-log}/${PREFIX:-dualvar}

batch_script() {
    cat <<END
#!/bin/bash
#SBATCH --job-name=${words[1]}-${words[0]}
#SBATCH --output="${LOG/#[!\/]*/$PWD/$LOG}/slurm-%j.out"
#SBATCH --open-mode=append
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
#SBATCH --signal=B:USR1@300
END
    if [ $# -gt 0 ]; then echo "# submitted with: ${*@Q}"; fi
    printf 'cd %q || exit\nlog=%q experiment=%q\nlauncher=(bash paper_scripts/launch.sh' "$PWD" "$LOG" "${words[1]}"
    printf ' %q' "${words[@]}"
    printf ')\n'
    cat <<'END'

# the checkpoints of the experiment and their times: they change where a stage saves
checkpoints() { find "$log" -path "*$experiment*" -name latest.pth.tar -printf '%p %T@\n' | sort; }

MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR MASTER_PORT=$((10000 + SLURM_JOB_ID % 20000)) NNODES=$SLURM_NNODES
export STOPPED_CODE=75  # with which a launcher ends that was asked to stop
before=$(checkpoints)
echo "job $SLURM_JOB_ID on $SLURM_JOB_NODELIST, start $((${SLURM_RESTART_COUNT:-0} + 1)), $(date)"

# Slurm announces the time limit to this shell alone (B:USR1), which asks the launchers to stop; it asks those of a
# preempted or cancelled job itself. A node may end before the first one has saved: --wait, no --kill-on-bad-exit.
at_limit='' status=0
trap 'at_limit=1; kill -USR1 "$step"' USR1
trap : TERM
# shellcheck disable=SC2016  # these variables are each node's own
srun --ntasks="$NNODES" --ntasks-per-node=1 ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} \
    --cpu-bind=none --kill-on-bad-exit=0 --wait=300 \
    bash -c 'export NODE_RANK=$SLURM_NODEID GPUS=${SLURM_GPUS_ON_NODE:-${GPUS:-}}; exec "$@"' launcher "${launcher[@]}" &
step=$!
while true; do
    status=0
    wait "$step" || status=$?
    kill -0 "$step" 2>/dev/null || break
done
trap '' USR1 TERM

case $status in
    0) echo "done"; exit ;;
    75 | 138 | 143) ;;  # stopped, or ended by USR1 or TERM before it could be
    *) echo "error: the launcher ended with $status: not requeued" >&2; exit "$status" ;;
esac
if [ -n "$at_limit" ] && [ "$(checkpoints)" = "$before" ]; then
    echo "error: nothing was saved before the time limit: not requeued, give the job more --time" >&2
    exit 1
fi
if [ "$(squeue --noheader --jobs "$SLURM_JOB_ID" --format %T)" != RUNNING ]; then  # scancel, or requeued by Slurm
    echo "stopped"
    exit 1
fi
echo "stopped: requeued, to go on from there"
scontrol requeue "$SLURM_JOB_ID"
END
}

if [ -n "$show" ]; then batch_script "$@"; exit; fi
mkdir -p "$LOG"
batch_script "$@" | sbatch "$@"

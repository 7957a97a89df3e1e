#!/usr/bin/env bash
# shellcheck disable=SC2154  # `show` and `dry_run` are set by the launcher, CHANGED_PATHS by common.sh
# Sourced by the launchers: every command is printed, so that a copy of it runs from the repository's root, and then
# run. The caller sets `show` (not empty: print only), `dry_run` (not empty: stages are only checked), PYTHON (needed
# only to run), GPUS and NNODES, and for several machines NODE_RANK, MASTER_ADDR and MASTER_PORT.

if [ -n "$show" ] && [ -z "${PYTHON:-}" ]; then  # nothing is installed to print a command
    PYTHON=python
    if [ -z "${VIRTUAL_ENV:-}" ] && [ "${CONDA_DEFAULT_ENV:-base}" = base ] && [ -x .venv/bin/python ]; then
        PYTHON=.venv/bin/python
    fi
fi

# print_command WORD...: quoted for a shell, a line of up to 118 characters after the other, broken before flags
print_command() {
    local groups=('') line='' group word
    for word in "${CHANGED_PATHS[@]}" "$@"; do
        printf -v word %q "$word"
        if [[ $word == -* ]] || [ ${#groups[-1]} -gt 70 ]; then
            groups+=("$word")
        else
            groups[-1]+="${groups[-1]:+ }$word"  # a flag's value stays beside it
        fi
    done
    for group in "${groups[@]}"; do
        if [ -n "$line" ] && [ $((${#line} + ${#group})) -gt 115 ]; then
            printf '%s \\\n' "$line"
            line='   '
        fi
        line+="${line:+ }$group"
    done
    printf '%s\n' "$line"
}

# with_parent PID COMMAND...: run it in this process; it is asked to stop when its parent PID ends, even by kill -9
with_parent() { exec "$PYTHON" -m core.lifeline "$@"; }

# one_pace WORD...: of --ds and --fps, which exclude each other, only the last stays, as with any flag -> array WORDS
one_pace() {
    local word other='' dropped=''
    WORDS=()
    for word in "$@"; do
        case "$word" in --ds | --ds=*) other=--fps ;; --fps | --fps=*) other=--ds ;; esac
    done
    for word in "$@"; do
        if [ -n "$dropped" ]; then  # its value
            dropped=''
        elif [ -n "$other" ] && [ "$word" = "$other" ]; then
            dropped=1
        elif [ -z "$other" ] || [[ $word != "$other="* ]]; then
            WORDS+=("$word")
        fi
    done
}

# run_python WORDS...: what is no stage
run_python() {
    local shell=$BASHPID
    one_pace "$@"
    set -- "${WORDS[@]}"
    print_command "$PYTHON" "$@"
    if [ -z "$show" ]; then (with_parent "$shell" "$PYTHON" "$@"); fi
}

# A signal asks the stage that runs to save itself and stop, and no other is begun. The launcher's exit code is 0 then;
# STOPPED_CODE (slurm.sh sets it) asks for a code that tells a stopped launcher from one that is done.
stage_pid='' signalled=''
trap 'signalled=1; if [ -n "$stage_pid" ]; then kill -TERM "$stage_pid" 2>/dev/null || true; fi' INT TERM USR1

whole_number STOPPED_CODE "${STOPPED_CODE:-0}" 0 255 "the exit code of a launcher that was asked to stop"
stopped() { exit "${STOPPED_CODE:-0}"; }

# launch SCRIPT FLAGS...: a stage in one process, or with torchrun in several; a dry run is one process that checks
# for all of them
launch() {
    local command=("$PYTHON") status shell=$BASHPID
    if [ -n "$dry_run" ]; then
        set -- "$@" --dry_run $((GPUS * NNODES))
        if [ "$GPUS" -gt 1 ]; then command=(env LOCAL_WORLD_SIZE="$GPUS" "$PYTHON"); fi  # as torchrun will say
    elif [ "$NNODES" -gt 1 ]; then
        command+=(-m torch.distributed.run --nnodes "$NNODES" --node_rank "$NODE_RANK" --nproc_per_node "$GPUS"
                  --master_addr "$MASTER_ADDR" --master_port "$MASTER_PORT")
    elif [ "$GPUS" -gt 1 ]; then
        command+=(-m torch.distributed.run --standalone --nproc_per_node "$GPUS")  # takes a free port
    fi
    one_pace "$@"
    command+=("${WORDS[@]}")
    if [ -n "$signalled" ]; then stopped; fi
    print_command "${command[@]}"
    if [ -n "$show" ]; then return; fi
    # In the background: bash acts on a signal while it waits, not while it runs a command. Slurm sends USR1 to all
    # processes at once, which would kill torchrun; the stage ignores it until its training handles it.
    (trap '' USR1; with_parent "$shell" "${command[@]}") &
    stage_pid=$!
    if [ -n "$signalled" ]; then kill -TERM "$stage_pid" || true; fi
    while true; do
        status=0
        wait "$stage_pid" || status=$?
        kill -0 "$stage_pid" 2>/dev/null || break
    done
    stage_pid=''
    if [ -n "$signalled" ] && { [ "$status" -eq 0 ] || [ -n "${STOPPED_CODE:-}" ]; }; then stopped; fi
    return "$status"
}

# train FOLDER SCRIPT FLAGS...: launch it; where it was asked to stop, by whatever signal, the launcher ends too
train() {
    local folder=$1 status=0
    shift
    if [ -n "$show$dry_run" ]; then launch "$@"; return; fi
    rm -f "$folder/STOPPED"
    launch "$@" || status=$?
    if [ -e "$folder/STOPPED" ]; then stopped; fi
    return "$status"
}

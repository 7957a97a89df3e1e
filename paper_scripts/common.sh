#!/usr/bin/env bash
# Sourced by env.sh and the launchers: how they complain, the caller's paths made absolute, and from here on the
# repository's root as the working directory.

die() { echo "error: $*" >&2; exit 1; }
wrong() { echo "error: $*" >&2; exit 2; }  # a flag, a mode, an experiment or a variable of the environment

# paths are relative to the caller's folder; CHANGED_PATHS: those that a command needs in its environment
CHANGED_PATHS=()
for name in PYTHON DUALVAR_DATA DUALVAR_LISTS LOG_DIR PRETRAINED; do
    path=${!name:-}
    case "$name=$path" in
        *=/* | *= | PRETRAINED=random | PRETRAINED=thumbnail) continue ;;
        PYTHON=*) case "$path" in */*) ;; *) continue ;; esac ;;
    esac
    export "$name=$PWD/$path"
    case "$name" in DUALVAR_*) CHANGED_PATHS+=("$name=$PWD/$path") ;; esac
done
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

# whole_number NAME VALUE LOW HIGH MEANING: complain unless VALUE is a whole number in this range
whole_number() {
    if ! [[ $2 =~ ^(0|[1-9][0-9]{0,9})$ ]] || [ "$2" -lt "$3" ] || [ "$2" -gt "$4" ]; then
        wrong "$1=$2 is not a whole number from $3 to $4: it is $5"
    fi
}

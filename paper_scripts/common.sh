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

# one_word NAME VALUE MEANING: complain where VALUE, if it is not empty, would be taken for a flag or several words
one_word() {
    case "$2" in
        -* | *[[:space:][:cntrl:]]*) wrong "$1=${2@Q} is not one word that begins without a dash: it is $3" ;;
    esac
}

# path_of NAME VALUE MEANING: complain where VALUE, if it is not empty, would be taken for a flag or several lines
path_of() {
    case "$2" in -* | *[[:cntrl:]]*) wrong "$1=${2@Q} is not a path that begins without a dash: it is $3" ;; esac
}

# flags_of NAME: complain where this variable, if it is not empty, holds anything but flags with blanks between
flags_of() {
    case "${!1:-}" in
        *[[:cntrl:]]*) wrong "$1=${!1@Q} has a control character: it holds flags of one kind of stage" ;;
        "" | -*) ;;
        *) wrong "$1=${!1@Q} does not begin with a dash: it holds flags of one kind of stage" ;;
    esac
}

#!/usr/bin/env bash
# Sourced by the launchers and tests/run.sh: goes to the repository and sets PYTHON to an interpreter that has the
# requirements files named as arguments.
#   PYTHON=/path/python          is used if it has them; if not, they are installed into its environment,
#                                or, where it belongs to none, into a .venv made from it
#   an active venv or conda env  is used; what it lacks is installed into it
#   otherwise                    .venv in the repository, made once with python3

# shellcheck source-path=SCRIPTDIR source=common.sh
declare -F wrong >/dev/null || source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

use_environment() {
    local python=${PYTHON:-} in_environment="import sys; sys.exit(sys.prefix == sys.base_prefix)"
    if [ -z "$python" ] && [ -n "${VIRTUAL_ENV:-}" ]; then
        python=$VIRTUAL_ENV/bin/python
    elif [ -z "$python" ] && [ -n "${CONDA_PREFIX:-}" ] && [ "${CONDA_DEFAULT_ENV:-base}" != base ]; then
        python=$CONDA_PREFIX/bin/python in_environment=True
    fi
    if [ -n "$python" ]; then
        [ "$("$python" -c 'print(7 * 191)' 2>/dev/null)" = 1337 ] ||
            wrong "$python does not run as Python: PYTHON, or the active environment, names it"
        if "$python" core/check_requirements.py "$@" >/dev/null 2>&1; then PYTHON=$python; return; fi
    fi
    if [ -z "$python" ] || ! "$python" -c "$in_environment"; then
        python=${python:-python3}
        command -v "$python" >/dev/null || die "no $python: install Python 3.10 to 3.13, or name one with PYTHON="
        if [ ! -x .venv/bin/python ]; then
            "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' ||
                die "$("$python" -V) is not 3.10 to 3.13: name another with PYTHON="
            echo "making .venv with $("$python" -V)"
            "$python" -m venv .venv || die "could not make .venv (on Debian: apt install python3-venv)"
        fi
        python=.venv/bin/python
    fi
    if ! "$python" core/check_requirements.py "$@"; then
        echo "installing them into the environment of $python (torch is large: minutes)"
        "$python" -m pip install --quiet --disable-pip-version-check "${@/#/-r}" || die "pip could not install the requirements"
    fi
    PYTHON=$python
}

use_environment "$@"
export PYTHON

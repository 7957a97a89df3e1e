#!/usr/bin/env bash
# Sets everything up, then runs the linter, the type checker and the tests: two files of tests at a time, each on one
# thread.
#   bash tests/run.sh            everything
#   bash tests/run.sh --quick    without the tests marked slow; some still cover every part of the project
# Other arguments go to pytest: bash tests/run.sh -k golden
set -eu -o pipefail
arguments=()
for argument; do
    case $argument in --quick) arguments+=(-m "not slow") ;; *) arguments+=("$argument") ;; esac
done
source "$(dirname "$(readlink -f "$0")")/../paper_scripts/env.sh" requirements.txt requirements-share.txt requirements-search.txt tests/requirements.txt
"$PYTHON" -m ruff check .
"$PYTHON" -m mypy
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec "$PYTHON" -m pytest -n 2 --dist loadfile "${arguments[@]}"

#!/usr/bin/env bash
# Sets everything up, then runs the linter, the type checker and the tests: three files of tests at a time, each on one
# thread; on two cores too, as many tests wait for processes.
#   bash tests/run.sh            without most of the tests marked slow: of each kind one is kept
#   bash tests/run.sh --quick    without any of them; some tests still cover every part of the project
#   bash tests/run.sh --all      everything: three times as long
# Other arguments go to pytest: bash tests/run.sh --all -k golden
set -eu -o pipefail
arguments=() chosen="not slow or kept"
for argument; do
    case $argument in
        --quick) chosen="not slow" ;;
        --all) chosen='' ;;
        *) arguments+=("$argument") ;;
    esac
done
source "$(dirname "$(readlink -f "$0")")/../paper_scripts/env.sh" requirements.txt requirements-share.txt requirements-search.txt tests/requirements.txt
"$PYTHON" -m ruff check .
"$PYTHON" -m mypy
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec "$PYTHON" -m pytest -n 3 --dist loadfile ${chosen:+-m "$chosen"} "${arguments[@]}"

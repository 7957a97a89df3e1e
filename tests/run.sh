#!/usr/bin/env bash
# Sets everything up, then runs the linter and the tests, two files of them at a time, on one thread each.
# Extra arguments go to pytest: bash tests/run.sh -k golden
set -eu -o pipefail
source "$(dirname "$(readlink -f "$0")")/../paper_scripts/env.sh" requirements.txt tests/requirements.txt
"$PYTHON" -m ruff check .
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec "$PYTHON" -m pytest -n 2 --dist loadfile "$@"

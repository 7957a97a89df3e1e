#!/usr/bin/env bash
# Sets everything up, then runs the linter and the tests. Extra arguments go to pytest: bash tests/run.sh -k golden
set -eu -o pipefail
source "$(dirname "$(readlink -f "$0")")/../paper_scripts/env.sh" requirements.txt tests/requirements.txt
"$PYTHON" -m ruff check .
exec "$PYTHON" -m pytest "$@"

#!/usr/bin/env bash
# Checks and measures everything on a machine with GPUs, in 9 minutes at most: benchmarks/results/gpu-<name>.md.
# Flags are benchmarks/gpu.py's. Nothing else should run meanwhile.
set -eu -o pipefail
source "$(dirname "$(readlink -f "$0")")/../paper_scripts/env.sh" requirements.txt
"$PYTHON" benchmarks/gpu.py "$@"

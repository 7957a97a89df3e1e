#!/usr/bin/env bash
# Every benchmark but those that are long or need a data set (memory.py, monitors.py, networks.py, storage.py), one after the other:
# benchmarks/results/*.md and *.png. 15 to 25 minutes on 2 cores; nothing else should run meanwhile.
set -eu -o pipefail
[ $# -eq 0 ] || { echo "error: $*: benchmarks/run.sh takes no flags; call a benchmark by itself" >&2; exit 2; }
source "$(dirname "$(readlink -f "$0")")/../paper_scripts/env.sh" requirements.txt
results=benchmarks/results
for name in data video start step evaluate retrieval; do
  "$PYTHON" benchmarks/$name.py --out $results/$name.md
done
"$PYTHON" benchmarks/scaling.py --out $results/scaling.md --plot $results/scaling.png

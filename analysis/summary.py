"""Table of what an experiment's stages measured, from their results.json.

    python -m analysis.summary log/dualvar demo
"""
import json
import sys
from pathlib import Path


def rows_of(log, experiment):
    """(stage, data set, videos tested, {measure: value}) of each result there is."""
    for label, names in (("retrieval, random weights", f"{experiment}_random"),
                         ("retrieval, pretrained", f"{experiment}"), ("retrieval, pretrained", f"{experiment}_split*")):
        for path in sorted((log / "retrieval").glob(f"{names}/results.json")):
            found = json.loads(path.read_text())
            measures = {k: found["results"][k] for k in ("R@1", "R@5") if k in found["results"]}
            yield label, found["flags"]["dataset"], found["queries"], measures, found["classes"]
    for label, stage in (("linear probe", "last"), ("fine-tuned", "ft")):
        for path in sorted((log / "test").glob(f"{experiment}_{stage}_on_*/results.json")):
            found = json.loads(path.read_text())
            last = list(found["results"].values())[-1]
            yield (f"{label}, {found['flags']['clips']}-clip test", found["flags"]["dataset"], int(last["videos"]),
                   {"top-1": last["top1"], "top-5": last["top5"]}, found["classes"])


def main():
    log, experiment = Path(sys.argv[1]), sys.argv[2]
    print(f"\n{'':<32} {'data set':<14} {'videos':>6}  {'chance':>6}")
    for label, dataset, videos, measures, classes in rows_of(log, experiment):
        values = "   ".join(f"{name} {value:.3f}" for name, value in measures.items())
        print(f"{label:<32} {dataset:<14} {videos:>6}  {1 / classes:>6.3f}   {values}")


if __name__ == "__main__":
    main()

"""The table of paper_scripts/run/evidence.sh."""
import json
import runpy

import numpy as np
import pytest
from helpers import REPOSITORY

evidence = runpy.run_path(str(REPOSITORY / "paper_scripts/evidence.py"))


def write(log, name, r1, linear, within=None):
    for folder, file, content in (("retrieval", "results.json", {"results": {"R@1": r1, "R@50": 1.0}}),
                                  ("features", "probe.json", {"linear": linear})):
        (log / folder / name).mkdir(parents=True)
        (log / folder / name / file).write_text(json.dumps(content))
    if within is not None:
        (log / "pretrain" / name).mkdir(parents=True)
        rows = [{"epoch": 0, "variance/within_video": 9.0}, {"epoch": 1, "variance/within_video": within}, {"epoch": 2}]
        (log / "pretrain" / name / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_rows_are_modes_with_mean_and_deviation_over_seeds(tmp_path):
    write(tmp_path, "thumbnail_ucf101-5class_split1", 0.3, [0.4])
    write(tmp_path, "clip-sr_ucf101-5class_split1_seed0", 0.5, [0.6, 0.8], within=0.25)
    write(tmp_path, "clip-sr_ucf101-5class_split1_seed1", 0.7, [0.7, 0.9], within=0.35)
    write(tmp_path, "clip_demo_split1_seed0", 0.2, [0.2])
    (tmp_path / "retrieval" / "something_else").mkdir()
    lines = evidence["table"](evidence["collect"](tmp_path))
    assert lines[0] == "demo, split 1" and "| clip | 1 | 0.200 | 0.200 |" in lines
    assert "| mode | seeds | R@1 | linear probe | within a video |" in lines
    assert "| thumbnail | 1 | 0.300 | 0.400 |  |" in lines
    assert f"| clip-sr | 2 | 0.600 +- {np.std([0.5, 0.7], ddof=1):.3f} | 0.750 +- 0.071 | 0.300 +- 0.071 |" in lines


def test_no_results_are_an_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["evidence.py", str(tmp_path)])
    with pytest.raises(SystemExit):
        evidence["main"]()
    assert "no results" in capsys.readouterr().err

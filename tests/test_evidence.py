"""The table of paper_scripts/run/evidence.sh."""
import itertools
import json
import re

import numpy as np
import pytest
from helpers import results_of

from analysis import evidence
from analysis.modes import mode_position, parse_cell, unknown_modes
from core.errors import DataError, UsageError
from models.dualvar import TERMS, Term


def write(log, name, r1, linear, within=None, shots=None, **flags):
    few = {} if shots is None else {"shots": shots}
    for folder, file, content in (("retrieval", "results.json", {"results": {"R@1": r1, "R@50": 1.0}, "flags": flags}),
                                  ("features", "probe.json", {"linear": linear, **few})):
        (log / folder / name).mkdir(parents=True)
        (log / folder / name / file).write_text(json.dumps(content))
    if within is not None:
        (log / "pretrain" / name).mkdir(parents=True)
        rows = [{"epoch": 0, "variance/within_video": 9.0}, {"epoch": 1, "variance/within_video": within}, {"epoch": 2}]
        (log / "pretrain" / name / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_rows_are_modes_with_mean_and_deviation_over_seeds(tmp_path, capsys):
    write(tmp_path, "thumbnail_ucf101-5class_split1", 0.3, [0.4])
    write(tmp_path, "clip-sr_ucf101-5class_split1_seed0", 0.5, [0.6, 0.8], within=0.25)
    write(tmp_path, "clip-sr_ucf101-5class_split1_seed1", 0.7, [0.7, 0.9], within=0.35)
    write(tmp_path, "clip_demo_split1_seed0", 0.2, [0.2])
    (tmp_path / "retrieval" / "simclr_r3d_clip_ucf101_split2").mkdir()  # of a launcher
    cells = evidence.collect(tmp_path)
    table = evidence.summary(cells[cells["dataset"] == "ucf101-5class"]).set_index("mode")
    assert table.columns.tolist() == ["seeds", "R@1", "linear probe", "within a video"]
    assert table.loc["thumbnail"].tolist() == [1, "0.300", "0.400", ""]
    assert table.loc["clip-sr"].tolist() == [2, f"0.600 ± {np.std([0.5, 0.7], ddof=1):.3f}", "0.750 ± 0.071",
                                             "0.300 ± 0.071"]
    evidence.main([str(tmp_path), "--out", str(tmp_path / "table.md")])
    printed = capsys.readouterr().out
    assert "\nnote: simclr_r3d_clip_ucf101_split2 is not in the table by mode: simclr is neither thumbnail" in printed
    assert printed.startswith("demo, split 1\n\n| mode | seeds | R@1 | linear probe |\n")
    assert "| clip | 1 | 0.200 | 0.200 |\n" in printed and (tmp_path / "table.md").read_text() in printed
    assert (tmp_path / "table.csv").read_text().startswith("mode,dataset,split,seed,R@1")


def test_cells_with_other_budgets_are_named(tmp_path, capsys):
    for mode, seed, epochs, lr in (("clip", 0, 9, 0.1), ("clip", 1, 9, 0.2), ("tc", 0, 8, 0.3), ("tc", 1, 9, 0.3)):
        write(tmp_path, name := f"{mode}_demo_split1_seed{seed}", 0.5, [0.6])
        (tmp_path / "pretrain" / name).mkdir(parents=True)
        (tmp_path / "pretrain" / name / "flags.json").write_text(json.dumps({"flags": {"epochs": epochs, "lr": lr}}))
    evidence.main([str(tmp_path)])
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("note")] == [
        "note: demo: clip_demo_split1_seed1 was pretrained with --lr 0.2, and clip_demo_split1_seed0 with 0.1",
        "note: demo: tc_demo_split1_seed0 was pretrained with --epochs 8, and clip_demo_split1_seed0 with 9"]


def test_results_of_other_clips_or_draws_are_named(tmp_path, capsys):
    for name, linear, ds in (("a_seed0", [0.5, 0.5], 2), ("b_seed0", [0.5], 7), ("b_seed1", [0.5, 0.5], 2)):
        write(tmp_path, name, 0.5, linear, dataset="demo", split=1, ds=ds, clips=10)
    for name, flags in (("a_seed0", {}), ("b_seed0", {"draws": 9})):
        (tmp_path / "temporal" / name).mkdir(parents=True)
        found = results_of("x")
        found["flags"].update(flags)
        (tmp_path / "temporal" / name / "results.json").write_text(json.dumps(found))
    evidence.main([str(tmp_path), "--variants", "--base", "a"])
    own = results_of("x")["flags"]["draws"]
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("note")] == [
        "note: demo: retrieval with --ds 7 in b_seed0, and 2 in a_seed0",
        "note: demo: linear probe, draws: 1 in b_seed0, and 2 in a_seed0",
        f"note: demo: questions about time with --draws 9 in b_seed0, and {own} in a_seed0"]


def test_top1_of_shuffled_segments_is_of_both_views_and_the_last_epochs(tmp_path, capsys):
    name = "clip-sr_demo_split1_seed0"
    write(tmp_path, name, 0.5, [0.6])
    rows = [{"epoch": i, "top1_permuted/sr_view1": i / 10, "top1_permuted/sr_view3": i / 20} for i in range(8)]
    rows[4]["order/shuffled"] = 0.25
    (tmp_path / "pretrain" / name).mkdir(parents=True)
    (tmp_path / "pretrain" / name / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    evidence.main([str(tmp_path)])
    assert capsys.readouterr().out == (
        "demo, split 1\n\n| mode | seeds | R@1 | linear probe | order | SR top-1, permuted |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: |\n| clip-sr | 1 | 0.500 | 0.600 | 0.250 | 0.375 |\n\n"
        f"note: {name}: variances and order are of epoch 5 of 8, the last in which --eval_every had them measured\n")


def test_probes_without_recordings_of_the_test_list_have_columns_of_their_own(tmp_path, capsys):
    name = "clip_demo_split1_seed0"
    write(tmp_path, name, 0.2, [0.2])
    (tmp_path / "features" / name / "probe_apart.json").write_text('{"linear": [0.1], "vote": {"1": 0.15, "5": 0.3}}')
    evidence.main([str(tmp_path)])
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert table[0] == "| mode | seeds | R@1 | linear probe | linear probe, apart | R@1, apart |"
    assert table[-1] == "| clip | 1 | 0.200 | 0.200 | 0.100 | 0.150 |"


def test_probes_of_few_shots_are_columns_where_there_are_any(tmp_path, capsys):
    write(tmp_path, "clip_demo_split1_seed0", 0.2, [0.2], shots={"1": [0.25, 0.35], "10": [0.5]})
    write(tmp_path, "clip_demo_split1_seed1", 0.2, [0.2], shots={"1": [0.5, 0.5], "10": [0.5]})
    write(tmp_path, "random_demo_split1", 0.1, [0.1], shots={})
    evidence.main([str(tmp_path)])
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")] == [
        "| mode | seeds | R@1 | linear probe | 1-shot | 10-shot |", "| --- |" + " ---: |" * 5,
        "| random | 1 | 0.100 | 0.100 |  |  |",
        "| clip | 2 | 0.200 ± 0.000 | 0.200 ± 0.000 | 0.400 ± 0.141 | 0.500 ± 0.000 |"]


def test_differences_are_paired_by_seed(tmp_path, capsys):
    for seed, (base, other) in enumerate(((0.1, 0.2), (0.5, 0.6), (0.3, 0.55))):
        write(tmp_path, f"clip_demo_split1_seed{seed}", base, [0.5])
        write(tmp_path, f"tc_demo_split1_seed{seed}", other, [0.5 + 0.1 * (seed == 0)])
    write(tmp_path, "tc_demo_split1_seed3", 1.0, [1.0])  # without a partner
    write(tmp_path, "sr-tc_demo_split1_seed0", 0.9, [0.9])  # one says nothing of chance
    write(tmp_path, "thumbnail_demo_split1", 0.9, [0.9])
    evidence.main([str(tmp_path)])
    reach = 4.302653 * np.std([0.1, 0.1, 0.25], ddof=1) / 3**0.5  # t of 2 degrees of freedom
    printed = capsys.readouterr().out.replace("\\", "").split("| mode, less clip |")[1]
    assert [line for line in printed.splitlines() if " (" in line] == [
        f"| tc | 3 | +0.150 ({0.15 - reach:.3f} to {0.15 + reach:.3f}) | +0.033 (-0.110 to 0.177) |"]
    evidence.main([str(tmp_path), "--base", "sr-tc"])
    assert "less" not in capsys.readouterr().out
    with pytest.raises(UsageError, match="--base no-mode"):
        evidence.main([str(tmp_path), "--base", "no-mode"])


@pytest.mark.parametrize("shots, says", [
    ({"1": []}, "1-shot is empty"), ({"one": [0.5]}, "'one' is no number of shots"), ({"0": [0.5]}, "'0' is no number"),
    ({"5": 0.5}, "5 is not a list"), ({"5": ["x"]}, r"5\[0\] is not a finite number"), ([0.5], "shots is not a dict")])
def test_shots_that_cannot_be(shots, says, tmp_path):
    write(tmp_path, "clip_demo_split1", 0.2, [0.2], shots=shots)
    with pytest.raises(DataError, match=rf"probe.json is damaged \({says}.*\): remove it, and run"):
        evidence.collect(tmp_path)


def test_every_combination_of_terms_is_a_mode_and_they_are_in_order():
    modes = ["-".join(terms) for size in range(1, len(TERMS) + 1) for terms in itertools.permutations(TERMS, size)]
    cells = [parse_cell(f"{mode}_my_set_split12_seed3") for mode in ["thumbnail", "random", *modes]]
    assert all(cell.known and (cell.dataset, cell.split, cell.seed) == ("my_set", "12", "3") for cell in cells)
    assert [cell.mode for cell in sorted(cells, key=lambda cell: mode_position(cell.mode))] == [
        "thumbnail", "random", "clip", "sr", "tc", "clip-sr", "sr-clip", "clip-tc", "tc-clip", "sr-tc", "tc-sr",
        *modes[-6:]]
    assert parse_cell("clip_demo_split1").seed is None and parse_cell("demo_random") is None


def test_a_new_term_is_in_the_table_and_what_is_unknown_is_named(tmp_path, monkeypatch, capsys):
    write(tmp_path, "clip_demo_split1_seed0", 0.2, [0.2])
    write(tmp_path, "my_term-clip_demo_split1_seed0", 0.7, [0.7], within=0.5)
    write(tmp_path, "clip-clip_demo_split1_seed0", 0.1, [0.1])
    log = tmp_path / "pretrain/my_term-clip_demo_split1_seed0/log.jsonl"
    log.write_text('{"epoch": 0, "variance/within_video": 0.5, "top1_permuted/mine": 0.75}\n')
    evidence.main([str(tmp_path)])
    printed = capsys.readouterr().out
    assert printed.count("\n| ") == 3  # head, rule and clip
    notes = re.findall(r"^note: (\S+) is .*: (\S+) is neither .* made of the terms (.*), each once", printed, re.M)
    assert notes == [("clip-clip_demo_split1_seed0", "clip-clip", "clip, sr, tc"),
                     ("my_term-clip_demo_split1_seed0", "my", "clip, sr, tc")]
    monkeypatch.setitem(TERMS, "my_term", Term("segment", ("view1", "restored"), lambda *_: {}, ("mine",)))
    table = evidence.summary(evidence.collect(tmp_path)).set_index("mode")
    assert table.index.tolist() == ["clip", "my_term-clip"] and table.loc["my_term-clip", "R@1"] == "0.700"
    assert table.loc["my_term-clip", "MY_TERM top-1, permuted"] == "0.750"
    assert unknown_modes(["my_term-clip_demo_split1", "my_term-x_demo_split1"]) == [
        "my_term-x_demo_split1 is not in the table by mode: my is neither thumbnail nor random nor made of the terms "
        "clip, sr, tc, my_term, each once and joined by '-'"]


def test_no_results_and_damaged_ones_are_errors(tmp_path):
    with pytest.raises(UsageError, match="no results"):
        evidence.main([str(tmp_path)])
    write(tmp_path, "clip_demo_split1_seed0", 0.2, [0.2], within=0.1)
    log = tmp_path / "pretrain/clip_demo_split1_seed0/log.jsonl"
    log.write_text(log.read_text() + '{"epoch": 3, "loss')  # cut off by a kill
    assert evidence.collect(tmp_path).loc[0, "within a video"] == 0.1
    log.write_text("{nonsense}\n" + log.read_text())
    with pytest.raises(DataError, match="log.jsonl row 1 is damaged"):
        evidence.main([str(tmp_path)])
    (tmp_path / "features/clip_demo_split1_seed0/probe.json").write_text("{")
    with pytest.raises(DataError, match="probe.json is damaged"):
        evidence.main([str(tmp_path)])


def test_what_is_known_of_time_is_a_table_of_its_own(tmp_path, capsys):
    for seed, mean in ((0, 0.6), (1, 0.7), (2, 0.9)):
        name = f"clip_demo_split1_seed{seed}"
        write(tmp_path, name, 0.3, [0.4])
        (tmp_path / "temporal" / name).mkdir(parents=True)
        (tmp_path / "temporal" / name / "results.json").write_text(
            json.dumps(results_of("x", mean, at_chance=seed < 2)))  # what is withheld is in no mean
    evidence.main([str(tmp_path)])
    out = capsys.readouterr().out
    assert "demo, split 1\n\n| mode | seeds | R@1 | linear probe |" in out
    assert "demo, split 1, time\n\n| mode | seeds | arrow of time \\(0.500\\) |" in out
    assert f"| clip | 3 | 0.650 ± {0.05 * 2**0.5:.3f} \\(2\\) |" in out


def test_what_was_asked_otherwise_is_not_averaged(tmp_path):
    for seed, changes in ((0, {}), (1, {"seq_len": 8})):
        name = f"clip_demo_split1_seed{seed}"
        write(tmp_path, name, 0.3, [0.4])
        (tmp_path / "temporal" / name).mkdir(parents=True)
        found = results_of("x")
        found["flags"].update(changes)
        (tmp_path / "temporal" / name / "results.json").write_text(json.dumps(found))
    with pytest.raises(UsageError, match="seed1 was asked with other clips or tasks than clip_demo_split1_"):
        evidence.main([str(tmp_path)])


def test_variants_are_results_of_any_name(tmp_path, capsys):
    for name, r1 in (("published_seed0", 0.2), ("published_seed1", 0.4), ("n4_seed0", 0.3), ("n4_seed1", 0.7)):
        write(tmp_path, name, r1, [0.4])
        path = tmp_path / "retrieval" / name / "results.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "flags": {"dataset": "demo", "split": 1}}))
    evidence.main([str(tmp_path), "--variants", "--base", "published"])
    lines = capsys.readouterr().out.splitlines()
    assert "| n4 | 2 | 0.500 ± 0.283 | 0.400 ± 0.000 |" in lines
    assert any(line.startswith("| n4 | 2 | \\+0.200 \\(-1.071 to 1.471\\) |") for line in lines)
    with pytest.raises(UsageError, match="--base clip is no result in "):
        evidence.main([str(tmp_path), "--variants"])


def test_a_result_without_a_number_is_no_row(tmp_path):
    (tmp_path / "retrieval/clip_demo_split1").mkdir(parents=True)
    (tmp_path / "retrieval/tc_demo_split1").touch()
    with pytest.raises(UsageError, match="holds no results"):
        evidence.main([str(tmp_path)])

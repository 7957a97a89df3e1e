"""The quick tests cover every part of the project, and the files of its tools and of its description hold together."""
import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
# Part of the project -> its test files, tests/test_<name>.py. A file that tests several parts stands at the main ones.
ROOMS = {
    "core": "census environment exits jobs process_data rooms recovery fuzz_inputs inputs starts",
    "dataset": "fuzz_data augment augment_cuda dataset properties rate storage video",
    "models": "backbones batchnorm doors fuzz_checkpoints golden losses malicious models names networks pretrained "
              "protocol share torchvision_zoo",
    "engine": "accumulate distributed evaluation expected_clips faults fuzz_flags gpu loop memory precision "
              "pretend_cuda recovery",
    "analysis": "evidence export fuzz_runs pictures probe report retrieval temporal variance",
    "process_data": "flat_videos process_data storage verify write_csv",
    "search": "page search",
    "asset": "assets",
    "benchmarks": "benchmarks",
    "entry scripts": "bad_input embed stages videos",
    "paper_scripts": "pipeline recipes slurm",
    "docs": "docs",
    "tools": "habits pretend_cuda",
}
NOT_PYTHON = {"entry scripts", "paper_scripts", "docs", "tools"}


def is_slow(node):
    return ast.unparse(node).removeprefix("@").startswith("pytest.mark.slow")


def quick_tests(path):
    """Names of a file's test functions that `-m "not slow"` leaves in."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    marks = [node.value for node in tree.body if isinstance(node, ast.Assign)
             and ast.unparse(node.targets[0]) == "pytestmark"]
    if any(is_slow(mark) for value in marks for mark in getattr(value, "elts", [value])):
        return []
    return [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
            and not any(map(is_slow, node.decorator_list))]


def test_every_test_file_belongs_to_a_room():
    files = {path.stem.removeprefix("test_") for path in (REPOSITORY / "tests").glob("test_*.py")}
    listed = {name for names in ROOMS.values() for name in names.split()}
    assert files == listed, "ROOMS says which part of the project each test file tests"


def test_every_folder_of_code_is_a_room():
    folders = {path.relative_to(REPOSITORY).parts[0] for path in REPOSITORY.glob("*/*.py")} - {"tests"}
    assert {name for name in folders if not name.startswith(".")} | {"process_data"} == ROOMS.keys() - NOT_PYTHON


@pytest.mark.parametrize("room", ROOMS)
def test_quick_tests_cover_every_room(room):
    assert any(quick_tests(REPOSITORY / f"tests/test_{name}.py") for name in ROOMS[room].split())


@pytest.mark.parametrize("text, found", [
    ("def test_a(): pass\ndef helper(): pass", ["test_a"]),
    ("@pytest.mark.slow\ndef test_a(): pass\n@pytest.mark.parametrize('x', [1])\ndef test_b(x): pass", ["test_b"]),
    ("pytestmark = pytest.mark.slow\ndef test_a(): pass", []),
    ("pytestmark = [pytest.mark.skipif(True, reason='slow'), pytest.mark.slow]\ndef test_a(): pass", []),
    ("pytestmark = pytest.mark.skipif(True, reason='slow')\ndef test_a(): pass", ["test_a"]),
])
def test_quick_tests_are_told_from_slow_ones(tmp_path, text, found):
    (tmp_path / "file.py").write_text(text)
    assert quick_tests(tmp_path / "file.py") == found


@pytest.mark.slow
def test_summary_says_what_was_skipped_and_left_out_and_ends_in_pytest_s_line(tmp_path):
    (tmp_path / "conftest.py").write_text((REPOSITORY / "tests/conftest.py").read_text(encoding="utf-8"))
    (tmp_path / "pyproject.toml").write_text((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    (tmp_path / "test_three.py").write_text("""import pytest
def test_quick(): pass
@pytest.mark.slow
def test_slow(): pass
def test_skipped(): pytest.skip("no such machine")
""")
    done = subprocess.run([sys.executable, "-m", "pytest", "-n", "1", "-m", "not slow", "test_three.py"], cwd=tmp_path,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert "SKIPPED [1] test_three.py:5: no such machine" in lines
    assert "LEFT OUT [1] by -m 'not slow'" in lines
    assert re.fullmatch(r"=+ 1 passed, 1 skipped in .* =+", lines[-1])


@pytest.mark.parametrize("arguments, given", [
    ("", "-n 3 --dist loadfile -m 'not slow or kept'"),
    ("--all", "-n 3 --dist loadfile"),
    ("--quick", "-n 3 --dist loadfile -m 'not slow'"),
    ("-k golden --quick -x", "-n 3 --dist loadfile -m 'not slow' -k golden -x"),
])
def test_run_checks_style_and_types_and_then_tests(tmp_path, arguments, given):
    """tests/run.sh with an interpreter that only says what it is asked to run."""
    python = tmp_path / "python"
    python.write_text('#!/bin/bash\n[ "$1" = -c ] && echo 1337 && exit\n'
                      '[ "$2" = pytest ] || [ "$1" = -m ] || exit 0\nprintf "%s" "$2"\n'
                      'printf " %s" "${@:3}" | sed -E "s/not slow( or kept)?/\'&\'/"\necho\n')
    python.chmod(0o755)
    done = subprocess.run(["bash", "tests/run.sh", *arguments.split()], cwd=REPOSITORY, capture_output=True, text=True,
                          env={"PATH": "/usr/bin:/bin", "PYTHON": str(python), "HOME": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert [line.strip() for line in done.stdout.splitlines()] == ["ruff check .", "mypy", f"pytest {given}"]


def test_continuous_integration_runs_all_tests():
    assert 'tests/run.sh"' in (REPOSITORY / ".ci/run").read_text(encoding="utf-8")
    text = (REPOSITORY / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    assert re.search(r"^ +- run: bash \.ci/run$", text, re.MULTILINE)
    env = (REPOSITORY / "paper_scripts/env.sh").read_text(encoding="utf-8")
    oldest, newest = re.findall(r"\((\d), (\d+)\)", env)[:2]
    assert re.search(r'python: \["(.*)", "(.*)"\]', text).groups() == (".".join(oldest), ".".join(newest))


def test_yaml_can_be_read():
    texts = [(REPOSITORY / name).read_text(encoding="utf-8")
             for name in ("CITATION.cff", ".github/workflows/ci.yml", ".pre-commit-config.yaml")]
    assert not any("\t" in text for text in texts)
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed: the files are not parsed")
    assert all(isinstance(yaml.safe_load(text), dict) for text in texts)


def test_pre_commit_runs_the_linter_and_the_type_checker():
    text = (REPOSITORY / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    hooks = dict(re.findall(r"- id: (\w+)\n +name: .*\n +entry: (.*)\n", text))
    assert hooks == {"ruff": "python -m ruff check --force-exclude", "mypy": "python -m mypy"}
    checked = re.search(r"id: mypy(?:\n .*)*?\n +files: \^\((.*?)\)/", text).group(1).split("|")
    settings = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8").partition("[tool.mypy]")[2]
    assert set(checked) >= {*re.findall(r'"(\w+)"', re.search(r"^files = (.*)$", settings, re.MULTILINE).group(1))}


def test_citation_names_the_paper_and_this_version():
    text = (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")
    top = dict(re.findall(r"^([\w-]+):[ \n]*(.*)$", text, re.MULTILINE))
    assert {"cff-version", "message", "title", "authors"} <= top.keys() and top["cff-version"] == "1.2.0"
    released = re.findall(r"^## \[([\d.]+)\] - ([\d-]+)$", (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8"),
                          re.MULTILINE)
    assert released[0] == (top["version"], top["date-released"])
    paper = text.partition("\npreferred-citation:\n")[2]
    assert re.findall(r"family-names: (.*)", paper) == ["Zhang", "She", "Shen", "Wang"]
    assert "title: Inter-intra Variant Dual Representations for Self-supervised Video Recognition\n" in paper
    assert "year: 2021\n" in paper and "value: arXiv:2107.01194\n" in paper


def test_changelog_has_the_sections_of_keep_a_changelog():
    text = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE)[0] == "[Unreleased]"
    assert set(re.findall(r"^### (.*)$", text, re.MULTILINE)) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed",
                                                                  "Security"}

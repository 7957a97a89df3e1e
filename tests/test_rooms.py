"""Which room may import which, and what must not cost the import of a heavy package."""
import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SCRIPTS = ("train", "finetune", "test", "retrieval", "embed", "models/weights/__main__")  # which nobody imports
# each imports what stands before it, and itself
FLOORS = ("core", "dataset", "models", "engine", "analysis")
ALLOWED = {
    **{room: {*FLOORS[:number + 1]} for number, room in enumerate(FLOORS)},
    "process_data": {"core", "dataset", "process_data"},
    "utils": {"core"},
    "hubconf": {"models"},
    **{script: {*FLOORS, "utils"} for script in SCRIPTS},
    "search": {*FLOORS, "search"},
    "asset": {*FLOORS, "asset"},
    "benchmarks": {*FLOORS, "process_data", "search", "benchmarks"},
}
HEAVY = ("torch", "numpy", "cv2", "pandas", "matplotlib")


def rooms():
    """{room: its files}: a folder's, but for those that are rooms of their own, or a script's one."""
    single = {room: path for room in ALLOWED if (path := REPOSITORY / f"{room}.py").exists()}
    folders = {room: {*(REPOSITORY / room).rglob("*.py")} - {*single.values()} for room in ALLOWED}
    return {room: [single[room]] if room in single else sorted(folders[room]) for room in ALLOWED}


def imported_rooms(path, room):
    """Rooms that a file imports, at its top or anywhere in it -> {room: first line}."""
    found = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [room if node.level else node.module]
            if node.level > len(path.relative_to(REPOSITORY).parts) - 1:
                names = [name.name for name in node.names]
        else:
            continue
        for name in names:
            found.setdefault(name.partition(".")[0], node.lineno)
    return {name: line for name, line in found.items() if name in ALLOWED}


def test_every_file_is_in_a_room():
    tracked = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "*.py"], cwd=REPOSITORY,
                             capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("no git checkout")
    files = {REPOSITORY / name for name in tracked.stdout.splitlines() if not name.startswith("tests/")}
    assert {path for path in files if path.exists()} <= {path for paths in rooms().values() for path in paths}


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_those_below_it_alone(room):
    files = {path: str(path.relative_to(REPOSITORY)) for path in rooms()[room]}
    upwards = [f"{file}:{line} imports {name}" for path, file in files.items()
               for name, line in imported_rooms(path, room).items()
               if name not in ALLOWED[room]]
    assert not upwards


@pytest.mark.parametrize("module", ["core.errors", "core.files", "core.exits", "core.inputs", "core.names"])
def test_the_ground_floor_is_imported_in_no_time(module):
    assert loaded_by(f"import {module}", *HEAVY) == "[]"


@pytest.mark.parametrize("tool", ["extract_frame", "write_csv", "pack", "verify", "render_demo"])
def test_tools_for_data_do_not_wait_for_torch(tool):
    assert loaded_by(f"import process_data.src.{tool}", "torch") == "[]"


def loaded_by(code, *modules):
    """Which of these modules a new process has imported after `code`, as it prints their list."""
    code += f"; import sys; print([module for module in {modules} if module in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()

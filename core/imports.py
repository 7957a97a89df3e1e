"""What ends a program while it imports is one sentence too: a package that is missing, or Ctrl-C.

Numpy and torch take seconds to import, so the programs of this repository import `core` before anything else.
"""
import importlib
import os
import sys
from pathlib import Path
from types import ModuleType, TracebackType

from .errors import RunError

REPOSITORY = Path(__file__).resolve().parents[1]
DEBUG = "--debug"  # of all commands: tracebacks too


def is_ours(program: str) -> bool:
    """Whether sys.argv[0] is a program of this repository: a file of it, or -m, while its package is imported."""
    path = Path(program)
    return program == "-m" or (path.suffix == ".py" and "site-packages" not in path.parts
                               and path.absolute().is_relative_to(REPOSITORY))


def first_line(error: BaseException) -> str:
    """Of what an error says, at most 300 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def missing(error: ImportError) -> str:
    """One sentence about a package that cannot be imported."""
    if not isinstance(error, ModuleNotFoundError):
        return (f"{first_line(error)}: a package cannot be loaded: install it again, or the system's library that is "
                "named; take what stands before it out of PYTHONPATH; or raise the limit of memory (ulimit -v)")
    return (f"{first_line(error)}: install what the project needs, {sys.executable} -m pip install -r "
            f"{REPOSITORY / 'requirements.txt'}, or take the Python that has it (the launchers make .venv/bin/python)")


def optional(module: str, purpose: str, file: str = "requirements-share.txt") -> ModuleType:
    """Import a module of an optional requirements file. Raises RunError, naming what needs it, where it is missing."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = (error.name or module).partition(".")[0]
        raise RunError(f"{purpose} needs {package}, which is not installed: {sys.executable} -m pip install -r "
                       f"{REPOSITORY / file}") from error


def say(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """In place of sys.excepthook, for what core.exits.run does not see."""
    if isinstance(error, KeyboardInterrupt):
        print("stopped", file=sys.stderr)
    elif not isinstance(error, Exception) or DEBUG in sys.argv:
        sys.__excepthook__(kind, error, trace)
    elif isinstance(error, ImportError):
        print(f"error: {missing(error)}", file=sys.stderr)
    else:
        while trace and trace.tb_next:
            trace = trace.tb_next
        where = trace.tb_frame.f_code.co_filename if trace else "?"
        print(f"error: {kind.__name__} in {where} while this program imports what it needs: {first_line(error)}: if a "
              f"file of another's stands before it in PYTHONPATH, take that out; {DEBUG} says more", file=sys.stderr)


def begin() -> None:
    """Set this up where the program is one of ours. Exits where the working folder is gone."""
    try:
        os.getcwd()
    except FileNotFoundError:
        sys.exit("error: the working folder has been deleted: go to another one (cd)")
    if is_ours(sys.argv[0]):
        sys.excepthook = say

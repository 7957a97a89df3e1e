"""The parser of every command's flags."""
import argparse
from pathlib import Path
from typing import Any, NoReturn

from .errors import UsageError
from .imports import DEBUG
from .names import path_fault, quoted


class Parser(argparse.ArgumentParser):
    """Refuses text, be it a path or a name, that no file's name, line of a log or picture could hold."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.register("type", Path, path_flag)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (--help lists the flags)")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[argparse.Namespace, list[str]]:  # type: ignore[override]
        """What a parser and those of its subcommands call."""
        found, rest = super().parse_known_args(args, namespace)
        for action in self._actions:
            value = getattr(found, action.dest, None)
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str) and (wrong := path_fault(text)):
                    name = (action.option_strings or [action.dest])[0]
                    raise UsageError(f"{name} {quoted(text)}: {wrong}, give another")
        return found, rest


def path_flag(text: str) -> Path:
    """A flag's text as a path, which may be called anything. Raises ArgumentTypeError where it is empty."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty, and would stand for the working folder: give another")
    return Path(text)


def add_debug_flag(parser: argparse.ArgumentParser) -> None:
    """Have the help name the flag of all commands, which core.exits.run takes out of them."""
    parser.add_argument(DEBUG, action="store_true", default=argparse.SUPPRESS,
                        help="print the traceback of an error too")


def new_parser(program: str, doc: str | None, defaults: bool = True) -> argparse.ArgumentParser:
    """A parser of a program's flags; doc: the program's, whose first line is the description, None under python -OO.

    defaults: whether the help says every default.
    """
    parser = Parser(program, description=(doc or "").strip().partition("\n")[0], allow_abbrev=False,
                    formatter_class=argparse.ArgumentDefaultsHelpFormatter if defaults else argparse.HelpFormatter)
    add_debug_flag(parser)
    return parser

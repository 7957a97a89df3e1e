"""Look through an index of embed.py in a browser: similar windows, a map, near-duplicates, labels.

    python -m search index
    python -m search index --port 8080

The page is served on this machine alone (127.0.0.1). docs/search.md says more.
"""
import core.lifeline  # noqa: F401  # before what takes seconds to import

# isort: split
import argparse
import os
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from core.errors import DataError, FolderTaken, UsageError
from core.exits import run
from core.files import take_lock
from core.imports import optional
from core.parser import new_parser

if TYPE_CHECKING:
    from .library import Library

THREADS = 8


def flags() -> argparse.ArgumentParser:
    parser = new_parser("python -m search", __doc__)
    parser.add_argument("folder", metavar="DIR", type=Path, help="index that embed.py wrote")
    parser.add_argument("--port", type=int, default=8765, help="of 127.0.0.1; 0: any that is free")
    return parser


def main(argv: Sequence[str]) -> None:
    # not above: processes that make pictures import this module, and torch comes with these
    from analysis.index import MANIFEST

    from .library import Library
    args = flags().parse_args(argv)
    if not 0 <= args.port < 2**16:
        raise UsageError(f"--port {args.port} is no port: give 0 to 65535")
    for name in ("waitress", "flask"):
        optional(name, "search", "requirements-search.txt")
    if not (args.folder / MANIFEST).exists():
        raise DataError(f"{args.folder} holds no index: name a folder that was embed.py's --out")
    with ExitStack() as until_the_end:
        own = None
        if args.folder.is_dir() and not os.access(args.folder, os.W_OK):
            own = Path(until_the_end.enter_context(TemporaryDirectory(prefix="search-")))
            print(f"note: {args.folder} cannot be written: no labels can be given, and pictures are not kept")
        library = Library(args.folder, own)
        if own is None:  # two would write labels.csv over each other
            try:
                until_the_end.enter_context(take_lock(library.own, ""))
            except FolderTaken as error:
                raise FolderTaken(f"{args.folder} is served already, in another program: use that page, or end it"
                                  ) from error
        serve(library, args.port)


def serve(library: "Library", port: int) -> None:
    """Answer until the process is ended. Raises UsageError where the port cannot be used."""
    from .app import make_app
    from .guard import make_server
    from .upload import MOST_BYTES
    app = make_app(library)
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server.bind(("127.0.0.1", port))
    except OSError as error:
        raise UsageError(f"--port {port} cannot be used ({error.strerror}): give another, or 0") from error
    server.listen()  # who follows the address at once waits
    port = server.getsockname()[1]
    print(f"{len(library)} windows of {len(library.files)} videos: http://127.0.0.1:{port}/ (Ctrl-C ends it)",
          flush=True)
    make_server(app, sockets=[server], threads=THREADS, ident=None,
                max_request_body_size=MOST_BYTES).run()


if __name__ == "__main__":
    run(main, stopped="the page is not served any more")

"""Who may ask the page's server, what browsers may do with its answers, and how it refuses."""
import re
from collections.abc import Callable
from typing import Any

from flask import Flask, Response, abort, jsonify, request
from waitress import create_server
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError

from core.errors import CheckpointError, DataError, RunError, UsageError

from .upload import MOST_BYTES

HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d+)?")  # of any port: it may be forwarded
READING = ("GET", "HEAD")
MOST_CONNECTIONS, IDLE = 500, 30  # beyond so many, who comes waits until one has said nothing for so many seconds
POLICY = ("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
          "form-action 'none'; frame-ancestors 'none'; base-uri 'none'")


def refusal(method: str, path: str, header: Callable[[str], str | None]) -> str | None:
    """Why a request is refused, None: it is not. Another web page could have its browser ask this server: by a name of
    its own, or across sites. header: its headers by name.
    """
    host, origin = header("Host") or "", header("Origin")
    if not HOST.fullmatch(host):
        return "this server is asked under another name than 127.0.0.1 or localhost"
    if origin is not None and origin != f"http://{host}":
        return "another page asks"
    opened = path == "/" and header("Sec-Fetch-Mode") == "navigate"  # by a link elsewhere
    if (header("Sec-Fetch-Site") or "none") not in ("same-origin", "none") and not opened:
        return "another page asks"
    return "a change is asked for by no page of this server" if method not in READING and origin is None else None


class Parser(HTTPRequestParser):
    """Refuses a request by its headers, before its body is stored: other pages could fill the disk with these."""

    def parse_header(self, header_plus: bytes) -> None:
        super().parse_header(header_plus)
        body = self.chunked or self.content_length
        if (self.command not in READING or body) and (why := refusal(
                self.command, self.path, lambda name: self.headers.get(name.upper().replace("-", "_")))):
            raise ParsingError(why)


class Channel(HTTPChannel):
    parser_class = Parser


def make_server(app: Flask, **options: Any) -> Any:
    """A server of waitress for a guarded app, with waitress's options."""
    server = create_server(app, connection_limit=MOST_CONNECTIONS, channel_timeout=IDLE, **options)
    server.channel_class = Channel
    return server


def guard(app: Flask) -> None:
    """Have an app answer pages of its own alone, and say in one sentence what it refuses."""
    @app.before_request
    def refuse_others() -> None:
        if why := refusal(request.method, request.path, request.headers.get):
            abort(403, why)

    @app.after_request
    def with_policy(response: Response) -> Response:
        response.headers.update({
            "Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin"})
        # windows are counted in this index as it is: another that is served later has other ones
        response.headers["Cache-Control"] = "no-store" if request.path.startswith("/api") else "no-cache"
        return response

    @app.errorhandler(DataError)
    @app.errorhandler(CheckpointError)
    @app.errorhandler(RunError)
    @app.errorhandler(UsageError)
    def sentence(error: Exception) -> tuple[Response, int]:
        return jsonify(error=str(error)), 409

    @app.errorhandler(OSError)
    def unwritten(error: OSError) -> tuple[Response, int]:
        return jsonify(error=f"{error.filename or 'a file'} cannot be written or read ({error.strerror})"), 409

    @app.errorhandler(400)
    @app.errorhandler(403)
    @app.errorhandler(404)
    @app.errorhandler(413)
    def refused(error: Any) -> tuple[Response, int]:
        said = {404: "there is no such thing", 413: f"a dropped file may have {MOST_BYTES // 2**20} MiB at most"}
        return jsonify(error=said.get(error.code, error.description)), error.code

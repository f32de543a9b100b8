"""Web server for a folder on the loopback interface."""

import http.server
import logging
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast

from spectrnn.errors import UserError

log = logging.getLogger(__name__)

_HOST = "127.0.0.1"


class Server(http.server.ThreadingHTTPServer):
    """Serves the files of a folder on the loopback interface.

    Args:
        folder: Folder to serve; files outside are not accessible.
        port: Port; if it is taken, or 0, any free one is used.

    Raises:
        UserError: No port is free.
    """

    daemon_threads = True

    def __init__(self, folder: Path, port: int) -> None:
        handler = partial(_Handler, directory=str(folder))
        try:
            try:
                super().__init__((_HOST, port), handler)
            except (OSError, OverflowError):
                super().__init__((_HOST, 0), handler)
                log.info("port=%d: is taken or privileged; using another one", port)
        except OSError as error:
            raise UserError(f"port={port}: cannot serve on {_HOST} ({error.strerror})") from error

    @property
    def address(self) -> str:
        """URL of the page."""
        return f"http://{_HOST}:{self.server_port}/"


class _Handler(http.server.SimpleHTTPRequestHandler):
    extensions_map = {  # noqa: RUF012
        ".html": "text/html; charset=utf-8",
        ".css": "text/css; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".mjs": "text/javascript; charset=utf-8",
        ".json": "application/json",
        ".wasm": "application/wasm",
        ".wav": "audio/wav",
        "": "application/octet-stream",
    }

    def send_head(self) -> Any:
        # DNS rebinding: another site whose name resolves to this address sends its own name.
        port = cast(Server, self.server).server_port
        if self.headers.get("Host") not in (f"{_HOST}:{port}", f"localhost:{port}"):
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
            return None
        return super().send_head()

    def list_directory(self, path: Any) -> Any:
        self.send_error(HTTPStatus.NOT_FOUND)

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-store")  # the next model may be served on the same port
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def log_message(self, *_: Any) -> None:
        pass

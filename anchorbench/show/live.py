"""Serves the page of a sweep on this machine while it trains, from its files alone: read-only, for this machine's browsers only."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from anchorbench.files import read_bytes
from anchorbench.show.report import Known, page
from anchorbench.sweeps.run_folder import MAX_TABLE_BYTES

ADDRESS = "127.0.0.1"


class LivePage:
    """The page of the sweep in a folder, written again whenever the folder has changed."""

    def __init__(self, folder: Path, x: str | None = None, y: str | None = None) -> None:
        """Raises ValueError as `page` does."""
        self.folder, self._x, self._y = folder, x, y
        self._known, self._lock = Known(), threading.Lock()
        self._version, self._content = "", b""
        self.content()

    def version(self) -> str:
        """Changes with any file of the sweep."""
        found = hashlib.sha256()
        for pattern in ("*", "runs/*", "checkpoints/*", "index/*", "stacks/*"):
            for path in sorted(self.folder.glob(pattern)):
                if not path.name.startswith("."):  # being written
                    try:
                        about = path.stat()
                    except OSError:  # removed meanwhile
                        continue
                    found.update(f"{path} {about.st_mtime_ns} {about.st_size}".encode())
        return found.hexdigest()[:16]

    def content(self) -> bytes:
        """The page as it should be now. Raises ValueError as `page` does."""
        with self._lock:
            version = self.version()
            if version != self._version:
                csv = (self.folder / "results.csv").exists()
                arguments = ["watch", self.folder.name]
                self._content, _ = page(
                    self.folder, x=self._x, y=self._y, arguments=arguments, csv=csv, known=self._known, live=version
                )
                self._version = version
            return self._content


def server(shown: LivePage, port: int) -> ThreadingHTTPServer:
    """A server on this machine's own address that is ready to serve. Raises ValueError if the port is taken."""

    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = "anchorbench", ""

        def do_GET(self) -> None:
            if self.headers.get("Host", "").partition(":")[0] not in (ADDRESS, "localhost"):
                self._send(403, b"only for this machine's own address", "text/plain")  # not for other sites' scripts
                return
            try:
                if self.path == "/":
                    self._send(200, shown.content(), "text/html; charset=utf-8")
                elif self.path == "/version":
                    self._send(200, shown.version().encode(), "text/plain")
                elif self.path == "/results.csv" and (table := shown.folder / "results.csv").exists():
                    self._send(200, read_bytes(table, most=MAX_TABLE_BYTES), "text/csv")
                else:
                    self._send(404, b"not found", "text/plain")
            except (OSError, ValueError) as error:
                self._send(500, f"the page cannot be written: {error}".encode(), "text/plain; charset=utf-8")

        def _send(self, status: int, content: bytes, kind: str) -> None:
            try:
                self.send_response(status)
                for name, value in (("Content-Type", kind), ("Content-Length", str(len(content))), ("Cache-Control", "no-store")):
                    self.send_header(name, value)
                self.send_header("X-Content-Type-Options", "nosniff")
                self.end_headers()
                self.wfile.write(content)
            except ConnectionError:  # the reader has left
                pass

        def log_message(self, format: str, *args: object) -> None:
            pass

    try:
        return ThreadingHTTPServer((ADDRESS, port), Handler)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else "there is no such port"
        raise ValueError(f"port is {port}, which cannot be used ({reason}); choose another --port, or 0 for a free one") from None

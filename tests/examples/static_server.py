"""A static web server: a folder, with or without the headers that isolate pages, with or without ranges."""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ISOLATION = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}


class Site:
    """What a server serves and what it was asked for.

    Attributes:
        url: Address of the folder.
        headers: Sent with every file.
        has_ranges: Whether `Range` is understood.
        cut_after: Close the connection after so many bytes of a file; None sends all.
        requests: Paths that were asked for, each with its `Range` header or "".
        sent: Bytes of files that were sent.
    """

    def __init__(self, url: str, headers: dict[str, str], has_ranges: bool):
        self.url, self.headers, self.has_ranges = url, headers, has_ranges
        self.cut_after: int | None = None
        self.requests: list[tuple[str, str]] = []
        self.sent = 0


class _Handler(SimpleHTTPRequestHandler):
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {".mjs": "text/javascript"}
    protocol_version = "HTTP/1.1"
    server: "_Server"

    def end_headers(self):
        for name, value in self.server.site.headers.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *args):
        pass

    def send_head(self):
        site, wanted = self.server.site, self.headers.get("Range", "")
        site.requests.append((self.path.split("?")[0], wanted))
        path = Path(self.translate_path(self.path))
        if path.is_dir():
            path = path / "index.html"
        if not path.is_file():
            self.send_error(404)
            return None
        content, size = path.read_bytes(), path.stat().st_size
        start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted and site.has_ranges else None
        self.send_response(200 if start is None else 206)
        if start is not None:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
            content = content[start:]
        self.send_header("Content-Type", self.guess_type(path))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        return io.BytesIO(content)

    def copyfile(self, source, outputfile):
        site = self.server.site
        content = source.read() if site.cut_after is None else source.read(site.cut_after)
        site.sent += len(content)
        outputfile.write(content)
        if site.cut_after is not None:
            self.close_connection = True


class _Server(ThreadingHTTPServer):
    site: Site
    daemon_threads = True

    def handle_error(self, request, client_address):  # a browser that goes away is no error
        pass


@contextmanager
def serve(folder: Path, isolated: bool = True, has_ranges: bool = True) -> Iterator[Site]:
    """Serve a folder until the block ends."""
    with _Server(("127.0.0.1", 0), partial(_Handler, directory=folder)) as server:
        url = f"http://localhost:{server.server_address[1]}/"
        server.site = Site(url, ISOLATION if isolated else {}, has_ranges)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.site
        server.shutdown()
        thread.join()

"""An S3 server for tests: serves folders as buckets, counts requests, and fails on demand.

It implements what a reader of S3 needs (HEAD, GET, ranges, errors as XML, path-style addresses), for the real client. A
request must be signed, but the signature is not checked. Unlike moto's server, it can stop answering, be slow, truncate
a response, and restart on the same port; and it has no dependencies.
"""

from __future__ import annotations

import gc
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest

CONNECTIONS_ARE_LEFT = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings(
        "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
    ),
]


class ObjectStore:
    """Serves the subfolders of `root` as buckets.

    `silent`: keys that contain it get no response; `cut`: keys that contain it get half of it; `delay_seconds`: wait
    before each response; `bytes_per_second`: speed of each response, None for unlimited.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.gets: Counter[str] = Counter()  # key -> successful GET requests
        self.silent: str | None = None
        self.cut: str | None = None
        self.delay_seconds = 0.0
        self.bytes_per_second: float | None = None
        self._port = 0
        self._server: ThreadingHTTPServer | None = None
        self._stopped = threading.Event()
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        self._stopped.clear()
        handler = type("Handler", (_Handler,), {"store": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), handler)
        self._server.daemon_threads = True
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Refuse connections until `start`, which uses the same port."""
        assert self._server is not None
        self._server.shutdown()
        self._server.socket.shutdown(socket.SHUT_RDWR)  # also closes it for children that have inherited it
        self._server.server_close()
        self._server = None
        self._stopped.set()

    def shards_got(self) -> Counter[str]:
        """Return the number of GET requests for each shard."""
        return Counter({key: count for key, count in self.gets.items() if key.endswith(".mds")})


@contextmanager
def serving(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """Start an object store and set the environment variables by which this process and its children find it.

    Tests that use it need the marks `CONNECTIONS_ARE_LEFT`, which ignore unclosed connections.
    """
    store = ObjectStore(root)
    monkeypatch.setenv("S3_ENDPOINT_URL", store.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    try:
        yield store
    finally:
        if store._server is not None:
            store.stop()
        # The S3 client leaves its connections to the garbage collector, which would warn in any later test. Collect
        # them here, where the warning is ignored.
        wait_for_downloads()
        gc.collect()


def wait_for_downloads(seconds: float = 60) -> None:
    """Wait until no thread of this process downloads; prefetching threads end after their reader is closed."""
    deadline = time.monotonic() + seconds
    for thread in threading.enumerate():
        if thread.name.startswith(("fetch ahead ", "download ")):
            thread.join(max(0, deadline - time.monotonic()))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # otherwise every response waits 40 ms for an acknowledgement
    store: ObjectStore

    def handle(self) -> None:
        with suppress(ConnectionError):  # the client was killed or gave up
            super().handle()

    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        store = self.store
        if store._server is None:  # the connection was opened before `stop`
            self.close_connection = True
            return
        key = unquote(urlparse(self.path).path).lstrip("/")
        file = store.root / key
        if store.silent and store.silent in key:
            store._stopped.wait()
            self.close_connection = True
            return
        time.sleep(store.delay_seconds)
        if "Authorization" not in self.headers:
            self._refuse(403, "AccessDenied")
            return
        if not file.is_file():
            self._refuse(404, "NoSuchKey")
            return
        content = file.read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first, last = (int(asked[1]), int(asked[2] or len(content) - 1)) if asked else (0, len(content) - 1)
        body = content[first : last + 1]
        if with_body:
            store.gets[key] += 1
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{file.stat().st_mtime_ns}"')
        self.send_header("Last-Modified", self.date_time_string(file.stat().st_mtime))
        self.end_headers()
        if with_body:
            self._send(body[: len(body) // 2] if store.cut and store.cut in key else body)

    def _send(self, body: bytes) -> None:
        rate = self.store.bytes_per_second
        step = len(body) if rate is None else max(1, int(rate / 50))
        for first in range(0, len(body), max(1, step)):
            if self.store._server is None:
                break
            self.wfile.write(body[first : first + step])
            if rate is not None:
                time.sleep(1 / 50)
        if self.store.cut:
            self.close_connection = True

    def _refuse(self, status: int, code: str) -> None:
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

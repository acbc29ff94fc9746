"""Stores of slides on this machine: a server of HTTP whose faults a test chooses, and one of S3."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import pytest


@dataclass
class WebStore:
    """A folder that is served.

    Attributes:
        url: Where.
        requests: Method and path of each request, with its query.
        status: Answered in place of the file; None for the file.
        sent: Share of a file's bytes that arrive before the connection ends.
        on_get: Called with the path after a file was sent.
        login: `user:password` that a client must give; None for nothing.
    """

    folder: Path
    url: str = ""
    requests: list[str] = field(default_factory=list)
    status: int | None = None
    sent: float = 1.0
    on_get: Callable[[str], None] = lambda _: None
    login: str | None = None

    def gets(self, name: str) -> int:
        """How often a file was fetched."""
        return sum(line.startswith("GET ") and f"/{name}" in line for line in self.requests)


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder as the store says."""

    def __init__(self, store: WebStore, *arguments: Any) -> None:
        self.store = store
        super().__init__(*arguments, directory=str(store.folder))

    def send_head(self) -> Any:
        self.store.requests.append(f"{self.command} {self.path}")
        given = self.headers.get("Authorization", "").removeprefix("Basic ")
        wanted = self.store.login
        if self.store.status is not None:
            return self.send_error(self.store.status)
        if wanted is not None and base64.b64decode(given).decode() != wanted:
            return self.send_error(401)
        return super().send_head()

    def copyfile(self, source: Any, outputfile: Any) -> None:
        content = source.read()
        outputfile.write(content[: int(len(content) * self.store.sent)])
        self.store.on_get(urlsplit(self.path).path)

    def log_message(self, *arguments: Any) -> None:
        """Print nothing."""


@contextmanager
def web_store(folder: Path) -> Iterator[WebStore]:
    """Serve a folder by HTTP for the time of the block."""
    store = WebStore(folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, store)) as server:
        store.url = f"http://127.0.0.1:{server.server_port}"
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield store
        server.shutdown()


@contextmanager
def s3_store(files: list[Path], bucket: str) -> Iterator[None]:
    """Serve files from a bucket of S3 for the time of the block."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patched:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        }.items():
            patched.setenv(name, value)
        import s3fs

        system = s3fs.S3FileSystem(skip_instance_cache=True)
        system.mkdir(bucket)
        for file in files:
            system.pipe(f"{bucket}/slides/{file.name}", file.read_bytes())
        yield
        server.stop()

"""A model hub on loopback, as far as huggingface_hub asks of one; for tests of downloads.

It speaks the public HTTP interface (model info, tree, resolve) that the huggingface_hub client
uses. Always: it serves one folder as it was when it started, under one commit.
"""

import contextlib
import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "5e1f" * 10
LARGE_BYTES = 50_000
"""Files from this size on are named by their SHA-256, as LFS does, the others as git does."""


@dataclass(frozen=True, slots=True)
class LocalHub:
    """A hub that runs.

    Attributes:
        endpoint: For `HF_ENDPOINT`.
        repository: The only one it has.
        served: How often each file was sent.
    """

    endpoint: str
    repository: str
    served: Counter[str] = field(default_factory=Counter)


def _etag(data: bytes) -> str:
    if len(data) >= LARGE_BYTES:
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _listed(name: str, data: bytes) -> dict[str, object]:
    entry: dict[str, object] = {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
    if len(data) >= LARGE_BYTES:
        entry["lfs"] = {"oid": _etag(data), "size": len(data), "pointerSize": 130}
    else:
        entry["oid"] = _etag(data)
    return entry


@contextlib.contextmanager
def local_hub(folder: Path, repository: str = "helix/tiny") -> Iterator[LocalHub]:
    """Serve the files of a model folder."""
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            path = self.path.partition("?")[0]
            prefix = f"/{repository}/resolve/"
            if path.startswith(prefix):
                name = path.removeprefix(prefix).partition("/")[2]
                if name in files:
                    hub.served[name] += body
                    self._send(files[name], {"ETag": f'"{_etag(files[name])}"'}, body=body)
                    return
            elif path.startswith(f"/api/models/{repository}/tree/"):
                listed = [_listed(name, data) for name, data in files.items()]
                self._send(json.dumps(listed).encode(), {}, body=body)
                return
            elif path.startswith(f"/api/models/{repository}"):
                names = [{"rfilename": name} for name in files]
                info = {"id": repository, "modelId": repository, "sha": COMMIT, "siblings": names}
                self._send(json.dumps(info).encode(), {}, body=body)
                return
            self._send(b"{}", {"X-Error-Code": "EntryNotFound"}, body=body, status=404)

        def _send(
            self, data: bytes, headers: dict[str, str], *, body: bool, status: int = 200
        ) -> None:
            self.send_response(status)
            for key, value in {"X-Repo-Commit": COMMIT, **headers}.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub = LocalHub(f"http://127.0.0.1:{server.server_address[1]}", repository)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

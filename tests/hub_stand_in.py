"""A stand-in for the Hugging Face hub with the files of one model, for processes of tests."""

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@contextmanager
def hub_of(files: dict[str, bytes], cache: Path) -> Iterator[tuple[dict[str, str], list[str]]]:
    """The environment in which `owner/model` has these files, and the paths that were asked for."""
    Repository.files, Repository.asked = files, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Repository)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    # The library reads its address when it is imported.
    address = f"http://127.0.0.1:{server.server_port}"
    places = {"HF_ENDPOINT": address, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1"}
    environment = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"} | places
    try:
        yield environment, Repository.asked
    finally:
        server.shutdown()
        server.server_close()


class Repository(BaseHTTPRequestHandler):
    """The part of the hub that gives the files of one model, `owner/model`."""

    commit = "a" * 40
    files: dict[str, bytes]
    asked: list[str]

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.asked.append(self.path)
        name = self.path.partition(f"/owner/model/resolve/{self.commit}/")[2]
        if name in self.files:
            content = self.files[name]
        elif self.path.startswith("/api/models/owner/model/revision/"):
            siblings = [{"rfilename": name} for name in self.files]
            about = {"id": "owner/model", "modelId": "owner/model", "sha": self.commit}
            content = json.dumps(about | {"siblings": siblings}).encode()
        elif self.path.startswith(f"/api/models/owner/model/tree/{self.commit}"):
            listed = [
                {"type": "file", "path": name, "size": len(content), "oid": "b" * 40}
                for name, content in self.files.items()
            ]
            content = json.dumps(listed).encode()
        else:
            content = None
        self.send_response(404 if content is None else 200)
        if not self.path.startswith(("/owner/model/", "/api/models/owner/model/")):
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("X-Repo-Commit", self.commit)
        self.send_header("ETag", f'"{hashlib.sha256(content or b"").hexdigest()[:40]}"')
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if content is not None and self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_):
        pass

"""A small Hugging Face hub on this machine: repositories in memory, tokens, one commit an upload.

    with LocalHub() as hub:
        hub.repositories["models", "me/digits"] = Repository(files={"config.json": b"{}"})
        subprocess.run(command, env=hub.environment(tmp_path, token="writer"))

It answers as the hub does, of the little that is asked here. The library reads its address when it
is imported, so commands run as processes of their own.
"""

import base64
import hashlib
import json
import os
import re
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml

TOKENS = {"writer": ("me", "write"), "reader": ("me", "read"), "stranger": ("you", "write")}
_LARGE = (".safetensors", ".npz", ".parquet")  # stored apart from git, as the hub does


@dataclass
class Repository:
    """The files of its last commit, and the summaries of all."""

    files: dict[str, bytes] = field(default_factory=dict)
    private: bool = False
    commits: list[str] = field(default_factory=list)

    @property
    def sha(self) -> str:
        content = repr((len(self.commits), sorted(self.files.items())))
        return hashlib.sha1(content.encode()).hexdigest()

    def entry(self, path: str) -> dict:
        content = self.files[path]
        entry = {"type": "file", "path": path, "rfilename": path, "size": len(content)}
        entry["oid"] = entry["blobId"] = hashlib.sha1(content).hexdigest()
        if path.endswith(_LARGE):
            digest = hashlib.sha256(content).hexdigest()
            large = {"oid": digest, "sha256": digest, "size": len(content), "pointerSize": 130}
            entry["lfs"] = large
        return entry


class LocalHub:
    """A server in a thread; `broken` makes it answer 500 to all but whether it is there."""

    def __init__(self):
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.uploaded: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.broken = False

    def __enter__(self):
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def model(self, name: str) -> Repository:
        return self.repositories["models", name]

    def add_folder(self, name: str, folder: Path, kind: str = "models", private: bool = False):
        """A repository with the files of a folder."""
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.repositories[kind, name] = Repository(files, private)

    def environment(self, home: Path, token: str | None = None, address: str = "") -> dict:
        return environment(address or self.address, home, token)


def environment(address: str, home: Path, token: str | None = None) -> dict[str, str]:
    """Variables of a process for which the hub is at `address` and `home` its own cache."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    kept |= {"HF_ENDPOINT": address, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    return kept | ({"HF_TOKEN": token} if token is not None else {})


def closed_address() -> str:
    """An address of this machine where nothing listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{found.getsockname()[1]}"


class _Handler(BaseHTTPRequestHandler):
    hub: LocalHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def _handle(self):
        length = int(self.headers.get("Content-Length") or 0)
        self.body = (
            self._chunks() if "Transfer-Encoding" in self.headers else self.rfile.read(length)
        )
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        if path == "/":
            return self._send(200, b"")
        if self.hub.broken:
            return self._send(500, b"no")
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in TOKENS:
            return self._refuse(401, "", "Invalid credentials in Authorization header")
        self.user, self.role = TOKENS.get(token, (None, None))
        for method, pattern, answer in _ROUTES:
            found = re.fullmatch(pattern, path)
            if found and self.command in method.split():
                return answer(self, *found.groups())
        return self._refuse(404, "", f"no such route: {self.command} {path}")

    do_GET = do_HEAD = do_POST = do_PUT = _handle

    def _chunks(self) -> bytes:
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    # ------------------------------------------------------------------------ answers

    def _send(self, status: int, content, **headers: str) -> None:
        if not isinstance(content, bytes):
            content, headers["Content_Type"] = json.dumps(content).encode(), "application/json"
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _refuse(self, status: int, code: str, message: str) -> None:
        more = {"X_Error_Code": code} if code else {}
        self._send(status, {"error": message}, X_Error_Message=message, **more)

    def _repository(self, kind: str, name: str, to_write: bool = False) -> Repository | None:
        """The repository, as far as the token opens it; else the answer is given."""
        found = self.hub.repositories.get((kind, name))
        mine = name.partition("/")[0] == self.user
        if found is None or (found.private and not mine):
            self._refuse(404 if self.user else 401, "RepoNotFound", "Repository not found")
            return None
        if to_write and not (mine and self.role == "write"):
            self._refuse(403, "", "you have no right to write here")
            return None
        return found

    def who(self):
        if self.user is None:
            return self._refuse(401, "", "Invalid username or password.")
        auth = {"type": "access_token", "accessToken": {"displayName": "x", "role": self.role}}
        return self._send(200, {"type": "user", "name": self.user, "orgs": [], "auth": auth})

    def create(self):
        asked = json.loads(self.body)
        name = f"{asked.get('organization') or self.user}/{asked['name']}"
        if name.partition("/")[0] != self.user or self.role != "write":
            return self._refuse(403, "", "you have no right to write there")
        key = f"{asked.get('type', 'model')}s", name
        if key in self.hub.repositories:
            return self._refuse(409, "", "You already created this model repo")
        private = asked.get("visibility") == "private"
        self.hub.repositories[key] = Repository({".gitattributes": b""}, private)
        return self._send(200, {"url": f"{self.hub.address}/{name}", "name": name})

    def validate(self):
        """The head of a model card, as the hub wants it."""
        _, head, _ = json.loads(self.body)["content"].split("---\n", 2)
        for model in yaml.safe_load(head).get("model-index", ()):
            assert model["name"]
            for result in model["results"]:
                assert result["task"]["type"] and result["dataset"]["type"]
                assert result["dataset"]["name"]
                assert all(metric["type"] and "value" in metric for metric in result["metrics"])
        self._send(200, {"errors": [], "warnings": []})

    def about(self, kind, name, _):
        if found := self._repository(kind, name):
            entries = [found.entry(path) for path in found.files]
            about = {"id": name, "modelId": name, "sha": found.sha, "private": found.private}
            self._send(200, about | {"siblings": entries, "tags": [], "downloads": 0})

    def tree(self, kind, name, _, under):
        if found := self._repository(kind, name):
            start = f"{under}/" if under else ""
            paths = [path for path in found.files if path.startswith(start)]
            if under and not paths:
                return self._refuse(404, "EntryNotFound", "no such folder")
            if "recursive=true" not in self.path.lower():
                folders = {start + path[len(start) :].partition("/")[0] for path in paths}
                folders -= set(paths)
                paths = [path for path in paths if "/" not in path[len(start) :]]
            else:
                folders = set()
            listed = [{"type": "directory", "path": path, "oid": "0" * 40} for path in folders]
            return self._send(200, [*listed, *map(found.entry, paths)])
        return None

    def paths(self, kind, name, _):
        if found := self._repository(kind, name):
            asked = json.loads(self.body)["paths"]
            self._send(200, [found.entry(path) for path in asked if path in found.files])

    def settings(self, kind, name):
        if found := self._repository(kind, name, to_write=True):
            found.private = json.loads(self.body)["visibility"] == "private"
            self._send(200, {})

    def preupload(self, kind, name, _):
        if self._repository(kind, name, to_write=True):
            files = [
                {"path": each["path"], "shouldIgnore": False,
                 "uploadMode": "lfs" if each["path"].endswith(_LARGE) else "regular"}
                for each in json.loads(self.body)["files"]
            ]  # fmt: skip
            self._send(200, {"files": files})

    def batch(self, name):
        objects = [
            {**each, "actions": {"upload": {"href": f"{self.hub.address}/large/{each['oid']}"}}}
            for each in json.loads(self.body)["objects"]
        ]
        self._send(200, {"transfer": "basic", "objects": objects})

    def large(self, digest):
        assert hashlib.sha256(self.body).hexdigest() == digest
        self.hub.uploaded[digest] = self.body
        self._send(200, {})

    def commit(self, kind, name, _):
        if found := self._repository(kind, name, to_write=True):
            for line in self.body.splitlines():
                key, value = (operation := json.loads(line))["key"], operation["value"]
                if key == "header":
                    found.commits.append(value["summary"])
                elif key == "file":
                    found.files[value["path"]] = base64.b64decode(value["content"])
                elif key == "lfsFile":
                    found.files[value["path"]] = self.hub.uploaded[value["oid"]]
                else:
                    del found.files[value["path"]]
            url = f"{self.hub.address}/{name}/commit/{found.sha}"
            self._send(200, {"commitUrl": url, "commitOid": found.sha, "success": True})

    def resolve(self, kind, name, _, path):
        if found := self._repository(f"{kind or 'models/'}"[:-1], name):
            if path not in found.files:
                return self._refuse(404, "EntryNotFound", "Entry not found")
            content = found.files[path]
            headers = {"ETag": f'"{found.entry(path)["oid"]}"', "X_Repo_Commit": found.sha}
            return self._send(200, content, **headers)
        return None


_NAME = r"([^/]+/[^/]+)"
_REPOSITORY = rf"/api/(models|datasets)/{_NAME}"
_ROUTES = [
    ("GET", "/api/whoami-v2", _Handler.who),
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", "/api/validate-yaml", _Handler.validate),
    ("GET HEAD", rf"{_REPOSITORY}(/revision/[^/]+)?", _Handler.about),
    ("GET", rf"{_REPOSITORY}/tree/([^/]+)/?(.*)", _Handler.tree),
    ("POST", rf"{_REPOSITORY}/paths-info/([^/]+)", _Handler.paths),
    ("PUT", rf"{_REPOSITORY}/settings", _Handler.settings),
    ("POST", rf"{_REPOSITORY}/preupload/([^/]+)", _Handler.preupload),
    ("POST", rf"{_REPOSITORY}/commit/([^/]+)", _Handler.commit),
    ("POST", rf"/{_NAME}\.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT", "/large/([0-9a-f]{64})", _Handler.large),
    ("GET HEAD", rf"/(datasets/)?{_NAME}/resolve/([^/]+)/(.+)", _Handler.resolve),
]

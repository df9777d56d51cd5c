"""A local server with the routes of the Hub's HTTP API that huggingface_hub's client uses for small repositories."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

COMMIT = "a" * 40
TOKEN = "hf_right"


class Hub(BaseHTTPRequestHandler):
    """Serves the folders in `models` by id (datasets as `datasets/ID`) and stores the files that are committed."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        server = self.server
        if "/paths-info/" in self.path:
            _, name, _ = self._route()
            paths = set(parse_qs(body.decode()).get("paths", []))
            self._answer(200, [entry for entry in _tree(server.models[name]) if entry["path"] in paths])
            return
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"error": "Invalid credentials"})
            return
        server.paths.append(self.path)
        if self.path == "/api/repos/create":
            server.created = json.loads(body)
            self._answer(200, {"url": f"{server.address}/me/mine", "name": "me/mine"})
            return
        if "/preupload/" in self.path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            self._answer(200, {"files": files})
            return
        if "/commit/" not in self.path:  # validation of the card's metadata
            self._answer(200, {"warnings": [], "errors": []})
            return
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                server.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            else:
                server.message = entry["value"]["summary"]
        self._answer(200, {"success": True, "commitOid": COMMIT, "commitUrl": f"{server.address}/me/mine/commit/a"})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        api, name, rest = self._route()
        self.server.requested.append(self.path)
        folder = self.server.models.get(name)
        if name == "me/mine":
            self._answer(200, {"id": name, "sha": COMMIT, "siblings": [], "tags": [], "private": False})
            return
        if folder is None:
            self._answer(404, {"error": "Repository not found"}, code="RepoNotFound")
            return
        if api and "tree" in rest:
            self._answer(200, _tree(folder))
            return
        if api:
            siblings = [{"rfilename": entry["path"]} for entry in _tree(folder)]
            self._answer(200, {"id": name, "sha": COMMIT, "siblings": siblings})
            return
        file = Path(folder, *rest[2:])  # resolve, revision, path
        if not file.is_file():
            self._answer(404, {"error": "Entry not found"}, code="EntryNotFound")
            return
        content = file.read_bytes()
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def _route(self) -> tuple[bool, str, list[str]]:
        """Return whether it is an API route, the repository (datasets as `datasets/ID`), and the rest of the path."""
        parts = self.path.partition("?")[0].strip("/").split("/")
        api = parts[0] == "api"
        parts = parts[1:] if api and parts[1:2] != ["models"] else parts[2:] if api else parts
        end = 3 if parts[:1] == ["datasets"] else 2
        return api, "/".join(parts[:end]), parts[end:]

    def _answer(self, status, content, *, code=None) -> None:
        raw = json.dumps(content).encode()
        self.send_response(status)
        if code is not None:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)

    def log_message(self, *args) -> None:
        pass


def _tree(folder: Path) -> list[dict]:
    files = [file for file in sorted(Path(folder).rglob("*")) if file.is_file()]
    return [
        {"type": "file", "path": file.relative_to(folder).as_posix(), "size": file.stat().st_size, "oid": "0"}
        for file in files
    ]


def start() -> ThreadingHTTPServer:
    """Start the server; `shutdown` and `server_close` stop it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.address = f"http://127.0.0.1:{server.server_address[1]}"
    server.paths, server.files, server.created, server.message, server.models = [], {}, None, None, {}
    server.requested = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server

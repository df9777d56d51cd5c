"""A stand-in for the Hub's HTTP API, on loopback: enough of it for huggingface_hub's own client to read and to upload.

Knows: the routes that small models take.
Does not know: any single test.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "a" * 40
TOKEN = "hf_right"


class Hub(BaseHTTPRequestHandler):
    """Keeps what was committed, and gives what stands in `models`: id -> folder."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        server = self.server
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
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                for one in json.loads(body)["files"]
            ]
            self._answer(200, {"files": files})
            return
        if "/commit/" not in self.path:  # the check of the card's metadata
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
        parts = self.path.partition("?")[0].strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        name = "/".join(parts[2:4] if api else parts[:2])
        folder = self.server.models.get(name)
        if name == "me/mine":
            self._answer(200, {"id": name, "sha": COMMIT, "siblings": [], "tags": [], "private": False})
            return
        if folder is None:
            self._answer(404, {"error": "Repository not found"}, code="RepoNotFound")
            return
        files = [file.name for file in sorted(Path(folder).iterdir()) if file.is_file()]
        if api and "tree" in parts:
            tree = [
                {"type": "file", "path": file, "size": (folder / file).stat().st_size, "oid": "0"} for file in files
            ]
            self._answer(200, tree)
            return
        if api:
            self._answer(200, {"id": name, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]})
            return
        content = (folder / parts[-1]).read_bytes()
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

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


def start() -> ThreadingHTTPServer:
    """A running stand-in; `shutdown` and `server_close` end it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.address = f"http://127.0.0.1:{server.server_address[1]}"
    server.paths, server.files, server.created, server.message, server.models = [], {}, None, None, {}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server

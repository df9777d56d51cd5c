"""`rehead push` against a stand-in for the Hub's HTTP API: huggingface_hub's own client uploads to it."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

TOKEN = "hf_right"


class Hub(BaseHTTPRequestHandler):
    """The few routes that an upload of small files takes; keeps what was committed."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        server = self.server
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._answer(401, {"error": "Invalid credentials"})
        server.paths.append(self.path)
        if self.path == "/api/repos/create":
            server.created = json.loads(body)
            return self._answer(200, {"url": f"{server.address}/me/mine", "name": "me/mine"})
        if "/preupload/" in self.path:
            files = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in json.loads(body)["files"]]
            return self._answer(200, {"files": files})
        if "/commit/" not in self.path:  # the check of the card's metadata
            return self._answer(200, {"warnings": [], "errors": []})
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                server.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            else:
                server.message = entry["value"]["summary"]
        return self._answer(200, {"success": True, "commitOid": "a" * 40, "commitUrl": f"{server.address}/me/mine/commit/a"})

    def do_GET(self) -> None:
        self._answer(200, {"id": "me/mine", "sha": "a" * 40, "siblings": [], "tags": [], "private": False})

    def _answer(self, code, content) -> None:
        raw = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.address = f"http://127.0.0.1:{server.server_address[1]}"
    server.paths, server.files, server.created, server.message = [], {}, None, None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def push(hub, *arguments, token=TOKEN):
    environment = os.environ | {"HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "HF_TOKEN": token}
    command = [sys.executable, "-m", "service.cli", "push", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_push_uploads_the_folder_and_its_card_but_no_texts(hub, tiny_sentiment, tmp_path):
    import shutil

    folder = shutil.copytree(tiny_sentiment, tmp_path / "mine")
    (folder / "README.md").write_text("---\nlibrary_name: transformers\n---\n# mine\n")
    (folder / "report").mkdir()
    (folder / "report" / "errors.csv").write_text("text\nsecret\n")
    (folder / "report" / "confusion_matrix.png").write_bytes(b"png")
    done = push(hub, folder, "me/mine", "--private", "--message", "first")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("is at {}/me/mine (aaaaaaa)\n".format(hub.address))
    assert hub.created["name"] == "mine" and hub.created["organization"] == "me" and hub.message == "first"
    assert hub.created.get("private") is True or hub.created.get("visibility") == "private"
    assert hub.files["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert b"# mine" in hub.files["README.md"] and "report/confusion_matrix.png" in hub.files
    assert "report/errors.csv" not in hub.files
    assert push(hub, folder, "me/mine", "--with-texts").returncode == 0
    assert hub.files["report/errors.csv"] == b"text\nsecret\n"


def test_a_refusal_and_a_bad_name_are_one_sentence(hub, tiny_sentiment):
    refused = push(hub, tiny_sentiment, "me/mine", token="hf_wrong")
    assert refused.returncode == 2 and refused.stderr.count("\n") <= 2
    assert "the Hub refused me/mine (401" in refused.stderr and "hf auth login" in refused.stderr
    wrong = push(hub, tiny_sentiment, "me//mine")
    assert wrong.returncode == 2 and "write OWNER/NAME" in wrong.stderr
    assert hub.files == {}

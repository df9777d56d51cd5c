"""nginx with deploy/nginx.conf in front of a server with a key."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.support.waiting import until

KEY = {"Authorization": "Bearer a-long-enough-key"}
CONFIG = Path(__file__).parents[2] / "deploy" / "nginx.conf"
missing = [name for name in ("nginx", "openssl") if shutil.which(name, path="/usr/sbin:/usr/bin:/bin") is None]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing), reason=f"{' and '.join(missing)} is not installed")]


def configuration(folder: Path, port: int, address: str) -> Path:
    """Write a configuration around the one of the documentation, with ports and files of this test."""
    server = CONFIG.read_text().replace("listen 443", f"listen 127.0.0.1:{port}")
    server = server.replace("http://127.0.0.1:7860", address).replace("/etc/ssl/classify", str(folder / "classify"))
    assert "classify.example.org" in server and not re.search(r"listen 443|http://\S+:7860|/etc/ssl", server)
    paths = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    file = folder / "nginx.conf"
    file.write_text(
        f"{'user root;' if os.geteuid() == 0 else ''} daemon off; pid {folder}/pid; error_log {folder}/error.log;"
        f"events {{}} http {{ access_log off; {paths}\n{server}\n}}"
    )
    return file


@pytest.fixture
def proxied(start_server, tiny_models, tmp_path):
    """Yield a client of nginx in front of a server."""
    subject = ["-days", "1", "-subj", "/CN=classify.example.org", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "classify.key"]
    subprocess.run([*command, "-out", "classify.pem", *subject], cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "keys").write_text("team = a-long-enough-key\n")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"https://127.0.0.1:{port}"
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/bin:/bin")
    server = start_server(tiny_models, "--api-key-file", str(tmp_path / "keys"))
    try:
        file = configuration(tmp_path, port, server.address)
        process = subprocess.Popen([nginx, "-p", str(tmp_path), "-c", str(file)], stderr=subprocess.DEVNULL)
        trusted = ssl.create_default_context(cafile=str(tmp_path / "classify.pem"))
        with httpx.Client(base_url=address, verify=trusted, timeout=30) as client:

            def answers():
                try:
                    return client.get("/health").status_code == 200
                except httpx.TransportError:
                    return False

            try:
                until(answers, "nginx answers")
                yield client
            finally:
                process.terminate()
                process.wait(30)
    finally:
        assert server.stop(signal.SIGTERM) == (0, "")


def test_the_documented_proxy_passes_what_the_server_offers_and_nothing_else(proxied):
    ask = {"inputs": "good film"}
    assert proxied.post("/models/sentiment", json=ask).status_code == 401
    answer = proxied.post("/models/sentiment", json=ask, headers=KEY)
    assert answer.status_code == 200 and re.fullmatch(r"[0-9a-f]{32}", answer.headers["X-Request-Id"])
    assert proxied.get("/metrics", headers=KEY).status_code == 403
    assert proxied.head("/health").status_code == 200
    origin = {"Origin": str(proxied.base_url).rstrip("/")}
    assert proxied.post("/models/sentiment", json=ask, headers=KEY | origin).status_code == 200
    foreign = proxied.post("/models/sentiment", json=ask, headers=KEY | {"Origin": "https://evil.example"})
    assert foreign.status_code == 403
    assert proxied.post("/models/sentiment", content=b"a" * 3_000_000, headers=KEY).status_code in (413, 415)
    login = proxied.post("/login", data={"key": "a-long-enough-key"}, headers=origin)
    assert login.status_code == 303 and "rehead_session" in login.headers["set-cookie"]
    assert "rehead" in proxied.get("/", headers=KEY).text


def test_requests_that_never_end_stay_in_the_proxy(proxied):
    host, port = proxied.base_url.host, proxied.base_url.port
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    unfinished = []
    for _ in range(40):
        connection = context.wrap_socket(socket.create_connection((host, port)))
        connection.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\na")
        unfinished.append(connection)
    for _ in range(5):
        assert proxied.post("/models/sentiment", json={"inputs": "good film"}, headers=KEY).status_code == 200
    for connection in unfinished:
        connection.close()

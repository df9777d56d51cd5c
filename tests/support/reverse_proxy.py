"""A reverse proxy that serves another server below a path prefix, in a process of its own.

    python reverse_proxy.py PREFIX SERVER removed|kept

It prints its port. `removed` removes the prefix from requests and sends X-Forwarded-Prefix; `kept` passes it on.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}


@contextlib.contextmanager
def below(prefix: str, server: str, *, keeps_prefix: bool = False) -> Iterator[str]:
    """Return the address under which a proxy serves `server`; every other path of the proxy answers 404."""
    command = [sys.executable, __file__, prefix, server, "kept" if keeps_prefix else "removed"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}{prefix}"
        finally:
            process.kill()


def proxy(prefix: str, server: str, *, keeps_prefix: bool) -> Starlette:
    """Return the proxy as an app."""
    client = httpx.AsyncClient(base_url=server, timeout=60)

    async def forward(request: Request) -> Response:
        path = request.url.path
        if not path.startswith(f"{prefix}/"):
            return PlainTextResponse("another site", 404)
        headers = [(name, value) for name, value in request.headers.raw if name.decode() not in HOP_BY_HOP]
        if not keeps_prefix:
            path = path[len(prefix) :]
            headers.append((b"x-forwarded-prefix", prefix.encode()))
        headers.append((b"x-forwarded-for", b"203.0.113.7"))
        url = httpx.URL(path=path, query=request.url.query.encode())
        sent = client.build_request(request.method, url, headers=headers, content=await request.body())
        answer = await client.send(sent, stream=True)

        async def body() -> AsyncIterator[bytes]:
            try:
                async for part in answer.aiter_raw():
                    yield part
            finally:
                await answer.aclose()

        response = StreamingResponse(body(), answer.status_code)
        pairs = [(name.lower(), value) for name, value in answer.headers.raw]
        response.raw_headers = [(name, value) for name, value in pairs if name.decode() not in HOP_BY_HOP]
        return response

    app = Starlette()
    app.add_route("/{path:path}", forward, ["GET", "POST", "HEAD"])
    return app


def main() -> None:
    """Run the proxy until it is killed."""
    prefix, server, kind = sys.argv[1:]
    config = uvicorn.Config(proxy(prefix, server, keeps_prefix=kind == "kept"), port=0, log_level="critical")
    listener = config.bind_socket()
    print(listener.getsockname()[1], flush=True)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()

"""`/login`: a person gives a key, and the browser keeps a session.

Knows: a form, a cookie.
Does not know: what is behind it.
"""

from __future__ import annotations

from html import escape
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from starlette.responses import Response

from service.server.guard import SESSION, ApiKeys
from service.server.routes.docs import STYLE

LONGEST_FORM = 4096


def build(keys: ApiKeys) -> APIRouter:
    """The form, and what takes it."""
    router = APIRouter(include_in_schema=False)

    @router.get("/login")
    async def form() -> Response:
        return RedirectResponse("/", 303) if not keys else _page()

    @router.post("/login")
    async def login(request: Request) -> Response:
        raw = b""
        async for part in request.stream():
            raw += part
            if len(raw) > LONGEST_FORM:
                return _page("That is no key.", 413)
        given = parse_qs(raw.decode("utf-8", "replace")).get("key", [""])[0]
        name = keys.name_of(given)
        if name is None:
            return _page("This key does not open the server.", 401)
        answer = RedirectResponse("/", 303)
        secure = request.url.scheme == "https"
        answer.set_cookie(SESSION, keys.session(name), httponly=True, samesite="strict", secure=secure)
        return answer

    return router


def _page(problem: str = "", status: int = 200) -> HTMLResponse:
    said = f'<p role="alert">{escape(problem)}</p>' if problem else ""
    content = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>rehead</title><style>{STYLE} input, button {{ font: inherit; padding: .4rem .7rem; }}</style>"
        f'<h1>rehead</h1>{said}<form method="post"><label for="key">Key</label> '
        '<input id="key" name="key" type="password" autocomplete="current-password" autofocus required> '
        "<button>Open</button></form></html>"
    )
    return HTMLResponse(content, status)

"""`/login`: a form that takes an API key and opens a browser session."""

from __future__ import annotations

from html import escape
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from starlette.responses import Response

from service.errors import ServiceError
from service.server.auth import SESSION_COOKIE, ApiKeys
from service.server.bodies import Bodies
from service.server.request_record import record_of
from service.server.routes.docs import STYLE

MAX_FORM_BYTES = 4096


def build(keys: ApiKeys, bodies: Bodies) -> APIRouter:
    """Return the routes of the form."""
    router = APIRouter(include_in_schema=False)

    @router.get("/login")
    async def form(request: Request) -> Response:
        return RedirectResponse(_home(request), 303) if not keys else _page()

    @router.post("/login")
    async def login(request: Request) -> Response:
        try:
            raw = await bodies.read(request.scope, request.receive, record_of(request).client, MAX_FORM_BYTES)
        except ServiceError as error:
            return _page(f"{str(error).capitalize()}.", error.status)
        key = parse_qs(raw.decode("utf-8", "replace")).get("key", [""])[0]
        name = keys.name_of(key)
        if name is None:
            return _page("Invalid API key.", 401)
        response = RedirectResponse(_home(request), 303)
        secure = request.url.scheme == "https"
        response.set_cookie(
            SESSION_COOKIE, keys.session(name), path=_home(request), httponly=True, samesite="strict", secure=secure
        )
        return response

    return router


def _home(request: Request) -> str:
    """Return the path of the page."""
    return f"{request.scope.get('root_path', '')}/"


def _page(problem: str = "", status: int = 200) -> HTMLResponse:
    alert = f'<p role="alert">{escape(problem)}</p>' if problem else ""
    content = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>rehead</title><style>{STYLE} input, button {{ font: inherit; padding: .4rem .7rem; }}</style>"
        f'<h1>rehead</h1>{alert}<form method="post"><label for="key">API key</label> '
        '<input id="key" name="key" type="password" autocomplete="current-password" autofocus required> '
        "<button>Sign in</button></form></html>"
    )
    return HTMLResponse(content, status)

"""`GET /docs`: the OpenAPI description as one page that loads nothing from the network.

FastAPI's own page loads its script from a content delivery network, so it stays blank on a machine without one.
"""

from __future__ import annotations

import json
import re
from html import escape
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse

STYLE = """
body { font: 16px/1.55 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; color: #1f2937; }
code, pre { font: 14px/1.5 ui-monospace, monospace; background: #f1f5f9; border-radius: 6px; padding: .1em .35em; }
pre { padding: .8em 1em; overflow-x: auto; }
h2 { margin-top: 2.2rem; font-size: 1.1rem; } b { color: #0f766e; }
td { padding: .15rem 1rem .15rem 0; vertical-align: top; }
@media (prefers-color-scheme: dark) { body { background: #0f172a; color: #e2e8f0; } code, pre { background: #1e293b; } }
"""

TOPIC = {"inputs": "The match went to extra time.", "parameters": {"candidate_labels": ["sports", "business"]}}
TYPED = {
    "model": "topics",
    "state": "The parcel is three weeks late.",
    "questions": {"topic": {"type": "choice", "criteria": {"delivery": None, "billing": "Money was charged wrongly"}}},
}
EXAMPLES: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "/models/{name}": [("models/sentiment", {"inputs": "I loved it."}), ("models/topics", TOPIC)],
    "/predict": [("predict", {"inputs": [["I loved it."], ["It was dull."]]})],
    "/v1/classify": [("v1/classify", {"model": "sentiment", "input": ["I loved it.", "It was dull."]})],
    "/v1/systemone": [("v1/systemone", TYPED)],
}


def build(app: FastAPI, *, has_page: bool) -> APIRouter:
    """Return the route; the page shows `/openapi.json`, and a link to the web UI where there is one."""
    router = APIRouter(include_in_schema=False)

    @router.get("/docs")
    def page(request: Request) -> HTMLResponse:
        return HTMLResponse(_page(app.openapi(), str(request.base_url), has_page))

    return router


def _page(description: dict[str, Any], base_url: str, has_page: bool) -> str:
    parts = [
        _operation(method, path, operation, base_url)
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    ]
    link = ' Web UI: <a href="./">/</a>.' if has_page else ""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>rehead API</title><style>{STYLE}</style>'
        "<h1>rehead API</h1><p>Errors answer <code>{&quot;error&quot;: &quot;...&quot;}</code> with a matching status. "
        f'OpenAPI description: <a href="openapi.json">/openapi.json</a>.{link}</p>'
        f"{''.join(parts)}</html>"
    )


def _operation(method: str, path: str, operation: dict[str, Any], base_url: str) -> str:
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    rows = "".join(_fields(body))
    commands = [_curl(f"{base_url}{address}", content) for address, content in EXAMPLES.get(path, [])]
    examples = "".join(f"<pre>{escape(command)}</pre>" for command in commands)
    return (
        f"<h2><b>{method.upper()}</b> <code>{escape(path)}</code> {escape(operation.get('summary', ''))}</h2>"
        f"<p>{_text(operation)}</p><table>{rows}</table>{examples}"
    )


def _fields(schema: dict[str, Any], prefix: str = "") -> list[str]:
    """Return table rows for the fields of a schema and of the objects inside it."""
    rows = []
    for name, field in schema.get("properties", {}).items():
        rows.append(f"<tr><td><code>{prefix}{name}</code></td><td>{_text(field)}</td></tr>")
        for choice in field.get("anyOf", []):
            rows += _fields(choice, f"{prefix}{name}.")
    return rows


def _text(described: dict[str, Any]) -> str:
    sentence = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(described.get("description", "")))
    choices = "".join(f" <code>{escape(choice)}</code>" for choice in described.get("enum", []))
    return sentence + (f" One of{choices}." if choices else "")


def _curl(url: str, content: dict[str, Any]) -> str:
    return f"curl {url} --json '{json.dumps(content)}'"

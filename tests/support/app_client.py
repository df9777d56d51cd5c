"""A client of an app in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from starlette.testclient import TestClient


@contextmanager
def opened(settings: Any, *, base_url: str = "http://127.0.0.1", client: Any = None, **options: Any) -> Iterator[Any]:
    """Yield the client of an app whose models are loaded and measured and whose page is there.

    What the app does in the background would otherwise replace the warning filters of a test that runs meanwhile.
    """
    from service.app import create_app

    async def build() -> Any:
        return create_app(settings, **options)

    app = asyncio.run(build())
    sent_from = client or ("testclient", 50_000)
    with TestClient(app, base_url=base_url, raise_server_exceptions=False, client=sent_from) as opened_client:
        opened_client.portal.call(app.page.ready)
        opened_client.portal.call(app.page.ready)
        app.state.preload.wait()
        yield opened_client

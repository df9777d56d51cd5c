"""Tests of the serving side see the models they are given, and none that ship."""

from __future__ import annotations

import asyncio

import pytest


@pytest.fixture(scope="module", autouse=True)
def nothing_ships(tmp_path_factory):
    """The models folder of the checkout may hold anything."""
    with pytest.MonkeyPatch.context() as patch:
        empty = tmp_path_factory.mktemp("nothing_ships")
        patch.setattr("finetune.core.model_folder.shipped_dir", lambda: empty)
        yield


@pytest.fixture
def served(tiny_models, monkeypatch):
    """Start servers with the settings given and return their clients; `client.lines` holds their log."""
    from starlette.testclient import TestClient

    from service.app import create_app
    from service.settings import ServeSettings

    clients = []

    def start(base_url="http://127.0.0.1", keys="", address="testclient", **settings):
        monkeypatch.setenv("REHEAD_API_KEYS", keys)
        lines = []

        async def build():
            return create_app(ServeSettings(models=tiny_models, **settings), log=lines.append)

        app = asyncio.run(build())
        client = TestClient(app, base_url=base_url, raise_server_exceptions=False, client=(address, 50_000))
        client.__enter__()
        client.portal.call(app.page.ready)
        client.lines = lines
        clients.append(client)
        return client

    yield start
    for client in clients:
        client.__exit__(None, None, None)

"""Tests of the serving side see the models they are given, and none that ship."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from tests.support.app_client import opened


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
    from service.settings import ServeSettings

    clients = ExitStack()

    def start(base_url="http://127.0.0.1", keys="", address="testclient", **settings):
        monkeypatch.setenv("REHEAD_API_KEYS", keys)
        lines = []
        settings = ServeSettings(models=tiny_models, **settings)
        server = opened(settings, base_url=base_url, client=(address, 50_000), log=lines.append)
        client = clients.enter_context(server)
        client.lines = lines
        return client

    with clients:
        yield start

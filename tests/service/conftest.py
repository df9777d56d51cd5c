"""Tests of the serving side see the models they are given, and none that ship."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module", autouse=True)
def nothing_ships(tmp_path_factory):
    """The models folder of the checkout may hold anything."""
    with pytest.MonkeyPatch.context() as patch:
        empty = tmp_path_factory.mktemp("nothing_ships")
        patch.setattr("finetune.core.model_folder.shipped_dir", lambda: empty)
        yield

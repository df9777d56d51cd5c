"""What the routes say of the models that ship, whose folders have everything that a description may hold."""

import pytest

from finetune.core import model_folder
from service.settings import ServeSettings
from tests.support.app_client import opened

SHIPPED = model_folder.shipped_dir()
NAMES = sorted(folder.name for folder in SHIPPED.iterdir() if (folder / "config.json").is_file())


@pytest.fixture(scope="module")
def client():
    with opened(ServeSettings(models=SHIPPED), log=lambda line: None) as client:
        yield client


def test_every_model_is_listed_with_its_metric_and_where_that_was_measured(client) -> None:
    entries = client.get("/models").json()
    assert [entry["name"] for entry in entries] == NAMES
    for entry in entries:
        folder = model_folder.read(SHIPPED / entry["name"])
        assert folder.headline is not None and folder.metrics is not None
        name, value = folder.headline
        where = {"split": folder.metrics["split"], "rows": folder.metrics["rows"]}
        assert entry["metric"] == {"name": name, "value": value, **where}
        assert client.get(f"/models/{entry['name']}/info").status_code == 200


@pytest.mark.parametrize("path", ["/v1/models", "/info", "/health", "/openapi.json"])
def test_other_descriptions_are_answered_too(client, path: str) -> None:
    assert client.get(path).status_code == 200

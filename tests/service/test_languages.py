"""A text in a language that a model was not trained for is answered with a warning: API, command line, tables."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from finetune.core import model_folder
from finetune.core.tables.files import write_table
from service.cli import rehead
from service.settings import ServeSettings
from tests.support.app_client import opened

COMPLAINT = "Das Gerät kam kaputt an und niemand antwortet auf meine Nachrichten."
PRAISE = "What a film, and what a joy from the first minute to the last."


@pytest.fixture
def models(tiny_models: Path, tmp_path: Path) -> Path:
    """Return served models that record English as their language."""
    folder = Path(shutil.copytree(tiny_models, tmp_path / "models"))
    for model in folder.iterdir():
        settings = model_folder.read(model).settings
        model_folder.write_settings(model, replace(settings, languages=("en",)))
        model_folder.seal(model)
    return folder


@pytest.fixture
def client(models: Path):
    with opened(ServeSettings(models=models), log=lambda line: None) as client:
        yield client


def test_every_dialect_names_the_language(client) -> None:
    answer = client.post("/models/sentiment", json={"inputs": [COMPLAINT, PRAISE]})
    foreign, own = answer.json()
    assert {row["language"] for row in foreign} == {"de"} and not any("language" in row for row in own)
    assert answer.headers["X-HF-Warning"].startswith("language; 1 of 2 texts")
    labels = {"candidate_labels": ["film", "money"]}
    zero_shot = client.post("/models/topics", json={"inputs": COMPLAINT, "parameters": labels}).json()
    assert {row["language"] for row in zero_shot} == {"de"}
    assert client.post("/predict", json={"inputs": COMPLAINT}).json()[0]["language"] == "de"
    vllm = client.post("/classify", json={"model": "sentiment", "input": [PRAISE, COMPLAINT]}).json()["data"]
    assert [item.get("language") for item in vllm] == [None, "de"]


def test_the_command_line_warns_of_texts_and_tables(models: Path, tmp_path: Path) -> None:
    def run(*arguments: str):
        return CliRunner().invoke(rehead, [*arguments, "--models", str(models)])

    done = run("predict", "sentiment", COMPLAINT, "--json")
    assert json.loads(done.stdout)[0]["language"] == "de"
    assert "warning: 1 of 1 texts are in a language (de) that the model was not trained for" in done.stderr
    assert "warning" not in run("predict", "sentiment", PRAISE).stderr

    table, out = tmp_path / "in.csv", tmp_path / "out.csv"
    write_table(table, [{"text": text} for text in (PRAISE, COMPLAINT)])
    done = run("predict", "sentiment", str(table), "--out", str(out))
    assert "warning: 1 of the first 2 texts are in another language (de)" in done.stderr

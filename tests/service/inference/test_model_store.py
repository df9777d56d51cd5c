"""Models by name, each loaded once."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading

import pytest
from waiting import until

from finetune.core import model_folder
from finetune.core.errors import CheckpointError
from service.errors import BackendFailed, ModelNotFound
from service.inference.model_store import ModelStore, describe

pytestmark = pytest.mark.fast


@pytest.fixture
def models(tiny_models, tmp_path, monkeypatch):
    """A folder of models of our own, and none that ship."""
    monkeypatch.setattr("finetune.core.model_folder.shipped_dir", lambda: tmp_path / "none")
    return shutil.copytree(tiny_models, tmp_path / "models")


def test_a_model_is_loaded_once_however_many_ask_at_the_same_time(models):
    loads = []

    def load(folder):
        loads.append(folder.path.name)
        until(lambda: len(started) == len(threads), "all threads")
        return object()

    store = ModelStore(models, load)
    started, found = [], []

    def request(number):
        started.append(number)
        found.append(store.get("sentiment"))

    threads = [threading.Thread(target=request, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loads == ["sentiment"] and len(set(map(id, found))) == 1 and store.loaded() == ["sentiment"]


def test_only_served_names_are_found(models):
    store = ModelStore(models, lambda folder: folder)
    for name in (str(models / "sentiment"), "../models/sentiment", "google/bert", ".", "", "sentiment/"):
        with pytest.raises(ModelNotFound, match="the names are sentiment, topics"):
            store.get(name)


def test_the_default_is_the_configured_one_else_sentiment_else_the_first(models):
    assert ModelStore(models, str, default="topics").default_name == "topics"
    assert ModelStore(models, str).default_name == "sentiment"
    (models / "sentiment").rename(models / "zeal")
    assert ModelStore(models, str).default_name == "topics"
    with pytest.raises(ModelNotFound, match="no model 'sentiment' is served: the names are topics, zeal"):
        ModelStore(models, str, default="sentiment")


def test_an_empty_folder_says_that_nothing_is_served(models, tmp_path):
    with pytest.raises(ModelNotFound, match="no model is served"):
        _ = ModelStore(tmp_path / "nothing", str).default_name


def test_a_new_model_is_served(models):
    store = ModelStore(models, lambda folder: folder)
    shutil.copytree(models / "sentiment", models / "fresh")
    assert "fresh" in store.names() and store.get("fresh").path.name == "fresh"


def test_a_broken_model_is_reported_and_the_others_load(models):
    weights = models / "sentiment" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    store = ModelStore(models, lambda folder: folder)
    problems = dict(store.preload())
    assert "damaged or truncated" in problems["sentiment"] and problems["topics"] is None
    assert store.loaded() == ["topics"]
    with pytest.raises(CheckpointError, match="damaged"):
        store.get("sentiment")


def test_the_default_model_is_loaded_first_and_nothing_is_settled_before_the_last(models):
    shutil.copytree(models / "sentiment", models / "another")
    store = ModelStore(models, lambda folder: folder, default="topics")
    assert store.is_settled, "nothing is being loaded"
    names = store.preload()
    assert next(names) == ("topics", None) and store.loaded() == ["topics"] and not store.is_settled
    assert [name for name, _ in names] == ["another", "sentiment"] and store.is_settled
    abandoned = store.preload()
    next(abandoned)
    abandoned.close()
    assert store.is_settled
    store.settle()


def test_a_failed_load_is_tried_again(models):
    answers = [BackendFailed("no memory"), "loaded"]

    def load(folder):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    store = ModelStore(models, load)
    with pytest.raises(BackendFailed):
        store.get("topics")
    assert store.get("topics") == "loaded"


def test_a_description_says_name_task_labels_base_size_and_metric(models):
    store = ModelStore(models, str)
    (models / "sentiment" / "metrics.json").write_text('{"metrics": {"accuracy": {"value": 0.5, "low": 0, "high": 1}}}')
    found = describe("sentiment", store.folder("sentiment"))
    assert found["task"] == "binary" and found["labels"] == ["negative", "positive"] and found["base"] == "bert"
    assert found["metric"] == {"name": "accuracy", "value": 0.5} and found["size_bytes"] > 1000
    assert describe("topics", store.folder("topics"))["task"] == "zero-shot"


def test_a_damaged_folder_is_read_again_only_once_it_has_changed(models, monkeypatch):
    folder = models / "sentiment"
    weights = folder / "model.safetensors"
    content, hashed = weights.read_bytes(), []
    (folder / "manifest.json").write_text(json.dumps({"files": {weights.name: "0" * 64}}))
    store = ModelStore(models, lambda folder: folder.path.name)
    real = model_folder.sha256
    monkeypatch.setattr(model_folder, "sha256", lambda file: hashed.append(file) or real(file))
    for _ in range(5):
        with pytest.raises(CheckpointError, match="differs from manifest.json"):
            store.get("sentiment")
    assert hashed == [weights]
    (folder / "manifest.json").write_text(json.dumps({"files": {weights.name: hashlib.sha256(content).hexdigest()}}))
    assert store.get("sentiment") == "sentiment"

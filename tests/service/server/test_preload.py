"""The default model answers before the others are there, and lists of models wait for all of them."""

from __future__ import annotations

import shutil
import threading

import pytest

from finetune.core.errors import CheckpointError
from service.errors import BackendFailed
from service.inference.engine import Engine
from service.inference.model_store import ModelStore
from service.schema import TextInput
from service.server.preload import Preload
from service.settings import RuntimeSettings

WAIT_S = 60


@pytest.fixture
def runtime(tmp_path):
    return RuntimeSettings(cache=tmp_path / "cache")


@pytest.mark.slow
def test_the_default_answers_first_and_the_fastest_runtime_comes_later(tiny_models, runtime):
    lines, others_may_load = [], threading.Event()

    def load(folder):
        assert folder.path.name == "sentiment" or others_may_load.wait(WAIT_S)
        return Engine.load(folder, runtime, log=lines.append, measure_later=True)

    store = ModelStore(tiny_models, load)
    preload = Preload(store, lines.append)
    preload.first()
    preload.start()
    assert store.loaded() == ["sentiment"]
    assert store.get("sentiment").classify([TextInput("good")])[0].best.label in ("negative", "positive")
    assert lines == [
        "loaded sentiment: binary, negative, positive",
        "    by torch in float32, until the runtimes are measured",
    ]
    others_may_load.set()
    preload.wait()
    assert store.loaded() == ["sentiment", "topics"] and store.is_settled
    assert "sentiment: measuring which runtime is fastest on this machine (once)" in lines
    assert "until" not in store.get("sentiment").backend.why
    preload.stop()


def test_a_server_without_a_model_that_loads_does_not_start(tiny_models, tmp_path, runtime):
    models = shutil.copytree(tiny_models, tmp_path / "models")
    shutil.rmtree(models / "topics")
    (models / "sentiment" / "model.safetensors").write_bytes(b"damaged")
    lines = []
    preload = Preload(ModelStore(models, lambda folder: Engine.load(folder, runtime)), lines.append)
    with pytest.raises(BackendFailed, match="no model could be loaded"):
        preload.first()
    assert lines[0].startswith("skipped sentiment: ")


def test_what_goes_wrong_in_one_measurement_leaves_the_others_measured(tiny_models, runtime, monkeypatch):
    lines = []
    store = ModelStore(tiny_models, lambda folder: Engine.load(folder, runtime, log=lines.append, measure_later=True))
    preload = Preload(store, lines.append)
    preload.first()

    def fail():
        raise CheckpointError("its tokenizer cannot be loaded")

    monkeypatch.setattr(store.get("sentiment"), "measure", fail)
    preload.start()
    preload.wait()
    assert "sentiment: its runtimes cannot be measured (its tokenizer cannot be loaded)" in lines
    assert "until" not in store.get("topics").backend.why


def test_nothing_more_is_loaded_while_the_server_stops(tiny_models, runtime):
    store = ModelStore(tiny_models, lambda folder: Engine.load(folder, runtime, measure_later=True))
    preload = Preload(store, lambda line: None, lambda: True)
    preload.first()
    preload.start()
    preload.wait()
    assert store.is_settled and "until" in store.get("sentiment").backend.why

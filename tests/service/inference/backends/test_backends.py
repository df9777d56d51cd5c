"""One suite for every runtime: the answers of torch in float32, in any batch, of any length, to the end."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from checkpoints import save_tokenizer, tiny_family

from finetune.core.model_folder import read
from finetune.core.tokenization import TextEncoder
from service.errors import BackendFailed, BadRequest, Overloaded
from service.inference.backends import base, selection
from service.inference.backends.base import LOGIT_TOLERANCE
from service.inference.backends.torch import TorchBackend
from service.inference.engine import Engine
from service.schema import TextInput, ZeroShotRequest
from service.settings import RuntimeSettings

DUMMY = ("dummy", "float32")
QUICK_RUNTIMES = [
    ("torch", "float32"),
    ("torch", "bfloat16"),
    ("openvino", "float32"),
    ("openvino", "bfloat16"),
    DUMMY,
]
ONNX = pytest.param(("onnx", "float32"), marks=pytest.mark.slow)  # its exporter takes seconds for each graph
EXACT_RUNTIMES = [*QUICK_RUNTIMES[:-1], ONNX]
RUNTIMES = [*EXACT_RUNTIMES, DUMMY]
TEXTS = ["", "a", "the match was great", "money and business " * 7, "film " * 500, "[SEP] \ud800", "a " * 126]
LABELS = ("sports", "money and a long label", "x")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def loaded(tiny_sentiment, tiny_topics, cache):
    """Engines by runtime and model, made once."""
    found = {}

    def get(runtime, model):
        if (runtime, model) not in found:
            folder = read({"sentiment": tiny_sentiment, "topics": tiny_topics}[model])
            settings = RuntimeSettings(backend=runtime[0], precision=runtime[1], cache=cache)
            try:
                found[runtime, model] = Engine.load(folder, settings)
            except BackendFailed as error:
                if "no bfloat16" not in str(error):
                    raise
                pytest.skip(str(error))
        return found[runtime, model]

    return get


def logits(engine, texts, pairs=None, attention="ordinary"):
    encoder = engine._runner.encoder
    inputs = encoder.pad(encoder(texts, pairs))
    return engine.backend.run(inputs, attention=attention, embeddings=attention == "shared_text")


def close(found, expected, precision):
    return np.abs(found - expected).max() <= LOGIT_TOLERANCE[precision] * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_facts_are_declared(loaded, runtime):
    for model in ("sentiment", "topics"):
        backend = loaded(runtime, model).backend
        assert (backend.name, backend.precision) == runtime and backend.is_padded
        assert backend.shared_text and backend.one_pass


@pytest.mark.parametrize("runtime", EXACT_RUNTIMES)
def test_logits_are_those_of_torch_in_float32(loaded, runtime):
    engine, reference = loaded(runtime, "sentiment"), loaded(("torch", "float32"), "sentiment")
    for texts in (TEXTS, TEXTS[2:3], TEXTS[:2]):
        assert close(logits(engine, texts).logits, logits(reference, texts).logits, runtime[1])


@pytest.mark.parametrize("runtime", EXACT_RUNTIMES)
def test_under_the_shared_mask_logits_and_embeddings_are_those_of_torch_in_float32(loaded, runtime):
    engine, reference = loaded(runtime, "topics"), loaded(("torch", "float32"), "topics")
    found, expected = (logits(one, TEXTS, TEXTS[::-1], "shared_text") for one in (engine, reference))
    assert close(found.logits, expected.logits, runtime[1])
    assert close(found.embeddings, expected.embeddings, runtime[1])


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_row_alone_is_the_row_in_a_batch(loaded, runtime):
    engine = loaded(runtime, "sentiment")
    together = logits(engine, TEXTS).logits
    for row, text in enumerate(TEXTS):
        assert close(logits(engine, [text]).logits[0], together[row], runtime[1])


@pytest.mark.parametrize(
    ("runtime", "scorer"),
    [(runtime, scorer) for runtime in QUICK_RUNTIMES for scorer in ("both", "nli", "embedding")]
    + [pytest.param(("onnx", "float32"), "both", marks=pytest.mark.slow)],
)
def test_zero_shot_answers_are_those_of_torch_in_float32(loaded, runtime, scorer):
    request = ZeroShotRequest(LABELS, scorer=scorer)
    engine, reference = loaded(runtime, "topics"), loaded(("torch", "float32"), "topics")
    found, expected = (one.zero_shot(TEXTS[1:], request) for one in (engine, reference))
    if runtime[0] == "dummy":
        assert all({one.label for one in answer.predictions} == set(LABELS) for answer in found)
        return
    allowed = 1e-5 if runtime[1] == "float32" else 0.1  # weights that exaggerate, to show differences
    for one, other in zip(found, expected, strict=True):
        scores = {prediction.label: prediction.score for prediction in other.predictions}
        assert all(abs(each.score - scores[each.label]) < allowed for each in one.predictions)
        assert one.truncated == other.truncated


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_no_texts_have_no_answers(loaded, runtime):
    assert loaded(runtime, "sentiment").classify([]) == []
    assert loaded(runtime, "topics").zero_shot([], ZeroShotRequest(LABELS)) == []


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_cancelled_request_is_skipped_and_the_next_is_answered(loaded, runtime):
    engine = loaded(runtime, "sentiment")
    gate, entered, seen = threading.Event(), threading.Event(), []
    compute = engine._runner._queue._run

    def gated(kind, batch):
        entered.set()
        gate.wait(10)
        seen.append(len(batch))
        return compute(kind, batch)

    async def ask():
        first = asyncio.create_task(engine.aclassify([TextInput("a")]))
        await asyncio.to_thread(entered.wait, 10)
        left = asyncio.create_task(engine.aclassify([TextInput("gone")] * 1 + [TextInput(text) for text in TEXTS]))
        while not engine._runner._queue.queued_tokens:
            await asyncio.sleep(0.001)
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        gate.set()
        return await first, await engine.aclassify([TextInput("b")])

    engine._runner._queue._run = gated
    try:
        first, second = asyncio.run(ask())
    finally:
        engine._runner._queue._run = compute
    assert len(first) == len(second) == 1 and seen == [1, 1]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_closed_under_load_every_request_ends(tiny_sentiment, cache, runtime):
    try:
        engine = Engine.load(
            read(tiny_sentiment), RuntimeSettings(backend=runtime[0], precision=runtime[1], cache=cache)
        )
    except BackendFailed as error:
        pytest.skip(str(error))
    ends, begun = [], threading.Barrier(5)

    def ask(number):
        begun.wait(10)
        try:
            for count in range(200):
                engine.classify([TextInput(f"the match {number} {count}")])
        except BackendFailed as error:
            ends.append(str(error))
        else:
            ends.append("answered")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    begun.wait(10)
    engine.close()
    for thread in threads:
        thread.join(30)
    assert len(ends) == 4 and all(end in ("answered", "this model was closed") for end in ends)


@pytest.mark.parametrize("runtime", [("torch", "float32"), ("openvino", "float32")])
def test_a_thousand_texts_alone_and_in_random_batches_score_the_same(loaded, runtime):
    engine = loaded(runtime, "sentiment")
    rng = np.random.default_rng(0)
    words = ["the", "match", "was", "great", "money", "planet", "film", "bad", "awful", "goal"]
    inputs = [TextInput(" ".join(rng.choice(words, rng.integers(1, 40)))) for _ in range(1000)]
    alone = [engine.classify([one])[0] for one in inputs]
    order = rng.permutation(len(inputs))
    for part in np.array_split(order, 40):
        for index, answer in zip(part, engine.classify([inputs[i] for i in part]), strict=True):
            assert answer.best.label == alone[index].best.label
            assert abs(answer.best.score - alone[index].best.score) < 1e-5


def test_a_graph_with_other_outputs_is_rejected(tiny_sentiment, tmp_path, monkeypatch):
    from service.inference.backends.graphs import Graph

    right = Graph.outputs
    monkeypatch.setattr(Graph, "outputs", lambda self, inputs: [one + 1 for one in right(self, inputs)])
    with pytest.raises(BackendFailed, match="sentiment has other outputs on openvino than on torch"):
        Engine.load(read(tiny_sentiment), RuntimeSettings(backend="openvino", precision="float32", cache=tmp_path))
    assert not list(tmp_path.rglob("*.xml"))


def test_a_second_start_exports_nothing(tiny_sentiment, tmp_path, monkeypatch):
    settings = RuntimeSettings(backend="openvino", precision="float32", cache=tmp_path)
    expected = Engine.load(read(tiny_sentiment), settings).classify([TextInput("a film")])
    monkeypatch.setattr(TorchBackend, "load", None)
    assert Engine.load(read(tiny_sentiment), settings).classify([TextInput("a film")]) == expected


def test_auto_selects_the_fastest_with_equal_outputs_logs_why_and_stores_it(tiny_topics, tmp_path, monkeypatch):
    logged = []
    folder, settings = read(tiny_topics), RuntimeSettings(cache=tmp_path)
    backend = selection.load(folder, settings, logged.append)
    assert logged[0] == "topics: measuring which runtime is fastest on this machine (once)"
    assert re.match(rf"topics: {backend.name} in {backend.precision}, which does \d+\.\d", logged[1])
    assert logged[1].count(" times ") + logged[1].count("skipped") >= 1
    monkeypatch.setattr(selection, "_fastest", None)
    again = selection.load(folder, settings, logged.append)
    assert (again.name, again.precision, again.why) == (backend.name, backend.precision, backend.why)
    assert logged[1:] == [f"topics: {backend.why}"]


def test_a_cache_folder_that_cannot_be_written_is_logged_and_torch_is_used(tiny_sentiment, tmp_path):
    (tmp_path / "file").write_text("no folder")
    logged = []
    settings = RuntimeSettings(cache=tmp_path / "file" / "cache")
    backend = selection.load(read(tiny_sentiment), settings, logged.append)
    assert backend.name == "torch" and "cannot be written" in logged[-1]
    with pytest.raises(BackendFailed, match="cannot be used .*: name another with REHEAD_CACHE"):
        selection.load(
            read(tiny_sentiment), settings.model_copy(update={"backend": "openvino", "precision": "float32"})
        )


def logits_of(backend, folder):
    """The logits of a text."""
    encoder = TextEncoder.load(folder.path, folder.config, max_length=folder.settings.max_length)
    return backend.run(encoder.pad(encoder(["good film"])), attention="ordinary", embeddings=False).logits


@pytest.mark.slow
def test_a_damaged_cache_is_noticed_when_it_is_read_and_written_again(tiny_sentiment, tmp_path):
    settings, folder = RuntimeSettings(backend="openvino", precision="float32", cache=tmp_path), read(tiny_sentiment)
    expected = logits_of(selection.load(folder, settings), folder)
    (weights,), (facts,) = tmp_path.rglob("rows/openvino_model.bin"), tmp_path.rglob("facts.json")
    content = bytearray(weights.read_bytes())
    for place in range(0, len(content), max(1, len(content) // 400)):
        content[place] ^= 0xFF
    for damage in (
        lambda: weights.write_bytes(content),
        lambda: (weights.parent / "hashes.json").write_text(""),
        lambda: facts.write_text(""),
        lambda: facts.write_text("[]"),
    ):
        damage()
        np.testing.assert_array_equal(logits_of(selection.load(folder, settings), folder), expected)
    assert not list(tmp_path.rglob(".partial-*"))


@pytest.mark.slow
def test_several_that_fill_a_cache_at_once_do_not_disturb_each_other(tiny_sentiment, tmp_path):
    settings, folder = RuntimeSettings(backend="openvino", precision="float32", cache=tmp_path), read(tiny_sentiment)
    with ThreadPoolExecutor(3) as pool:
        backends = list(pool.map(lambda _: selection.load(folder, settings), range(3)))
    with tempfile.TemporaryDirectory(dir=backends[0]._home) as staging:  # a process that exports it a second time
        made = shutil.copytree(backends[0]._home / "rows", Path(staging) / "rows")
        backends[0]._put(made)
    first, *others = (logits_of(backend, folder) for backend in backends)
    for logits in others:
        np.testing.assert_array_equal(logits, first)
    assert not list(tmp_path.rglob(".partial-*")) and len(list(tmp_path.rglob("rows/hashes.json"))) == 1


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a folder away")
def test_a_cache_folder_of_another_user_is_not_used(tiny_sentiment, tmp_path, monkeypatch):
    os.chown(tmp_path, 1234, 1234)
    monkeypatch.setattr(os, "geteuid", lambda: 4321)
    settings = RuntimeSettings(backend="openvino", precision="float32", cache=tmp_path)
    with pytest.raises(BackendFailed, match="belongs to another user.*name another with REHEAD_CACHE"):
        selection.load(read(tiny_sentiment), settings)
    auto = selection.load(read(tiny_sentiment), RuntimeSettings(cache=tmp_path))
    assert auto.name == "torch" and "belongs to another user" in auto.why


def test_fastest_is_auto_where_nothing_was_exported_to_int8(tiny_sentiment, tmp_path):
    logged = []
    backend = selection.load(read(tiny_sentiment), RuntimeSettings(precision="fastest", cache=tmp_path), logged.append)
    assert "float32" in logged[1] and "in int8" not in logged[1] and backend.precision in ("float32", "bfloat16")


@pytest.mark.parametrize(
    ("lines", "lacks"),
    [
        (["flags : fpu avx2"], True),
        (["flags : fpu avx2 avx512_bf16"], False),
        (["Features : fp asimd bf16"], False),
        (["Features : fp asimd"], True),
        (["Apple M4"], False),
        (["model name : no flags"], False),
    ],
)
def test_bfloat16_is_not_measured_where_it_is_emulated(tiny_sentiment, tmp_path, monkeypatch, lines, lacks):
    monkeypatch.setattr(selection, "_processor", lambda: iter(["x86_64", "False", *lines]))
    candidates = selection._candidates(read(tiny_sentiment), RuntimeSettings(cache=tmp_path))
    assert (("torch", "bfloat16") not in candidates) is lacks and ("torch", "float32") in candidates
    named = selection._candidates(read(tiny_sentiment), RuntimeSettings(precision="bfloat16", cache=tmp_path))
    assert ("torch", "bfloat16") in named
    monkeypatch.setattr(selection, "_processor", lambda: iter(["x86_64", "True", *lines]))  # with a GPU
    assert ("torch", "bfloat16") in selection._candidates(read(tiny_sentiment), RuntimeSettings(cache=tmp_path))


def test_a_measurement_that_is_put_off_answers_by_torch_and_then_by_the_fastest(tiny_sentiment, tmp_path):
    folder, settings, logged = read(tiny_sentiment), RuntimeSettings(cache=tmp_path), []
    engine = Engine.load(folder, settings, log=logged.append, measure_later=True)
    first = engine.classify([TextInput("a film")])[0].best
    assert (engine.backend.name, engine.backend.precision, logged) == ("torch", "float32", [])
    assert engine.expected_seconds(100) > 0
    engine.measure()
    assert engine.expected_seconds(100) == 0, "the new runtime has not computed: its first batches may take their time"
    chosen = engine.backend
    assert len(logged) == 2 and chosen.why in logged[1]
    then = engine.classify([TextInput("a film")])[0].best
    assert then.label == first.label and then.score == pytest.approx(first.score, abs=0.01)
    engine.measure()
    assert engine.backend is chosen, "it is measured once"
    again = Engine.load(folder, settings, measure_later=True)
    assert (again.backend.name, again.backend.why) == (chosen.name, chosen.why), "and never again"
    assert selection.provisional(folder, RuntimeSettings(backend="torch", precision="float32", cache=tmp_path)) is None
    assert selection.provisional(folder, RuntimeSettings(backend="dummy", cache=tmp_path)) is None


def test_a_folder_that_is_replaced_before_it_is_measured_keeps_its_loaded_model(tiny_sentiment, tmp_path):
    folder, logged = shutil.copytree(tiny_sentiment, tmp_path / "mine"), []
    settings = RuntimeSettings(cache=tmp_path / "cache")
    engine = Engine.load(read(folder), settings, log=logged.append, measure_later=True)
    shutil.rmtree(folder)
    shutil.copytree(tiny_sentiment, folder)
    (folder / "config.json").touch()
    engine.measure()
    assert logged == ["mine: its files have changed since it was loaded, so its runtimes are not measured"]
    assert engine.backend.name == "torch" and engine.classify([TextInput("a film")])


def test_a_damaged_outcome_of_a_trial_is_measured_again(tiny_sentiment, tmp_path, monkeypatch):
    monkeypatch.setattr(selection, "_lacks_bfloat16", lambda: False)
    first = selection.load(read(tiny_sentiment), RuntimeSettings(backend="torch", cache=tmp_path))
    (kept,) = tmp_path.rglob("choice-*.json")
    for damaged in ("", "{", "[]", '{"backend": "torch"}', '{"backend": "x", "precision": [], "why": ""}'):
        kept.write_text(damaged)
        again = selection.load(read(tiny_sentiment), RuntimeSettings(backend="torch", cache=tmp_path))
        assert again.name == first.name == "torch" and kept.read_text() != damaged


def test_auto_skips_runtimes_with_other_outputs(tiny_sentiment, tmp_path, monkeypatch):
    monkeypatch.setattr(base, "LOGIT_TOLERANCE", LOGIT_TOLERANCE | {"bfloat16": 0.0})
    monkeypatch.setattr(selection, "_lacks_bfloat16", lambda: False)
    logged = []
    backend = selection.load(read(tiny_sentiment), RuntimeSettings(cache=tmp_path), logged.append)
    assert backend.precision == "float32" and "skipped: torch in bfloat16: its logits differ by" in logged[1]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"backend": "torch", "precision": "int8"}, "the torch backend computes in float32 or bfloat16, not in int8"),
        ({"backend": "onnx", "precision": "bfloat16"}, "the onnx backend computes in float32 or int8, not in bfloat16"),
        ({"precision": "int8"}, "precision int8 needs a backend: openvino or onnx"),
        ({"backend": "openvino", "precision": "int8"}, "has not been exported to openvino in int8: rehead export"),
    ],
)
def test_an_unavailable_runtime_is_one_sentence(tiny_sentiment, cache, given, sentence):
    with pytest.raises(BackendFailed, match=sentence):
        Engine.load(read(tiny_sentiment), RuntimeSettings(cache=cache, **given))


def test_settings_come_from_the_environment_and_a_wrong_one_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("REHEAD_CACHE", str(tmp_path))
    monkeypatch.setenv("REHEAD_BACKEND", "openvino")
    monkeypatch.setenv("REHEAD_THREADS", "3")
    found = RuntimeSettings.from_environment(precision="bfloat16")
    assert (found.backend, found.precision, found.threads, found.cache) == ("openvino", "bfloat16", 3, tmp_path)
    monkeypatch.setenv("REHEAD_BACKEND", "tensorrt")
    with pytest.raises(BadRequest, match="REHEAD_BACKEND cannot be 'tensorrt': .*'torch', 'openvino'"):
        RuntimeSettings.from_environment()
    with pytest.raises(BadRequest, match="precision cannot be 'float8'"):
        RuntimeSettings.from_environment(backend="torch", precision="float8")


def shared_text_model(folder, family):
    """A model of a family with the tokenizer of the tests, recorded as trained under the shared-text mask."""
    model = tiny_family(family, positions=130)
    model.resize_token_embeddings(save_tokenizer(folder))
    model.save_pretrained(str(folder))
    found = read(folder)
    zero = replace(found.settings.zero_shot, attention="shared_text", scorer="both")
    return replace(found, settings=replace(found.settings, zero_shot=zero, max_length=100))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["roberta", "electra"])
def test_other_families_are_read_once_on_openvino_too(tmp_path, cache, family):
    folder = shared_text_model(tmp_path / family, family)
    engines = [
        Engine.load(folder, RuntimeSettings(backend=name, precision="float32", cache=cache))
        for name in ("openvino", "torch")
    ]
    assert all(engine.backend.one_pass for engine in engines)
    found, expected = (engine.raw_scores(TEXTS[1:], LABELS, "It is {}.", "both", "shared_text") for engine in engines)
    assert np.abs(found.logits - expected.logits).max() < 1e-5
    assert np.abs(found.cosine - expected.cosine).max() < 1e-5


def test_a_model_that_cannot_be_read_once_stays_on_torch(tmp_path, cache):
    backend = selection.load(shared_text_model(tmp_path / "distil", "distilbert"), RuntimeSettings(cache=cache))
    assert backend.name == "torch" and backend.shared_text and not backend.one_pass


def test_a_full_queue_raises_for_calls_that_do_not_wait(loaded, monkeypatch):
    engine = loaded(("dummy", "float32"), "sentiment")
    queue = engine._runner._queue
    monkeypatch.setattr(queue, "_max_tokens", 1)
    gate, begun, compute = threading.Event(), threading.Event(), queue._run
    monkeypatch.setattr(queue, "_run", lambda kind, batch: begun.set() or (gate.wait(10) and compute(kind, batch)))

    async def ask():
        first = asyncio.create_task(engine.aclassify([TextInput("a")]))
        while not begun.is_set():
            await asyncio.sleep(0.001)
        second = asyncio.create_task(engine.aclassify([TextInput("b")]))
        while not queue.queued_tokens:
            await asyncio.sleep(0.001)
        with pytest.raises(Overloaded):
            await engine.aclassify([TextInput("c")])
        gate.set()
        return await asyncio.gather(first, second)

    assert len(asyncio.run(ask())) == 2

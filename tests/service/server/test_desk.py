"""What takes long gives way: explanations, tables; neither takes the threads or the queue that answers need."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from service.errors import Late
from service.inference.engine import Engine
from service.inference.model_store import ModelStore
from service.schema import TextInput, ZeroShotQuestion
from service.server.desk import CHARACTERS_AT_ONCE, Desk, _pieces
from service.server.telemetry import Telemetry
from service.settings import RuntimeSettings, ServeSettings


@pytest.fixture
def desk(tiny_models):
    runtime = RuntimeSettings(backend="torch", precision="float32")
    store = ModelStore(tiny_models, lambda folder: Engine.load(folder, runtime))
    return Desk(store, ServeSettings(models=tiny_models, request_seconds=20.0), Telemetry(lambda line: None))


def test_many_explanations_at_once_leave_threads_to_answers(desk):
    engine = desk.store.get("sentiment")
    text = "a warm and funny film that I would see again " * 60

    async def all_at_once():
        item = TextInput(text)
        (answer,) = await engine.aclassify([item])
        tasks = [asyncio.ensure_future(desk.explain(engine, item, answer.best.label)) for _ in range(16)]
        await asyncio.sleep(0.05)
        begin = time.monotonic()
        await asyncio.to_thread(lambda: None)  # of the threads that answers take
        waited = time.monotonic() - begin
        return waited, await asyncio.gather(*tasks)

    waited, found = asyncio.run(all_at_once())
    assert waited < 5 and len(found) == 16 and all(len(one) == 128 for one in found)


def test_an_explanation_that_nobody_waits_for_asks_no_more(desk, monkeypatch):
    engine = desk.store.get("sentiment")
    asked = []
    real = engine.aclassify

    async def counted(inputs, **options):
        asked.append(len(inputs))
        await asyncio.sleep(0.1)
        return await real(inputs, **options)

    monkeypatch.setattr(engine, "aclassify", counted)

    async def leave():
        task = asyncio.ensure_future(desk.explain(engine, TextInput("film " * 128), "positive"))
        await asyncio.sleep(0.15)
        task.cancel()
        await asyncio.sleep(0.3)
        before = len(asked)
        await asyncio.sleep(0.5)
        return before

    before = asyncio.run(leave())
    assert len(asked) == before < 5
    assert Late.status == 504


def test_a_table_waits_for_the_model_in_small_pieces(desk, tmp_path, monkeypatch):
    engine = desk.store.get("topics")
    pieces, real = [], engine.zero_shot

    def noted(texts, question, **options):
        pieces.append(sum(map(len, texts)) * len(question.labels))
        return real(texts, question, **options)

    monkeypatch.setattr(engine, "zero_shot", noted)
    (tmp_path / "t.csv").write_text("text\n" + "a film about the market and space\n" * 100)
    question = ZeroShotQuestion(tuple(f"label {number}" for number in range(40)))
    found = desk.score_table(
        engine,
        question,
        tmp_path / "t.csv",
        tmp_path / "o.csv",
        text="text",
        all_scores=False,
        progress=lambda *_: None,
    )
    assert found.rows == 100 and found.errors == 0
    assert max(pieces) <= CHARACTERS_AT_ONCE and len(pieces) >= 100 * 33 * 40 / CHARACTERS_AT_ONCE


def test_pieces_are_the_whole_in_order():
    inputs = [TextInput("x" * size) for size in (5, 5, 50, 1, 1, 20)]
    pieces = list(_pieces(inputs, 20))
    assert [one for piece in pieces for one in piece] == inputs
    assert [[len(one.text) for one in piece] for piece in pieces] == [[5, 5], [50], [1, 1], [20]]
    assert list(_pieces([], 20)) == []


def test_a_text_that_is_too_long_is_a_rows_own_problem(desk, tmp_path):
    engine = desk.store.get("sentiment")
    rows = ["a film"] * 64 + ["x" * (desk.settings.max_characters + 1)] * 20
    (tmp_path / "t.csv").write_text("text\n" + "\n".join(rows) + "\n")
    main = threading.get_ident()
    found = desk.score_table(
        engine,
        None,
        tmp_path / "t.csv",
        tmp_path / "o.csv",
        text="text",
        all_scores=False,
        progress=lambda *_: (
            None if threading.get_ident() == main else pytest.fail("progress is told where it is asked")
        ),
    )
    assert (found.rows, found.errors) == (84, 20)
    assert "at most 20000 are accepted" in (tmp_path / "o.csv").read_text().splitlines()[-1]

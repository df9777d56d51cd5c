"""An uploaded table is scored in small pieces, so that it never fills the queue."""

from __future__ import annotations

import threading

import pytest

from service.inference.engine import Engine
from service.inference.model_store import ModelStore
from service.schema import TextInput, ZeroShotRequest
from service.server.table_scoring import CHARACTERS_AT_ONCE, pieces, score_upload
from service.settings import RuntimeSettings

MAX_CHARACTERS = 20_000


@pytest.fixture
def store(tiny_models):
    runtime = RuntimeSettings(backend="torch", precision="float32")
    return ModelStore(tiny_models, lambda folder: Engine.load(folder, runtime))


def test_a_table_waits_for_the_model_in_smallpieces(store, tmp_path, monkeypatch):
    engine = store.get("topics")
    sizes, real = [], engine.zero_shot

    def noted(texts, question, **options):
        sizes.append(sum(map(len, texts)) * len(question.labels))
        return real(texts, question, **options)

    monkeypatch.setattr(engine, "zero_shot", noted)
    (tmp_path / "t.csv").write_text("text\n" + "a film about the market and space\n" * 100)
    question = ZeroShotRequest(tuple(f"label {number}" for number in range(40)))
    found = score_upload(
        engine,
        question,
        tmp_path / "t.csv",
        tmp_path / "o.csv",
        text="text",
        all_scores=False,
        max_characters=MAX_CHARACTERS,
        progress=lambda *_: None,
    )
    assert found.rows == 100 and found.errors == 0
    assert max(sizes) <= CHARACTERS_AT_ONCE and len(sizes) >= 100 * 33 * 40 / CHARACTERS_AT_ONCE


def test_pieces_are_the_whole_in_order():
    inputs = [TextInput("x" * size) for size in (5, 5, 50, 1, 1, 20)]
    found = list(pieces(inputs, 20))
    assert [item for piece in found for item in piece] == inputs
    assert [[len(item.text) for item in piece] for piece in found] == [[5, 5], [50], [1, 1], [20]]
    assert list(pieces([], 20)) == []


def test_a_text_that_is_too_long_is_a_rows_own_problem(store, tmp_path):
    engine = store.get("sentiment")
    rows = ["a film"] * 64 + ["x" * (MAX_CHARACTERS + 1)] * 20
    (tmp_path / "t.csv").write_text("text\n" + "\n".join(rows) + "\n")
    main = threading.get_ident()
    found = score_upload(
        engine,
        None,
        tmp_path / "t.csv",
        tmp_path / "o.csv",
        text="text",
        all_scores=False,
        max_characters=MAX_CHARACTERS,
        progress=lambda *_: (
            None if threading.get_ident() == main else pytest.fail("progress is told where it is asked")
        ),
    )
    assert (found.rows, found.errors) == (84, 20)
    assert "at most 20000 are accepted" in (tmp_path / "o.csv").read_text().splitlines()[-1]

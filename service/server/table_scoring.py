"""Score an uploaded table in small pieces, so that requests are answered in between."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from finetune.core.tables.options import TableOptions
from service.batch.batch_scorer import RowScorer, scorer
from service.batch.score_table import Progress, ScoringResult, write_scored
from service.batch.scoring_task import scoring_task
from service.inference.engine import Engine
from service.schema import Answer, TextInput, ZeroShotRequest

ROWS_AT_ONCE = 64
CHARACTERS_AT_ONCE = 8000
"""Characters of a table, times labels, in one call of the model: a request that arrives meanwhile waits for them."""


def score_upload(
    engine: Engine,
    question: ZeroShotRequest | None,
    table: Path,
    out: Path,
    *,
    text: str,
    all_scores: bool,
    progress: Progress,
    max_characters: int,
    options: TableOptions | None = None,
) -> ScoringResult:
    """Write a table's rows with their scores to `out`.

    Args:
        question: the candidate labels of a zero-shot model; None for a model with labels of its own.
        text: the column of the texts, or one of those whose joined texts the model was trained on.
        all_scores: add one column for each label's score.
        max_characters: a longer text is an error of its row.

    Raises:
        BadRequest, DataError: the table or the column cannot be used.
    """
    answers = scorer(engine, question)
    limit = CHARACTERS_AT_ONCE // (len(question.labels) if question is not None else 1)

    def in_pieces(inputs: list[TextInput]) -> list[Answer]:
        return [answer for piece in pieces(inputs, limit) for answer in answers(piece)]

    columns: str | None = text
    if text in engine.folder.settings.text_columns:
        columns = None  # the model reads this column joined with others
    plan = replace(scoring_task(engine, question), chunk_rows=ROWS_AT_ONCE, max_characters=max_characters)
    rows = RowScorer(in_pieces, plan, columns, all_scores=all_scores)
    return write_scored(table, out, rows, progress=progress, options=options)


def pieces(inputs: list[TextInput], limit: int) -> Iterator[list[TextInput]]:
    """Yield the inputs in order, with at most `limit` characters in a piece, or one input."""
    piece: list[TextInput] = []
    characters = 0
    for item in inputs:
        if piece and characters + len(item.text) > limit:
            yield piece
            piece, characters = [], 0
        piece.append(item)
        characters += len(item.text)
    if piece:
        yield piece

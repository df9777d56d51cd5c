"""A review of made-up texts, without a model: scores are given."""

from __future__ import annotations

import numpy as np
import pytest

from service.review.answers import AnswersFile
from service.review.leases import Leases
from service.review.session import Plan, ReviewSession, ScoredRows
from service.review.table import review_table


@pytest.fixture
def begin(tmp_path):
    """Return a function that opens a session on the same answers, as another process would."""

    def session(rows=200, names=("bad", "good"), **plan):
        table = tmp_path / "texts.csv"
        table.write_text("text\n" + "".join(f"film number {row}\n" for row in range(rows)))
        texts = review_table(table)
        best = np.random.default_rng(0).random(len(texts)) / 2 + 0.5
        others = np.repeat((1 - best)[:, None] / (len(names) - 1), len(names) - 1, axis=1)
        scores = np.concatenate([best[:, None], others], axis=1)
        scored = ScoredRows("films", names, scores, [names[0]] * len(texts))
        answers = AnswersFile(tmp_path / "answers.jsonl")
        settings = Plan(**{"strategy": "margin", **plan})
        return ReviewSession(texts, answers, Leases(tmp_path / "leases.json"), scored, settings)

    return session

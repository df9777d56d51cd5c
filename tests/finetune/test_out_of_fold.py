"""Scores of rows by models that have not seen them."""

from __future__ import annotations

import random

import numpy as np
import pytest

from finetune.core.errors import CheckpointError
from finetune.core.labels import LabelSpace
from finetune.data.rows import Rows
from finetune.out_of_fold import out_of_fold_scores

pytestmark = pytest.mark.fast

LABELS = LabelSpace("multiclass", ("a", "b", "c"))


def table(count=60):
    chance = random.Random(0)
    values = [chance.choice("abc") for _ in range(count)]
    texts = [
        f"the {value * 3} is {chance.choice(['market', 'goal', 'planet'])} {place}"
        for place, value in enumerate(values)
    ]
    return Rows(texts, None, values, list(range(1, count + 1)), "table")


def test_a_row_s_own_label_does_not_change_its_scores(tiny_base):
    rows = table()
    scores = out_of_fold_scores(LABELS, rows, str(tiny_base))
    np.testing.assert_allclose(scores.sum(axis=1), 1)
    other = [*rows.values]
    other[7] = "a" if other[7] != "a" else "b"
    changed = out_of_fold_scores(LABELS, Rows(rows.texts, None, other, rows.numbers, "table"), str(tiny_base))
    np.testing.assert_allclose(changed[7], scores[7], atol=1e-6)
    assert np.abs(changed - scores).max() > 1e-3  # those of other rows


def test_embeddings_count_as_much_as_words(tiny_base):
    rows = table()
    words, both = out_of_fold_scores(LABELS, rows, None), out_of_fold_scores(LABELS, rows, str(tiny_base))
    assert np.abs(words - both).max() > 0.01
    again = out_of_fold_scores(LABELS, rows, str(tiny_base))
    np.testing.assert_allclose(both, again, atol=1e-6)


def test_too_few_rows_have_no_scores_and_an_unknown_base_is_refused(tmp_path):
    assert out_of_fold_scores(LABELS, table(6), None) is None
    with pytest.raises(CheckpointError, match="no model"):
        out_of_fold_scores(LABELS, table(), str(tmp_path / "nothing"))

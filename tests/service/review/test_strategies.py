"""Orders of rows: each promise of a strategy, on scores and embeddings that are known."""

from __future__ import annotations

import numpy as np
import pytest

from finetune.core.errors import ConfigError
from finetune.core.registry import pick
from service.errors import BadRequest
from service.review.strategies import STRATEGIES, Candidates

pytestmark = pytest.mark.fast
GROUPS, ROWS = 8, 400


def made(seed=0, count=8, **more):
    """Candidates in eight groups of embeddings; the uncertain rows of the first group are the most uncertain."""
    chance = np.random.default_rng(seed)
    groups = np.arange(ROWS) % GROUPS
    centers = chance.normal(size=(GROUPS, 16)) * 5
    vectors = centers[groups] + chance.normal(size=(ROWS, 16))
    best = np.where(groups == 0, 0.51, 0.6) + chance.random(ROWS) * 0.05
    scores = np.stack([best, 1 - best], axis=1)
    places = np.arange(ROWS)
    return Candidates(places, scores, count, seed, lambda rows: vectors[rows], **more), groups


def test_margin_and_entropy_begin_with_the_least_certain_rows():
    rows, _ = made()
    best = rows.scores.max(axis=1)
    for name in ("margin", "entropy"):
        assert (np.diff(best[STRATEGIES[name](rows)]) >= 0).all()


def test_auto_takes_uncertain_rows_of_every_cluster_where_margin_takes_one():
    rows, groups = made()
    assert set(groups[STRATEGIES["margin"](rows)[:8]]) == {0}
    assert len(set(groups[STRATEGIES["auto"](rows)[:8]])) >= 6
    certain = Candidates(rows.places, np.where(groups[:, None] < 4, rows.scores, [0.99, 0.01]), 8, 0, rows.embed)
    assert set(groups[STRATEGIES["auto"](certain)[:8]]) <= {0, 1, 2, 3}


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name not in ("disagreement", "label_errors")])
def test_every_order_holds_each_candidate_once_and_is_reproduced_by_its_seed(name):
    rows, _ = made()
    some = Candidates(rows.places[50:250], rows.scores, 8, 3, rows.embed)
    order = STRATEGIES[name](some)
    assert sorted(order.tolist()) == list(range(50, 250))
    assert np.array_equal(order, STRATEGIES[name](some))


def test_auto_and_random_follow_the_seed():
    rows, _ = made()
    orders = [
        STRATEGIES[name](Candidates(rows.places, rows.scores, 40, seed, rows.embed)).tolist()
        for name in ("auto", "random")
        for seed in (0, 1)
    ]
    assert orders[0] != orders[1] and orders[2] != orders[3]


def test_disagreement_begins_where_the_teacher_says_otherwise():
    rows, _ = made()
    taught = rows.scores.copy()
    taught[[5, 9]] = [[0.001, 0.999], [0.1, 0.9]]
    order = STRATEGIES["disagreement"](
        Candidates(rows.places, rows.scores, 8, 0, rows.embed, lambda places: taught[places])
    )
    assert order[:2].tolist() == [5, 9]
    with pytest.raises(BadRequest, match="name one with --teacher"):
        STRATEGIES["disagreement"](rows)


def test_label_errors_are_asked_about_alone_and_the_likeliest_first():
    rows, _ = made(issues=np.array([9, 3, 500]))
    assert STRATEGIES["label_errors"](rows).tolist() == [9, 3]
    with pytest.raises(BadRequest, match="name their column with --label"):
        STRATEGIES["label_errors"](made()[0])


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_fewer_rows_than_clusters_are_ordered_too(rows):
    few, _ = made(count=50)
    some = Candidates(few.places[:rows], few.scores, 50, 0, few.embed)
    for name in ("auto", "clusters"):
        assert sorted(STRATEGIES[name](some).tolist()) == list(range(rows))


def test_equal_embeddings_are_no_error():
    rows, _ = made()
    same = Candidates(rows.places, rows.scores, 8, 0, lambda places: np.ones((len(places), 4)))
    assert sorted(STRATEGIES["auto"](same).tolist()) == list(range(ROWS))


def test_an_unknown_strategy_suggests_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'margin'"):
        pick(STRATEGIES, "margins", {}, what="strategy")

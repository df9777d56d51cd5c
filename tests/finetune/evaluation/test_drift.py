"""Drift of a table against a reference: alarms where the distribution moved, and nowhere else."""

from __future__ import annotations

import json

import numpy as np
import pytest

from finetune.core.errors import CheckpointError
from finetune.evaluation.drift import Histogram, Measured, reference, shifts, stability_index

pytestmark = pytest.mark.fast

NAMES = ("negative", "positive")


def rows(chance, count, positive, *, length=30, unknown=0.02):
    labels = np.where(chance.random(count) < positive, "positive", "negative")
    return Measured(
        tuple(labels.tolist()),
        chance.beta(5, 2, count),
        chance.poisson(length, count),
        (chance.random(count) < unknown) * 0.1,
    )


def alarms(content, measured, seed=0):
    return {shift.quantity for shift in shifts(content, measured, seed=seed) if shift.is_alarm}


def test_the_index_is_the_symmetric_divergence_of_proportions():
    p, q = np.array([5000.5, 5000.5]) / 10001, np.array([8000.5, 2000.5]) / 10001
    expected = ((q - p) * np.log(q / p)).sum()
    assert stability_index(np.array([5000, 5000]), np.array([8000, 2000])) == pytest.approx(expected)
    assert expected == pytest.approx(0.3 * np.log(0.8 / 0.5) - 0.3 * np.log(0.2 / 0.5), abs=1e-3)
    assert stability_index(np.array([3, 0]), np.array([3, 0])) == 0


def test_a_thousand_rows_shifted_from_half_to_four_fifths_alarm_and_a_thousand_unshifted_do_not():
    chance = np.random.default_rng(0)
    for seed in range(100):
        content = reference(rows(chance, 1000, 0.5), NAMES)
        assert alarms(content, rows(chance, 1000, 0.8), seed) == {"labels"}
        assert alarms(content, rows(chance, 1000, 0.5), seed) == set()


def test_longer_texts_and_unknown_tokens_alarm_by_themselves():
    chance = np.random.default_rng(1)
    content = reference(rows(chance, 500, 0.5), NAMES)
    assert alarms(content, rows(chance, 500, 0.5, length=45)) == {"length"}
    assert alarms(content, rows(chance, 500, 0.5, unknown=0.5)) == {"unknown_tokens"}


def test_a_few_rows_do_not_alarm_however_uneven_they_are():
    chance = np.random.default_rng(2)
    content = reference(rows(chance, 1000, 0.5), NAMES)
    few = rows(chance, 4, 1.0)
    (labels,) = (shift for shift in shifts(content, few) if shift.quantity == "labels")
    assert labels.index > 0.1 and not labels.is_alarm


def test_p_values_without_drift_are_uniform():
    chance = np.random.default_rng(3)
    values = [
        shift.p_value
        for seed in range(100)
        for shift in shifts(reference(rows(chance, 300, 0.5), NAMES), rows(chance, 200, 0.5), seed=seed)
        if shift.quantity == "top_score"
    ]
    assert 0.35 < np.mean(values) < 0.65 and np.mean(np.array(values) < 0.1) < 0.25


def test_the_reference_is_json_and_reads_back_as_it_was():
    chance = np.random.default_rng(4)
    measured = rows(chance, 100, 0.5)
    content = reference(measured, NAMES)
    assert json.loads(json.dumps(content)) == content
    assert content["rows"] == 100 and all(sum(own["counts"]) == 100 for own in content["quantities"].values())
    assert all(shift.index == 0 for shift in shifts(content, measured))
    with pytest.raises(CheckpointError, match="format 2, not 1"):
        shifts(content | {"format": 2}, measured)


def test_values_at_an_edge_and_beyond_all_are_counted():
    assert Histogram((), (1.0, 2.0), ()).count([0.0, 1.0, 1.5, 2.0, 99.0]).tolist() == [1, 2, 2]
    assert Histogram(NAMES, (), ()).count(["positive", "positive"]).tolist() == [0, 2]

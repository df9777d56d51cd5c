"""The label sets of the Topics tab, which a browser stores and each call that reads them carries."""

from __future__ import annotations

import json

import pytest

from service.errors import BadRequest
from service.ui.page_calls import MAX_VALUES, _check_values
from service.ui.tabs.topics import MAX_SET_CHARACTERS, MAX_SET_LABELS, MAX_SETS, with_set

pytestmark = pytest.mark.fast


def test_a_set_is_added_or_replaced() -> None:
    sets = with_set(with_set([], "colors", ["red"]), "pets", ["cat", "dog"])
    assert sets == [["colors", ["red"]], ["pets", ["cat", "dog"]]]
    assert with_set(sets, "colors", ["blue"]) == [["pets", ["cat", "dog"]], ["colors", ["blue"]]]


def test_what_may_be_stored_fits_a_call_of_the_page() -> None:
    sets = [[f"set {n}", [f"label {n} {k}" for k in range(MAX_SET_LABELS // MAX_SETS)]] for n in range(MAX_SETS)]
    sets = with_set(sets[:-1], *sets[-1])
    _check_values({"data": [sets, "another", [f"label {n}" for n in range(5000)]], "fn_index": 1, "session_hash": "a"})
    assert MAX_SET_LABELS < MAX_VALUES
    assert len(json.dumps(sets)) < 2_000_000


@pytest.mark.parametrize(
    ("sets", "labels"),
    [
        ([[str(n), ["a", "b"]] for n in range(MAX_SETS)], ["c"]),
        ([[str(n), ["a"] * 1000] for n in range(10)], ["c"]),
        ([], ["c"] * (MAX_SET_LABELS + 1)),
        ([["one", ["a" * 400_000]]], ["b" * (MAX_SET_CHARACTERS - 400_000 + 1)]),
    ],
)
def test_more_is_refused_and_no_set_is_dropped_for_it(sets: list[object], labels: list[str]) -> None:
    before = json.dumps(sets)
    with pytest.raises(BadRequest, match="a browser stores at most 50 label sets with 10,000 labels"):
        with_set(sets, "another", labels)
    assert json.dumps(sets) == before

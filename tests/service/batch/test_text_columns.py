"""Which cells of a table can be scored."""

import pytest

from service.batch.text_columns import problem_of, text_of

pytestmark = pytest.mark.fast


def test_numbers_are_joined_when_a_table_is_scored_as_in_training() -> None:
    assert problem_of({"title": "a", "year": 1999}, ("title", "year"), None, None) == ""
    assert text_of({"title": "a", "year": 1999}, ("title", "year")) == "a\n1999"
    assert "holds list" in problem_of({"title": "a", "year": [1]}, ("title", "year"), None, None)

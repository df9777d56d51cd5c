"""Numbers as text for reports."""

import pytest

from finetune.core.number_format import figure

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [
        (0.91234, 3, "0.912"),
        (0.0, 3, "0.000"),
        (-0.5, 4, "-0.5000"),
        (2.5123e-7, 3, "2.51e-07"),
        (12345.678, 3, "12345.678"),
        (1.2345e18, 3, "1.23e+18"),
        (float("nan"), 3, "nan"),
    ],
)
def test_no_figure_is_hidden_by_its_rounding(value: float, digits: int, shown: str) -> None:
    assert figure(value, digits) == shown

"""Parse numbers with decimal points or commas and thousands separators, in one notation per column."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from finetune.core.label_text import clean, number_of

Decimal = Literal[".", ","]

GROUPED = {
    ".": re.compile(r"[+-]?(?:[1-9]\d{0,2}(?:[, ']\d{3})+|[1-9]\d?(?:,\d{2})*,\d{3}|\d+)?(?:\.\d+)?", re.ASCII),
    ",": re.compile(r"[+-]?(?:[1-9]\d{0,2}(?:[. ']\d{3})+|\d+)?(?:,\d+)?", re.ASCII),
}
"""Decimal mark -> numbers with it and with the thousands separators that go with it (also in Indian groups of two)."""

SIGNED = re.compile(
    r"(?:[$€£¥₹₽]|USD|EUR|GBP|CHF)\s*[+-]?\d[\d.,' ]*|[+-]?\d[\d.,' ]*\s*(?:[%‰$€£¥₹₽]|USD|EUR|GBP|CHF)"
)
"""A number with a percent or currency sign."""

NAMES: dict[Decimal, str] = {".": "decimal points", ",": "decimal commas"}


def grouped(text: str, decimal: Decimal) -> float | None:
    """Return the number in a text with this decimal mark; None if it is not such a number."""
    plain = clean(text).replace("\u2212", "-").replace("\u2019", "'")
    if not plain or not plain[-1].isdigit() or not GROUPED[decimal].fullmatch(plain):
        return None
    if re.match(r"[+-]?0\d", plain):
        return None  # a code such as 0017
    for mark in (" ", "'", "," if decimal == "." else "."):
        plain = plain.replace(mark, "")
    return float(plain.replace(",", "."))


def decimal_marks(texts: Iterable[str]) -> list[Decimal]:
    """Return the decimal marks with which all of these texts are numbers.

    Returns:
        No mark, one mark (also if both give the same values), or both if the values differ.
    """
    distinct = list(texts)
    values: dict[Decimal, list[float | None]] = {}
    for mark in NAMES:
        values[mark] = [grouped(text, mark) for text in distinct]
    fitting: list[Decimal] = [mark for mark in NAMES if None not in values[mark]]
    if len(fitting) == 2 and values["."] == values[","]:
        return ["."]
    return fitting


def read_number(text: str, decimal: Decimal | None) -> float | None:
    """Return the number in a text, with the decimal mark of its column; None for the notation of Python."""
    return number_of(text) if decimal is None else grouped(text, decimal)

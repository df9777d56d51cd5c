"""How the numbers of a column are written: decimal points or commas, thousands marks; one way for the whole column."""

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
"""Decimal mark -> numbers with it, and with the thousands marks that go with it (Indian groups of two too)."""

SIGNED = re.compile(
    r"(?:[$€£¥₹₽]|USD|EUR|GBP|CHF)\s*[+-]?\d[\d.,' ]*|[+-]?\d[\d.,' ]*\s*(?:[%‰$€£¥₹₽]|USD|EUR|GBP|CHF)"
)
"""A number with a percent or currency sign."""

NAMES: dict[Decimal, str] = {".": "decimal points", ",": "decimal commas"}


def grouped(text: str, decimal: Decimal) -> float | None:
    """Return the number that a text spells with this decimal mark; None where it spells none."""
    plain = clean(text).replace("\u2212", "-").replace("\u2019", "'")
    if not plain or not plain[-1].isdigit() or not GROUPED[decimal].fullmatch(plain):
        return None
    if re.match(r"[+-]?0\d", plain):
        return None  # a code such as 0017
    for mark in (" ", "'", "," if decimal == "." else "."):
        plain = plain.replace(mark, "")
    return float(plain.replace(",", "."))


def decimal_marks(texts: Iterable[str]) -> list[Decimal]:
    """Return the decimal marks with which every one of these texts is a number; both where that gives the same values.

    Returns:
        One mark where one fits or both give the same values, none where neither fits, both where the values differ.
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
    """Return the number in a text: in the column's way of writing where it has one, else as Python reads it."""
    return number_of(text) if decimal is None else grouped(text, decimal)

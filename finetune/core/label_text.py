"""Normalization of label names, missing cells, and the order of names.

Only rules for a single cell belong here; rules for a whole column are in finetune/data/label_format.py.
"""

from __future__ import annotations

import math
import re
import unicodedata
from decimal import Decimal
from functools import lru_cache
from numbers import Integral, Real
from typing import Any

_UNSEEN = (
    "\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f"
    "\u202a-\u202e\u2060-\u206f\u3164\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb"
)
INVISIBLE = re.compile(f"[{_UNSEEN}]")
"""Characters without a glyph or a width: control characters, zero-width marks, soft hyphens, bidi marks, fillers,
variation selectors, and lone surrogates, which cannot be encoded."""

_JOINED = "[\u0590-\u1fff\u231a-\U0001faff]"
JOINER = re.compile(f"(?<!{_JOINED})[\u200c\u200d]|[\u200c\u200d](?!{_JOINED})")
"""Zero-width joiners and non-joiners outside the scripts and emoji in which they change the text that is displayed."""

VISIBLE = re.compile(rf"[^\s\u2800\u200c\u200d{_UNSEEN}]")

PLAIN_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
"""A number with a decimal point and without thousands marks."""

CODE = re.compile(r"[+-]?0\d", re.ASCII)
"""The start of a code with a leading zero, such as 00017, which is a name and not a number."""

WHOLE_FLOAT = re.compile(r"([+-]?)(0|[1-9]\d*)\.0+", re.ASCII)


@lru_cache(maxsize=100_000)
def clean(text: str) -> str:
    """Return the text in Unicode's NFC form, without invisible characters and with single spaces.

    HTML and Markdown render a run of spaces, a no-break space and a line break as one space, so that names that differ
    only in these look the same on a page or in a model card.
    """
    if text.isascii() and text.isprintable():
        return " ".join(text.split())
    text = INVISIBLE.sub("", JOINER.sub("", text)).replace("\u2800", " ")
    return " ".join(unicodedata.normalize("NFC", text).split())


def is_missing(cell: Any) -> bool:
    """Return whether a cell is missing: None, pd.NA, NaT, NaN of any type, a masked value, or text without a visible
    character."""
    if isinstance(cell, str):
        return not cell or not ("!" <= cell[0] <= "~" or VISIBLE.search(cell))
    if cell is None:
        return True
    if isinstance(cell, bool | int | list | tuple | dict | set | frozenset):
        return False
    if isinstance(cell, Decimal):
        return cell.is_nan()
    if type(cell).__name__ in ("NAType", "NaTType", "MaskedConstant"):
        return True
    if isinstance(cell, bytes):
        return not cell.strip()
    if getattr(cell, "ndim", 0):
        return False  # an array, whose comparison has no truth value
    return bool(cell != cell)


def number_of(cell: Any) -> float | None:
    """Return the finite number in a cell, as a number or as text; None for words, booleans and codes."""
    if isinstance(cell, str):
        text = cell.strip().replace("\u2212", "-")
        if not PLAIN_NUMBER.fullmatch(text) or CODE.match(text):
            return None
        cell = text
    elif _is_boolean(cell) or not isinstance(cell, Real | Decimal):
        return None
    try:
        value = float(cell)
    except OverflowError:
        return None  # an integer too large for a float
    return value if math.isfinite(value) else None


def name_of(cell: Any) -> str:
    """Return the normalized label name in a cell of one label; 1, 1.0 and "1.0" are one name.

    Raises:
        ValueError: bytes that are not UTF-8.
    """
    if isinstance(cell, str):
        name = clean(cell)
        whole = WHOLE_FLOAT.fullmatch(name)
        if whole is None:
            return name
        sign = "-" if whole[1] == "-" and whole[2] != "0" else ""
        return sign + whole[2]
    if isinstance(cell, bytes):
        return name_of(cell.decode("utf-8"))
    if _is_boolean(cell):
        return str(bool(cell))
    if isinstance(cell, Integral):
        return str(int(cell))
    if isinstance(cell, Real | Decimal) and math.isfinite(cell) and cell == math.floor(cell):
        return str(math.floor(cell))
    return clean(str(cell))


def natural_key(name: str) -> tuple[int, float, str]:
    """Return the sort key of a label name: numbers come first, by value, then words; independent of the locale."""
    value = number_of(name)
    return (1, 0.0, name) if value is None else (0, value, name)


def _is_boolean(cell: Any) -> bool:
    return isinstance(cell, bool) or type(cell).__name__ in ("bool", "bool_")  # also numpy's

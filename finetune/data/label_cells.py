"""Structured label cells: lists, sets, arrays and dicts, as objects or as text written by Python, JSON or numpy.

What they mean in their column (names, ids, indicators, soft labels) is decided in label_format.py.
"""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from finetune.core.label_text import is_missing

LONGEST_LITERAL = 100_000
"""Maximum number of characters in a cell that is read as a list."""

NAME_KEYS = ("name", "label", "title", "text", "value", "tag", "id")
"""Keys of a dict that may hold the name of a label, in the order in which they are tried."""

SCORE_KEYS = ("score", "probability", "prob", "confidence")
"""Keys of a dict that hold the score of a label."""

_STRING = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
_WRAPPED = re.compile(r"(?:np\.|numpy\.)?(?:array|frozenset|set|list|tuple)\((.*)\)", re.DOTALL)
_DTYPE = re.compile(r",\s*dtype=[^\]})]*$")
_SCALAR = re.compile(rf"({_STRING})|(?:np|numpy)\.\w+\(\s*({_STRING}|[^()'\"]*)\s*\)", re.DOTALL)
_TOKEN = re.compile(rf"({_STRING}|[^\s,:\[\](){{}}'\"]+)|(.)", re.DOTALL)
_NOTHING = {"nan": "None", "NaN": "None", "NaT": "None", "<NA>": "None", "null": "None"}
_WORDS = {"true": "True", "false": "False", **_NOTHING}

_OPENINGS = ("['", '["', "('", '("', "{'", '{"')
_PAIRS = {"[": "]", "(": ")", "{": "}"}

_FLAG = r"(?:[01](?:\.0*)?|[Tt]rue|[Ff]alse|TRUE|FALSE)"
_FLAG_ROW = {mark: re.compile(rf"{_FLAG}(?:\s*{re.escape(mark)}\s*{_FLAG})+") for mark in ",;|"}
_FLAG_ROW[" "] = re.compile(rf"{_FLAG}(?:\s+{_FLAG})+")

FLAGS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1, "no": 0, "yes": 1, "0.": 0, "1.": 1}
"""Cell in lower case -> the indicator that it spells."""


def structure_of(cell: Any) -> list[Any] | dict[Any, Any] | None:
    """Return the list or dict in a cell, with sets as sorted lists; None for a cell of one label."""
    if isinstance(cell, str):
        return _spelled(cell.strip()) if looks_structured(cell) else None
    if isinstance(cell, list | tuple):
        return list(cell)
    if isinstance(cell, set | frozenset):
        return sorted(cell, key=lambda item: (str(type(item)), str(item)))
    if isinstance(cell, Mapping):
        return dict(cell)
    if hasattr(cell, "tolist") and getattr(cell, "ndim", None):  # a numpy array in a pandas cell
        listed = cell.tolist()
        return listed if isinstance(listed, list) else None
    if hasattr(cell, "to_list") and hasattr(cell, "dtype"):  # a polars Series
        return list(cell.to_list())
    return None


def looks_structured(cell: str) -> bool:
    """Return whether a text is in brackets like a printed list, tuple, set, dict or array."""
    text = cell.strip()
    if len(text) < 2:
        return False
    return _PAIRS.get(text[0]) == text[-1] or (text[-1] == ")" and _WRAPPED.fullmatch(text) is not None)


def is_broken(cell: str) -> bool:
    """Return whether a text looks like a printed list that cannot be read, such as `[a, b]` or `['a', ... 'b']`."""
    text = cell.strip()
    if not looks_structured(text):
        return text[:2] in _OPENINGS  # truncated, as Excel does with long cells
    return any(mark in text for mark in ",'\":=") and _spelled(text) is None


def flag_row_of(cell: str) -> list[str] | None:
    """Return the parts of a text of zeros and ones such as `0 1 0` or `0,1,0`; None for any other text."""
    text = cell.strip()
    if len(text) < 3 or text[0] not in "01tTfF":
        return None
    for mark, pattern in _FLAG_ROW.items():
        if pattern.fullmatch(text):
            return [part.strip() for part in (text.split() if mark == " " else text.split(mark))]
    return None


def flag_of(item: Any) -> int | None:
    """Return the indicator in a cell, 1 or 0; None for any other cell."""
    if isinstance(item, str):
        return FLAGS.get(item.strip().lower())
    if isinstance(item, bool) or type(item).__name__ in ("bool", "bool_"):
        return int(item)
    return int(item == 1) if isinstance(item, Real) and item in (0, 1) else None


def named(item: Any) -> Any:
    """Return the name in a dict such as `{"id": 3, "name": "bug"}`, and other items unchanged.

    Raises:
        ValueError: a dict without such a key, or a list inside a list.
    """
    if isinstance(item, Mapping):
        key = next((key for key in NAME_KEYS if not is_missing(item.get(key))), None)
        if key is None or isinstance(item[key], Mapping | list | tuple):
            raise ValueError(f"holds a dict without a name ({', '.join(NAME_KEYS[:3])})")
        return item[key]
    if isinstance(item, list | tuple | set | frozenset) or getattr(item, "ndim", None):
        raise ValueError("holds a list inside a list")
    return item


def items_of(listed: Sequence[Any]) -> list[Any]:
    """Return the labels in a list: dicts as their names, without nulls, and a single inner list unpacked.

    Raises:
        ValueError: lists inside the list, dicts without a name, or several with scores.
    """
    if len(listed) == 1 and isinstance(listed[0], list | tuple | set | frozenset):
        listed = list(structure_of(listed[0]) or ())  # [["a", "b"]]
    if len(listed) > 1 and any(isinstance(item, Mapping) and set(item) & set(SCORE_KEYS) for item in listed):
        raise ValueError(
            'holds scores beside labels: write only the labels that apply, or soft labels such as {"positive": 0.7, '
            '"negative": 0.3}'
        )
    return [item for item in map(named, listed) if not is_missing(item)]


def is_named_dict(cell: Mapping[Any, Any]) -> bool:
    """Return whether a dict holds the name of one label rather than a number for each of several."""
    if any(isinstance(key, str) and isinstance(cell.get(key), str) and flag_of(cell[key]) is None for key in NAME_KEYS):
        return True
    return "name" in cell and "id" in cell


def _spelled(text: str) -> list[Any] | dict[Any, Any] | None:
    if len(text) > LONGEST_LITERAL:
        return None
    if text[0] in "[{":
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, list | dict):
            return value
    text, unordered = _unwrapped(text)
    value = _literal(text)
    if isinstance(value, list | tuple) and any(item is Ellipsis for item in value):
        return None  # numpy replaced the middle by an ellipsis
    if isinstance(value, set | frozenset) or unordered:
        return structure_of(frozenset(value)) if isinstance(value, list | tuple | set | frozenset) else None
    return structure_of(value) if isinstance(value, list | tuple | dict) else None


def _unwrapped(text: str) -> tuple[str, bool]:
    """Return the text inside `array(...)` or `frozenset(...)`, without its dtype, and whether it is a set."""
    wrapped = _WRAPPED.fullmatch(text)
    if wrapped is None:
        return text, False
    inner = _DTYPE.sub("", wrapped[1].strip()).strip()
    return inner or "[]", "set(" in text[:10]


def _literal(text: str) -> Any:
    """Return the value of a Python literal, also without commas, as numpy prints it, and with nan, as pandas does."""
    parts: list[str] = []
    value_before = False
    for match in _TOKEN.finditer(_SCALAR.sub(lambda scalar: scalar[1] or scalar[2], text)):
        token = match[1]
        if token is None:
            if match[2] in ",:[({":
                value_before = False
            elif match[2] in "])}":
                value_before = True
            parts.append(" " if match[2].isspace() else match[2])
            continue
        parts.append("," + _WORDS.get(token, token) if value_before else _WORDS.get(token, token))
        value_before = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warns of invalid escapes in the cell
            return ast.literal_eval("".join(parts))
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None


def is_fraction(value: Any) -> bool:
    """Return whether a value is not a whole number, as in soft labels and unlike ids and indicators."""
    return isinstance(value, Real) and math.isfinite(value) and value != math.floor(value)

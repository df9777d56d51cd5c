"""One label cell that holds more than a name: a list, set, array or dict, a real one or as Python and numpy print it.

What a list or a dict means for its column (names, ids, indicators, shares) is decided in label_parsing.py.
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
"""Characters of a cell up to which it is read as a list; a longer one is refused."""

NAME_KEYS = ("name", "label", "title", "text", "value", "tag", "id")
"""Keys of a dict that may hold the name of a label, in the order in which they are looked for."""

SCORE_KEYS = ("score", "probability", "prob", "confidence")
"""Keys of a dict that say how far its label holds."""

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
"""How a cell, in lower case, says whether a label holds."""


def structure_of(cell: Any) -> list[Any] | dict[Any, Any] | None:
    """Return the list or dict that a cell is or spells, with sets in sorted order; None for a cell of one label."""
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
    """Return whether a text stands in brackets as a printed list, tuple, set, dict or array does."""
    text = cell.strip()
    if len(text) < 2:
        return False
    return _PAIRS.get(text[0]) == text[-1] or (text[-1] == ")" and _WRAPPED.fullmatch(text) is not None)


def is_broken(cell: str) -> bool:
    """Return whether a text looks like a printed list that cannot be read, such as `[a, b]` or `['a', ... 'b']`."""
    text = cell.strip()
    if not looks_structured(text):
        return text[:2] in _OPENINGS  # cut off, as Excel cuts a long cell
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
    """Return 1 or 0 as a cell says that its label holds or does not; None where it says neither."""
    if isinstance(item, str):
        return FLAGS.get(item.strip().lower())
    if isinstance(item, bool) or type(item).__name__ in ("bool", "bool_"):
        return int(item)
    return int(item == 1) if isinstance(item, Real) and item in (0, 1) else None


def named(item: Any) -> Any:
    """Return the name in a dict such as `{"id": 3, "name": "bug"}`; anything else as it is.

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
    """Return the labels of one list: names out of dicts, without nulls, a single inner list taken out.

    Raises:
        ValueError: lists inside the list, dicts without a name, or several with scores.
    """
    if len(listed) == 1 and isinstance(listed[0], list | tuple | set | frozenset):
        listed = list(structure_of(listed[0]) or ())  # [["a", "b"]]
    if len(listed) > 1 and any(isinstance(item, Mapping) and set(item) & set(SCORE_KEYS) for item in listed):
        raise ValueError(
            'holds scores beside labels: write only the labels that hold, or shares such as {"positive": 0.7, '
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
        return None  # numpy cut the middle out
    if isinstance(value, set | frozenset) or unordered:
        return structure_of(frozenset(value)) if isinstance(value, list | tuple | set | frozenset) else None
    return structure_of(value) if isinstance(value, list | tuple | dict) else None


def _unwrapped(text: str) -> tuple[str, bool]:
    """The text inside `array(...)`, `frozenset(...)`, without its dtype, and whether its order means nothing."""
    wrapped = _WRAPPED.fullmatch(text)
    if wrapped is None:
        return text, False
    inner = _DTYPE.sub("", wrapped[1].strip()).strip()
    return inner or "[]", "set(" in text[:10]


def _literal(text: str) -> Any:
    """The value of a Python literal; numpy's print has no commas, and pandas writes nan."""
    parts: list[str] = []
    value_before = False
    for found in _TOKEN.finditer(_SCALAR.sub(lambda match: match[1] or match[2], text)):
        token = found[1]
        if token is None:
            if found[2] in ",:[({":
                value_before = False
            elif found[2] in "])}":
                value_before = True
            parts.append(" " if found[2].isspace() else found[2])
            continue
        parts.append("," + _WORDS.get(token, token) if value_before else _WORDS.get(token, token))
        value_before = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an invalid escape in a cell is no fault of the program
            return ast.literal_eval("".join(parts))
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None


def is_share(value: Any) -> bool:
    """Return whether a number has a fraction, as shares of labels do and ids and indicators do not."""
    return isinstance(value, Real) and math.isfinite(value) and value != math.floor(value)

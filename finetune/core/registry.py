"""`pick`: a named entry of a table with its knobs checked, before any data is read.

Knows: that a knob is a keyword-only parameter with a default.
Does not know: which tables there are.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from finetune.core.errors import ConfigError

T = TypeVar("T")


def pick(table: Mapping[str, Callable[..., T]], name: str, knobs: Mapping[str, Any], *, what: str) -> Callable[..., T]:
    """The function called `name`, with its knobs bound.

    Args:
        what: what the table holds, for messages: "loss".

    Raises:
        ConfigError: an unknown name (lists the known ones) or knob (lists the knobs), or a knob of the wrong kind.
    """
    if name not in table:
        close = difflib.get_close_matches(name, table, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ConfigError(f"unknown {what} {name!r}: {hint}choose one of {', '.join(table)}")
    function = table[name]
    known = knobs_of(function)
    for knob, value in knobs.items():
        if knob not in known:
            offered = f"it has {', '.join(known)}" if known else "it has none"
            raise ConfigError(f"{what} {name!r} has no knob {knob!r}: {offered}")
        default = known[knob]
        if isinstance(default, int | float) and not isinstance(value, int | float):
            raise ConfigError(f"knob {knob!r} of {what} {name!r} should be a number like {default}, not {value!r}")
        if isinstance(default, str) and not isinstance(value, str):
            raise ConfigError(f"knob {knob!r} of {what} {name!r} should be a word like {default}, not {value!r}")
    return partial(function, **knobs) if knobs else function


def knobs_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Knob -> default of a table's function."""
    parameters = inspect.signature(function).parameters.values()
    return {item.name: item.default for item in parameters if item.kind is inspect.Parameter.KEYWORD_ONLY}


def sentence_of(function: Callable[..., Any]) -> str:
    """The first line of the function's docstring."""
    return (inspect.getdoc(function) or "").split("\n")[0]

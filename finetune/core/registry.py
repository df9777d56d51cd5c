"""Look up an entry of a table of choices and check its options, before any data is read.

An option is a keyword-only parameter with a default.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from finetune.core.errors import ConfigError

T = TypeVar("T")


def pick(
    table: Mapping[str, Callable[..., T]], name: str, options: Mapping[str, Any], *, what: str
) -> Callable[..., T]:
    """Return the function of a table called `name`, with its options bound.

    Args:
        what: what the table holds, for messages: "loss".

    Raises:
        ConfigError: an unknown name or option, which lists the known ones, or an option of the wrong type.
    """
    if name not in table:
        close = difflib.get_close_matches(name, table, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ConfigError(f"unknown {what} {name!r}: {hint}choose one of {', '.join(table)}")
    function = table[name]
    known = options_of(function)
    for option, value in options.items():
        if option not in known:
            accepted = f"it has {', '.join(known)}" if known else "it has none"
            raise ConfigError(f"{what} {name!r} has no option {option!r}: {accepted}")
        default = known[option]
        if isinstance(default, int | float) and not isinstance(value, int | float):
            raise ConfigError(f"option {option!r} of {what} {name!r} should be a number like {default}, not {value!r}")
        if isinstance(default, str) and not isinstance(value, str):
            raise ConfigError(f"option {option!r} of {what} {name!r} should be text like {default!r}, not {value!r}")
    return partial(function, **options) if options else function


def options_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Return option -> default of a table's function."""
    parameters = inspect.signature(function).parameters.values()
    return {item.name: item.default for item in parameters if item.kind is inspect.Parameter.KEYWORD_ONLY}


def sentence_of(function: Callable[..., Any]) -> str:
    """Return the first paragraph of a function's docstring, on one line."""
    return " ".join((inspect.getdoc(function) or "").partition("\n\n")[0].split())

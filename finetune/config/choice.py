"""A named entry of a table of choices, with its options, and a count that may be a word instead."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
"""A number with an exponent, which YAML 1.1 reads as a string unless it has a decimal point."""


class Choice(BaseModel):
    """A named entry of a table of choices; keys beside `name` are its options."""

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)

    name: str
    """The entry's name; `rehead choices` lists them."""

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if not isinstance(value, dict):
            return value
        return {
            key: float(option) if isinstance(option, str) and EXPONENT.fullmatch(option) else option
            for key, option in value.items()
        }

    @property
    def options(self) -> dict[str, Any]:
        """The keys beside `name`."""
        return dict(self.model_extra or {})


def count_or_word(value: Any, words: tuple[str, ...], message: str) -> Any:
    """Return a count of 1 or more, or one of the words.

    Raises:
        ValueError: it is neither; the message says what to give.
    """
    if value in words:
        return value
    try:
        count = int(value)
    except (TypeError, ValueError):
        count = 0
    if count < 1 or count != float(value):
        raise ValueError(message)
    return count

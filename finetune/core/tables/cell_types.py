"""Arrow types of columns whose cells are Python objects, and cells converted to them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow


def type_of_kinds(kinds: Collection[type]) -> pyarrow.DataType:
    """Return the type of a column of JSON values of these Python types; a mixed column, or one of lists, is text."""
    import pyarrow

    present = {*kinds} - {type(None)}
    if present == {bool}:
        return pyarrow.bool_()
    if present == {int}:
        return pyarrow.int64()
    return pyarrow.float64() if present and present <= {int, float} else pyarrow.string()


def type_of_values(values: Iterable[Any]) -> pyarrow.DataType:
    """Return the type that Arrow infers for these cells; text where they do not share one."""
    import pyarrow

    try:
        return pyarrow.array(values).type
    except (pyarrow.ArrowException, TypeError, ValueError, OverflowError):
        return pyarrow.string()


def fitted(value: Any, kind: pyarrow.DataType) -> Any:
    """Return a cell as its column's type accepts it: in a text column, what is no text becomes JSON."""
    import pyarrow

    if value is None or not pyarrow.types.is_string(kind):
        return value
    return encodable(value if isinstance(value, str) else as_json(value))


def as_json(value: Any) -> str:
    """Return a cell as JSON; what JSON does not have (dates, decimals) as Python prints it."""
    return json.dumps(value, ensure_ascii=False, default=str)


def encodable(text: str) -> str:
    """Return the text with `?` for lone surrogates, which JSON may hold and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode("utf-8")

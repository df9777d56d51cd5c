"""Label cells to label values: names, lists of names, or numbers.

Knows: how cells of any table spell one label, several labels or a number, and which task that makes.
Does not know: which column it was, beyond its name for complaints.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from finetune.errors import DataError
from finetune.labels import Shares, Task

MOST_INTEGER_CLASSES = 20
"""A column of whole numbers with more different values than this is taken for a regression target."""


def infer_task(cells: Sequence[Any], numbers: Sequence[int], *, file: str, column: str) -> Task:
    """The task that the cells of a label column suggest.

    Raises:
        DataError: some cells are numbers and others words, so that neither reading is safe.
    """
    shares = [names for names in map(_as_dict, cells) if names is not None]
    if shares:
        return "binary" if len({name for names in shares for name in names}) == 2 else "multiclass"
    if any(_as_list(cell) is not None for cell in cells):
        return "multi_label"
    values = [_as_number(cell) for cell in cells]
    words = next((index for index, value in enumerate(values) if value is None), None)
    digits = next((index for index, value in enumerate(values) if value is not None), None)
    if words is not None and digits is not None:
        raise DataError(
            f"labels are numbers in some rows ({cells[digits]!r} in row {numbers[digits]}) and words in others "
            f"({cells[words]!r} in row {numbers[words]}): mend the column, or say --task multiclass to take all as "
            "names",
            file=file,
            column=column,
        )
    found = {value for value in values if value is not None}
    if words is None and (len(found) > MOST_INTEGER_CLASSES or any(value != int(value) for value in found)):
        return "regression"
    return "binary" if len({str(cell) for cell in cells}) == 2 else "multiclass"


def parse_labels(
    cells: Sequence[Any],
    numbers: Sequence[int],
    task: Task,
    label_names: Sequence[str] | None,
    *,
    file: str,
    column: str,
) -> list[Any]:
    """Each cell as what the task wants: a name, a list of names, or a float.

    Raises:
        DataError: a cell that cannot be read so; names its row.
    """
    if task == "regression":
        return [_number(cell, number, file, column) for cell, number in zip(cells, numbers, strict=True)]
    if task == "multi_label":
        separator = _list_separator(cells)
        return [_names(cell, separator) for cell in cells]
    if any(_as_dict(cell) is not None for cell in cells) or (label_names and any(map(_as_list, cells))):
        rows = zip(cells, numbers, strict=True)
        return [_shares(cell, label_names, number, file, column) for cell, number in rows]
    if label_names is None:
        return [_name(cell) for cell in cells]
    return [_from_names(cell, label_names, number, file, column) for cell, number in zip(cells, numbers, strict=True)]


def _as_number(cell: Any) -> float | None:
    if isinstance(cell, bool):
        return None
    try:
        value = float(cell)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _as_list(cell: Any) -> list[Any] | None:
    if isinstance(cell, list | tuple):
        return list(cell)
    if hasattr(cell, "tolist") and getattr(cell, "ndim", 0) == 1:  # a numpy array in a pandas cell
        return list(cell.tolist())
    if isinstance(cell, str) and cell.startswith("[") and cell.endswith("]"):
        try:
            value = json.loads(cell)
        except ValueError:
            return None
        return value if isinstance(value, list) else None
    return None


def _as_dict(cell: Any) -> dict[Any, Any] | None:
    if isinstance(cell, str) and cell.startswith("{") and cell.endswith("}"):
        try:
            cell = json.loads(cell)
        except ValueError:
            return None
    return cell if isinstance(cell, dict) and cell else None


def _shares(cell: Any, label_names: Sequence[str] | None, number: int, file: str, column: str) -> Any:
    """A distribution over labels: a dict, or a list in the order of `label_names`; a bare name has it all."""
    found, listed = _as_dict(cell), _as_list(cell)
    if found is None and listed is not None and label_names is not None and len(listed) == len(label_names):
        found = dict(zip(label_names, listed, strict=True))
    if found is None:
        return _name(cell)
    values = [_as_number(value) if value is not None else 0.0 for value in found.values()]
    total = sum(value for value in values if value is not None)
    if any(value is None or value < 0 for value in values) or total <= 0:
        raise DataError(
            f"{cell!r} is no distribution over labels: give each label a share from 0 up, such as "
            '{"positive": 0.7, "negative": 0.3}',
            file=file,
            row=number,
            column=column,
        )
    return Shares(tuple(map(_name, found)), tuple((value or 0.0) / total for value in values))


def _name(cell: Any) -> str:
    if isinstance(cell, float) and cell == int(cell):  # pandas turns 1 into 1.0 where a column has gaps
        return str(int(cell))
    return str(cell).strip()


def _names(cell: Any, separator: str | None) -> list[str]:
    listed = _as_list(cell)
    if listed is None:
        listed = str(cell).split(separator) if separator is not None else [cell]
    return list(dict.fromkeys(name for name in (_name(item) for item in listed) if name))


def _list_separator(cells: Sequence[Any]) -> str | None:
    texts = [cell for cell in cells if isinstance(cell, str) and _as_list(cell) is None]
    return next((mark for mark in ("|", ";", ",") if any(mark in text for text in texts)), None)


def _number(cell: Any, number: int, file: str, column: str) -> float:
    value = _as_number(cell)
    if value is None:
        raise DataError(f"{cell!r} is not a number, and the task is regression", file=file, row=number, column=column)
    return value


def _from_names(cell: Any, label_names: Sequence[str], number: int, file: str, column: str) -> str:
    name = _name(cell)
    if name in label_names:
        return name
    if name.isdecimal() and int(name) < len(label_names):
        return label_names[int(name)]
    raise DataError(
        f"label {name!r} is neither one of {', '.join(label_names)} nor a number below {len(label_names)}",
        file=file,
        row=number,
        column=column,
    )

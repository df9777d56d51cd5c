"""Parse label cells, in the format of their column, to label values: names, lists of names, soft labels or numbers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from finetune.core.errors import DataError
from finetune.core.label_text import CODE, is_missing, name_of, number_of
from finetune.core.labels import SoftLabels, shown
from finetune.data.label_cells import flag_of, flag_row_of, items_of, named, structure_of
from finetune.data.label_format import LabelFormat
from finetune.data.label_numbers import grouped, read_number
from finetune.data.label_survey import LabelCells, quoted

NEAR_ONE, ROUNDED = 0.02, 0.005
"""Tolerances for the sum of a row's soft labels, which may be rounded: in all, and for each label."""


def parse_labels(part: LabelCells, form: LabelFormat) -> list[Any]:
    """Return the label value of each cell: a name, a list of names, which may be empty, `SoftLabels` or a float.

    Raises:
        DataError: a cell that does not fit the format; names its row.
    """
    known: dict[str, Any] = {}
    values = []
    for position, cell in enumerate(part.cells):
        if isinstance(cell, str):
            value = known.get(cell)
            if value is None:
                value = known[cell] = _value(cell, form, part, position)
        else:
            value = _value(cell, form, part, position)
        values.append(value)
    return values


def parse_flag_columns(part: LabelCells, columns: Sequence[str], form: LabelFormat, names: Sequence[str]) -> list[Any]:
    """Return the label value of each row of indicator columns.

    Args:
        part: cells that are tuples of one cell per column.

    Raises:
        DataError: a cell that is not an indicator, or not exactly one label in a single-label task.
    """
    known: dict[tuple[str, ...], list[str]] = {}
    values: list[Any] = []
    for position, row in enumerate(part.cells):
        key = tuple(str(cell) for cell in row)
        labels = known.get(key)
        if labels is None:
            labels = known[key] = _indicated_columns(row, columns, names, part, position)
        if form.task == "multi_label":
            values.append(labels)
        elif len(labels) == 1:
            values.append(labels[0])
        else:
            raise part.error(
                position,
                f"{len(labels)} of the label columns are 1, and task {form.task} takes one: pass --task multi-label",
            )
    return values


def respelled(parts: Sequence[LabelCells], form: LabelFormat) -> list[str]:
    """Return a sentence for each label with several spellings that look alike, with their counts."""
    if form.task == "regression":
        return []
    spellings: dict[str, Counter[str]] = {}
    for part in parts:
        items = Counter(cell for cell in part.cells if isinstance(cell, str))
        if form.shape == "lists":
            items.update(
                item for cell in part.cells if isinstance(cell, list) for item in cell if isinstance(item, str)
            )
        for cell, count in items.items():
            for item in _spelled_items(cell, form):
                text = item.strip(" \t\r\n")
                spellings.setdefault(name_of(_number_or_cell(item, form)), Counter())[text] += count
    return [
        f"label {name!r} has {len(counts)} spellings, which are merged: "
        + ", ".join(f"{text!a} in {count} rows" for text, count in counts.most_common(4))
        for name, counts in spellings.items()
        if len(counts) > 1 and name
    ]


def _spelled_items(cell: str, form: LabelFormat) -> Iterable[str]:
    if form.shape in ("soft", "indicators"):
        return ()
    listed = structure_of(cell) if form.brackets else None
    if isinstance(listed, Mapping):
        return ()
    if listed is not None:
        return [item for item in listed if isinstance(item, str)]
    return cell.split(form.separator) if form.separator is not None else (cell,)


def _value(cell: Any, form: LabelFormat, part: LabelCells, position: int) -> Any:
    try:
        cell = cell.decode() if isinstance(cell, bytes) else cell
        if form.task == "regression":
            return _number(cell, form)
        structure = structure_of(cell) if form.brackets or not isinstance(cell, str) else None
        if structure is None and form.flag_rows and isinstance(cell, str):
            structure = flag_row_of(cell)
        if form.shape == "soft":
            return _soft_labels(cell, structure, form)
        if form.shape == "indicators":
            return _for_task(_indicated(structure, form), form)
        if isinstance(structure, Mapping):
            structure = [named(structure)]
        if structure is not None:
            return _for_task(_names(items_of(structure), form), form)
        if form.task == "multi_label":
            return _names(_parts(cell, form.separator), form)
        return _known_name(_number_or_cell(cell, form), form)
    except ValueError as error:
        raise part.error(position, f"{quoted(cell)} {error}") from error


def _number_or_cell(cell: Any, form: LabelFormat) -> Any:
    """Return the number in a text of a column with decimal commas or thousands separators, else the cell."""
    value = grouped(cell, form.decimal) if form.decimal is not None and isinstance(cell, str) else None
    return cell if value is None else value


def _number(cell: Any, form: LabelFormat) -> float:
    value = read_number(cell, form.decimal) if isinstance(cell, str) else number_of(cell)
    if value is None:
        hint = ""
        if isinstance(cell, str) and any(grouped(cell, mark) is not None for mark in (".", ",")):  # type: ignore[arg-type]
            hint = ": its decimal mark or thousands separator differs from that of the other numbers (see data.decimal)"
        raise ValueError(f"is not a number, and the task is regression{hint}")
    return value


def _for_task(names: list[str], form: LabelFormat) -> Any:
    if form.task == "multi_label":
        return names
    if len(names) != 1:
        raise ValueError(f"has {len(names)} labels, and task {form.task} takes one per row: pass --task multi-label")
    return names[0]


def _indicated(structure: Any, form: LabelFormat) -> list[str]:
    names = form.names or ()
    if isinstance(structure, Mapping):
        by_name = {name_of(key): item for key, item in structure.items()}
        unknown = next((name for name in by_name if name not in names), None)
        if unknown is not None:
            raise ValueError(f"has a key {unknown!r} that is not one of the labels ({shown(names)})")
        flags = [0 if is_missing(by_name.get(name)) else flag_of(by_name[name]) for name in names]
    elif isinstance(structure, list) and len(structure) == len(names):
        flags = [flag_of(item) for item in structure]
    else:
        raise ValueError(f"is not a row of {len(names)} zeros and ones, one for each label ({shown(names)})")
    if None in flags:
        raise ValueError("should hold zeros and ones only, one for each label")
    return [name for name, flag in zip(names, flags, strict=True) if flag]


def _soft_labels(cell: Any, structure: Any, form: LabelFormat) -> Any:
    """Return the distribution in a dict or in a list in the order of the names, or the name in a plain cell."""
    if isinstance(structure, list) and form.names is not None and len(structure) == len(form.names):
        structure = dict(zip(form.names, structure, strict=True))
    if structure is None:
        return _known_name(cell, form)
    wrong = (
        "is not a distribution over labels: give each label a number from 0 up, such as "
        '{"positive": 0.7, "negative": 0.3}'
    )
    if not isinstance(structure, Mapping) or not structure:
        raise ValueError(wrong)
    values = [0.0 if is_missing(item) else number_of(item) for item in structure.values()]
    values = [flag_of(item) if value is None else value for item, value in zip(structure.values(), values, strict=True)]
    total = math.fsum(value for value in values if value is not None)
    if any(value is None or value < 0 for value in values) or total <= 0:
        raise ValueError(wrong)
    whole = all(value == int(value) for value in values if value is not None)
    near = max(NEAR_ONE, ROUNDED * len(values))
    if not whole and abs(total - 1) > near and abs(total - 100) > 100 * near:
        raise ValueError(f"holds soft labels that sum to {total:g}, not to 1: multi-label takes zeros and ones")
    names = tuple(_known_name(name, form) for name in structure)
    return SoftLabels(names, tuple((value or 0.0) / total for value in values))


def _parts(cell: Any, separator: str | None) -> list[Any]:
    if separator is None or not isinstance(cell, str):
        return [cell]
    parts = cell.split(separator)
    if any(_opened(part) > 0 for part in parts) and any(_opened(part) < 0 for part in parts):
        raise ValueError(f'has {separator!r} inside brackets and between labels: write it as ["a", "b"]')
    return parts


def _opened(text: str) -> int:
    return sum(text.count(mark) for mark in "([{") - sum(text.count(mark) for mark in ")]}")


def _names(items: Iterable[Any], form: LabelFormat) -> list[str]:
    return list(
        dict.fromkeys(name for name in (_known_name(item, form) for item in items if not is_missing(item)) if name)
    )


def _known_name(item: Any, form: LabelFormat) -> str:
    """Return the name in a cell: one of `data.label_names` by name or id, or a label of the evaluated model."""
    if form.known and isinstance(item, str) and item in form.known.values():
        return item
    name = name_of(item)
    names = form.names
    if names is None or name in names:
        return form.known.get(name, name)
    if name.isdecimal() and not CODE.match(name) and int(name) < len(names):
        return form.known.get(names[int(name)], names[int(name)])
    raise ValueError(
        f"is neither one of {shown(names)} nor an id below {len(names)}, and data.label_names should list all labels"
    )


def _indicated_columns(
    row: Sequence[Any], columns: Sequence[str], names: Sequence[str], part: LabelCells, position: int
) -> list[str]:
    labels = []
    for cell, column, name in zip(row, columns, names, strict=True):
        flag = None if is_missing(cell) else flag_of(cell)
        if flag is None:
            what = "is empty, and others in this row are not" if is_missing(cell) else f"is {quoted(cell)}"
            raise DataError(
                f"the label column {what}: write 1 or 0 (or true and false, yes and no) in every label column",
                file=part.file,
                row=part.numbers[position],
                column=column,
            )
        if flag:
            labels.append(name)
    return labels

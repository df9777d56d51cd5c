"""The `y` of the estimators as label names, with the way back to the caller's own values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from finetune.core.label_text import is_missing, name_of, number_of
from finetune.data.label_cells import flag_of, looks_structured, structure_of
from finetune.data.label_survey import quoted
from service.errors import BadRequest

Array = npt.NDArray[Any]
Form = Literal["one", "lists", "indicator"]


@dataclass(frozen=True)
class Targets:
    """Checked labels.

    Attributes:
        classes: the caller's own values `[C]`, sorted; column numbers or names for an indicator matrix.
        names: the label name of each class in the model.
        values: for each row a name, or a list of names.
        form: the form of `y`, in which predictions are returned.
    """

    classes: Array
    names: tuple[str, ...]
    values: list[Any]
    form: Form


def targets_of(y: Any, rows: int) -> Targets:
    """Return the labels of `rows` texts.

    Raises:
        BadRequest: missing labels, values of several kinds, labels that only blanks or invisible characters tell apart,
            or another number of labels than of texts; names the position.
    """
    columns = list(map(str, y.columns)) if hasattr(y, "columns") else None
    y = _listed(y)
    if y is None:
        raise BadRequest("a classifier requires y to be passed, but the target y is None: pass a label for each text")
    if isinstance(y, str | Mapping) or not isinstance(y, Iterable) or getattr(y, "ndim", 1) == 0:
        raise BadRequest(f"y must be a list of labels, not {type(y).__name__}")
    if getattr(y, "ndim", 1) == 2 or columns is not None:
        matrix = np.asarray(y)
        if matrix.shape[1] != 1:
            return _of_matrix(matrix, columns, rows)
        y = matrix[:, 0]
    labels = list(y)
    require_length(labels, rows)
    kinds = [_is_listed(label) for label in labels]
    if labels and all(kinds):
        lists = [list(label) for label in labels]
        if _are_indicators(lists):
            return _of_matrix(np.asarray([[flag_of(item) for item in row] for row in lists]), None, rows)
        return _of_lists(lists)
    if any(kinds):
        position = kinds.index(not kinds[0])
        raise BadRequest(
            f"label {position + 1} of {rows} is {type(labels[position]).__name__}, unlike the labels before"
        )
    _require_present(labels)
    _require_plain(labels)
    _require_discrete(labels)
    classes, names = _classes(labels)
    by_value = dict(zip(classes.tolist(), names, strict=True))
    listed = np.asarray(labels, dtype=classes.dtype).tolist()
    return Targets(classes, names, [by_value[label] for label in listed], "one")


def numbers_of(y: Any, rows: int) -> list[float]:
    """Return the numbers of `rows` texts.

    Raises:
        BadRequest: something that is missing or no finite number, or another number of them; names the position.
    """
    if y is None:
        raise BadRequest("a regressor requires y to be passed, but the target y is None: pass a number for each text")
    labels = np.asarray(y, dtype=object).ravel().tolist()
    require_length(labels, rows)
    _require_present(labels)
    for position, label in enumerate(labels):
        try:
            if math.isfinite(float(label)) and (not isinstance(label, str) or number_of(label) is not None):
                continue
        except (TypeError, ValueError, OverflowError):
            pass
        raise BadRequest(f"label {position + 1} of {rows} is {quoted(label)}, not a finite number")
    return [float(label) for label in labels]


def classes_of(labels: Any) -> Array:
    """Return the distinct labels `[C]`, sorted as scikit-learn sorts them.

    Raises:
        BadRequest: a label that is missing, or labels of several kinds.
    """
    listed = list(_listed(labels))
    _require_present(listed)
    _require_discrete(listed)
    return _classes(listed)[0]


def _of_matrix(matrix: Array, columns: Sequence[str] | None, rows: int) -> Targets:
    require_length(matrix, rows)
    for position, row in enumerate(matrix.tolist()):
        for column, cell in enumerate(row):
            if is_missing(cell) or isinstance(cell, str) or flag_of(cell) is None:
                what = "missing" if is_missing(cell) else f"{cell!r}, not 0 or 1"
                raise BadRequest(f"row {position + 1} of {rows}, column {column + 1} of y is {what}")
    classes = np.asarray(columns) if columns is not None else np.arange(matrix.shape[1])
    names = tuple(map(name_of, columns)) if columns is not None else tuple(map(str, range(matrix.shape[1])))
    _require_apart(classes.tolist(), names)
    held = [np.flatnonzero(row) for row in matrix.astype(bool)]
    return Targets(classes, names, [[names[index] for index in row] for row in held], "indicator")


def _of_lists(lists: list[list[Any]]) -> Targets:
    for position, row in enumerate(lists):
        if any(_is_listed(item) or isinstance(item, Mapping) for item in row):
            raise BadRequest(f"label {position + 1} of {len(lists)} holds a list or dict inside a list: {row!r}")
        if any(map(is_missing, row)):
            raise BadRequest(f"label {position + 1} of {len(lists)} holds a missing label: {row!r}")
    classes, names = _classes([label for row in lists for label in row])
    by_value = dict(zip(classes.tolist(), names, strict=True))
    listed = [np.asarray(row, dtype=classes.dtype).tolist() for row in lists]
    return Targets(classes, names, [[by_value[label] for label in row] for row in listed], "lists")


def _classes(labels: Sequence[Any]) -> tuple[Array, tuple[str, ...]]:
    words = {isinstance(label, str) for label in labels}
    if len(words) > 1:
        position = [isinstance(label, str) for label in labels].index(not isinstance(labels[0], str))
        raise BadRequest(
            f"y mixes {type(labels[0]).__name__} and {type(labels[position]).__name__}, which have no common order: "
            "give all labels as strings"
        )
    try:
        classes = np.unique(np.asarray(labels))
        names = tuple(map(name_of, classes.tolist()))
    except (TypeError, ValueError) as error:
        raise BadRequest(f"y holds labels that cannot be sorted or compared ({error})") from error
    _require_apart(classes.tolist(), names)
    return classes, names


def _require_apart(classes: Sequence[Any], names: Sequence[str]) -> None:
    first: dict[str, Any] = {}
    for label, name in zip(classes, names, strict=True):
        if name in first:
            raise BadRequest(
                f"y holds {first[name]!a} and {label!a}, which are one label {name!r} once blanks and "
                "invisible characters are normalized: spell it one way"
            )
        first[name] = label


def require_length(labels: Any, rows: int) -> None:
    """Raise a BadRequest unless there is a label for each of `rows` texts."""
    labels = _listed(labels)
    if len(labels) != rows:
        raise BadRequest(f"X has {rows} texts and y {len(labels)} labels: give one label for each text")


def weights_of(sample_weight: Any, rows: int) -> list[float] | None:
    """Return the weights of `rows` texts; None where none are given.

    Raises:
        BadRequest: a weight that is no finite number of at least 0, another number of weights than of texts, or only
            weights of 0.
    """
    if sample_weight is None:
        return None
    try:
        weights = np.asarray(sample_weight, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise BadRequest("sample_weight must hold a number for each text") from error
    if weights.ndim != 1:
        raise BadRequest(f"sample_weight must be 1D, a number for each text, and it has {weights.ndim} dimensions")
    if len(weights) != rows:
        raise BadRequest(f"X has {rows} texts and sample_weight {len(weights)} weights: give one weight for each text")
    wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(wrong):
        position = int(wrong[0])
        raise BadRequest(
            f"sample_weight {position + 1} of {rows} is {weights[position]:g}, not a finite number of at least 0"
        )
    if not weights.any():
        raise BadRequest(f"sample_weight is zero for all {rows} texts: give some a weight")
    numbers: list[float] = weights.tolist()
    return numbers


def _require_present(labels: Sequence[Any]) -> None:
    position = next((index for index, label in enumerate(labels) if is_missing(label)), None)
    if position is not None:
        raise BadRequest(f"label {position + 1} of {len(labels)} is missing ({labels[position]!r})")


def _listed(y: Any) -> Any:
    """Return sparse matrices, and objects that are arrays only by `__array__`, as arrays."""
    if hasattr(y, "toarray"):
        return y.toarray()
    return np.asarray(y) if hasattr(y, "__array__") and not hasattr(y, "__iter__") else y


def _require_discrete(labels: Sequence[Any]) -> None:
    for index, label in enumerate(labels):
        if isinstance(label, float | np.floating) and not float(label).is_integer():
            raise BadRequest(
                f"Unknown label type: continuous. Label {index + 1} of {len(labels)} is {label}: use "
                "FineTunedRegressor, or give the labels as strings"
            )


def _require_plain(labels: Sequence[Any]) -> None:
    """Raise for texts that spell lists, as a CSV file holds them: each would be a label of its own."""
    spelled = [
        index
        for index, label in enumerate(labels)
        if isinstance(label, str) and looks_structured(label) and structure_of(label) is not None
    ]
    if len(spelled) * 2 > len(labels):
        first = spelled[0]
        raise BadRequest(
            f"label {first + 1} of {len(labels)} is the text of a list or dict ({quoted(labels[first])}): give lists, "
            "for example y.map(ast.literal_eval)"
        )


def _is_listed(label: Any) -> bool:
    return (
        isinstance(label, list | tuple | set | frozenset)
        or bool(getattr(label, "ndim", 0))
        or (hasattr(label, "to_list") and hasattr(label, "dtype"))
    )


def _are_indicators(lists: Sequence[Sequence[Any]]) -> bool:
    """Return whether equally long rows hold zeros and ones only, as numbers, booleans or texts."""
    width = len(lists[0])
    return width > 1 and all(len(row) == width and all(flag_of(item) is not None for item in row) for row in lists)

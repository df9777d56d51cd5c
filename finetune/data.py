"""Any source of labelled texts to checked splits, with row numbers in every complaint.

Knows: columns, tasks, label cells, hygiene, splits; every drop is counted.
Does not know: tokens, models.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from finetune.columns import is_header
from finetune.dataconfig import DataConfig, Source
from finetune.errors import ConfigError, DataError
from finetune.labels import LabelSpace, Task, names_in, shown
from finetune.pairs import recast
from finetune.rows import Origin, Rows, contradicted, joined, once, without
from finetune.sources import Columns, column_named, find_columns, named_splits, options_of
from finetune.splits import split
from finetune.spool import Cells, chosen
from finetune.tables import Table
from finetune.target_scale import TargetScale
from finetune.targets import infer_task, parse_labels

COUNTED = (
    "rows_read",
    "left_out",
    "repeated_headers",
    "empty_texts",
    "empty_labels",
    "duplicates",
    "conflicting_labels",
)
"""What is counted of every table, also where it is nothing."""


@dataclass(frozen=True)
class Splits:
    """What a run trains on, chooses by and reports on.

    `counts` says what was read and dropped, `said` what was chosen for the user, `warnings` what may be a mistake.
    `target` is the scale of a regression's numbers.
    """

    train: Rows
    validation: Rows
    tests: dict[str, Rows]
    labels: LabelSpace
    counts: dict[str, int]
    said: list[str]
    warnings: list[str]
    target: TargetScale | None = None

    def by_name(self) -> dict[str, Rows]:
        """Every split under its name: `train`, `validation`, and the tests."""
        return {"train": self.train, "validation": self.validation, **self.tests}


def load_splits(config: DataConfig, *, seed: int, data: Any = None) -> Splits:
    """Read, check and split the rows that `config` names, or the in-memory table `data` in place of `config.train`.

    Raises:
        DataError: no usable rows, one class only, unknown columns, mixed label cells ...; says where.
    """
    reading = _Reading(config, seed)
    if data is not None:
        splits = {split: [rows] for split, rows in reading.split_rows(Source(path="the given table"), data).items()}
    elif config.train:
        splits = {}
        for source in config.train:
            for name, rows in reading.split_rows(source).items():
                splits.setdefault(name, []).append(rows)
    else:
        raise ConfigError("no data: name a table to train on, for example `rehead finetune reviews.csv`")
    train = joined(splits["train"])
    validation = joined(splits.get("validation", []) + [reading.one(source) for source in config.validation])
    tests = {name: reading.one(source) for name, source in config.test.items()} | reading.kept_out
    if "test" in splits:
        tests["test"] = joined(splits["test"])
    return _checked(reading, train, validation, tests)


def load_rows(source: Any, config: DataConfig, labels: LabelSpace) -> tuple[Rows, dict[str, int]]:
    """The rows of one table (a path, or in memory) for evaluating a model, and the counts of what was dropped.

    Raises:
        DataError: no usable rows, or a label that is none of `labels`.
    """
    reading = _Reading(config.model_copy(update={"task": labels.task}), seed=0)
    if isinstance(source, str | Path):
        rows = reading.one(Source(path=str(source)))
    else:
        rows = reading.one(Source(path="the given table"), source)
    counts = reading.counts
    rows = once(rows, counts, "duplicates")
    _require_known(rows, labels)
    return rows, dict(counts)


def read_source(source: Source, config: DataConfig, *, seed: int) -> Rows:
    """The checked rows of one unsplit source, duplicates dropped."""
    return once(_Reading(config, seed).one(source), Counter(), "duplicates")


class _Reading:
    """The state of one load: counts, remarks, the task once it is known, rows kept out on the way."""

    def __init__(self, config: DataConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        self.task: Task | None = config.task
        self.label_column = config.label or "label"
        self.counts: Counter[str] = Counter(dict.fromkeys(COUNTED, 0))
        self.said: list[str] = []
        self.warnings: list[str] = []
        self.kept_out: dict[str, Rows] = {}

    def one(self, source: Source, data: Any = None) -> Rows:
        """All rows of a source that is not split."""
        splits = self.split_rows(source, data)
        if len(splits) == 1:
            return next(iter(splits.values()))
        raise DataError(f"this holds several splits ({', '.join(splits)}): name one file", file=source.path)

    def split_rows(self, source: Source, data: Any = None) -> dict[str, Rows]:
        """Split name -> checked rows of one source."""
        found = {}
        for name, table in named_splits(source, data, options_of(source, self.config)).items():
            rows = self._sampled(source, self._rows(source, table))
            found[name] = self._recast(source, rows) if source.recast is not None else rows
        return found

    def _rows(self, source: Source, table: Table) -> Rows:
        if table.note:
            self._say(f"{table.name}: {table.note}")
        for warning in table.warnings:
            self.warn(f"{table.name}: {warning}")
        columns = find_columns(source, self.config, table)
        self._say(f"{table.name}: {columns}")
        self.label_column = columns.label
        numbers = self._filled(source, table, columns)
        places = [number - 1 for number in numbers]
        cells: Sequence[Any]
        if self.config.share_columns:
            by_label = {
                name: chosen(table.column(column_named(name, table, "data.share_columns")), places)
                for name in self.config.share_columns
            }
            cells = [dict(zip(by_label, row, strict=True)) for row in zip(*by_label.values(), strict=True)]
        else:
            cells = list(map(_shared(), chosen(table.column(columns.label), places)))
        where = {"file": table.name, "column": columns.label}
        if source.recast is not None:
            task: Task = infer_task(cells, numbers, **where)
            values = parse_labels(cells, numbers, task, None, **where)
        else:
            if self.task is None:
                self.task = infer_task(cells, numbers, **where)
                self._say(f"task {self.task.replace('_', '-')}, from the column {columns.label!r}")
            values = parse_labels(cells, numbers, self.task, self.config.label_names, **where)
        texts = _texts(chosen(table.column(columns.text), places))
        pairs = _texts(chosen(table.column(columns.text_pair), places)) if columns.text_pair is not None else None
        origin = Origin.of(table, places)
        return Rows(texts, pairs, values, numbers, table.name, self._groups(table, numbers), origin)

    def _groups(self, table: Table, numbers: list[int]) -> list[str] | None:
        column = self.config.group
        if column is None:
            return None
        cells = chosen(table.column(column_named(column, table, "--group")), [number - 1 for number in numbers])
        # a row without a group is one of its own
        return [
            f"row {number} of {table.name}" if _is_empty(cell) else str(cell)
            for number, cell in zip(numbers, cells, strict=True)
        ]

    def _filled(self, source: Source, table: Table, columns: Columns) -> list[int]:
        asked = {name: table.column(column_named(name, table, "drop, keep")) for name in (*source.drop, *source.keep)}
        kept = []
        self.counts["rows_read"] += len(table.rows)
        texts, labels = table.column(columns.text), table.column(columns.label)
        pairs = table.column(columns.text_pair) if columns.text_pair is not None else texts
        beside: Iterable[dict[str, Any]] = repeat({})
        if asked:
            beside = (dict(zip(asked, row, strict=True)) for row in zip(*asked.values(), strict=True))
        for number, (text, pair, label, row) in enumerate(zip(texts, pairs, labels, beside, strict=False), start=1):
            if _is_left_out(row, source):
                self.counts["left_out"] += 1
            elif is_header({columns.label: label, columns.text: text}, (columns.label, columns.text)):
                self.counts["repeated_headers"] += 1
            elif _is_empty(text) or _is_empty(pair):
                self.counts["empty_texts"] += 1
            elif _is_missing(label):
                self.counts["empty_labels"] += 1
            else:
                kept.append(number)
        if not kept:
            raise DataError("no row has both a text and a label", file=table.name)
        return kept

    def _sampled(self, source: Source, rows: Rows) -> Rows:
        chance = random.Random(f"{self.seed}:{source.path}")
        order = list(range(len(rows)))
        if source.keep_out or source.rows is not None:
            chance.shuffle(order)
        if source.keep_out:
            if source.keep_out >= len(rows):
                raise DataError(f"keep_out {source.keep_out} leaves no row of {len(rows)}", file=source.path)
            name = f"{_stem(source.path)}_kept_out"
            self.kept_out[name] = rows.take(sorted(order[: source.keep_out]))
            order = order[source.keep_out :]
        return rows.take(sorted(order[: source.rows]))

    def _recast(self, source: Source, rows: Rows) -> Rows:
        made = recast(rows.texts, rows.values, source.recast, seed=self.seed)  # type: ignore[arg-type]
        chosen = rows.take([index for index, _, _ in made])
        return replace(chosen, pairs=[row[1] for row in made], values=[row[2] for row in made])

    def _say(self, sentence: str) -> None:
        if sentence not in self.said:
            self.said.append(sentence)

    def warn(self, sentence: str) -> None:
        """Record something that may be a mistake, once."""
        if sentence not in self.warnings:
            self.warnings.append(sentence)


def _checked(reading: _Reading, train: Rows, validation: Rows, tests: dict[str, Rows]) -> Splits:
    counts = reading.counts
    task: Task = reading.task or "multiclass"
    train = once(train, counts, "duplicates")
    validation = once(validation, counts, "evaluation_duplicates")
    if task in ("binary", "multiclass"):  # several labels, and several people's numbers, may stand side by side
        torn = contradicted(train, validation)
        train = without(train, torn, counts, "conflicting_labels")
        validation = without(validation, torn, counts, "conflicting_labels")
        if not len(train):
            raise DataError("every text carries different labels in different rows: mend the label column")
    evaluated = (validation, *tests.values())
    held = np.concatenate([rows.identities for rows in evaluated])
    train = without(train, held, counts, "also_in_evaluation")
    train = _without_groups(train, evaluated, counts)
    names = reading.config.label_names
    if names is not None and task != "regression":
        labels = LabelSpace("binary" if len(names) == 2 and task == "multiclass" else task, names)
        LabelSpace.fit(train.values, task)
    else:
        labels = LabelSpace.fit(train.values, task, column=reading.label_column)
    if not len(validation):
        train, validation = split(train, reading.config.validation_size, labels, reading.seed)
        # a text with two numbers or two sets of labels may fall on both sides
        train = without(train, validation.identities, counts, "also_in_evaluation")
    for rows in (train, validation, *tests.values()):
        _require_known(rows, labels)
    if labels.task not in ("regression", "multi_label") and len(set(train.values)) < 2:
        raise DataError("after the split the training rows hold one label only: give more rows", file=train.source)
    sizes = {"train": len(train), "validation": len(validation)} | {f"test_{n}": len(t) for n, t in tests.items()}
    target = _target_scale(train, reading.config) if labels.task == "regression" else None
    return Splits(train, validation, tests, labels, {**counts, **sizes}, reading.said, reading.warnings, target)


def _target_scale(train: Rows, config: DataConfig) -> TargetScale:
    low, high = config.bounds or (None, None)
    for number, value in zip(train.numbers, train.values, strict=True):
        if (low is not None and value < low) or (high is not None and value > high):
            raise DataError(
                f"the number {value:g} lies outside data.bounds ({low}, {high}): correct it, or widen the bounds",
                file=train.source,
                row=number,
            )
    return TargetScale.fit(train.values, config.bounds)


def _without_groups(train: Rows, evaluated: Sequence[Rows], counts: Counter[str]) -> Rows:
    held = {group for rows in evaluated for group in rows.groups or ()}
    if train.groups is None or not held:
        return train
    kept = [index for index, group in enumerate(train.groups) if group not in held]
    counts["group_in_evaluation"] += len(train) - len(kept)
    if not kept:
        raise DataError("every group of the training rows stands in evaluation too", file=train.source)
    return train.take(kept)


def _require_known(rows: Rows, labels: LabelSpace) -> None:
    if labels.task == "regression":
        return
    known = set(labels.names)
    for number, value in zip(rows.numbers, rows.values, strict=True):
        for name in names_in(value):
            if name not in known:
                raise DataError(
                    f"label {name!r} was not seen in training (labels: {shown(labels.names)}): "
                    "add training rows with it, or leave these rows out",
                    file=rows.source,
                    row=number,
                )


def _texts(cells: Sequence[Any]) -> Sequence[str]:
    return cells.decoded(str) if isinstance(cells, Cells) else [str(cell) for cell in cells]


def _shared() -> Callable[[Any], Any]:
    """Gives equal strings as one object: a label column repeats a few names a million times."""
    known: dict[str, str] = {}
    return lambda cell: known.setdefault(cell, cell) if isinstance(cell, str) else cell


def _is_left_out(row: dict[str, Any], source: Source) -> bool:
    dropped = any(str(row.get(name)) in values for name, values in source.drop.items())
    return dropped or any(str(row.get(name)) not in values for name, values in source.keep.items())


def _stem(path: str) -> str:
    file = Path(path)
    return f"{file.parent.name}_{file.stem}" if file.parent.name else file.stem


def _is_missing(cell: Any) -> bool:
    # a cell may be an array, whose comparison is no truth value
    return cell is None or (isinstance(cell, str) and not cell) or (isinstance(cell, float) and cell != cell)


def _is_empty(cell: Any) -> bool:
    return _is_missing(cell) or not str(cell).strip()

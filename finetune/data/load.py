"""Load, check and split labeled texts; errors name their rows, and every dropped row is counted."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from finetune.config.data import DataConfig, Source
from finetune.core.errors import ConfigError, DataError
from finetune.core.label_text import is_missing
from finetune.core.labels import LabelSpace, names_in, shown
from finetune.core.tables.arrow_file import take_cells
from finetune.core.tables.columns import twins_warned_of
from finetune.core.tables.table import Table
from finetune.core.tables.text_file import stem_of
from finetune.core.target_scale import TargetScale
from finetune.core.task import Task
from finetune.data.label_reading import LabelReading, RawRows, label_cells
from finetune.data.label_warnings import label_warnings
from finetune.data.nli_pairs import recast
from finetune.data.row_filters import usable_rows
from finetune.data.row_weights import row_weights, without_zero_weights
from finetune.data.rows import Origin, Rows, concatenated, conflicting_texts, without_duplicates, without_texts
from finetune.data.sources import Columns, column_named, find_columns, named_splits, table_options
from finetune.data.splits import split, target_scale_of
from finetune.data.text_cells import texts_of

COUNTED = (
    "rows_read",
    "left_out",
    "repeated_headers",
    "empty_texts",
    "empty_labels",
    "duplicates",
    "conflicting_labels",
)
"""Counts that are reported for every table, also if they are 0."""


@dataclass(frozen=True)
class Splits:
    """The rows of a run.

    Attributes:
        train, validation, tests: rows to train on, to choose the best checkpoint by, and to report on.
        counts: numbers of rows that were read, dropped and split.
        notes: what was inferred from the tables.
        warnings: what may be a mistake in them.
        target: the scale of the targets of a regression.
    """

    train: Rows
    validation: Rows
    tests: dict[str, Rows]
    labels: LabelSpace
    counts: dict[str, int]
    notes: list[str]
    warnings: list[str]
    target: TargetScale | None = None

    def by_name(self) -> dict[str, Rows]:
        """Return the splits by name: `train`, `validation` and those of `tests`."""
        return {"train": self.train, "validation": self.validation, **self.tests}

    @property
    def is_cross_validated(self) -> bool:
        """Whether the validation rows are the training rows, each scored by a model of the others."""
        return self.validation is self.train

    def distinct(self) -> dict[str, Rows]:
        """Return the splits by name, each row once."""
        return {
            name: rows for name, rows in self.by_name().items() if name != "validation" or not self.is_cross_validated
        }


def load_splits(config: DataConfig, *, seed: int, data: Any = None, whole: bool = False) -> Splits:
    """Read, check and split the tables of `config`.

    Args:
        data: a table in memory instead of `config.train`.
        whole: keep all training rows together, also where there is no validation table.

    Raises:
        ConfigError: no table to train on.
        DataError: no usable rows, one label only, unknown columns, mixed label cells ...; says where.
    """
    reading = _Reading(config, seed)
    if data is not None:
        raws = {split: [raw] for split, raw in reading.split_rows(Source(path="the given table"), data).items()}
    elif config.train:
        raws = {}
        for source in config.train:
            for name, raw in reading.split_rows(source).items():
                raws.setdefault(name, []).append(raw)
    else:
        raise ConfigError("no data: name a table to train on, for example `rehead finetune reviews.csv`")
    for raw in raws["train"]:
        reading.require_weights(raw)
    reading.fit(raws["train"])
    train = concatenated(reading.parsed(raws["train"]))
    holdouts = {name: concatenated(reading.parsed([raw])) for name, raw in reading.holdouts.items()}
    validation = concatenated(
        reading.labeled("validation", raws.get("validation", []))
        + [reading.parsed_one(source) for source in config.validation]
    )
    tests = {name: reading.parsed_one(source) for name, source in config.test.items()} | holdouts
    test = reading.labeled("test", raws.get("test", []))
    return _checked(reading, train, validation, tests | ({"test": concatenated(test)} if test else {}), whole=whole)


def load_rows(
    source: Any, config: DataConfig, labels: LabelSpace, text_columns: Sequence[str] = ()
) -> tuple[Rows, dict[str, int]]:
    """Return the rows of one table to evaluate a model on, and the counts of dropped rows.

    Args:
        source: a path, or a table in memory.
        labels: the labels of the model.
        text_columns: the columns whose joined texts it was trained on; used where `config` names no text.

    Raises:
        DataError: no usable rows, a label that the model does not have, or no column of weights.
    """
    known = labels.names if labels.task != "regression" else ()
    reading = _Reading(config.model_copy(update={"task": labels.task}), seed=0, known=known, recorded=text_columns)
    if isinstance(source, str | Path):
        raw = reading.one(Source(path=str(source)))
    else:
        raw = reading.one(Source(path="the given table"), source)
    reading.require_weights(raw)
    reading.fit([raw])
    counts = reading.counts
    rows = without_duplicates(concatenated(reading.parsed([raw])), counts, "duplicates")
    rows = without_zero_weights(rows, counts)
    _require_known(rows, labels)
    return rows, dict(counts)


def read_source(source: Source, config: DataConfig, *, seed: int) -> Rows:
    """Return the checked rows of one source without splits, without duplicates."""
    reading = _Reading(config, seed)
    raw = reading.one(source)
    reading.fit([raw])
    return without_duplicates(concatenated(reading.parsed([raw])), Counter(), "duplicates")


class _Reading:
    """The state of one load: the label format, the counts, notes and warnings so far, and the holdouts of sources."""

    def __init__(self, config: DataConfig, seed: int, known: Sequence[str] = (), recorded: Sequence[str] = ()) -> None:
        self.config, self.seed, self.recorded = config, seed, recorded
        self.labels = LabelReading(config, known)
        self.counts: Counter[str] = Counter(dict.fromkeys(COUNTED, 0))
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.holdouts: dict[str, RawRows] = {}

    def one(self, source: Source, data: Any = None) -> RawRows:
        """Return all rows of a source without splits."""
        splits = self.split_rows(source, data)
        if len(splits) == 1:
            return next(iter(splits.values()))
        raise DataError(f"this holds several splits ({', '.join(splits)}): name one file", file=source.path)

    def split_rows(self, source: Source, data: Any = None) -> dict[str, RawRows]:
        """Return split name -> checked rows of one source, with label cells."""
        splits: dict[str, RawRows] = {}
        for name, table in named_splits(source, data, table_options(source, self.config)).items():
            if name != "train" and "train" in splits and not _is_labeled(splits["train"].columns, table):
                self._note(f"split {name!r} has no labels in its {len(table.rows)} rows: left out")
                continue
            raw = self._sampled(source, self._rows(source, table))
            splits[name] = self._recast(source, raw) if source.recast is not None else raw
        return splits

    def fit(self, raws: Sequence[RawRows]) -> None:
        """Infer the label format from the training tables."""
        self.labels.fit(raws)
        for sentence in self.labels.notes:
            self._note(sentence)
        for sentence in self.labels.warnings:
            self.warn(sentence)

    def parsed(self, raws: Sequence[RawRows]) -> list[Rows]:
        """Return the rows of these tables with label values."""
        return [self.labels.parsed(raw) for raw in raws]

    def parsed_one(self, source: Source) -> Rows:
        """Return the rows of a validation or test table with label values."""
        raw = self.one(source)
        if self.labels.is_hidden(raw):
            raise DataError(f"all {len(raw.rows)} labels are -1: give a table with labels", file=raw.rows.source)
        return self.labels.parsed(raw)

    def require_weights(self, raw: RawRows) -> None:
        """Raise a DataError where the table lacks the column of weights that the config names."""
        if self.config.weight is not None and raw.rows.origin is not None:
            column_named(self.config.weight, raw.rows.origin.tables[0], "--weight")

    def labeled(self, name: str, raws: Sequence[RawRows]) -> list[Rows]:
        """Return the rows of a split of the training source with label values; none if its labels are hidden."""
        for raw in filter(self.labels.is_hidden, raws):
            self._note(f"split {name!r} has no labels (all {len(raw.rows)} are -1): left out")
        return self.parsed([raw for raw in raws if not self.labels.is_hidden(raw)])

    def _rows(self, source: Source, table: Table) -> RawRows:
        if table.note:
            self._note(f"{table.name}: {table.note}")
        for warning in table.warnings:
            self.warn(f"{table.name}: {warning}")
        columns = find_columns(source, self.config, table, self.recorded)
        self._note(f"{table.name}: {columns}")
        for sentence in twins_warned_of((*(columns.text_columns or (columns.text,)), columns.label), table.columns):
            self.warn(f"{table.name}: {sentence}")
        texts = columns.texts_of(table)
        numbers = usable_rows(source, table, columns, texts, self.counts)
        places = [number - 1 for number in numbers]
        cells = list(map(_interned(), label_cells(table, columns, places)))
        texts = texts_of(take_cells(texts, places))
        pairs = texts_of(take_cells(table.column(columns.text_pair), places)) if columns.text_pair is not None else None
        origin = Origin.of(table, places)
        groups, weights = self._groups(table, numbers), row_weights(table, self.config.weight, numbers)
        if weights is not None:
            self._note(f"{table.name}: rows weighted by column {self.config.weight!r}")
        return RawRows(Rows(texts, pairs, cells, numbers, table.name, groups, weights, origin), columns)

    def _groups(self, table: Table, numbers: list[int]) -> list[str] | None:
        column = self.config.group
        if column is None:
            return None
        cells = take_cells(table.column(column_named(column, table, "--group")), [number - 1 for number in numbers])
        # a row without a group is one of its own
        return [
            f"row {number} of {table.name}" if is_missing(cell) else str(cell)
            for number, cell in zip(numbers, cells, strict=True)
        ]

    def _sampled(self, source: Source, raw: RawRows) -> RawRows:
        rows = raw.rows
        chance = random.Random(f"{self.seed}:{source.path}")
        order = list(range(len(rows)))
        if source.holdout or source.rows is not None:
            chance.shuffle(order)
        if source.holdout:
            if source.holdout >= len(rows):
                raise DataError(
                    f"holdout is {source.holdout}, and there are {len(rows)} rows: lower it", file=source.path
                )
            name = f"{_stem(source.path)}_holdout"
            self.holdouts[name] = replace(raw, rows=rows.take(sorted(order[: source.holdout])))
            order = order[source.holdout :]
        return replace(raw, rows=rows.take(sorted(order[: source.rows])))

    def _recast(self, source: Source, raw: RawRows) -> RawRows:
        reading = LabelReading(
            DataConfig(soft_label_columns=raw.columns.soft_label_columns, decimal=self.config.decimal)
        )
        reading.fit([raw])
        rows = reading.parsed(raw)
        recasts = recast(rows.texts, rows.values, source.recast, seed=self.seed)  # type: ignore[arg-type]
        texts = rows.take([index for index, _, _ in recasts])
        rows = replace(texts, pairs=[row[1] for row in recasts], values=[row[2] for row in recasts])
        return RawRows(rows, raw.columns, parsed=True)

    def _note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)

    def warn(self, sentence: str) -> None:
        """Add a warning, once."""
        if sentence not in self.warnings:
            self.warnings.append(sentence)


def _checked(reading: _Reading, train: Rows, validation: Rows, tests: dict[str, Rows], *, whole: bool) -> Splits:
    counts = reading.counts
    task: Task = reading.labels.task
    train = without_duplicates(train, counts, "duplicates")
    validation = without_duplicates(validation, counts, "evaluation_duplicates")
    if task in ("binary", "multiclass"):  # a text may have several sets of labels, or several ratings
        conflicting = conflicting_texts(train, validation)
        train = without_texts(train, conflicting, counts, "conflicting_labels")
        validation = without_texts(validation, conflicting, counts, "conflicting_labels")
        if not len(train):
            raise DataError("every text has different labels in different rows: correct the label column")
    evaluated = (validation, *tests.values())
    evaluation = np.concatenate([rows.identities for rows in evaluated])
    train = without_texts(train, evaluation, counts, "also_in_evaluation")
    if not len(train):
        raise DataError("every training text is in an evaluation split too: evaluate on other rows")
    train = _without_groups(train, evaluated, counts)
    labels = reading.labels.space(train.values)
    task_given = reading.config.task is not None
    for sentence in label_warnings(train.values, labels, reading.labels.column, task_given=task_given):
        reading.warn(sentence)
    if not len(validation) and not whole:
        train, validation = split(train, reading.config.validation_size, labels, reading.seed)
        # a text with several sets of labels or ratings may be in both
        train = without_texts(train, validation.identities, counts, "also_in_evaluation")
    for rows in (train, validation, *tests.values()):
        _require_known(rows, labels)
    if labels.task not in ("regression", "multi_label") and len(set(train.values)) < 2:
        raise DataError("after the split the training rows have one label only: add rows", file=train.source)
    sizes = {"train": len(train), "validation": len(validation)} | {f"test_{n}": len(t) for n, t in tests.items()}
    target = target_scale_of(train, reading.config.bounds) if labels.task == "regression" else None
    return Splits(train, validation, tests, labels, {**counts, **sizes}, reading.notes, reading.warnings, target)


def _without_groups(train: Rows, evaluated: Sequence[Rows], counts: Counter[str]) -> Rows:
    groups = {group for rows in evaluated for group in rows.groups or ()}
    if train.groups is None or not groups:
        return train
    places = [index for index, group in enumerate(train.groups) if group not in groups]
    counts["group_in_evaluation"] += len(train) - len(places)
    if not places:
        raise DataError(
            "every group of the training rows is in an evaluation split too: evaluate on other groups",
            file=train.source,
        )
    return train.take(places)


def _require_known(rows: Rows, labels: LabelSpace) -> None:
    if labels.task == "regression":
        return
    known = set(labels.names)
    for number, value in zip(rows.numbers, rows.values, strict=True):
        for name in names_in(value):
            if name not in known:
                raise DataError(
                    f"label {name!r} was not seen in training (labels: {shown(labels.names)}): "
                    "add training rows with it, or remove these rows",
                    file=rows.source,
                    row=number,
                )


def _is_labeled(columns: Columns, table: Table) -> bool:
    """Return whether a table has a label in any of these columns."""
    return any(not is_missing(cell) for cells in columns.labels_of(table) for cell in cells)


def _interned() -> Callable[[Any], Any]:
    """Return a function that returns equal strings as one object: a label column may repeat a name a million times."""
    known: dict[str, str] = {}
    return lambda cell: known.setdefault(cell, cell) if isinstance(cell, str) else cell


def _stem(path: str) -> str:
    file = Path(path)
    return f"{file.parent.name}_{stem_of(file)}" if file.parent.name else stem_of(file)

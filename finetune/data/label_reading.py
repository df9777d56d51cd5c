"""Read the labels of all tables of a run in the format of the training tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from finetune.config.data import DataConfig
from finetune.core.errors import ConfigError, DataError
from finetune.core.label_text import name_of, number_of
from finetune.core.labels import LabelSpace
from finetune.core.tables.arrow_file import take_cells
from finetune.core.tables.table import Table
from finetune.core.task import Task
from finetune.data.label_format import LabelFormat, fit_format
from finetune.data.label_parsing import parse_flag_columns, parse_labels, respelled
from finetune.data.label_survey import LabelCells
from finetune.data.rows import Rows
from finetune.data.sources import Columns


@dataclass(frozen=True)
class RawRows:
    """Rows of one table whose `values` are label cells, or label values if `parsed`, and the columns they came from."""

    rows: Rows
    columns: Columns
    parsed: bool = False

    @property
    def cells(self) -> LabelCells:
        """The label cells, with their file and row numbers."""
        return LabelCells(self.rows.values, self.rows.numbers, self.rows.source, self.columns.label)


def label_cells(table: Table, columns: Columns, places: Sequence[int]) -> list[Any]:
    """Return the label cells of these rows: tuples of indicators, dicts of soft labels, or single cells."""
    if not columns.several:
        return list(take_cells(table.column(columns.label), places))
    cells = zip(*(take_cells(table.column(name), places) for name in columns.several), strict=True)
    return list(cells) if columns.label_columns else [dict(zip(columns.several, row, strict=True)) for row in cells]


class LabelReading:
    """The label format of a run, and the parsing of its tables.

    Args:
        known: the label names of a model that is evaluated.
    """

    def __init__(self, config: DataConfig, known: Sequence[str] = ()) -> None:
        self.config, self.known = config, known
        self.form = LabelFormat(config.task or "multiclass", "plain")
        self.column = config.label or "label"
        self.names: tuple[str, ...] | None = None
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self._negative = False

    @property
    def task(self) -> Task:
        """The task, set or inferred."""
        return self.form.task

    def fit(self, raws: Sequence[RawRows]) -> None:
        """Infer the label format from all training tables.

        Raises:
            DataError: cells that can be read in two ways, or indicator columns in some tables only.
        """
        raws = [raw for raw in raws if not raw.parsed]
        if not raws:
            return  # recast tables have label values already
        columns, config = raws[0].columns, self.config
        self.column = columns.label
        names = [tuple(map(name_of, raw.columns.several)) for raw in raws]
        odd = next((raw for raw, own in zip(raws, names, strict=True) if own != names[0]), None)
        if odd is not None:
            raise DataError(
                "some tables have a column for each label and others one label column: give all the same columns",
                file=odd.rows.source,
            )
        if columns.label_columns:
            self._fit_columns(columns)
            return
        parts = [raw.cells for raw in raws]
        self.form = fit_format(
            parts,
            task=config.task,
            names=config.label_names,
            known=self.known,
            decimal=config.decimal,
            soft=bool(columns.soft_label_columns),
        )
        self.names = self.form.names
        self.warnings += [f"{columns.label}: {sentence}" for sentence in self.form.warnings]
        self.notes += [f"column {columns.label!r}: {sentence}" for sentence in self.form.notes]
        if config.task is None:
            several = "columns" if columns.several else f"column {columns.label!r}"
            self.notes.append(f"task {self.task.replace('_', '-')}, from the {several}")
        self.notes += respelled(parts, self.form) if not columns.soft_label_columns else []
        self._negative = any((number_of(cell) or 0) < 0 for part in parts for cell in _distinct(part.cells))

    def _fit_columns(self, columns: Columns) -> None:
        config = self.config
        if config.task == "regression":
            raise ConfigError(
                "label columns hold 0 or 1 each, and task regression takes numbers: name one column with --label"
            )
        if config.label_names is not None and len(config.label_names) != len(columns.label_columns):
            raise ConfigError(
                f"data.label_names has {len(config.label_names)} names for {len(columns.label_columns)} label columns: "
                "give one for each"
            )
        if config.task is None:
            self.notes.append("task multi-label, from a column for each label")
        self.form = LabelFormat(config.task or "multi_label", "indicators")
        self.names = tuple(map(name_of, config.label_names or columns.label_columns))

    def parsed(self, raw: RawRows) -> Rows:
        """Return the rows with label values instead of cells.

        Raises:
            DataError: a cell that does not fit the format of the training tables; names its row.
        """
        if raw.parsed:
            return raw.rows
        if raw.columns.label_columns:
            values = parse_flag_columns(raw.cells, raw.columns.label_columns, self.form, self.names or ())
        else:
            values = parse_labels(raw.cells, self.form)
        return replace(raw.rows, values=values)

    def is_hidden(self, raw: RawRows) -> bool:
        """Return whether every label is -1, as in the test sets of benchmarks, whose labels are not published.

        Where a training label is below 0, -1 is a label like the others.
        """
        if raw.parsed or self._negative:
            return False
        rows = _distinct(raw.rows.values)
        cells = [cell for row in rows for cell in (row if raw.columns.label_columns else (row,))]
        return bool(cells) and all(number_of(cell) == -1 for cell in cells)

    def space(self, values: Sequence[Any]) -> LabelSpace:
        """Return the label space, of the configured names or of these training values.

        Raises:
            DataError: fewer labels than a classifier needs.
        """
        if self.names is None or self.task == "regression":
            return LabelSpace.fit(values, self.task, column=self.column)
        LabelSpace.fit(values, "multiclass" if self.task == "binary" else self.task)
        return LabelSpace("binary" if len(self.names) == 2 and self.task == "multiclass" else self.task, self.names)


def _distinct(cells: Sequence[Any]) -> list[Any]:
    """Return the cells, with equal texts once."""
    texts = dict.fromkeys(cell for cell in cells if isinstance(cell, str))
    return [*texts, *(cell for cell in cells if not isinstance(cell, str))]

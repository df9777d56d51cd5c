"""The texts of a distillation: distinct ones, drawn at random where there are many, and those that people labeled."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.config.data import DataConfig
from finetune.core.errors import DataError
from finetune.core.label_text import is_missing
from finetune.core.labels import LabelSpace, shown
from finetune.core.tables.arrow_file import ROWS_AT_ONCE, take_cells
from finetune.core.tables.columns import matching_column
from finetune.core.tables.files import read_table
from finetune.core.tables.formats import FORMATS
from finetune.core.tables.joined_texts import joined_cells
from finetune.core.tables.table import Table
from finetune.data.load import load_rows
from finetune.data.rows import Rows
from finetune.data.tables_in_memory import splits_in_memory
from service.batch.text_columns import problem_of, text_columns_of
from service.errors import BadRequest
from service.labeling.config import DistillConfig
from service.labeling.report_files import CHOSEN, IN_DOUBT, RANDOM

FEWEST = 10
"""Distinct texts that a distillation needs."""

SAMPLE_ROWS = 50_000
"""Texts that a refinement and word vectors are fitted on, at most."""


@dataclass(frozen=True)
class Corpus:
    """Distinct texts to label, and the rows that people labeled.

    Attributes:
        name: the table.
        texts: the drawn texts, in the table's order; they are read from disk when they are used.
        rows: row number of each in the table, from 1, `[N]`.
        measured: rows with labels by people, None where there are none; none of their texts is among `texts`.
        counts: rows of the table, and those that were left out, by reason.
        columns: columns of the text, as the student records them where it joins several.
    """

    name: str
    texts: Sequence[str]
    rows: npt.NDArray[np.int64]
    measured: Rows | None
    counts: dict[str, int]
    columns: tuple[str, ...]
    note: str | None = None

    def chunks(self, size: int) -> Iterator[tuple[int, list[str]]]:
        """Yield the first place and the texts of each chunk."""
        for start in range(0, len(self.texts), size):
            yield start, list(self.texts[start : start + size])


def corpus_of(config: DistillConfig, data: Any = None) -> Corpus:
    """Return the texts of a run.

    Args:
        data: texts in memory in place of `config.texts`: a list of texts, a data frame, or a list of dicts.

    Raises:
        BadRequest, DataError: no text column, too few texts, or a label that is not one of the run's.
    """
    table = _table(config, data)
    columns = text_columns_of(table.name, table.columns, config.text)
    cells = table.column(columns[0]) if len(columns) == 1 else joined_cells(table, columns, lambda *a, **k: None)
    labels = _label_cells(config, table)
    measured = _measured(config, table, columns, labels)
    taken = {_digest(text) for text in measured.texts} if measured is not None else set()
    places, counts = _usable(table, columns, cells, labels, taken)
    if measured is not None:
        measured, counts["not_measured_on_since_in_doubt"] = _drawn_at_random(measured)
    if len(places) < FEWEST:
        raise DataError(
            f"{len(places)} of {len(table.rows)} rows hold a text without a label that no other row has; distilling "
            f"needs {FEWEST} or more, and better 1,000",
            file=table.name,
        )
    if config.rows is not None and len(places) > config.rows:
        chance = np.random.default_rng(config.seed)
        places = np.sort(chance.choice(places, config.rows, replace=False))
        counts["not_drawn"] = counts["usable"] - config.rows
    texts = take_cells(cells, places.tolist())
    joins = columns if len(columns) > 1 else ()
    return Corpus(table.name, texts, places + 1, measured, counts, joins, table.note)


def _table(config: DistillConfig, data: Any) -> Table:
    if data is None:
        return read_table(Path(config.texts), config.table_options, FORMATS)
    if isinstance(data, Sequence) and data and all(isinstance(item, str) for item in data):
        data = [{"text": item} for item in data]
    return next(iter(splits_in_memory(data, "the given texts").values()))


def _label_cells(config: DistillConfig, table: Table) -> Sequence[Any] | None:
    if config.label_column is None:
        return None
    column = matching_column(config.label_column, table.columns)
    if column is None:
        raise BadRequest(f"{table.name} has no column {config.label_column!r}: it has {shown(table.columns)}")
    return table.column(column)


def _measured(
    config: DistillConfig, table: Table, columns: tuple[str, ...], labels: Sequence[Any] | None
) -> Rows | None:
    """Return the rows that people labeled, of the table and of the validation table."""
    space = LabelSpace("multi_label" if config.multi_label else _single(config), config.names)
    joins = columns if len(columns) > 1 else ()
    parts = []
    if labels is not None:
        places = [place for place, cell in enumerate(labels) if not is_missing(cell)]
        if places:
            label = matching_column(str(config.label_column), table.columns)
            records = [table.rows[place] for place in places]
            columns_config = DataConfig(text=None if joins else columns[0], text_columns=joins, label=label)
            parts.append(_rows(records, columns_config, space, table.name, config))
    if config.validation is not None:
        parts.append(_rows(config.validation, DataConfig(), space, config.validation, config, joins))
    if len(parts) == 2:
        raise BadRequest("label_column and validation are two places for labels by people: name one of them")
    return parts[0] if parts else None


def _drawn_at_random(rows: Rows) -> tuple[Rows, int]:
    """Return the rows without those of `to_label.csv` that were chosen in doubt, and the number of these: models are
    worse on them than on texts drawn at random."""
    if rows.origin is None:
        return rows, 0
    chosen = [rows.origin.cells(place)[1].get(CHOSEN) for place in range(len(rows))]
    kept = [place for place, why in enumerate(chosen) if why != IN_DOUBT]
    if RANDOM not in chosen or len(kept) == len(rows):
        return rows, 0
    return rows.take(kept), len(rows) - len(kept)


def _rows(
    source: Any, data: DataConfig, space: LabelSpace, name: str, config: DistillConfig, joins: Sequence[str] = ()
) -> Rows:
    try:
        rows, _ = load_rows(source, data, space, joins)
    except DataError as error:
        if "was not seen in training" not in str(error):
            raise
        raise DataError(
            f"a label by people is none of the labels {shown(config.names)} (row {error.row}): correct it, add it to "
            "the labels, or empty the cell",
            file=name,
        ) from error
    return rows


def _single(config: DistillConfig) -> Any:
    return "binary" if len(config.names) == 2 else "multiclass"


def _usable(
    table: Table, columns: tuple[str, ...], cells: Sequence[Any], labels: Sequence[Any] | None, taken: Collection[bytes]
) -> tuple[npt.NDArray[np.int64], dict[str, int]]:
    """Return the places of distinct texts without labels, and the counts of rows."""
    count = len(table.rows)
    digests = np.zeros(count, dtype="S16")
    state = np.zeros(count, dtype=np.int8)  # 0 usable, 1 no text, 2 labeled, 3 a text of a labeled row
    for start in range(0, count, ROWS_AT_ONCE):
        texts = cells[start : start + ROWS_AT_ONCE]
        known = labels[start : start + ROWS_AT_ONCE] if labels is not None else [None] * len(texts)
        for place, (text, label) in enumerate(zip(texts, known, strict=True), start=start):
            if problem_of({"text": text}, ("text",), None, None):
                state[place] = 1
                continue
            digest = _digest(text)
            digests[place] = digest
            state[place] = 2 if not is_missing(label) else 3 if digest in taken else 0
    places = np.flatnonzero(state == 0)
    _, first = np.unique(digests[places], return_index=True)
    distinct = places[np.sort(first)]
    counts = {
        "rows": count,
        "empty": int((state == 1).sum()),
        "labeled": int((state == 2).sum()),
        "text_of_a_labeled_row": int((state == 3).sum()),
        "duplicates": len(places) - len(distinct),
        "usable": len(distinct),
    }
    return distinct, counts


def _digest(text: str) -> bytes:
    # numpy drops zero bytes at the end of a fixed-width string, so that the last one is set
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=15).digest() + b"\x01"

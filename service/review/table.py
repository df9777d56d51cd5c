"""The rows of a table that people may be asked about: distinct texts, with the draws that decide each row's role."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b, sha256
from pathlib import Path

import numpy as np
import numpy.typing as npt

from finetune.core.label_text import clean, is_missing
from finetune.core.labels import shown
from finetune.core.tables.columns import LABEL_NAMES, matching_column, obvious_column
from finetune.core.tables.files import read_table
from finetune.core.tables.formats import FORMATS
from finetune.core.tables.joined_texts import joined_cells
from finetune.core.tables.options import TableOptions
from finetune.core.tokenization import without_surrogates
from service.batch.text_columns import problem_of, text_columns_of
from service.errors import BadRequest

MOST_ROWS = 20_000
"""Distinct texts that are scored and chosen from, drawn at random from a larger table without labels."""


@dataclass(frozen=True)
class ReviewTable:
    """Distinct texts `[N]` of a table.

    Attributes:
        name: the file.
        columns: of the text; several are joined.
        texts, hashes: the texts and the SHA-256 of each, in hexadecimal.
        numbers: row number of each in the file, from 1, `[N]`.
        labels: the label of each in the table, None where no label column was named.
        rows: rows of the file.
    """

    name: str
    columns: tuple[str, ...]
    texts: list[str]
    hashes: list[str]
    numbers: npt.NDArray[np.int64]
    labels: list[str] | None
    rows: int

    def __len__(self) -> int:
        return len(self.texts)

    def draws(self, seed: int, purpose: str) -> npt.NDArray[np.float64]:
        """Return a number from 0 to 1 for each text `[N]`, which depends on text, seed and purpose alone."""
        return np.array([draw(name, seed, purpose) for name in self.hashes])


def draw(text_hash: str, seed: int, purpose: str) -> float:
    """Return a number from 0 to 1, uniform over texts."""
    digest = blake2b(f"{purpose} {seed} {text_hash}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def hash_of(text: str) -> str:
    """Return the SHA-256 of a text."""
    return sha256(text.encode()).hexdigest()


def review_table(
    path: str | Path,
    text: Sequence[str] = (),
    options: TableOptions | None = None,
    *,
    label: str | None = None,
    recorded: Sequence[str] = (),
    max_characters: int | None = None,
    seed: int = 0,
) -> ReviewTable:
    """Return the texts of a table file; rows without a text, or with that of an earlier row, are left out.

    Args:
        text: columns of the text; without any, the recorded ones or the column that obviously holds it.
        label: column of the labels; only rows that have one are used then.
        recorded: columns whose joined texts the model was trained on.
        max_characters: of a text; longer ones are left out.

    Raises:
        BadRequest, DataError: the table cannot be read, has no such column, or no text.
    """
    table = read_table(Path(path), options, FORMATS)
    columns = text_columns_of(table.name, table.columns, tuple(text), recorded)
    cells = table.column(columns[0]) if len(columns) == 1 else joined_cells(table, columns, lambda *a, **k: None)
    given = None if label is None else table.column(_label_column(label, table.columns, table.name))
    places: dict[str, int] = {}
    for place, cell in enumerate(cells):
        if problem_of({"text": cell}, ("text",), None, max_characters):
            continue
        if given is None or not is_missing(given[place]):
            places.setdefault(hash_of(without_surrogates(cell)), place)
    if not places:
        what = "a text" if given is None else "a text and a label"
        raise BadRequest(f"{table.name}: no row has {what} in the column {shown(columns)}")
    hashes = list(places)
    if len(hashes) > MOST_ROWS and given is None:
        chosen = set(sorted(hashes, key=lambda name: draw(name, seed, "sample"))[:MOST_ROWS])
        hashes = [name for name in hashes if name in chosen]
    taken = [places[name] for name in hashes]
    return ReviewTable(
        table.name,
        tuple(columns),
        [without_surrogates(str(cells[place])) for place in taken],
        hashes,
        np.array(taken, dtype=np.int64) + 1,
        None if given is None else [clean(str(given[place])) for place in taken],
        len(table.rows),
    )


def _label_column(name: str, columns: list[str], table: str) -> str:
    column = matching_column(name, columns) if name else obvious_column(LABEL_NAMES, columns)
    if column is None:
        raise BadRequest(f"{table}: name the column that holds the label with --label; it has {shown(columns)}")
    return column

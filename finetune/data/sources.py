"""Where tables come from, and which of their columns is what.

Knows: files, folders of splits, Hub datasets; obvious column names.
Does not know: tasks, labels, splits that have to be made.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from finetune.config.data import DataConfig, Source
from finetune.core.errors import DataError
from finetune.core.label_text import is_missing
from finetune.core.labels import shown
from finetune.core.tables.arrow_file import Records
from finetune.core.tables.columns import LABEL_NAMES, TEXT_NAMES, by_clean_name, matching_column, obvious_column
from finetune.core.tables.files import read_table
from finetune.core.tables.formats import SUFFIXES, format_of
from finetune.core.tables.options import TableOptions
from finetune.core.tables.table import Table
from finetune.data.label_cells import flag_of
from finetune.data.tables_in_memory import SPLIT_NAMES, splits_in_memory

ROWS_FOR_HINT = 200
"""Rows that are looked at to find columns of zeros and ones."""

PAIR_NAMES = (
    ("text", "text_pair"),
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("sentence_1", "sentence_2"),
    ("question1", "question2"),
    ("text_a", "text_b"),
    ("text1", "text2"),
)


def options_of(source: Source, config: DataConfig) -> TableOptions:
    """How the files of a source are read."""
    return TableOptions(
        source.encoding or config.encoding,
        source.separator or config.separator,
        config.header if source.header is None else source.header,
    )


@dataclass(frozen=True)
class Columns:
    """The columns that hold the text, the second text of a pair if there is one, and the label."""

    text: str
    text_pair: str | None
    label: str
    label_columns: tuple[str, ...] = ()
    soft_label_columns: tuple[str, ...] = ()

    def __str__(self) -> str:
        pair = f" + {self.text_pair!r}" if self.text_pair else ""
        if self.several:
            return f"text {self.text!r}{pair}, labels {shown([repr(name) for name in self.several])}"
        return f"text {self.text!r}{pair}, label {self.label!r}"

    @property
    def several(self) -> tuple[str, ...]:
        """The columns that each hold something of one label, where there are such."""
        return self.label_columns or self.soft_label_columns

    def labels_of(self, table: Table) -> list[Sequence[Any]]:
        """The cells of every column of labels, each `[rows]`; none for a column that the table does not have."""
        return [table.column(name) for name in self.several or (self.label,) if name in table.columns]


def find_columns(source: Source, config: DataConfig, table: Table) -> Columns:
    """The columns asked for, or the obvious ones.

    Raises:
        DataError: a column that is not there, or none that is obvious; lists the columns and names the flag.
    """
    by_name = by_clean_name(table.columns)
    pair_asked = source.text_pair or config.text_pair
    text = _asked(source.text or config.text, table, "--text")
    pair = _asked(pair_asked, table, "--text-pair")
    one = source.label is not None  # a column of this source's own
    shares = (
        () if one else tuple(column_named(name, table, "data.soft_label_columns") for name in config.soft_label_columns)
    )
    several = () if one else tuple(column_named(name, table, "--label") for name in config.label_columns)
    label = _asked(next(iter(several or shares), source.label or config.label), table, "--label")
    if text is None and pair is None:
        text, pair = _obvious_text(by_name, label)
    elif text is None:
        text = next((by_name[one] for one, two in PAIR_NAMES if by_name.get(two) == pair and one in by_name), None)
    if label is None:
        label = obvious_column(LABEL_NAMES, table.columns, without=(text, pair))
    rest = [column for column in table.columns if column not in (text, pair, label, *several, *shares)]
    if len(rest) == 1 and (text is None) != (label is None):  # two columns, and one of them is known
        text, label = (text or rest[0]), (label or rest[0])
    for column, flag, what in ((text, "--text", "text"), (label, "--label", "label")):
        if column is None:
            raise DataError(
                f"which column holds the {what}? Say it with {flag}; there are: {shown(table.columns)}"
                + (_flag_columns_hint(table, rest) if what == "label" else "")
                + _layout_hint(table),
                file=table.name,
            )
    return Columns(str(text), pair, str(label), several, shares)


def named_splits(source: Source, data: Any = None, options: TableOptions | None = None) -> dict[str, Table]:
    """`train`, `validation` and `test` tables of a source; an unsplit one is `train`.

    A folder holds files or folders named for the splits (`train.csv`, `test-001.parquet`, `reviews_dev.csv`, `train/`),
    or files that all belong to one table. The rows of several files are numbered through, in the order of their names.

    Args:
        data: a pandas or polars DataFrame, `datasets.Dataset` or `DatasetDict`, list of dicts, or a dict of those by
            split.
        options: how files are read.

    Raises:
        DataError: nothing there, or nothing that can be read.
    """
    options = options or TableOptions()
    path = Path(source.path).expanduser()
    is_file = data is None and (path.exists() or path.suffix.lower() in SUFFIXES)
    if not is_file and options != TableOptions():
        raise DataError("--encoding, --separator and --no-header are for files: leave them out", file=source.path)
    if data is not None:
        return splits_in_memory(data, source.path)
    if path.is_dir():
        return _splits_of_folder(path, options)
    if path.is_file() or path.suffix.lower() in SUFFIXES:
        return {"train": read_table(path, options)}
    if path.exists() or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?(@[\w./-]+)?(#.+)?", source.path):
        raise DataError(f"no table: give a {', '.join(SUFFIXES)} file or a Hub dataset id", file=source.path)
    return splits_in_memory(_from_hub(source.path), source.path)


def _asked(name: str | None, table: Table, flag: str) -> str | None:
    return column_named(name, table, flag) if name is not None else None


def column_named(name: str, table: Table, flag: str) -> str:
    """The column that a person means by a name.

    Raises:
        DataError: there is none; lists the columns.
    """
    column = matching_column(name, table.columns)
    if column is None:
        parts = [part.strip() for part in name.split(",")]
        hint = ""
        if flag == "--label" and len(parts) > 1 and all(matching_column(part, table.columns) for part in parts):
            hint = f". For several label columns repeat the flag: {' '.join(f'--label {part}' for part in parts)}"
        raise DataError(
            f"there is no column {name!r} ({flag}); there are: {shown(table.columns)}{hint}",
            file=table.name,
            column=name,
        )
    return column


def _flag_columns_hint(table: Table, columns: Sequence[str]) -> str:
    """The flags for columns of zeros and ones, where there are several."""
    found = []
    for name in columns:
        head = [cell for cell in table.column(name)[:ROWS_FOR_HINT] if not is_missing(cell)]
        if head and all(flag_of(cell) is not None for cell in head):
            found.append(name)
    if len(found) < 2:
        return ""
    flags = " ".join(f"--label {shlex.quote(name)}" for name in found)
    return f". {len(found)} columns hold zeros and ones: if each says whether one label holds, say {flags}"


def _layout_hint(table: Table) -> str:
    """What to say where the columns of a CSV or TSV file may have been read wrongly."""
    table_format = format_of(table.name)
    if table_format is None or "separator" not in table_format.options:
        return ""
    if len(table.columns) == 1:
        return ". This is the only column: if the table has more, name the mark between them with --separator"
    return (
        "; if the first row is no header, say --no-header"
        if any("--no-header" in one for one in table.warnings)
        else ""
    )


def _obvious_text(by_name: Mapping[str, str], label: str | None) -> tuple[str | None, str | None]:
    for one, two in PAIR_NAMES:
        if one in by_name and two in by_name and label not in (by_name[one], by_name[two]):
            return by_name[one], by_name[two]
    return obvious_column(TEXT_NAMES, by_name.values(), without=(label,)), None


def _splits_of_folder(folder: Path, options: TableOptions) -> dict[str, Table]:
    files: dict[str, list[Path]] = {}
    for file in _tables_in(folder):
        words = re.split(r"[-_.\s]+", file.stem.lower())
        split = SPLIT_NAMES.get(words[0]) or SPLIT_NAMES.get(words[-1])
        if split is not None:
            files.setdefault(split, []).append(file)
    for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
        if inner.name.lower() in SPLIT_NAMES:
            files.setdefault(SPLIT_NAMES[inner.name.lower()], []).extend(_tables_in(inner))
    if not files:
        files["train"] = _tables_in(folder)
    if not files.get("train"):
        raise DataError(f"this folder holds no tables ({', '.join(SUFFIXES)}) to train on", file=str(folder))
    order = sorted(files, key=lambda split: split != "train")  # the training rows say how the others are read
    return {
        split: _one_table(folder, [read_table(file, options) for file in files[split]])
        for split in order
        if files[split]
    }


def _tables_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.is_file() and file.suffix.lower() in SUFFIXES)


def _one_table(folder: Path, parts: list[Table]) -> Table:
    first = parts[0]
    if len(parts) == 1:
        return first
    for part in parts:
        if set(part.columns) != set(first.columns):
            raise DataError(
                f"the files of this folder have different columns: {Path(first.name).name} has {shown(first.columns)}, "
                f"and {Path(part.name).name} has {shown(part.columns)}",
                file=str(folder),
            )
    notes = ", ".join(dict.fromkeys(part.note for part in parts if part.note))
    warnings = tuple(f"{Path(part.name).name}: {warning}" for part in parts for warning in part.warnings)
    return Table(
        first.columns,
        Records.joined([cast(Records, part.rows) for part in parts]),
        str(folder),
        notes or None,
        warnings,
    )


def _from_hub(name: str) -> Any:
    import datasets

    spec, _, split = name.partition("#")
    spec, _, revision = spec.partition("@")
    repo, _, config = spec.partition(":")
    try:
        return datasets.load_dataset(repo, config or None, revision=revision or None, split=split or None)
    except (
        Exception
    ) as error:  # datasets raises a dozen unrelated kinds here, ConnectionError and ValueError among them
        first = " ".join(str(error).split())[:300]
        raise DataError(
            f"neither a file here nor a dataset that the Hub gives now ({type(error).__name__}: {first})", file=name
        ) from error

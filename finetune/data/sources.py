"""Read the tables of a source (file, folder, Hub dataset, or in memory), and find their text and label columns."""

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
from finetune.core.tables.formats import SUFFIXES, format_of, listed
from finetune.core.tables.joined_texts import joined, joined_cells, recorded_columns
from finetune.core.tables.options import TableOptions
from finetune.core.tables.table import Table
from finetune.core.tables.text_file import stem_of, suffix_of
from finetune.data.label_cells import flag_of
from finetune.data.tables_in_memory import SPLIT_NAMES, splits_in_memory
from finetune.data.text_cells import check_text

ROWS_FOR_HINT = 200
"""Number of rows in which columns of zeros and ones are detected."""

PAIR_NAMES = (
    ("text", "text_pair"),
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("sentence_1", "sentence_2"),
    ("question1", "question2"),
    ("text_a", "text_b"),
    ("text1", "text2"),
)


def table_options(source: Source, config: DataConfig) -> TableOptions:
    """Return the options with which the files of a source are read."""
    return TableOptions(
        source.encoding or config.encoding,
        source.separator or config.separator,
        config.header if source.header is None else source.header,
        source.sheet or config.sheet,
    )


@dataclass(frozen=True)
class Columns:
    """The columns that hold the text, the second text of a pair if there is one, and the label.

    Attributes:
        text_columns: those whose texts are joined; `text` is then the joined text of a header.
    """

    text: str
    text_pair: str | None
    label: str
    label_columns: tuple[str, ...] = ()
    soft_label_columns: tuple[str, ...] = ()
    text_columns: tuple[str, ...] = ()

    def __str__(self) -> str:
        pair = f" + {self.text_pair!r}" if self.text_pair else ""
        text = " and ".join(map(repr, self.text_columns or (self.text,))) + pair
        if self.several:
            return f"text {text}, labels {shown([repr(name) for name in self.several])}"
        return f"text {text}, label {self.label!r}"

    def texts_of(self, table: Table) -> Sequence[Any]:
        """Return the cells of the text column, or the joined texts of several `[rows]`."""
        return joined_cells(table, self.text_columns, check_text) if self.text_columns else table.column(self.text)

    @property
    def several(self) -> tuple[str, ...]:
        """The columns that each belong to one label; empty if there is one label column."""
        return self.label_columns or self.soft_label_columns

    def labels_of(self, table: Table) -> list[Sequence[Any]]:
        """Return the cells of each label column that the table has, each `[rows]`."""
        return [table.column(name) for name in self.several or (self.label,) if name in table.columns]


def find_columns(source: Source, config: DataConfig, table: Table, recorded: Sequence[str] = ()) -> Columns:
    """Return the configured columns, or those with obvious names.

    Args:
        recorded: columns whose joined texts a model was trained on; used where no text column is configured.

    Raises:
        DataError: there is no such column, or none with an obvious name; lists the columns and names the flag.
    """
    others = tuple(matching_column(name, table.columns) for name in (config.group, config.weight) if name is not None)
    by_name = {name: column for name, column in by_clean_name(table.columns).items() if column not in others}
    text = _configured(source.text or config.text, table, "--text")
    joins = _columns_to_join(config, table, recorded) if text is None else ()
    text = joined(joins) if joins else text
    pair = _configured(source.text_pair or config.text_pair, table, "--text-pair")
    indicators: tuple[str, ...] = ()
    soft: tuple[str, ...] = ()
    if source.label is None:  # a label column of the source itself replaces them
        indicators = tuple(column_named(name, table, "--label") for name in config.label_columns)
        soft = tuple(column_named(name, table, "data.soft_label_columns") for name in config.soft_label_columns)
    label = _configured(next(iter(indicators or soft), source.label or config.label), table, "--label")
    if text is None and pair is None:
        text, pair = _obvious_text(by_name, label)
    elif text is None:
        text = next(
            (by_name[first] for first, second in PAIR_NAMES if by_name.get(second) == pair and first in by_name), None
        )
    if label is None:
        label = obvious_column(LABEL_NAMES, table.columns, without=(text, pair, *joins, *others))
    known = (text, *joins, pair, label, *others, *indicators, *soft)
    rest = [column for column in table.columns if column not in known]
    if len(rest) == 1 and (text is None) != (label is None):  # of two columns, one is known
        text, label = (text or rest[0]), (label or rest[0])
    for column, flag, what in ((text, "--text", "text"), (label, "--label", "label")):
        if column is None:
            raise DataError(
                f"the {what} column cannot be detected: name it with {flag}; there are: {shown(table.columns)}"
                + (_flag_columns_hint(table, rest) if what == "label" else "")
                + _layout_hint(table),
                file=table.name,
            )
    return Columns(str(text), pair, str(label), indicators, soft, joins)


def named_splits(source: Source, data: Any = None, options: TableOptions | None = None) -> dict[str, Table]:
    """Return the `train`, `validation` and `test` tables of a source; one without splits is `train`.

    A folder has files or folders named after splits (`train.csv`, `test-001.parquet`, `reviews_dev.csv`, `train/`), or
    files of one table. Rows of several files are numbered consecutively, in the order of the files' names.

    Args:
        data: a pandas or polars DataFrame, `datasets.Dataset` or `DatasetDict`, list of dicts, or a dict of those by
            split.
        options: how files are read.

    Raises:
        DataError: there is no such source, or it cannot be read.
    """
    options = options or TableOptions()
    path = Path(source.path).expanduser()
    is_file = data is None and (path.exists() or suffix_of(path) in SUFFIXES)
    if not is_file and options != TableOptions():
        raise DataError(
            "--encoding, --separator, --no-header and --sheet apply to files only: remove them", file=source.path
        )
    if data is not None:
        return splits_in_memory(data, source.path)
    if path.is_dir():
        return _splits_of_folder(path, options)
    if path.is_file() or suffix_of(path) in SUFFIXES:
        return {"train": read_table(path, options)}
    if path.exists() or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?(@[\w./-]+)?(#.+)?", source.path):
        raise DataError(f"this is not a table: give a {listed(SUFFIXES)} file or a Hub dataset id", file=source.path)
    return splits_in_memory(_from_hub(source.path), source.path)


def _columns_to_join(config: DataConfig, table: Table, recorded: Sequence[str]) -> tuple[str, ...]:
    joins = tuple(column_named(name, table, "--text") for name in config.text_columns)
    return joins or recorded_columns(recorded, table.columns, table.name)


def _configured(name: str | None, table: Table, flag: str) -> str | None:
    return column_named(name, table, flag) if name is not None else None


def column_named(name: str, table: Table, flag: str) -> str:
    """Return the column with a name, ignoring differences that matching_column ignores.

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
    """Return the flags for indicator columns, if there are several."""
    names = []
    for name in columns:
        head = [cell for cell in table.column(name)[:ROWS_FOR_HINT] if not is_missing(cell)]
        if head and all(flag_of(cell) is not None for cell in head):
            names.append(name)
    if len(names) < 2:
        return ""
    flags = " ".join(f"--label {shlex.quote(name)}" for name in names)
    return f". {len(names)} columns hold zeros and ones: if each is the indicator of one label, pass {flags}"


def _layout_hint(table: Table) -> str:
    """Return a hint for a file with separators whose columns may have been read with the wrong options."""
    table_format = format_of(table.name)
    if table_format is None or "separator" not in table_format.options:
        return ""
    if len(table.columns) == 1:
        return ". This is the only column: if the table has more, name the character between them with --separator"
    is_doubtful = any("--no-header" in warning for warning in table.warnings)
    return "; if the first row is not a header, pass --no-header" if is_doubtful else ""


def _obvious_text(by_name: Mapping[str, str], label: str | None) -> tuple[str | None, str | None]:
    for first, second in PAIR_NAMES:
        if first in by_name and second in by_name and label not in (by_name[first], by_name[second]):
            return by_name[first], by_name[second]
    return obvious_column(TEXT_NAMES, by_name.values(), without=(label,)), None


def _splits_of_folder(folder: Path, options: TableOptions) -> dict[str, Table]:
    files: dict[str, list[Path]] = {}
    for file in _tables_in(folder):
        words = re.split(r"[-_.\s]+", stem_of(file).lower())
        split = SPLIT_NAMES.get(words[0]) or SPLIT_NAMES.get(words[-1])
        if split is not None:
            files.setdefault(split, []).append(file)
    for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
        if inner.name.lower() in SPLIT_NAMES:
            files.setdefault(SPLIT_NAMES[inner.name.lower()], []).extend(_tables_in(inner))
    if not files:
        files["train"] = _tables_in(folder)
    if not files.get("train"):
        raise DataError(f"this folder has no tables ({listed(SUFFIXES)}) to train on", file=str(folder))
    order = sorted(files, key=lambda split: split != "train")  # the training files come first
    return {
        split: _one_table(folder, [read_table(file, options) for file in files[split]])
        for split in order
        if files[split]
    }


def _tables_in(folder: Path) -> list[Path]:
    """Return the tables of a folder; JSON beside tables of other formats describes them, as `datasets` writes it."""
    files = sorted(file for file in folder.iterdir() if file.is_file() and suffix_of(file) in SUFFIXES)
    files = [file for file in files if not file.name.startswith((".", "~$"))]  # Excel locks a workbook by ~$name.xlsx
    return [file for file in files if suffix_of(file) != ".json"] or files


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
    except Exception as error:  # datasets raises many unrelated types, such as ConnectionError and ValueError
        first = " ".join(str(error).split())[:300]
        raise DataError(
            f"there is no such file, and the dataset cannot be loaded from the Hub ({type(error).__name__}: {first})",
            file=name,
        ) from error

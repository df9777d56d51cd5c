"""Files of one text a line, read as a table with the single column `text`; they can be scored and not trained on."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from finetune.core.errors import DataError
from finetune.core.tables.options import TableOptions
from finetune.core.tables.table import Row, TableStream
from finetune.core.tables.table_format import TableFormat
from finetune.core.tables.text_encoding import encoding_of
from finetune.core.tables.text_file import TextFile

COLUMN = "text"

SAMPLE_LINES = 50
"""Lines that are searched for the columns of a table."""


def stream(file: Path, chunk_rows: int, options: TableOptions) -> TableStream:
    """Return the lines that are not blank, in chunks.

    Raises:
        DataError: the file holds no text, or its lines look like rows of a table.
    """
    import pyarrow

    source = TextFile(file)
    encoding, note = encoding_of(source, options.encoding)
    count = blank_count = 0
    first: list[str] = []
    for line in _lines(source, encoding):
        is_blank = not line.strip()
        count, blank_count = count + (not is_blank), blank_count + is_blank
        if not is_blank and len(first) < SAMPLE_LINES:
            first.append(line)
    if not count:
        raise DataError("the file holds no text", file=str(file))
    _check_is_no_table(first, source)
    skipped = f", {blank_count} blank lines skipped" if blank_count else ""
    lines_read = [0]

    def chunks() -> Iterator[list[Row]]:
        texts = (line for line in _lines(source, encoding) if line.strip())
        while chunk := [{COLUMN: text} for text in islice(texts, chunk_rows)]:
            lines_read[0] += len(chunk)
            yield chunk

    notes = ", ".join(filter(None, [f"one text a line: {count} texts{skipped}", note]))
    return TableStream(str(file), {COLUMN: pyarrow.string()}, chunks(), lambda: lines_read[0] / count, notes)


def _check_is_no_table(lines: list[str], file: TextFile) -> None:
    tab_counts = {line.count("\t") for line in lines}
    if len(lines) > 1 and len(tab_counts) == 1 and tab_counts != {0}:
        raise DataError(
            f"each line holds tabs, as a table does, and a {file.suffix} file is read as one text a line. "
            "Rename it to .tsv, with the names of its columns in the first line",
            file=str(file),
        )


def _lines(file: TextFile, encoding: str) -> Iterator[str]:
    with file.opened(encoding, newline="\n") as stream:
        for line in stream:
            yield line.rstrip("\r\n")


TEXT_LINES = TableFormat("Text lines", stream, options=frozenset({"encoding"}), has_columns=False)

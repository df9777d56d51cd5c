"""The list of table formats: every format on it is read, streamed and written alike."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow
import pytest

from finetune.core.errors import DataError
from finetune.core.tables.files import open_writer, read_table, stream_table, write_table
from finetune.core.tables.formats import FORMATS, OUTPUT_NAMES, OUTPUT_SUFFIXES, SUFFIXES, TEXT_SUFFIXES

pytestmark = pytest.mark.fast

ROWS: list[dict[str, Any]] = [{"text": f"text {number}", "label": "np"[number % 2]} for number in range(7)]
TYPES: Mapping[str, pyarrow.DataType] = {"text": pyarrow.string(), "label": pyarrow.string()}


@pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES)
def test_chunks_that_are_written_are_the_rows_that_are_read_and_streamed(tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"t{suffix}"
    writer = open_writer(out, TYPES)
    writer.write(ROWS[:4])
    writer.write(ROWS[4:])
    assert not out.exists() and writer.size() > 0
    writer.finish()
    assert [file.name for file in tmp_path.iterdir()] == [out.name]
    assert read_table(out).rows == ROWS and read_table(out).columns == ["text", "label"]
    stream = stream_table(out, 3)
    assert list(stream.chunks) == [ROWS[:3], ROWS[3:6], ROWS[6:]]
    assert (stream.columns, stream.fraction_read()) == (["text", "label"], 1.0)


@pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES)
def test_an_output_continues_from_its_last_mark(tmp_path: Path, suffix: str) -> None:
    out, whole = tmp_path / f"t{suffix}", tmp_path / f"whole{suffix}"
    writer = open_writer(out, TYPES)
    writer.write(ROWS[:2])
    mark = writer.mark()
    writer.write(ROWS[2:5])
    writer.close()
    again = open_writer(out, TYPES)
    again.resume(mark)
    again.write(ROWS[2:])
    again.finish()
    uninterrupted = open_writer(whole, TYPES)
    uninterrupted.write(ROWS[:2])
    uninterrupted.write(ROWS[2:])
    uninterrupted.finish()
    assert out.read_bytes() == whole.read_bytes() and read_table(out).rows == ROWS


@pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES)
def test_a_mark_whose_chunks_are_gone_is_refused_and_a_discarded_output_leaves_nothing(
    tmp_path: Path, suffix: str
) -> None:
    writer = open_writer(tmp_path / f"t{suffix}", TYPES)
    writer.write(ROWS)
    mark = writer.mark()
    writer.discard()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        open_writer(tmp_path / f"t{suffix}", TYPES).resume(mark)


@pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES)
def test_mixed_cells_rows_without_a_key_and_no_rows_are_written(tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"t{suffix}"
    write_table(out, [{"text": "a", "n": 1}, {"text": "b", "n": [2]}, {"text": "c", "late": "\ud800"}])
    rows = read_table(out).rows
    assert [str(row["n"] or "") for row in rows] == ["1", "[2]", ""] and rows[2]["late"] == "?"
    write_table(out, [])
    with pytest.raises(DataError, match=r"no rows|is empty"):
        read_table(out)


def test_a_list_of_texts_is_read_where_it_is_accepted_and_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("one\n\ntwo\n")
    table = read_table(tmp_path / "t.txt", suffixes=FORMATS)
    assert table.rows == [{"text": "one"}, {"text": "two"}] and list(table.column("text")) == ["one", "two"]
    assert table.note == "one text a line: 2 texts, 1 blank lines skipped"
    for refused in (lambda: read_table(tmp_path / "t.txt"), lambda: open_writer(tmp_path / "t.txt", TYPES)):
        with pytest.raises(DataError, match=r"unknown table format '\.txt': use one of \.csv"):
            refused()


def test_every_suffix_is_a_table_or_a_list_of_texts() -> None:
    assert {*SUFFIXES} | {*TEXT_SUFFIXES} == {*FORMATS} and not {*SUFFIXES} & {*TEXT_SUFFIXES}
    assert {"CSV": ".csv", "JSON Lines": ".jsonl", "Parquet": ".parquet"}.items() <= OUTPUT_NAMES.items()

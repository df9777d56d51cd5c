"""The inputs of a job on several machines: which files, in which order, and how they are cut."""

from __future__ import annotations

import uuid

import fsspec
import pyarrow
import pyarrow.parquet
import pytest

from finetune.core.errors import DataError
from finetune.core.tables.files import read_table, write_table
from service.batch import parts
from service.batch.parts import local_file, parts_of
from service.errors import BadRequest


def write(path, rows, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table({"text": [f"text {row}" for row in rows]}), path, **options)


def texts_of(part):
    with local_file(part) as file:
        return [row["text"] for row in read_table(file).rows]


def test_a_folder_is_read_in_the_order_of_names_without_what_is_no_data(tmp_path):
    write(tmp_path / "b" / "10.parquet", range(4, 6))
    write(tmp_path / "a.parquet", range(3))
    write_table(tmp_path / "c.csv", [{"text": "text 6"}])
    write(tmp_path / "empty.parquet", [])
    for name in ("_SUCCESS", ".a.parquet.crc", "b/_metadata"):
        (tmp_path / name).write_text("no table")
    found = parts_of(str(tmp_path))
    assert [part.number for part in found] == [0, 1, 2]
    assert [text for part in found for text in texts_of(part)] == [f"text {row}" for row in (0, 1, 2, 4, 5, 6)]
    assert [part.address for part in parts_of(f"{tmp_path}/*.parquet")] == [f"file://{tmp_path}/a.parquet"]


def test_a_large_parquet_file_is_cut_between_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "PART_ROWS", 25)
    write(tmp_path / "a.parquet", range(95), row_group_size=10)
    found = parts_of(f"file://{tmp_path}/a.parquet")
    assert [part.row_groups for part in found] == [(0, 1, 2), (3, 4, 5), (6, 7, 8), (9,)]
    assert [text for part in found for text in texts_of(part)] == [f"text {row}" for row in range(95)]


def test_files_of_another_file_system_are_copied_and_the_copies_deleted(tmp_path):
    root = f"memory://{uuid.uuid4().hex}"
    write(tmp_path / "a.parquet", range(3))
    with fsspec.open(f"{root}/in/a.parquet", "wb") as stream:
        stream.write((tmp_path / "a.parquet").read_bytes())
    (part,) = parts_of(f"{root}/in/*.parquet")
    with local_file(part) as file:
        assert read_table(file).rows[2]["text"] == "text 2"
    assert not file.exists()


def test_a_changed_file_is_another_part(tmp_path):
    write_table(tmp_path / "a.csv", [{"text": "one"}])
    (before,) = parts_of(str(tmp_path / "a.csv"))
    assert parts_of(str(tmp_path / "a.csv")) == [before]
    write_table(tmp_path / "a.csv", [{"text": "three"}])
    assert parts_of(str(tmp_path / "a.csv")) != [before]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("notes.docx", "cannot be read: name the files with a pattern"),
        ("lang=en/a.csv", "columns in names of folders are not read"),
    ],
)
def test_a_folder_that_would_lose_rows_or_columns_is_refused(tmp_path, name, words):
    write_table(tmp_path / "a.csv", [{"text": "one"}])
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("text\none\n")
    with pytest.raises(BadRequest, match=words):
        parts_of(str(tmp_path))


def test_nothing_to_read_is_said(tmp_path):
    for source in (tmp_path / "none.csv", tmp_path, f"{tmp_path}/*.csv"):
        with pytest.raises(BadRequest, match="there is no such file"):
            parts_of(str(source))
    write(tmp_path / "empty.parquet", [])
    with pytest.raises(BadRequest, match="hold no rows"):
        parts_of(str(tmp_path))
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"not a readable Parquet file.*|cut\.parquet"):
        parts_of(str(tmp_path))
    with pytest.raises(BadRequest, match="nowhere://a cannot be opened"):
        parts_of("nowhere://a")

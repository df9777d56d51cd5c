"""Text tables in gzip and zstd: the same rows, limited in what they unpack to, and written as one stream."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest

from finetune.core.errors import DataError
from finetune.core.tables import text_file
from finetune.core.tables.files import open_writer, read_table, stream_table, write_table
from finetune.core.tables.formats import FORMATS
from finetune.core.tables.options import TableOptions
from finetune.core.tables.text_file import stem_of, suffix_of

pytestmark = pytest.mark.fast

Pack = Callable[[bytes], bytes]
PACKINGS: dict[str, Pack] = {
    ".gz": gzip.compress,
    ".zst": lambda content: bytes(pyarrow.Codec("zstd").compress(content, asbytes=True)),
}
ROWS = [{"text": f"text {number}", "label": f"0{number % 2}"} for number in range(5000)]
LINES = "text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in ROWS)


@pytest.fixture(params=PACKINGS)
def packed(request: pytest.FixtureRequest) -> tuple[str, Pack]:
    return request.param, PACKINGS[request.param]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp1251"])
def test_encoding_and_separator_are_detected_in_packed_files(
    tmp_path: Path, packed: tuple[str, Pack], encoding: str
) -> None:
    suffix, pack = packed
    content = 'текст;label\n"Этот суп; был\nхолодный";0\n' + "Спасибо за быструю доставку;01\n" * 40
    (tmp_path / f"T.CSV{suffix.upper()}").write_bytes(pack(content.encode(encoding)))
    (tmp_path / "t.csv").write_bytes(content.encode(encoding))
    plain, read = read_table(tmp_path / "t.csv"), read_table(tmp_path / f"T.CSV{suffix.upper()}")
    assert (read.rows, read.columns, read.note, read.warnings) == (
        plain.rows,
        plain.columns,
        plain.note,
        plain.warnings,
    )
    assert len(read.rows) == 41 and read.rows[0]["текст"] == "Этот суп; был\nхолодный"


def test_streams_one_after_the_other_are_one_file(tmp_path: Path, packed: tuple[str, Pack]) -> None:
    suffix, pack = packed
    file = tmp_path / f"t.csv{suffix}"
    file.write_bytes(pack(LINES[:20_000].encode()) + pack(LINES[20_000:].encode()))
    stream = stream_table(file, 1000)
    assert [row for chunk in stream.chunks for row in chunk] == ROWS and stream.fraction_read() == 1.0


def test_damage_and_other_content_are_refused(tmp_path: Path, packed: tuple[str, Pack]) -> None:
    suffix, pack = packed
    file, whole = tmp_path / f"t.csv{suffix}", pack(LINES.encode())
    for content, reason in (
        (whole[:-20], "damaged or incomplete"),
        (whole[:2000] + b"\0\1\2\3" + whole[2004:], "damaged or incomplete"),
        (LINES.encode(), "compressed, as its name says: rename it to t.csv"),
        (pack(b""), "the file is empty"),
        (pack(b"PAR1"), "a Parquet file"),
    ):
        file.write_bytes(content)
        with pytest.raises(DataError, match=rf"t\.csv{suffix}: .*{reason}"):
            read_table(file)


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.json", "t.txt"])
def test_a_file_that_unpacks_to_far_more_than_texts_do_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: tuple[str, Pack], name: str
) -> None:
    suffix, pack = packed
    monkeypatch.setattr(text_file, "UNCHECKED_BYTES", 1 << 18)
    (tmp_path / f"{name}{suffix}").write_bytes(pack(b"a,b\n" * (1 << 18)))
    with pytest.raises(DataError, match="unpacks to more than 100 times its size"):
        stream_table(tmp_path / f"{name}{suffix}", 10, suffixes=FORMATS)


def test_an_output_is_packed_as_a_single_stream_also_after_an_interruption(
    tmp_path: Path, packed: tuple[str, Pack]
) -> None:
    suffix, _ = packed
    out, types = tmp_path / f"t.csv{suffix}", {"text": pyarrow.string(), "label": pyarrow.string()}
    writer = open_writer(out, types)
    writer.write(ROWS[:3000])
    mark = writer.mark()
    writer.write(ROWS[:1000])
    writer.close()
    writer = open_writer(out, types)
    writer.resume(mark)
    writer.write(ROWS[3000:])
    writer.finish()
    assert read_table(out).rows == ROWS and [file.name for file in tmp_path.iterdir()] == [out.name]
    first = {".gz": b"\x1f\x8b\x08", ".zst": b"\x28\xb5\x2f\xfd"}[suffix]
    assert out.read_bytes().count(first) == 1 and out.stat().st_size < len(LINES) / 3


def test_a_packed_tsv_has_tabs(tmp_path: Path) -> None:
    write_table(tmp_path / "t.tsv.gz", ROWS[:2])
    assert gzip.decompress((tmp_path / "t.tsv.gz").read_bytes()) == b"text\tlabel\r\ntext 0\t00\r\ntext 1\t01\r\n"


def test_options_of_the_text_hold_for_the_packed_file(tmp_path: Path) -> None:
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(LINES.encode()))
    table = read_table(tmp_path / "t.csv.gz", TableOptions(header=False, separator=","))
    assert table.columns == ["column_1", "column_2"] and len(table.rows) == 5001
    with pytest.raises(DataError, match=r"--sheet is for \.xlsx, \.xls files, and this is a \.csv\.gz file"):
        read_table(tmp_path / "t.csv.gz", TableOptions(sheet="1"))


@pytest.mark.parametrize(
    ("name", "suffix", "stem"),
    [
        ("a.CSV.GZ", ".csv.gz", "a"),
        ("a.b.jsonl.zst", ".jsonl.zst", "a.b"),
        ("отзывы (1).csv", ".csv", "отзывы (1)"),
        ("a.gz", ".gz", "a"),
        (".csv", "", ".csv"),
        ("a", "", "a"),
    ],
)
def test_a_packed_files_suffix_has_two_parts(name: str, suffix: str, stem: str) -> None:
    assert (suffix_of(f"/x.y/{name}"), stem_of(f"/x.y/{name}")) == (suffix, stem)

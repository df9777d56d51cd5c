"""Arrow files and streams: types are kept, and what would not fit into memory is refused before it is unpacked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from finetune.core.errors import DataError
from finetune.core.tables import arrow_ipc
from finetune.core.tables.arrow_messages import unpacked_sizes
from finetune.core.tables.files import read_table, stream_table, write_table

pytestmark = pytest.mark.fast

TABLE = pa.table(
    {"text": [f"text {number}" for number in range(10)], "label": pa.array(["a", None] * 5).dictionary_encode()}
)
ROWS = [{"text": f"text {number}", "label": [None, "a"][number % 2 == 0]} for number in range(10)]


def written(path: Path, table: pa.Table, kind: str = "file", compression: str | None = None, rows: int = 4) -> Path:
    options = pa.ipc.IpcWriteOptions(compression=compression)
    opened = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream
    with pa.OSFile(str(path), "wb") as out, opened(out, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=rows)
    return path


@pytest.mark.parametrize("kind", ["file", "stream"])
@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
def test_files_and_streams_are_read_in_chunks(tmp_path: Path, kind: str, compression: str | None) -> None:
    file = written(tmp_path / "t.ARROW", TABLE, kind, compression)
    assert read_table(file).rows == ROWS
    stream = stream_table(file, 3)
    assert list(stream.chunks) == [ROWS[:3], ROWS[3:6], ROWS[6:9], ROWS[9:]] and stream.fraction_read() == 1.0


def test_a_feather_file_of_pandas_and_a_stream_of_datasets_are_read(tmp_path: Path) -> None:
    import datasets
    import pandas as pd

    frame = pd.DataFrame({"text": ["a", "b"], "label": [1, 2]})
    frame.to_feather(tmp_path / "t.feather")
    assert read_table(tmp_path / "t.feather").rows == [{"text": "a", "label": 1}, {"text": "b", "label": 2}]
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    made = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    made.save_to_disk(str(tmp_path / "saved"))
    [file] = (tmp_path / "saved").glob("*.arrow")
    assert [row["label"] for row in read_table(file).rows] == ["yes", "no"]


def test_what_is_written_is_read_by_pandas(tmp_path: Path) -> None:
    import pandas as pd

    write_table(tmp_path / "t.feather", [{"text": "a", "n": 1}, {"text": "b", "n": 2}])
    assert pd.read_feather(tmp_path / "t.feather").to_dict("list") == {"text": ["a", "b"], "n": [1, 2]}


@pytest.mark.parametrize("kind", ["file", "stream"])
def test_the_size_of_compressed_batches_is_known_before_they_are_unpacked(tmp_path: Path, kind: str) -> None:
    table = pa.table({"text": ["a" * 1000] * 1000, "n": [0.0] * 1000})
    plain = sum(unpacked_sizes(written(tmp_path / "p.arrow", table, kind, rows=500)))
    packed = list(unpacked_sizes(written(tmp_path / "t.arrow", table, kind, "zstd", rows=500)))
    assert len(packed) == 2 and min(packed) > 500_000 and sum(packed) == pytest.approx(plain, rel=0.01)


def test_batches_dictionaries_and_texts_that_would_not_fit_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrow_ipc, "MAX_UNPACKED_BYTES", 100_000)
    for kind in ("file", "stream"):
        for column in (pa.array(["a" * 1000] * 1000), pa.array(["a" * 200_000]).dictionary_encode()):
            file = written(tmp_path / "t.arrow", pa.table({"text": column}), kind, "zstd", rows=1000)
            for read in (read_table, lambda path: stream_table(path, 5)):
                with pytest.raises(DataError, match=r"has \d{6,7} bytes once unpacked.*smaller batches"):
                    read(file)


def test_texts_that_repeat_in_a_dictionary_are_limited_in_a_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetune.core.tables import arrow_batches

    monkeypatch.setattr(arrow_batches, "MAX_UNPACKED_BYTES", 100_000)
    repeated = pa.DictionaryArray.from_arrays(pa.array([0] * 500, pa.int8()), ["a" * 1000])
    file = written(tmp_path / "t.arrow", pa.table({"text": repeated}), rows=500)
    with pytest.raises(DataError, match="500 rows of this file hold 500000 bytes of text"):
        next(stream_table(file, 1000).chunks)
    assert len(next(stream_table(file, 90).chunks)) == 90


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (pa.array([["a"]], pa.list_(pa.dictionary(pa.int8(), pa.string()))), "list.* are not read"),
        (pa.RunEndEncodedArray.from_arrays([1], ["a"]), "run_end_encoded.* are not read"),
    ],
)
def test_types_of_unknown_size_are_refused(tmp_path: Path, column: Any, reason: str) -> None:
    with pytest.raises(DataError, match=rf"column 'x': columns of type {reason}"):
        read_table(written(tmp_path / "t.arrow", pa.table({"x": column})))


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    whole = written(tmp_path / "t.arrow", TABLE, "file", "zstd").read_bytes()
    for content, reason in (
        (b"FEA1" + whole, "Feather file of version 1"),
        (whole[:-30], "not a readable Arrow file"),
        (whole[: len(whole) // 2], "not a readable Arrow file"),
        (b"text,label\na,b\n", "not a readable Arrow file"),
        (b"ARROW1", "not a readable Arrow file"),
        (whole[:-10] + b"\xff\xff\xff\x7f" + whole[-6:], "not a readable Arrow file"),
        (whole[:-10] + b"\0\0\0\0" + whole[-6:], "not a readable Arrow file"),
    ):
        (tmp_path / "t.arrow").write_bytes(content)
        for read in (read_table, lambda path: stream_table(path, 5)):
            with pytest.raises(DataError, match=reason):
                read(tmp_path / "t.arrow")
    written(tmp_path / "t.arrow", TABLE.slice(0, 0))
    for read in (read_table, lambda path: stream_table(path, 5)):
        with pytest.raises(DataError, match="no rows"):
            read(tmp_path / "t.arrow")

"""Lists of JSON objects: read an object at a time, and refused with the row where they are something else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune.core.errors import DataError
from finetune.core.tables import json_array
from finetune.core.tables.files import read_table, stream_table

pytestmark = pytest.mark.fast

ROWS: list[dict[str, Any]] = [
    {"text": 'a \\" quote, [brackets] and {braces}', "label": None, "n": 1.5},
    {"text": "two\nlines\u2028", "label": "00123", "deep": {"list": [1, {"a": []}], "text": "]"}},
    {"text": "schön \U0001f600", "label": True},
] * 50


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("block", [1, 7, 1 << 18])
def test_objects_are_read_wherever_a_block_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, indent: int | None, encoding: str, block: int
) -> None:
    monkeypatch.setattr(json_array, "BLOCK_CHARACTERS", block)
    (tmp_path / "t.json").write_text(json.dumps(ROWS, indent=indent, ensure_ascii=False), encoding=encoding)
    stream = stream_table(tmp_path / "t.json", 40)
    assert stream.columns == ["text", "label", "n", "deep"]
    assert [row for chunk in stream.chunks for row in chunk] == ROWS and stream.fraction_read() == 1.0
    names = dict.fromkeys(stream.columns)
    assert list(read_table(tmp_path / "t.json").rows) == [names | row for row in ROWS]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"data": [{"text": "a"}]}', r"begins with '{'; with one object after the other, name it \.jsonl"),
        ('"text"', "begins with '\"'; pandas: orient='records'"),
        ("[1, 2]", "row 1: .*this element begins with '1'"),
        ('[{"a": 1}, [1]]', r"row 2: .*this element begins with '\['"),
        ('[{"a": 1}, {"a": }]', r"row 2: this element is not JSON \(Expecting value\)"),
        ('[{"a": 1}, {"a": 1', "row 2: this element is not JSON"),
        ('[{"a": 1} {"a": 2}]', "row 1: a comma should follow this element, not '{'"),
        ('[{"a": 1}', "row 1: a comma should follow this element, not ''"),
        ('[{"a": 1},]', "row 2: .*this element begins with ']'"),
        ('[{"a": 1}] [{"a": 2}]', r"the list ends before '\['"),
        ("[" + '{"a":' * 100_000, r"row 1: this element is not JSON"),
        ("[]", "the table has no rows"),
    ],
)
def test_what_is_no_list_of_objects_is_refused_with_its_row(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "t.json").write_text(content)
    for read in (read_table, lambda path: stream_table(path, 5)):
        with pytest.raises(DataError, match=rf"t\.json.*{reason}"):
            read(tmp_path / "t.json")


def test_an_object_that_is_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_array, "BLOCK_CHARACTERS", 10)
    monkeypatch.setattr(json_array, "MAX_OBJECT_CHARACTERS", 1000)
    (tmp_path / "t.json").write_text(json.dumps([{"text": "a"}, {"text": "a" * 5000}]))
    with pytest.raises(DataError, match="row 2: this element is not JSON"):
        read_table(tmp_path / "t.json")

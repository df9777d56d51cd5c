"""Tables in, scored tables out, and no file lost on the way."""

from __future__ import annotations

import json

import pytest

from finetune.errors import DataError
from finetune.spool import Cells
from finetune.tables import read_table, write_table
from service.errors import BadRequest
from service.files import score_table, table_among, texts_of
from service.schema import Answer, TextInput


def score(inputs):
    return [Answer(("long" if len(one.text) > 4 else "short",), (0.75,), False) for one in inputs]


def columns(answer):
    return {"label": answer.best.label, "score": answer.best.score}


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "in.csv"
    write_table(
        path, [{"id": f"00{n}", "text": text} for n, text in enumerate(["NA", 'a "quoted", one', "two\nlines"])]
    )
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_rows_keep_their_order_and_their_text_and_get_two_columns(table, tmp_path, suffix):
    out = tmp_path / f"out{suffix}"
    assert score_table(table, out, score, columns=columns) == ["label", "score"]
    rows = read_table(out).rows
    assert [row["text"] for row in rows] == ["NA", 'a "quoted", one', "two\nlines"] and rows[1]["id"] == "001"
    assert [row["label"] for row in rows] == ["short", "long", "long"] and float(rows[0]["score"]) == 0.75


def test_a_column_that_is_there_already_is_kept(tmp_path):
    write_table(tmp_path / "in.csv", [{"text": "a", "label": "gold", "predicted_label": "old"}])
    added = score_table(tmp_path / "in.csv", tmp_path / "out.csv", score, columns=columns)
    assert added == ["predicted_predicted_label", "score"]
    assert read_table(tmp_path / "out.csv").rows[0]["label"] == "gold"


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_table_is_read_a_part_at_a_time_and_not_once_a_cell(tmp_path, suffix, monkeypatch):
    rows = [{f"c{column}": str(row) for column in range(5)} | {"text": f"text {row}"} for row in range(600)]
    write_table(tmp_path / f"in{suffix}", rows)
    reads, read = [], Cells.read

    def counted(cells, places):
        reads.append(len(places))
        return read(cells, places)

    monkeypatch.setattr(Cells, "read", counted)
    score_table(tmp_path / f"in{suffix}", tmp_path / "out.csv", score, columns=columns)
    assert len(reads) < 20 and min(reads) == 600


def test_many_rows_are_scored_a_part_at_a_time(tmp_path):
    write_table(tmp_path / "in.jsonl", [{"text": f"text {n}"} for n in range(1200)])
    sizes, told = [], []

    def counted(inputs):
        sizes.append(len(inputs))
        return score(inputs)

    score_table(
        tmp_path / "in.jsonl", tmp_path / "out.jsonl", counted, columns=columns, progress=lambda *n: told.append(n)
    )
    assert sizes == [512, 512, 176] and told[-1] == (1200, 1200)


def test_the_output_appears_only_when_it_is_complete(table, tmp_path):
    out = tmp_path / "out.csv"
    out.write_text("earlier work")

    def fails(inputs):
        raise BadRequest("no")

    with pytest.raises(BadRequest, match=r"^no$"):
        score_table(table, out, fails, columns=columns, overwrite=True)
    assert out.read_text() == "earlier work" and sorted(path.name for path in tmp_path.iterdir()) == [
        "in.csv",
        "out.csv",
    ]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("out.txt", "suffix must be one of .csv, .tsv"),
        ("nowhere/out.csv", "there is no folder"),
        ("in.csv", "is the input itself"),
        ("taken.csv", "exists already: name another file, or pass --overwrite"),
        ("folder.csv", "is a folder"),
    ],
)
def test_an_output_that_would_cost_a_file_is_refused(table, tmp_path, name, sentence):
    (tmp_path / "taken.csv").write_text("x")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(BadRequest, match=sentence):
        score_table(table, tmp_path / name, score, columns=columns)
    assert (tmp_path / "taken.csv").read_text() == "x"


def test_overwriting_replaces_another_file_and_never_the_input(table, tmp_path):
    (tmp_path / "taken.csv").write_text("x")
    score_table(table, tmp_path / "taken.csv", score, columns=columns, overwrite=True)
    assert len(read_table(tmp_path / "taken.csv").rows) == 3
    (tmp_path / "link.csv").symlink_to(table)
    with pytest.raises(BadRequest, match="is the input itself"):
        score_table(table, tmp_path / "link.csv", score, columns=columns, overwrite=True)


def test_the_text_column_is_found_when_obvious_and_asked_for_when_not(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps({"Review": "a", "stars": "5"}))
    assert texts_of(read_table(path)) == [TextInput("a")]
    path.write_text(json.dumps({"one": "a", "two": "b"}))
    with pytest.raises(BadRequest, match="name the column that holds the text with --text; it has one, two"):
        texts_of(read_table(path))
    assert texts_of(read_table(path), "two", "one") == [TextInput("b", "a")]
    with pytest.raises(BadRequest, match="no column 'three': it has one, two"):
        texts_of(read_table(path), "three")
    with pytest.raises(BadRequest, match="no column 'three'"):
        texts_of(read_table(path), "two", "three")


@pytest.mark.parametrize(("cell", "what"), [(None, "empty"), (5, "int")])
def test_a_cell_that_holds_no_text_is_named(tmp_path, cell, what):
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps({"text": "a"}) + "\n" + json.dumps({"text": cell}))
    with pytest.raises(BadRequest, match=f"row 2, column 'text': a text is wanted, and this is {what}"):
        texts_of(read_table(path))


def test_a_single_argument_with_a_tables_suffix_is_a_file_and_must_exist(table):
    assert table_among([str(table)]) == table
    assert table_among(["a text"]) is None and table_among([str(table), "and a text"]) is None
    with pytest.raises(BadRequest, match=r"there is no file nowhere\.csv"):
        table_among(["nowhere.csv"])


def test_an_empty_table_is_refused(tmp_path):
    (tmp_path / "in.csv").write_text("text\n")
    with pytest.raises(DataError, match="no rows"):
        score_table(tmp_path / "in.csv", tmp_path / "out.csv", score, columns=columns)
    assert not (tmp_path / "out.csv").exists()

"""Scoring tables: any size and format, resumed after an interruption, and never at the cost of a file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pyarrow
import pyarrow.parquet
import pytest

from finetune.core.errors import DataError
from finetune.core.tables.csv_tsv import is_formula
from finetune.core.tables.files import read_table, stream_table, write_table
from finetune.core.tables.table import MAX_COLUMNS
from service import Classifier, ZeroShotClassifier, load
from service.batch.batch_scorer import RowScorer
from service.batch.output_file import check_output
from service.batch.score_table import score, write_scored
from service.batch.scoring_task import ScoringTask
from service.batch.text_columns import texts_of
from service.errors import BackendFailed, BadRequest
from service.schema import Answer, TextInput

TASK = ScoringTask(("long", "short"), "multiclass", "test")


def answers(inputs):
    return [Answer(("long", "short"), (0.75, 0.25) if len(item.text) > 4 else (0.25, 0.75), False) for item in inputs]


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "in.csv"
    texts = ["NA", 'a "quoted", one', "two\nlines"]
    write_table(path, [{"id": f"00{n}", "text": text} for n, text in enumerate(texts)])
    return path


def scored(source, out, task=TASK, answer=answers, *, text=None, text_pair=None, all_scores=False, **options):
    return write_scored(source, out, RowScorer(answer, task, text, text_pair, all_scores), **options)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet", ".json", ".feather", ".xlsx", ".jsonl.zst"])
@pytest.mark.parametrize("into", [".csv", ".tsv", ".jsonl", ".parquet", ".json", ".arrow", ".xlsx", ".csv.gz"])
def test_rows_keep_order_text_and_columns_whatever_the_formats(tmp_path, suffix, into):
    rows = [{"id": f"00{n}", "text": text} for n, text in enumerate(["NA", 'a "quoted", one', "two\nlines"])]
    write_table(tmp_path / f"in{suffix}", rows)
    result = scored(tmp_path / f"in{suffix}", tmp_path / f"out{into}")
    assert (result.rows, result.errors, result.columns) == (3, 0, ["prediction", "score", "error"])
    written = read_table(tmp_path / f"out{into}")
    assert written.columns == ["id", "text", "prediction", "score", "error"]
    assert [(row["id"], row["text"]) for row in written.rows] == [(row["id"], row["text"]) for row in rows]
    assert [row["prediction"] for row in written.rows] == ["short", "long", "long"]
    assert [float(row["score"]) for row in written.rows] == [0.75] * 3 and not any(row["error"] for row in written.rows)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"in{suffix}", f"out{into}"]


def test_the_answers_are_the_models(tmp_path, tiny_sentiment, tiny_topics):
    texts = [f"good film {n}" for n in range(9)]
    write_table(tmp_path / "in.csv", [{"text": text} for text in texts])
    score(tiny_sentiment, tmp_path / "in.csv", tmp_path / "out.parquet", all_scores=True)
    rows = read_table(tmp_path / "out.parquet").rows
    for row, answer in zip(rows, Classifier(tiny_sentiment)(texts, top_k=None), strict=True):
        assert row["prediction"] == answer[0]["label"] and row["score"] == pytest.approx(answer[0]["score"], abs=2e-6)
        for entry in answer:
            assert row[f"score_{entry['label']}"] == pytest.approx(entry["score"], abs=2e-6)
    score(
        load(tiny_topics), tmp_path / "in.csv", tmp_path / "topics.jsonl", labels=["sports", "food"], multi_label=True
    )
    expected = ZeroShotClassifier(tiny_topics)(texts, ["sports", "food"], multi_label=True)
    for row, answer in zip(read_table(tmp_path / "topics.jsonl").rows, expected, strict=True):
        labels = [label for label, value in zip(answer["labels"], answer["scores"], strict=True) if value >= 0.5]
        assert row["prediction"] == labels
    with pytest.raises(BadRequest, match="this is a zero-shot model and needs labels"):
        score(tiny_topics, tmp_path / "in.csv", tmp_path / "none.csv")


def test_a_row_that_cannot_be_scored_says_why_and_the_others_are(tmp_path):
    cells = ["good film", "", None, 5, "film", "   ", "poison"]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": cell}) + "\n" for cell in cells))

    def some_fail(inputs):
        if any(item.text == "poison" for item in inputs):
            raise BackendFailed("this one is no number")
        return answers(inputs)

    result = scored(tmp_path / "in.jsonl", tmp_path / "out.jsonl", answer=some_fail)
    rows = read_table(tmp_path / "out.jsonl").rows
    assert (result.rows, result.errors) == (7, 5)
    assert [row["prediction"] for row in rows] == ["long", None, None, None, "short", None, None]
    assert [row["error"] for row in rows] == [
        None,
        "column text: the text is empty",
        "column text: the cell is empty",
        "column text: the cell holds int, not text",
        None,
        "column text: the text is empty",
        "this one is no number",
    ]
    assert [row["text"] for row in rows] == cells


def test_where_all_fail_it_is_no_fault_of_the_rows(tmp_path):
    write_table(tmp_path / "in.csv", [{"text": f"text {n}"} for n in range(20)])

    def fails(inputs):
        raise BackendFailed("out of memory")

    with pytest.raises(BackendFailed, match="none of 20 rows could be scored .out of memory"):
        scored(tmp_path / "in.csv", tmp_path / "out.csv", answer=fails)
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


def test_a_number_and_several_labels_have_columns_of_their_own(tmp_path, table):
    number = ScoringTask(("stars",), "regression", "test")
    scored(table, tmp_path / "out.jsonl", number, lambda inputs: [Answer(("stars",), (3.25,), False)] * len(inputs))
    assert read_table(tmp_path / "out.jsonl").columns == ["id", "text", "prediction", "error"]
    assert read_table(tmp_path / "out.jsonl").rows[0]["prediction"] == 3.25
    several = ScoringTask(("a", "b", "c"), "multi_label", "test", {"a": 0.7, "c": 0.2})
    scored(
        table,
        tmp_path / "several.parquet",
        several,
        lambda inputs: [Answer(("a", "b", "c"), (0.6, 0.5, 0.3), False)] * len(inputs),
        all_scores=True,
    )
    row = read_table(tmp_path / "several.parquet").rows[0]
    assert row["prediction"] == ["b", "c"] and (row["score_a"], row["score_c"]) == (0.6, 0.3) and "score" not in row


def test_a_column_that_is_there_already_is_kept(tmp_path):
    write_table(tmp_path / "in.csv", [{"text": "a", "prediction": "gold", "predicted_prediction": "old"}])
    result = scored(tmp_path / "in.csv", tmp_path / "out.csv")
    assert result.columns == ["predicted_predicted_prediction", "score", "error"]
    row = read_table(tmp_path / "out.csv").rows[0]
    assert (row["prediction"], row["predicted_predicted_prediction"]) == ("gold", "short")


FORMULAS = ["=1+1", "+SUM(A1)", "-2+3", "@cmd", "\tx", "\r=x", '=HYPERLINK("http://x")']
PLAIN = ["-5", "+1.5e3", "-1,000", "a=b", "", "-5%", "text", "'=1"]


def test_cells_that_a_spreadsheet_would_run_are_neutralized(tmp_path):
    assert all(map(is_formula, FORMULAS)) and not any(map(is_formula, PLAIN))
    rows = [{"text": "a", "cell": cell} for cell in FORMULAS + PLAIN]
    for suffix in (".csv", ".tsv"):
        write_table(tmp_path / "in.parquet", rows)
        scored(tmp_path / "in.parquet", tmp_path / f"out{suffix}")
        cells = [row["cell"] for row in read_table(tmp_path / f"out{suffix}").rows]
        assert cells == [f"'{cell}" for cell in FORMULAS] + PLAIN
        scored(tmp_path / "in.parquet", tmp_path / f"kept{suffix}", keep_formulas=True)
        assert [row["cell"] for row in read_table(tmp_path / f"kept{suffix}").rows] == FORMULAS + PLAIN
    scored(tmp_path / "in.parquet", tmp_path / "out.jsonl")
    assert [row["cell"] for row in read_table(tmp_path / "out.jsonl").rows] == FORMULAS + PLAIN
    header = tmp_path / "header.csv"
    header.write_text("text,=cmd\na,b\n")
    scored(header, tmp_path / "headed.csv")
    assert (tmp_path / "headed.csv").read_text().splitlines()[0] == "text,'=cmd,prediction,score,error"


def test_encodings_and_separators_are_found_and_said(tmp_path):
    for name, encoding, separator, note in (
        ("a.csv", "cp1252", ";", "encoding Windows-1252, separator ';'"),
        ("b.csv", "utf-16", ",", "encoding UTF-16"),
        ("c.csv", "utf-8-sig", "|", "separator '|'"),
        ("d.csv", "utf-8", ",", None),
    ):
        (tmp_path / name).write_text(f"id{separator}text\n00123{separator}schön\n", encoding=encoding)
        result = scored(tmp_path / name, tmp_path / f"out_{name}")
        assert result.note == note
        assert (tmp_path / f"out_{name}").read_text(encoding="utf-8").splitlines()[1] == "00123,schön,long,0.75,"


def test_types_of_a_parquet_file_and_of_json_lines_are_kept(tmp_path):
    source = pyarrow.table({
        "text": ["a film", "b"], "n": pyarrow.array([1, None], pyarrow.int32()), "d": [1.5, 2.5],
        "l": [[1], [2, 3]], "c": pyarrow.array(["x", "y"]).dictionary_encode(),
    })  # fmt: skip
    pyarrow.parquet.write_table(source, tmp_path / "in.parquet")
    scored(tmp_path / "in.parquet", tmp_path / "out.parquet")
    written = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert written.schema.field("n").type == pyarrow.int32() and written.column("l").to_pylist() == [[1], [2, 3]]
    assert written.column("c").to_pylist() == ["x", "y"] and written.column("n").to_pylist() == [1, None]
    rows = [{"text": "a", "n": 1, "m": 1}, {"text": "b", "n": 2.5, "m": [1], "late": True}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    scored(tmp_path / "in.jsonl", tmp_path / "two.parquet")
    written = pyarrow.parquet.read_table(tmp_path / "two.parquet").to_pylist()
    assert [(row["n"], row["m"], row["late"]) for row in written] == [(1.0, "1", None), (2.5, "[1]", True)]


def test_a_single_line_too_many_chunks_and_an_exact_number_of_chunks(tmp_path):
    for count, rows in ((1, 4), (8, 4), (9, 4), (3, 4)):
        write_table(tmp_path / "in.parquet", [{"text": f"text {n}"} for n in range(count)])
        sizes, calls = [], []

        def counted(inputs, sizes=sizes):
            sizes.append(len(inputs))
            return answers(inputs)

        task = ScoringTask(TASK.labels, TASK.task, "test", chunk_rows=rows)
        scored(tmp_path / "in.parquet", tmp_path / "o.csv", task, counted, overwrite=True,
               progress=lambda *n, calls=calls: calls.append(n))  # fmt: skip
        assert sorted(sizes, reverse=True) == [rows] * (count // rows) + ([count % rows] if count % rows else [])
        assert calls[-1] == (count, 1.0)
        assert [row["text"] for row in read_table(tmp_path / "o.csv").rows] == [f"text {n}" for n in range(count)]


@pytest.mark.parametrize("into", [".csv", ".jsonl", ".parquet", ".json", ".feather", ".xlsx", ".csv.gz", ".json.zst"])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet", ".json", ".arrow", ".xlsx", ".jsonl.gz"])
def test_a_run_that_was_ended_goes_on_and_ends_with_the_same_bytes(tmp_path, suffix, into):
    source, out = tmp_path / f"in{suffix}", tmp_path / f"out{into}"
    write_table(source, [{"text": f"text {n}" if n % 7 else "", "n": n} for n in range(50)])
    task = ScoringTask(TASK.labels, TASK.task, "test", chunk_rows=8)
    scored(source, tmp_path / f"whole{into}", task)

    class Ended(BaseException):
        pass

    seen = []

    def ends_at(row):
        def answer(inputs):
            seen.extend(item.text for item in inputs)
            if any(item.text == f"text {row}" for item in inputs):
                raise Ended
            return answers(inputs)

        return answer

    for row in (20, 41):
        with pytest.raises(Ended):
            scored(source, out, task, ends_at(row))
        assert not out.exists()
    before = set(seen)
    seen.clear()
    result = scored(source, out, task, ends_at(-1))
    assert result.resumed_after >= 32 and (result.rows, result.errors) == (50, 8)
    assert not {"text 1", "text 17"} & set(seen) and "text 1" in before
    assert out.read_bytes() == (tmp_path / f"whole{into}").read_bytes()
    assert len(list(tmp_path.iterdir())) == 3


def test_another_question_or_another_table_starts_afresh(tmp_path):
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    write_table(source, [{"text": f"text {n}"} for n in range(50)])

    def ends(inputs):
        if any(item.text == "text 40" for item in inputs):
            raise KeyboardInterrupt
        return answers(inputs)

    def began():
        with pytest.raises(KeyboardInterrupt):
            scored(source, out, ScoringTask(TASK.labels, TASK.task, "test", chunk_rows=8), ends)

    began()
    assert scored(source, out, ScoringTask(TASK.labels, TASK.task, "other", chunk_rows=8)).resumed_after == 0
    out.unlink()
    began()
    assert (
        scored(source, out, ScoringTask(TASK.labels, TASK.task, "test", chunk_rows=8), all_scores=True).resumed_after
        == 0
    )
    out.unlink()
    began()
    write_table(source, [{"text": f"text {n}"} for n in range(51)])
    assert scored(source, out, ScoringTask(TASK.labels, TASK.task, "test", chunk_rows=8)).resumed_after == 0
    out.unlink()
    began()
    (tmp_path / ".out.csv.partial").write_text("cut")
    assert scored(source, out, ScoringTask(TASK.labels, TASK.task, "test", chunk_rows=8)).resumed_after == 0
    assert len(read_table(out).rows) == 51


KILLED = """
import sys, time
from service.batch.score_table import score
from service import load
from service.batch import batch_scorer as module
task = module.scoring_task
from dataclasses import replace
module.scoring_task = lambda *items, **named: replace(task(*items, **named), chunk_rows=16)
model = load(sys.argv[1])
classify = model.engine.classify
model.engine.classify = lambda *a, **k: (time.sleep(0.05), classify(*a, **k))[1]
score(model, sys.argv[2], sys.argv[3], progress=lambda done, share: print(done, flush=True))
"""


@pytest.mark.parametrize(
    "into",
    [".csv", *(pytest.param(kind, marks=pytest.mark.slow) for kind in (".jsonl", ".parquet", ".xlsx", ".json.gz"))],
)
def test_a_process_that_is_killed_at_any_point_goes_on(tmp_path, tiny_sentiment, into, monkeypatch):
    monkeypatch.setenv("REHEAD_BACKEND", "dummy")
    monkeypatch.setenv("REHEAD_CACHE", str(tmp_path / "cache"))
    source, out = tmp_path / "in.csv", tmp_path / f"out{into}"
    write_table(source, [{"text": f"good film {n}"} for n in range(400)])
    command = [sys.executable, "-c", KILLED, str(tiny_sentiment), str(source)]
    subprocess.run([*command, str(tmp_path / f"whole{into}")], check=True, capture_output=True, timeout=120)
    began = []
    for _ in range(3):
        with subprocess.Popen([*command, str(out)], stdout=subprocess.PIPE, text=True) as running:
            began.append(int(running.stdout.readline()))
            running.stdout.readline()
            time.sleep(0.03 * len(began))
            os.kill(running.pid, signal.SIGKILL)
        assert not out.exists()
    subprocess.run([*command, str(out)], check=True, capture_output=True, timeout=120)
    assert began == sorted(set(began)) and began[-1] > began[0]
    assert out.read_bytes() == (tmp_path / f"whole{into}").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["cache", "in.csv", out.name, f"whole{into}"])


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
        scored(table, tmp_path / name)
    assert (tmp_path / "taken.csv").read_text() == "x"


def test_overwriting_replaces_another_file_and_never_the_input(table, tmp_path):
    (tmp_path / "taken.csv").write_text("x")
    scored(table, tmp_path / "taken.csv", overwrite=True)
    assert len(read_table(tmp_path / "taken.csv").rows) == 3
    (tmp_path / "link.csv").symlink_to(table)
    with pytest.raises(BadRequest, match="is the input itself"):
        check_output(tmp_path / "link.csv", table, overwrite=True)


def test_what_is_no_table_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "head.csv").write_text("text\n")
    (tmp_path / "gz.csv.gz").write_bytes(b"x")
    (tmp_path / "t.csv.bz2").write_bytes(b"x")
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n[1]\n')
    (tmp_path / "wide.csv").write_text("text\na,b,c\n")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    (tmp_path / "null.csv").symlink_to("/dev/null")
    for name, sentence in {
        "pipe.csv": "not a regular file", "empty.csv": "is empty", "head.csv": "no rows",
        "gz.csv.gz": "not gzip-compressed, as its name says: rename it to gz.csv", "t.csv.bz2": "unknown table format",
        "bad.jsonl": "row 2: each line should be a JSON object", "wide.csv": "not a well-formed table",
        "bad.parquet": "not a readable Parquet file", "none.csv": "no such file", "null.csv": "not a regular file",
        "http://127.0.0.1/x.csv": "no such file", "file:///etc/passwd.csv": "no such file",
    }.items():  # fmt: skip
        source = name if "://" in name else tmp_path / name
        with pytest.raises(DataError, match=sentence):
            list(stream_table(source, 10).chunks)


def test_a_small_file_that_unpacks_to_a_large_one_is_refused(tmp_path, monkeypatch):
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a" * 1000] * 100_000}), tmp_path / "bomb.parquet")
    assert (tmp_path / "bomb.parquet").stat().st_size < 100_000
    monkeypatch.setattr("finetune.core.tables.parquet.MAX_UNPACKED_BYTES", 1000)
    with pytest.raises(DataError, match="bytes once unpacked; at most 1000 are accepted"):
        stream_table(tmp_path / "bomb.parquet", 10)
    (tmp_path / "line.jsonl").write_text(json.dumps({"text": "a" * 5000}))
    monkeypatch.setattr("finetune.core.tables.json_lines.MAX_LINE_CHARACTERS", 1000)
    with pytest.raises(DataError, match="row 1: the line has more than 1000 characters"):
        stream_table(tmp_path / "line.jsonl", 10)


def test_one_long_text_said_many_times_is_refused_where_it_would_not_fit(tmp_path, monkeypatch):
    table = pyarrow.table({"text": ["a" * 100_000] * 1000})
    pyarrow.parquet.write_table(table, tmp_path / "bomb.parquet")
    monkeypatch.setattr("finetune.core.tables.arrow_batches.MAX_UNPACKED_BYTES", 10_000_000)
    with pytest.raises(DataError, match="rows of this file hold 100000000 bytes of text"):
        list(stream_table(tmp_path / "bomb.parquet", 4096).chunks)
    assert next(stream_table(tmp_path / "bomb.parquet", 10).chunks)[0]["text"] == "a" * 100_000


def test_two_runs_do_not_write_one_output(table, tmp_path):
    out = tmp_path / "out.csv"

    def meanwhile(inputs):
        with pytest.raises(BadRequest, match="another run is writing"):
            scored(table, out)
        return answers(inputs)

    assert scored(table, out, answer=meanwhile).errors == 0 and len(read_table(out).rows) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out.csv"]


def test_the_text_column_is_found_when_obvious_and_asked_for_when_not(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps({"Review": "a", "stars": "5"}))
    assert texts_of(read_table(path)) == [TextInput("a")]
    path.write_text(json.dumps({"one": "a", "two": "b"}))
    with pytest.raises(BadRequest, match="name the column that holds the text with --text; it has one, two"):
        scored(path, tmp_path / "out.csv")
    assert texts_of(read_table(path), "two", "one") == [TextInput("b", "a")]
    for options in ({"text": "three"}, {"text": "two", "text_pair": "three"}):
        with pytest.raises(BadRequest, match="no column 'three': it has one, two"):
            scored(path, tmp_path / "out.csv", **options)
    assert [file.name for file in tmp_path.iterdir()] == ["t.jsonl"]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_table_of_very_many_columns_is_refused_at_once(tmp_path, suffix):
    count = MAX_COLUMNS + 1
    file = tmp_path / f"t{suffix}"
    if suffix == ".csv":
        file.write_text(",".join(["a"] * count) + "\n" + ",".join(["b"] * count) + "\n")
    elif suffix == ".jsonl":
        file.write_text(json.dumps({f"c{number}": 1 for number in range(count)}) + "\n")
    else:
        pyarrow.parquet.write_table(pyarrow.table({f"c{number}": ["a"] for number in range(count)}), file)
    with pytest.raises(DataError, match=f"{count} columns; at most {MAX_COLUMNS} are accepted"):
        stream_table(file, 8)


def test_a_missing_text_is_named_by_its_row_and_column(tmp_path):
    for cell, what in (
        (None, "the cell is empty"),
        (5, "the cell holds int, not text"),
        (1.5, "the cell holds float, not text"),
        (True, "the cell holds bool, not text"),
        (["a"], "the cell holds list, not text"),
        ("", "the text is empty"),
        ("\u00a0 ", "the text is empty"),
        ("\u200b\ufeff", "the text is empty"),
    ):
        path = tmp_path / "t.jsonl"
        path.write_text("".join(json.dumps({"body": body, "n": 1}) + "\n" for body in ("fine", cell, "fine")))
        with pytest.raises(BadRequest, match=rf"t\.jsonl, row 2, column 'body': {what}"):
            texts_of(read_table(path))
        assert scored(path, tmp_path / "out.jsonl", overwrite=True).errors == 1
        assert read_table(tmp_path / "out.jsonl").rows[1]["error"] == f"column body: {what}"


def test_a_file_of_a_text_a_line_is_scored_into_a_table(tmp_path):
    (tmp_path / "t.TXT").write_text("a long one\n\nb\n")
    result = scored(tmp_path / "t.TXT", tmp_path / "OUT.CSV")
    assert result.note == "one text a line: 2 texts, 1 blank lines skipped"
    assert [(row["text"], row["prediction"]) for row in read_table(tmp_path / "OUT.CSV").rows] == [
        ("a long one", "long"),
        ("b", "short"),
    ]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet", ".json", ".feather", ".xlsx", ".jsonl.zst"])
def test_a_row_that_repeats_the_header_stays_and_says_so(tmp_path, suffix):
    rows = [{"id": str(n), "text": f"text {n}"} for n in range(4)]
    rows.insert(2, {"id": "\ufeffid", "text": " text"})
    write_table(tmp_path / f"in{suffix}", rows)
    assert scored(tmp_path / f"in{suffix}", tmp_path / "out.jsonl").errors == 1
    written = read_table(tmp_path / "out.jsonl").rows
    assert [row["error"] for row in written] == [None, None, "this row repeats the header", None, None]
    with pytest.raises(BadRequest, match="row 3: this row repeats the header"):
        texts_of(read_table(tmp_path / f"in{suffix}"))


def test_a_table_is_scored_with_the_encoding_separator_and_header_that_are_named(tmp_path, tiny_sentiment):
    (tmp_path / "in.csv").write_bytes("příliš^a\nžluťoučký^b\n".encode("cp1250"))
    how = {"encoding": "cp1250", "separator": "^", "header": False}
    result = score(tiny_sentiment, tmp_path / "in.csv", tmp_path / "out.csv", text="1", **how)
    assert (result.rows, result.note) == (2, "encoding Windows-1250, separator '^'")
    assert [row["column_1"] for row in read_table(tmp_path / "out.csv").rows] == ["příliš", "žluťoučký"]
    with pytest.raises(DataError, match="line 1 is not utf-8 text"):
        score(tiny_sentiment, tmp_path / "in.csv", tmp_path / "other.csv", encoding="utf-8")
    assert not (tmp_path / "other.csv").exists()


def test_what_is_doubtful_about_a_table_comes_with_the_result(tmp_path):
    (tmp_path / "in.csv").write_text("".join(f"some text {n},{n % 2}\n" for n in range(9)))
    result = scored(tmp_path / "in.csv", tmp_path / "out.csv", text="some text 0")
    assert "--no-header" in result.warnings[0]


@pytest.mark.parametrize("name", ["\ufefftext", " Text ", "te\u200bxt"])
def test_blanks_and_invisible_characters_do_not_hide_the_text_column(tmp_path, name):
    pyarrow.parquet.write_table(pyarrow.table({"id": ["1"], name: ["a text"]}), tmp_path / "in.parquet")
    for number, options in enumerate(({}, {"text": name.strip().replace("\u200b", "")})):
        assert scored(tmp_path / "in.parquet", tmp_path / f"{number}.csv", **options).errors == 0

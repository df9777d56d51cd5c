"""The arguments of predict: one that names a file, or ends like one, is never classified as a text."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import pytest

from finetune.core.errors import DataError
from finetune.core.tables.files import stream_table
from finetune.core.tables.formats import FORMATS, SUFFIXES
from service.batch.text_arguments import UNREADABLE, parse_arguments
from service.errors import BadRequest

pytestmark = pytest.mark.fast

SENTENCES = [
    "Great.",
    "I love it...",
    "version 2.0",
    "see example.com",
    "U.S.A",
    "U.S.A.",
    "Visit www.site.org/page",
    "https://site.org/page.html",
    "www.site.org/a/b.html",
    "and/or",
    "24/7",
    "node.js",
    "I read it in report.csv.",
    "two\nlines.csv",
    "He said: open the README.md",
    "/s",
    "...",
    "",
    " ",
    "a\0b",
    "x" * 5000,
    ".csv",
    "@user",
]

LIKE_FILES = [
    *(f"topics{suffix}" for suffix in (*SUFFIXES, *UNREADABLE)),
    "topics.txt",
    "TOPICS.CSV",
    "my reviews (1).csv",
    "отзывы.txt",
    "a%20b.csv",
    "#.csv",
    "data.csv.gz",
    "reviews.csv ",
    "'reviews.csv'",
    '"reviews.xlsx"',
    "*.csv",
    "https://site.org/reviews.csv",
    "./reviews",
    "../data/reviews",
    "~/reviews",
    "/data/reviews",
    "C:\\data\\reviews",
    "notes.md",
    "page.html",
]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("text", SENTENCES)
def test_a_sentence_is_a_text(text):
    assert parse_arguments([text]) == [text] and parse_arguments([text, "another"]) == [text, "another"]


@pytest.mark.parametrize("argument", LIKE_FILES)
def test_a_file_name_that_does_not_exist_is_refused_with_the_way_to_classify_it(argument):
    with pytest.raises(BadRequest, match=r"there is no file .* pipe them in: echo '\.\.\.' \| rehead predict MODEL -"):
        parse_arguments([argument])
    with pytest.raises(
        BadRequest, match="is a file, or looks like one, and there are 2 arguments: pass one file alone"
    ):
        parse_arguments(["a text", argument])


@pytest.mark.parametrize(
    "name", ["t.csv", "T.CSV", "t.JSONL", "t.tsv", "t.parquet", "t.txt", "T.TXT", "отзывы (1).csv"]
)
def test_a_file_that_can_be_read_is_read(home, name):
    (home / name).write_text("text\na\n")
    assert parse_arguments([name]) == home.__class__(name)


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("t.csv.bz2", "unpack it first"),
        ("t.gz", "unpack it first"),
        ("T.ODS", "save it as .xlsx or .csv"),
        ("t.docx", "save its texts as .txt, one a line"),
        ("t.pdf", "save its texts as .txt"),
        (
            "t.unknown",
            ".arrow, .feather, .xlsx, .xls (.csv, .tsv, .jsonl, .json also with .gz or .zst), and",
        ),
        ("README", "and .txt (.txt also with .gz or .zst) with one text a line"),
        ("a file of words", "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_what_can(home, name, fix):
    (home / name).write_text("text\na\n")
    with pytest.raises(BadRequest, match=rf"the file {name} cannot be read: predict and zero-shot read .*") as caught:
        parse_arguments([name])
    assert fix in str(caught.value)


def test_a_folder_is_refused_and_a_word_among_others_is_a_word(home):
    (home / "docs").mkdir()
    (home / "movie").write_text("")
    with pytest.raises(BadRequest, match="docs is a folder: name one file in it"):
        parse_arguments(["docs"])
    assert parse_arguments(["I", "love", "docs"]) == ["I", "love", "docs"]
    with pytest.raises(BadRequest, match="'movie' is a file, or looks like one, and there are 3 arguments"):
        parse_arguments(["a", "good", "movie"])


def piped(monkeypatch, content, *, terminal=False):
    stdin = SimpleNamespace(buffer=io.BytesIO(content), isatty=lambda: terminal)
    monkeypatch.setattr(sys, "stdin", stdin)


def test_standard_input_holds_a_text_a_line_and_none_of_them_is_a_file(monkeypatch):
    piped(monkeypatch, b"\xef\xbb\xbftopics.txt\r\n\n  \nsch\xc3\xb6n \nlast")
    assert parse_arguments(["-"]) == ["topics.txt", "schön ", "last"]
    for content, sentence in ((b"\n \n", "holds no text"), (b"a\xff", "is not UTF-8 text .* at byte 1")):
        piped(monkeypatch, content)
        with pytest.raises(BadRequest, match=sentence):
            parse_arguments(["-"])
    piped(monkeypatch, b"", terminal=True)
    with pytest.raises(BadRequest, match="standard input is a terminal"):
        parse_arguments(["-"])


def test_a_text_file_is_read_a_text_a_line_and_what_was_skipped_is_reported(home):
    file = home / "t.txt"
    file.write_bytes('one\r\n\r\n  \ntwo, "quoted\u2028three\n\u00a0\nschön'.encode())
    stream = stream_table(file, 2, suffixes=FORMATS)
    assert stream.columns == ["text"] and stream.note == "one text a line: 3 texts, 3 blank lines skipped"
    assert list(stream.chunks) == [[{"text": "one"}, {"text": 'two, "quoted\u2028three'}], [{"text": "schön"}]]
    assert stream.fraction_read() == 1.0
    file.write_text("schön\n", encoding="utf-16")
    assert next(stream_table(file, 9, suffixes=FORMATS).chunks) == [{"text": "schön"}]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "is empty"),
        (" \n\n", "holds no text"),
        ("label\ttext\nx\tgood\n", "each line holds tabs.*Rename it to .tsv"),
    ],
)
def test_a_text_file_that_holds_no_texts_is_refused(home, content, sentence):
    (home / "t.txt").write_text(content)
    with pytest.raises(DataError, match=sentence):
        stream_table(home / "t.txt", 9, suffixes=FORMATS)

"""Table files: encodings, separators, quotes and headers are detected correctly, or refused with place and reason."""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune.config.data import DataConfig
from finetune.core.errors import ConfigError, DataError
from finetune.core.labels import LabelSpace
from finetune.core.tables.files import read_table, stream_table, write_table
from finetune.core.tables.options import TableOptions
from finetune.core.tables.table import Table
from finetune.data.load import load_rows, load_splits

GERMAN = ["Schön und größer ist das Haus", "Die Bedienung war äußerst unfreundlich", "Das Essen schmeckte köstlich"]
CZECH = ["Příliš žluťoučký kůň úpěl ďábelské ódy", "Pokoj byl špinavý a hlučný", "Přístroj přestal fungovat"]
POLISH = ["Bardzo podobał mi się ten film, wzruszający", "Pokój był brudny i głośny", "Urządzenie przestało działać"]
RUSSIAN = ["Этот суп был холодный и невкусный", "Мне очень понравился этот фильм", "Спасибо за быструю доставку"]
CHINESE = ["这家店的菜很好吃，服务也很周到", "这部电影太差了，浪费时间", "房间又脏又吵，不推荐"]
TAIWANESE = ["這家店的菜很好吃，服務也很周到", "這部電影太差了，浪費時間", "房間又髒又吵，不推薦"]
JAPANESE = ["料理は冷たくて、サービスも遅かった", "この映画はとても良かったです", "二日で壊れてしまいました"]
KOREAN = ["음식이 차갑고 서비스가 느렸습니다", "이 영화가 정말 좋았어요", "빠른 배송 감사합니다"]
GREEK = ["Το φαγητό ήταν κρύο και η εξυπηρέτηση αργή", "Μου άρεσε πολύ αυτή η ταινία", "Ευχαριστώ πολύ"]
TURKISH = ["Yemek soğuktu ve servis yavaştı", "Bu filmi çok sevdim", "Oda kirli ve gürültülüydü"]
FRENCH = ["Le service était très mauvais", "J'ai adoré ce film, l'histoire est émouvante", "Où est la qualité ?"]
SPANISH = ["La habitación estaba sucia y el baño también", "¡Qué película tan aburrida!", "No me gustó"]
QUOTES = ["It’s just an ordinary film", "They said “no” – twice", "A naïve story"]


def rows_of(name: Path, options: TableOptions | None = None) -> list[dict[str, Any]]:
    """The rows of a file, which both readers give."""
    whole, stream = read_table(name, options), stream_table(name, 3, options)
    rows = [row for part in stream.chunks for row in part]
    assert rows == list(whole.rows)
    assert (stream.columns, stream.note, stream.warnings) == (whole.columns, whole.note, whole.warnings)
    return rows


def written(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize(
    ("texts", "encoding", "note"),
    [
        (GERMAN, "cp1252", "Windows-1252"),
        (GERMAN, "iso8859-15", "Windows-1252"),
        (FRENCH, "cp1252", "Windows-1252"),
        (SPANISH, "cp1252", "Windows-1252"),
        (QUOTES, "cp1252", "Windows-1252"),
        (CZECH, "cp1250", "Windows-1250"),
        (CZECH, "iso8859-2", "ISO-8859-2"),
        (POLISH, "cp1250", "Windows-1250"),
        (TURKISH, "cp1254", "Windows-1254"),
        (RUSSIAN, "cp1251", "Windows-1251"),
        (RUSSIAN, "koi8-r", "KOI8-R"),
        (RUSSIAN, "cp866", "cp866"),
        (GREEK, "cp1253", "Windows-1253"),
        (CHINESE, "gbk", "GB18030"),
        (CHINESE, "gb18030", "GB18030"),
        (TAIWANESE, "big5", "Big5"),
        (JAPANESE, "shift_jis", "Shift-JIS"),
        (JAPANESE, "euc-jp", "EUC-JP"),
        (KOREAN, "euc-kr", "EUC-KR"),
        (CHINESE, "utf-16", "UTF-16"),
        (CHINESE, "utf-16-le", "UTF-16"),
        (CHINESE, "utf-16-be", "UTF-16"),
        (GERMAN, "utf-16-le", "UTF-16"),
        (GERMAN, "utf-32", "UTF-32"),
        (RUSSIAN, "utf-32-le", "UTF-32"),
        (JAPANESE, "iso2022_jp", "ISO-2022-JP"),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_the_encoding_is_detected_from_the_text(
    tmp_path: Path, texts: list[str], encoding: str, note: str, suffix: str
) -> None:
    expected = [{"text": text, "label": "np"[number % 2]} for number, text in enumerate(texts)]
    if suffix == ".csv":
        content = "text,label\n" + "".join('"{text}",{label}\n'.format(**row) for row in expected)
    else:
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in expected)
    file = written(tmp_path / f"t{suffix}", content, encoding)
    assert rows_of(file) == expected
    assert read_table(file).note == f"encoding {note}"


def test_utf8_is_read_with_and_without_its_mark(tmp_path: Path) -> None:
    for mark in ("", "\ufeff"):
        file = written(tmp_path / "t.csv", f"{mark}text,label\ncafé,x\n")
        assert rows_of(file) == [{"text": "café", "label": "x"}] and read_table(file).note is None


def test_an_encoding_is_detected_by_the_last_line_of_a_large_file(tmp_path: Path) -> None:
    plain = "a plain line of text without anything in it,x\n" * 50_000
    file = written(tmp_path / "t.csv", f"text,label\n{plain}Все очень понравилось и мне и детям,y\n", "cp1251")
    assert read_table(file).rows[-1]["text"] == "Все очень понравилось и мне и детям"


def test_an_encoding_that_is_not_certain_is_refused_with_what_it_may_be(tmp_path: Path) -> None:
    file = written(tmp_path / "t.csv", "text,label\nxq é zk ù,a\n", "mac_roman")
    with pytest.raises(DataError, match=r"t\.csv: line 2 is not UTF-8 text.*--encoding"):
        read_table(file)
    with pytest.raises(DataError, match="--encoding"):
        stream_table(file, 10)


@pytest.mark.parametrize(
    ("labels", "encoding"),
    [
        (("差评", "好评"), "gbk"),
        (("부정", "긍정"), "euc-kr"),
        (("плохо", "хорошо"), "cp1251"),
        (("плохо", "хорошо"), "koi8-r"),
        (("špatně", "dobře"), "cp1250"),
        (("悪い", "良い"), "shift_jis"),
        (("kötü", "iyi"), "cp1254"),
        (("böse", "schön"), "mac_roman"),
    ],
)
def test_two_labels_repeated_are_read_correctly_or_refused(
    tmp_path: Path, labels: tuple[str, str], encoding: str
) -> None:
    content = "text,label\n" + "".join(f"the soup was cold and number {n},{labels[n % 2]}\n" for n in range(40))
    try:
        rows = rows_of(written(tmp_path / "t.csv", content, encoding))
    except DataError as error:
        assert "--encoding" in str(error)
    else:
        assert {row["label"] for row in rows} == set(labels)


def test_utf8_with_a_broken_character_is_refused_and_not_read_as_something_else(tmp_path: Path) -> None:
    content = "text,label\n" + "schön und größer,x\n" * 30
    (tmp_path / "t.csv").write_bytes(content.encode() + "schön,y\n".encode("cp1252"))
    with pytest.raises(DataError, match="line 32 is not UTF-8 text, and other lines are"):
        read_table(tmp_path / "t.csv")


def test_a_named_encoding_is_used_and_checked(tmp_path: Path) -> None:
    file = written(tmp_path / "t.csv", "text,label\nxq é zk ù,a\n", "mac_roman")
    assert rows_of(file, TableOptions(encoding="mac-roman"))[0]["text"] == "xq é zk ù"
    with pytest.raises(DataError, match="line 2 is not utf-8 text"):
        read_table(file, TableOptions(encoding="utf-8"))
    with pytest.raises(ConfigError, match="no text encoding 'cp1521' .*did you mean"):
        TableOptions(encoding="cp1521")
    for name in ("base64", "idna", "punycode", "unicode_escape", "rot13", "x\0"):
        with pytest.raises(ConfigError, match="no text encoding"):
            TableOptions(encoding=name)
    marked = written(tmp_path / "m.csv", "\ufefftext,label\né,a\n")
    with pytest.raises(DataError, match="byte order mark of utf-8"):
        read_table(marked, TableOptions(encoding="cp1251"))
    assert rows_of(marked, TableOptions(encoding="utf8")) == [{"text": "é", "label": "a"}]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"PK\x03\x04rest", "a zip or Excel file"),
        (b"\x1f\x8b\x08rest", "gzip-compressed"),
        (b"%PDF-1.7 rest", "a PDF document"),
        (b"\x89PNG\r\n", "a PNG image"),
        (b"PAR1rest", "a Parquet file: name it .parquet"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path: Path, content: bytes, kind: str) -> None:
    for name in ("t.csv", "t.JSONL"):
        (tmp_path / name).write_bytes(content)
        for read in (read_table, lambda path: stream_table(path, 5)):
            with pytest.raises(DataError, match=kind):
                read(tmp_path / name)


ROWS = [{"text": f"some text {number}", "label": "np"[number % 2]} for number in range(6)]
BODY = "".join("{text};{label}\n".format(**row) for row in ROWS)


@pytest.mark.parametrize(
    ("content", "note"),
    [
        ("text;label\n" + BODY, "separator ';'"),
        ("\n\n \ntext;label\n" + BODY, "separator ';'"),
        (";\n;\ntext;label\n" + BODY, "separator ';'"),
        ("sep=;\ntext;label\n" + BODY, "separator ';'"),
        ('"sep=;"\r\ntext;label\r\n' + BODY.replace("\n", "\r\n"), "separator ';'"),
        ("\ufeffsep=,\ntext,label\n" + BODY.replace(";", ","), None),
        ("sep=\\t\ntext\tlabel\n" + BODY.replace(";", "\t"), None),
        ("text|label\n" + BODY.replace(";", "|"), "separator '|'"),
        ("text\tlabel\r" + BODY.replace(";", "\t").replace("\n", "\r"), None),
        ("text;label;\n" + BODY, "separator ';'"),
        ("text;label\n" + BODY.replace("\n", ";\n"), "separator ';'"),
        ("text;label;;\n" + BODY.replace("\n", ";;\n"), "separator ';'"),
        ("text;label\n" + BODY.replace("\n", "\n\n"), "separator ';'"),
        ("text; label\n" + BODY.replace(";", "; "), "separator ';'"),
        ("\u200btext ;\u00a0label\u200b\n" + BODY, "separator ';'"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_separator_and_header_are_detected_on_the_whole_file(
    tmp_path: Path, content: str, note: str | None, encoding: str
) -> None:
    for name in ("t.csv", "t.tsv", "T.CSV"):
        file = written(tmp_path / name, content.removeprefix("\ufeff") if encoding == "utf-16" else content, encoding)
        assert rows_of(file) == ROWS, name
        wide = "encoding UTF-16" if encoding == "utf-16" else None
        assert read_table(file).note == (", ".join(filter(None, (wide, note))) or None)


def test_commas_in_a_header_do_not_hide_its_semicolons(tmp_path: Path) -> None:
    content = "Kommentar, frei;Klasse\n" + "".join(f"gut{', leider' if n % 3 else ''};{n % 2}\n" for n in range(9))
    assert read_table(written(tmp_path / "t.csv", content)).columns == ["Kommentar, frei", "Klasse"]
    content = "Kommentar, frei;Klasse\n" + "gut, leider;1\n" * 9
    assert read_table(written(tmp_path / "t.csv", content)).columns == ["Kommentar, frei", "Klasse"]


def test_blanks_after_separators_are_no_part_of_names_and_quotes(tmp_path: Path) -> None:
    file = written(tmp_path / "t.csv", 'id, text, label\n0, "a, b", pos\n1, some text, neg\n')
    assert [row["text"] for row in rows_of(file)] == ["a, b", "some text"]
    assert read_table(file).columns == ["id", "text", "label"]


@pytest.mark.parametrize("end", ["", ";x"])
def test_a_row_of_another_length_is_refused_with_its_number(tmp_path: Path, end: str) -> None:
    content = "a;text;label\n" + "1;one;x\n" * 5 + f"\n1;two{end and ';y'}{end}\n" + "1;one;x\n" * 2500
    file = written(tmp_path / "t.csv", content)
    count = 4 if end else 2
    for read in (read_table, lambda path: list(stream_table(path, 3).chunks)):
        with pytest.raises(DataError, match=rf"row 6: .*\(line 8\) has {count} cells, and the header has 3"):
            read(file)


def test_the_separator_can_be_named(tmp_path: Path) -> None:
    file = written(tmp_path / "t.csv", "text^label\na,b;c^x\n")
    assert rows_of(file, TableOptions(separator="^")) == [{"text": "a,b;c", "label": "x"}]
    file = written(tmp_path / "t.csv", "text\na, b\n")
    assert rows_of(file, TableOptions(separator="tab")) == [{"text": "a, b"}]
    for wrong in ("ab", "", '"', "\n"):
        with pytest.raises(ConfigError, match="should be one character, or tab"):
            TableOptions(separator=wrong)


def test_options_that_a_format_does_not_have_are_refused(tmp_path: Path) -> None:
    write_table(tmp_path / "t.parquet", ROWS)
    write_table(tmp_path / "t.jsonl", ROWS)
    for name, options, flag in (
        ("t.parquet", TableOptions(encoding="cp1251"), "--encoding"),
        ("t.parquet", TableOptions(separator=";"), "--separator"),
        ("t.jsonl", TableOptions(header=False), "--no-header"),
    ):
        for read in (read_table, lambda path, options: stream_table(path, 5, options)):
            with pytest.raises(DataError, match=f"{flag} is for .*leave it out"):
                read(tmp_path / name, options)
    with pytest.raises(DataError, match="are for files"):
        load_splits(DataConfig(encoding="cp1251"), seed=1, data=ROWS)


def quoted_rows(separator: str, marked: dict[int, str], labels: str = "np") -> tuple[str, list[str]]:
    """A table of twenty texts, of which those of these numbers are written otherwise."""
    texts = [marked.get(number, f"some text {number}") for number in range(20)]
    lines = [f"{text}{separator}{labels[number % len(labels)]}\n" for number, text in enumerate(texts)]
    return f"text{separator}label\n" + "".join(lines), texts


@pytest.mark.parametrize(("suffix", "separator"), [(".tsv", "\t"), (".csv", ","), (".csv", ";")])
@pytest.mark.parametrize(
    "marked",
    [
        {4: '"opens', 8: 'closes"'},
        {4: '"opens', 5: 'closes"'},
        {4: '"never closed'},
        {4: '"said" he'},
        {4: '5" disk', 5: '"'},
        {19: '"'},
    ],
)
def test_lone_quotes_swallow_no_rows(tmp_path: Path, suffix: str, separator: str, marked: dict[int, str]) -> None:
    content, texts = quoted_rows(separator, marked)
    rows = rows_of(written(tmp_path / f"t{suffix}", content))
    assert [row["text"] for row in rows] == texts and {row["label"] for row in rows} == {"n", "p"}


@pytest.mark.parametrize(("suffix", "separator"), [(".tsv", "\t"), (".csv", ","), (".csv", ";")])
def test_quoted_cells_keep_their_line_breaks(tmp_path: Path, suffix: str, separator: str) -> None:
    marked = {4: '"two\nlines"', 8: '"a ""quoted"" word"', 9: f'"a{separator}b"', 11: '"three\n\nlines, at last"'}
    content, texts = quoted_rows(separator, marked)
    file = written(tmp_path / f"t{suffix}", content)
    expected = [text.strip('"').replace('""', '"') if number in marked else text for number, text in enumerate(texts)]
    assert [row["text"] for row in rows_of(file)] == expected
    assert "20 rows on 23 lines" in str(read_table(file).note)


def test_a_text_of_two_lines_with_a_comma_in_each_is_one_text(tmp_path: Path) -> None:
    content, _ = quoted_rows(",", {4: '"Hello, world\nand bye"'})
    assert rows_of(written(tmp_path / "t.csv", content))[4]["text"] == "Hello, world\nand bye"


def test_quotes_that_cannot_be_paired_are_refused_with_their_line(tmp_path: Path) -> None:
    for marked, line in (({4: '"never closed', 2: '"a, b"'}, 6), ({4: '"said" he', 2: '"a, b"'}, 6)):
        content, _ = quoted_rows(",", marked)
        for read in (read_table, lambda path: stream_table(path, 3)):
            with pytest.raises(DataError, match=f"line {line}: .*quote"):
                read(written(tmp_path / "t.csv", content))
    content, _ = quoted_rows(",", {2: '"a, b"', 4: '"opens', 7: 'closes"'})
    with pytest.raises(DataError, match="line 6: a double quote opens a cell here that ends on line 9"):
        read_table(written(tmp_path / "t.csv", content))


def test_doubtful_line_breaks_are_warned_of(tmp_path: Path) -> None:
    content = "title,text\n" + "".join(f"title {n},words {n}\n" for n in range(9)) + '"one, two\nthree",four\n'
    table = read_table(written(tmp_path / "t.csv", content))
    assert len(table.rows) == 10 and "check for a lone double quote" in table.warnings[0]


def test_a_table_without_a_header_has_numbered_columns(tmp_path: Path) -> None:
    file = written(
        tmp_path / "t.csv", "".join(f"{number},some text {number},{'np'[number % 2]}\n" for number in range(40))
    )
    table = read_table(file, TableOptions(header=False))
    assert (
        table.columns == ["column_1", "column_2", "column_3"] and len(rows_of(file, TableOptions(header=False))) == 40
    )
    for text, label in (("column_2", "column_3"), ("2", "3")):
        config = DataConfig(train=str(file), header=False, text=text, label=label)  # type: ignore[arg-type]
        splits = load_splits(config, seed=1)
        assert len(splits.train) + len(splits.validation) == 40 and splits.labels.names == ("n", "p")
    assert "--no-header" in read_table(file).warnings[0]


def test_a_single_column_named_by_a_sentence_is_warned_of(tmp_path: Path) -> None:
    file = written(
        tmp_path / "t.csv", "".join(f"The film was good, and number {n}.\n".replace(",", "") for n in range(9))
    )
    assert "the name of the only column is a sentence ('The film was good" in read_table(file).warnings[0]


def test_a_header_of_names_is_not_taken_for_data(tmp_path: Path) -> None:
    for head in ("id,text,label", "a,b,c", "0,1,2"):
        file = written(tmp_path / "t.csv", head + "\n" + "".join(f"{n},some text {n},{n % 2}\n" for n in range(9)))
        assert read_table(file).warnings == ()


@pytest.mark.parametrize("name", [" text", "text ", "\ufefftext", "te\u200bxt", "Text\u00a0"])
def test_blanks_and_invisible_characters_hide_no_column(tmp_path: Path, name: str) -> None:
    import pandas as pd
    import polars

    rows = [{name: f"some text {number}", "label ": "np"[number % 2]} for number in range(40)]
    for suffix in (".csv", ".tsv", ".jsonl", ".parquet"):
        write_table(tmp_path / f"t{suffix}", rows)
    sources: list[Any] = [rows, pd.DataFrame(rows), polars.DataFrame(rows)]
    column = "Text" if name.startswith("Text") else "text"
    for config in ({}, {"text": column, "label": "label"}):
        for data in sources:
            assert load_splits(DataConfig(**config), seed=1, data=data).labels.names == ("n", "p")
        for suffix in (".csv", ".tsv", ".jsonl", ".parquet"):
            whole = DataConfig(train=str(tmp_path / f"t{suffix}"), **config)  # type: ignore[arg-type]
            assert load_splits(whole, seed=1).labels.names == ("n", "p")


def test_a_repeated_header_is_dropped_and_counted(tmp_path: Path) -> None:
    import pandas as pd

    rows = [{"text": f"some text {number}", "label": "01"[number % 2]} for number in range(40)]
    joined = [*rows[:20], {"text": "text", "label": "label"}, *rows[20:], {"text": "\ufefftext", "label": " label"}]
    sources: list[Any] = [joined, pd.DataFrame(joined)]
    for suffix in (".csv", ".tsv", ".jsonl", ".parquet"):
        write_table(tmp_path / f"t{suffix}", joined)
        sources.append(tmp_path / f"t{suffix}")
    for source in sources:
        is_file = isinstance(source, Path)
        config = DataConfig(train=str(source)) if is_file else DataConfig()  # type: ignore[arg-type]
        splits = load_splits(config, seed=1, data=None if is_file else source)
        assert splits.counts["repeated_headers"] == 2 and splits.labels.names == ("0", "1")
        _, counts = load_rows(source, DataConfig(), LabelSpace("binary", ("0", "1")))
        assert counts["repeated_headers"] == 2


def test_files_of_a_folder_are_read_with_the_same_options(tmp_path: Path) -> None:
    for name in ("train.csv", "test.csv"):
        content = "".join(f"{name} line {n} žluťoučký^{'np'[n % 2]}\n" for n in range(40))
        written(tmp_path / name, content, "cp1250")
    config = DataConfig(train=str(tmp_path), encoding="cp1250", separator="^", header=False, text="1", label="2")  # type: ignore[arg-type]
    splits = load_splits(config, seed=1)
    assert splits.labels.names == ("n", "p") and len(splits.tests["test"]) == 40
    assert "žluťoučký" in splits.train.texts[0]


def test_joined_json_lines_may_hold_byte_order_marks(tmp_path: Path) -> None:
    file = written(tmp_path / "t.jsonl", '\ufeff{"text": "a"}\n\ufeff{"text": "b"}\n')
    assert rows_of(file) == [{"text": "a"}, {"text": "b"}]


def test_a_long_document_is_one_cell(tmp_path: Path) -> None:
    text = "word " * 60_000
    assert rows_of(written(tmp_path / "t.csv", f'text,label\n"{text}",x\n'))[0]["text"] == text


def test_columns_of_one_name_stay_apart(tmp_path: Path) -> None:
    table: Table = read_table(written(tmp_path / "t.csv", ",text, text,text\n0,a,b,c\n"))
    assert table.columns == ["Unnamed: 0", "text", "text.1", "text.2"]

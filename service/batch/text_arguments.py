"""What the arguments of `predict` and `zero-shot` are: texts, a file of texts, or standard input.

Knows: which arguments name a file or look like one, files of one text a line.
Does not know: tables, click.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from finetune.core.errors import DataError
from finetune.core.tables.chunks import Chunks, Row
from finetune.core.tables.files import SUFFIXES
from finetune.core.tables.options import TableOptions
from finetune.core.tables.text_encoding import encoding_of
from service.errors import BadRequest

LINES = ".txt"
"""The suffix of a file of one text a line."""

STANDARD_INPUT = "-"

_UNPACK, _SHEET, _DOCUMENT = "unpack it first", "save it as .csv", "save its texts as .txt, one a line"
UNREAD = {
    ".json": "write it as .jsonl, one object a line (pandas: df.to_json(path, orient='records', lines=True))",
    **dict.fromkeys((".ndjson", ".jsonlines"), "rename it to .jsonl"),
    **dict.fromkeys((".gz", ".bz2", ".xz", ".zst", ".zip", ".tgz", ".tar", ".7z", ".rar"), _UNPACK),
    **dict.fromkeys((".xlsx", ".xls", ".xlsm", ".xlsb", ".ods", ".numbers"), _SHEET),
    **dict.fromkeys((".docx", ".doc", ".odt", ".rtf", ".pdf", ".pptx", ".epub"), _DOCUMENT),
    **dict.fromkeys((".feather", ".arrow", ".orc", ".avro", ".pq"), "save it as .parquet"),
    **dict.fromkeys((".pkl", ".pickle", ".h5", ".hdf5", ".npy", ".npz", ".rds", ".sav", ".dta"), "save it as .parquet"),
    **dict.fromkeys((".sqlite", ".sqlite3", ".db", ".mdb", ".sql"), "export the table as .csv"),
    **dict.fromkeys((".tab", ".psv", ".dat"), "rename it to .tsv or .csv"),
}
"""Suffixes of files that are not read, with what to do; an argument that ends in one is never taken for a text."""

UNREAD_WORDS = (".md", ".html", ".htm", ".xml", ".yaml", ".yml", ".log", ".ipynb", ".toml", ".ini", ".tex")
"""More of them, where the argument is a single word: a sentence may end in one."""

PATH = re.compile(r"\.{1,2}[/\\]\S*|~/\S*|/[^/\s]+/\S*|[A-Za-z]:[\\/]\S*|\\\\\S+")
"""An argument that can only be a path: it begins as one and holds no blank."""

LONGEST_NAME = 4096
AS_TEXT = "to classify these words themselves, pipe them in: echo '...' | rehead predict MODEL -"


def meant(arguments: Sequence[str]) -> Path | list[str]:
    """Return the file that a single argument names, or the texts that the arguments are.

    A single `-` reads texts from standard input, one a line; what is read there is never taken for a file.

    Raises:
        BadRequest: an argument looks like a file that does not exist or cannot be read, or stands among others.
    """
    if list(arguments) == [STANDARD_INPUT]:
        return _standard_input()
    if len(arguments) == 1:
        return _file(arguments[0]) if looks_like_file(arguments[0]) or _exists(arguments[0]) else list(arguments)
    for argument in arguments:
        if looks_like_file(argument) or (_exists(argument) and Path(argument).is_file()):
            raise BadRequest(
                f"{argument!r} is a file, or looks like one, and there are {len(arguments)} arguments: pass one file "
                f"alone; {AS_TEXT}"
            )
    return list(arguments)


def lines(path: Path, rows: int, options: TableOptions | None = None) -> Chunks:
    """A file of one text a line as a table with the column `text`, in chunks of so many rows; blank lines are skipped.

    Raises:
        DataError: the file is empty, holds no text, or is a table by its look.
    """
    import pyarrow

    if path.stat().st_size == 0:
        raise DataError("the file is empty", file=str(path))
    options = options or TableOptions()
    if options.separator is not None or not options.header:
        raise DataError(
            "a .txt file is read as one text a line, without columns: leave out --separator and --no-header, or "
            "rename it to .csv",
            file=str(path),
        )
    encoding, note = encoding_of(path, options.encoding)
    count = blank = 0
    first: list[str] = []
    for line in _lines(path, encoding):
        count, blank = count + bool(line.strip()), blank + (not line.strip())
        first += [line] if line.strip() and len(first) < SAMPLE else []
    if not count:
        raise DataError("the file holds no text", file=str(path))
    _check_no_table(first, path)
    skipped = f", {blank} blank lines skipped" if blank else ""
    done = [0]

    def parts() -> Iterator[list[Row]]:
        texts = (line for line in _lines(path, encoding) if line.strip())
        while part := [{"text": text} for text in islice(texts, rows)]:
            done[0] += len(part)
            yield part

    notes = ", ".join(filter(None, [f"one text a line: {count} texts{skipped}", note]))
    return Chunks(str(path), ["text"], {"text": pyarrow.string()}, parts(), lambda: done[0] / count, notes)


SAMPLE = 50
"""Lines of a .txt file that are looked at for the columns of a table."""


def _check_no_table(first: list[str], path: Path) -> None:
    tabs = {line.count("\t") for line in first}
    if len(first) > 1 and len(tabs) == 1 and tabs != {0}:
        raise DataError(
            "each line holds tabs, as a table does, and a .txt file is read as one text a line: rename it to .tsv, "
            "with the names of its columns in the first line",
            file=str(path),
        )


def _lines(path: Path, encoding: str) -> Iterator[str]:
    with path.open(encoding=encoding, newline="\n") as stream:
        for line in stream:
            yield line.rstrip("\r\n")


def looks_like_file(argument: str) -> bool:
    """Whether an argument ends like a file, or is a single word that begins like a path."""
    word = argument.strip().strip("'\"").strip()
    if "\n" in word or len(word) > LONGEST_NAME:
        return False
    suffix = Path(word).suffix.lower()
    if suffix in (*SUFFIXES, LINES, *UNREAD):
        return True
    if len(word.split()) != 1:
        return False
    is_address = "://" in word or word.lower().startswith("www.")
    return not is_address and (suffix in UNREAD_WORDS or PATH.fullmatch(word) is not None)


def _exists(argument: str) -> bool:
    if not argument.strip() or len(argument) > LONGEST_NAME:
        return False
    try:
        return Path(argument).exists()
    except (OSError, ValueError):  # too long for a name, or with a zero byte in it
        return False


def _file(argument: str) -> Path:
    path = Path(argument)
    suffix = path.suffix.lower()
    readable = f"predict and zero-shot read {', '.join(SUFFIXES)}, and {LINES} with one text a line"
    if path.is_dir():
        raise BadRequest(f"{path} is a folder: name one file in it; {AS_TEXT}")
    if not path.exists():
        raise BadRequest(f"there is no file {path}: an argument that ends like a file is read as one; {AS_TEXT}")
    if suffix not in (*SUFFIXES, LINES):
        way = f"{UNREAD[suffix]}; " if suffix in UNREAD else ""
        raise BadRequest(f"the file {path} cannot be read: {readable}; {way}{AS_TEXT}")
    if suffix == LINES and not path.is_file():
        raise BadRequest(f"{path} is no regular file")
    return path


def _standard_input() -> list[str]:
    if sys.stdin is None or sys.stdin.isatty():
        raise BadRequest("standard input is a terminal: pipe texts into it, one a line")
    try:
        content = sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadRequest(f"standard input is not UTF-8 text ({error.reason} at byte {error.start})") from error
    texts = [line.rstrip("\r") for line in content.split("\n") if line.strip()]
    if not texts:
        raise BadRequest("standard input holds no text: pipe texts into it, one a line")
    return texts

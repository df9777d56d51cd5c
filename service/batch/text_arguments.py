"""The arguments of `predict` and `zero-shot`: texts, a file of texts, or `-` for standard input."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from finetune.core.tables.formats import FORMATS, SUFFIXES, TEXT_SUFFIXES, listed
from finetune.core.tables.text_file import suffix_of
from service.errors import BadRequest

STANDARD_INPUT = "-"

UNPACK, SHEET, DOCUMENT = "unpack it first", "save it as .xlsx or .csv", "save its texts as .txt, one a line"
UNREADABLE = {
    **dict.fromkeys((".ndjson", ".jsonlines"), "rename it to .jsonl"),
    **dict.fromkeys((".gz", ".bz2", ".xz", ".zst", ".zip", ".tgz", ".tar", ".7z", ".rar"), UNPACK),
    **dict.fromkeys((".xlsm", ".xlsb", ".ods", ".numbers"), SHEET),
    **dict.fromkeys((".docx", ".doc", ".odt", ".rtf", ".pdf", ".pptx", ".epub"), DOCUMENT),
    **dict.fromkeys((".orc", ".avro", ".pq"), "save it as .parquet"),
    **dict.fromkeys((".pkl", ".pickle", ".h5", ".hdf5", ".npy", ".npz", ".rds", ".sav", ".dta"), "save it as .parquet"),
    **dict.fromkeys((".sqlite", ".sqlite3", ".db", ".mdb", ".sql"), "export the table as .csv"),
    **dict.fromkeys((".tab", ".psv", ".dat"), "rename it to .tsv or .csv"),
}
"""Suffixes of files that cannot be read -> what to do; an argument that ends in one is never classified as a text."""

UNREADABLE_WORDS = (".md", ".html", ".htm", ".xml", ".yaml", ".yml", ".log", ".ipynb", ".toml", ".ini", ".tex")
"""More such suffixes, for arguments of a single word: a sentence may end in one."""

PATH = re.compile(r"\.{1,2}[/\\]\S*|~/\S*|/[^/\s]+/\S*|[A-Za-z]:[\\/]\S*|\\\\\S+")
"""An argument that begins like a path and holds no blank."""

LONGEST_NAME = 4096
AS_TEXT = "to classify these words themselves, pipe them in: echo '...' | rehead predict MODEL -"


def parse_arguments(arguments: Sequence[str]) -> Path | list[str]:
    """Return the file that a single argument names, or the arguments as texts.

    A single `-` reads texts from standard input, one a line; no line of it is taken for a file name.

    Raises:
        BadRequest: an argument looks like a file that does not exist or cannot be read, or a file is one of several
            arguments.
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


def looks_like_file(argument: str) -> bool:
    """Return whether an argument ends in a file's suffix, or is a single word that begins like a path."""
    word = argument.strip().strip("'\"").strip()
    if "\n" in word or len(word) > LONGEST_NAME:
        return False
    suffix = Path(word).suffix.lower()
    if suffix_of(word) in FORMATS or suffix in UNREADABLE:
        return True
    if len(word.split()) != 1:
        return False
    is_address = "://" in word or word.lower().startswith("www.")
    return not is_address and (suffix in UNREADABLE_WORDS or PATH.fullmatch(word) is not None)


def _exists(argument: str) -> bool:
    if not argument.strip() or len(argument) > LONGEST_NAME:
        return False
    try:
        return Path(argument).exists()
    except (OSError, ValueError):  # too long for a name, or with a zero byte in it
        return False


def _file(argument: str) -> Path:
    path = Path(argument)
    suffix = suffix_of(path)
    readable = f"predict and zero-shot read {listed(SUFFIXES)}, and {listed(TEXT_SUFFIXES)} with one text a line"
    if path.is_dir():
        raise BadRequest(f"{path} is a folder: name one file in it, or pass --engine ray; {AS_TEXT}")
    if not path.exists():
        raise BadRequest(
            f"there is no file {path}, and an argument that looks like a file name is read as one; {AS_TEXT}"
        )
    if suffix not in FORMATS:
        fix = f"{UNREADABLE[path.suffix.lower()]}; " if path.suffix.lower() in UNREADABLE else ""
        raise BadRequest(f"the file {path} cannot be read: {readable}; {fix}{AS_TEXT}")
    if suffix in TEXT_SUFFIXES and not path.is_file():
        raise BadRequest(f"{path} is not a regular file")
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

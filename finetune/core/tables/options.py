"""Options for reading a table file: what is named here is not detected."""

from __future__ import annotations

import codecs
import difflib
from dataclasses import dataclass

from finetune.core.errors import ConfigError

ENCODINGS = (
    *("utf-8", "utf-16", "cp1252", "cp1250", "cp1251", "koi8-r", "gb18030", "big5", "shift_jis", "euc-jp", "euc-kr"),
    *("cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "iso8859-1", "iso8859-2", "iso8859-15", "mac-roman", "cp850"),
)
"""Encodings that are suggested; every text encoding that Python knows is accepted."""

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
"""Separators that are detected, and their names."""

NO_ENCODINGS = ("idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape", "utf-7")
"""Codecs of Python that no table is written in; the time of some grows with the square of a file's size."""


@dataclass(frozen=True)
class TableOptions:
    r"""How to read a table file; what is None is detected.

    Attributes:
        encoding: a name that Python's codecs know.
        separator: one character between the cells of CSV and TSV; `\t` and `tab` are accepted for a tab.
        header: whether the first row of CSV, TSV and Excel files names the columns; else they are `column_1`,
            `column_2` ...
        sheet: the sheet of an Excel file, by its name or its number from 1; None for the first that is shown.

    Raises:
        ConfigError: an unknown encoding, or a separator of several characters.
    """

    encoding: str | None = None
    separator: str | None = None
    header: bool = True
    sheet: str | None = None

    def __post_init__(self) -> None:
        try:
            if self.encoding is not None:
                check_encoding(self.encoding)
            if self.separator is not None:
                object.__setattr__(self, "separator", separator_named(self.separator))
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def named(self) -> list[str]:
        """Return the names of the options that are not left to detection."""
        names = {
            "encoding": self.encoding is not None,
            "separator": self.separator is not None,
            "header": not self.header,
            "sheet": self.sheet is not None,
        }
        return [name for name, is_named in names.items() if is_named]


def check_encoding(name: str) -> str:
    """Return the encoding's name unchanged.

    Raises:
        ValueError: Python knows no text encoding of that name.
    """
    try:
        "a".encode(name)  # refuses codecs between bytes too, such as base64
        if codecs.lookup(name).name.replace("_", "-") in NO_ENCODINGS:
            raise LookupError(name)
    except (LookupError, ValueError) as error:
        close = difflib.get_close_matches(name.lower(), ENCODINGS, n=1, cutoff=0.6)
        hint = f"did you mean {close[0]}?" if close else f"use a name such as {', '.join(ENCODINGS[:6])}"
        raise ValueError(f"there is no text encoding {name!r} (--encoding): {hint}") from error
    return name


def separator_named(text: str) -> str:
    r"""Return the character that a separator's spelling stands for: itself, or a tab for `\t` and `tab`.

    Raises:
        ValueError: the text has several characters, or one that cannot separate cells.
    """
    separator = "\t" if text.lower() in ("\\t", "tab") else text
    if len(separator) != 1 or separator in '"\r\n\0':
        raise ValueError(f"the separator {text!r} (--separator) should be one character, or tab, and no quote")
    return separator

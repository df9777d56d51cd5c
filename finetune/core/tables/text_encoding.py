"""The encoding of a text file, found from all of its bytes.

A byte order mark, UTF-8 and UTF-16 are certain. Of older encodings, one is taken only where the language of the text
speaks for it and against all others; else the file is refused with those that it may be.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from finetune.core.errors import DataError
from finetune.core.tables.legacy_encodings import guess

BLOCK = 1 << 20
LONGEST_LINE = 64 * 2**20
"""Bytes that a line may have, at most."""

MARKS = {
    codecs.BOM_UTF8: ("utf-8-sig", None),
    codecs.BOM_UTF32_LE: ("utf-32", "UTF-32"),
    codecs.BOM_UTF32_BE: ("utf-32", "UTF-32"),
    codecs.BOM_UTF16_LE: ("utf-16", "UTF-16"),
    codecs.BOM_UTF16_BE: ("utf-16", "UTF-16"),
    b"\x84\x31\x95\x33": ("gb18030", "GB18030"),
}
"""Byte order mark -> the encoding's name in Python, and how it is reported; UTF-32 before UTF-16, whose mark it begins
with."""

OTHER_KINDS = {
    b"PK\x03\x04": "a zip or Excel file (.xlsx): save the sheet as CSV UTF-8",
    b"\xd0\xcf\x11\xe0": "an old Office file (.xls): save the sheet as CSV UTF-8",
    b"\x1f\x8b": "gzip-compressed: unpack it with gunzip",
    b"BZh": "bzip2-compressed: unpack it with bunzip2",
    b"\xfd7zXZ": "xz-compressed: unpack it with unxz",
    b"(\xb5/\xfd": "zstd-compressed: unpack it with unzstd",
    b"7z\xbc\xaf": "a 7z archive: unpack it",
    b"Rar!": "a RAR archive: unpack it",
    b"%PDF": "a PDF document: export its table as CSV",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"PAR1": "a Parquet file: name it .parquet",
    b"SQLite format 3": "an SQLite database: export its table as CSV",
    b"{\\rtf": "an RTF document: export its table as CSV",
    b"ARROW1": "an Arrow file: write it as Parquet",
}

NAMES = {
    **{f"cp{number}": f"Windows-{number}" for number in range(1250, 1258)},
    **{f"iso8859_{number}": f"ISO-8859-{number}" for number in (2, 5, 6, 7, 15)},
    "cp874": "Windows-874",
    "koi8_r": "KOI8-R",
    "koi8_u": "KOI8-U",
    "mac_cyrillic": "Mac Cyrillic",
    "gb18030": "GB18030",
    "big5hkscs": "Big5",
    "cp932": "Shift-JIS",
    "euc_jp": "EUC-JP",
    "cp949": "EUC-KR",
    "cp850": "cp850",
    "cp852": "cp852",
    "cp866": "cp866",
    "mac_roman": "Mac Roman",
    "iso2022_jp": "ISO-2022-JP",
    "utf-16-le": "UTF-16",
    "utf-16-be": "UTF-16",
    "utf-32-le": "UTF-32",
    "utf-32-be": "UTF-32",
}
"""Encoding -> how it is reported."""

UTF8_CHARACTER = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
UTF8_SHARE = 0.6
"""Share of bytes beyond ASCII that stand in whole UTF-8 characters from which a file is UTF-8 with damage."""

SAMPLE_BYTES, LINE_BYTES = 1 << 14, 1 << 12


@dataclass(frozen=True)
class Scan:
    """What one pass over a file's bytes shows: the line of its first byte that is not UTF-8 (None: it is UTF-8), and
    whether there are zero bytes."""

    broken_line: int | None
    has_zeros: bool


def encoding_of(file: Path, name: str | None = None) -> tuple[str, str | None]:
    """The file's encoding by Python's name, and how to report it where it is not UTF-8; all of it can be decoded.

    Args:
        name: the encoding, where it is known.

    Raises:
        DataError: a file of another kind, bytes that are not in this encoding (says the line), or an encoding that is
            not certain.
    """
    with file.open("rb") as stream:
        head = stream.read(4096)
    _check_kind(file, head)
    mark = next((mark for mark in MARKS if head.startswith(mark)), None)
    if name is not None:
        codec = _with_mark(file, codecs.lookup(name).name, mark)
        _check_decodes(file, codec, NAMES.get(codec, name))
        return codec, None if codec == "utf-8-sig" else f"encoding {NAMES.get(codec, name)}"
    if mark is not None:
        codec, shown = MARKS[mark]
        _check_decodes(file, codec, shown or "UTF-8")
        return codec, f"encoding {shown}" if shown else None
    found = scanned(file)
    kind = _wide(file) if found.has_zeros else None
    if kind is None and found.broken_line is None:
        if b"\x1b$" not in head:
            return "utf-8-sig", None
        kind = "iso2022_jp"
    if kind is None:
        if found.has_zeros:
            raise DataError("not a text file (it holds zero bytes)", file=str(file))
        kind = _legacy(file, found.broken_line or 1)
    _check_decodes(file, kind, NAMES.get(kind, kind))
    return kind, f"encoding {NAMES.get(kind, kind)}"


def scanned(file: Path) -> Scan:
    """One pass over the bytes of a file, in constant memory.

    Raises:
        DataError: a line of more than `LONGEST_LINE` bytes.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    lines, since, broken, zeros = 1, 0, None, False
    for block in blocks(file):
        zeros = zeros or b"\0" in block
        if broken is None:
            try:
                decoder.decode(block)
            except UnicodeDecodeError as error:
                held = len(error.object) - len(block)  # bytes that the decoder kept from the block before
                broken = lines + block.count(b"\n", 0, max(0, error.start - held))
        breaks = block.count(b"\n")
        last = max(block.rfind(b"\n"), block.rfind(b"\r"))
        since = since + len(block) if last < 0 else len(block) - last
        lines += breaks
        if since > LONGEST_LINE:
            raise DataError(f"line {lines} has more than {LONGEST_LINE} bytes", file=str(file))
    if broken is None:
        try:
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            broken = lines
    return Scan(broken, zeros)


def blocks(file: Path) -> Iterator[bytes]:
    """The bytes of a file, a megabyte at a time."""
    with file.open("rb") as stream:
        while block := stream.read(BLOCK):
            yield block


def _check_kind(file: Path, head: bytes) -> None:
    kind = next((kind for start, kind in OTHER_KINDS.items() if head.startswith(start)), None)
    if kind is None and re.match(rb"\s*<(!doctype html|html)\b", head, re.IGNORECASE):
        kind = "a web page (HTML): download the table itself"
    if kind is not None:
        raise DataError(f"not a {file.suffix.lower()} table but {kind}", file=str(file))


def _with_mark(file: Path, codec: str, mark: bytes | None) -> str:
    """A named encoding in the form that skips the file's mark, or that does without one."""
    if codec == "utf-8":
        return "utf-8-sig"
    if codec == "utf-16" and mark is None:
        found = _wide(file)
        return found if found is not None else "utf-16-le"
    marked = MARKS[mark][0] if mark is not None else ""
    if marked and not codec.startswith(marked.removesuffix("-sig")):
        raise DataError(
            f"the file begins with the byte order mark of {marked.removesuffix('-sig')}, and --encoding says {codec}: "
            "leave --encoding out",
            file=str(file),
        )
    return marked or codec


def _check_decodes(file: Path, codec: str, shown: str) -> None:
    decoder = codecs.getincrementaldecoder(codec)()
    line = 1
    try:
        for block in blocks(file):
            text = decoder.decode(block)
            line += text.count("\n") or text.count("\r")
        decoder.decode(b"", final=True)
    except UnicodeError as error:
        if isinstance(error, UnicodeDecodeError):
            line += error.object[: error.start].decode(codec, "ignore").count("\n")
        raise DataError(
            f"line {line} is not {shown} text. Save the file as UTF-8, or name its encoding with --encoding",
            file=str(file),
        ) from error


def _wide(file: Path) -> str | None:
    """UTF-16 or UTF-32 without a mark; None where a file with zero bytes is neither."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        head = stream.read(1 << 16)
    for codec, width in (("utf-32-le", 4), ("utf-32-be", 4), ("utf-16-le", 2), ("utf-16-be", 2)):
        if size % width:
            continue
        try:
            text = codecs.getincrementaldecoder(codec)().decode(head)
        except UnicodeDecodeError:
            continue
        odd = sum(unicodedata.category(one) in ("Cn", "Co", "Cc", "Cs") and one not in "\t\n\r" for one in text[:5000])
        if odd <= 0.01 * min(len(text), 5000) and ("\n" in text or "\r" in text):
            return codec
    return None


def _legacy(file: Path, broken_line: int) -> str:
    """The encoding of a file that is neither UTF-8 nor UTF-16, from its lines that hold more than ASCII."""
    sample = _sample(file)
    whole = sum(map(len, UTF8_CHARACTER.findall(sample)))
    if whole >= UTF8_SHARE * sum(byte >= 0x80 for byte in sample):
        raise DataError(
            f"line {broken_line} is not UTF-8 text, and other lines are. Save the file as UTF-8 once more, or name its "
            "encoding with --encoding",
            file=str(file),
        )
    verdict, candidates = guess(sample)
    if verdict is None:
        likely = f" (it may be {' or '.join(NAMES.get(one, one) for one in candidates[:4])})" if candidates else ""
        raise DataError(
            f"line {broken_line} is not UTF-8 text, and its encoding is not certain{likely}. Name it with --encoding "
            f"({', '.join(candidates[:4] or ['cp1252', 'cp850', 'mac-roman'])} ...), or save the file as UTF-8",
            file=str(file),
        )
    return verdict


def _sample(file: Path) -> bytes:
    """Lines with bytes beyond ASCII, from the whole file, of about `SAMPLE_BYTES`."""
    found: list[bytes] = []
    size, rest = 0, b""
    for block in blocks(file):
        lines = (rest + block).split(b"\n")
        rest = lines.pop()[:BLOCK]
        for line in [line for line in lines if not line.isascii()][: None if size < SAMPLE_BYTES else 1]:
            found.append(_shortened(line))
            size += len(found[-1])
            if size > 2 * SAMPLE_BYTES:
                return b"\n".join(found)
    if not rest.isascii():
        found.append(_shortened(rest))
    return b"\n".join(found)


def _shortened(line: bytes) -> bytes:
    """The part of a line around its first byte beyond ASCII; its ends fall on ASCII marks, never within a character."""
    if len(line) <= LINE_BYTES:
        return line
    first = next(place for place, byte in enumerate(line) if byte >= 0x80)
    start = max((line.rfind(mark, 0, first) for mark in (b" ", b",", b";", b"\t")), default=0) + 1
    part = line[start : start + LINE_BYTES]
    ends = [match.end() for match in re.finditer(rb"[ ,;\t\"]", part)]
    return part[: ends[-1]] if ends else part

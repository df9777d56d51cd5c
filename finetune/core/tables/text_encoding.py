"""The encoding of a text file, detected from all of its bytes.

A byte order mark, UTF-8 and UTF-16 are certain. An older encoding is accepted only if the language of the text fits it
and no other; else the file is refused, with the encodings that are likely.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from finetune.core.errors import DataError
from finetune.core.tables.legacy_encodings import guess
from finetune.core.tables.text_file import TextFile

BLOCK = 1 << 20
MAX_LINE_BYTES = 64 * 2**20
"""Bytes that a line may have."""

MARKS = {
    codecs.BOM_UTF8: ("utf-8-sig", None),
    codecs.BOM_UTF32_LE: ("utf-32", "UTF-32"),
    codecs.BOM_UTF32_BE: ("utf-32", "UTF-32"),
    codecs.BOM_UTF16_LE: ("utf-16", "UTF-16"),
    codecs.BOM_UTF16_BE: ("utf-16", "UTF-16"),
    b"\x84\x31\x95\x33": ("gb18030", "GB18030"),
}
"""Byte order mark -> the encoding's name in Python, and its name in messages. UTF-32 comes before UTF-16, with whose
mark its own begins."""

OTHER_KINDS = {
    b"PK\x03\x04": "a zip or Excel file: name it .xlsx if it is one, or unpack it",
    b"\xd0\xcf\x11\xe0": "an old Office file: name it .xls if it is a sheet",
    b"\x1f\x8b": "gzip-compressed: add .gz to its name",
    b"BZh": "bzip2-compressed: unpack it with bunzip2",
    b"\xfd7zXZ": "xz-compressed: unpack it with unxz",
    b"(\xb5/\xfd": "zstd-compressed: add .zst to its name",
    b"7z\xbc\xaf": "a 7z archive: unpack it",
    b"Rar!": "a RAR archive: unpack it",
    b"%PDF": "a PDF document: export its table as CSV",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"PAR1": "a Parquet file: name it .parquet",
    b"SQLite format 3": "an SQLite database: export its table as CSV",
    b"{\\rtf": "an RTF document: export its table as CSV",
    b"ARROW1": "an Arrow file: name it .arrow",
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
"""Encoding by Python's name -> its name in messages."""

UTF8_CHARACTER = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
UTF8_FRACTION = 0.6
"""Fraction of bytes beyond ASCII in complete UTF-8 characters, from which on a file is UTF-8 with damage."""

SAMPLE_BYTES, LINE_BYTES = 1 << 14, 1 << 12


@dataclass(frozen=True)
class Scan:
    """What one pass over a file's bytes shows.

    Attributes:
        broken_line: line of the first byte that is not UTF-8; None if the file is UTF-8.
        has_zeros: whether there are zero bytes.
    """

    broken_line: int | None
    has_zeros: bool


def encoding_of(file: TextFile, name: str | None = None, *, has_lines: bool = True) -> tuple[str, str | None]:
    """Return the file's encoding by Python's name, and a note on it if it is not UTF-8; the whole file can be decoded.

    Args:
        name: the encoding, if it is known.
        has_lines: whether lines are limited to `MAX_LINE_BYTES`; otherwise one may be as long as the file.

    Raises:
        DataError: the file is no text, holds bytes that are not in the encoding (names the line), or its encoding is
            not certain.
    """
    with file.open() as stream:
        head = stream.read(4096)
    if not head:
        raise DataError("the file is empty", file=str(file))
    _check_kind(file, head)
    mark = next((mark for mark in MARKS if head.startswith(mark)), None)
    codec: str | None
    if name is not None:
        codec = _with_mark(file, codecs.lookup(name).name, mark)
        _check_decodes(file, codec, NAMES.get(codec, name))
        return codec, None if codec == "utf-8-sig" else f"encoding {NAMES.get(codec, name)}"
    if mark is not None:
        codec, shown = MARKS[mark]
        _check_decodes(file, codec, shown or "UTF-8")
        return codec, f"encoding {shown}" if shown else None
    scan = scanned(file, has_lines=has_lines)
    codec = _wide(file) if scan.has_zeros else None
    if codec is None and scan.broken_line is None:
        if b"\x1b$" not in head:
            return "utf-8-sig", None
        codec = "iso2022_jp"
    if codec is None:
        if scan.has_zeros:
            raise DataError("not a text file (it holds zero bytes)", file=str(file))
        codec = _legacy(file, scan.broken_line or 1)
    _check_decodes(file, codec, NAMES.get(codec, codec))
    return codec, f"encoding {NAMES.get(codec, codec)}"


def scanned(file: TextFile, *, has_lines: bool = True) -> Scan:
    """Return what one pass over the bytes of a file shows, in constant memory.

    Raises:
        DataError: a line has more than `MAX_LINE_BYTES` bytes.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    lines, since, broken, zeros = 1, 0, None, False
    for block in blocks(file):
        zeros = zeros or b"\0" in block
        if broken is None:
            try:
                decoder.decode(block)
            except UnicodeDecodeError as error:
                pending = len(error.object) - len(block)  # bytes that the decoder kept from the previous block
                broken = lines + block.count(b"\n", 0, max(0, error.start - pending))
        breaks = block.count(b"\n")
        last = max(block.rfind(b"\n"), block.rfind(b"\r"))
        since = since + len(block) if last < 0 else len(block) - last
        lines += breaks
        if has_lines and since > MAX_LINE_BYTES:
            raise DataError(f"line {lines} has more than {MAX_LINE_BYTES} bytes: break it up", file=str(file))
    if broken is None:
        try:
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            broken = lines
    return Scan(broken, zeros)


def blocks(file: TextFile) -> Iterator[bytes]:
    """Yield the bytes of a file, a megabyte at a time."""
    with file.open() as stream:
        while block := stream.read(BLOCK):
            yield block


def _check_kind(file: TextFile, head: bytes) -> None:
    kind = next((kind for start, kind in OTHER_KINDS.items() if head.startswith(start)), None)
    if kind is None and re.match(rb"\s*<(!doctype html|html)\b", head, re.IGNORECASE):
        kind = "a web page (HTML): download the table itself"
    if kind is not None:
        raise DataError(f"not a {file.suffix} table but {kind}", file=str(file))


def _with_mark(file: TextFile, codec: str, mark: bytes | None) -> str:
    """Return the codec for a named encoding that skips the file's byte order mark, or expects none."""
    if codec == "utf-8":
        return "utf-8-sig"
    if codec == "utf-16" and mark is None:
        return _wide(file) or "utf-16-le"
    marked = MARKS[mark][0] if mark is not None else ""
    if marked and not codec.startswith(marked.removesuffix("-sig")):
        raise DataError(
            f"the file begins with the byte order mark of {marked.removesuffix('-sig')}, and --encoding says {codec}: "
            "leave out --encoding",
            file=str(file),
        )
    return marked or codec


def _check_decodes(file: TextFile, codec: str, shown: str) -> None:
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


def _wide(file: TextFile) -> str | None:
    """Return the codec of a file in UTF-16 or UTF-32 without a byte order mark; None if it is neither."""
    with file.open() as stream:
        head = stream.read(1 << 16)
        size = len(head) + sum(map(len, iter(lambda: stream.read(BLOCK), b"")))
    for codec, width in (("utf-32-le", 4), ("utf-32-be", 4), ("utf-16-le", 2), ("utf-16-be", 2)):
        if size % width:
            continue
        try:
            text = codecs.getincrementaldecoder(codec)().decode(head)
        except UnicodeDecodeError:
            continue
        odd = sum(
            unicodedata.category(letter) in ("Cn", "Co", "Cc", "Cs") and letter not in "\t\n\r"
            for letter in text[:5000]
        )
        if odd <= 0.01 * min(len(text), 5000) and ("\n" in text or "\r" in text):
            return codec
    return None


def _legacy(file: TextFile, broken_line: int) -> str:
    """Return the encoding of a file that is neither UTF-8 nor UTF-16, from its lines that are not ASCII."""
    sample = _sample(file)
    whole = sum(map(len, UTF8_CHARACTER.findall(sample)))
    if whole >= UTF8_FRACTION * sum(byte >= 0x80 for byte in sample):
        raise DataError(
            f"line {broken_line} is not UTF-8 text, and other lines are. Save the file as UTF-8 again, or name its "
            "encoding with --encoding",
            file=str(file),
        )
    verdict, candidates = guess(sample)
    if verdict is None:
        likely = (
            f" (it may be {' or '.join(NAMES.get(codec, codec) for codec in candidates[:4])})" if candidates else ""
        )
        raise DataError(
            f"line {broken_line} is not UTF-8 text, and its encoding is not certain{likely}. Name it with --encoding "
            f"({', '.join(candidates[:4] or ['cp1252', 'cp850', 'mac-roman'])} ...), or save the file as UTF-8",
            file=str(file),
        )
    return verdict


def _sample(file: TextFile) -> bytes:
    """Return lines that are not ASCII from the whole file, about `SAMPLE_BYTES` of them."""
    sample: list[bytes] = []
    size, rest = 0, b""
    for block in blocks(file):
        lines = (rest + block).split(b"\n")
        rest = lines.pop()[:BLOCK]
        for line in [line for line in lines if not line.isascii()][: None if size < SAMPLE_BYTES else 1]:
            sample.append(_shortened(line))
            size += len(sample[-1])
            if size > 2 * SAMPLE_BYTES:
                return b"\n".join(sample)
    if not rest.isascii():
        sample.append(_shortened(rest))
    return b"\n".join(sample)


def _shortened(line: bytes) -> bytes:
    """Return the part of a line around its first byte beyond ASCII, cut at ASCII marks and never within a character."""
    if len(line) <= LINE_BYTES:
        return line
    first = next(place for place, byte in enumerate(line) if byte >= 0x80)
    start = max((line.rfind(mark, 0, first) for mark in (b" ", b",", b";", b"\t")), default=0) + 1
    part = line[start : start + LINE_BYTES]
    ends = [match.end() for match in re.finditer(rb"[ ,;\t\"]", part)]
    return part[: ends[-1]] if ends else part

"""The inputs of a scoring job on several machines: files of any file system, cut into parts that are scored alone."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from finetune.core.errors import DataError
from finetune.core.labels import shown
from finetune.core.tables.formats import FORMATS, SUFFIXES, TEXT_SUFFIXES, listed
from finetune.core.tables.text_file import suffix_of
from service.errors import BadRequest

PARQUET = ".parquet"
PART_ROWS = 50_000
"""Rows from which on a Parquet file is cut, between two row groups; other files are one part each."""

LISTED_AT_ONCE = 16


@dataclass(frozen=True)
class Part:
    """A piece of the input.

    Attributes:
        number: its place in the order of the rows.
        address: of its file, with the protocol.
        row_groups: those of a Parquet file that belong to it; None for the whole file.
        version: size and time or tag of the file, by which a change is noticed.
    """

    number: int
    address: str
    row_groups: tuple[int, ...] | None
    version: str

    def to_json(self) -> list[Any]:
        """Return the part as JSON."""
        return [self.number, self.address, self.row_groups and list(self.row_groups), self.version]


def parts_of(source: str) -> list[Part]:
    """Return the parts of a file, a folder or a pattern, in the order of their files' names; empty files have none.

    Raises:
        BadRequest: there is no such file, a file cannot be read, or names of folders hold columns (`lang=en`).
        DataError: a Parquet file is damaged.
    """
    system, addresses = _files(source)
    with ThreadPoolExecutor(LISTED_AT_ONCE) as pool:
        pieces = list(pool.map(lambda address: list(_pieces(system, address)), addresses))
    found = [piece for of_file in pieces for piece in of_file]
    if not found:
        raise BadRequest(f"{source}: the files hold no rows")
    return [Part(number, *piece) for number, piece in enumerate(found)]


@contextmanager
def local_file(part: Part) -> Iterator[Path]:
    """Give a file of this machine that holds the part."""
    system, path = file_system(part.address)
    if part.row_groups is None and is_local(system):
        yield Path(path)
        return
    with TemporaryDirectory(prefix="rehead-") as folder:
        file = Path(folder) / PurePosixPath(path).name
        if part.row_groups is None:
            system.get_file(path, str(file))
        else:
            _copy_row_groups(system, path, part.row_groups, file)
        yield file


def file_system(address: str) -> tuple[Any, str]:
    """Return the file system of an address and the path on it.

    Raises:
        BadRequest: the protocol is unknown, or its package is not installed.
    """
    import fsspec  # type: ignore[import-untyped]

    try:
        found: tuple[Any, str] = fsspec.core.url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise BadRequest(f"{address} cannot be opened ({error})") from error
    return found


def is_local(system: Any) -> bool:
    """Return whether a file system is that of this machine."""
    return "file" in ([system.protocol] if isinstance(system.protocol, str) else system.protocol)


def _files(source: str) -> tuple[Any, list[str]]:
    system, path = file_system(source)
    try:
        if any(sign in path for sign in "*?["):
            paths = system.glob(path)
        elif system.isdir(path):
            paths = system.find(path)
        else:
            paths = [path] if system.exists(path) else []
    except OSError as error:
        raise BadRequest(f"{source} cannot be listed ({error})") from error
    paths = sorted(found for found in paths if not _is_hidden(found, path) and not system.isdir(found))
    if not paths:
        raise BadRequest(f"{source}: there is no such file")
    unknown = [found for found in paths if suffix_of(found) not in FORMATS]
    if unknown:
        known = f"{listed(SUFFIXES)}, and {listed(TEXT_SUFFIXES)} with one text a line"
        fix = f"name the files with a pattern such as *.csv; {known} are read"
        raise BadRequest(f"{shown(unknown)} cannot be read: {fix}")
    columns = next((found for found in paths if "=" in str(PurePosixPath(found).parent)), None)
    if columns is not None:
        raise BadRequest(f"{columns}: columns in names of folders are not read: write them into the files")
    return system, paths


def _is_hidden(found: str, root: str) -> bool:
    """Return whether a file is none of the data: `_SUCCESS`, `.part.crc`, or in a folder of such a name."""
    inside = found[len(root) :] if found.startswith(root) and found != root else PurePosixPath(found).name
    return any(name.startswith(("_", ".")) for name in PurePosixPath(inside.lstrip("/")).parts)


def _pieces(system: Any, path: str) -> Iterator[tuple[str, tuple[int, ...] | None, str]]:
    """Yield address, row groups and version of each part of a file."""
    info = system.info(path)
    version = [info.get("size"), *(str(info[key]) for key in ("ETag", "mtime", "LastModified", "sha") if key in info)]
    address, named = str(system.unstrip_protocol(path)), " ".join(map(str, version))
    if not info.get("size"):
        return
    if suffix_of(path) != PARQUET:
        yield address, None, named
        return
    rows = _rows_of_groups(system, path)
    if sum(rows) <= PART_ROWS:
        if sum(rows):
            yield address, None, named
        return
    groups: list[int] = []
    for number, count in enumerate(rows):
        groups.append(number)
        if sum(rows[group] for group in groups) >= PART_ROWS or number == len(rows) - 1:
            if count or len(groups) > 1:
                yield address, tuple(groups), named
            groups = []


def _rows_of_groups(system: Any, path: str) -> list[int]:
    import pyarrow
    import pyarrow.parquet

    try:
        with system.open(path) as stream, pyarrow.parquet.ParquetFile(stream) as source:
            metadata = source.metadata
            return [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"not a readable Parquet file ({' '.join(str(error).split())})", file=path) from error


def _copy_row_groups(system: Any, path: str, groups: tuple[int, ...], file: Path) -> None:
    import pyarrow.parquet

    with (
        system.open(path) as stream,
        pyarrow.parquet.ParquetFile(stream) as source,
        pyarrow.parquet.ParquetWriter(file, source.schema_arrow) as writer,
    ):
        for group in groups:
            writer.write_table(source.read_row_group(group))

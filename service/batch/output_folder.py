"""The output of a scoring job on several machines: a folder of Parquet files, which appears once it is complete."""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path
from typing import Any

from finetune.core.tables.formats import FORMATS
from finetune.core.tables.text_file import suffix_of
from service.batch.parts import file_system, is_local
from service.errors import BadRequest

STATE, ATTEMPTS, COMPLETE = "_state.json", "_attempts", "_SUCCESS"
FILE = re.compile(r"part-(\d{6,})\.parquet")


class OutputFolder:
    """Files of a job, first in the folder `.NAME.staging` beside the output.

    A part's file is complete when it is there: it is written under another name and renamed.

    Args:
        address: of the output, a folder of any file system.

    Attributes:
        full_address: with the protocol.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self._system, self._path = file_system(self.address)
        self.full_address = str(self._system.unstrip_protocol(self._path))
        parent, _, name = self._path.rpartition("/")
        self._staging = f"{parent}/.{name}.staging" if parent else f".{name}.staging"
        self._state = f"{self._staging}/{STATE}"

    def check(self, identity: Any, *, overwrite: bool) -> None:
        """Raise for an output that cannot be written.

        Args:
            identity: of the job. What it had begun to write when it was stopped may be there.

        Raises:
            BadRequest: it names a table file, exists and may not be replaced, or holds other files.
        """
        if suffix_of(self.address) in FORMATS:
            raise BadRequest(f"{self.address}: --engine ray writes a folder of Parquet files: name a folder")
        if not self._system.exists(self._path):
            return
        if not self._system.isdir(self._path):
            raise BadRequest(f"{self.address} is a file: name a folder")
        found = self._system.find(self._path)
        others = [path for path in found if not FILE.fullmatch(name := _name(path)) and name != COMPLETE]
        if others:
            raise BadRequest(f"{self.address} holds other files ({others[0]}): name another folder")
        if not overwrite and found and not self._is_begun(identity):
            raise BadRequest(f"{self.address} exists already: name another folder, or pass --overwrite to replace it")

    def begin(self, identity: Any) -> dict[int, str]:
        """Return the files of an earlier job of the same identity, by part; those of another one are deleted.

        Args:
            identity: everything that decides the content of the output, as JSON.
        """
        if self._is_begun(identity):
            files = [(FILE.fullmatch(_name(path)), path) for path in self._system.find(self._staging)]
            return {int(match[1]): path for match, path in files if match}
        if self._system.exists(self._staging):
            self._system.rm(self._staging, recursive=True)
        self._system.makedirs(self._staging, exist_ok=True)
        self._system.pipe_file(self._state, json.dumps(identity).encode())
        return {}

    def _is_begun(self, identity: Any) -> bool:
        """Return whether the staging folder is that of a job of this identity."""
        try:
            return bool(json.loads(self._system.cat_file(self._state)) == json.loads(json.dumps(identity)))
        except (OSError, ValueError):
            return False  # missing or damaged: the job starts from the first part

    def attempt(self, run: str, number: int) -> int:
        """Record that a part is begun; return how often it was begun in this run."""
        folder = f"{self._staging}/{ATTEMPTS}/{run}/{number}"
        self._system.makedirs(folder, exist_ok=True)
        self._system.pipe_file(f"{folder}/{uuid.uuid4().hex}", b"begun")
        self._system.invalidate_cache(folder)
        return len(self._system.ls(folder, detail=False))

    def add(self, number: int, file: Path) -> None:
        """Put a part's file into the staging folder; the same part, put again, replaces it."""
        partial = f"{self._staging}/_{uuid.uuid4().hex}"
        self._system.put_file(str(file), partial)
        self._system.mv(partial, f"{self._staging}/part-{number:06d}.parquet")

    def read(self, path: str) -> tuple[list[str], int, int]:
        """Return the columns of a finished file with their types, its rows, and the rows that have an error."""
        import pyarrow.parquet

        with self._system.open(path) as stream, pyarrow.parquet.ParquetFile(stream) as source:
            schema = source.schema_arrow
            errors = source.read([schema.names[-1]]).column(0)
            types = [f"{field.name}: {field.type}" for field in schema]
            return types, len(errors), len(errors) - errors.null_count

    def finish(self) -> None:
        """Let the output appear, in place of an earlier one.

        A folder of this machine is renamed. Object stores cannot rename a folder: there the files are copied, and the
        file `_SUCCESS` is written last.
        """
        self._system.invalidate_cache()
        parts = [path for path in self._system.find(self._staging) if FILE.fullmatch(_name(path))]
        if self._system.exists(self._path):
            self._system.rm(self._path, recursive=True)
        if is_local(self._system):
            for path in (self._state, f"{self._staging}/{ATTEMPTS}"):
                if self._system.exists(path):
                    self._system.rm(path, recursive=True)
            self._system.mv(self._staging, self._path, recursive=True)
            return
        self._system.makedirs(self._path, exist_ok=True)
        for path in parts:
            self._system.copy(path, f"{self._path}/{_name(path)}")
        self._system.pipe_file(f"{self._path}/{COMPLETE}", b"")
        self._system.rm(self._staging, recursive=True)


def _name(path: str) -> str:
    return path.rpartition("/")[2]

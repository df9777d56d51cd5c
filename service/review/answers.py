"""The answers of reviewers in a JSON Lines file that is only ever appended to; several processes may append at once.

| key | what it holds |
|---|---|
| `id` | of the line |
| `time` | UTC, ISO 8601 |
| `reviewer` | who answered |
| `action` | `label`, `none_of_these`, `skip` or `undo` |
| `label` | the label, for `label` |
| `undoes` | the `id` of the answer that is taken back, for `undo` |
| `row`, `text_sha256`, `text` | row number in the table from 1, and its text |
| `held_out` | true: the answer measures, and is not trained on |
| `shown` | `model`, `strategy`, and `labels` as they were shown, with their scores |
"""

from __future__ import annotations

import json
import os
import secrets
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from finetune.core import file_lock
from finetune.core.errors import StorageError
from service.errors import BadRequest
from service.review.table import ReviewTable

Action = Literal["label", "none_of_these", "skip", "undo"]
ACTIONS = ("label", "none_of_these", "skip", "undo")
LOCK_TIMEOUT_S, LOCK_RETRY_S = 30.0, 0.005
MOST_LINES = 200_000
"""Lines of one file; a client of the web UI must not fill the disk."""


@dataclass(frozen=True)
class Shown:
    """What a reviewer saw: the model, the strategy, and labels with their scores, None where no score was shown."""

    model: str
    strategy: str
    labels: tuple[tuple[str, float | None], ...]


@dataclass(frozen=True)
class Answer:
    """One line of the file; see the module."""

    id: str
    time: str
    reviewer: str
    action: Action
    label: str | None
    undoes: str | None
    row: int
    text_sha256: str
    text: str
    held_out: bool
    shown: Mapping[str, Any] = field(default_factory=dict)


class AnswersFile:
    """The answers of a review; thread-safe, and safe to append to from several processes.

    Attributes:
        unreadable: lines that cannot be read, such as the half of a line that a killed process has left.

    Raises:
        BadRequest: the name does not end in .jsonl.
        StorageError: the file cannot be read or written.
    """

    def __init__(self, file: Path) -> None:
        if file.suffix.lower() != ".jsonl":
            raise BadRequest(f"{file}: answers are written as JSON Lines, so the name should end in .jsonl")
        self.file, self.unreadable = file, 0
        self._answers: list[Answer] = []
        self._read_bytes = 0
        self._lock = threading.RLock()
        with self._explained():
            os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))  # texts of users are in it
        self.refresh()

    def refresh(self) -> bool:
        """Read what other processes have appended; return whether there was any.

        Raises:
            BadRequest: the file holds lines of another kind.
        """
        with self._lock, self._explained(), self.file.open("rb") as stream:
            stream.seek(self._read_bytes)
            content = stream.read()
            whole = content.rfind(b"\n") + 1  # a line may be under way
            for line in content[:whole].splitlines():
                self._take(line)
            self._read_bytes += whole
            return whole > 0

    @property
    def cut_bytes(self) -> int:
        """Bytes behind the last whole line: what a process that was killed has left, or a line under way."""
        return self.file.stat().st_size - self._read_bytes

    def append(
        self,
        reviewer: str,
        action: Action,
        *,
        row: int,
        text_sha256: str,
        text: str,
        held_out: bool,
        shown: Shown,
        label: str | None = None,
        undoes: str | None = None,
    ) -> Answer:
        """Append an answer, which is on disk when this returns, and return it.

        Raises:
            BadRequest: the file is full.
            StorageError: it cannot be written.
        """
        labels = [{"label": name, "score": score} for name, score in shown.labels]
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        what = {"model": shown.model, "strategy": shown.strategy, "labels": labels}
        answer = Answer(
            secrets.token_hex(8), now, reviewer, action, label, undoes, row, text_sha256, text, held_out, what
        )
        line = json.dumps({key: value for key, value in vars(answer).items() if value is not None}, ensure_ascii=False)
        with self._lock, self._explained(), self.locked():
            self.refresh()
            if len(self._answers) >= MOST_LINES:
                raise BadRequest(f"{self.file.name} holds {MOST_LINES} answers, which is the limit: begin another file")
            self._write(line.encode("utf-8", "replace") + b"\n")
            self.refresh()
        return answer

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of the file, once other threads and processes have released it.

        Raises:
            StorageError: it is held for too long.
        """
        end = time.monotonic() + LOCK_TIMEOUT_S
        while True:
            try:
                lock = file_lock.held(self.file)
                lock.__enter__()
                break
            except BlockingIOError as error:
                if time.monotonic() > end:
                    raise StorageError(f"{self.file} is locked by another process: end it, and try again") from error
                time.sleep(LOCK_RETRY_S)
        try:
            yield
        finally:
            lock.__exit__(None, None, None)

    def check(self, table: ReviewTable) -> None:
        """Raise BadRequest where an answer is about a text that the table has not.

        Rows may have been added to the table since; they must not have changed.
        """
        known = set(table.hashes)
        for answer in self._answers:
            if answer.text_sha256 not in known:
                raise BadRequest(
                    f"{self.file} is about another table: {table.name} has no row with the text of its row "
                    f"{answer.row} ({answer.text[:60]!r}); name another file with -o"
                )

    def lines(self) -> list[Answer]:
        """Return every line in order, those of undo and those undone included."""
        with self._lock:
            return list(self._answers)

    def current(self) -> list[Answer]:
        """Return the answers that hold: without those undone, and of each reviewer and row the last."""
        lines = self.lines()
        undone = {line.undoes for line in lines if line.action == "undo"}
        last = {
            (line.text_sha256, line.reviewer): line for line in lines if line.action != "undo" and line.id not in undone
        }
        return list(last.values())

    def last_of(self, reviewer: str) -> Answer | None:
        """Return the latest answer of a reviewer that is not undone, None where there is none."""
        lines = self.lines()
        undone = {line.undoes for line in lines if line.action == "undo"}
        own = (line for line in reversed(lines) if line.reviewer == reviewer and line.action != "undo")
        return next((line for line in own if line.id not in undone), None)

    def _write(self, line: bytes) -> None:
        descriptor = os.open(self.file, os.O_RDWR | os.O_APPEND)
        try:
            size = os.fstat(descriptor).st_size
            if size and _last_byte(descriptor, size) != b"\n":
                line = b"\n" + line  # a process was killed within its line
            rest = memoryview(line)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _take(self, line: bytes) -> None:
        if not line.strip():
            return
        try:
            content = json.loads(line)
        except ValueError:
            self.unreadable += 1
            return
        try:
            answer = Answer(**({"label": None, "undoes": None} | content))
        except TypeError as error:
            raise BadRequest(
                f"{self.file} is no file of answers: a line has other keys ({error}); name another file with -o"
            ) from error
        if answer.action not in ACTIONS:
            raise BadRequest(f"{self.file} is no file of answers: action {answer.action!r} is none of {ACTIONS}")
        self._answers.append(answer)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"the answers in {self.file} cannot be read or written ({error.strerror}): make room, or name another "
                "file"
            ) from error


def _last_byte(descriptor: int, size: int) -> bytes:
    os.lseek(descriptor, size - 1, os.SEEK_SET)
    return os.read(descriptor, 1)


def decided(answers: Sequence[Answer]) -> dict[str, Answer]:
    """Return text hash -> the answer that holds for a row: that of its reviewers where they agree.

    Skipped rows, and rows whose reviewers disagree, have none.
    """
    by_row: dict[str, list[Answer]] = {}
    for answer in answers:
        if answer.action != "skip":
            by_row.setdefault(answer.text_sha256, []).append(answer)
    return {name: rows[0] for name, rows in by_row.items() if len({(row.action, row.label) for row in rows}) == 1}

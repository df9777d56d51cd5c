"""The scores of a teacher on disk, by text: a run that was killed, or has other settings, computes only the rest."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from finetune.core.errors import StorageError

Floats32 = npt.NDArray[np.float32]

NAME = "scores.sqlite3"


class ScoredText(NamedTuple):
    """A teacher's answer to one text.

    logits: log-scores `[L]`: of one label, logarithms of a distribution; of several, log-odds. None: no usable answer.
    fit: the probability that any label fits at all; NaN where the teacher has no such number.
    embedding: `[H]`, or None.
    """

    logits: Floats32 | None
    fit: float
    embedding: Floats32 | None


class ScoreCache:
    """Answers by text, for one teacher with its labels and templates.

    Args:
        file: SQLite file; created where there is none. Several teachers may share it.
        identity: everything beside the text that decides an answer, as JSON.

    Raises:
        StorageError: the file is no such cache, or cannot be written.
    """

    def __init__(self, file: Path, identity: Any) -> None:
        self._file = file
        context = json.dumps(identity, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass")
        self._salt = blake2b(context, digest_size=32).digest()
        with self._explained():
            file.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(file)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, logits BLOB, fit REAL, embedding BLOB) "
                "WITHOUT ROWID"
            )

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def get(self, texts: Sequence[str]) -> list[ScoredText | None]:
        """Return the answer to each text, None for those that have none yet."""
        with self._explained():
            rows = [
                self._database.execute(
                    "SELECT logits, fit, embedding FROM answers WHERE key = ?", (self._key(text),)
                ).fetchone()
                for text in texts
            ]
        return [None if row is None else _scored(*row) for row in rows]

    def put(self, texts: Sequence[str], answers: Sequence[ScoredText]) -> None:
        """Store answers; they are on disk when this returns."""
        rows = [
            (
                self._key(text),
                None if answer.logits is None else answer.logits.astype(np.float32).tobytes(),
                float(answer.fit),
                None if answer.embedding is None else answer.embedding.astype(np.float16).tobytes(),
            )
            for text, answer in zip(texts, answers, strict=True)
        ]
        with self._explained(), self._database:
            self._database.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", rows)

    def completed(
        self, texts: Sequence[str], compute: Callable[[list[str]], list[ScoredText]]
    ) -> tuple[list[ScoredText], int]:
        """Return the answer to each text, and how many were computed; those are stored first."""
        known = self.get(texts)
        missing = list(dict.fromkeys(text for text, answer in zip(texts, known, strict=True) if answer is None))
        fresh = dict(zip(missing, compute(missing), strict=True)) if missing else {}
        if fresh:
            self.put(missing, [fresh[text] for text in missing])
        answers = [answer or fresh[text] for text, answer in zip(texts, known, strict=True)]
        return answers, len(missing)

    def _key(self, text: str) -> bytes:
        return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16, key=self._salt).digest()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise StorageError(
                f"the cache of scores {self._file} cannot be used ({error}): make room, or delete it to start again"
            ) from error


def _scored(logits: bytes | None, fit: float | None, embedding: bytes | None) -> ScoredText:
    return ScoredText(
        None if logits is None else np.frombuffer(logits, dtype=np.float32),
        float("nan") if fit is None else fit,  # SQLite stores NaN as NULL
        None if embedding is None else np.frombuffer(embedding, dtype=np.float16).astype(np.float32),
    )

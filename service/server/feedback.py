"""Corrected answers, in a JSON Lines file that `rehead finetune` reads."""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from finetune.core.tokenization import without_surrogates
from service.errors import BadRequest


class Feedback:
    """Rows of `text` and `label`, with the model's name, its prediction, its score and the time.

    Raises:
        BadRequest: the file cannot be written, or its name does not end in .jsonl.
    """

    def __init__(self, file: Path, max_rows: int) -> None:
        self.file, self._max_rows = file, max_rows
        self._lock = threading.Lock()
        if file.suffix.lower() != ".jsonl":
            raise BadRequest(f"{file}: corrections are written as JSON Lines, so the name should end in .jsonl")
        try:
            os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))  # texts of users are in it
            with file.open("a+", encoding="utf-8", newline="\n") as stream:
                stream.seek(0)
                lines = [line.endswith("\n") for line in stream]
                self._rows = len(lines)
                if lines and not lines[-1]:
                    stream.write("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise BadRequest(f"{file} cannot hold corrections ({error})") from error

    def by_model(self) -> dict[str, int]:
        """Return the number of corrections by model."""
        counts = Counter(str(row.get("model")) for row in self._read())
        return dict(sorted(counts.items()))

    def rows_of(self, model: str) -> bytes:
        """Return the corrections of one model as JSON Lines: different models are seldom corrected for one task."""
        rows = (row for row in self._read() if row.get("model") == model)
        return "".join(json.dumps(row) + "\n" for row in rows).encode()

    def _read(self) -> Iterator[dict[str, Any]]:
        with self.file.open(encoding="utf-8") as stream:
            for line in stream:
                with suppress(ValueError):
                    row = json.loads(line)
                    if isinstance(row, dict):
                        yield row

    def add(self, text: str, label: str | list[str], *, model: str, predicted: str, score: float) -> int:
        """Append a row (several labels as a list) and return the number of rows.

        Raises:
            BadRequest: the file is full, or cannot be written.
        """
        row = {
            "text": without_surrogates(text),
            "label": label,
            "model": model,
            "predicted": predicted,
            "score": round(score, 4),
        }
        line = json.dumps(row | {"at": datetime.now(UTC).isoformat(timespec="seconds")}, ensure_ascii=False)
        with self._lock:
            if self._rows >= self._max_rows:
                raise BadRequest(
                    f"the file holds {self._max_rows} corrections, which is the limit: train on them first"
                )
            try:
                with self.file.open("a", encoding="utf-8") as stream:
                    stream.write(line + "\n")
            except OSError as error:
                raise BadRequest(f"the correction could not be written ({error.strerror})") from error
            self._rows += 1
            return self._rows

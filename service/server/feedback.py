"""Corrected answers, kept in a JSON Lines file that `rehead finetune` reads.

Knows: the file, how large it may become.
Does not know: models, the page.
"""

from __future__ import annotations

import json
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
    """Rows of `text` and `label`, with the model's name, what it said, its score and the time beside them.

    Raises:
        BadRequest: a file that cannot be written to, or whose name does not end in .jsonl.
    """

    def __init__(self, file: Path, most_rows: int) -> None:
        self.file, self._most = file, most_rows
        self._lock = threading.Lock()
        if file.suffix.lower() != ".jsonl":
            raise BadRequest(f"{file}: a file of corrections is JSON Lines: its name should end in .jsonl")
        try:
            with file.open("a+", encoding="utf-8", newline="\n") as stream:
                stream.seek(0)
                lines = [line.endswith("\n") for line in stream]
                self._rows = len(lines)
                if lines and not lines[-1]:
                    stream.write("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise BadRequest(f"{file} cannot hold corrections ({error})") from error

    def by_model(self) -> dict[str, int]:
        """How many are kept of each model's answers."""
        found = Counter(str(row.get("model")) for row in self._read())
        return dict(sorted(found.items()))

    def write(self, model: str, out: Path) -> None:
        """Write those of one model to a file: what different models are corrected in is seldom one task."""
        rows = [row for row in self._read() if row.get("model") == model]
        out.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def _read(self) -> Iterator[dict[str, Any]]:
        with self.file.open(encoding="utf-8") as stream:
            for line in stream:
                with suppress(ValueError):
                    row = json.loads(line)
                    if isinstance(row, dict):
                        yield row

    def keep(self, text: str, label: str | list[str], *, model: str, predicted: str, score: float) -> int:
        """Append a row (several labels as a list); how many there are now.

        Raises:
            BadRequest: the file is full, or cannot be written to.
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
            if self._rows >= self._most:
                raise BadRequest(f"{self._most} corrections are kept, which is the limit: train with them first")
            try:
                with self.file.open("a", encoding="utf-8") as stream:
                    stream.write(line + "\n")
            except OSError as error:
                raise BadRequest(f"the correction could not be written ({error.strerror})") from error
            self._rows += 1
            return self._rows

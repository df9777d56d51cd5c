"""Rows that are in front of a reviewer, in a file that all processes of a review share."""

from __future__ import annotations

import json
import time
from pathlib import Path

LEASE_S = 900.0
"""Seconds after which a row that nobody answered is offered to another reviewer."""


class Leases:
    """Row (the hash of its text) -> its reviewer, until it is answered or too old.

    `give` is called under the lock of the answers file, `AnswersFile.locked`.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def read(self) -> dict[str, tuple[str, float]]:
        """Return the leases that hold: row -> reviewer and time in seconds."""
        try:
            content = json.loads(self._file.read_text(encoding="utf-8"))
            leases = {str(row): (str(reviewer), float(since)) for row, (reviewer, since) in content.items()}
        except (OSError, ValueError, AttributeError, TypeError):
            return {}  # lost leases cost at most a row that two reviewers answer
        now = time.time()
        return {row: lease for row, lease in leases.items() if 0 <= now - lease[1] <= LEASE_S}

    def give(self, row: str, reviewer: str) -> None:
        """Record the row in front of a reviewer, who has one at a time."""
        leases = {name: lease for name, lease in self.read().items() if lease[0] != reviewer}
        partial = self._file.with_suffix(".partial")
        partial.write_text(json.dumps(leases | {row: (reviewer, time.time())}), encoding="utf-8")
        partial.replace(self._file)

"""Progress over texts is printed for each tenth of many, and not for few."""

from __future__ import annotations

import pytest

from finetune.core.event_printer import EventPrinter
from finetune.core.events import Processed

pytestmark = pytest.mark.fast


def test_each_tenth_of_many_texts_is_printed_once_and_no_progress_of_few(capsys) -> None:
    with EventPrinter() as printer:
        for done in range(0, 2001, 100):
            printer(Processed("scored", done, 2000, None))
        printer(Processed("embedded", 60, 60, 0.0))
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"scored {done:,} of 2,000 texts" for done in range(200, 2001, 200)]

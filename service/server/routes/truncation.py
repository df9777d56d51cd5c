"""What the dialects share about texts that are longer than the model reads."""

from __future__ import annotations

from collections.abc import Sequence

from service.errors import BadRequest
from service.schema import Answer


def refuse_truncated(answers: Sequence[Answer], *, option: str) -> None:
    """Raise BadRequest where a text was truncated; `option` is what the client sends to allow it."""
    places = [place for place, answer in enumerate(answers, start=1) if answer.truncated]
    if places:
        raise BadRequest(f"text {places[0]} is longer than the model reads", hint=f"send {option}, or a shorter text")

"""One HTTP request, as it is counted and logged."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from fastapi import Request

from service.inference.engine import Engine
from service.schema import Work

RECORD = "rehead.request"
"""The scope key of a request's record."""


@dataclass(slots=True, eq=False)
class RequestRecord:
    """One HTTP request.

    Attributes:
        client: the key's name, or the address where there is no key; limits are divided among clients.
        error_code: that of the error it was answered with.
        engine: the engine whose running requests include this one.
    """

    request_id: str
    key_name: str = "-"
    client: str = "-"
    model: str = "-"
    error_code: str = ""
    work: Work | None = None
    engine: Engine | None = None
    started: float = field(default_factory=time.perf_counter)


def record_of(request: Request) -> RequestRecord:
    """Return the record of a request, for routes to fill in."""
    record: RequestRecord = request.scope[RECORD]
    return record

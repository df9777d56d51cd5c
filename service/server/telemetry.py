"""What the server counts and what it writes down: Prometheus metrics, and a line of JSON for every request.

Knows: the names of metrics, what a log line may hold.
Does not know: HTTP. It never sees a text, a label of a caller's own, a key or a token.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from service.inference.batch_queue import Batch
from service.schema import Answer, Work

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
TOKENS = (16, 64, 256, 1024, 4096, 16384, 65536)
ROWS = (1, 2, 4, 8, 16, 32, 64, 256, 1024)
TENTHS = tuple(tenth / 10 for tenth in range(1, 11))
LABELS_COUNTED = 100
"""Labels of a model that are counted by name; the rest are counted together."""


class Telemetry:
    """The counts of one server.

    Args:
        write: takes a log line; default is standard error.
    """

    def __init__(self, write: Callable[[str], None] | None = None) -> None:
        self._write = write or _to_standard_error
        self.registry = CollectorRegistry()
        own: Any = {"registry": self.registry, "namespace": "rehead"}
        self._requests = Counter("requests", "Requests that were answered.", ("route", "model", "code"), **own)
        self._refused = Counter("refused", "Requests that were refused.", ("reason",), **own)
        self._seconds = Histogram("seconds", "Where a request's time goes.", ("stage",), buckets=SECONDS, **own)
        self._batch_rows = Histogram("batch_rows", "Rows of a batch.", ("model",), buckets=ROWS, **own)
        self._batch_tokens = Histogram("batch_tokens", "Tokens of a batch.", ("model",), buckets=TOKENS, **own)
        self._batch_seconds = Histogram("batch_seconds", "Seconds of a batch.", ("model",), buckets=SECONDS, **own)
        self._waiting = Gauge("waiting_tokens", "Tokens that wait for a model.", ("model",), **own)
        self._truncated = Counter("truncated_texts", "Texts that were cut.", ("model",), **own)
        self._labels = Counter("labels", "Top labels, of a model's own.", ("model", "label"), **own)
        self._scores = Histogram("top_score", "Scores of top labels.", ("model",), buckets=TENTHS, **own)
        self._restarts = Counter("model_restarts", "Models that were loaded anew.", ("model",), **own)

    def loaded(self, model: str, waiting: Callable[[], int]) -> None:
        """A model that is served from now on; its restarts are counted from 0."""
        self._waiting.labels(model).set_function(waiting)
        self._restarts.labels(model)

    def batch(self, model: str, batch: Batch) -> None:
        """A batch that was computed."""
        self._batch_rows.labels(model).observe(batch.rows)
        self._batch_tokens.labels(model).observe(batch.tokens)
        self._batch_seconds.labels(model).observe(batch.seconds)

    def restarted(self, model: str) -> None:
        """A model that was loaded anew."""
        self._restarts.labels(model).inc()

    def answers(self, model: str, answers: Sequence[Answer], *, own_labels: Sequence[str] | None) -> None:
        """What a model said; its labels are counted where they are the model's own, for a caller's are the caller's."""
        for answer in answers:
            best = answer.best
            if own_labels is not None:
                known = best.label in own_labels[:LABELS_COUNTED]
                self._labels.labels(model, best.label if known else "others").inc()
            self._scores.labels(model).observe(best.score)
            if answer.truncated:
                self._truncated.labels(model).inc()

    def request(
        self,
        *,
        identity: str,
        key: str,
        route: str,
        model: str,
        code: int,
        seconds: float,
        reason: str,
        work: Work | None,
    ) -> None:
        """A request that was answered or refused: counted, and written down."""
        self._requests.labels(route, model, str(code)).inc()
        if reason:
            self._refused.labels(reason).inc()
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request_id": identity,
            "key": key,
            "route": route,
            "model": model,
            "code": code,
            "seconds": round(seconds, 6),
        }
        if reason:
            line["reason"] = reason
        self._seconds.labels("request").observe(seconds)
        if work is not None and work.tokens:
            stages = {"queue": work.waiting_s, "tokenizing": work.tokenizing_s, "inference": work.computing_s}
            for stage, took in stages.items():
                self._seconds.labels(stage).observe(took)
            line |= {"tokens": work.tokens} | {f"{stage}_s": round(took, 6) for stage, took in stages.items()}
        self._write(json.dumps(line))

    def crash(self, identity: str, error: BaseException) -> None:
        """A fault of ours, where it happened; its message stays out, since it may hold what a caller sent."""
        places = []
        trace = error.__traceback__
        while trace is not None:
            code = trace.tb_frame.f_code
            places.append(f"{code.co_filename.rpartition('/')[2]}:{trace.tb_lineno} {code.co_name}")
            trace = trace.tb_next
        line = {"request_id": identity, "crash": type(error).__name__, "at": places[-12:]}
        self._write(json.dumps(line))

    def page(self) -> bytes:
        """The metrics in Prometheus' text form."""
        return generate_latest(self.registry)


def _to_standard_error(line: str) -> None:
    sys.stderr.write(line + "\n")


def quiet_libraries() -> None:
    """No log line of a library about requests: it may hold what a caller sent."""
    for name in ("uvicorn.access", "uvicorn.error", "gradio", "httpx", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)

"""Prometheus metrics, and one line of JSON for every request.

No text, candidate label, key or token may ever be passed to it.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from service.inference.batch_queue import Batch
from service.schema import Answer, Work

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
TOKENS = (16, 64, 256, 1024, 4096, 16384, 65536)
ROWS = (1, 2, 4, 8, 16, 32, 64, 256, 1024)
TENTHS = tuple(tenth / 10 for tenth in range(1, 11))
LABELS_COUNTED = 100
"""Labels of a model that are counted by name; all others are counted as `others`."""


class Telemetry:
    """The metrics and the log of one server.

    Args:
        write: writes a log line; default is to standard error.
    """

    def __init__(self, write: Callable[[str], None] | None = None) -> None:
        self._write = write or _to_standard_error
        self.registry = CollectorRegistry()
        own: Any = {"registry": self.registry, "namespace": "rehead"}
        self._requests = Counter("requests", "Requests answered.", ("route", "model", "code"), **own)
        self._refused = Counter("refused", "Requests refused.", ("reason",), **own)
        self._seconds = Histogram("seconds", "Seconds of a request by stage.", ("stage",), buckets=SECONDS, **own)
        self._batch_rows = Histogram("batch_rows", "Rows of a batch.", ("model",), buckets=ROWS, **own)
        self._batch_tokens = Histogram("batch_tokens", "Tokens of a batch.", ("model",), buckets=TOKENS, **own)
        self._batch_seconds = Histogram("batch_seconds", "Seconds of a batch.", ("model",), buckets=SECONDS, **own)
        self._waiting = Gauge("waiting_tokens", "Tokens in a model's queue.", ("model",), **own)
        self._truncated = Counter("truncated_texts", "Texts truncated.", ("model",), **own)
        self._labels = Counter("labels", "Top labels, of a model's own labels.", ("model", "label"), **own)
        self._scores = Histogram("top_score", "Scores of top labels.", ("model",), buckets=TENTHS, **own)
        self._restarts = Counter("model_restarts", "Times a model was restarted.", ("model",), **own)

    def loaded(self, model: str, waiting: Callable[[], int]) -> None:
        """Register a model that is served from now on, with 0 restarts."""
        self._waiting.labels(model).set_function(waiting)
        self._restarts.labels(model)

    def batch(self, model: str, batch: Batch) -> None:
        """Count a batch."""
        self._batch_rows.labels(model).observe(batch.rows)
        self._batch_tokens.labels(model).observe(batch.tokens)
        self._batch_seconds.labels(model).observe(batch.seconds)

    def restarted(self, model: str) -> None:
        """Count a restart of a model."""
        self._restarts.labels(model).inc()

    def answers(self, model: str, answers: Sequence[Answer], *, own_labels: Sequence[str] | None) -> None:
        """Count answers; top labels only where they are the model's own, since a client's labels may be private."""
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
        request_id: str,
        key: str,
        address: str,
        route: str,
        model: str,
        code: int,
        seconds: float,
        reason: str,
        work: Work | None,
    ) -> None:
        """Count and log a request that was answered or refused."""
        self._requests.labels(route, model, str(code)).inc()
        if reason:
            self._refused.labels(reason).inc()
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request_id": request_id,
            "key": key,
            "address": address,
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
            for stage, seconds_taken in stages.items():
                self._seconds.labels(stage).observe(seconds_taken)
            line |= {"tokens": work.tokens} | {f"{stage}_s": round(taken, 6) for stage, taken in stages.items()}
        self._write(json.dumps(line))

    def crash(self, request_id: str, error: BaseException) -> None:
        """Log where an unexpected exception, and its cause, were raised; without their messages, which may quote what a
        client sent."""
        line = {"request_id": request_id, "crash": type(error).__name__, "at": _places(error)}
        if error.__cause__ is not None:
            # Starlette raises RuntimeError from an exception that came after the response had begun
            line |= {"cause": type(error.__cause__).__name__, "cause_at": _places(error.__cause__)}
        self._write(json.dumps(line))

    async def own_page(self) -> bytes:
        """Return the metrics of this process alone, for the route."""
        return self.page()

    def page(self) -> bytes:
        """Return the metrics in the Prometheus text format."""
        return generate_latest(self.registry)


def merged(pages: Mapping[str, bytes]) -> bytes:
    """Return the metrics of several replicas in one page; the label `replica` of each sample says whose it is.

    Args:
        pages: the pages of `Telemetry.page` by replica.
    """
    families: dict[str, Metric] = {}
    for replica, page in pages.items():
        for family in text_string_to_metric_families(page.decode()):
            samples = families.setdefault(family.name, Metric(family.name, family.documentation, family.type)).samples
            samples += [sample._replace(labels={**sample.labels, "replica": replica}) for sample in family.samples]
    count = GaugeMetricFamily("rehead_replicas", "Replicas whose metrics are on this page.", value=len(pages))
    registry = CollectorRegistry()
    registry.register(_Collected([*families.values(), count]))
    return generate_latest(registry)


class _Collected(Collector):
    """Metrics that are there already."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def _places(error: BaseException) -> list[str]:
    """Return the innermost places of an exception's traceback."""
    places = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f"{code.co_filename.rpartition('/')[2]}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return places[-12:]


def _to_standard_error(line: str) -> None:
    sys.stderr.write(line + "\n")


def quiet_libraries() -> None:
    """Silence libraries that log requests: their lines may quote what a client sent."""
    for name in ("uvicorn.access", "uvicorn.error", "gradio", "httpx", "asyncio", "mcp"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger().addFilter(_dropped)  # mcp (1.30) logs messages that it cannot validate by the root logger


def _dropped(record: logging.LogRecord) -> bool:
    """Drop what is logged by the root logger itself; records of named loggers do not pass its filters."""
    return False

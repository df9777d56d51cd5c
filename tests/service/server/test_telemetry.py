"""What libraries may write to the log of a server."""

from __future__ import annotations

import logging

import pytest

from service.inference.batch_queue import Batch
from service.server.telemetry import Telemetry, merged, quiet_libraries

pytestmark = pytest.mark.fast
CANARY = "canary-51c0"


@pytest.fixture
def quiet():
    """Silence the libraries for one test."""
    root = logging.getLogger()
    filters, levels = root.filters[:], {name: logger.level for name, logger in root.manager.loggerDict.items()
                                        if isinstance(logger, logging.Logger)}  # fmt: skip
    quiet_libraries()
    quiet_libraries()  # a second time changes nothing
    assert len(root.filters) == len(filters) + 1
    yield
    root.filters = filters
    for name, logger in root.manager.loggerDict.items():
        if isinstance(logger, logging.Logger):
            logger.setLevel(levels.get(name, logging.NOTSET))


def test_messages_of_the_model_context_protocol_are_not_logged(quiet, caplog):
    """mcp logs what it cannot validate, by its own loggers and by the root logger."""
    logging.getLogger("mcp.server.streamable_http").error(CANARY)
    logging.warning(CANARY)
    logging.error(CANARY)
    assert CANARY not in caplog.text
    logging.getLogger("rehead").warning("a warning of our own")
    assert "a warning of our own" in caplog.text


def test_metrics_of_replicas_stay_apart_on_one_page():
    pages = {}
    for number, replica in enumerate(("a1", "b2"), 1):
        telemetry = Telemetry(lambda line: None)
        telemetry.loaded("sentiment", lambda number=number: 10 * number)
        for _ in range(number):
            telemetry.batch("sentiment", Batch(rows=3, tokens=5, seconds=0.1))
        pages[replica] = telemetry.page()
    page = merged(pages).decode()
    for line in (
        'rehead_waiting_tokens{model="sentiment",replica="a1"} 10.0',
        'rehead_waiting_tokens{model="sentiment",replica="b2"} 20.0',
        'rehead_batch_rows_sum{model="sentiment",replica="b2"} 6.0',
        'rehead_batch_rows_bucket{le="4.0",model="sentiment",replica="a1"} 1.0',
        'rehead_model_restarts_total{model="sentiment",replica="a1"} 0.0',
        "# TYPE rehead_batch_rows histogram",
        "rehead_replicas 2.0",
    ):
        assert line in page.splitlines(), line
    assert page.count("# TYPE rehead_batch_rows histogram") == 1

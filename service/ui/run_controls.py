"""What the tabs that start runs share: Start, Stop, the timer while a run lasts, and data reports one after another."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import gradio as gr

from service.errors import Overloaded
from service.server.run_configs import Kind, RunConfig
from service.server.training_jobs import Job, Jobs
from service.ui.results import SAME, reporting
from service.ui.tab import Page

T = TypeVar("T")
REFRESH_S, REPORT_TIMEOUT_S = 1.5, 120.0


def connect(
    page: Page,
    jobs: Jobs,
    kind: Kind,
    *,
    start: gr.Button,
    stop: gr.Button,
    inputs: Sequence[Any],
    configured: Callable[[Sequence[Any]], tuple[str, RunConfig]],
    outputs: Sequence[Any],
    drawn: Callable[[Job | None], list[Any]],
    problem: gr.HTML,
) -> None:
    """Connect the buttons Start and Stop, and show the last run of a kind, also when the page is opened.

    Args:
        configured: returns the name and the configuration of a run from the values of `inputs`.
        drawn: returns updates of `outputs`.
    """
    timer = gr.Timer(REFRESH_S, active=False)

    def shown(job: Job | None) -> list[Any]:
        running = job is not None and job.state == "running"
        return [*drawn(job), gr.update(visible=running), gr.update(active=running)]

    def refreshed() -> list[Any]:
        return shown(jobs.latest(kind))

    async def begin(token: str, *values: Any) -> list[Any]:
        page.check(token)
        name, config = await page.admission.background(configured, values)
        await page.admission.background(jobs.start, name, config)
        return shown(jobs.job(name))

    async def end(token: str) -> list[Any]:
        page.check(token)
        job = jobs.latest(kind)
        if job is not None:
            await page.admission.background(jobs.stop, job.name)
        return refreshed()

    updated = [*outputs, stop, timer]
    telemetry, same = page.admission.telemetry, [SAME] * len(updated)
    for button, act, values in ((start, begin, inputs), (stop, end, ())):
        handler = reporting(act, telemetry, otherwise=same)
        button.click(handler, [page.token_field, *values], [*updated, problem], api_name=False)
    timer.tick(refreshed, None, updated, api_name=False, show_progress="hidden")
    page.blocks.load(refreshed, None, updated, api_name=False, show_progress="hidden")


async def in_turn(report: Callable[[], Awaitable[T]]) -> T:
    """Return a data report, after those that are being made for other tables."""
    end = time.monotonic() + REPORT_TIMEOUT_S
    while True:
        try:
            return await report()
        except Overloaded:
            if time.monotonic() > end:
                raise
            await asyncio.sleep(REFRESH_S)

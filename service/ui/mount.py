"""The page inside the app of a server: mounted at `/`, behind restrictions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import gradio
from starlette.types import ASGIApp

from service.server.admission import Admission
from service.server.feedback import Feedback
from service.server.routes import error_responses
from service.server.training_jobs import Jobs
from service.ui import build, theme
from service.ui.late_page import Mounted
from service.ui.page_calls import PageCalls
from service.ui.restrictions import FORM_BYTES, GradioRestrictions, replace_traceback_printing, restrict


def mount(
    app: Any, inner: ASGIApp, admission: Admission, *, has_key: bool, jobs: Jobs | None, feedback: Feedback | None
) -> Mounted:
    """Mount the page at `/`, after the routes that the app has already.

    Returns:
        `inner` behind the page's restrictions, and the context that is open for as long as the page is shown.
    """
    settings = admission.settings
    blocks = build.build(admission, has_key=has_key, jobs=jobs, feedback=feedback)
    replace_traceback_printing(partial(admission.telemetry.crash, "page"))
    # Gradio puts its own context around that of the app, which has begun already
    lifespan, app.router.lifespan_context = app.router.lifespan_context, _nothing
    gradio.mount_gradio_app(
        app,
        restrict(blocks),
        path="/",
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        # the bound of an upload; GradioRestrictions holds all other bodies to max_body_bytes
        app_kwargs={"max_body_size": settings.max_upload_bytes + FORM_BYTES},
        max_file_size=settings.max_upload_bytes,
        mcp_server=settings.mcp,
        theme=theme.theme(),
        css=theme.CSS,
    )
    of_page, app.router.lifespan_context = app.router.lifespan_context, lifespan
    calls = PageCalls(blocks)
    restricted = GradioRestrictions(inner, admission=admission, calls=calls, refusal=error_responses.response)
    return restricted, of_page(app)


@asynccontextmanager
async def _nothing(app: Any) -> AsyncIterator[None]:
    yield

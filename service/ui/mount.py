"""The page inside the app of a server: mounted at `/`, behind restrictions."""

from __future__ import annotations

from functools import partial
from typing import Any

import gradio
from starlette.types import ASGIApp

from service.server.admission import Admission
from service.server.feedback import Feedback
from service.server.routes import error_responses
from service.server.training_jobs import Jobs
from service.ui import build, theme
from service.ui.page_calls import PageCalls
from service.ui.restrictions import FORM_BYTES, GradioRestrictions, replace_traceback_printing, restrict


def mount(app: Any, inner: ASGIApp, admission: Admission, *, has_key: bool, jobs: Jobs | None) -> ASGIApp:
    """Mount the page at `/`, after the routes that the app has already, and return `inner` behind its restrictions."""
    settings = admission.settings
    feedback = Feedback(settings.feedback, settings.max_feedback_rows) if settings.feedback is not None else None
    blocks = build.build(admission, has_key=has_key, jobs=jobs, feedback=feedback)
    replace_traceback_printing(partial(admission.telemetry.crash, "page"))
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
    calls = PageCalls(blocks)
    return GradioRestrictions(inner, admission=admission, calls=calls, refusal=error_responses.response)

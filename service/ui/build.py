"""The page, put together and mounted at `/`.

Knows: which tabs there are, how the page looks, that it must not ask the network for anything.
Does not know: what happens in a tab.
"""

from __future__ import annotations

import gradio as gr
from fastapi import FastAPI

from service.engine import Engine
from service.settings import ServeSettings
from service.store import ModelStore
from service.ui.tabs import sentiment, topics

SYSTEM_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica", "Arial", "sans-serif")
MONO_FONTS = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")

HEADER = """
<div class="rehead-header">
  <h1>rehead</h1>
  <p>Text classifiers, running on this machine. The same answers as an API: <a href="/docs">/docs</a>.</p>
</div>
"""

CSS = """
.gradio-container { max-width: 1120px !important; margin: 0 auto !important; }
.rehead-header { padding: 1.4rem 0 .4rem; }
.rehead-header h1 { font-size: 1.7rem; font-weight: 650; letter-spacing: -.02em; margin: 0; }
.rehead-header p { color: var(--body-text-color-subdued); margin: .2rem 0 0; }
.rehead-header a { color: var(--link-text-color); }
.rehead-about { color: var(--body-text-color-subdued); font-size: .88rem; padding: 0 .2rem; }
.rehead-problem { background: #fef2f2; color: #991b1b; border: 1px solid #fecaca; border-radius: 8px;
  padding: .7rem .95rem; }
.dark .rehead-problem { background: #450a0a; color: #fecaca; border-color: #7f1d1d; }
.rehead-note { color: var(--body-text-color-subdued); font-size: .88rem; padding: 0 .2rem; }
"""


def mount_page(app: FastAPI, store: ModelStore[Engine], settings: ServeSettings) -> None:
    """Mount the page at `/`; routes that the app has already go first."""
    gr.mount_gradio_app(
        app,
        build(store, settings),
        path="/",
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        show_error=True,
        app_kwargs={"max_body_size": settings.max_body_bytes},
        max_file_size=settings.max_body_bytes,
        theme=_theme(),
        css=CSS,
    )


def build(store: ModelStore[Engine], settings: ServeSettings) -> gr.Blocks:
    """The page itself."""
    with gr.Blocks(title="rehead", analytics_enabled=False) as page:
        gr.HTML(HEADER)
        for title, tab in TABS.items():
            with gr.Tab(title):
                tab.build(page, store, settings)
    return page


def _theme() -> gr.themes.Base:
    return gr.themes.Soft(
        primary_hue="teal", secondary_hue="teal", neutral_hue="slate", font=SYSTEM_FONTS, font_mono=MONO_FONTS
    )


TABS = {
    "Sentiment": sentiment,
    "Topics": topics,
}

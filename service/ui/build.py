"""The page, put together.

Knows: which tabs there are, what stands outside of them.
Does not know: what happens in a tab, how anything looks (look.py).
"""

from __future__ import annotations

import secrets

import gradio as gr

from service.server.desk import Desk
from service.server.feedback import Feedback
from service.server.training_jobs import Jobs
from service.ui import links
from service.ui.restrictions import folder
from service.ui.tab import Page
from service.ui.tabs import batch, models, sentiment, topics, train

LABEL_SETS = "rehead-label-sets"

HEADER = """
<div class="rehead-header">
  <h1>rehead</h1>
  <p>Text classifiers, running on this machine. The same answers come from the <a href="/docs">API</a></p>
</div>
"""


def build(
    desk: Desk, *, has_key: bool = False, jobs: Jobs | None = None, feedback: Feedback | None = None
) -> gr.Blocks:
    """The page itself."""
    folder()  # each component takes its place for files from the environment
    with gr.Blocks(title="rehead", analytics_enabled=False) as blocks:
        gr.HTML(HEADER)
        token = secrets.token_urlsafe(32)
        asked = gr.Textbox(token, visible=False)
        # the word that gradio wants is no secret: it only has to stay the same
        label_sets = gr.BrowserState([], storage_key=LABEL_SETS, secret=LABEL_SETS)
        page = Page(blocks, desk, has_key, jobs, feedback, asked, label_sets, token)
        with gr.Tabs(overflow_behavior="wrap") as tabs:
            for title, part in TABS.items():
                with gr.Tab(title, id=part.NAME) as tab:
                    part.build(page, tab)
        links.open_tab(blocks, tabs, [part.NAME for part in TABS.values()])
    return blocks


TABS = {
    "Sentiment": sentiment,
    "Topics": topics,
    "Batch": batch,
    "Train": train,
    "Models": models,
}

"""The web UI: its tabs, and what stands outside of them."""

from __future__ import annotations

import secrets

import gradio as gr

from service.server.admission import Admission
from service.server.feedback import Feedback
from service.server.training_jobs import Jobs
from service.ui import links
from service.ui.results import HIDE_PROBLEMS
from service.ui.tab import Page
from service.ui.tabs import batch, models, no_labels, review, sentiment, topics, train
from service.ui.upload_folder import folder

LABEL_SETS = "rehead-label-sets"

HEADER = """
<div class="rehead-header">
  <h1>rehead</h1>
  <p>Text classifiers that run on this machine, also as an <a href="docs">HTTP API</a></p>
</div>
"""


def build(
    admission: Admission, *, has_key: bool = False, jobs: Jobs | None = None, feedback: Feedback | None = None
) -> gr.Blocks:
    """Return the page."""
    folder()  # sets the environment variable from which each component takes its folder for files
    with gr.Blocks(title="rehead", analytics_enabled=False) as blocks:
        gr.HTML(HEADER)
        token = secrets.token_urlsafe(32)
        token_field = gr.Textbox(token, visible=False)
        # the secret that Gradio requires protects nothing here: it only has to stay the same
        label_sets = gr.BrowserState([], storage_key=LABEL_SETS, secret=LABEL_SETS)
        page = Page(blocks, admission, has_key, jobs, feedback, token_field, label_sets, token)
        with gr.Tabs(overflow_behavior="wrap") as tabs:
            for title, module in TABS.items():
                with gr.Tab(title, id=module.NAME) as tab:
                    module.build(page, tab)
        blocks.load(None, js=HIDE_PROBLEMS)
        links.open_tab(blocks, tabs, [module.NAME for module in TABS.values()])
    return blocks


TABS = {
    "Sentiment": sentiment,
    "Topics": topics,
    "Batch": batch,
    "Train": train,
    "No labels": no_labels,
    "Review": review,
    "Models": models,
}

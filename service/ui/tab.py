"""What every tab is built with."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from finetune.core.errors import CheckpointError
from finetune.core.model_folder import ModelFolder
from service.errors import Forbidden
from service.server.admission import Admission
from service.server.feedback import Feedback
from service.server.training_jobs import Jobs

SHOWN_FIRST = ("sentiment", "topics")


@dataclass(frozen=True)
class Page:
    """The page while it is built.

    Attributes:
        blocks: the block that events such as load belong to.
        admission: models, settings and limits.
        has_key: clients need an API key, for which snippets show a placeholder.
        jobs: trains models; None where training is off.
        feedback: stores corrected answers; None where feedback is off.
        token_field: the hidden field that holds the token in the browser.
        label_sets: named sets of labels in the browser's storage; outside of all tabs, since what is in a tab is read
            only when the tab is opened.
        token: required for training and feedback; part of the page, which no page of another origin can read.
    """

    blocks: gr.Blocks
    admission: Admission
    has_key: bool
    jobs: Jobs | None
    feedback: Feedback | None
    token_field: gr.Textbox
    label_sets: gr.BrowserState
    token: str

    def names(self, wanted: Callable[[ModelFolder], bool] = lambda folder: True) -> list[str]:
        """Return the served names whose folder can be read and is of the wanted kind, the default first."""
        store, names = self.admission.store, []
        for name in store.names():
            try:
                if wanted(store.folder(name)):
                    names.append(name)
            except CheckpointError:
                continue  # reported when the server started
        return sorted(names, key=lambda name: (name != store.default_name, name not in SHOWN_FIRST))

    def check(self, token: Any) -> None:
        """Raise Forbidden for a call that does not come from the page itself."""
        if not (isinstance(token, str) and hmac.compare_digest(token.encode(), self.token.encode())):
            raise Forbidden("only the page itself may do this: reload it")

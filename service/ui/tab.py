"""What every tab is built with.

Knows: what belongs to the page as a whole; its token, which a foreign page cannot read.
Does not know: any tab.
"""

from __future__ import annotations

import hmac
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from finetune.core.errors import CheckpointError
from finetune.core.model_folder import ModelFolder
from service.errors import Forbidden
from service.server.desk import Desk
from service.server.feedback import Feedback
from service.server.training_jobs import Jobs

TABLES_AT_ONCE = 2
SHOWN_FIRST = ("sentiment", "topics")


@dataclass(frozen=True)
class Page:
    """The page while it is built.

    Attributes:
        blocks: what events such as load are fastened to.
        has_key: callers need a key, which snippets then show a place for.
        jobs: trains models; None where that is off.
        feedback: keeps corrected answers; None where that is off.
        token: what training and feedback ask for; it comes with the page, which no other page can read.
        slots: taken by the tables that are being scored.
        asked: the hidden field that holds the token in the browser.
        label_sets: sets of labels, kept in the browser and nowhere else; outside of all tabs, for what is in one is
            read only when the tab is opened.
    """

    blocks: gr.Blocks
    desk: Desk
    has_key: bool
    jobs: Jobs | None
    feedback: Feedback | None
    asked: gr.Textbox
    label_sets: gr.BrowserState
    token: str
    slots: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(TABLES_AT_ONCE))

    def names(self, wanted: Callable[[ModelFolder], bool] = lambda folder: True) -> list[str]:
        """The served names whose folder can be read and is of the wanted kind, the default first."""
        store, found = self.desk.store, []
        for name in store.names():
            try:
                if wanted(store.folder(name)):
                    found.append(name)
            except CheckpointError:
                continue  # the server said so when it started
        return sorted(found, key=lambda name: (name != store.default_name, name not in SHOWN_FIRST))

    def check(self, token: Any) -> None:
        """Refuse a call that does not come from the page itself.

        Raises:
            Forbidden.
        """
        if not (isinstance(token, str) and hmac.compare_digest(token.encode(), self.token.encode())):
            raise Forbidden("this is only for the page itself: load it again")

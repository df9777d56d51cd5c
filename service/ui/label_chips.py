"""Labels as chips that can be removed: typed or pasted, one at a time or many with commas between them.

Knows: the field, how what is pasted becomes chips, what is asked with them.
Does not know: any tab.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from service.errors import BadRequest
from service.schema import ZeroShotRequest
from service.server.desk import Desk

LABELS = ("sports", "business", "science", "politics")
INFO = "Type a label and press Enter; several at once with commas between them. A chip is removed by its cross."


def field(elem_id: str, value: Sequence[str] = (), *, visible: bool = True) -> gr.Dropdown:
    """The field, connected."""
    labels = gr.Dropdown(
        list(value),
        value=list(value),
        multiselect=True,
        allow_custom_value=True,
        label="Labels",
        info=INFO,
        visible=visible,
        elem_id=elem_id,
    )
    # in two steps: an update of the field itself, even one that says nothing, is a change of it again
    parts = gr.State(None)
    labels.change(split, [labels], [parts], api_name=False, show_progress="hidden")
    parts.change(_taken, [parts], [labels], api_name=False, show_progress="hidden")
    return labels


def split(given: list[str] | None) -> list[str] | None:
    """Chips that hold commas or line ends as several chips, each once; None where there is nothing to split."""
    found = _parts(given)
    return None if found == (given or []) else found


def question(desk: Desk, given: list[str] | None, several: bool, template: str | None = None) -> ZeroShotRequest:
    """What is asked with these chips, also with those that are not split yet.

    Raises:
        BadRequest: no label, or one with nothing beside it.
        TooLarge: too many.
    """
    labels = desk.labels(_parts(given))
    if len(labels) < 2 and not several:
        raise BadRequest("one label leaves nothing to choose: name at least two, or let several hold at once")
    return ZeroShotRequest(labels, several, template)


def _parts(given: list[str] | None) -> list[str]:
    parts = [part.strip() for chip in given or [] for part in str(chip).replace("\n", ",").split(",")]
    return list(dict.fromkeys(part for part in parts if part))


def _taken(parts: list[str] | None) -> Any:
    return gr.skip() if parts is None else gr.update(value=parts, choices=parts)

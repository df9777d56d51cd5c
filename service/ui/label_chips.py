"""Labels as removable chips: typed or pasted, one at a time or several with commas between them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import gradio as gr

from service.errors import BadRequest
from service.inference.label_parsing import Labels
from service.schema import ZeroShotRequest
from service.server.limits import RequestLimits

LABELS = ("sports", "business", "science", "politics")
INFO = "Type a label and press Enter, or several with commas between them; describe one as name: description."
DESCRIBED = re.compile(r"([^:]{1,64}):\s+(\S.*)", re.DOTALL)


def field(elem_id: str, value: Sequence[str] = (), *, visible: bool = True) -> tuple[gr.Dropdown, Any]:
    """Return the connected field, and the event that what depends on the labels has to follow.

    Two handlers of the field's own `change` would call each other again and again (Gradio 6.31).
    """
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
    # in two steps: any update of the field, even an empty one, is a change of it again
    parts = gr.State(None)
    changed = labels.change(split, [labels], [parts], api_name=False, show_progress="hidden")
    parts.change(_taken, [parts], [labels], api_name=False, show_progress="hidden")
    return labels, changed


def split(chips: list[str] | None) -> list[str] | None:
    """Return chips that hold commas or line ends as several chips, each once; None where there is nothing to split."""
    parts = _parts(chips)
    return None if parts == (chips or []) else parts


def question(
    limits: RequestLimits, chips: list[str] | None, several: bool, template: str | None = None
) -> ZeroShotRequest:
    """Return the zero-shot question of these chips, also of those that are not split yet.

    Raises:
        BadRequest: no label, or a single one of which exactly one must be true.
        TooLarge: too many.
    """
    labels = labels_of(limits, chips)
    if len(labels.names) < 2 and not several:
        raise BadRequest("one label leaves nothing to choose: add another, or allow several labels per text")
    return ZeroShotRequest(labels.names, several, template, texts=labels.texts)


def labels_of(limits: RequestLimits, chips: list[str] | None) -> Labels:
    """Return the labels of these chips, also of those that are not split yet; raise as `described_labels` does."""
    return limits.described_labels(described(_parts(chips)))


def described(chips: Sequence[str]) -> list[Any]:
    """Return labels as the API takes them: `name: description` as an object, others as they are."""
    matches = [(chip, DESCRIBED.fullmatch(chip)) for chip in chips]
    return [chip if match is None else {"name": match[1], "description": match[2]} for chip, match in matches]


def _parts(chips: list[str] | None) -> list[str]:
    parts = [part.strip() for chip in chips or [] for part in str(chip).replace("\n", ",").split(",")]
    return list(dict.fromkeys(part for part in parts if part))


def _taken(parts: list[str] | None) -> Any:
    return gr.skip() if parts is None else gr.update(value=parts, choices=parts)

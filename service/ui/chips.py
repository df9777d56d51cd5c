"""Labels as chips that can be removed: typed or pasted, one at a time or many with commas between them.

Knows: the field, how what is pasted becomes chips.
Does not know: any tab.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

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
    labels.input(split, [labels], [labels], api_name=False, show_progress="hidden")
    return labels


def split(given: list[str] | None) -> Any:
    """Chips that hold commas or line ends as several chips; each once."""
    parts = [part.strip() for chip in given or [] for part in str(chip).replace("\n", ",").split(",")]
    found = list(dict.fromkeys(part for part in parts if part))
    return gr.skip() if found == given else gr.update(value=found, choices=found)

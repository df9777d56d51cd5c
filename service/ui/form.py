"""A setting of a training run as a component of the page, made of its field in TrainConfig.

Knows: which component suits which type; that a field left at its default is not said.
Does not know: what a setting does (its own sentence says it), which settings a tab shows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

import gradio as gr
from gradio.components import Component
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from finetune.config.loading import number
from finetune.config.training import Choice, TrainConfig
from finetune.core.tables.options import ENCODINGS

AUTOMATIC = "automatic"
LABELS = {"optim.lr": "Learning rate", "optim.head_lr": "Learning rate of the head", "loss": "Loss"}
TABLES = {
    "loss": "losses",
    "model.head": "heads",
    "model.pooling": "poolings",
    "model.initializer": "initializers",
    "optim.optimizer": "optimizers",
    "optim.schedule": "schedules",
}
"""Setting -> the table that it is chosen from."""

SUGGESTED = {"data.encoding": ENCODINGS, "data.separator": (",", ";", "tab", "|")}
"""Setting -> values that are offered; others may be written."""


def field_at(path: str) -> FieldInfo:
    """The field of TrainConfig at a dotted key."""
    model: type[BaseModel] = TrainConfig
    *parents, last = path.split(".")
    for parent in parents:
        inner = model.model_fields[parent].annotation
        assert isinstance(inner, type) and issubclass(inner, BaseModel), path
        model = inner
    return model.model_fields[last]


def component(path: str, prefix: str, *, brief: bool = False) -> Component:
    """The component for a setting; choices of tables come later, through `choices_of`.

    Args:
        brief: say only how its sentence begins.
    """
    field = field_at(path)
    kinds = _kinds(field.annotation)
    words = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    default = field.default
    label = LABELS.get(path) or path.rpartition(".")[2].replace("_", " ").capitalize()
    info = (field.description or "").replace("`", "").replace("None ", "automatic ")
    info = re.split(r"[:;]", info)[0].rstrip(".") + "." if brief else info
    common: dict[str, Any] = {"label": label, "info": info, "elem_id": f"{prefix}-{path.replace('.', '-')}"}
    if path in TABLES:
        chosen = default.name if isinstance(default, Choice) else AUTOMATIC
        return gr.Dropdown([chosen], value=chosen, **common)
    if path in SUGGESTED:
        return gr.Dropdown([AUTOMATIC, *SUGGESTED[path]], value=AUTOMATIC, allow_custom_value=True, **common)
    if bool in kinds:
        return gr.Checkbox(value=bool(default), **common)
    if words:
        free = int in kinds or float in kinds
        offered = [AUTOMATIC] if default is None else []
        offered += [str(default)] if free and default is not None else []
        value = AUTOMATIC if default is None else str(default)
        return gr.Dropdown(
            [*dict.fromkeys([*offered, *map(str, words)])], value=value, allow_custom_value=free, **common
        )
    if (int in kinds or float in kinds) and default is None:
        return gr.Textbox(placeholder=AUTOMATIC, max_lines=1, **common)  # a number field shows 0 for none
    if int in kinds or float in kinds:
        return gr.Number(value=default, precision=None if float in kinds else 0, **common)
    return gr.Textbox(value=default or "", max_lines=1, **common)


def choices_of(paths: Sequence[str], tables: Mapping[str, Mapping[str, str]]) -> list[Any]:
    """Updates that fill the components of `paths` which are chosen from a table, in their order."""
    updates = []
    for path in paths:
        if path in TABLES:
            optional = [] if isinstance(field_at(path).default, Choice) else [AUTOMATIC]
            updates.append(gr.update(choices=[*optional, *tables[TABLES[path]]]))
    return updates


def settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """What was filled in, by dotted key, without what is empty or left at its default."""
    found = {}
    for path, value in values.items():
        default = field_at(path).default
        same = default.name if isinstance(default, Choice) else default
        if value is None or value in ("", AUTOMATIC) or str(value) == str(same):
            continue
        value = number_or_word(value) if isinstance(value, str) and path not in SUGGESTED else value
        if isinstance(value, float) and value.is_integer() and isinstance(same, int):
            value = int(value)
        if isinstance(value, float | int) and same is not None and not isinstance(same, str) and value == same:
            continue
        found[f"{path}.name" if path in TABLES and path != "model.pooling" else path] = value
    return found


def _kinds(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Literal:
        return [annotation]
    parts = get_args(annotation)
    return [kind for part in parts for kind in _kinds(part)] if parts else [annotation]


def number_or_word(text: str) -> Any:
    """A number where the text is one, else the text."""
    found = number(text)
    return text if found is None else int(found) if float(found).is_integer() and "." not in text else found

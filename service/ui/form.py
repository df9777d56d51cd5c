"""A setting of a training run as a Gradio component, built from its field in TrainConfig."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

import gradio as gr
from gradio.components import Component
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from finetune.config.choice import Choice
from finetune.config.loading import number
from finetune.config.training import TrainConfig
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
"""Setting -> the table of its choices."""

PLACEHOLDERS = {"optim.early_stopping": "off"}
"""Setting -> what an empty field of a number means, where that is not an automatic choice."""

SUGGESTED = {"data.encoding": ENCODINGS, "data.separator": (",", ";", "tab", "|")}
"""Setting -> suggested values; others are accepted."""


def field_at(path: str) -> FieldInfo:
    """Return the field of TrainConfig at a dotted key."""
    model: type[BaseModel] = TrainConfig
    *parents, last = path.split(".")
    for parent in parents:
        inner = model.model_fields[parent].annotation
        assert isinstance(inner, type) and issubclass(inner, BaseModel), path
        model = inner
    return model.model_fields[last]


def component(path: str, prefix: str, *, brief: bool = False) -> Component:
    """Return the component of a setting; choices of tables are added by `choices_of`.

    Args:
        brief: show only the beginning of its description.
    """
    field = field_at(path)
    kinds = _kinds(field.annotation)
    words = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    default = field.default
    label = LABELS.get(path) or path.rpartition(".")[2].replace("_", " ").capitalize()
    info = (field.description or "").replace("`", "").replace("None ", "automatic ")
    info = _first_clause(info) if brief else info
    common: dict[str, Any] = {"label": label, "info": info, "elem_id": f"{prefix}-{path.replace('.', '-')}"}
    if path in TABLES:
        selected = default.name if isinstance(default, Choice) else AUTOMATIC
        return gr.Dropdown([selected], value=selected, **common)
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
        # a number field shows 0 for none
        return gr.Textbox(placeholder=PLACEHOLDERS.get(path, AUTOMATIC), max_lines=1, **common)
    if int in kinds or float in kinds:
        return gr.Number(value=default, precision=None if float in kinds else 0, **common)
    return gr.Textbox(value=default or "", max_lines=1, **common)


def _first_clause(info: str) -> str:
    """Return the first clause of a description that says more than the setting's name."""
    clauses = [clause.strip().rstrip(".") for clause in re.split(r"[:;]", info)]
    clause = next((clause for clause in clauses if " " in clause), clauses[0])
    return f"{clause[:1].upper()}{clause[1:]}."


def choices_of(paths: Sequence[str], tables: Mapping[str, Mapping[str, str]]) -> list[Any]:
    """Return updates with the choices of those `paths` that have a table, in their order."""
    updates = []
    for path in paths:
        if path in TABLES:
            optional = [] if isinstance(field_at(path).default, Choice) else [AUTOMATIC]
            updates.append(gr.update(choices=[*optional, *tables[TABLES[path]]]))
    return updates


def settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the filled-in values by dotted key, without empty ones and defaults."""
    changed = {}
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
        changed[f"{path}.name" if path in TABLES and path != "model.pooling" else path] = value
    return changed


def _kinds(annotation: Any) -> list[Any]:
    if get_origin(annotation) in (Literal, dict):
        return [annotation]
    parts = get_args(annotation)
    return [kind for part in parts for kind in _kinds(part)] if parts else [annotation]


def number_or_word(text: str) -> Any:
    """Return the number that a text spells, else the text."""
    value = number(text)
    return text if value is None else int(value) if float(value).is_integer() and "." not in text else value

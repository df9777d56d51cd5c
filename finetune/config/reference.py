"""docs/settings.md, generated from the fields of TrainConfig and the tables of choices.

Run `python -m finetune.config.reference > docs/settings.md` after a change of a setting or a choice.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from finetune.config import choices
from finetune.config.choice import Choice
from finetune.config.data import DataConfig, RecastConfig, Source
from finetune.config.model import LoraConfig, ModelConfig
from finetune.config.optim import OptimConfig
from finetune.config.training import CheckpointConfig, GradientsConfig, TrainConfig, WindowConfig, ZeroShotConfig
from finetune.core.registry import options_of

INTRODUCTION = """# Settings

```sh
rehead finetune --config run.yaml --set optim.lr=3e-5 --set loss.name=focal --set loss.gamma=2
```

A setting has one dotted key, in `--set KEY=VALUE`, in a YAML file (`optim: {lr: 3.0e-5}`) and in `TrainConfig`.
`--set` wins over the other flags, and those win over the file.
`train_config.yaml` in a model folder holds the settings of its run.
An unknown key is refused with the nearest one.

This page is generated: `python -m finetune.config.reference > docs/settings.md`.
"""

OF_TABLES = (
    "These keys belong to one table.\n"
    "They follow `data.train.N`, `data.validation.N` or `zero_shot.fit_on.N`, with its position in the list from 0, or "
    "`data.test.NAME`.\n"
    "A string in place of the keys is the path: `data.train=reviews.csv`."
)

SECTIONS: dict[str, tuple[str, type[BaseModel], str]] = {
    "Run": ("", TrainConfig, "Settings without a section."),
    "Data": ("data.", DataConfig, ""),
    "One table": ("", Source, OF_TABLES),
    "Recasting a table": ("recast.", RecastConfig, ""),
    "Model": ("model.", ModelConfig, ""),
    "LoRA": ("model.lora.", LoraConfig, ""),
    "Optimization": ("optim.", OptimConfig, ""),
    "Gradients": ("gradients.", GradientsConfig, ""),
    "Checkpoints": ("checkpoint.", CheckpointConfig, ""),
    "Zero-shot": ("zero_shot.", ZeroShotConfig, ""),
    "Windows": ("window.", WindowConfig, ""),
}
"""Heading -> prefix of the keys, the model that has them, and an introduction in place of its docstring."""

CHOICES = {
    "losses": "Names for `loss`.",
    "thresholds": "Names for `thresholds`; `precision=0.9` is short for `precision` with `at_least: 0.9`.",
    "heads": "Names for `model.head`.",
    "poolings": "Names for `model.pooling`.",
    "initializers": "Names for `model.initializer`.",
    "activations": "Names for the option `activation` of the head `mlp`.",
    "optimizers": "Names for `optim.optimizer`.",
    "schedules": "Names for `optim.schedule`.",
    "few_shot": "Names for `few_shot`, beside `auto`.",
    "auxiliary": "Names for `auxiliary`.",
    "metrics": "Names for `metrics` and `checkpoint.best_by`.",
}
"""Table of choices -> its introduction."""

BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
"""Attribute of a constraint of annotated_types -> its sign."""


NONE = re.compile(r"\bNone (?=\w)")
"""None in a sentence, which is `null` in YAML."""


def page() -> str:
    """Return the whole page as Markdown."""
    parts = [INTRODUCTION]
    for heading, (prefix, model, introduction) in SECTIONS.items():
        rows = [_setting(prefix + name, field) for name, field in model.model_fields.items() if not _is_section(field)]
        table = _table(("setting", "type", "default", ""), rows)
        parts.append(f"## {heading}\n\n{introduction or _one_line(model.__doc__ or '')}\n\n{table}")
    parts.append(
        "## Choices\n\n"
        "A choice is a name, or a name with options: `loss: focal`, or `loss: {name: focal, gamma: 2}`.\n"
        "`rehead choices TABLE` prints the same tables.\n"
    )
    parts += [f"### {name.capitalize()}\n\n{text}\n\n{_choices(name)}" for name, text in CHOICES.items()]
    return "\n".join(parts)


def _setting(key: str, field: FieldInfo) -> tuple[str, ...]:
    default = "required" if field.is_required() else f"`{_value(field.get_default(call_default_factory=True))}`"
    return (
        f"`{key}`",
        _type(field.annotation, field.metadata),
        default,
        NONE.sub("`null` ", _one_line(field.description or "")),
    )


def _is_section(field: FieldInfo) -> bool:
    """Return whether a field is a section with a table of its own, rather than a value."""
    annotation = field.annotation
    return isinstance(annotation, type) and issubclass(annotation, BaseModel) and annotation is not Choice


def _type(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """Return a type as a reader of YAML writes it, with the bounds of a number."""
    types = [inner for inner in get_args(annotation) if inner is not NoneType]
    origin = get_origin(annotation)
    if origin is Annotated:
        return _type(types[0], types[1:])
    if origin in (Union, UnionType):
        text = " or ".join(map(_type, types))
    elif origin is Literal:
        text = ", ".join(f"`{value}`" for value in types)
    elif origin is tuple:
        text = (
            f"[{', '.join(_type(inner) for inner in types)}]"
            if Ellipsis not in types
            else f"list of {_type(types[0])}s"
        )
    elif origin is dict:
        text = f"{_type(types[0])} -> {_type(types[1])}"
    elif annotation is Choice:
        text = "choice"
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        text = {Source: "table", RecastConfig: "`recast`", LoraConfig: "`model.lora`", WindowConfig: "`window`"}[
            annotation
        ]
    else:
        text = {str: "string", bool: "boolean", int: "integer", float: "number"}[annotation]
    bounds = [
        f"{sign} {getattr(item, name)}" for item in metadata for name, sign in BOUNDS.items() if hasattr(item, name)
    ]
    return f"{text} {', '.join(bounds)}" if bounds else text


def _value(value: Any) -> str:
    """Return a value as YAML has it."""
    if isinstance(value, Choice):
        return value.name
    if isinstance(value, tuple):
        return f"[{', '.join(map(_value, value))}]"
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else str(value)


def _choices(name: str) -> str:
    tasks, sentences = choices.tasks_of(name), choices.sentences(name)
    rows = []
    for choice, function in choices.table(name).items():
        options = ", ".join(f"`{option}={_value(default)}`" for option, default in options_of(function).items())
        fits = ", ".join(tasks.get(choice, ())).replace("_", "-")
        rows.append((f"`{choice}`", options, *([fits] if tasks else []), _one_line(sentences[choice])))
    return _table(("name", "options", *(["tasks"] if tasks else []), ""), rows)


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def _one_line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    sys.stdout.write(page())

"""Settings of rehead 0.1.0 that have another name or other values now.

Old names belong here only: `python -m tests.check` does not look for them in this file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from finetune.config.training import TrainConfig

RENAMED = {
    "initialiser": "initializer",
    "average": "ema_decay",
    "remedy": "auto_recover",
    "share_columns": "soft_label_columns",
    "keep_out": "holdout",
}
"""Keys of rehead 0.1.0 -> their names now."""


def upgraded(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a config that rehead 0.1.0 recorded, with the keys and values of today."""
    renamed: dict[str, Any] = _renamed(dict(content), TrainConfig)
    allowed = renamed.get("allow_changed")
    if isinstance(allowed, list):
        renamed["allow_changed"] = ["recovery" if part == "remedy" else part for part in allowed]
    return renamed


def _renamed(value: Any, annotation: Any) -> Any:
    """Return a value of this type with renamed keys; names that a user gave (labels, test tables) stay as they are."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if not isinstance(value, dict):
            return value
        fields, renamed = annotation.model_fields, {}
        for key, inner in value.items():
            name = RENAMED[key] if RENAMED.get(key) in fields else key
            inner = inner == "auto" if key == "remedy" else inner
            renamed[name] = _renamed(inner, fields[name].annotation) if name in fields else inner
        return renamed
    types = get_args(annotation)
    if get_origin(annotation) is dict:
        return {key: _renamed(inner, types[1]) for key, inner in value.items()} if isinstance(value, dict) else value
    for inner_type in types:
        value = (
            [_renamed(item, inner_type) for item in value] if isinstance(value, list) else _renamed(value, inner_type)
        )
    return value

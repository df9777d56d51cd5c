"""The names of `ClassLabel` columns, from the features of a `datasets.Dataset` or of a Parquet file that it wrote."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from finetune.core.errors import DataError

Decode = Callable[[Any], Any]


def features_of_parquet(metadata: Mapping[bytes, bytes] | None) -> Mapping[str, Any]:
    """Return the features that `datasets` wrote into the metadata of a Parquet file; empty where there are none."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}  # written by something else
    return features if isinstance(features, dict) else {}


def names_by(feature: Any) -> Decode | None:
    """Return what replaces the numbers of a ClassLabel by its names, also in lists and dicts.

    Args:
        feature: one column's feature as `datasets.Features.to_dict` gives it.

    Returns:
        None where the feature holds no ClassLabel with names.
    """
    if isinstance(feature, list):
        decode = names_by(feature[0]) if len(feature) == 1 else None
        return partial(_named_items, decode) if decode is not None else None
    if not isinstance(feature, dict):
        return None
    if feature.get("_type") == "ClassLabel":
        return partial(_name_of, tuple(feature["names"])) if feature.get("names") else None
    if isinstance(feature.get("_type"), str):
        decode = names_by(feature.get("feature"))
        return partial(_named_items, decode) if decode is not None else None
    inner = {key: decode for key, member in feature.items() if (decode := names_by(member)) is not None}
    return partial(_named_members, inner) if inner else None


def _named_items(decode: Decode, value: Any) -> Any:
    return [decode(item) for item in value] if isinstance(value, list) else value


def _named_members(decodes: Mapping[str, Decode], value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: decodes[key](item) if key in decodes else item for key, item in value.items()}


def _name_of(names: Sequence[str], value: Any) -> Any:
    """Return the name of a class number; -1 means no label, as in `datasets`."""
    if not isinstance(value, int) or value == -1:
        return None if value == -1 else value
    if not 0 <= value < len(names):
        raise DataError(f"class number {value} is outside 0 to {len(names) - 1}, the classes of its ClassLabel column")
    return names[value]

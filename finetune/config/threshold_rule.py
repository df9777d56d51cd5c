"""The spellings of a rule for thresholds."""

from __future__ import annotations

from typing import Any


def threshold_rule(value: Any) -> Any:
    """Return a rule as a Choice takes it, from `none`, `precision=0.9` or `{precision: 0.9}`; others unchanged."""
    if value == "none":
        return None
    if isinstance(value, str) and "=" in value:
        name, _, at_least = value.partition("=")
        try:
            return {"name": name.strip(), "at_least": float(at_least)}
        except ValueError:
            raise ValueError("give a rule, or a rule and a proportion: f1, precision=0.9 or recall=0.9") from None
    if isinstance(value, dict) and len(value) == 1 and "name" not in value:
        ((name, at_least),) = value.items()
        return {"name": name, "at_least": at_least}
    return value

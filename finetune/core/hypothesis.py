"""Hypothesis templates: the sentence into which natural-language inference puts a label."""

from __future__ import annotations

from typing import Any

PLACEHOLDER = "{}"


def check_template(template: Any) -> str:
    """Return the template if it has exactly one `{}` and no other brace.

    Format codes such as `{label}`, `{0}` and the escape `{{` are refused: a template is filled by plain replacement,
    which would leave them as they are.

    Raises:
        ValueError: it is no string, has no `{}` or several, or another brace.
    """
    is_valid = isinstance(template, str) and template.count(PLACEHOLDER) == 1
    if not is_valid or any(brace in template.replace(PLACEHOLDER, "") for brace in "{}"):
        raise ValueError(
            'it needs exactly one {} where the label goes and no other brace, as in "This text is about {}."'
        )
    return str(template)


def fill(template: str, label: str) -> str:
    """Return the hypothesis for a label, by plain replacement: braces in a label stay as they are."""
    return template.replace(PLACEHOLDER, label, 1)

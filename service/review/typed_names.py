"""What reviewers type: labels, and their own names."""

from __future__ import annotations

import re
from collections.abc import Sequence

from finetune.core.label_text import clean
from service.errors import BadRequest

REVIEWER = re.compile(r"[^\x00-\x1f\x7f]{1,64}")


def matching_labels(typed: str, labels: Sequence[str]) -> list[str]:
    """Return the labels that a person may mean: the one that reads so, else those that begin with it, else those that
    contain it; ignoring case."""
    name = clean(typed).casefold()
    folded = {label: label.casefold() for label in labels}
    for fits in (
        lambda label: label == clean(typed),
        lambda label: folded[label] == name,
        lambda label: folded[label].startswith(name),
        lambda label: name in folded[label],
    ):
        matches = [label for label in labels if fits(label)]
        if matches:
            return matches
    return []


def checked_reviewer(name: str | None) -> str:
    """Return the name of a reviewer.

    Raises:
        BadRequest: it is empty or too long.
    """
    name = " ".join((name or "").split())
    if not REVIEWER.fullmatch(name):
        raise BadRequest("enter your name, of up to 64 characters: answers are stored with it")
    return name

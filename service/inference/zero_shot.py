"""Zero-shot classification without models: templates, candidate labels, and scores from NLI logits and cosines."""

from __future__ import annotations

import ast
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.core import hypothesis
from finetune.core.hypothesis import fill as fill
from finetune.core.labels import NliRoles
from finetune.core.model_folder import ScoreFusion, Scorer
from finetune.core.scores import Floats, log_softmax, sigmoid, softmax
from service.errors import BadRequest
from service.schema import ZeroShotRequest

NO_WIDTH = dict.fromkeys(map(ord, "\u00ad\u200b\u2060\ufeff"))
"""Invisible characters: labels that differ in these alone are the same."""


def check_template(template: Any) -> str:
    """Return the template if it has exactly one `{}` and no other brace.

    Raises:
        BadRequest: it is no string, has no `{}` or several, or another brace.
    """
    try:
        return hypothesis.check_template(template)
    except ValueError as error:
        raise BadRequest(f"the hypothesis template {template!r} is invalid: {error}") from error


def parse_labels(labels: Any) -> tuple[str, ...]:
    """Return label names from a list, or from one string with commas between them, without surrounding blanks.

    Raises:
        BadRequest: no label, an empty or repeated one, one that is no string, or a list written as text.
    """
    if isinstance(labels, str):
        if _is_written_list(labels):
            raise BadRequest(
                f"the labels {labels!r} are a list written as text: pass the list itself, or the names with commas "
                "between them"
            )
        names = [part.strip() for part in labels.split(",") if part.strip()]
    elif isinstance(labels, Sequence):
        for label in labels:
            if not isinstance(label, str):
                raise BadRequest(f"a label must be a string, not {type(label).__name__}")
        names = [label.strip() for label in labels]
    else:
        raise BadRequest(
            f"labels must be a list of strings, or one string with commas between them, not {type(labels).__name__}"
        )
    if not names:
        raise BadRequest("there is no label to choose from: give at least one")
    seen: dict[str, int] = {}
    for place, name in enumerate(names, start=1):
        visible = _visible(name)
        if not visible:
            raise BadRequest(f"label {place} of {len(names)} is empty")
        if visible in seen:
            raise BadRequest(f"the label {name!r} is given twice: labels {seen[visible]} and {place} are the same")
        seen[visible] = place
    return tuple(names)


def requests_of(request: ZeroShotRequest | Sequence[ZeroShotRequest], texts: Sequence[str]) -> list[ZeroShotRequest]:
    """Return a request for each text, with parsed labels.

    Raises:
        BadRequest: labels are invalid, a text is empty or no string, or the numbers of texts and requests differ.
    """
    requests = [request] * len(texts) if isinstance(request, ZeroShotRequest) else list(request)
    if len(requests) != len(texts):
        raise BadRequest(
            f"there are {len(texts)} texts and {len(requests)} requests: pass one request for each, or one"
        )
    distinct = {id(item): item for item in requests}
    checked = {key: replace(item, labels=parse_labels(item.labels)) for key, item in distinct.items()}
    for number, text in enumerate(texts, start=1):
        if not isinstance(text, str):
            raise BadRequest(f"text {number} of {len(texts)} must be a string, not {type(text).__name__}")
        if not text:
            raise BadRequest(f"text {number} of {len(texts)} is empty" if len(texts) > 1 else "the text is empty")
    return [checked[id(item)] for item in requests]


def _visible(name: str) -> str:
    """Return a label as it is displayed: composed, with single blanks, without invisible characters."""
    return " ".join(unicodedata.normalize("NFC", name).translate(NO_WIDTH).split())


def _is_written_list(labels: str) -> bool:
    """Return whether a string is a list, tuple or set of strings in Python's or JSON's spelling."""
    if labels.strip()[:1] not in ("[", "(", "{"):
        return False
    try:
        value = ast.literal_eval(labels.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False
    return isinstance(value, list | tuple | set) and all(isinstance(item, str) for item in value)


def mean_direction(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> Floats:
    """Return the sums `[L, H]` of two embeddings of each label, each scaled to length 1."""
    return np.asarray(unit(first) + unit(second))


def cosines(texts: npt.NDArray[Any], labels: npt.NDArray[Any]) -> Floats:
    """Return the cosine of each text with each label, `[N, L]`; 0 where an embedding is all zeros.

    Args:
        texts: embeddings `[N, 1, H]`, or `[N, L, H]` where each (text, label) pair has its own.
        labels: embeddings `[L, H]`.
    """
    first, second = texts.astype(np.float64), labels.astype(np.float64)
    lengths = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    dots = first[:, 0] @ second.T if first.shape[1] == 1 else np.einsum("nlh,lh->nl", first, second)
    return np.asarray(np.divide(dots, lengths, out=np.zeros_like(dots), where=lengths > 0))


def collapse(
    logits: npt.NDArray[Any] | None,
    cosine: Floats | None,
    *,
    roles: NliRoles,
    scorer: Scorer,
    fusion: ScoreFusion,
    multi_label: bool,
    counts: Sequence[int] | None = None,
) -> Floats:
    """Return scores `[N, L]` of the labels, row by row. A single label is scored as with `multi_label`.

    Args:
        logits: `[N, P, C]` of the NLI model, for P hypotheses; not used by scorer `embedding`.
        cosine: `[N, L]`; not used by scorer `nli`.
        counts: hypotheses of each label `[L]`, over which log odds (or log probabilities) are averaged; None where
            each label has one.
    """
    if scorer == "embedding":
        independent = _required(cosine).shape[1] == 1 or multi_label
        if independent:
            return sigmoid(fusion.cosine * _required(cosine) + fusion.bias)
        return softmax(fusion.cosine_weight * _required(cosine))
    values = np.asarray(_required(logits), dtype=np.float64)
    entailed, contradicted = values[..., roles.entailment], values[..., roles.contradiction]
    if counts is not None:
        entailed, contradicted = _means(entailed, counts), _means(contradicted, counts)
    independent = multi_label or entailed.shape[1] == 1
    if scorer == "nli":
        # softmax over (contradiction, entailment) is the sigmoid of their difference
        return sigmoid(entailed - contradicted) if independent else softmax(entailed)
    if independent:
        return sigmoid(fusion.nli * (entailed - contradicted) + fusion.cosine * _required(cosine) + fusion.bias)
    log_entailed = log_softmax(values)[..., roles.entailment]
    if counts is not None:
        log_entailed = _means(log_entailed, counts)
    return softmax(log_entailed + fusion.cosine_weight * _required(cosine))


def _means(values: npt.NDArray[Any], counts: Sequence[int]) -> Floats:
    """Return the mean of `counts` neighbors each, `[N, L]` from `[N, P]`."""
    starts = np.cumsum([0, *counts[:-1]])
    return np.asarray(np.add.reduceat(values, starts, axis=1) / np.asarray(counts))


def unit(vectors: npt.NDArray[Any]) -> Floats:
    """Return vectors `[N, H]` scaled to length 1; all zeros stay zeros."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=-1, keepdims=True)
    return np.asarray(np.divide(vectors, lengths, out=np.zeros(vectors.shape), where=lengths > 0))


def _required(values: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
    if values is None:
        raise TypeError("the scorer needs values that were not computed")
    return values

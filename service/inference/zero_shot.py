"""Zero-shot classification as arithmetic: texts and labels become sentence pairs, and logits become scores.

Knows: templates, label lists, what the outputs of an NLI model and a cosine say about a label.
Does not know: tokens, models, where a question came from. numpy, pure.
"""

from __future__ import annotations

import ast
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.core import hypothesis
from finetune.core.hypothesis import fill as fill
from finetune.core.labels import NliRoles
from finetune.core.model_folder import ScoreFusion, Scorer
from finetune.core.scores import Floats, log_softmax, sigmoid, softmax
from service.errors import BadRequest

NO_WIDTH = dict.fromkeys(map(ord, "\u00ad\u200b\u2060\ufeff"))
"""Characters that nobody sees: labels that differ in these alone are the same."""


def check_template(template: Any) -> str:
    """Return the template if it has exactly one `{}` and no other brace.

    Raises:
        BadRequest: it is no string, has no `{}` or several, or another brace.
    """
    try:
        return hypothesis.check_template(template)
    except ValueError as error:
        raise BadRequest(f"the template {template!r} cannot be used: {error}") from error


def parse_labels(labels: Any) -> tuple[str, ...]:
    """Label names from a list, or from one string with commas between them; surrounding blanks go.

    Raises:
        BadRequest: no label, an empty one, one that is no string, the same one twice, or a list written as text.
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
                raise BadRequest(f"a label must be a string, and one is {type(label).__name__}")
        names = [label.strip() for label in labels]
    else:
        raise BadRequest(
            f"labels are a list of strings, or one string with commas between them, not {type(labels).__name__}"
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


def _visible(name: str) -> str:
    """A label as a reader sees it: composed, with plain blanks, without characters of no width."""
    return " ".join(unicodedata.normalize("NFC", name).translate(NO_WIDTH).split())


def _is_written_list(labels: str) -> bool:
    """Whether a string is a list, tuple or set of strings in Python's or JSON's spelling."""
    if labels.strip()[:1] not in ("[", "(", "{"):
        return False
    try:
        value = ast.literal_eval(labels.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False
    return isinstance(value, list | tuple | set) and all(isinstance(one, str) for one in value)


def expand(texts: Sequence[str], hypotheses: Sequence[str]) -> tuple[list[str], list[str]]:
    """Every text with every hypothesis, as two lists of N x L; the hypothesis changes fastest."""
    return [text for text in texts for _ in hypotheses], list(hypotheses) * len(texts)


def mean_direction(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> Floats:
    """Sums `[L, H]` of two embeddings of each label, each scaled to length 1 before."""
    return np.asarray(_unit(first) + _unit(second))


def cosines(texts: npt.NDArray[Any], labels: npt.NDArray[Any]) -> Floats:
    """Cosine of each text with each label, `[N, L]`; 0 where an embedding is all zeros.

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
    mix: ScoreFusion,
    multi_label: bool,
) -> Floats:
    """Scores `[N, L]` of the labels, each row on its own. A single label is weighed as if several could hold.

    Args:
        logits: `[N, L, C]` of the NLI model; not needed by scorer `embedding`.
        cosine: `[N, L]`; not needed by scorer `nli`.
    """
    if scorer == "embedding":
        several = _given(cosine).shape[1] == 1 or multi_label
        return (
            sigmoid(mix.cosine * _given(cosine) + mix.bias) if several else softmax(mix.cosine_weight * _given(cosine))
        )
    values = np.asarray(_given(logits), dtype=np.float64)
    entailed, denied = values[..., roles.entailment], values[..., roles.contradiction]
    several = multi_label or values.shape[1] == 1
    if scorer == "nli":
        # softmax over (contradiction, entailment) is the sigmoid of their difference
        return sigmoid(entailed - denied) if several else softmax(entailed)
    if several:
        return sigmoid(mix.nli * (entailed - denied) + mix.cosine * _given(cosine) + mix.bias)
    return softmax(log_softmax(values)[..., roles.entailment] + mix.cosine_weight * _given(cosine))


def _unit(vectors: npt.NDArray[Any]) -> Floats:
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=-1, keepdims=True)
    return np.asarray(np.divide(vectors, lengths, out=np.zeros(vectors.shape), where=lengths > 0))


def _given(values: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
    if values is None:
        raise TypeError("this scorer needs values that were not computed")
    return values

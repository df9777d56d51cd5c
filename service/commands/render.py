"""Answers as text on a terminal and as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import click

from finetune.core.tokenization import without_surrogates
from service.schema import NONE_OF_THESE, Answer

BAR_WIDTH = 24


def show(
    texts: Sequence[str],
    answers: Sequence[Answer],
    *,
    top_k: int | None,
    as_json: bool,
    bars: bool = True,
    abstain: bool = False,
) -> None:
    """Print answers as JSON, as all labels of a single text with bars, or as a line for each of several texts.

    Args:
        abstain: print the labels of the prediction sets, in place of the best label of each of several texts.
    """
    if as_json:
        click.echo(
            json.dumps(
                [_record(text, answer, top_k, abstain) for text, answer in zip(texts, answers, strict=True)], indent=2
            )
        )
    elif len(texts) == 1 or top_k is not None:
        for text, answer in zip(texts, answers, strict=True):
            click.echo(_printable(text))
            _labels(answer, top_k, bars)
            if abstain:
                click.echo(_printable(f"  prediction set: {_members(answer)}"))
    elif abstain:
        width = max(len(_members(answer)) for answer in answers)
        for text, answer in zip(texts, answers, strict=True):
            click.echo(_printable(f"{_members(answer):<{width}}  {' '.join(text.split())}"))
    else:
        width = max(len(answer.best.label) for answer in answers)
        for text, answer in zip(texts, answers, strict=True):
            first_line = " ".join(text.split())
            click.echo(_printable(f"{answer.best.label:<{width}}  {_score(answer.best.score, bars)}  {first_line}"))
    languages = [answer.language for answer in answers if answer.language is not None]
    if languages:
        names = ", ".join(sorted(set(languages)))
        click.echo(
            f"warning: {len(languages)} of {len(answers)} texts are in a language ({names}) that the model was "
            "not trained for: answers to them may be wrong, however high their scores",
            err=True,
        )
    cut = sum(answer.truncated for answer in answers)
    if cut:
        click.echo(f"note: {cut} of {len(answers)} texts were longer than the model reads and were truncated", err=True)


def _members(answer: Answer) -> str:
    return ", ".join(item.label for item in answer.prediction_set) or NONE_OF_THESE


def _record(text: str, answer: Answer, top_k: int | None, abstain: bool) -> dict[str, Any]:
    predictions = [{"label": item.label, "score": item.score} for item in answer.predictions[:top_k]]
    sets = {"prediction_set": [item.label for item in answer.prediction_set]} if abstain else {}
    return {"text": text, "predictions": predictions, **sets, "truncated": answer.truncated} | answer.remarks


def _labels(answer: Answer, top_k: int | None, bars: bool) -> None:
    predictions = answer.predictions[:top_k]
    width = max(len(item.label) for item in predictions)
    for item in predictions:
        bar = _bar(item.score) if bars else ""
        click.echo(_printable(f"  {item.label:<{width}}  {_score(item.score, bars)}  {bar}".rstrip()))


def _score(score: float, probability: bool) -> str:
    return f"{score:6.3f}" if probability else f"{score:.6g}"


def _bar(score: float) -> str:
    mark = "█" if (sys.stdout.encoding or "").lower().startswith("utf") else "#"
    return mark * round(score * BAR_WIDTH)


def _printable(text: str) -> str:
    encoding = sys.stdout.encoding or "utf-8"
    return without_surrogates(text).encode(encoding, "replace").decode(encoding)

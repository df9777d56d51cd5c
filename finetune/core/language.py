"""Languages of texts, as ISO 639-1 codes, by py3langid."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import Any

SURE = 0.95
"""Probability from which a text counts as in another language. Of 3,000 English reviews, questions, commands and titles
none did, and of German, Swahili and Chinese sentences from 95% on."""

MOST_CHARACTERS = 300
"""Characters of a text that are read: about 0.1 ms."""

ENGLISH = re.compile(r"\b(the|this|that|with|which|what|from|they|would|there|been|because|your|should|about)\b", re.I)
"""Words that hardly another language has; two different ones spare an English text the slower test."""

FEWEST_LETTERS, LAST_LATIN = 20, 0x24F
"""Letters that tell a language; one that is not Latin counts as four."""

SAMPLED = 500
"""Texts of a table that are tested."""

WORTH_A_WARNING = 0.1
"""Fraction of a table's texts in other languages from which a warning is given."""


def other_language(text: str, languages: Collection[str]) -> str | None:
    """Return the most likely language of a text that is surely in none of `languages`, else None.

    Without `languages` nothing is known, and the answer is None.
    """
    if not languages:
        return None
    start = text[:MOST_CHARACTERS]
    if "en" in languages and len({word.lower() for word in ENGLISH.findall(start)}) > 1:
        return None
    if sum(4 if ord(letter) > LAST_LATIN else 1 for letter in start if letter.isalpha()) < FEWEST_LETTERS:
        return None
    ranked = _identifier().rank(start)
    if sum(float(probability) for language, probability in ranked if language in languages) > 1 - SURE:
        return None
    return str(ranked[0][0])


def warning_of_languages(texts: Iterable[str], languages: Collection[str], model: str) -> str | None:
    """Return a sentence if many of these texts are in languages that the model was not trained for."""
    found, count = Counter[str](), 0
    for text in texts:
        count += 1
        language = other_language(text, languages)
        if language is not None:
            found[language] += 1
    if count == 0 or found.total() / count < WORTH_A_WARNING:
        return None
    shown = ", ".join(language for language, _ in found.most_common(3))
    return (
        f"{found.total()} of the first {count} texts are in another language ({shown}) than {model} was trained for "
        f"({', '.join(languages)}): its answers may be wrong, however high their scores"
    )


@lru_cache(maxsize=1)
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

"""How well the tokenizer of a base fits the texts: token statistics, scripts, languages, and warnings."""

from __future__ import annotations

import random
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from finetune.core.model_folder import served
from finetune.core.tokenization import TextEncoder, without_surrogates
from finetune.data.tokenized import Tokens

ROWS = 2000
"""Number of texts that are sampled; lengths and truncation are counted on all texts."""

MOST_TOKENS_PER_WORD = 1.8
"""English WordPiece has 1.1 to 1.4 tokens per English word, on 16 data sets from intents to programming questions, and
2.2 to 2.4 per word of eleven languages of Indonesia."""

MOST_UNKNOWN = 0.01
MOST_TRUNCATED = 0.2
SHIPPED = "topics-multilingual"
MULTILINGUAL = (
    "FacebookAI/xlm-roberta-base",
    "jhu-clsp/mmBERT-base",
    "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2",
)

WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\u0e00-\u0e7f\u0e80-\u0eff\u1000-\u109f\u1780-\u17ff]|[^\W_]+"
)
"""A word, or a letter in scripts without spaces."""


@dataclass(frozen=True)
class TokenizerReport:
    """Token statistics of the texts.

    Attributes:
        unknown: fraction of tokens that are unknown.
        truncated: fraction of texts that are truncated.
        lengths: quantile -> number of tokens.
        scripts, languages: name -> fraction, largest first.
    """

    unknown: float
    tokens_per_word: float
    truncated: float
    lengths: dict[str, int]
    scripts: dict[str, float]
    languages: dict[str, float]
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"texts: {self.tokens_per_word:.2f} tokens per word, {self.unknown:.2%} unknown; median length "
            f"{self.lengths['0.5']} tokens, longest {self.lengths['1.0']}, {self.truncated:.1%} truncated; "
            f"script {_shown(self.scripts)}; language {_shown(self.languages)}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return all fields for metrics.json."""
        return asdict(self) | {"warnings": list(self.warnings)}


def tokenizer_report(
    encoder: TextEncoder, texts: Sequence[str], tokens: Tokens, *, base: str, seed: int
) -> TokenizerReport:
    """Return the token statistics of texts, with a warning for each that speaks against the base.

    Args:
        texts: texts of the rows, without the second texts of pairs.
        tokens: the same rows, tokenized for training.
        base: name of the base, for warnings.
    """
    sample = random.Random(seed).sample(range(len(texts)), min(ROWS, len(texts)))
    clean = [without_surrogates(texts[index]) for index in sample]
    tokenizer = encoder.tokenizer
    # texts longer than the model's limit are counted too: verbose=False silences the warning about them
    ids = tokenizer(clean, add_special_tokens=False, verbose=False)["input_ids"]
    pieces = sum(map(len, ids))
    unknown = sum(row.count(tokenizer.unk_token_id) for row in ids) if tokenizer.unk_token_id is not None else 0
    words = sum(len(WORD.findall(text)) for text in clean)
    report = TokenizerReport(
        unknown=unknown / max(1, pieces),
        tokens_per_word=pieces / max(1, words),
        truncated=float(tokens.truncated.mean()),
        lengths={str(quantile): int(np.quantile(tokens.lengths, quantile)) for quantile in (0.5, 0.9, 0.99, 1.0)},
        scripts=_fractions(script for text in clean for script in _scripts(text)),
        languages=_fractions(_language(text) for text in clean),
        warnings=(),
    )
    return replace(report, warnings=tuple(_warnings(report, encoder, base)))


def _warnings(report: TokenizerReport, encoder: TextEncoder, base: str) -> list[str]:
    warnings = []
    shipped = [SHIPPED] if SHIPPED in served(None) else []
    others = f"multilingual bases: {', '.join([*shipped, *MULTILINGUAL])}"
    if report.tokens_per_word > MOST_TOKENS_PER_WORD:
        warnings.append(
            f"{base} splits a word into {report.tokens_per_word:.1f} tokens here, where 1.3 is usual: its vocabulary "
            f"does not fit these texts (language {_shown(report.languages)}); {others}"
        )
    if report.unknown > MOST_UNKNOWN:
        warnings.append(
            f"{base} has no token for {report.unknown:.1%} of these texts (script {_shown(report.scripts)}); {others}"
        )
    if report.truncated > MOST_TRUNCATED:
        warnings.append(
            f"{report.truncated:.0%} of the texts are truncated at {encoder.max_length} tokens: raise data.max_length "
            "if the base allows more, or move the relevant part to the beginning"
        )
    return warnings


def _scripts(text: str) -> list[str]:
    letters = (unicodedata.name(letter, "").partition(" ")[0] for letter in text if letter.isalpha())
    return [name.capitalize() for name in letters if name]


def _language(text: str) -> str:
    import py3langid

    return str(py3langid.classify(text)[0])


def _fractions(names: Iterable[str]) -> dict[str, float]:
    counts = Counter(names)
    total = max(1, counts.total())
    return {name: round(count / total, 4) for name, count in counts.most_common(8)}


def _shown(fractions: dict[str, float]) -> str:
    """Return the most frequent names with their percentages: at most four, each with at least 5%."""
    frequent = [f"{name} {fraction:.0%}" for name, fraction in list(fractions.items())[:4] if fraction >= 0.05]
    return ", ".join(frequent) or "none detected"

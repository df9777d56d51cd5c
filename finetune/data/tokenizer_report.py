"""Whether a base can read the texts: what its tokenizer makes of them, and what they are written in.

Knows: the figures that tell, the bounds beyond which a base does not fit, bases that would.
Does not know: tables, training.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from finetune.core.tokenization import TextEncoder, without_surrogates
from finetune.data.tokenized import Tokens

ROWS = 2000
"""Texts that are looked at, drawn with the seed; lengths and cuts are counted on all."""

MOST_TOKENS_PER_WORD = 1.8
"""An English WordPiece base makes 1.1 to 1.4 tokens of an English word, over 16 sets from intents to programmers'
questions, and 2.2 to 2.4 of one in eleven languages of Indonesia."""

MOST_UNKNOWN = 0.01
MOST_TRUNCATED = 0.2
MULTILINGUAL = (
    "FacebookAI/xlm-roberta-base",
    "jhu-clsp/mmBERT-base",
    "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2",
)

WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\u0e00-\u0e7f\u0e80-\u0eff\u1000-\u109f\u1780-\u17ff]|[^\W_]+"
)
"""A word; in scripts written without spaces, each letter."""


@dataclass(frozen=True)
class TokenizerReport:
    """What a tokenizer makes of the texts. Shares lie in 0..1; `lengths` are tokens at the named quantiles;
    `scripts` and `languages` are shares, largest first."""

    unknown: float
    tokens_per_word: float
    truncated: float
    lengths: dict[str, int]
    scripts: dict[str, float]
    languages: dict[str, float]
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"texts: {self.tokens_per_word:.2f} tokens a word, {self.unknown:.2%} unknown; half have up to "
            f"{self.lengths['0.5']} tokens, the longest {self.lengths['1.0']}, {self.truncated:.1%} are cut; "
            f"written in {_shown(self.scripts)}; language {_shown(self.languages)}"
        )

    def to_json(self) -> dict[str, Any]:
        """Every field, ready for metrics.json."""
        return asdict(self) | {"warnings": list(self.warnings)}


def look(encoder: TextEncoder, texts: Sequence[str], tokens: Tokens, *, base: str, seed: int) -> TokenizerReport:
    """How the texts fit the base's tokenizer, with a warning in a sentence for each thing that does not.

    Args:
        texts: first texts of the rows; `tokens` are the rows as they will be trained on.
    """
    some = random.Random(seed).sample(range(len(texts)), min(ROWS, len(texts)))
    clean = [without_surrogates(texts[index]) for index in some]
    tokenizer = encoder.tokenizer
    # a text longer than the model reads is meant here: silence the warning about it
    ids = tokenizer(clean, add_special_tokens=False, verbose=False)["input_ids"]
    pieces = sum(map(len, ids))
    unknown = sum(row.count(tokenizer.unk_token_id) for row in ids) if tokenizer.unk_token_id is not None else 0
    words = sum(len(WORD.findall(text)) for text in clean)
    found = TokenizerReport(
        unknown=unknown / max(1, pieces),
        tokens_per_word=pieces / max(1, words),
        truncated=float(tokens.truncated.mean()),
        lengths={str(share): int(np.quantile(tokens.lengths, share)) for share in (0.5, 0.9, 0.99, 1.0)},
        scripts=_shares(script for text in clean for script in _scripts(text)),
        languages=_shares(_language(text) for text in clean),
        warnings=(),
    )
    return TokenizerReport(**{**asdict(found), "warnings": tuple(_warnings(found, encoder, base))})


def _warnings(found: TokenizerReport, encoder: TextEncoder, base: str) -> list[str]:
    said = []
    others = f"bases that read many languages: {', '.join(MULTILINGUAL)}"
    if found.tokens_per_word > MOST_TOKENS_PER_WORD:
        said.append(
            f"{base} cuts a word into {found.tokens_per_word:.1f} tokens here, where 1.3 is usual, so it hardly knows "
            f"these words (language {_shown(found.languages)}); {others}"
        )
    if found.unknown > MOST_UNKNOWN:
        said.append(
            f"{base} has no token for {found.unknown:.1%} of these texts (written in {_shown(found.scripts)}); {others}"
        )
    if found.truncated > MOST_TRUNCATED:
        said.append(
            f"{found.truncated:.0%} of the texts are cut at {encoder.max_length} tokens: raise data.max_length if the "
            "base reads more, or put what matters first"
        )
    return said


def _scripts(text: str) -> list[str]:
    letters = (unicodedata.name(letter, "").partition(" ")[0] for letter in text if letter.isalpha())
    return [name.capitalize() for name in letters if name]


def _language(text: str) -> str:
    import py3langid

    return str(py3langid.classify(text)[0])


def _shares(names: Any) -> dict[str, float]:
    counted = Counter(names)
    total = max(1, counted.total())
    return {name: round(count / total, 4) for name, count in counted.most_common(8)}


def _shown(shares: dict[str, float]) -> str:
    """The names that matter: those with a twentieth or more, at most four."""
    return ", ".join(f"{name} {share:.0%}" for name, share in list(shares.items())[:4] if share >= 0.05) or "none found"

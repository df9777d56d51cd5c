"""Vectors of texts by the words that they have: TF-IDF, reduced to a few dimensions (latent semantic analysis).

Words tell texts apart where the embeddings of a small encoder do not, such as one name of a product from another.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

DIMENSIONS = 100
MOST_WORDS = 50_000
UNSPACED = "\u0e00-\u0eff\u0f00-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Characters of scripts without blanks between words: Thai, Lao, Tibetan, Burmese, Khmer, Japanese, Chinese."""

MARKS = "\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0670\u0900-\u0963\u0966-\u0dff"
"""Accents and vowel signs, which are parts of words and no word characters of regular expressions."""

WORD = re.compile(rf"[{UNSPACED}]+|(?:[^\W{UNSPACED}]|[{MARKS}]){{2,}}")


class WordVectors:
    """Vectors `[N, D]` of texts, fitted on a corpus without labels; zeros for texts without a known word.

    Args:
        texts: the corpus.
        seed: of the randomized decomposition.
    """

    def __init__(self, texts: Sequence[str], seed: int) -> None:
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        self._vectorizer: Any = TfidfVectorizer(
            analyzer=words, sublinear_tf=True, min_df=2, max_features=MOST_WORDS, dtype=np.float32
        )
        self._reduced: Any = None
        try:
            counts = self._vectorizer.fit_transform(texts)
        except ValueError:  # no word is in two texts
            return
        dimensions = min(DIMENSIONS, *(size - 1 for size in counts.shape))
        if dimensions > 0:
            self._reduced = TruncatedSVD(dimensions, random_state=seed).fit(counts)

    def __call__(self, texts: Sequence[str]) -> npt.NDArray[Any]:
        """Return the vectors of texts; `[N, 1]` zeros where the corpus has no words in common."""
        if self._reduced is None:
            return np.zeros((len(texts), 1), dtype=np.float32)
        return np.asarray(self._reduced.transform(self._vectorizer.transform(texts)), dtype=np.float32)


def words(text: str) -> list[str]:
    """Return the words of two or more letters in lower case; of scripts without blanks, all pairs of neighbors."""
    found = []
    for word in WORD.findall(text.lower()):
        unspaced = re.match(f"[{UNSPACED}]", word)
        found += [word[place : place + 2] for place in range(len(word) - 1)] if unspaced else [word]
    return found

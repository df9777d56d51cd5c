"""Count and list near-duplicate texts, within the training rows and between them and evaluation splits; drop none.

Candidates come from MinHash over shingles of two words. Exact duplicates are dropped in rows.py.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.data.rows import Rows
from finetune.data.tokenizer_report import WORD

SIMILAR = 0.8
"""Jaccard similarity of two texts' shingles from which they count as near-duplicates."""

BANDS, BAND = 16, 8
"""Bands, and hashes in a band; two texts are candidates if a band agrees: 95% of pairs at a similarity of 0.8, 99.8% at
0.9."""

MOST_TEXTS = 100_000
"""Maximum number of texts that are compared, up to half of them of evaluation splits."""

LONGEST = 2_000
"""Characters of each text that are compared."""

MOST_CANDIDATES = 50
"""Maximum number of texts that one is compared with; a text with so many candidates is not added to the index."""

MOST_PAIRS_A_ROW = 5
AT_ONCE = 2_000

Shingles = tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]
Key = tuple[str, int]


@dataclass(frozen=True)
class NearDuplicate:
    """Two rows with nearly the same text; `first` is a training row if one of them is."""

    similarity: float
    first: Key
    second: Key


@dataclass(frozen=True)
class NearDuplicates:
    """The result of `find`.

    Attributes:
        pairs: those with evaluation splits first, the most similar before others.
        examined, texts: number of texts that were compared, and of all texts.
    """

    pairs: list[NearDuplicate]
    examined: int
    texts: int

    @property
    def counts(self) -> dict[str, int]:
        """Number of training rows that nearly repeat an earlier training row, and a row of evaluation."""
        within = {pair.second for pair in self.pairs if pair.second[0] == "train"}
        across = {pair.first for pair in self.pairs if pair.first[0] == "train" and pair.second[0] != "train"}
        return {"near_duplicates": len(within), "near_duplicates_in_evaluation": len(across)}

    def __str__(self) -> str:
        counts = self.counts
        examined = "" if self.examined == self.texts else f" (of {self.examined} texts compared)"
        return (
            f"near-duplicates: {counts['near_duplicates']} training rows nearly repeat another, "
            f"{counts['near_duplicates_in_evaluation']} a row of evaluation{examined}"
        )

    def listed(self, splits: Mapping[str, Rows], count: int) -> list[dict[str, Any]]:
        """Return up to `count` pairs as rows of a table."""
        return [
            {"similarity": round(pair.similarity, 3)}
            | {f"{key}_1": value for key, value in _shown(splits, pair.first).items()}
            | {f"{key}_2": value for key, value in _shown(splits, pair.second).items()}
            for pair in self.pairs[:count]
        ]


def find(splits: Mapping[str, Rows], *, similar: float = SIMILAR) -> NearDuplicates:
    """Return the near-duplicates within `splits["train"]` and between it and the other splits.

    Candidates come from locality-sensitive hashing (datasketch) and are checked by their exact Jaccard similarity, for
    pairs of texts the lower one of both sides: no pair is listed wrongly, and a few may be missed. Of dozens of similar
    texts, each is compared with some of the others only.
    """
    from datasketch import MinHashLSH

    keys = _compared(splits)
    index = {training: MinHashLSH(num_perm=BANDS * BAND, params=(BANDS, BAND)) for training in (False, True)}
    indexed: dict[int, Shingles] = {}
    pairs: list[NearDuplicate] = []
    for position, (key, shingles, hashed) in enumerate(_hashed(splits, keys)):
        training = key[0] == "train"
        alike = {side: index[side].query(hashed) for side in ((False, True) if training else (False,))}
        for side, candidates in alike.items() if training else ():
            nearest = islice(candidates, MOST_CANDIDATES)
            scored = ((_similarity(indexed[earlier], shingles), keys[earlier]) for earlier in nearest)
            near = islice(((score, other) for score, other in scored if score >= similar), MOST_PAIRS_A_ROW)
            pairs += [NearDuplicate(score, *((other, key) if side else (key, other))) for score, other in near]
        if len(alike[training]) < MOST_CANDIDATES:
            index[training].insert(position, hashed, check_duplication=False)
            indexed[position] = shingles
    pairs.sort(key=lambda pair: (pair.second[0] == "train", -pair.similarity))
    return NearDuplicates(pairs, len(keys), sum(len(rows) for rows in splits.values()))


def _compared(splits: Mapping[str, Rows]) -> list[Key]:
    evaluation = [(name, index) for name, rows in splits.items() if name != "train" for index in range(len(rows))]
    training = [("train", index) for index in range(len(splits["train"]))]
    evaluation = evaluation[: max(MOST_TEXTS // 2, MOST_TEXTS - len(training))]
    return evaluation + training[: MOST_TEXTS - len(evaluation)]


def _hashed(splits: Mapping[str, Rows], keys: list[Key]) -> Iterator[tuple[Key, Shingles, Any]]:
    from datasketch import MinHash

    for start in range(0, len(keys), AT_ONCE):
        part = keys[start : start + AT_ONCE]
        shingles = [
            (_shingles(splits[name].texts[index]), _shingles(_pair(splits[name], index))) for name, index in part
        ]
        both = [[*first.tolist(), *(value ^ 0xFFFFFFFF for value in second.tolist())] for first, second in shingles]
        yield from zip(part, shingles, MinHash.bulk(both, num_perm=BANDS * BAND, hashfunc=int), strict=True)


def _shingles(text: str) -> npt.NDArray[np.uint32]:
    """Return the sorted hashes of a text's shingles of two words, or of two letters in scripts without spaces."""
    words = WORD.findall(text[:LONGEST].lower()) or ([text[:LONGEST]] if text else [])
    pairs = {" ".join(words[start : start + 2]) for start in range(max(1, len(words) - 1) if words else 0)}
    return np.unique(
        np.fromiter((zlib.crc32(pair.encode("utf-8", "replace")) for pair in pairs), np.uint32, len(pairs))
    )


def _pair(rows: Rows, index: int) -> str:
    return rows.pairs[index] if rows.pairs is not None else ""


def _similarity(one: Shingles, other: Shingles) -> float:
    sides = []
    for first, second in zip(one, other, strict=True):
        shared = len(np.intersect1d(first, second, assume_unique=True))
        union = len(first) + len(second) - shared
        sides.append(shared / union if union else 1.0)
    return min(sides)


def _shown(splits: Mapping[str, Rows], key: Key) -> dict[str, Any]:
    name, index = key
    rows = splits[name]
    value = rows.values[index]
    pair = {"text_pair": rows.pairs[index]} if rows.pairs is not None else {}
    label = "|".join(value) if isinstance(value, list) else value
    return {"split": name, "row": rows.numbers[index], "label": label, "text": rows.texts[index]} | pair

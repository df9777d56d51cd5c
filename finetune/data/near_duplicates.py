"""Texts that nearly repeat one another: counted, and listed for a person to look at.

Knows: MinHash over runs of words, and what a near repeat means within training and across to evaluation.
Does not know: exact repeats (rows.py), or whether anything should be dropped: nothing is.
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
"""Share of two texts' runs of words, of all that either has (Jaccard), from which they count as near-duplicates."""

BANDS, BAND = 16, 8
"""Two texts are compared if all hashes of one band agree: 95 in 100 pairs at a similarity of 0.8, 99.8 at 0.9."""

MOST_TEXTS = 100_000
"""Texts looked at, half of them of evaluation if there are so many, so that a large table does not wait for it."""

LONGEST = 2_000
"""Characters of each text that are looked at."""

CROWD = 50
"""Texts that one is compared with at most; where so many are alike, more of them are not kept to compare with."""

MOST_PAIRS_A_ROW = 5
AT_ONCE = 2_000

Runs = tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]
Key = tuple[str, int]


@dataclass(frozen=True)
class NearDuplicate:
    """Two rows whose texts are nearly the same; `first` is a training row wherever one of them is."""

    similarity: float
    first: Key
    second: Key


@dataclass(frozen=True)
class NearDuplicates:
    """What `find` saw: pairs, evaluation leaks first and the most similar before others, and how many texts it read."""

    pairs: list[NearDuplicate]
    examined: int
    texts: int

    @property
    def counts(self) -> dict[str, int]:
        """How many training rows nearly repeat an earlier training row, and how many a row of evaluation."""
        within = {pair.second for pair in self.pairs if pair.second[0] == "train"}
        across = {pair.first for pair in self.pairs if pair.first[0] == "train" and pair.second[0] != "train"}
        return {"near_duplicates": len(within), "near_duplicates_in_evaluation": len(across)}

    def __str__(self) -> str:
        counts = self.counts
        looked = "" if self.examined == self.texts else f" (of {self.examined} texts looked at)"
        return (
            f"near-duplicates: {counts['near_duplicates']} training rows nearly repeat another, "
            f"{counts['near_duplicates_in_evaluation']} a row of evaluation{looked}"
        )

    def listed(self, splits: Mapping[str, Rows], count: int) -> list[dict[str, Any]]:
        """Up to `count` pairs as rows of a table."""
        return [
            {"similarity": round(pair.similarity, 3)}
            | {f"{key}_1": value for key, value in _shown(splits, pair.first).items()}
            | {f"{key}_2": value for key, value in _shown(splits, pair.second).items()}
            for pair in self.pairs[:count]
        ]


def find(splits: Mapping[str, Rows], *, similar: float = SIMILAR) -> NearDuplicates:
    """The near-duplicates within `splits["train"]` and between it and the other splits.

    Candidates come from locality-sensitive hashing (datasketch) and are checked by their exact Jaccard similarity (of
    pairs, the smaller one of the two sides), so that what is listed is so, while a few may be missed. Where dozens of
    texts are alike each is compared with some of the others only.
    """
    from datasketch import MinHashLSH

    looked_at = _looked_at(splits)
    index = {training: MinHashLSH(num_perm=BANDS * BAND, params=(BANDS, BAND)) for training in (False, True)}
    kept: dict[int, Runs] = {}
    found: list[NearDuplicate] = []
    for position, (key, runs, hashed) in enumerate(_hashed(splits, looked_at)):
        training = key[0] == "train"
        alike = {side: index[side].query(hashed) for side in ((False, True) if training else (False,))}
        for side, candidates in alike.items() if training else ():
            scored = ((_similarity(kept[earlier], runs), looked_at[earlier]) for earlier in islice(candidates, CROWD))
            near = islice(((score, other) for score, other in scored if score >= similar), MOST_PAIRS_A_ROW)
            found += [NearDuplicate(score, *((other, key) if side else (key, other))) for score, other in near]
        if len(alike[training]) < CROWD:
            index[training].insert(position, hashed, check_duplication=False)
            kept[position] = runs
    found.sort(key=lambda pair: (pair.second[0] == "train", -pair.similarity))
    return NearDuplicates(found, len(looked_at), sum(len(rows) for rows in splits.values()))


def _looked_at(splits: Mapping[str, Rows]) -> list[Key]:
    evaluation = [(name, index) for name, rows in splits.items() if name != "train" for index in range(len(rows))]
    training = [("train", index) for index in range(len(splits["train"]))]
    evaluation = evaluation[: max(MOST_TEXTS // 2, MOST_TEXTS - len(training))]
    return evaluation + training[: MOST_TEXTS - len(evaluation)]


def _hashed(splits: Mapping[str, Rows], keys: list[Key]) -> Iterator[tuple[Key, Runs, Any]]:
    from datasketch import MinHash

    for start in range(0, len(keys), AT_ONCE):
        part = keys[start : start + AT_ONCE]
        runs = [(_runs(splits[name].texts[index]), _runs(_pair(splits[name], index))) for name, index in part]
        both = [[*first.tolist(), *(value ^ 0xFFFFFFFF for value in second.tolist())] for first, second in runs]
        yield from zip(part, runs, MinHash.bulk(both, num_perm=BANDS * BAND, hashfunc=int), strict=True)


def _runs(text: str) -> npt.NDArray[np.uint32]:
    """Hashes of the runs of two words; in scripts that put no blanks between words, of two letters. Empty for none."""
    words = WORD.findall(text[:LONGEST].lower()) or ([text[:LONGEST]] if text else [])
    runs = {" ".join(words[start : start + 2]) for start in range(max(1, len(words) - 1) if words else 0)}
    return np.unique(np.fromiter((zlib.crc32(run.encode("utf-8", "replace")) for run in runs), np.uint32, len(runs)))


def _pair(rows: Rows, index: int) -> str:
    return rows.pairs[index] if rows.pairs is not None else ""


def _similarity(one: Runs, other: Runs) -> float:
    sides = []
    for first, second in zip(one, other, strict=True):
        shared = len(np.intersect1d(first, second, assume_unique=True))
        every = len(first) + len(second) - shared
        sides.append(shared / every if every else 1.0)
    return min(sides)


def _shown(splits: Mapping[str, Rows], key: Key) -> dict[str, Any]:
    name, index = key
    rows = splits[name]
    value = rows.values[index]
    pair = {"text_pair": rows.pairs[index]} if rows.pairs is not None else {}
    label = "|".join(value) if isinstance(value, list) else value
    return {"split": name, "row": rows.numbers[index], "label": label, "text": rows.texts[index]} | pair

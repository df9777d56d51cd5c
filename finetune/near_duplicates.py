"""Texts that nearly repeat one another: counted, and listed for a person to look at.

Knows: MinHash over runs of words, and what a near repeat means within training and across to evaluation.
Does not know: exact repeats (rows.py), or whether anything should be dropped: nothing is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune.base_fit import WORD
from finetune.rows import Rows

SIMILAR = 0.8
"""Share of two texts' runs of words, of all that either has (Jaccard), from which they count as near-duplicates."""

HASHES = 64
MOST_TEXTS = 100_000
"""Texts looked at, evaluation first, so that a large table does not wait for it."""

LONGEST = 2_000
"""Characters of each text that are looked at."""


@dataclass(frozen=True)
class NearDuplicate:
    """Two rows whose texts are nearly the same; `first` is a training row wherever one of them is."""

    similarity: float
    first: tuple[str, int]
    second: tuple[str, int]


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

    Candidates come from locality-sensitive hashing (datasketch) and are checked by their exact Jaccard similarity,
    so that what is listed is so; a pair close to the threshold may be missed. Of rows that are all alike the first
    stands for the others, so that a table of a thousand copies does not give a million pairs.
    """
    from datasketch import MinHash, MinHashLSH

    names = sorted(splits, key=lambda name: name == "train")
    order = [(name, index) for name in names for index in range(len(splits[name]))]
    looked_at = order[:MOST_TEXTS]
    runs = [_runs(splits[name], index) for name, index in looked_at]
    hashes = MinHash.bulk(runs, num_perm=HASHES)
    index_of = MinHashLSH(threshold=similar, num_perm=HASHES)
    found = []
    for position, (key, hashed) in enumerate(zip(looked_at, hashes, strict=True)):
        repeats = False
        for earlier in sorted(index_of.query(hashed)):
            similarity = len(runs[earlier] & runs[position]) / len(runs[earlier] | runs[position])
            if similarity >= similar:
                other = looked_at[earlier]
                repeats = repeats or other[0] == key[0]
                if key[0] == "train":
                    pair = (other, key) if other[0] == "train" else (key, other)
                    found.append(NearDuplicate(similarity, *pair))
        if not repeats:
            index_of.insert(position, hashed, check_duplication=False)
    found.sort(key=lambda pair: (pair.second[0] == "train", -pair.similarity))
    return NearDuplicates(found, len(looked_at), len(order))


def _runs(rows: Rows, index: int) -> set[bytes]:
    """Runs of two words; in scripts that put no blanks between words, of two letters."""
    text = rows.texts[index] + (f" \n {rows.pairs[index]}" if rows.pairs is not None else "")
    words = WORD.findall(text[:LONGEST].lower()) or [text[:LONGEST]]
    return {" ".join(words[start : start + 2]).encode("utf-8", "replace") for start in range(max(1, len(words) - 1))}


def _shown(splits: Mapping[str, Rows], key: tuple[str, int]) -> dict[str, Any]:
    name, index = key
    rows = splits[name]
    value = rows.values[index]
    pair = {"text_pair": rows.pairs[index]} if rows.pairs is not None else {}
    label = "|".join(value) if isinstance(value, list) else value
    return {"split": name, "row": rows.numbers[index], "label": label, "text": rows.texts[index]} | pair

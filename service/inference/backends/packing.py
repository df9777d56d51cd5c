"""Hypotheses side by side in rows, so that many labels are one sequence with little padding.

Knows: how rows are filled, and what a backend must be told to keep labels in a row apart.
Does not know: runtimes, templates. numpy, pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finetune.core.attention_mask import PADDING
from finetune.core.tokenization import Encoded

Ints = npt.NDArray[np.int64]

WIDEST_SINGLE_ROW = 144
"""Labels of so many tokens together stand in one row: attention within a row costs the square of its width."""

WIDTH = 96
"""Tokens of a row at least, where there are several: each row reads all keys of its text once more."""


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """The labels of a text, each as a [CLS] of its own and its hypothesis, in R rows of S tokens.

    ids, type_ids: `[R, S]`.
    steps: `[R, S]`, how far a token stands behind the text: 0 for a hypothesis' first token, -1 for [CLS].
    owners: `[R, S]`, number of the label that a token belongs to; -1 for padding.
    starts: `[L]`, where each label's [CLS] stands, counted through all rows.
    """

    ids: Ints
    type_ids: Ints
    steps: Ints
    owners: Ints
    starts: Ints

    @property
    def tokens(self) -> int:
        """Tokens that a backend computes, padding included."""
        return int(self.ids.size)

    @property
    def width(self) -> int:
        """Tokens of a row."""
        return int(self.ids.shape[1])


def packed(hypotheses: Sequence[Encoded], leading: Encoded) -> Packed:
    """Hypotheses (parts of pairs from the text's end on) behind `leading`, the token that a sequence begins with."""
    lengths = [1 + len(one) for one in hypotheses]
    rows = _filled(lengths)
    width = max(sum(lengths[label] for label in row) for row in rows)
    ids, types, steps, owners = (np.zeros((len(rows), width), dtype=np.int64) for _ in range(4))
    owners -= 1
    steps -= 1
    starts = np.zeros(len(hypotheses), dtype=np.int64)
    for number, row in enumerate(rows):
        place = 0
        for label in row:
            hypothesis, end = hypotheses[label], place + lengths[label]
            starts[label] = number * width + place
            ids[number, place], types[number, place] = leading.ids[0], leading.type_ids[0]
            ids[number, place + 1 : end] = hypothesis.ids
            types[number, place + 1 : end] = hypothesis.type_ids
            steps[number, place + 1 : end] = np.arange(len(hypothesis))
            owners[number, place:end] = label
            place = end
    return Packed(ids, types, steps, owners, starts)


def arrays_of(texts: Mapping[str, Ints], packs: Sequence[Packed]) -> dict[str, Ints]:
    """The inputs of the graph `one_pass`: texts as `TextEncoder.pad` gives them, and the labels of each."""
    found = {
        "text_ids": texts["input_ids"],
        "lengths": (texts["segments"] != PADDING).sum(axis=1, dtype=np.int64),
        **joined(packs),
    }
    if "token_type_ids" in texts:
        found["text_types"] = texts["token_type_ids"]
    else:
        del found["types"]
    return found


def joined(packs: Sequence[Packed]) -> dict[str, Ints]:
    """The labels of several texts as one batch of N rows: `ids`, `types`, `steps`, `owners` `[N, S]`, `text_of` `[N]`,
    which text a row belongs to, and `starts` `[P]`, text by text."""
    width = max(pack.width for pack in packs)
    counts = [len(pack.ids) for pack in packs]

    def stacked(name: str, filler: int) -> Ints:
        arrays: list[Ints] = [getattr(pack, name) for pack in packs]
        wide = [np.pad(one, ((0, 0), (0, width - one.shape[1])), constant_values=filler) for one in arrays]
        return np.concatenate(wide)

    before = np.cumsum([0, *counts[:-1]])
    starts = [
        (row + pack.starts // pack.width) * width + pack.starts % pack.width
        for row, pack in zip(before, packs, strict=True)
    ]
    return {
        "ids": stacked("ids", 0),
        "types": stacked("type_ids", 0),
        "steps": stacked("steps", -1),
        "owners": stacked("owners", -1),
        "text_of": np.repeat(np.arange(len(packs)), counts),
        "starts": np.concatenate(starts),
    }


@dataclass(frozen=True, slots=True, eq=False)
class Flat:
    """Tokens `[N]` of sequences end to end; `lengths` says how many each has. `types` is None for models without."""

    ids: Ints
    positions: Ints
    types: Ints | None
    lengths: Ints


def flat(inputs: Mapping[str, Ints], chosen: npt.NDArray[np.bool_]) -> Flat:
    """The chosen tokens of padded rows `[B, L]`, row by row."""
    types = inputs["token_type_ids"][chosen] if "token_type_ids" in inputs else None
    return Flat(inputs["input_ids"][chosen], np.nonzero(chosen)[1], types, chosen.sum(axis=1))


def flat_labels(texts: Mapping[str, Ints], packs: Sequence[Packed]) -> tuple[Flat, Ints]:
    """The labels of texts as sequences end to end, text by text, and where in this order each label stands `[P]`."""
    parts = {id(pack): pack for pack in packs}
    # a row holds its labels end to end, so that the tokens of a label stay together
    chosen = {key: pack.owners >= 0 for key, pack in parts.items()}
    orders = {key: np.argsort(pack.starts) for key, pack in parts.items()}

    def joined(name: str) -> Ints:
        flat = {key: getattr(pack, name)[chosen[key]] for key, pack in parts.items()}
        return np.concatenate([flat[id(pack)] for pack in packs])

    sizes = {key: np.bincount(pack.owners[chosen[key]])[orders[key]] for key, pack in parts.items()}
    behind = np.repeat((texts["segments"] != PADDING).sum(axis=1), [int(sizes[id(pack)].sum()) for pack in packs])
    steps = joined("steps")
    types = joined("type_ids") if "token_type_ids" in texts else None
    before = np.cumsum([0, *(len(pack.starts) for pack in packs[:-1])])
    places = [first + np.argsort(orders[id(pack)]) for first, pack in zip(before, packs, strict=True)]
    found = Flat(
        joined("ids"),
        np.where(steps < 0, 0, behind + steps),
        types,
        np.concatenate([sizes[id(pack)] for pack in packs]),
    )
    return found, np.concatenate(places)


def _filled(lengths: Sequence[int]) -> list[list[int]]:
    """Which labels share a row: longest first, each into the first row with room, rows as narrow as that allows."""
    total, longest = sum(lengths), max(lengths)
    order = sorted(range(len(lengths)), key=lambda label: -lengths[label])
    if total <= WIDEST_SINGLE_ROW:
        return [order]
    wanted = max(1, total // max(WIDTH, longest))
    for width in range(max(longest, -(-total // wanted)), total + 1):
        rows: list[list[int]] = []
        room: list[int] = []
        for label in order:
            number = next((place for place, free in enumerate(room) if free >= lengths[label]), len(rows))
            if number == len(rows):
                rows.append([])
                room.append(width)
            rows[number].append(label)
            room[number] -= lengths[label]
        if len(rows) <= wanted:
            return rows
    return [order]

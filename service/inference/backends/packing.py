"""Hypotheses side by side in rows, so that many labels are computed as one sequence with little padding. numpy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finetune.core.attention_mask import PADDING
from finetune.core.tokenization import Encoded

Ints = npt.NDArray[np.int64]

WIDEST_SINGLE_ROW = 144
"""Labels of up to this many tokens share one row: attention within a row costs the square of its width."""

WIDTH = 96
"""Minimum tokens of a row, where there are several: each row reads all keys of its text again."""


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """The labels of a text, each as its own [CLS] and hypothesis, in R rows of S tokens.

    ids, type_ids: `[R, S]`.
    steps: `[R, S]`, the distance of a token from the end of the text: 0 for a hypothesis' first token, -1 for [CLS].
    owners: `[R, S]`, number of the label that a token belongs to; -1 for padding.
    starts: `[L]`, the index of each label's [CLS] in the flattened rows.
    """

    ids: Ints
    type_ids: Ints
    steps: Ints
    owners: Ints
    starts: Ints

    @property
    def tokens(self) -> int:
        """Return the tokens that a backend computes, padding included."""
        return int(self.ids.size)

    @property
    def width(self) -> int:
        """Return the tokens of a row."""
        return int(self.ids.shape[1])


def packed(hypotheses: Sequence[Encoded], leading: Encoded) -> Packed:
    """Return hypotheses (parts of pairs after the text) in rows, each after `leading`, a sequence's first token."""
    lengths = [1 + len(hypothesis) for hypothesis in hypotheses]
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
    """Return the inputs of the graph `one_pass`: texts from `TextEncoder.pad`, and the labels of each."""
    arrays = {
        "text_ids": texts["input_ids"],
        "lengths": (texts["segments"] != PADDING).sum(axis=1, dtype=np.int64),
        **joined(packs),
    }
    if "token_type_ids" in texts:
        arrays["text_types"] = texts["token_type_ids"]
    else:
        del arrays["types"]
    return arrays


def joined(packs: Sequence[Packed]) -> dict[str, Ints]:
    """Return the labels of several texts as a batch of N rows.

    These are `ids`, `types`, `steps`, `owners` `[N, S]`, `text_of` `[N]`, the text of each row, and `starts` `[P]`.
    """
    width = max(pack.width for pack in packs)
    counts = [len(pack.ids) for pack in packs]

    def stacked(name: str, filler: int) -> Ints:
        arrays: list[Ints] = [getattr(pack, name) for pack in packs]
        wide = [np.pad(array, ((0, 0), (0, width - array.shape[1])), constant_values=filler) for array in arrays]
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
    """Tokens `[N]` of sequences end to end, and the `lengths` of these. `types` is None for models without."""

    ids: Ints
    positions: Ints
    types: Ints | None
    lengths: Ints


def flat(inputs: Mapping[str, Ints], mask: npt.NDArray[np.bool_]) -> Flat:
    """Return the tokens of padded rows `[B, L]` where `mask` is true, row by row."""
    types = inputs["token_type_ids"][mask] if "token_type_ids" in inputs else None
    return Flat(inputs["input_ids"][mask], np.nonzero(mask)[1], types, mask.sum(axis=1))


def flat_labels(texts: Mapping[str, Ints], packs: Sequence[Packed]) -> tuple[Flat, Ints]:
    """Return the labels of texts as sequences end to end, text by text, and the place of each label in them `[P]`."""
    parts = {id(pack): pack for pack in packs}
    # a row holds its labels end to end, so that the tokens of a label stay together
    masks = {key: pack.owners >= 0 for key, pack in parts.items()}
    orders = {key: np.argsort(pack.starts) for key, pack in parts.items()}

    def joined(name: str) -> Ints:
        flat = {key: getattr(pack, name)[masks[key]] for key, pack in parts.items()}
        return np.concatenate([flat[id(pack)] for pack in packs])

    sizes = {key: np.bincount(pack.owners[masks[key]])[orders[key]] for key, pack in parts.items()}
    behind = np.repeat((texts["segments"] != PADDING).sum(axis=1), [int(sizes[id(pack)].sum()) for pack in packs])
    steps = joined("steps")
    types = joined("type_ids") if "token_type_ids" in texts else None
    before = np.cumsum([0, *(len(pack.starts) for pack in packs[:-1])])
    places = [first + np.argsort(orders[id(pack)]) for first, pack in zip(before, packs, strict=True)]
    tokens = Flat(
        joined("ids"),
        np.where(steps < 0, 0, behind + steps),
        types,
        np.concatenate([sizes[id(pack)] for pack in packs]),
    )
    return tokens, np.concatenate(places)


def _filled(lengths: Sequence[int]) -> list[list[int]]:
    """Return the labels of each row: longest first, each into the first row with space, in rows of minimal width."""
    total, longest = sum(lengths), max(lengths)
    order = sorted(range(len(lengths)), key=lambda label: -lengths[label])
    if total <= WIDEST_SINGLE_ROW:
        return [order]
    max_rows = max(1, total // max(WIDTH, longest))
    for width in range(max(longest, -(-total // max_rows)), total + 1):
        rows: list[list[int]] = []
        space: list[int] = []
        for label in order:
            number = next((place for place, free in enumerate(space) if free >= lengths[label]), len(rows))
            if number == len(rows):
                rows.append([])
                space.append(width)
            rows[number].append(label)
            space[number] -= lengths[label]
        if len(rows) <= max_rows:
            return rows
    return [order]

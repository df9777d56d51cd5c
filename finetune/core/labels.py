"""Label names and their ids, and nothing else owns their order.

Knows: which task a set of labels makes, names <-> ids, targets as arrays, which NLI label plays which part.
Does not know: where labels come from (data.py) or what a model makes of them (scores.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from finetune.core.errors import ConfigError, DataError
from finetune.core.label_text import name_of, natural_key

Task = Literal["binary", "multiclass", "multi_label", "regression"]

PROBLEM_TYPES: dict[Task, str] = {
    "binary": "single_label_classification",
    "multiclass": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}
"""Task -> the `problem_type` that transformers writes into config.json."""


@dataclass(frozen=True)
class NliRoles:
    """Which output of an NLI model means what; `contradiction` is the not-entailment label in a two-class model."""

    entailment: int
    contradiction: int


@dataclass(frozen=True)
class SoftLabels:
    """A label value that is a distribution: each name's share; they sum to 1."""

    names: tuple[str, ...]
    values: tuple[float, ...]

    @property
    def likeliest(self) -> str:
        """The name with the largest share, the first of equals."""
        return self.names[max(range(len(self.names)), key=lambda index: self.values[index])]

    def __str__(self) -> str:
        return self.likeliest


def names_in(value: Any) -> Sequence[str]:
    """The label names in one label value: a name, a list of names, or shares."""
    return value.names if isinstance(value, SoftLabels) else value if isinstance(value, list) else (value,)


@dataclass(frozen=True)
class LabelSpace:
    """The task and its label names, in the order of the model's outputs."""

    task: Task
    names: tuple[str, ...]

    @classmethod
    def fit(cls, values: Sequence[Any], task: Task, *, column: str = "label") -> LabelSpace:
        """The space spanned by the checked label values of a table (names sorted; numbers numerically)."""
        if task == "regression":
            return cls(task, (column,))
        seen = {name for value in values for name in names_in(value)}
        names = tuple(sorted(seen, key=natural_key))
        if task != "multi_label" and len(names) < 2:
            found = f"only {names[0]!r}" if names else "nothing"
            raise DataError(f"a classifier needs at least two labels, and this column holds {found}", column=column)
        if task == "multi_label" and not names:
            raise DataError("no row carries any label", column=column)
        if task == "binary" and len(names) != 2:
            raise DataError(f"task binary wants two labels, and there are {len(names)}: use multiclass", column=column)
        return cls("binary" if task == "multiclass" and len(names) == 2 else task, names)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> LabelSpace:
        """The space recorded in a Hugging Face `config.json`."""
        names_by_id = config.get("id2label") or {}
        names = tuple(str(names_by_id[key]) for key in sorted(names_by_id, key=int))
        if not names:
            names = tuple(f"LABEL_{index}" for index in range(int(config.get("num_labels", 2))))
        problem = config.get("problem_type")
        if problem == "regression":
            return cls("regression", names)
        if problem == "multi_label_classification" or len(names) == 1:
            return cls("multi_label", names)  # one logit without a problem type: transformers' pipeline takes a sigmoid
        return cls("binary" if len(names) == 2 else "multiclass", names)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def id2label(self) -> dict[int, str]:
        """Output index -> label name."""
        return dict(enumerate(self.names))

    @property
    def label2id(self) -> dict[str, int]:
        """Label name -> output index."""
        return {name: index for index, name in enumerate(self.names)}

    @property
    def problem_type(self) -> str:
        """What transformers calls this task."""
        return PROBLEM_TYPES[self.task]

    @property
    def nli(self) -> NliRoles | None:
        """The entailment and contradiction outputs, found by name; None for a model that is not an NLI model."""
        return nli_roles(self.names)

    def encode(self, values: Sequence[Any]) -> npt.NDArray[Any]:
        """Label values as targets.

        Returns:
            `[N]` int64 ids for one label of many (of shares, the likeliest), `[N, C]` float32 zeros and ones for
            multi-label, `[N]` float32 for regression.

        Raises:
            DataError: a name that this space does not hold; `row` is its 1-based position in `values`.
        """
        if self.task == "regression":
            return np.asarray(values, dtype=np.float32)
        ids = self.label2id
        if self.task == "multi_label":
            targets = np.zeros((len(values), len(self)), dtype=np.float32)
            for row, chosen in enumerate(values):
                for name in chosen:
                    targets[row, self._id(ids, name, row)] = 1.0
            return targets
        chosen = (value.likeliest if isinstance(value, SoftLabels) else value for value in values)
        return np.array([self._id(ids, name, row) for row, name in enumerate(chosen)], dtype=np.int64)

    def targets(self, values: Sequence[Any]) -> npt.NDArray[Any]:
        """What a loss is computed on: as `encode`, and `[N, C]` float32 shares where any value is a distribution."""
        if not any(isinstance(value, SoftLabels) for value in values):
            return self.encode(values)
        targets, ids = np.zeros((len(values), len(self)), dtype=np.float32), self.label2id
        for row, value in enumerate(values):
            shares = value.values if isinstance(value, SoftLabels) else (1.0,)
            for name, share in zip(names_in(value), shares, strict=True):
                targets[row, self._id(ids, name, row)] = share
        return targets

    def are_shares(self, targets: npt.NDArray[Any]) -> bool:
        """Whether targets, as `targets` gives them, are distributions over labels of which one holds."""
        return self.task != "multi_label" and targets.ndim == 2

    def weights(self, wanted: str | Mapping[str, float], targets: npt.NDArray[Any]) -> npt.NDArray[np.float32] | None:
        """How much each label counts `[C]`: None for `none`; `balanced` by these targets' rows, so that every label
        counts the same in all (for several labels at once, where it holds as much as where it does not); or by name.

        Raises:
            ConfigError: a name that this space does not hold, or labels that a number does not have.
        """
        if wanted == "none":
            return None
        if self.task == "regression":
            raise ConfigError("class_weights requires labels, and the task is regression")
        if isinstance(wanted, Mapping):
            wanted = {name_of(name): weight for name, weight in wanted.items()}
            unknown = [name for name in wanted if name not in self.names]
            if unknown:
                raise ConfigError(f"class_weights: there is no label {unknown[0]!r} (labels: {shown(self.names)})")
            return np.array([wanted.get(name, 1.0) for name in self.names], dtype=np.float32)
        counts = targets.sum(axis=0) if targets.ndim == 2 else np.bincount(targets, minlength=len(self))
        counts = np.maximum(counts, 1)
        if self.task == "multi_label":
            return np.asarray((len(targets) - counts) / counts, dtype=np.float32)
        return np.asarray(len(targets) / (len(self) * counts), dtype=np.float32)

    def prior(
        self, targets: npt.NDArray[Any], weights: npt.NDArray[np.float32] | None = None
    ) -> npt.NDArray[np.float32]:
        """The logits `[C]` that say no more than these targets' own distribution: the log of each label's share, its
        log odds for multi-label, the mean for regression. A label without a row counts as half a row, and each label
        counts as much as its weight."""
        if self.task == "regression":
            return np.asarray([targets.mean()], dtype=np.float32)
        factor = np.ones(len(self)) if weights is None else np.maximum(weights, 1e-6)
        if self.task == "multi_label":
            shares = (targets.sum(axis=0) + 0.5) / (len(targets) + 1)
            return np.asarray(np.log(factor * shares / (1 - shares)), dtype=np.float32)
        counts = (targets.sum(axis=0) if targets.ndim == 2 else np.bincount(targets, minlength=len(self))) + 0.5
        counts = factor * counts
        return np.asarray(np.log(counts / counts.sum()), dtype=np.float32)

    def _id(self, ids: Mapping[str, int], name: str, row: int) -> int:
        if name not in ids:
            raise DataError(f"label {name!r} is none of the model's labels ({shown(self.names)})", row=row + 1)
        return ids[name]


def nli_roles(names: Sequence[str]) -> NliRoles | None:
    """The outputs that mean entailment and contradiction, by their names; None where one of them is missing.

    In a two-class model the label that is not entailment stands for contradiction.
    """
    plain = [re.sub(r"[^a-z]", "", name.lower()) for name in names]
    entailment = [index for index, name in enumerate(plain) if name in ("entailment", "entail", "entails", "entailed")]
    contradiction = [index for index, name in enumerate(plain) if name.startswith("contradict")]
    if len(entailment) == 1 and not contradiction and len(names) == 2:
        other = 1 - entailment[0]
        if "entail" in plain[other]:  # not_entailment, non-entailed ...
            contradiction = [other]
    if len(entailment) != 1 or len(contradiction) != 1:
        return None
    return NliRoles(entailment[0], contradiction[0])


def shown(names: Sequence[str], limit: int = 12) -> str:
    """A list of names for a message, cut after `limit`."""
    head = ", ".join(str(name) for name in names[:limit])
    return f"{head}, ... {len(names) - limit} more" if len(names) > limit else head

"""Which rows of a finished classifier's output layer a new head starts from, matched by label name."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from finetune.config.model import ModelConfig
from finetune.core import model_folder
from finetune.core.errors import CheckpointError, ConfigError
from finetune.core.label_text import name_of
from finetune.core.labels import LabelSpace, shown
from finetune.core.model_folder import Location
from finetune.core.scores import ACTIVATION_OF_TASK, Activation
from finetune.core.task import Task
from finetune.modeling.heads import STOCK

KIND_OF_TASK: dict[Task, str] = {
    "binary": "one label a text",
    "multiclass": "one label a text",
    "multi_label": "several labels a text",
    "regression": "numbers",
}


@dataclass(frozen=True)
class HeadPlan:
    """The rows of a base's output layer that a new head starts from.

    Attributes:
        rows: row of the new output layer -> row of the base's; empty for a new head.
        kept, new, dropped: labels with and without a row of the base, and the base's other labels.
        obstacle: why a head with some of the labels is not kept; else empty.
    """

    rows: dict[int, int] = field(default_factory=dict)
    kept: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    obstacle: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether every label has a row of the base."""
        return bool(self.rows) and not self.new

    def __str__(self) -> str:
        """Return the plan as a sentence; empty for a base without any of the labels."""
        if self.obstacle:
            return f"the head is new, although the base has labels of the same names: {self.obstacle}"
        if not self.rows:
            return ""
        parts = (("new", self.new), ("dropped", self.dropped))
        others = "".join(f"; {what}: {shown(names)}" for what, names in parts if names)
        return f"the base's head is kept for {len(self.kept)} labels: {shown(self.kept)}{others}"

    def to_json(self) -> dict[str, Any]:
        """Return the entry of metrics.json."""
        return {"kept": list(self.kept), "new": list(self.new), "dropped": list(self.dropped)}


NEW_HEAD = HeadPlan()
"""The plan of a head without a row of the base."""


def plan_head(
    base: Location, described: Any, labels: LabelSpace, activation: Activation, wanted: ModelConfig
) -> HeadPlan:
    """Return which rows of a base's output layer a head for `labels` keeps.

    Args:
        described: the base's transformers config.
        activation: the output activation of the new model.

    Raises:
        ConfigError: `keep_head` is true, and the head cannot be kept; says why.
    """
    if wanted.keep_head is False:
        return NEW_HEAD
    before, its_activation = _classifier(base, described)
    rows = _matching_rows(before, labels)
    if wanted.keep_head is True and before.task == labels.task == "regression":
        rows = {0: 0}  # the target may have another name
    obstacle = _obstacle(base, described, wanted) or _difference(before, labels, its_activation, activation)
    if wanted.keep_head is True and (obstacle or not rows):
        none = f"none of its labels ({shown(before.names)}) is one of {shown(labels.names)}"
        raise ConfigError(
            f"model.keep_head=true: the head of {base.name} cannot be kept: {obstacle or none}. Leave it out to start "
            "with a new head"
        )
    if obstacle or not rows:
        return HeadPlan(obstacle=obstacle if rows and _has_classifier(described) else "")
    return HeadPlan(
        rows,
        kept=tuple(labels.names[row] for row in rows),
        new=tuple(name for row, name in enumerate(labels.names) if row not in rows),
        dropped=tuple(name for row, name in enumerate(before.names) if row not in rows.values()),
    )


def copy_head(model: Any, before: Any, plan: HeadPlan) -> None:
    """Copy the layers below the output layer, and the kept rows of that, from the classifier `before`.

    Raises:
        CheckpointError: a head that does not end with a linear layer.
    """
    import torch

    below = f"{model.base_model_prefix}."
    names = [output_name(classifier, classifier.config.num_labels) for classifier in (model, before)]
    if names[0] is None or names[0] != names[1]:
        raise CheckpointError(
            "the base's head has no linear output layer whose rows could be kept: --set model.keep_head=false"
        )
    output = f"{names[0]}."
    layers = {name: weight for name, weight in before.state_dict().items() if not name.startswith((below, output))}
    model.load_state_dict(layers, strict=False)
    new, old = (classifier.get_submodule(names[0]) for classifier in (model, before))
    with torch.no_grad():
        for row, old_row in plan.rows.items():
            new.weight[row] = old.weight[old_row]
            if new.bias is not None:
                new.bias[row] = old.bias[old_row]


def output_name(model: Any, outputs: int) -> str | None:
    """Return the name of the last linear layer with this number of outputs, or None."""
    import torch

    names = [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and layer.out_features == outputs
    ]
    return names[-1] if names else None


def _classifier(base: Location, described: Any) -> tuple[LabelSpace, Activation]:
    """Return the labels of a base and its output activation."""
    if base.path is not None:
        folder = model_folder.read(base.path)
        return folder.labels, folder.settings.activation
    labels = LabelSpace.from_config({"id2label": described.id2label, "problem_type": described.problem_type})
    return labels, ACTIVATION_OF_TASK[labels.task]


def _matching_rows(before: LabelSpace, labels: LabelSpace) -> dict[int, int]:
    """Return row -> row of the base for each label whose cleaned name one row of the base has."""
    cleaned = [name_of(name) for name in before.names]
    counts = Counter(cleaned)
    places = {name: row for row, name in enumerate(cleaned) if counts[name] == 1}
    return {row: places[name] for row, name in enumerate(map(name_of, labels.names)) if name in places}


def _has_classifier(described: Any) -> bool:
    kinds = described.architectures or ()
    return any(kind.endswith("ForSequenceClassification") or kind == "TextClassifier" for kind in kinds)


def _obstacle(base: Location, described: Any, wanted: ModelConfig) -> str:
    """Return why the kinds of head differ; empty if they are the same."""
    if not _has_classifier(described):
        return f"{base.name} has no classification head"
    its_head = dict(getattr(described, "head", None) or {"name": STOCK})
    its_pooling = getattr(described, "pooling", None) if its_head["name"] != STOCK else None
    pooling = wanted.pooling or "cls" if wanted.head.name != STOCK else None
    head = {"name": wanted.head.name, **wanted.head.options}
    if (_without_dropout(its_head), its_pooling) == (_without_dropout(head), pooling):
        return ""
    settings = [f"--set model.head.{key}={value}" for key, value in its_head.items()]
    settings += [f"--set model.pooling={its_pooling}"] if its_pooling else []
    return f"its head is of another kind ({' '.join(settings)} makes the same)"


def _without_dropout(head: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in head.items() if key != "dropout"}


def _difference(before: LabelSpace, labels: LabelSpace, its_activation: Activation, activation: Activation) -> str:
    """Return why outputs of the two label spaces differ in meaning; empty if they do not."""
    if (before.nli is None) != (labels.nli is None):
        return "one of the two has the labels of entailment, and the other has its own"
    kinds = KIND_OF_TASK[before.task], KIND_OF_TASK[labels.task]
    if kinds[0] != kinds[1]:
        return f"it predicts {kinds[0]}, and this table has {kinds[1]}"
    if its_activation != activation or activation == "softplus":
        return f"its scores come from {its_activation}, and those of this loss from {activation}"
    return ""

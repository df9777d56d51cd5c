"""Builds a model: a base's body, its weights kept, under a new head. Safetensors only; no remote code."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
from transformers import AutoConfig

from finetune.config.model import ModelConfig
from finetune.core.errors import CheckpointError, ConfigError
from finetune.core.labels import LabelSpace
from finetune.core.model_folder import Location
from finetune.core.registry import pick
from finetune.core.target_scale import TargetScale
from finetune.core.weight_files import check_weights
from finetune.modeling.classifier import TextClassifierConfig
from finetune.modeling.heads import STOCK
from finetune.modeling.initializers import INITIALIZERS, initialize
from finetune.modeling.kept_head import HeadPlan, copy_head, output_name


@dataclass(frozen=True)
class Built:
    """The model, and the names of its weights by origin.

    Attributes:
        kept: weights of the base's body.
        new: weights of the head; those that `build_model` copies for a `HeadPlan` are among them.
        dropped: weights in the base's file that the model does not have.
        keeps_head: whether some weights of the head are the base's.
    """

    model: Any
    kept: list[str]
    new: list[str]
    dropped: list[str]
    keeps_head: bool = False

    def __str__(self) -> str:
        dropped = f"; dropped: {_groups(self.dropped)}" if self.dropped else ""
        head = "head" if self.keeps_head else "new"
        return f"kept {len(self.kept)} tensors of the base; {head}: {_groups(self.new)}{dropped}"


def base_config(base: Location) -> Any:
    """Return the base's transformers config.

    Raises:
        CheckpointError: no such base, one that needs remote code, or one without a sequence classifier.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

    try:
        config = AutoConfig.from_pretrained(base.source, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(_no_base(base, error)) from error
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise CheckpointError(
            f"{base.name} is a {config.model_type} model, for which transformers has no sequence classifier"
        )
    return config


def body_config(config: Any) -> Any:
    """Return the config of the body, also under one of the HEADS."""
    return AutoConfig.for_model(**(config.encoder or {})) if isinstance(config, TextClassifierConfig) else config


BODY_DROPOUT = ("hidden_dropout_prob", "dropout", "embedding_dropout", "mlp_dropout")
ATTENTION_DROPOUT = ("attention_probs_dropout_prob", "attention_dropout")
"""Names of the dropout of states and of attention weights in the configs of the model families."""


def build_model(
    base: Location,
    labels: LabelSpace,
    config: ModelConfig | None = None,
    head: HeadPlan | None = None,
) -> Built:
    """Return a base's body, its weights kept, under a head for `labels`: the base's own kind, or one of HEADS.

    The head is initialized from torch's global generator: seed it first.

    Args:
        head: the rows of the base's output layer to keep; None for a new head.

    Raises:
        CheckpointError: no such base, only pickled weights, damaged weights, an architecture without a classifier, or
            weights without the head to keep.
        ConfigError: an unknown head, pooling or initializer.
    """
    from transformers import AutoModelForSequenceClassification

    wanted = config or ModelConfig()
    if base.path is not None:
        check_weights(base.path)
    described = base_config(base)
    own = body_config(described)
    _set_dropout(own, wanted)
    keeps_head = head is not None and bool(head.rows)
    whole = keeps_head or isinstance(described, TextClassifierConfig)
    before, unexpected, missing = _pretrained(base, own, whole=whole)
    body = body_of(before) if whole else before
    own = classifier_config(own, labels, wanted)
    model = AutoModelForSequenceClassification.from_config(own)
    target = body_of(model)
    weights = {name: tensor for name, tensor in body.state_dict().items() if name in target.state_dict()}
    target.load_state_dict(weights, strict=False)
    prefix = model.base_model_prefix
    loaded = sorted(f"{prefix}.{name}" for name in weights if name not in missing)
    if not loaded:
        raise CheckpointError(f"{base.name}: none of its weights fits a {own.model_type} body")
    if wanted.initializer is not None:
        fill = pick(INITIALIZERS, wanted.initializer.name, wanted.initializer.options, what="initializer")
        for module in new_parts(model):
            initialize(module, fill)
    if head is not None and keeps_head:
        if lost := sorted(set(missing).difference(body.state_dict())):
            raise CheckpointError(
                f"base {base.name!r} is described as a classifier, and its weights lack the head ({lost[0]}): "
                "--set model.keep_head=false starts with a new one"
            )
        copy_head(model, before, head)
    new = sorted(set(model.state_dict()) - set(loaded))
    return Built(model, loaded, new, [] if keeps_head else unexpected, keeps_head)


def without_weights(base: Location, labels: LabelSpace, wanted: ModelConfig) -> Any:
    """Return the model that `build_model` returns, on torch's device `meta`: layers without numbers.

    Raises:
        ConfigError: an invalid head or pooling.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    own = classifier_config(body_config(base_config(base)), labels, wanted)
    with torch.device("meta"):
        return AutoModelForSequenceClassification.from_config(own)


def _set_dropout(own: Any, wanted: ModelConfig) -> None:
    attention_dropout = wanted.dropout if wanted.attention_dropout is None else wanted.attention_dropout
    for names, value in ((BODY_DROPOUT, wanted.dropout), (ATTENTION_DROPOUT, attention_dropout)):
        for name in names:
            if value is not None and hasattr(own, name):
                setattr(own, name, value)


def classifier_config(own: Any, labels: LabelSpace, wanted: ModelConfig) -> Any:
    """Return the config of a classifier for `labels` on the body whose config is `own`.

    Raises:
        ConfigError: a pooling for the base's own head.
    """
    if wanted.head.name != STOCK:
        own = TextClassifierConfig(
            encoder=own.to_dict(),
            head={"name": wanted.head.name, **wanted.head.options},
            pooling=wanted.pooling or "cls",
        )
    elif wanted.pooling is not None:
        raise ConfigError(
            "model.pooling requires model.head=linear or mlp: set one of them, or leave model.pooling out"
        )
    own.num_labels = len(labels)
    own.id2label, own.label2id = labels.id2label, labels.label2id
    own.problem_type = labels.problem_type
    own.dtype = "float32"
    return own


def _pretrained(base: Location, config: Any, *, whole: bool) -> tuple[Any, list[str], set[str]]:
    """Return a base with its weights, the names of its weights beside the body, and those that its file lacks.

    Args:
        whole: whether to return the classifier, and not its body alone.
    """
    from transformers import AutoModel, AutoModelForSequenceClassification

    options = {"trust_remote_code": False, "use_safetensors": True, "dtype": "float32", "output_loading_info": True}
    kind = AutoModelForSequenceClassification if whole else AutoModel
    try:
        model, report = kind.from_pretrained(base.source, config=config if not whole else None, **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(_no_base(base, error)) from error
    missing = set(report["missing_keys"]) | {key[0] for key in report["mismatched_keys"]}
    if not whole:
        return model, sorted(report["unexpected_keys"]), missing
    prefix = f"{model.base_model_prefix}."
    unexpected = [name for name in model.state_dict() if not name.startswith(prefix)]
    return model, sorted(unexpected), {name.removeprefix(prefix) for name in missing}


def head_of(model: Any) -> Any:
    """Return the model's head if it is one of the HEADS; None for a base's own head."""
    return getattr(model, "head", None) if hasattr(model, "pooling") else None


def new_parts(model: Any) -> list[Any]:
    """Return the modules outside the body: the head, and whatever a base's own classifier has between the two."""
    return [module for name, module in model.named_children() if name != model.base_model_prefix]


def start_at_prior(model: Any, prior: npt.NDArray[Any], kept: Collection[int] = ()) -> None:
    """Set the bias of the new output layer to `prior [C]`, so that training starts from the class proportions.

    With 28 rare labels, training from 0.5 each takes 150 updates to get there. A head without such a bias is unchanged.

    Args:
        kept: rows of the output layer that are not new.
    """
    import torch

    output = _output_layer(model, len(prior))
    if output is not None:
        with torch.no_grad():
            for row in set(range(len(prior))).difference(kept):
                output.bias[row] = float(prior[row])


def read_target_scale(model: Any, target: TargetScale) -> None:
    """Rescale the output layer of a finished regression model to standardized targets: the inverse of
    `write_target_scale`."""
    import torch

    output = regression_layer(model)
    with torch.no_grad():
        output.weight.div_(target.std)
        output.bias.copy_(torch.as_tensor(target.standardize(output.bias.cpu().double().numpy()), dtype=torch.float32))


def write_target_scale(model: Any, target: TargetScale) -> None:
    """Rescale the output layer of a model trained on standardized targets to the original scale: W * std, b * std +
    mean.

    Raises:
        CheckpointError: the head does not end with a linear layer that has a bias.
    """
    import torch

    output = regression_layer(model)
    with torch.no_grad():
        output.weight.mul_(target.std)
        output.bias.copy_(torch.as_tensor(target.restore(output.bias.cpu().double().numpy()), dtype=torch.float32))


def regression_layer(model: Any) -> Any:
    """Return the output layer that `write_target_scale` rescales.

    Raises:
        CheckpointError: the head does not end with a linear layer that has a bias.
    """
    output = _output_layer(model, 1)
    if output is None:
        raise CheckpointError(
            "regression requires a head that ends with a linear layer with a bias: --set model.head=linear"
        )
    return output


def _output_layer(model: Any, outputs: int) -> Any:
    """Return the last linear layer with this number of outputs, if it has a bias; else None."""
    name = output_name(model, outputs)
    last = model.get_submodule(name) if name is not None else None
    return last if last is not None and last.bias is not None else None


def _no_base(base: Location, error: Exception) -> str:
    return f"base {base.name!r} cannot be loaded: {' '.join(str(error).split())[:300]}"


def _groups(names: list[str]) -> str:
    parents = dict.fromkeys(name.rpartition(".")[0] or name for name in names)
    shown = list(parents)[:6]
    return ", ".join(shown) + (f", ... {len(parents) - 6} more" if len(parents) > 6 else "") or "none"


def body_of(model: Any) -> Any:
    """Return the encoder below the head."""
    return getattr(model, model.base_model_prefix)

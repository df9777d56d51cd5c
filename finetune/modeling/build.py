"""A base's body under a new head for given labels.

Knows: which weights are kept and which are new; safetensors only; no remote code.
Does not know: training, data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
from transformers import AutoConfig

from finetune.config.training import ModelConfig
from finetune.core.errors import CheckpointError, ConfigError
from finetune.core.labels import LabelSpace
from finetune.core.model_folder import Location
from finetune.core.registry import pick
from finetune.core.target_scale import TargetScale
from finetune.core.weight_files import check_weights
from finetune.modeling.classifier import TextClassifierConfig
from finetune.modeling.heads import STOCK
from finetune.modeling.initializers import INITIALIZERS, initialize


@dataclass(frozen=True)
class Built:
    """The model, and the names of the weights that were kept, new, or left behind."""

    model: Any
    kept: list[str]
    new: list[str]
    left: list[str]

    def __str__(self) -> str:
        left = f"; left behind: {_groups(self.left)}" if self.left else ""
        return f"kept {len(self.kept)} tensors of the base; new: {_groups(self.new)}{left}"


def base_config(base: Location) -> Any:
    """The base's transformers config.

    Raises:
        CheckpointError: there is no such base, it needs remote code, or it is no encoder for sequence classification.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

    try:
        config = AutoConfig.from_pretrained(base.source, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(_no_base(base, error)) from error
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise CheckpointError(f"{base.name} is a {config.model_type} model, which has no sequence classifier")
    return config


def body_config(config: Any) -> Any:
    """The config of the body, also under a head of ours."""
    return AutoConfig.for_model(**(config.encoder or {})) if isinstance(config, TextClassifierConfig) else config


BODY_DROPOUT = ("hidden_dropout_prob", "dropout", "embedding_dropout", "mlp_dropout")
ATTENTION_DROPOUT = ("attention_probs_dropout_prob", "attention_dropout")
"""Names that the families' configs give to dropout of states and of attention weights."""


def build_model(
    base: Location,
    labels: LabelSpace,
    config: ModelConfig | None = None,
) -> Built:
    """A base's body, its weights kept, under a head that is new for `labels`: the base's own, or one of HEADS.

    The new head is drawn from torch's global generator: seed it first.

    Raises:
        CheckpointError: no such base, a pickle only, damaged weights, or an architecture that is no classifier.
        ConfigError: a head, pooling or initializer that there is not.
    """
    from transformers import AutoModelForSequenceClassification

    wanted = config or ModelConfig()
    if base.path is not None:
        check_weights(base.path)
    described = base_config(base)
    own = body_config(described)
    _set_dropout(own, wanted)
    body, unexpected, missing = _body(base, own, custom=isinstance(described, TextClassifierConfig))
    own = classifier_config(own, labels, wanted)
    model = AutoModelForSequenceClassification.from_config(own)
    target = body_of(model)
    weights = {name: tensor for name, tensor in body.state_dict().items() if name in target.state_dict()}
    target.load_state_dict(weights, strict=False)
    prefix = model.base_model_prefix
    kept = sorted(f"{prefix}.{name}" for name in weights if name not in missing)
    if not kept:
        raise CheckpointError(f"{base.name}: none of its weights fits a {own.model_type} body")
    if wanted.initializer is not None:
        fill = pick(INITIALIZERS, wanted.initializer.name, wanted.initializer.options, what="initializer")
        for module in new_parts(model):
            initialize(module, fill)
    new = sorted(set(model.state_dict()) - set(kept))
    return Built(model, kept, new, unexpected)


def without_weights(base: Location, labels: LabelSpace, wanted: ModelConfig) -> Any:
    """Return the model that `build_model` gives, on torch's device `meta`: its layers and no numbers.

    Raises:
        ConfigError: a head or pooling that cannot be.
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
        raise ConfigError("model.pooling is for heads of ours: --set model.head=linear, or leave it out")
    own.num_labels = len(labels)
    own.id2label, own.label2id = labels.id2label, labels.label2id
    own.problem_type = labels.problem_type
    own.dtype = "float32"
    return own


def _body(base: Location, config: Any, *, custom: bool) -> tuple[Any, list[str], set[str]]:
    """The base's body with its weights, the names in its file that are none of the body's, and those it lacks.

    Args:
        custom: whether the base has a head of ours.
    """
    from transformers import AutoModel, AutoModelForSequenceClassification

    options = {"trust_remote_code": False, "use_safetensors": True, "dtype": "float32", "output_loading_info": True}
    try:
        if custom:
            model, report = AutoModelForSequenceClassification.from_pretrained(base.source, **options)
            return body_of(model), [name for name in model.state_dict() if not name.startswith("encoder.")], set()
        body, report = AutoModel.from_pretrained(base.source, config=config, **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(_no_base(base, error)) from error
    missing = set(report["missing_keys"]) | {key[0] for key in report["mismatched_keys"]}
    return body, sorted(report["unexpected_keys"]), missing


def head_of(model: Any) -> Any:
    """The head of ours, or None under a base's own."""
    return getattr(model, "head", None) if hasattr(model, "pooling") else None


def new_parts(model: Any) -> list[Any]:
    """The modules beside the body: the head, and what a base's own classifier has between the two."""
    return [module for name, module in model.named_children() if name != model.base_model_prefix]


def start_at_prior(model: Any, prior: npt.NDArray[Any]) -> None:
    """Set the bias of the new output layer to `prior [C]` (LabelSpace.prior), so that training starts from the labels'
    shares and not from one half for each: with 28 rare labels it would spend its first 150 updates getting there.
    A head without such a bias stays as it is.
    """
    import torch

    output = _output_layer(model, len(prior))
    if output is not None:
        with torch.no_grad():
            output.bias.copy_(torch.as_tensor(prior))


def write_target_scale(model: Any, target: TargetScale) -> None:
    """Change the output layer of a model that was trained on standardized targets so that it gives numbers on the
    original scale: W * std, and b * std + mean.

    Raises:
        CheckpointError: the head does not end with a linear layer that has a bias.
    """
    import torch

    output = regression_layer(model)
    with torch.no_grad():
        output.weight.mul_(target.std)
        output.bias.copy_(torch.as_tensor(target.restore(output.bias.double().cpu().numpy())))


def regression_layer(model: Any) -> Any:
    """Return the output layer into which the scale of targets is written.

    Raises:
        CheckpointError: the head does not end with a linear layer that has a bias.
    """
    output = _output_layer(model, 1)
    if output is None:
        raise CheckpointError(
            "regression needs a head that ends with a linear layer with a bias: --set model.head=linear"
        )
    return output


def _output_layer(model: Any, outputs: int) -> Any:
    """The last linear layer of so many outputs, if it has a bias; else None."""
    import torch

    layers = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
    last = next((layer for layer in reversed(layers) if layer.out_features == outputs), None)
    return last if last is not None and last.bias is not None else None


def _no_base(base: Location, error: Exception) -> str:
    return f"base {base.name!r} cannot be loaded: {' '.join(str(error).split())[:300]}"


def _groups(names: list[str]) -> str:
    parents = dict.fromkeys(name.rpartition(".")[0] or name for name in names)
    shown = list(parents)[:6]
    return ", ".join(shown) + (f", ... {len(parents) - 6} more" if len(parents) > 6 else "") or "none"


def body_of(model: Any) -> Any:
    """The encoder below the head."""
    return getattr(model, model.base_model_prefix)

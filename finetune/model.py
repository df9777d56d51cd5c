"""A base's body under a new head for given labels.

Knows: which weights are kept and which are new; safetensors only; no remote code.
Does not know: training, data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from finetune.artifact import Location, check_weights
from finetune.errors import CheckpointError
from finetune.labels import LabelSpace


@dataclass(frozen=True)
class Built:
    """The model, the base's config as a dict, and the names of the weights that were kept, new, or left behind."""

    model: Any
    base_config: dict[str, Any]
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
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

    try:
        config = AutoConfig.from_pretrained(base.source, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(_no_base(base, error)) from error
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise CheckpointError(f"{base.name} is a {config.model_type} model, which has no sequence classifier")
    return config


BODY_DROPOUT = ("hidden_dropout_prob", "dropout", "embedding_dropout", "mlp_dropout")
ATTENTION_DROPOUT = ("attention_probs_dropout_prob", "attention_dropout")
"""Names that the families' configs give to dropout of states and of attention weights."""


def build_model(
    base: Location,
    labels: LabelSpace,
    *,
    dropout: float | None = None,
    attention_dropout: float | None = None,
) -> Built:
    """The base's own sequence-classification class: its body's weights kept, its head new for `labels`.

    The new head is drawn from torch's global generator: seed it first.

    Raises:
        CheckpointError: no such base, a pickle only, damaged weights, or an architecture that is no classifier.
    """
    from transformers import AutoModel, AutoModelForSequenceClassification

    if base.path is not None:
        check_weights(base.path)
    config = base_config(base)
    original = config.to_dict()
    config.num_labels = len(labels)
    config.id2label, config.label2id = labels.id2label, labels.label2id
    config.problem_type = labels.problem_type
    attention_dropout = dropout if attention_dropout is None else attention_dropout
    for names, value in ((BODY_DROPOUT, dropout), (ATTENTION_DROPOUT, attention_dropout)):
        for name in names:
            if value is not None and hasattr(config, name):
                setattr(config, name, value)
    config.dtype = "float32"
    model = AutoModelForSequenceClassification.from_config(config)
    try:
        body, report = AutoModel.from_pretrained(
            base.source,
            config=config,
            trust_remote_code=False,
            use_safetensors=True,
            dtype="float32",
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(_no_base(base, error)) from error
    prefix = model.base_model_prefix
    target = getattr(model, prefix)
    weights = {name: tensor for name, tensor in body.state_dict().items() if name in target.state_dict()}
    target.load_state_dict(weights, strict=False)
    missing = set(report["missing_keys"]) | {key[0] for key in report["mismatched_keys"]}
    kept = sorted(f"{prefix}.{name}" for name in weights if name not in missing)
    if not kept:
        raise CheckpointError(f"{base.name}: none of its weights fits a {config.model_type} body")
    new = sorted(set(model.state_dict()) - set(kept))
    return Built(model, original, kept, new, sorted(report["unexpected_keys"]))


def start_at_prior(model: Any, prior: npt.NDArray[Any]) -> None:
    """Set the bias of the new output layer to `prior [C]` (LabelSpace.prior), so that training starts from the labels'
    shares and not from one half for each: with 28 rare labels it would spend its first 150 updates getting there.
    A head without such a bias stays as it is."""
    import torch

    layers = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
    output = next((layer for layer in reversed(layers) if layer.out_features == len(prior)), None)
    if output is not None and output.bias is not None:
        with torch.no_grad():
            output.bias.copy_(torch.as_tensor(prior))


def _no_base(base: Location, error: Exception) -> str:
    return f"base {base.name!r} cannot be loaded: {' '.join(str(error).split())[:300]}"


def _groups(names: list[str]) -> str:
    parents = dict.fromkeys(name.rpartition(".")[0] or name for name in names)
    shown = list(parents)[:6]
    return ", ".join(shown) + (f", ... {len(parents) - 6} more" if len(parents) > 6 else "") or "none"


def body_of(model: Any) -> Any:
    """The encoder below the head."""
    return getattr(model, model.base_model_prefix)

"""`TextClassifier`: any encoder under a head of ours, as a model that transformers saves and loads by its Auto classes.

Knows: the config that rebuilds it, how states become logits.
Does not know: training, labels beyond their number. Importing this module (or `build`) registers the class.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from finetune.core.model_folder import CUSTOM_HEAD
from finetune.core.registry import pick
from finetune.modeling.heads import HEADS
from finetune.modeling.poolings import POOLINGS


class TextClassifierConfig(PreTrainedConfig):
    """An encoder's config as a dict, the head's name and knobs, and the pooling's name."""

    model_type = CUSTOM_HEAD

    encoder: dict[str, Any] | None = None
    head: dict[str, Any] | None = None
    pooling: str = "cls"


class TextClassifier(PreTrainedModel):
    """An encoder, a pooling and a head: token ids to logits `[B, C]`."""

    config_class = TextClassifierConfig
    base_model_prefix = "encoder"
    _supports_sdpa = True
    _supports_attention_backend = True

    def __init__(self, config: TextClassifierConfig) -> None:
        super().__init__(config)
        # the dtype of the whole holds for the encoder too, not that of the file it once came from
        encoder = AutoConfig.for_model(
            **{key: value for key, value in (config.encoder or {}).items() if key != "dtype"}
        )
        encoder._attn_implementation = config._attn_implementation
        self.encoder = AutoModel.from_config(encoder)
        if getattr(self.encoder, "pooler", None) is not None:
            self.encoder.pooler = None  # the pooling below stands in its place
        head = dict(config.head or {"name": "linear"})
        width = int(getattr(encoder, "hidden_size", 0) or encoder.dim)
        self.pooling = pick(POOLINGS, config.pooling, {}, what="pooling")(width)
        self.head = pick(HEADS, head.pop("name"), head, what="head")(width, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **rest: Any,
    ) -> SequenceClassifierOutput:
        """Logits of token ids `[B, L]`; a text's own tokens are those that `attention_mask` marks with 1."""
        mask = attention_mask if attention_mask is not None else torch.ones_like(input_ids)
        inputs = {"input_ids": input_ids, "attention_mask": mask}
        if token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
        every = bool(output_hidden_states) or self.pooling.every_layer
        found = self.encoder(**inputs, output_hidden_states=every)
        states = found.hidden_states if every else (found.last_hidden_state,)
        logits = self.head(self.pooling(states, mask.bool()))
        return SequenceClassifierOutput(logits=logits, hidden_states=states if output_hidden_states else None)

    def set_attn_implementation(self, name: str, *more: Any, **rest: Any) -> None:
        """See transformers; the encoder follows."""
        self.encoder.set_attn_implementation(name, *more, **rest)
        self.config._attn_implementation = self.encoder.config._attn_implementation

    def _init_weights(self, module: Any) -> None:
        """As BERT begins its weights; an initializer of the config comes after this (finetune.modeling.build)."""
        if isinstance(module, torch.nn.Linear):
            spread = float((self.config.encoder or {}).get("initializer_range", 0.02))
            torch.nn.init.normal_(module.weight, 0.0, spread)
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)


AutoConfig.register(CUSTOM_HEAD, TextClassifierConfig)
AutoModelForSequenceClassification.register(TextClassifierConfig, TextClassifier)

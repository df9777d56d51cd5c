"""`TextClassifier`: any encoder under one of the HEADS, saved and loaded by transformers' Auto classes.

Importing this module (or `build`) registers the class.
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
    """An encoder's config as a dict, the head's name and options, and the pooling's name."""

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
        # the encoder takes the dtype of the whole model, not that of the file it came from
        encoder = AutoConfig.for_model(
            **{key: value for key, value in (config.encoder or {}).items() if key != "dtype"}
        )
        encoder._attn_implementation = config._attn_implementation
        self.encoder = AutoModel.from_config(encoder)
        if getattr(self.encoder, "pooler", None) is not None:
            self.encoder.pooler = None  # replaced by the pooling below
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
        """Return the logits of token ids `[B, L]`; `attention_mask` is 1 for the tokens of the text and 0 for
        padding."""
        mask = attention_mask if attention_mask is not None else torch.ones_like(input_ids)
        inputs = {"input_ids": input_ids, "attention_mask": mask}
        if token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
        every = bool(output_hidden_states) or self.pooling.every_layer
        outputs = self.encoder(**inputs, output_hidden_states=every)
        states = outputs.hidden_states if every else (outputs.last_hidden_state,)
        logits = self.head(self.pooling(states, mask.bool()))
        return SequenceClassifierOutput(logits=logits, hidden_states=states if output_hidden_states else None)

    def set_attn_implementation(self, name: str, *more: Any, **rest: Any) -> None:
        """Set the attention implementation of the encoder; see transformers."""
        self.encoder.set_attn_implementation(name, *more, **rest)
        self.config._attn_implementation = self.encoder.config._attn_implementation

    def _init_weights(self, module: Any) -> None:
        """Initialize weights as BERT does; finetune.modeling.build applies an initializer of the config after this."""
        if isinstance(module, torch.nn.Linear):
            spread = float((self.config.encoder or {}).get("initializer_range", 0.02))
            torch.nn.init.normal_(module.weight, 0.0, spread)
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)


AutoConfig.register(CUSTOM_HEAD, TextClassifierConfig)
AutoModelForSequenceClassification.register(TextClassifierConfig, TextClassifier)

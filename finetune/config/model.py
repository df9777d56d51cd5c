"""Settings of the model that is trained: its head, and which of its weights are new, frozen or adapted."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from finetune.config.choice import Choice, count_or_word
from finetune.config.data import Part


class LoraConfig(Part):
    """Low-rank adapters (LoRA) in the encoder's linear layers; they need peft (the extra `lora`)."""

    rank: int = Field(8, ge=1)
    """Rank of the adapter matrices (`r` in peft)."""

    alpha: float = Field(16, gt=0)
    """Scaling of the adapters, which are multiplied by alpha / rank (`lora_alpha` in peft)."""

    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the input of each adapter (`lora_dropout` in peft)."""

    layers: tuple[str, ...] = ()
    """Names of the encoder's linear layers that get an adapter (`target_modules` in peft); empty for all of them."""

    keep_adapter: bool = False
    """Also save the adapter by itself, in the folder `adapter` of the model."""


class ModelConfig(Part):
    """Changes to the base: its head, dropout, and which of its weights are trained."""

    revision: str | None = None
    """Branch, tag or commit of a base on the Hub."""

    dropout: float | None = Field(None, ge=0, lt=1)
    """Dropout probability of the encoder and the head; None keeps the value in the base's config."""

    attention_dropout: float | None = Field(None, ge=0, lt=1)
    """Dropout probability of the attention weights; None takes `dropout`; on a CPU, 0 trains up to twice as fast."""

    head: Choice = Choice(name="stock")
    """Classification head; `stock` is the base's own, `rehead choices heads` lists the others."""

    pooling: str | None = None
    """Pooling of the token states into one vector, for heads other than `stock`; None takes `cls`, `rehead choices
    poolings` lists all."""

    keep_head: Literal["auto"] | bool = "auto"
    """Start from the head of a finished classifier: the rows of its output layer whose labels stay, by name, are kept,
    and other labels get new rows; `auto` does so where head, task and output activation are the same, true refuses
    where they are not."""

    initializer: Choice | None = None
    """Initializer of the weights that are new in the head; None takes that of the base, `rehead choices initializers`
    lists all."""

    freeze: Literal["none", "embeddings", "body"] | int = "none"
    """Frozen part of the encoder; `embeddings`, a number N for the embeddings and the first N layers, or `body` for
    all of it (feature extraction)."""

    unfreeze: dict[int, int] = Field(default_factory=dict)
    """Gradual unfreezing; epoch -> number of last layers that are trained from then on, such as {0: 0, 1: 2, 2: 6}; the
    embeddings are trained once all layers are."""

    lora: LoraConfig | None = None
    """Train LoRA adapters instead of the encoder's weights; they are merged into the saved model."""

    @field_validator("freeze", mode="before")
    @classmethod
    def _some_layers(cls, value: Any) -> Any:
        words = ("none", "embeddings", "body")
        return count_or_word(value, words, "give a number of layers from 1 up, `none`, `embeddings` or `body`")

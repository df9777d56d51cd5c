"""Settings of the optimizer, the learning rate, and the batches."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from finetune.config.choice import Choice, count_or_word
from finetune.config.data import Part

HEAD_FASTER, HEAD_LR = 10, 1e-3
"""A head that learns faster than the body: so many times its learning rate, up to this rate."""


def faster_head_lr(lr: float) -> float:
    """Return the learning rate of a head that learns faster than the body at `lr`: 10 times that, at most 1e-3 and
    never less than `lr`."""
    return max(lr, min(HEAD_FASTER * lr, HEAD_LR))


class OptimConfig(Part):
    """Optimizer, learning rate, batches and length of training."""

    epochs: float = Field(3, gt=0)
    """Number of passes over the training rows (`num_train_epochs`)."""

    batch_size: int | Literal["full", "auto"] = 32
    """Rows in a batch of each process; `full` puts all rows into each update, `auto` finds the largest batch of the
    longest texts that fits in memory."""

    batch_tokens: int | None = Field(None, ge=1)
    """Maximum number of padded tokens in a batch of each process, instead of a number of rows; short texts get larger
    batches."""

    group_by_length: bool = True
    """Batch texts of similar length together, so that less time is spent on padding."""

    sampler: Literal["shuffle", "balanced"] = "shuffle"
    """Order of the training rows; `balanced` draws them with replacement so that all labels are equally frequent."""

    accumulation: int = Field(1, ge=1)
    """Batches per update (`gradient_accumulation_steps`)."""

    effective_batch: int | None = Field(None, ge=1)
    """Rows per update of all processes, reached by accumulating batches; None takes `accumulation` batches."""

    optimizer: Choice = Choice(name="adamw")
    """Optimizer; `rehead choices optimizers` lists them."""

    lr: float | None = Field(None, gt=0)
    """Peak learning rate, also accepted as `learning_rate`; None takes 5e-5 for a hidden size of 768, more for smaller
    bases and less for larger ones."""

    head_lr: float | None = Field(None, gt=0)
    """Peak learning rate of the head; None takes 10 times `lr`, at most 1e-3 and never less than `lr`, or `lr` where
    all of the head is kept (`model.keep_head`)."""

    layer_decay: float = Field(1.0, gt=0, le=1)
    """Layer-wise learning rate decay; each layer's rate is that of the layer above times this, down to the
    embeddings."""

    schedule: Choice = Choice(name="linear")
    """Schedule of the learning rate after warmup (`lr_scheduler_type`); `rehead choices schedules` lists them."""

    warmup: float = Field(0.1, ge=0, lt=1)
    """Fraction of all updates over which the learning rate rises from 0 (`warmup_ratio`)."""

    weight_decay: float | None = Field(None, ge=0)
    """Decoupled weight decay, except on biases and normalization weights; None takes 0.01 for optimizers that have
    it."""

    l2: float = Field(0.0, ge=0)
    """L2 penalty, except on biases and normalization weights; this times the weight is added to its gradient."""

    max_grad_norm: float = Field(1.0, ge=0)
    """Maximum norm of the gradient, which is scaled down to it; 0 turns clipping off."""

    max_grad_value: float | None = Field(None, gt=0)
    """Maximum absolute value of each element of the gradient; None turns clipping by value off."""

    ema_decay: float | None = Field(None, gt=0, lt=1)
    """Decay of an exponential moving average (EMA) of the weights, which is evaluated and saved instead of them; 0.999
    averages about the last 1,000 updates, None turns it off."""

    interpolate_base: float = Field(0.0, ge=0, lt=1)
    """Share of the base's weights in the saved encoder: share * base + (1 - share) * trained. What the base knows
    beyond the training rows, other languages for instance, suffers less (WiSE-FT, Wortsman et al. 2022)."""

    early_stopping: int | None = Field(None, ge=1)
    """Stop after this many evaluations without a better `checkpoint.best_by` (patience); None trains to the end."""

    @model_validator(mode="before")
    @classmethod
    def _learning_rate(cls, value: Any) -> Any:
        if not isinstance(value, dict) or "learning_rate" not in value:
            return value
        if "lr" in value:
            raise ValueError("lr and learning_rate are the same setting: give one of them")
        return {"lr" if key == "learning_rate" else key: setting for key, setting in value.items()}

    @field_validator("batch_size", mode="before")
    @classmethod
    def _some_rows(cls, value: Any) -> Any:
        return count_or_word(value, ("full", "auto"), "give a number of rows from 1 up, `full` or `auto`")

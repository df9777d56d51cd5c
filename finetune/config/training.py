"""Everything a training run can be told, as one frozen pydantic model.

Knows: names, types, ranges and defaults; the sentence under a field is its help everywhere.
Does not know: files on disk, or what a loss or metric of a given name does (the tables do).
"""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from finetune.config.data import DataConfig, Part, Source

DEFAULT_ERROR_ROWS = 50

EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
"""A number with an exponent."""


class Choice(BaseModel):
    """A named entry of a table; keys beside `name` are its knobs."""

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)

    name: str
    """The entry's name; `rehead choices` lists them."""

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if not isinstance(value, dict):
            return value
        # YAML 1.1 reads 1e6 as a string
        return {
            key: float(one) if isinstance(one, str) and EXPONENT.fullmatch(one) else one for key, one in value.items()
        }

    @property
    def knobs(self) -> dict[str, Any]:
        """The keys beside `name`."""
        return dict(self.model_extra or {})


def _count_or_word(value: Any, words: tuple[str, ...], wanted: str) -> Any:
    if value in words:
        return value
    try:
        count = int(value)
    except (TypeError, ValueError):
        count = 0
    if count < 1 or count != float(value):
        raise ValueError(wanted)
    return count


class LoraConfig(Part):
    """Low-rank additions to the body's layers; needs peft (the extra `lora`)."""

    rank: int = Field(8, ge=1)
    """Rank of each addition."""

    alpha: float = Field(16, gt=0)
    """The additions are scaled by alpha / rank."""

    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout before each addition."""

    layers: tuple[str, ...] = ()
    """Names of the body's linear layers that get one; empty for all of them."""

    keep_adapter: bool = False
    """Also write the adapter by itself, into the folder `adapter` of the model."""


class ModelConfig(Part):
    """The base and what is done to it."""

    revision: str | None = None
    """Branch, tag or commit of a base on the Hub."""

    dropout: float | None = Field(None, ge=0, lt=1)
    """Dropout of body and head; None keeps what the base's config says."""

    attention_dropout: float | None = Field(None, ge=0, lt=1)
    """Dropout of the attention weights; None follows `dropout`. On a CPU, 0 trains up to twice as fast."""

    head: Choice = Choice(name="stock")
    """What makes logits of a text's vector: the base's own head, or one of `rehead choices heads`."""

    pooling: str | None = None
    """How token states become one vector, under a head of ours: `rehead choices poolings`; None takes `cls`."""

    initializer: Choice | None = None
    """How the new head's weights begin: `rehead choices initializers`; None takes the base's own way."""

    freeze: Literal["none", "embeddings", "body"] | int = "none"
    """What of the body is not trained: the embeddings, also its first N layers, or all of it (feature extraction)."""

    unfreeze: dict[int, int] = Field(default_factory=dict)
    """Epoch -> how many of the body's last layers train from then on: {0: 0, 1: 2, 2: 6}; embeddings come with all."""

    lora: LoraConfig | None = None
    """Train low-rank additions to the body (LoRA) in place of its weights; they are merged into it at the end."""

    @field_validator("freeze", mode="before")
    @classmethod
    def _some_layers(cls, value: Any) -> Any:
        words = ("none", "embeddings", "body")
        return _count_or_word(value, words, "give a number of layers from 1 up, `none`, `embeddings` or `body`")


class OptimConfig(Part):
    """Batches, learning rate and how long to train."""

    epochs: float = Field(3, gt=0)
    """Passes over the training rows."""

    batch_size: int | Literal["full", "auto"] = 32
    """Rows in one batch: 1 is stochastic gradient descent, `full` takes all rows for each update, `auto` the largest
    batch that fits the memory at the longest length."""

    batch_tokens: int | None = Field(None, ge=1)
    """Padded tokens in one batch, in place of a number of rows: short texts come in larger batches."""

    group_by_length: bool = True
    """Put texts of like length into one batch, so that little is computed on padding."""

    sampler: Literal["shuffle", "balanced"] = "shuffle"
    """`balanced` draws rows with replacement, each label as often as any other."""

    accumulation: int = Field(1, ge=1)
    """Batches whose gradients are added before each update."""

    effective_batch: int | None = Field(None, ge=1)
    """Rows of one update: batches are accumulated until there are as many; None takes `accumulation` batches."""

    optimizer: Choice = Choice(name="adamw")
    """`rehead choices optimizers` lists them."""

    lr: float | None = Field(None, gt=0)
    """Peak learning rate; None takes 5e-5 for a base 768 wide, more for narrower ones, less for wider."""

    head_lr: float | None = Field(None, gt=0)
    """Peak learning rate of the new head; None takes 10 times `lr` where that is at most 1e-3, else 1e-3 or `lr`."""

    layer_decay: float = Field(1.0, gt=0, le=1)
    """Each layer's learning rate is that of the layer above times this; the embeddings come last."""

    schedule: Choice = Choice(name="linear")
    """How the learning rate falls after warm-up: `rehead choices schedules` lists them."""

    warmup: float = Field(0.1, ge=0, lt=1)
    """Share of all updates over which the learning rate rises from zero."""

    weight_decay: float | None = Field(None, ge=0)
    """Decoupled weight decay, 0.01 for the optimizers that have it; biases and norms are exempt."""

    l2: float = Field(0.0, ge=0)
    """L2 penalty: this times each weight is added to its gradient; biases and norms are exempt."""

    max_grad_norm: float = Field(1.0, ge=0)
    """Gradients are scaled down to this norm; 0 turns clipping off."""

    max_grad_value: float | None = Field(None, gt=0)
    """Each gradient is cut to this size; None turns it off."""

    ema_decay: float | None = Field(None, gt=0, lt=1)
    """Decay of an exponential mean of the weights that is evaluated and kept in their place: 0.999 spans about the last
    thousand updates; None keeps the weights of the last update or best checkpoint."""

    early_stopping: int | None = Field(None, ge=1)
    """Stop after this many evaluations in which `checkpoint.best_by` does not get better; None trains to the end."""

    @field_validator("batch_size", mode="before")
    @classmethod
    def _some_rows(cls, value: Any) -> Any:
        return _count_or_word(value, ("full", "auto"), "give a number of rows from 1 up, `full` or `auto`")


class GradientsConfig(Part):
    """What is watched while training, and what is done about it."""

    every: int | None = Field(None, ge=1)
    """Updates between two looks at every layer's gradients; None takes 40 looks in a run, at most one in 10 updates."""

    auto_recover: bool = False
    """Continue from the last good checkpoint with the suggested fix when a run diverges or does not learn."""

    attempts: int = Field(2, ge=1)
    """How often auto-recovery may change a run."""


class CheckpointConfig(Part):
    """How often progress is saved."""

    every_steps: int | None = Field(None, ge=1)
    """Updates between checkpoints (and evaluations); None saves after each epoch."""

    every_minutes: float | None = Field(10, ge=0)
    """Minutes between checkpoints that are not evaluated, beside those of `every_steps`; 0 or None turns them off."""

    keep: int = Field(2, ge=1)
    """Checkpoints kept on disk beside the best one."""

    best_by: str | None = None
    """Metric on the validation rows that chooses the best checkpoint, and by which early stopping and a search compare:
    one of `rehead choices metrics`, or `loss`; None takes accuracy, micro F1 or R2, as the task has it."""


class ZeroShotConfig(Part):
    """What a model trained on entailment labels should do as a zero-shot classifier."""

    attention: Literal["ordinary", "alternate"] = "ordinary"
    """`alternate` trains with the shared-text mask and the ordinary one in turn and records shared_text."""

    hypothesis_template: str = "This text is about {}."
    """The template used when a caller gives none."""

    scorer: Literal["nli", "embedding", "both"] = "nli"
    """What a topic's score is made of: entailment, similarity of embeddings, or a fitted mix of both."""

    label_embedding: Literal["sentence", "sentence_and_name"] = "sentence_and_name"
    """What a text's embedding is compared with: that of the label in its template, or also of the label alone."""

    fit_on: tuple[Source, ...] = ()
    """Labelled tables, none of them trained on, from which the weights of the mix are fitted."""

    @field_validator("hypothesis_template")
    @classmethod
    def _one_blank(cls, value: str) -> str:
        if value.count("{}") != 1 or any(brace in value.replace("{}", "") for brace in "{}"):
            raise ValueError(
                'give exactly one {} where the label goes and no other brace, as in "This text is about {}."'
            )
        return value


class TrainConfig(Part):
    """One training run, whole."""

    base: str
    """The encoder to start from: a folder, a served name or a Hub id."""

    out: str
    """The model folder to write."""

    data: DataConfig = DataConfig()
    """Where the rows are and what the columns mean."""

    model: ModelConfig = ModelConfig()
    """The base and what is done to it."""

    loss: Choice | None = None
    """Loss by name; None takes the task's default."""

    class_weights: Literal["none", "balanced"] | dict[str, float] = "none"
    """How much each label counts in the loss: balanced by its rows in training, or by name (1 where not named)."""

    auxiliary: tuple[Choice, ...] = ()
    """Training terms beside the loss."""

    metrics: tuple[str, ...] = ()
    """Further metrics by name: ours, or any that `evaluate.load` finds."""

    tfidf_baseline: bool = True
    """Measure TF-IDF with logistic regression on the same rows, so that the report says what the encoder adds."""

    error_rows: int = Field(DEFAULT_ERROR_ROWS, ge=0)
    """Rows of each kind in report/errors.csv and report/near_duplicates.csv, which hold texts; 0 writes neither."""

    plots: bool = True
    """Draw the plots of the report, which takes a few seconds."""

    optim: OptimConfig = OptimConfig()
    """Batches, learning rate and how long to train."""

    gradients: GradientsConfig = GradientsConfig()
    """What is watched while training, and what is done about it."""

    report_to: tuple[str, ...] = ()
    """Where else the run is logged: tensorboard, trackio, mlflow, wandb, each if it is installed."""

    checkpoint: CheckpointConfig = CheckpointConfig()
    """How often progress is saved."""

    zero_shot: ZeroShotConfig = ZeroShotConfig()
    """For models trained on entailment labels."""

    license: str | None = None
    """License of the finished model by the Hub's name for it (apache-2.0, mit, cc-by-sa-4.0, other), for its card."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of training; auto takes bfloat16 autocast where the processor has it."""

    save_dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of the saved weights."""

    seed: int = Field(42, ge=0)
    """Seed of the split, the new head, the order of rows and dropout."""

    overwrite: bool = False
    """Replace a model folder that stands at `out`, once the new one is complete."""

    resume: bool = False
    """Go on from the last checkpoint of the same run, if there is one."""

    allow_changed: tuple[str, ...] = ()
    """What may differ from the run that made the checkpoint when it is resumed: epochs, lr, early_stopping, logging,
    checkpoint, recovery."""

    models_dir: str = "models"
    """Folder whose models can be named as `base`."""

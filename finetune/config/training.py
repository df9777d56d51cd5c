"""All settings of a training run, as one frozen pydantic model; the sentence under a field is its help everywhere."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from finetune.config.data import DataConfig, Part, Source, Template
from finetune.config.threshold_rule import threshold_rule
from finetune.core.windows import Aggregate, Window, window_of

DEFAULT_ERROR_ROWS = 50

EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
"""A number with an exponent, which YAML 1.1 reads as a string unless it has a decimal point."""


SavedDtype = Literal["float32", "bfloat16", "float8"]


class Choice(BaseModel):
    """A named entry of a table of choices; keys beside `name` are its options."""

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
        return {
            key: float(option) if isinstance(option, str) and EXPONENT.fullmatch(option) else option
            for key, option in value.items()
        }

    @property
    def options(self) -> dict[str, Any]:
        """The keys beside `name`."""
        return dict(self.model_extra or {})


def _count_or_word(value: Any, words: tuple[str, ...], message: str) -> Any:
    if value in words:
        return value
    try:
        count = int(value)
    except (TypeError, ValueError):
        count = 0
    if count < 1 or count != float(value):
        raise ValueError(message)
    return count


class WindowConfig(Part):
    """Overlapping parts of a long text, which a model reads one by one."""

    tokens: int = Field(256, ge=8)
    """Most tokens of a window, without special ones."""

    overlap: int | None = Field(None, ge=0)
    """Tokens that a window shares with the one before it, half of its tokens at most; None shares a quarter."""

    aggregate: Aggregate = "mean"
    """How the scores of windows become those of the text: max, mean, or first for the first window alone."""

    @model_validator(mode="after")
    def _overlaps_half_at_most(self) -> Self:
        self.window()
        return self

    def window(self) -> Window:
        """Return the window, its overlap resolved.

        Raises:
            ValueError: it overlaps too much.
        """
        window = window_of(self.model_dump())
        assert window is not None
        return window


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
        return _count_or_word(value, words, "give a number of layers from 1 up, `none`, `embeddings` or `body`")


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
        return _count_or_word(value, ("full", "auto"), "give a number of rows from 1 up, `full` or `auto`")


class GradientsConfig(Part):
    """Gradient monitoring, and recovery from divergence."""

    every: int | None = Field(None, ge=1)
    """Updates between two gradient snapshots; None takes 40 snapshots in a run, at most one every 10 updates."""

    auto_recover: bool = False
    """Continue from the last good checkpoint with the suggested fix when a run diverges or does not learn."""

    attempts: int = Field(2, ge=1)
    """Maximum number of recoveries in a run."""


class CheckpointConfig(Part):
    """Checkpoints, and the choice of the best one."""

    every_steps: int | None = Field(None, ge=1)
    """Updates between evaluations, each with a checkpoint (`save_steps`); None evaluates after each epoch."""

    every_minutes: float | None = Field(10, ge=0)
    """Minutes between further checkpoints without an evaluation; 0 or None turns them off."""

    keep: int = Field(2, ge=1)
    """Number of latest checkpoints kept on disk, beside the best one (`save_total_limit`)."""

    best_by: str | None = None
    """Validation metric of the best checkpoint, early stopping and search (`metric_for_best_model`); `loss` or one of
    `rehead choices metrics`, None takes accuracy, micro F1 or R2 by the task."""


class ZeroShotConfig(Part):
    """Zero-shot classification with a model that is trained on entailment labels."""

    attention: Literal["ordinary", "alternate"] = "ordinary"
    """Attention masks in training; `alternate` trains with the ordinary and the shared-text mask in turn, and the model
    is served with the latter."""

    hypothesis_template: Template = "This text is about {}."
    """Hypothesis template for requests that have none; `{}` stands for the label."""

    scorer: Literal["nli", "embedding", "both"] = "nli"
    """Score of a label; `nli` is entailment, `embedding` the similarity of embeddings, `both` a fitted fusion of the
    two."""

    label_embedding: Literal["sentence", "sentence_and_name"] = "sentence_and_name"
    """Embedding that a text is compared with; that of the hypothesis, or the mean with that of the bare label."""

    fit_on: tuple[Source, ...] = ()
    """Labeled tables, none of them trained on, on which the weights of the score fusion are fitted."""


class TrainConfig(Part):
    """All settings of one training run."""

    base: str
    """Encoder to start from; a folder, a served name, a Hub id, or `auto` (what `rehead bases` recommends)."""

    out: str
    """Model folder to write."""

    data: DataConfig = DataConfig()
    """Tables of labeled texts, and what their columns hold."""

    model: ModelConfig = ModelConfig()
    """Changes to the base: its head, dropout, and which of its weights are trained."""

    few_shot: Choice | None = None
    """Training on few rows of each label; `auto` cross-validates the ways of `rehead choices few_shot` and takes the
    best, a name takes that one, and None is ordinary fine-tuning. The base is topics unless it is set."""

    loss: Choice | None = None
    """Loss; None takes the default of the task, `rehead choices losses` lists all."""

    class_weights: Literal["none", "balanced"] | dict[str, float] = "none"
    """Weight of each label in the loss; `balanced` makes it inverse to the number of rows, or label -> weight, 1 for
    labels that are not listed."""

    auxiliary: tuple[Choice, ...] = ()
    """Terms that are added to the loss in training; `rehead choices auxiliary` lists them."""

    metrics: tuple[str, ...] = ()
    """Additional metrics; those of `rehead choices metrics`, or any that `evaluate.load` finds."""

    calibration: Literal["auto", "none", "temperature", "platt", "isotonic"] = "auto"
    """Calibration of the scores on the validation rows; `auto` is `temperature` for one label a text and `platt` for
    several, and `isotonic` takes 1,000 rows."""

    thresholds: Annotated[Choice | None, BeforeValidator(threshold_rule)] = None
    """Rule by which the threshold of each label is tuned on the validation rows, for several labels or two; None keeps
    0.5, `rehead choices thresholds` lists all."""

    coverage: float | None = Field(None, gt=0, lt=1)
    """Proportion of texts whose prediction set holds the true label, such as 0.9; the sets, fitted on the validation
    rows, are what `--abstain` answers, and None makes none."""

    tfidf_baseline: bool = True
    """Also evaluate TF-IDF with logistic regression on the same rows, as a baseline."""

    error_rows: int = Field(DEFAULT_ERROR_ROWS, ge=0)
    """Rows of each kind in report/errors.csv and report/near_duplicates.csv, which contain texts; 0 writes neither, and
    no report/label_errors.csv."""

    plots: bool = True
    """Draw the plots of the report, which takes a few seconds."""

    optim: OptimConfig = OptimConfig()
    """Optimizer, learning rate, batches and length of training."""

    gradients: GradientsConfig = GradientsConfig()
    """Gradient monitoring, and recovery from divergence."""

    report_to: tuple[str, ...] = ()
    """Experiment trackers to log to, each of which must be installed; tensorboard, trackio, mlflow, wandb."""

    checkpoint: CheckpointConfig = CheckpointConfig()
    """Checkpoints, and the choice of the best one."""

    zero_shot: ZeroShotConfig = ZeroShotConfig()
    """Zero-shot classification with a model that is trained on entailment labels."""

    window: WindowConfig | None = None
    """How long texts are read; None truncates them. Training takes each window as a row, the windows of a text share
    its weight, and the metrics of the finished model are those of whole texts."""

    license: str | None = None
    """License of the model for its card, as the Hub spells it (apache-2.0, mit, cc-by-sa-4.0, other)."""

    languages: tuple[str, ...] = ()
    """Languages of the model as ISO 639-1 codes, for its card and for warnings of texts in others; by default those of
    the training texts, and of a base that records several."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of training; `auto` uses bfloat16 autocast where the processor supports it."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device of training; `auto` is a CUDA GPU where there is one, else the processor."""

    save_dtype: SavedDtype = "float32"
    """Data type of the saved weights; `float8` stores the encoder's matrices in 8 bits, a quarter of the size."""

    seed: int = Field(42, ge=0)
    """Random seed of the split, the new head, the order of rows and dropout."""

    overwrite: bool = False
    """Replace an existing model folder at `out`, once the new one is complete."""

    resume: bool = False
    """Continue from the last checkpoint of the same run, if there is one."""

    allow_changed: tuple[str, ...] = ()
    """Settings that may differ from those of the checkpoint on resume; epochs, lr, early_stopping, logging, checkpoint,
    recovery."""

    models_dir: str = "models"
    """Folder of the models that `base` can name."""

    @model_validator(mode="before")
    @classmethod
    def _base_of_few_shot(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("few_shot") is not None and value.get("base") is None:
            return value | {"base": "topics"}
        return value

"""All settings of a training run, as one frozen pydantic model; the sentence under a field is its help everywhere."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from finetune.config.choice import Choice
from finetune.config.data import DataConfig, Part, Source, Template
from finetune.config.model import ModelConfig
from finetune.config.optim import OptimConfig
from finetune.config.threshold_rule import threshold_rule
from finetune.core.windows import Aggregate, Window, window_of

DEFAULT_ERROR_ROWS = 50

SavedDtype = Literal["float32", "bfloat16", "float8"]


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

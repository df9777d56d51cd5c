"""What training refuses before it starts is what a dry run refuses, in the same sentence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune.config.loading import build, laid
from finetune.config.training import TrainConfig
from finetune.core import events
from finetune.core.errors import CheckpointError, ConfigError, FinetuneError
from finetune.prepare import prepare
from finetune.run import train
from tests.support.checkpoints import save_tokenizer

Make = Callable[..., TrainConfig]

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"model.head.name": "mlp", "model.head.activation": "rellu"}, "unknown activation 'rellu': did you mean 'relu'"),
    ({"model.head.name": "mlp", "model.head.norm": "bach"}, "model.head.norm: there is no normalization 'bach'"),
    ({"model.head.name": "mlp", "model.head.dropout": 2}, "model.head: dropout probability"),
    ({"model.head.name": "mlp", "model.head.hidden": "wide"}, "model.head.hidden is 'wide'"),
    ({"model.head.name": "mlp", "model.head.norm": "batch", "optim.batch_size": 1}, "cannot be computed over one row"),
    ({"model.head.name": "linear", "model.pooling": "meen"}, "unknown pooling 'meen': did you mean 'mean'"),
    ({"model.pooling": "mean"}, "model.pooling does not apply to the base's own head"),
    ({"model.head.name": "linear", "zero_shot.attention": "alternate"}, "needs the base's own head"),
    ({"model.initializer.name": "glorot"}, "unknown initializer 'glorot'"),
    ({"model.freeze": 9}, "names 9 layers, and the body has 2"),
    ({"model.unfreeze": {0: 1, 1: 7}}, "names 7 layers"),
    ({"model.lora.layers": ["nope"]}, "the body has linear layers named"),
    ({"model.lora.rank": 4, "model.freeze": 1}, "leave out model.freeze"),
    ({"loss.name": "sparse_categorical_crossentropy", "loss.label_smoothing": 2}, "label_smoothing is 2"),
    ({"loss.name": "focal", "loss.gamma": -1}, "gamma is -1, and must be at least 0"),
    ({"loss.name": "mean_squared_error"}, "does not fit task binary"),
    ({"optim.optimizer.name": "adamw", "optim.optimizer.beta1": 2}, "optim.optimizer: Invalid beta"),
    ({"optim.schedule.name": "reduce_on_plateau", "optim.schedule.factor": 2}, "optim.schedule: Factor should be"),
    ({"optim.schedule.name": "linear", "optim.schedule.power": 2}, "has no option 'power'"),
    (
        {"optim.optimizer": "adafactor", "optim.schedule": "one_cycle"},
        "optimizer must support momentum",
    ),
    ({"optim.optimizer.name": "adam", "optim.weight_decay": 0.1}, "no decoupled weight decay"),
    ({"metrics": ["acuracy"]}, "metrics: 'acuracy' is not built in"),
    ({"metrics": ["samples_f1"]}, "metrics: 'samples_f1' does not fit task binary"),
    ({"report_to": ["tensorbord"]}, "there is no tracker 'tensorbord'. did you mean 'tensorboard'"),
    ({"report_to": ["dagshub"]}, "dagshub is not installed: pip install dagshub"),
    ({"class_weights": {"nope": 2.0}}, "class_weights: there is no label 'nope'"),
    ({"checkpoint.best_by": "mse"}, "'mse' does not fit task binary.*macro_f1.*loss"),
    ({"checkpoint.best_by": "acuracy"}, "no metric 'acuracy'. did you mean 'accuracy'"),
    ({"checkpoint.best_by": "roc_auc", "data.validation_size": 1}, "roc_auc is undefined on the 1 validation rows"),
    (
        {"resume": True, "allow_changed": ["epoch"]},
        "allow_changed: 'epoch' cannot change on resume: did you mean 'epochs'",
    ),
    ({"auxiliary": [{"name": "keep"}]}, "unknown auxiliary term 'keep'"),
]


@pytest.mark.parametrize(("settings", "message"), WRONG, ids=[", ".join(settings) for settings, _ in WRONG])
def test_a_dry_run_refuses_what_training_refuses(
    config: Make, reviews: Any, settings: dict[str, Any], message: str
) -> None:
    wanted = build(laid(config().model_dump(mode="json"), settings))
    said = []
    for run in (prepare, train):
        with pytest.raises(FinetuneError, match=message) as caught:
            run(wanted, reviews)
        assert caught.value.exit_code == 2
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert not Path(wanted.out).exists() and not Path(wanted.out).with_name(".model.run").exists()


@pytest.mark.parametrize(
    "settings",
    [
        {"checkpoint.best_by": "loss"},
        {"checkpoint.best_by": "roc_auc"},
        {"model.lora.rank": 2},
        {"model.head.name": "mlp", "model.head.norm": "batch", "model.initializer.name": "orthogonal"},
        {"metrics": ["mcc"], "report_to": ["tensorboard"], "optim.sampler": "balanced"},
        {"model.unfreeze": {0: 0, 1: 2}},
    ],
    ids=str,
)
def test_a_dry_run_accepts_what_training_accepts(config: Make, reviews: Any, settings: dict[str, Any]) -> None:
    assert prepare(build(laid(config().model_dump(mode="json"), settings)), reviews).batch_plan.updates == 7


def test_a_dry_run_refuses_checkpoints_of_another_run(config: Make, reviews: Any, tmp_path: Path) -> None:
    def stop(event: events.Event) -> None:
        if isinstance(event, events.Saved):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config(optim={"epochs": 2}), reviews, stop)
    before = sorted(tmp_path.rglob("*"))
    other = config(optim={"epochs": 2}, seed=7, resume=True)
    for run in (prepare, train):
        with pytest.raises(ConfigError, match="made by another run. Different: .*seed: 42 -> 7"):
            run(other, reviews)
    assert prepare(config(optim={"epochs": 2}, resume=True), reviews).batch_plan.updates == 14
    assert sorted(tmp_path.rglob("*")) == before


def test_regression_is_refused_before_training_where_the_head_has_no_bias(config: Make, tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2Model

    words = save_tokenizer(tmp_path / "gpt")
    GPT2Model(GPT2Config(vocab_size=words, n_positions=128, n_embd=16, n_layer=1, n_head=2)).save_pretrained(
        tmp_path / "gpt"
    )
    rows = [{"text": f"film {index}", "label": index / 7} for index in range(20)]
    for run in (prepare, train):
        with pytest.raises(CheckpointError, match="linear layer with a bias: --set model.head=linear"):
            run(config(base=str(tmp_path / "gpt"), data={"task": "regression"}), rows)

"""Settings from YAML, flags and Python: one meaning, and one sentence for every mistake."""

from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from finetune.config import loading
from finetune.config.optim import OptimConfig
from finetune.config.renamed import RENAMED, upgraded
from finetune.config.training import TrainConfig
from finetune.core.errors import ConfigError
from finetune.core.registry import pick
from finetune.training.losses import LOSSES, loss_for

pytestmark = pytest.mark.fast

ROOT = Path(loading.__file__).parents[2]
RECIPES = sorted((ROOT / "finetune/recipes").glob("*.yaml"))


def sections(model: type[BaseModel], prefix: str = "") -> dict[str, type[BaseModel]]:
    """Return the sections of a config by dotted key, those in tuples and dicts included."""
    models = {prefix: model}
    for name, field in model.model_fields.items():
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                models |= sections(kind, f"{prefix}.{name}" if prefix else name)
    return models


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda file: file.stem)
def test_every_recipe_is_valid_and_survives_a_round_trip(recipe: Path, tmp_path: Path) -> None:
    config = loading.load(recipe)
    (tmp_path / "copy.yaml").write_text(loading.dump(config))
    assert loading.load(tmp_path / "copy.yaml") == config


def test_there_are_recipes() -> None:
    assert {recipe.stem for recipe in RECIPES} >= {"sentiment", "topics"}


def test_flags_win_over_the_file_and_sets_over_flags(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(
        "base: b\nout: o\noptim: {lr: 1.0e-3, epochs: 5}\nloss: sparse_categorical_crossentropy\n"
    )
    config = loading.load(
        tmp_path / "run.yaml",
        ["optim.lr=3e-5", "loss.label_smoothing=0.1"],
        optim__epochs=2.0,
        optim__lr=1e-4,
        seed=None,
    )
    assert (config.optim.lr, config.optim.epochs, config.seed) == (3e-5, 2.0, 42)
    assert config.loss is not None
    assert config.loss.options == {"label_smoothing": 0.1}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optim.lrr=1"], "unknown setting 'optim.lrr': did you mean 'optim.lr'"),
        (["optim.lr=fast"], "'optim.lr' is 'fast': input should be a valid number"),
        (["optim.epochs=0"], "'optim.epochs' is 0: input should be greater than 0"),
        (["nonsense"], "should read KEY=VALUE"),
        (["data.validation_size=1.5"], "a fraction between 0 and 1"),
    ],
)
def test_a_wrong_setting_is_named_in_one_sentence(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        loading.load(None, overrides, base="b", out="o")
    assert "\n" not in str(caught.value)


def test_a_missing_setting_names_its_flag() -> None:
    with pytest.raises(ConfigError, match=r"'base' \(--base\) is missing"):
        loading.load(None, [], out="o")


@pytest.mark.parametrize("content", ["[1, 2]", "a: [", "just words"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.yaml").write_text(content)
    with pytest.raises(ConfigError, match=r"x\.yaml"):
        loading.load(tmp_path / "x.yaml")


def test_every_field_has_its_sentence() -> None:
    every = sections(TrainConfig)
    assert {"data.train", "data.test", "data.train.recast", "model.lora", "zero_shot.fit_on"} <= set(every)
    for section, model in every.items():
        for name, field in model.model_fields.items():
            assert (field.description or "").endswith((".", ". ")), f"{section}.{name}"


@pytest.mark.parametrize(
    ("key", "setting"),
    [
        ("class_weight", "class_weights"),
        ("learning_rate", "optim.lr"),
        ("patience", "optim.early_stopping"),
        ("optim.patience", "optim.early_stopping"),
        ("num_epochs", "optim.epochs"),
        ("optim.num_train_epochs", "optim.epochs"),
        ("epoch", "optim.epochs"),
        ("optim.warmup_ratio", "optim.warmup"),
        ("max_length", "data.max_length"),
        ("data.train.0.labell", "data.train.0.label"),
        ("model.lora.rnk", "model.lora.rank"),
    ],
)
def test_a_name_of_another_library_suggests_the_setting(key: str, setting: str) -> None:
    assert loading.suggestion(key.split(".")) == f"did you mean {setting!r}?"


def test_a_name_like_no_other_is_answered_with_all_settings_of_its_section() -> None:
    assert loading.suggestion(["checkpoint", "zzz"]) == (
        "known settings here: every_steps, every_minutes, keep, best_by"
    )


def test_every_suggested_setting_exists_and_no_setting_has_a_name_that_is_corrected() -> None:
    every = {
        f"{prefix}.{name}".lstrip(".") for prefix, model in sections(TrainConfig).items() for name in model.model_fields
    }
    for name, setting in loading.MEANT.items():
        assert setting in every or setting.startswith("loss."), name
        assert name not in TrainConfig.model_fields, name
    assert set(loading.ALSO_ACCEPTED.values()) <= every
    assert not every & set(loading.ALSO_ACCEPTED)
    names = {key.rpartition(".")[2] for key in every}
    assert names >= set(RENAMED.values())
    assert not names & set(RENAMED)


@pytest.mark.parametrize("name", ["topics", "sentiment"])
def test_the_config_of_a_model_that_ships_can_be_loaded(name: str) -> None:
    file = ROOT / "models" / name / "train_config.yaml"
    assert loading.load(file, out="elsewhere").base
    assert loading.build(upgraded(loading.read_yaml(file))) == loading.load(file)


def test_learning_rate_is_another_spelling_of_lr(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("base: b\nout: o\noptim: {learning_rate: 1e-3, epochs: 5}\n")
    config = loading.load(tmp_path / "run.yaml")
    assert (config.optim.lr, config.optim.epochs) == (1e-3, 5)
    assert "  lr: 0.001\n" in loading.dump(config) and "learning_rate" not in loading.dump(config)
    for key in ("lr", "learning_rate"):
        assert loading.load(tmp_path / "run.yaml", [f"optim.{key}=3e-5"]).optim.lr == 3e-5
    assert loading.load(None, ["optim.lr=2e-5"], base="b", out="o", optim__learning_rate=1.0).optim.lr == 2e-5
    assert loading.laid({"optim": {"lr": 1.0}}, {"optim.learning_rate": 2.0}) == {"optim": {"lr": 2.0}}
    assert OptimConfig.model_validate({"learning_rate": 0.1}) == OptimConfig(lr=0.1)


def test_a_file_with_both_spellings_of_lr_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("base: b\nout: o\noptim: {learning_rate: 1.0e-3, lr: 1.0e-4}\n")
    with pytest.raises(ConfigError, match=r"run\.yaml: setting 'optim': lr and learning_rate are the same setting"):
        loading.load(tmp_path / "run.yaml")


def test_an_unknown_choice_or_option_lists_what_there_is() -> None:
    with pytest.raises(ConfigError, match="unknown loss 'binary_crossentropi': did you mean 'binary_crossentropy'"):
        pick(LOSSES, "binary_crossentropi", {}, what="loss")
    with pytest.raises(ConfigError, match="no option 'gamma': it has label_smoothing"):
        pick(LOSSES, "sparse_categorical_crossentropy", {"gamma": 2}, what="loss")
    with pytest.raises(ConfigError, match="should be a number"):
        pick(LOSSES, "sparse_categorical_crossentropy", {"label_smoothing": "a lot"}, what="loss")


def test_an_exponent_without_a_point_is_a_number(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("base: topics\nout: m\nloss: {name: huber, delta: 1e6}\n")
    for file, overrides in ((tmp_path / "run.yaml", []), (None, ["loss={name: huber, delta: 1E6}"])):
        choice = loading.load(file, overrides, base="topics", out="m", data__train="t.csv").loss
        assert choice is not None and choice.options == {"delta": 1e6}


def test_a_loss_that_does_not_fit_the_task_names_those_that_do() -> None:
    config = loading.load(None, ["loss.name=mean_squared_error"], base="b", out="o")
    with pytest.raises(
        ConfigError, match="does not fit task binary: choose one of sparse_categorical_crossentropy, categorical_cross"
    ):
        loss_for("binary", config.loss)

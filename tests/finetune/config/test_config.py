"""Settings from YAML, flags and Python: one meaning, and one sentence for every mistake."""

from pathlib import Path

import pytest

from finetune.config import loading
from finetune.config.training import TrainConfig
from finetune.core.errors import ConfigError
from finetune.core.registry import pick
from finetune.training.losses import LOSSES, loss_for

RECIPES = sorted(Path(loading.__file__).parent.joinpath("recipes").glob("*.yaml"))


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
    assert config.loss.knobs == {"label_smoothing": 0.1}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optim.lrr=1"], "unknown setting 'optim.lrr': did you mean 'lr'"),
        (["optim.lr=fast"], "'optim.lr' is 'fast': input should be a valid number"),
        (["optim.epochs=0"], "'optim.epochs' is 0: input should be greater than 0"),
        (["nonsense"], "should read KEY=VALUE"),
        (["data.validation_size=1.5"], "a share between 0 and 1"),
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
    for name, field in TrainConfig.model_fields.items():
        assert name in ("base", "out") or field.description, name
        inner = field.annotation
        for key, part in getattr(inner, "model_fields", {}).items():
            assert part.description, f"{name}.{key}"


def test_an_unknown_choice_or_knob_lists_what_there_is() -> None:
    with pytest.raises(ConfigError, match="unknown loss 'binary_crossentropi': did you mean 'binary_crossentropy'"):
        pick(LOSSES, "binary_crossentropi", {}, what="loss")
    with pytest.raises(ConfigError, match="no knob 'gamma': it has label_smoothing"):
        pick(LOSSES, "sparse_categorical_crossentropy", {"gamma": 2}, what="loss")
    with pytest.raises(ConfigError, match="should be a number"):
        pick(LOSSES, "sparse_categorical_crossentropy", {"label_smoothing": "a lot"}, what="loss")


def test_an_exponent_without_a_point_is_a_number(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("base: topics\nout: m\nloss: {name: huber, delta: 1e6}\n")
    for file, overrides in ((tmp_path / "run.yaml", []), (None, ["loss={name: huber, delta: 1E6}"])):
        choice = loading.load(file, overrides, base="topics", out="m", data__train="t.csv").loss
        assert choice is not None and choice.knobs == {"delta": 1e6}


def test_a_loss_that_does_not_fit_the_task_names_those_that_do() -> None:
    config = loading.load(None, ["loss.name=mean_squared_error"], base="b", out="o")
    with pytest.raises(
        ConfigError, match="does not fit task binary: choose one of sparse_categorical_crossentropy, categorical_cross"
    ):
        loss_for("binary", config.loss)

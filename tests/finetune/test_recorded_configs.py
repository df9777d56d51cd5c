"""The configs that shipped models record: they are what trained the models, so that they repeat the runs."""

from pathlib import Path
from typing import Any

import pytest

from finetune.config import loading
from finetune.config.choice import Choice
from finetune.config.training import TrainConfig
from finetune.core import model_folder
from finetune.core.model_folder import ModelFolder
from finetune.training.losses import default_loss, output_activation
from finetune.training.optim import weight_decay_of

RECIPES = Path(loading.__file__).parents[1] / "recipes"
NAMES = sorted(folder.name for folder in model_folder.shipped_dir().iterdir() if (folder / "config.json").is_file())


def recorded(name: str) -> tuple[ModelFolder, TrainConfig]:
    folder = model_folder.read(model_folder.shipped_dir() / name)
    return folder, loading.load(folder.path / model_folder.TRAIN_CONFIG)


def resolved(config: TrainConfig, task: Any) -> TrainConfig:
    """A config with what a run infers where the config leaves it open."""
    optim = config.optim.model_copy(update={"weight_decay": weight_decay_of(config.optim)})
    data = config.data.model_copy(update={"task": task})
    loss = config.loss or Choice(name=default_loss(task, soft_labels=False))
    return config.model_copy(update={"data": data, "optim": optim, "loss": loss})


def test_every_shipped_model_has_its_recipe() -> None:
    assert NAMES == ["sentiment", "topics", "topics-multilingual"]
    assert {f"{name}.yaml" for name in NAMES} <= {file.name for file in RECIPES.iterdir()}


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_model_records_its_recipe(name: str) -> None:
    folder, config = recorded(name)
    recipe = loading.load(RECIPES / f"{name}.yaml")
    task = folder.settings.task
    assert resolved(config, task).model_dump() == resolved(recipe, task).model_dump()


@pytest.mark.parametrize("name", NAMES)
def test_a_recorded_config_gives_the_classifier_json_beside_it(name: str) -> None:
    folder, config = recorded(name)
    settings = folder.settings
    assert (config.base, config.data.task, config.data.max_length) == (
        settings.base,
        settings.task,
        settings.max_length,
    )
    assert output_activation(settings.task, config.loss) == settings.activation
    assert config.out.endswith(f"/{name}") and not (config.overwrite or config.resume or config.allow_changed)
    zero_shot, section = settings.zero_shot, config.zero_shot
    if zero_shot is None:
        assert section == type(section)() and folder.labels.nli is None
        return
    assert zero_shot.hypothesis_template == section.hypothesis_template
    assert zero_shot.attention == {"alternate": "shared_text", "ordinary": "ordinary"}[section.attention]
    assert (zero_shot.scorer, zero_shot.label_embedding) == (section.scorer, section.label_embedding)
    assert (zero_shot.fusion != model_folder.ScoreFusion()) == bool(section.fit_on)
    assert config.data.label_names is not None and set(config.data.label_names) == set(folder.labels.names)


@pytest.mark.parametrize("name", NAMES)
def test_the_license_of_a_recorded_config_is_the_one_on_the_card(name: str) -> None:
    folder, config = recorded(name)
    card = (folder.path / "README.md").read_text(encoding="utf-8")
    assert config.license is not None and f"\nlicense: {config.license}\n" in card

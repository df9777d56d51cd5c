"""Settings of rehead 0.1.0: an old name is answered with the new one, and a recorded config is upgraded."""

from pathlib import Path

import pytest

from finetune.config import loading
from finetune.config.renamed import upgraded
from finetune.core.errors import ConfigError

pytestmark = pytest.mark.fast

ROOT = Path(loading.__file__).parents[2]
OLD_CONFIG = """
base: topics
out: models/old
allow_changed: [epochs, remedy]
class_weights: {average: 2.0, keep_out: 1.0}
data:
  train:
  - {path: reviews.csv, keep_out: 100}
  test:
    average: {path: other.csv, keep_out: 0}
  share_columns: []
model:
  initialiser: {name: glorot_uniform}
optim:
  average: 0.99
gradients:
  remedy: auto
zero_shot:
  fit_on:
  - {path: topics.csv, keep_out: 5}
"""


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("model.initialiser", "it is called 'model.initializer' now"),
        ("optim.average", "it is called 'optim.ema_decay' now"),
        ("gradients.remedy", "it is called 'gradients.auto_recover' now"),
        ("data.share_columns", "it is called 'data.soft_label_columns' now"),
        ("data.train.0.keep_out", "it is called 'data.train.0.holdout' now"),
        ("data.test.mine.keep_out", "it is called 'data.test.mine.holdout' now"),
    ],
)
def test_a_key_of_0_1_0_is_answered_with_its_new_name(key: str, sentence: str) -> None:
    assert loading.suggestion(key.split(".")) == sentence


def test_the_new_name_is_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text(OLD_CONFIG)
    with pytest.raises(ConfigError, match=r"old\.yaml: unknown setting '.*': it is called '.*' now"):
        loading.load(tmp_path / "old.yaml")


def test_a_recorded_config_of_0_1_0_is_upgraded_and_names_of_the_user_stay(tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text(OLD_CONFIG)
    config = loading.build(upgraded(loading.read_yaml(tmp_path / "old.yaml")))
    assert config.model.initializer is not None and config.model.initializer.name == "glorot_uniform"
    assert (config.optim.ema_decay, config.gradients.auto_recover) == (0.99, True)
    assert (config.data.train[0].holdout, config.zero_shot.fit_on[0].holdout) == (100, 5)
    assert config.allow_changed == ("epochs", "recovery")
    assert list(config.data.test) == ["average"]
    assert config.class_weights == {"average": 2.0, "keep_out": 1.0}


def test_an_upgrade_leaves_a_config_of_today_alone() -> None:
    content = loading.load(ROOT / "models/topics/train_config.yaml").model_dump(mode="json")
    assert upgraded(content) == content
    assert upgraded({"gradients": {"remedy": "none"}}) == {"gradients": {"auto_recover": False}}
    assert upgraded({"data": {"train": {"path": "t.csv", "keep_out": 3}}}) == {
        "data": {"train": {"path": "t.csv", "holdout": 3}}
    }

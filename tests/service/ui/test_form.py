"""Settings as components: every setting that the page shows, from the config's own fields and back."""

from __future__ import annotations

import shlex

import pytest
import yaml

from finetune import cli
from finetune.config import loading
from finetune.config.training import TrainConfig
from finetune.core.errors import ConfigError
from service.ui import form, recipes
from service.ui.tabs.train import SETTINGS

pytestmark = pytest.mark.fast

GIVEN = {
    "data.task": "multi_label",
    "loss": "focal",
    "class_weights": "balanced",
    "optim.epochs": 2.5,
    "optim.batch_size": "16",
    "optim.lr": "3e-5",
    "model.head": "mlp",
    "model.pooling": "mean",
    "model.initializer": "xavier_uniform",
    "model.freeze": "2",
    "model.dropout": "0.2",
    "optim.optimizer": "sgd",
    "optim.schedule": "cosine",
    "optim.warmup": 0.2,
    "optim.sampler": "balanced",
    "optim.early_stopping": "3",
    "checkpoint.best_by": "loss",
    "optim.head_lr": "1e-3",
    "optim.layer_decay": 0.9,
    "optim.ema_decay": "0.99",
    "data.max_length": "64",
    "data.validation_size": 0.2,
    "data.encoding": "cp1251",
    "data.separator": ";",
    "data.weight": "certainty",
    "gradients.auto_recover": True,
    "precision": "float32",
    "seed": 7.0,
    "data.label_columns": "toxic, rude",
    "data.label_names": "unkind, coarse",
}

ONLY_NAMES = {"data.weight", "checkpoint.best_by", *form.TABLES, "data.label_columns", "data.label_names"}
"""Settings whose words are names and nothing else: of a table's entries, of columns, of labels."""


def config_of(settings):
    return loading.build(loading.laid({}, {"base": "b", "out": "o", **settings}))


def test_every_setting_has_a_component_that_begins_at_its_default():
    values = {path: form.component(path, "train").value for path in SETTINGS}
    assert form.settings(values) == {}
    for path in SETTINGS:
        component = form.component(path, "train")
        assert component.label and component.info and component.elem_id == f"train-{path.replace('.', '-')}"


def test_what_is_filled_in_becomes_that_setting():
    assert set(GIVEN) == set(SETTINGS)
    config = config_of(form.settings(GIVEN))
    for path, given in GIVEN.items():
        found = config
        for part in path.split("."):
            found = getattr(found, part)
        found = getattr(found, "name", found)
        found = ", ".join(found) if isinstance(found, tuple) else found
        assert found == (given if isinstance(found, str) else float(given)), path


@pytest.mark.parametrize("words", ["full", "auto", "16"])
def test_a_batch_size_is_a_number_or_a_word(words):
    assert config_of(form.settings({"optim.batch_size": words})).optim.batch_size == form.number_or_word(words)


def test_the_same_run_as_command_yaml_and_python_is_the_same_run():
    settings = {
        "base": "topics",
        "data.text": "the review",
        **form.settings(GIVEN),
        "loss.gamma": 3,
        "out": "models/a b",
    }
    wanted = config_of({**settings, "data.train": "my table.csv"})
    words = shlex.split(recipes.command("my table.csv", settings).replace("\\\n", " "))
    assert words[:2] == ["rehead", "finetune"]
    given = cli.finetune.make_context("finetune", words[2:]).params
    named = {cli.SETTINGS[key]: value for key, value in given.items() if key in cli.SETTINGS}
    assert loading.load(None, given["overrides"], **named) == wanted
    assert loading.build(yaml.safe_load(recipes.as_yaml("my table.csv", settings))) == wanted
    program = recipes.as_python("my table.csv", settings)
    expression = program[program.index("TrainConfig(\n") : program.index("))\n") + 1]
    assert eval(expression, {"TrainConfig": TrainConfig}) == wanted


def test_a_form_cannot_set_what_is_not_on_it():
    with pytest.raises(KeyError):
        form.settings({"optim.no_such": 1})
    for hostile in ({"name": "focal", "path": "/etc/passwd"}, ["/etc/passwd"], "../../etc"):
        for path in SETTINGS:
            try:
                config = config_of(form.settings({path: hostile}))
            except ConfigError:
                continue
            # a word where a name is wanted is only a name, which no table of choices or of texts has
            told = config.model_dump(exclude={"base", "out"})
            assert path in ONLY_NAMES or told == config_of({}).model_dump(exclude={"base", "out"}), path

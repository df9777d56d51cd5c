"""A private method of transformers that is gone is an error, and never an override that nothing calls."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import Trainer

from finetune.training.private_methods import MARK, check_private_methods
from finetune.training.trainer import PRIVATE_CALLS, HeadTrainer

OVERRIDDEN = sorted(name for name in vars(HeadTrainer) if name.startswith("_") and name in vars(Trainer))


class NewerTrainer:
    """The private methods of the installed Trainer."""


for name in (*OVERRIDDEN, *PRIVATE_CALLS):
    setattr(NewerTrainer, name, getattr(Trainer, name))


def built_on(base: type) -> Any:
    """HeadTrainer's own methods over another base class."""
    methods = {name: member for name, member in vars(HeadTrainer).items() if name not in ("__dict__", "__weakref__")}
    return check_private_methods(calls=PRIVATE_CALLS)(type("HeadTrainer", (base,), methods))


def test_every_private_method_that_is_overridden_is_marked() -> None:
    own = [name for name in OVERRIDDEN if not name.startswith("__")]
    assert "_get_grad_norm" in own and all(hasattr(vars(HeadTrainer)[name], MARK) for name in own)


@pytest.mark.parametrize("renamed", ["_get_grad_norm", "_save_checkpoint", "_determine_best_metric"])
def test_a_method_that_a_newer_release_has_renamed_is_an_error(monkeypatch: pytest.MonkeyPatch, renamed: str) -> None:
    built_on(NewerTrainer)
    monkeypatch.delattr(NewerTrainer, renamed)
    with pytest.raises(
        ImportError, match=rf"transformers .* has no NewerTrainer.{renamed}, which HeadTrainer overrides"
    ):
        built_on(NewerTrainer)


def test_a_trainer_that_no_longer_computes_the_norm_ends_the_run(
    config: Any, reviews: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetune.core.errors import TrainingError
    from finetune.run import train

    monkeypatch.setattr(HeadTrainer, "_get_grad_norm", Trainer._get_grad_norm)  # as if nothing called the override
    with pytest.raises(TrainingError, match="does not compute the gradients' norm"):
        train(config(tfidf_baseline=False), reviews)

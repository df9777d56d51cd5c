"""docs/settings.md against the code: it is what the configuration and the tables of choices generate."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.config import choices, loading, reference
from finetune.config.training import TrainConfig

pytestmark = pytest.mark.fast

PAGE = Path(__file__).parent.parent / "docs/settings.md"


def test_the_page_is_what_the_code_generates() -> None:
    regenerate = "run: python -m finetune.config.reference > docs/settings.md"
    assert PAGE.read_text(encoding="utf-8") == reference.page(), regenerate


def test_every_setting_of_a_complete_config_is_on_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    lora = {"model": {"lora": {}}}
    content = loading.build({"base": "b", "out": "o", **lora}).model_dump(mode="json")
    for name, value in content.items():
        is_section = hasattr(TrainConfig.model_fields[name].annotation, "model_fields") and name != "loss"
        for key in [f"{name}.{inner}" for inner in value] if is_section else [name]:
            assert f"| `{key}` |" in text, key
    assert all(f"| `model.lora.{key}` |" in text for key in content["model"]["lora"])


def test_every_table_of_choices_is_on_the_page() -> None:
    assert set(reference.CHOICES) == set(choices.TABLES)

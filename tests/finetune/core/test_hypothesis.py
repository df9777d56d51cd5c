"""Hypothesis templates: one rule for the config, the rows recast for training, and requests."""

import pytest

from finetune.config import loading
from finetune.core.errors import ConfigError
from finetune.core.hypothesis import check_template, fill

pytestmark = pytest.mark.fast

VALID = ["{}", "about {}", "It is {}, 100 % (of [it])\\n"]
INVALID = ["", "about", "{} and {}", "{0}", "{label}", "{:>100000000}", "{{}}", "{{}} {}", "{} is {label}", "a { in {}"]


@pytest.mark.parametrize("template", VALID)
def test_one_blank_and_no_other_brace_is_accepted_in_every_setting(template: str) -> None:
    assert check_template(template) == template
    recast = {"path": "t.csv", "recast": {"templates": [template]}}
    config = loading.load(None, base="b", out="o", data__train=[recast], zero_shot__hypothesis_template=template)
    [source] = config.data.train
    assert source.recast is not None and source.recast.templates == (template,)
    assert config.zero_shot.hypothesis_template == template


@pytest.mark.parametrize("template", INVALID)
def test_any_other_template_is_refused_in_every_setting(template: str) -> None:
    with pytest.raises(ValueError, match=r"exactly one \{\}"):
        check_template(template)
    with pytest.raises(ConfigError, match=r"'zero_shot.hypothesis_template' is .*: it needs exactly one \{\} where"):
        loading.load(None, base="b", out="o", zero_shot__hypothesis_template=template)
    recast = {"path": "t.csv", "recast": {"templates": ["about {}", template]}}
    with pytest.raises(ConfigError, match=r"'data.train.0.recast.templates.1' is .*: it needs exactly one \{\} where"):
        loading.load(None, base="b", out="o", data__train=[recast])


def test_recast_rows_need_a_template() -> None:
    recast = {"path": "t.csv", "recast": {"templates": []}}
    with pytest.raises(ConfigError, match="'data.train.0.recast.templates' is .*at least 1 item"):
        loading.load(None, base="b", out="o", data__train=[recast])


def test_braces_in_a_label_stay_as_they_are() -> None:
    assert fill("It is {}.", "{} sports {y}") == "It is {} sports {y}."

"""The faster ways to train on a CPU compute what torch's own do."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, BertConfig, DebertaV2Config, RobertaConfig
from transformers.models.bert import modeling_bert

from finetune.modeling.cls_only_last_layer import first_token_only
from finetune.modeling.cpu_kernels import (
    FAST_EAGER,
    FastDropout,
    eager_attention_for,
    fast_dropout,
    use_fast_dropout,
)
from finetune.modeling.fast_paths import log_off, trial_logits

pytestmark = pytest.mark.fast

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50}


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fast_dropout_drops_at_its_rate_and_keeps_the_mean(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    values = torch.ones(999, 1001, dtype=dtype, requires_grad=True)
    found = fast_dropout(values, p)
    assert found.dtype == dtype and found.shape == values.shape
    assert (found == 0).float().mean().item() == pytest.approx(p, abs=0.002)
    kept = found[found != 0]
    assert kept.unique().numel() == 1 and kept[0].item() == pytest.approx(1 / (1 - p), rel=0.01)
    # neighbors are dropped independently: both of them p * p of the time
    gone = (found == 0).flatten()
    assert (gone[1:] & gone[:-1]).float().mean().item() == pytest.approx(p * p, abs=0.002)
    found.sum().backward()
    assert values.grad is not None and torch.equal(values.grad, found.detach())


def test_fast_dropout_follows_the_seed_and_is_off_in_evaluation() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Dropout(0.0), nn.Dropout(1.0))
    use_fast_dropout(model)
    assert all(type(module) is FastDropout for module in model[1:])
    values = torch.rand(64, 4)
    torch.manual_seed(3)
    first = model[1](values)
    torch.manual_seed(3)
    assert torch.equal(model[1](values), first) and not torch.equal(model[1](values), first)
    assert torch.equal(model[2](values), values) and not model[3](values).any()
    assert torch.equal(model.eval()[1](values), values)


@pytest.mark.parametrize("config", [BertConfig(**SMALL), RobertaConfig(**SMALL, pad_token_id=0)])
def test_fast_attention_gives_what_eager_gives(config: Any) -> None:
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager").eval()
    ids = torch.randint(2, 50, (3, 7))
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    four = torch.zeros(3, 1, 7, 7).masked_fill(torch.rand(3, 1, 7, 7) < 0.3, torch.finfo(torch.float32).min)
    expected = [model(input_ids=ids, attention_mask=one).logits for one in (mask, four)]
    name = eager_attention_for(model)
    assert name == FAST_EAGER
    model.set_attn_implementation(name)
    found = [model(input_ids=ids, attention_mask=one).logits for one in (mask, four)]
    for one, other in zip(found, expected, strict=True):  # two implementations: a processor may round them otherwise
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    # in training, attention weights are dropped, which changes the logits
    for where, module in model.named_modules():
        if isinstance(module, nn.Dropout) and not where.endswith("self.dropout"):
            module.p = 0.0
    model.train()
    assert not torch.equal(model(input_ids=ids, attention_mask=mask).logits, expected[0])


def test_a_family_with_an_attention_of_its_own_keeps_it() -> None:
    config = DebertaV2Config(**SMALL)
    assert eager_attention_for(AutoModelForSequenceClassification.from_config(config)) == "eager"


def test_the_fast_path_needs_no_source_text(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*args: Any) -> str:
        raise OSError("could not get source code")  # what Python raises where an installation is zipped or compiled

    monkeypatch.setattr(inspect, "getsource", absent)
    model = AutoModelForSequenceClassification.from_config(BertConfig(**SMALL))
    assert eager_attention_for(model) == FAST_EAGER
    with first_token_only(model) as is_on:
        assert is_on


def test_an_attention_that_has_changed_turns_the_fast_path_off_and_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ordinary = modeling_bert.eager_attention_forward

    def capped(module: Any, query: Any, key: Any, value: Any, *args: Any, **rest: Any) -> Any:
        states, weights = ordinary(module, query, key, value, *args, **rest)
        return 5 * torch.tanh(states), weights

    monkeypatch.setattr(modeling_bert, "eager_attention_forward", capped)
    log_off.cache_clear()
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(BertConfig(**SMALL, initializer_range=0.5))
    with caplog.at_level("INFO", "rehead"):
        assert [eager_attention_for(model) for _ in range(2)] == ["eager", "eager"]
    (record,) = caplog.records
    assert "fast attention on the CPU is off for bert: its logits differ" in record.getMessage()
    assert model.config._attn_implementation == "sdpa"


def test_a_layer_that_has_changed_turns_the_shortcut_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ordinary = modeling_bert.BertLayer.forward
    monkeypatch.setattr(
        modeling_bert.BertLayer, "forward", lambda self, *args, **rest: 2 * ordinary(self, *args, **rest)
    )
    log_off.cache_clear()
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(BertConfig(**SMALL, initializer_range=0.5))
    expected = trial_logits(model)
    with caplog.at_level("INFO", "rehead"), first_token_only(model) as is_on:
        assert not is_on and torch.equal(trial_logits(model), expected)
    assert "the last layer for the first token alone is off for bert: the logits differ" in caplog.text

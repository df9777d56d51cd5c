"""The last layer computed for the first token alone: the same logits and gradients, where the head allows it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    RobertaConfig,
    XLMRobertaConfig,
)

from finetune.modeling.classifier import TextClassifierConfig
from finetune.modeling.cls_only_last_layer import first_token_only

pytestmark = pytest.mark.fast

SMALL = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50}
DRY = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def batch() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    ids = torch.randint(2, 50, (4, 9))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    "config",
    [
        BertConfig(**SMALL, **DRY),
        RobertaConfig(**SMALL, **DRY, pad_token_id=0),
        XLMRobertaConfig(**SMALL, **DRY, pad_token_id=0),
        ElectraConfig(**SMALL, **DRY, embedding_size=16),
    ],
    ids=lambda config: str(config.model_type),
)
def test_logits_and_gradients_stay_the_same(config: Any, attention: str) -> None:
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation=attention).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    found = []
    shared = torch.ones(4, 1, 9, 9, dtype=torch.bool).tril()
    four = shared if attention == "sdpa" else torch.zeros(4, 1, 9, 9).masked_fill(~shared, -1e9)
    for wanted in (False, True):
        with first_token_only(model, wanted=wanted) as done:
            assert done == wanted and model.training
            for mask in (batch()["attention_mask"], four):
                model.zero_grad()
                logits = model(input_ids=batch()["input_ids"], attention_mask=mask).logits
                logits.square().sum().backward()
                grads = [weight.grad for weight in model.parameters()]
                found.append((logits.detach(), [grad.clone() for grad in grads if grad is not None]))
    for (logits, grads), (others, more) in zip(found[:2], found[2:], strict=True):
        torch.testing.assert_close(others, logits, rtol=1e-5, atol=1e-6)
        assert len(grads) == len(more) > 10
        for one, other in zip(grads, more, strict=True):
            torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-6)
    states = model(**batch(), output_hidden_states=True).hidden_states
    assert states[-1].shape[1] == 9  # afterwards all is as it was


@pytest.mark.parametrize("pooling", ["cls", "mean", "max", "attention", "first_last_mean"])
def test_a_head_that_reads_more_gets_more(pooling: str) -> None:
    # weights of zero give the same logits whatever the states are
    own = TextClassifierConfig(encoder=BertConfig(**SMALL).to_dict(), head={"name": "linear"}, pooling=pooling)
    model = AutoModelForSequenceClassification.from_config(own)
    for weight in model.head.parameters():
        torch.nn.init.zeros_(weight)
    with first_token_only(model) as done:
        assert done == (pooling == "cls")


def test_another_kind_of_layer_stays_as_it_is() -> None:
    small = DistilBertConfig(dim=16, n_layers=2, n_heads=2, hidden_dim=32, vocab_size=50)
    model = AutoModelForSequenceClassification.from_config(small)
    expected = model.eval()(**batch()).logits
    with first_token_only(model) as done:
        assert not done and torch.equal(model(**batch()).logits, expected)

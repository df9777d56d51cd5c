"""Long texts as rows of windows: what training reads, and what the metrics of a run are of."""

from __future__ import annotations

import json

import pytest

import rehead
from finetune.config.training import TrainConfig
from finetune.core.errors import ConfigError
from finetune.core.tokenization import TextEncoder
from finetune.core.windows import Window
from finetune.data.rows import Rows
from finetune.data.windowed import in_windows
from finetune.prepare import prepare

LONG = " ".join(["the match was good"] * 12)  # 48 tokens
WINDOW = {"tokens": 16, "overlap": 4}


@pytest.fixture(scope="module")
def encoder(tiny_sentiment):
    return TextEncoder.load(tiny_sentiment, {"max_position_embeddings": 128}, max_length=64)


def rows(texts, weights=None):
    return Rows(
        texts, None, [f"label {n}" for n in range(len(texts))], list(range(1, len(texts) + 1)), "t", None, weights
    )


@pytest.mark.fast
def test_the_windows_of_a_text_share_its_weight_and_keep_its_label(encoder):
    parts, owners = in_windows(rows(["short", LONG, "the end"]), encoder, Window(16, 4))
    windows = owners.tolist().count(1)
    assert windows >= 4 and owners.tolist() == [0, *[1] * windows, 2]
    assert parts.texts[0] == "short" and list(parts.texts)[-1] == "the end"
    assert list(parts.texts)[1] == " ".join(["the match was good"] * 4) and set(parts.values[1:-1]) == {"label 1"}
    assert parts.weights == pytest.approx([1.0, *[1 / windows] * windows, 1.0])
    assert parts.numbers == [1, *[2] * windows, 3]
    weighted, _ = in_windows(rows([LONG, "the end"], [3.0, 1.0]), encoder, Window(16, 4))
    assert sum(weighted.weights[:-1]) == pytest.approx(3.0) and weighted.weights[-1] == 1.0
    first, owners = in_windows(rows([LONG, "the end"]), encoder, Window(16, 4, "first"))
    assert owners.tolist() == [0, 1] and first.weights is None
    assert list(first.texts) == [" ".join(["the match was good"] * 4), "the end"]
    short = rows(["short", "the end"])
    assert list(in_windows(short, encoder, Window(16, 4))[0].texts) == short.texts
    with pytest.raises(ConfigError, match=r"window.tokens=63 is more than the 62 tokens .*data.max_length=64"):
        in_windows(short, encoder, Window(63, 4))


@pytest.mark.fast
def test_windows_do_not_go_with_what_is_fitted_on_truncated_texts(tiny_base, tmp_path):
    for fitted in ({"coverage": 0.9}, {"thresholds": "f1"}):
        config = {"base": str(tiny_base), "out": str(tmp_path / "out"), "window": WINDOW} | fitted
        with pytest.raises(ConfigError, match="leave out window, or the two of them"):
            prepare(TrainConfig.model_validate(config), [{"text": "a", "label": "b"}])


@pytest.mark.fast
@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"optim": {"sampler": "balanced"}}, "use class_weights=balanced"),
        ({"auxiliary": [{"name": "keep_embedding"}]}, "auxiliary terms count all rows the same: leave one out"),
        ({"few_shot": "auto"}, "few_shot trains on truncated texts: leave out window"),
        ({"data": {"text_pair": "other", "max_length": 16}}, "is more than the 1[0-9] tokens"),
    ],
)
def test_what_would_count_windows_as_texts_is_refused(tiny_base, tmp_path, more, sentence):
    config = {"base": str(tiny_base), "out": str(tmp_path / "out"), "window": WINDOW} | more
    table = [{"text": f"a {n}", "other": "b", "label": "ab"[n % 2]} for n in range(20)]
    with pytest.raises(ConfigError, match=sentence):
        prepare(TrainConfig.model_validate(config), table)


@pytest.mark.parametrize("aggregate", ["mean", "max", "first"])
def test_a_run_trains_on_windows_and_its_metrics_are_those_of_the_served_model(tiny_base, tmp_path, aggregate):
    words = {"good": "great loved", "bad": "awful hated"}
    filler = "the match was about a film " * 8
    table = [{"text": f"{filler}{words[label]} {n}", "label": label} for n in range(60) for label in words]
    held = tmp_path / "held.jsonl"
    held.write_text("".join(json.dumps(row) + "\n" for row in table[80:]))
    config = {
        "base": str(tiny_base),
        "out": str(tmp_path / "model"),
        "window": WINDOW | {"aggregate": aggregate},
        "data": {"validation": str(held), "max_length": 32},
        "optim": {"epochs": 6, "lr": 2e-3},
        "precision": "float32",
        "calibration": "temperature",
        "plots": False,
    }
    said = []
    result = rehead.train(TrainConfig.model_validate(config), table[:80], on_event=said.append)
    assert any("training texts are read as" in getattr(event, "text", "") for event in said) is (aggregate != "first")
    plain = {name: value for name, value in config.items() if name != "window"} | {"out": str(tmp_path / "plain")}
    truncated = rehead.train(TrainConfig.model_validate(plain), table[:80], progress=False)
    assert (result.updates > 2 * truncated.updates) is (aggregate != "first"), "each window is a row"
    evaluated = rehead.evaluate(str(tmp_path / "model"), str(held))
    for name in ("accuracy", "roc_auc", "log_loss"):
        assert result.metrics[name] == pytest.approx(evaluated["metrics"][name]["value"], abs=1e-6)

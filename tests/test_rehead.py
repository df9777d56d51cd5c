"""`import rehead`: the public names, what importing costs, and the example of its docstring."""

import doctest
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import rehead

NAMES = {
    *("load", "Classifier", "ZeroShotClassifier", "train", "TrainConfig", "TrainResult", "evaluate", "score_table"),
    "BatchScorer",
    *(
        "FineTunedClassifier",
        "FineTunedRegressor",
        "ZeroShotEstimator",
        "search",
        "SearchResult",
        "rank_bases",
        "BaseRanking",
    ),
    *("cross_validate", "CrossValidation", "distill", "DistillResult"),
    *("calibrate", "CalibrationResult", "make_profile", "ZeroShotProfile"),
    *(
        "ReheadError",
        "FinetuneError",
        "ConfigError",
        "DataError",
        "CheckpointError",
        "TrainingError",
        "StorageError",
        "MissingExtra",
    ),
    *("ServiceError", "BadRequest", "ModelNotFound", "BackendFailed"),
}


def test_the_public_names_are_these() -> None:
    assert set(rehead.__all__) == NAMES
    assert {*NAMES, "__version__"} == set(dir(rehead))
    for name in rehead.__all__:
        assert getattr(rehead, name).__name__ in (name, "score")
    assert rehead.__version__ == version("rehead")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'rehead' has no attribute 'finetune_it'"):
        _ = rehead.finetune_it


def test_every_error_is_a_rehead_error(tiny_sentiment: Path) -> None:
    errors = [getattr(rehead, name) for name in rehead.__all__ if name.endswith("Error")]
    assert all(issubclass(error, rehead.ReheadError) for error in [*errors, rehead.BadRequest, rehead.MissingExtra])
    with pytest.raises(rehead.ReheadError, match="no model 'nowhere'"):
        rehead.load("nowhere")


def test_importing_it_imports_nothing_heavy() -> None:
    code = "import sys, rehead; print(sorted({'torch', 'transformers', 'numpy', 'pydantic'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_example_of_its_docstring_runs() -> None:
    assert doctest.testmod(rehead, raise_on_error=True).attempted == 5


def test_evaluate_returns_the_shape_of_metrics_json(tiny_sentiment: Path) -> None:
    rows = [{"text": f"film {n}", "label": ("negative", "positive")[n % 2], "lang": "ab"[n % 2]} for n in range(20)]
    found = rehead.evaluate(tiny_sentiment, rows, by="lang")
    assert found["rows"] == 20 and found["split"] == "data"
    assert 0 <= found["metrics"]["accuracy"]["low"] <= found["metrics"]["accuracy"]["value"] <= 1
    assert set(found["by"]) == {"a", "b"}
    with pytest.raises(rehead.DataError, match="label"):
        rehead.evaluate(tiny_sentiment, [row | {"label": "neutral"} for row in rows])

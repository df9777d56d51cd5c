"""The setup of all tests: no network beyond loopback, and tiny real checkpoints that tests share."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before any import of huggingface_hub, which reads it once
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
# threads make tiny models slower, ten times as slow on busy cores
os.environ.setdefault("OMP_NUM_THREADS", "1")
# exact, and without a conversion; tests of other runtimes select them
os.environ["REHEAD_BACKEND"] = "torch"
os.environ["REHEAD_PRECISION"] = "float32"

import gc
import shutil
import signal
import sys
from pathlib import Path

import pytest

# a background job ignores SIGINT, and so would the processes that tests start and stop with SIGINT
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):  # nohup ignores it, and so would the servers that tests stop with it
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

SUPPORT = Path(__file__).parent / "support"
sys.path.insert(0, str(SUPPORT))
# Python imports sitecustomize at startup: processes that tests start are restricted to loopback too
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(SUPPORT), os.environ.get("PYTHONPATH")]))

import loopback_only  # noqa: E402 (needs the path above)
from checkpoints import save_base, save_classifier  # noqa: E402

loopback_only.install()
frozen = {"modules": 0}


@pytest.fixture(autouse=True)
def python_sigint() -> None:
    """Restore Python's handler of SIGINT, which raises KeyboardInterrupt.

    A library in an earlier test may have left the system's handler, which would end the whole test process.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup() -> None:
    """Leave what imports have made out of garbage collection: accelerate collects at each start of a training."""
    if len(sys.modules) > frozen["modules"] + 100:
        gc.collect()
        gc.freeze()
        frozen["modules"] = len(sys.modules)


@pytest.fixture(autouse=True)
def few_resamples(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute intervals from few resamples: many cost two seconds a run, and only test_metrics checks their width."""
    if request.path.stem != "test_metrics":
        monkeypatch.setattr("finetune.evaluation.intervals.RESAMPLES", 20)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a headless BERT, as a base for fine-tuning."""
    return save_base(tmp_path_factory.mktemp("base") / "tiny_base")


@pytest.fixture(scope="session")
def tiny_sentiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a classifier with the labels negative and positive."""
    return save_classifier(tmp_path_factory.mktemp("sentiment") / "sentiment", ["negative", "positive"])


@pytest.fixture(scope="session")
def tiny_nli(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an NLI model without classifier.json; contradiction is neither first nor last."""
    return save_classifier(tmp_path_factory.mktemp("nli") / "nli", ["entailment", "contradiction", "neutral"], seed=1)


@pytest.fixture(scope="session")
def tiny_topics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an NLI model with the settings of models/topics: shared-text attention, scorer `both`."""
    settings = {
        "task": "multiclass",
        "activation": "softmax",
        "hypothesis_template": "This text is about {}.",
        "attention": "shared_text",
        "scorer": "both",
        "mix": {"cosine_weight": 5.0, "nli": 0.5, "cosine": 2.0, "bias": -1.0},
    }
    folder = tmp_path_factory.mktemp("topics") / "topics"
    return save_classifier(folder, ["entailment", "neutral", "contradiction"], seed=2, settings=settings)


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory, tiny_sentiment: Path, tiny_topics: Path) -> Path:
    """Return a folder with the models `sentiment` and `topics`."""
    folder = tmp_path_factory.mktemp("served")
    shutil.copytree(tiny_sentiment, folder / "sentiment")
    shutil.copytree(tiny_topics, folder / "topics")
    return folder

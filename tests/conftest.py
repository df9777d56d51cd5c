"""What every test stands on: no network, and tiny real checkpoints made on the spot.

Knows: which checkpoints tests share, and how to keep a test process on loopback.
Does not know: any single test.
"""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before any import of huggingface_hub, which reads it once
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
# threads cost tiny models more than they give, and ten times as much where other work is on the cores
os.environ.setdefault("OMP_NUM_THREADS", "1")
# exact, and nothing to prepare; the tests of other runtimes name them
os.environ["REHEAD_BACKEND"] = "torch"
os.environ["REHEAD_PRECISION"] = "float32"

import shutil
import signal
import sys
from pathlib import Path

import pytest

# a job in the background ignores Ctrl-C, and so would the processes that tests start and stop with it
signal.signal(signal.SIGINT, signal.default_int_handler)

SUPPORT = Path(__file__).parent / "support"
sys.path.insert(0, str(SUPPORT))
# Python imports sitecustomize as it starts: the processes that tests start are under the same guard
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(SUPPORT), os.environ.get("PYTHONPATH")]))

import loopback_only  # noqa: E402 (found only now)
from checkpoints import save_base, save_classifier  # noqa: E402

loopback_only.install()


@pytest.fixture(autouse=True)
def python_sigint() -> None:
    """Ctrl-C raises KeyboardInterrupt in every test: a library that an earlier test ran may have left the system's own
    handler, which would end the whole test process."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def few_resamples(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals from few resamples: they cost two seconds a run, and only the tests of metrics look at how wide they
    are."""
    if request.path.stem != "test_metrics":
        monkeypatch.setattr("finetune.evaluation.intervals.RESAMPLES", 20)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A headless BERT, as a base for fine-tuning."""
    return save_base(tmp_path_factory.mktemp("base") / "tiny_base")


@pytest.fixture(scope="session")
def tiny_sentiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier with labels negative and positive."""
    return save_classifier(tmp_path_factory.mktemp("sentiment") / "sentiment", ["negative", "positive"])


@pytest.fixture(scope="session")
def tiny_nli(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An NLI model without classifier.json; contradiction is neither first nor last."""
    return save_classifier(tmp_path_factory.mktemp("nli") / "nli", ["entailment", "contradiction", "neutral"], seed=1)


@pytest.fixture(scope="session")
def tiny_topics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An NLI model as it ships: shared-text attention, scorer `both`."""
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
    """A models folder that serves `sentiment` and `topics`."""
    folder = tmp_path_factory.mktemp("served")
    shutil.copytree(tiny_sentiment, folder / "sentiment")
    shutil.copytree(tiny_topics, folder / "topics")
    return folder

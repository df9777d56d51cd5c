"""What every test stands on: no network, and tiny real checkpoints made on the spot.

Knows: how to build a small BERT offline, and how to keep a test process on loopback.
Does not know: any single test.
"""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before any import of huggingface_hub, which reads it once
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import json
import shutil
import socket
import string
from pathlib import Path
from typing import Any

import pytest

LOOPBACK = ("127.", "::1", "localhost", "0.0.0.0")


def guard_sockets() -> None:
    """Make every attempt to reach beyond loopback fail in this process."""
    connect, resolve = socket.socket.connect, socket.getaddrinfo

    def checked_connect(self: socket.socket, address: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not str(address[0]).startswith(LOOPBACK):
            raise OSError(f"a test tried to reach {address}: only loopback is allowed")
        return connect(self, address)

    def checked_resolve(host: Any, *args: Any, **kwargs: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name and not str(name).startswith(LOOPBACK):
            raise OSError(f"a test tried to look up {name!r}: only loopback is allowed")
        return resolve(host, *args, **kwargs)

    socket.socket.connect = checked_connect  # type: ignore[method-assign]
    socket.getaddrinfo = checked_resolve


guard_sockets()


def pytest_configure() -> None:
    """Guard the processes that tests start as well."""
    here = str(Path(__file__).parent / "loopback_only")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))


WORDS = (
    "the a an this that is was were and or not about text it i you we film movie good bad great awful loved hated "
    "sports business science football match market goal player bank money space planet entails . , ! ? ' -"
).split()


def save_tokenizer(folder: Path, *, max_length: int = 128) -> int:
    """Write a WordPiece tokenizer that can spell any ASCII text; returns the size of its vocabulary."""
    from transformers import BertTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    letters = list(string.ascii_lowercase + string.digits + string.punctuation)
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *letters]
    pieces += [f"##{letter}" for letter in string.ascii_lowercase + string.digits]
    pieces = list(dict.fromkeys(pieces))
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    tokenizer = BertTokenizerFast.from_pretrained(str(folder), model_max_length=max_length)
    tokenizer.save_pretrained(str(folder))
    return len(tokenizer)


def tiny_config(vocabulary: int, **more: Any) -> Any:
    """A BERT of two layers, 32 wide."""
    from transformers import BertConfig

    return BertConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        **more,
    )


def save_classifier(
    folder: Path, labels: list[str], *, seed: int = 0, settings: dict[str, Any] | None = None, **more: Any
) -> Path:
    """Write a random classifier with large enough weights that its scores differ visibly from text to text."""
    import torch
    from transformers import BertForSequenceClassification

    vocabulary = save_tokenizer(folder)
    names = dict(enumerate(labels))
    torch.manual_seed(seed)
    config = tiny_config(vocabulary, id2label=names, label2id={name: index for index, name in names.items()}, **more)
    model = BertForSequenceClassification(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                weight.mul_(40.0 if "classifier" in name else 6.0)
    model.save_pretrained(str(folder))
    if settings is not None:
        (folder / "classifier.json").write_text(json.dumps({"format": 1, **settings}), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A headless BERT, as a base for fine-tuning."""
    import torch
    from transformers import BertModel

    folder = tmp_path_factory.mktemp("base") / "tiny_base"
    vocabulary = save_tokenizer(folder)
    torch.manual_seed(0)
    BertModel(tiny_config(vocabulary)).save_pretrained(str(folder))
    return folder


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

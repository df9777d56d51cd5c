"""The models that ship: complete, documented, and right on simple sentences."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from finetune import recipes
from finetune.core import model_folder
from service import Classifier, ZeroShotClassifier, load

ROOT = Path(__file__).parents[2]

STOCK = """
import json, sys
from transformers import pipeline
classify = pipeline(sys.argv[1], sys.argv[2], dtype="float32")
print(json.dumps(classify(*json.loads(sys.argv[3]), **json.loads(sys.argv[4]))))
"""


@pytest.fixture(scope="module")
def sentiment() -> Classifier:
    model = load("sentiment", models_dir=None)
    assert isinstance(model, Classifier)
    return model


@pytest.fixture(scope="module")
def topics() -> ZeroShotClassifier:
    return ZeroShotClassifier(models_dir=None)


def stock(task: str, name: str, *arguments: Any, **options: Any) -> Any:
    """Return the answer of transformers, without rehead, on a shipped folder."""
    folder = model_folder.shipped_dir() / name
    command = [sys.executable, "-c", STOCK, task, str(folder), json.dumps(arguments), json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", ["sentiment", "topics"])
def test_the_folder_is_complete_and_documents_its_origin(name: str) -> None:
    folder = model_folder.read(model_folder.shipped_dir() / name, check_hashes=True)
    # sentiment was trained further from the weights of that release
    assert folder.settings.base == {"sentiment": "sentiment-0.1.0"}.get(name, "sentence-transformers/all-MiniLM-L6-v2")
    assert folder.size_bytes < 50e6
    card = (folder.path / "README.md").read_text(encoding="utf-8")
    assert "license: apache-2.0" in card and "base_model: sentence-transformers/all-MiniLM-L6-v2" in card
    assert (folder.path / "train_config.yaml").is_file()


def test_the_multilingual_model_is_small_and_names_its_languages() -> None:
    folder = model_folder.read(model_folder.shipped_dir() / "topics-multilingual", check_hashes=True)
    assert sum(file.stat().st_size for file in folder.path.rglob("*") if file.is_file()) < 75e6
    assert len(folder.settings.languages) == 30
    card = (folder.path / "README.md").read_text(encoding="utf-8")
    assert "license: mit" in card and "base_model: intfloat/multilingual-e5-small" in card


@pytest.mark.parametrize("name", ["sentiment", "topics", "topics-multilingual"])
def test_what_the_card_says_to_run_names_the_model_and_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    card = (model_folder.shipped_dir() / name / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", card.partition("## Use\n")[2], re.DOTALL)
    assert blocks and all(f'{name}"' in block for block in blocks)
    for block in blocks:
        exec(block, {})


@pytest.mark.parametrize(
    ("text", "topic"),
    [
        ("The midfielder scored twice in the final.", "sports"),
        ("Das Parlament hat das neue Haushaltsgesetz verabschiedet.", "politics"),
        ("El hospital abrió una nueva unidad para pacientes con cáncer.", "health"),
        ("Timu ilishinda mechi ya fainali kwa penalti.", "sports"),
        ("Президент подписал указ о новых выборах в парламент.", "politics"),
        ("医生建议患者每天服药并多休息。", "health"),
        ("Η ομάδα κέρδισε το πρωτάθλημα ποδοσφαίρου.", "sports"),
        ("ทีมฟุตบอลชนะการแข่งขันนัดชิงชนะเลิศ", "sports"),
    ],
)
def test_the_multilingual_model_reads_other_languages(text: str, topic: str) -> None:
    model = ZeroShotClassifier("topics-multilingual", models_dir=None)
    assert model(text, ["sports", "politics", "health"])["labels"][0] == topic


def test_its_scores_on_both_paths_are_the_same() -> None:
    model = ZeroShotClassifier("topics-multilingual", models_dir=None)
    texts, labels = (
        ["Das Spiel endete mit einem Elfmeter.", "Le ministre a démissionné."],
        ["sports", "politics", "food"],
    )
    fast = model(texts, labels)
    assert model.engine.backend.one_pass
    model.engine.backend.one_pass = False
    try:
        slow = model(texts, labels)
    finally:
        model.engine.backend.one_pass = True
    for one, other in zip(fast, slow, strict=True):
        expected = dict(zip(other["labels"], other["scores"], strict=True))
        found = dict(zip(one["labels"], one["scores"], strict=True))
        assert found == pytest.approx(expected, abs=1e-5)


def test_the_held_out_rows_of_sentiment_are_listed(sentiment: Classifier) -> None:
    numbers = json.loads((Path(recipes.__file__).parent / "sentiment_imdb_rows.json").read_text(encoding="utf-8"))
    assert len(numbers["validation"]) == 500 and len({*numbers["validation"], *numbers["test"]}) == 2000
    assert (sentiment.folder.metrics or {})["tests"]["imdb_test"]["rows"] == len(numbers["test"]) == 1500


def test_simple_sentences_get_the_right_answer(sentiment: Classifier, topics: ZeroShotClassifier) -> None:
    answers = sentiment(["I loved every minute.", "A waste of an evening.", "A waste of an evening."])
    assert [answer["label"] for answer in answers] == ["positive", "negative", "negative"]
    answer = topics("The match went to extra time before the visitors scored.", ["business", "sports", "science"])
    assert answer["labels"][0] == "sports"


@pytest.mark.slow
def test_transformers_alone_gives_the_same_sentiment(sentiment: Classifier) -> None:
    texts = ["I loved every minute.", "[SEP] is not a word, and neither is this."]
    temperature = json.loads((sentiment.folder.path / "classifier.json").read_text(encoding="utf-8"))["temperature"]
    for ours, theirs in zip(sentiment(texts), stock("text-classification", "sentiment", texts), strict=True):
        assert ours["label"] == theirs["label"]
        log_odds = math.log(theirs["score"] / (1 - theirs["score"]))  # transformers applies no temperature
        assert ours["score"] == pytest.approx(1 / (1 + math.exp(-log_odds / temperature)), abs=1e-5)


@pytest.mark.slow
def test_transformers_alone_gives_the_same_topics_under_the_ordinary_mask(topics: ZeroShotClassifier) -> None:
    text, labels, template = "The bank raised its rates.", ["finance", "sports", "cooking"], "about {}"
    ours = topics(text, labels, scorer="nli", attention="ordinary")
    theirs = stock("zero-shot-classification", "topics", text, labels, hypothesis_template=template)
    assert ours["labels"] == theirs["labels"]
    assert ours["scores"] == pytest.approx(theirs["scores"], abs=1e-5)


def test_the_python_example_of_the_readme_prints_what_it_shows(capsys: pytest.CaptureFixture[str]) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    [block] = [code for code in re.findall(r"```python\n(.*?)```", readme, re.S) if "load(" in code]
    names: dict[str, Any] = {}
    setup, *calls = (part for part in block.split("\n\n") if part.strip())
    exec(setup, names)
    for call in calls:
        shown = call.split("\n# ")[1]
        answer = eval(call.split("\n#")[0], names)
        assert re.fullmatch(re.escape(shown.strip()).replace(r"\.\.\.", ".+"), str(answer)), (shown, answer)

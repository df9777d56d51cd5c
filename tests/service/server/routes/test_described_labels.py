"""Described labels and trees over HTTP, on the command line and in Python: the same scores, and names in answers."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

import rehead
from service.commands.zero_shot import command
from service.errors import BadRequest

pytestmark = pytest.mark.fast

TEXT = "the match went to extra time"
DESCRIBED = {
    "sport": {"description": "the match", "phrasings": ["extra time"], "examples": ["time went on"]},
    "money": {"stocks": "shares", "card_fees": None},
}
YAML = """
sport:
  description: the match
  phrasings: [extra time]
  examples: [time went on]
money:
  stocks: shares
  card_fees:
"""
OBJECTS = [
    {"name": "sport", "description": "the match", "phrasings": ["extra time"], "examples": ["time went on"]},
    {"name": "money", "children": [{"name": "stocks", "description": "shares"}, "card_fees"]},
]
NAMES = {"sport", "money > stocks", "money > card_fees"}


def test_http_the_command_line_and_python_give_the_same_scores(served, tiny_models, tmp_path):
    classifier = rehead.load(tiny_models / "topics")
    expected = classifier(TEXT, DESCRIBED)
    assert set(expected["labels"]) == NAMES and sum(expected["scores"]) == pytest.approx(1)
    in_python = dict(zip(expected["labels"], expected["scores"], strict=True))

    body = {"inputs": TEXT, "parameters": {"candidate_labels": OBJECTS}}
    response = served().post("/models/topics", json=body)
    assert response.status_code == 200, response.text
    assert {row["label"]: row["score"] for row in response.json()} == pytest.approx(in_python)

    (file := tmp_path / "labels.yaml").write_text(YAML)
    arguments = [TEXT, "--labels", f"@{file}", "--json", "--model", str(tiny_models / "topics")]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    (record,) = json.loads(result.stdout)
    assert {row["label"]: row["score"] for row in record["predictions"]} == pytest.approx(in_python)

    (table := tmp_path / "table.csv").write_text(f"text\n{TEXT}\n")
    rehead.score_table(classifier, table, tmp_path / "out.csv", labels=DESCRIBED, all_scores=True)
    header, row = (tmp_path / "out.csv").read_text().splitlines()
    cells = dict(zip(header.split(","), row.split(","), strict=True))
    assert {name: float(cells[f"score_{name}"]) for name in NAMES} == pytest.approx(in_python)
    assert classifier.predict_proba([TEXT], DESCRIBED)[0] == pytest.approx(
        [in_python[name] for name in ("sport", "money > stocks", "money > card_fees")]
    )
    estimator = rehead.ZeroShotEstimator(str(tiny_models / "topics"), labels=DESCRIBED).fit()
    assert dict(zip(estimator.classes_, estimator.predict_proba([TEXT])[0], strict=True)) == pytest.approx(in_python)


def test_identifiers_and_beams_are_options_of_each_interface(served, tiny_models):
    classifier = rehead.load(tiny_models / "topics")
    labels = ["card_fees", "the match"]
    spelled, kept = classifier(TEXT, labels), classifier(TEXT, labels, keep_identifiers=True)
    assert sorted(spelled["scores"]) != sorted(kept["scores"])
    client, parameters = served(), {"candidate_labels": labels, "keep_identifiers": True}
    response = client.post("/models/topics", json={"inputs": TEXT, "parameters": parameters})
    assert {row["label"]: row["score"] for row in response.json()} == pytest.approx(
        dict(zip(kept["labels"], kept["scores"], strict=True))
    )
    tree = ["a > b", "a > c", "d > e", "d > f"]
    arguments = [TEXT, "--labels", ",".join(tree), "--json", "--model", str(tiny_models / "topics")]
    result = CliRunner().invoke(command, [*arguments, "--beam", "1"])
    assert sum(row["score"] == 0 for row in json.loads(result.stdout)[0]["predictions"]) == 2
    response = client.post("/models/topics", json={"inputs": TEXT, "parameters": {"candidate_labels": tree, "beam": 1}})
    assert sum(row["score"] == 0 for row in response.json()) == 2
    with pytest.raises(BadRequest, match="beam must be"):
        classifier(TEXT, tree, beam=-1)


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ([{"name": "a", "color": "red"}, "b"], "unknown key 'color' in the label 'a'"),
        ([{"description": "a"}, "b"], "label 1 has no name"),
        (["a", "a > b"], "'a' has labels below it"),
        ([{"name": "a", "examples": ["x"] * 20, "phrasings": ["x"] * 20}, "b"], "a request may hold 30"),
        ([{"name": "a", "description": "x" * 600}, "b"], "a label has 600 characters, and a label may have 500"),
        ([{"name": name, "children": [*"abcdefghijkl"]} for name in "xyz"], "a request may hold 30"),
    ],
)
def test_labels_beyond_the_limits_of_a_request_are_refused(served, labels, sentence):
    client = served(max_labels=30, max_characters=500)
    response = client.post("/models/topics", json={"inputs": TEXT, "parameters": {"candidate_labels": labels}})
    assert response.status_code in (400, 413, 422) and sentence in response.json()["error"]


def test_system_one_options_may_be_described_and_are_no_tree(served):
    criteria = {"sport": {"description": "the match", "phrasings": ["extra time"]}, "a > b": None, "a": None}
    question = {"type": "choice", "criteria": criteria}
    body = {"model": "topics", "state": TEXT, "questions": {"q": question}}
    response = served().post("/v1/systemone", json=body)
    assert response.status_code == 200, response.text
    probabilities = response.json()["answers"]["q"]["probabilities"]
    assert list(probabilities) == ["sport", "a > b", "a"] and sum(probabilities.values()) == pytest.approx(1)


def test_chips_of_the_page_may_be_described():
    from service.server.limits import RequestLimits
    from service.settings import ServeSettings
    from service.ui import label_chips

    request = label_chips.question(RequestLimits(ServeSettings()), ["billing: invoices", "11:30", "a > b"], False)
    assert request.labels == ("billing", "11:30", "a > b") and dict(request.texts)["billing"].description == "invoices"

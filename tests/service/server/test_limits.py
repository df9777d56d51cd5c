"""Size limits of a request, each one below, at, and one above."""

from __future__ import annotations

import json

import pytest

ASK = {"inputs": "I loved it."}


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_json_routes_insist_on_json(served, kind):
    client = served()
    headers = {"Content-Type": kind} if kind else {}
    for path in ("/models/sentiment", "/", "/predict", "/v1/classify", "/v1/systemone"):
        answer = client.post(path, content=json.dumps(ASK).encode(), headers=headers)
        assert answer.status_code == 415, path


def asked(client, **body):
    return client.post("/models/sentiment", json=body).status_code


def test_the_bytes_of_a_body(served):
    client = served(max_body_bytes=2000)
    for size, status in ((1999, 200), (2000, 200), (2001, 413)):
        content = json.dumps(ASK).encode().ljust(size)
        found = [client.post(path, content=content, headers={"Content-Type": "application/json"})
                 for path in ("/models/sentiment", "/predict")]  # fmt: skip
        assert [one.status_code for one in found] == [status] * 2


def test_the_texts_of_a_request(served):
    client = served(max_texts=3)
    assert [asked(client, inputs=["a"] * count) for count in (2, 3, 4)] == [200, 200, 413]
    assert [client.post("/predict", json={"inputs": [["a"]] * n}).status_code for n in (2, 3, 4)] == [200, 200, 422]


def test_the_characters_of_a_text_before_it_is_tokenized(served, monkeypatch):
    client = served(max_characters=50)
    assert [asked(client, inputs="a" * count) for count in (49, 50, 51)] == [200, 200, 413]
    assert asked(client, inputs={"text": "a", "text_pair": "b" * 51}) == 413
    monkeypatch.setattr("finetune.core.tokenization.TextEncoder.__call__", None)
    assert asked(client, inputs="a" * 51) == 413


def test_the_labels_of_a_request(served):
    client = served(max_labels=3)

    def status(count):
        parameters = {"candidate_labels": [f"label {n}" for n in range(count)]}
        return client.post("/models/topics", json={"inputs": "a", "parameters": parameters}).status_code

    assert [status(count) for count in (2, 3, 4)] == [200, 200, 413]


def test_the_tokens_of_a_request_as_the_engine_counts_them(served):
    text = "a film a film"  # [CLS] a film a film [SEP]
    statuses = [asked(served(max_tokens=limit), inputs=[text, f"{text} a"]) for limit in (14, 13, 12)]
    assert statuses == [200, 200, 413]
    body = {"inputs": "a film", "parameters": {"candidate_labels": ["a", "b"], "scorer": "nli"}}
    client = served()
    assert client.post("/models/topics", json=body).status_code == 200
    tokens = json.loads(client.lines[-1])["tokens"]
    found = [served(max_tokens=tokens + more).post("/models/topics", json=body).status_code for more in (1, 0, -1)]
    assert found == [200, 200, 413]


def test_labels_are_counted_in_all_questions_of_a_request(served):
    client = served(max_labels=4)
    sets = {"inputs": ["a", "b"], "parameters": {"candidate_labels": [["x", "y"], ["x", "y", "z"]]}}
    assert client.post("/models/topics", json=sets).status_code == 413
    choice = {"type": "choice", "criteria": {"x": None, "y": None, "z": None}}
    body = {"model": "topics", "state": "a", "questions": {"one": choice, "two": choice}}
    assert client.post("/v1/systemone", json=body).status_code == 413


def test_a_long_list_is_refused_before_its_elements_are_looked_at(served):
    client = served()
    for path, body in {
        "/v1/classify": {"input": [0] * 500_000},
        "/models/topics": {"inputs": "a", "parameters": {"candidate_labels": [[0]] * 300_000}},
        "/models/sentiment": {"inputs": "a", **{f"x{n}": 0 for n in range(100_000)}},
        "/v1/systemone": {"model": "topics", "state": "a", "questions": {f"q{n}": 0 for n in range(100_000)}},
        "/predict": {"inputs": [["a"]] * 200_000},
    }.items():
        answer = client.post(path, json=body)
        assert answer.status_code in (413, 422) and "the request body holds a" in answer.text, path
    many = {"inputs": "a", "parameters": {"candidate_labels": ",".join(f"a{n}" for n in range(250_000))}}
    answer = client.post("/models/topics", json=many)
    assert answer.status_code == 413 and "there are 250000 candidate_labels" in answer.json()["error"]

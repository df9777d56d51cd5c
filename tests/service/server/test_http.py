"""The Hugging Face inference API and the probes, request by request."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading

import pytest
import uvicorn

from service import Classifier, ZeroShotClassifier
from service.app import create_app, serve
from service.errors import BadRequest, ModelNotFound
from service.settings import ServeSettings
from tests.support.app_client import opened
from tests.support.waiting import DEADLINE_S, until

pytestmark = pytest.mark.fast

LABELS = ["sports", "business"]
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def said():
    return []


@pytest.fixture(scope="module")
def client(tiny_models, said):
    settings = ServeSettings(models=tiny_models, max_body_bytes=20_000, max_texts=8, max_labels=4, max_tokens=200)
    with opened(settings, say=said.append) as client:
        yield client


def ask(client, path="/models/sentiment", **body):
    return client.post(path, json=body)


def zero_shot(client, inputs="the match", headers=None, **parameters):
    body = {"inputs": inputs, "parameters": {"candidate_labels": LABELS, **parameters}}
    return client.post("/models/topics", json=body, headers=headers)


def test_it_says_what_it_loaded(client, said):
    assert "loaded sentiment: binary, negative, positive" in said
    assert "loaded topics: zero-shot, any labels" in said


def test_text_classification_answers_a_list_for_each_text_best_first(client, tiny_sentiment):
    expected = Classifier(tiny_sentiment)(["I loved it.", "awful"], top_k=None)
    assert ask(client, inputs="I loved it.").json() == [[pytest.approx(one, abs=2e-6) for one in expected[0]]]
    many = ask(client, inputs=["I loved it.", "awful"]).json()
    assert many == [[pytest.approx(one, abs=2e-6) for one in row] for row in expected]
    assert client.post("/", json={"inputs": "I loved it."}).json() == ask(client, inputs="I loved it.").json()


def test_parameters_of_text_classification_are_followed(client):
    (row,) = ask(client, inputs="film", parameters={"top_k": 1, "function_to_apply": "sigmoid"}).json()
    assert len(row) == 1 and row[0]["score"] > 0.5
    raw = ask(client, inputs="film", parameters={"function_to_apply": "none", "top_k": None}).json()[0]
    assert sum(one["score"] for one in raw) != pytest.approx(1.0)


def test_truncation_max_length_and_return_all_scores_are_followed(client, tiny_sentiment):
    long, whole = "good film " * 100, Classifier(tiny_sentiment)("good film", top_k=None)
    (row,) = ask(client, inputs=long, parameters={"max_length": 4, "truncation": True}).json()
    assert row == [pytest.approx(one | {"truncated": True}, abs=2e-6) for one in whole]
    short = ask(client, inputs="good film", parameters={"truncation": False}).json()
    assert short == [[pytest.approx(one, abs=2e-6) for one in whole]]
    for parameters in ({"truncation": False}, {"truncation": "do_not_truncate"}):
        refused = ask(client, inputs=["good", long], parameters=parameters)
        assert refused.status_code == 400 and "text 2 is longer than the model reads" in refused.json()["error"]
    (best,) = ask(client, inputs="good film", parameters={"return_all_scores": False}).json()
    assert best == [pytest.approx(whole[0], abs=2e-6)]
    (both,) = ask(client, inputs="good film", parameters={"return_all_scores": True}).json()
    assert len(both) == 2
    assert zero_shot(client, truncation=True).json() == zero_shot(client).json()
    assert zero_shot(client, inputs="the match " * 100, truncation=False).status_code == 400


def test_pairs_are_classified(client):
    (row,) = ask(client, "/models/topics", inputs={"text": "the match", "text_pair": "about sports"}).json()
    assert {one["label"] for one in row} == {"entailment", "neutral", "contradiction"}


def test_zero_shot_answers_a_flat_list_best_first(client, tiny_topics):
    expected = ZeroShotClassifier(tiny_topics)("the match", LABELS)
    answer = zero_shot(client).json()
    assert [one["label"] for one in answer] == expected["labels"]
    assert [one["score"] for one in answer] == pytest.approx(expected["scores"], abs=2e-6)
    assert [len(row) for row in zero_shot(client, ["a", "b"]).json()] == [2, 2]


def test_older_clients_get_the_shape_they_read(client):
    old = zero_shot(
        client, headers={"User-Agent": "unknown/None; hf_hub/1.1.4; python/3.11"}, candidate_labels="sports,business"
    )
    assert list(old.json()) == ["sequence", "labels", "scores"] and old.json()["sequence"] == "the match"
    for agent in ("unknown/None; hf_hub/1.1.5; python/3.11", "hf_hub/2.4.0", "curl/8", "huggingface.js"):
        assert isinstance(zero_shot(client, headers={"User-Agent": agent}).json(), list)


def test_zero_shot_parameters_are_followed(client, tiny_topics):
    options = {"multi_label": True, "hypothesis_template": "It is {}.", "scorer": "nli", "attention": "ordinary"}
    expected = ZeroShotClassifier(tiny_topics)("the match", LABELS, **options)
    assert [one["score"] for one in zero_shot(client, **options).json()] == pytest.approx(expected["scores"], abs=2e-6)


def labeled(inputs="a", **parameters):
    return {"inputs": inputs, "parameters": {"candidate_labels": LABELS} | parameters}


PAIR = {"text": "a", "text_pair": "b"}
REFUSED = [
    ("nope", {"inputs": "a"}, 404, "no model 'nope' is served: the names are sentiment, topics"),
    ("sentiment", {}, 400, "inputs: Field required"),
    ("sentiment", {"inputs": 5}, 400, "a text must be a string"),
    ("sentiment", {"inputs": []}, 400, "empty list"),
    ("sentiment", {"inputs": "a", "input": "b"}, 400, "input: Extra inputs"),
    ("sentiment", {"inputs": "a", "parameters": {"topk": 1}}, 400, "parameters are top_k, function_to_apply"),
    ("sentiment", {"inputs": "a", "parameters": {"topk": 1}}, 400, "parameters.topk: Extra inputs are not permitted"),
    ("sentiment", {"inputs": "a", "parameters": {"topk": 1}}, 400, "did you mean top_k?"),
    ("topics", labeled(hypothesis="{}"), 400, "parameters.hypothesis: Extra inputs"),
    ("topics", labeled(hypothesis="{}"), 400, "did you mean hypothesis_template?"),
    ("topics", labeled(multi_labels=True), 400, "did you mean multi_label?"),
    ("topics", {"inputs": "a", "candidate_labels": LABELS}, 400, "candidate_labels: Extra inputs"),
    ("topics", {"inputs": "a", "candidate_labels": LABELS}, 400, "it goes inside parameters"),
    ("topics", {"input": "a"}, 400, "input"),
    ("topics", labeled(hypothesis_template="This is {{}}."), 400, "no other brace"),
    ("topics", labeled(hypothesis_template="{label}"), 400, "exactly one {}"),
    ("topics", labeled(candidate_labels=["caf\u00e9", "cafe\u0301"]), 400, "labels 1 and 2 are the same"),
    ("topics", labeled(candidate_labels="['a', 'b']"), 400, "a list written as text"),
    ("topics", labeled(candidate_labels=["word " * 200]), 400, "shorten it"),
    ("sentiment", {"inputs": "a", "parameters": {"top_k": 0}}, 400, "parameters.top_k"),
    ("sentiment", {"inputs": "a", "parameters": {"function_to_apply": "relu"}}, 400, "use one of default"),
    ("sentiment", {"inputs": "a", "parameters": {"multi_label": True}}, 400, "goes with"),
    ("sentiment", labeled(), 400, "sentiment cannot classify by labels of your own"),
    ("topics", {"inputs": "a"}, 400, "send parameters.candidate_labels"),
    ("topics", labeled(""), 400, "the text is empty"),
    ("topics", labeled(candidate_labels=[]), 400, "there is no label"),
    ("topics", labeled(top_k=1), 400, "does not go"),
    ("topics", labeled(PAIR), 400, "there is a text_pair"),
    ("topics", labeled(hypothesis_template="x"), 400, "exactly one {}"),
    ("sentiment", {"inputs": ["a"] * 9}, 413, "holds 9 texts, and a request may hold 8"),
    ("topics", labeled(candidate_labels=list("abcde")), 413, "5 candidate_labels"),
    (
        "topics",
        labeled([f"{one} " * 99 for one in "abcdefgh"], candidate_labels=["a", "b"]),
        413,
        "the limit is 200",
    ),
    ("sentiment", {"inputs": "a" * 20_000}, 413, "the request body has more than"),
]


@pytest.mark.parametrize(("name", "body", "status", "sentence"), REFUSED)
def test_a_wrong_request_is_answered_with_a_sentence(client, name, body, status, sentence):
    answer = client.post(f"/models/{name}", json=body)
    assert answer.status_code == status
    assert list(answer.json()) == ["error", "request_id"] and sentence in answer.json()["error"]
    assert sentence in answer.headers["X-Error-Message"] and answer.headers["X-Request-Id"]


@pytest.mark.parametrize("name", ["%2Fetc", "..%2Fsentiment", "google/bert", ".%2Fmodels%2Fsentiment"])
def test_a_path_or_hub_id_leads_nowhere(client, name):
    assert client.post(f"/models/{name}", json={"inputs": "a"}).status_code in (404, 405)


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'"text"', b"\xff\xfe", b"[" * 5000])
def test_a_body_that_is_no_json_object_is_refused(client, body):
    answer = client.post("/models/sentiment", content=body, headers=JSON)
    assert answer.status_code == 400 and "body" in answer.json()["error"]


def test_a_body_over_the_limit_is_refused_in_json_whole_or_in_parts(client):
    def parts():
        for _ in range(30):
            yield b" " * 1000

    for content in (b" " * 30_000, parts()):
        answer = client.post("/models/sentiment", content=content, headers=JSON)
        assert answer.status_code == 413 and "20000 bytes" in answer.json()["error"]


def test_lone_surrogates_are_read_and_never_sent_back(client):
    body = b'{"inputs": "bad \\ud800 text", "parameters": {"candidate_labels": ["a\\ud800", "b"]}}'
    answer = client.post("/models/topics", content=body, headers=JSON | {"User-Agent": "hf_hub/0.20.0"})
    assert answer.status_code == 200 and answer.json()["sequence"] == "bad \ufffd text"
    odd = b'{"inputs": "a", "parameters": {"scorer": "\\ud800", "candidate_labels": ["a"]}}'
    bad = client.post("/models/topics", content=odd, headers=JSON)
    assert bad.status_code == 400
    assert client.post("/models/sentiment", content=b'{"inputs": "\\ud800"}', headers=JSON).status_code == 200


def test_a_cut_text_is_told_in_a_header(client):
    answer = ask(client, inputs=["good " * 500, "good"])
    assert answer.headers["X-HF-Warning"].startswith("truncation; 1 of 2 texts")
    assert "X-HF-Warning" not in ask(client, inputs="good").headers


def test_a_request_id_is_kept_or_made(client):
    assert client.get("/health", headers={"X-Request-Id": "abc-1.2"}).headers["X-Request-Id"] == "abc-1.2"
    for odd in ("", "a b", "x" * 200, "ü".encode()):
        assert re.fullmatch(
            r"[0-9a-f]{32}", client.get("/health", headers={"X-Request-Id": odd}).headers["X-Request-Id"]
        )


def test_probes_and_descriptions_answer(client):
    assert client.get("/health").json() == {"status": "ok"}
    for path in ("/health/live", "/health/ready", "/models/sentiment/health"):
        assert client.get(path).status_code == 200
    info = client.get("/models/sentiment/info").json()
    assert info["labels"] == ["negative", "positive"] and info["model_type"]["classifier"]["label2id"]["positive"] == 1
    assert [entry["name"] for entry in client.get("/models").json()] == ["sentiment", "topics"]
    assert client.get("/models/nope/health").status_code == 404


def test_the_docs_page_needs_nothing_from_the_network(client):
    page = client.get("/docs").text
    assert "/models/{name}" in page and "parameters.candidate_labels" in page and "curl" in page
    assert not re.search(r"(src|href)=.?https?://", page)
    assert json.loads(client.get("/openapi.json").text)["paths"]["/models/{name}"]["post"]["requestBody"]


def test_the_page_and_the_default_model_share_one_address(client):
    assert "text/html" in client.get("/").headers["content-type"]
    assert client.post("/", json={"inputs": "a"}).status_code == 200


def test_a_crash_inside_is_told_without_its_details(client, monkeypatch):
    async def crash(*args, **kwargs):
        raise ZeroDivisionError("secret")

    monkeypatch.setattr("service.inference.engine.Engine.aclassify", crash)
    answer = ask(client, inputs="a")
    assert answer.status_code == 500 and "ZeroDivisionError" in answer.json()["error"] and "secret" not in answer.text
    assert answer.headers["X-Request-Id"] and answer.headers["X-Error-Message"]


def test_a_server_without_a_usable_default_does_not_start(tiny_models):
    with pytest.raises(ModelNotFound, match="no model 'nope' is served"):
        create_app(ServeSettings(models=tiny_models, default="nope"))


def test_a_port_in_use_is_one_clear_sentence(tiny_models):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BadRequest, match=f"^port {port} of 127.0.0.1 is in use: choose another with --port$"):
            serve(ServeSettings(models=tiny_models, port=port), say=print)


def test_an_address_that_is_not_ours_is_one_clear_sentence(tiny_models):
    with pytest.raises(BadRequest, match=r"^cannot listen on 192\.0\.2\.1:0 "):
        serve(ServeSettings(models=tiny_models, host="192.0.2.1", port=0), say=print)


def test_work_for_a_caller_who_has_gone_is_cancelled(tiny_models, monkeypatch):
    begun, cancelled = threading.Event(), threading.Event()

    async def slow(self, inputs, **options):
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async def build():
        return create_app(ServeSettings(models=tiny_models))

    monkeypatch.setattr("service.inference.engine.Engine.aclassify", slow)
    server = uvicorn.Server(uvicorn.Config(asyncio.run(build()), port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started, "the server's start")
        port = server.servers[0].sockets[0].getsockname()[1]
        body = b'{"inputs": "a text"}'
        with socket.create_connection(("127.0.0.1", port)) as caller:
            lines = ("POST /models/sentiment HTTP/1.1", "Host: localhost", "Content-Type: application/json")
            head = "\r\n".join((*lines, f"Content-Length: {len(body)}", "", ""))
            caller.sendall(head.encode() + body)
            assert begun.wait(DEADLINE_S) and not cancelled.is_set()
        assert cancelled.wait(DEADLINE_S)
    finally:
        server.should_exit = True
        thread.join(30)

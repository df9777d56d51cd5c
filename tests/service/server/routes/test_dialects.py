"""The other wire dialects: text-embeddings-inference, vLLM, System One."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from service import Classifier, ZeroShotClassifier, load
from service.server.routes import systemone
from service.settings import ServeSettings
from tests.support.app_client import opened

pytestmark = pytest.mark.fast


@pytest.fixture(scope="module")
def client(tiny_models):
    settings = ServeSettings(models=tiny_models, max_texts=4, max_body_bytes=5000)
    with opened(settings, log=lambda line: None) as client:
        yield client


def predict(client, inputs, **more):
    return client.post("/predict", json={"inputs": inputs, **more})


def of(classifier, text, **options):
    return [
        {"score": pytest.approx(one["score"], abs=2e-6), "label": one["label"]}
        for one in classifier(text, top_k=None, **options)
    ]


def test_tei_reads_one_text_one_pair_and_batches(client, tiny_sentiment):
    model = Classifier(tiny_sentiment)
    one, other = of(model, "good film"), of(model, "awful")
    pair = of(model, {"text": "good film", "text_pair": "awful"})
    assert pair != one
    assert predict(client, "good film").json() == predict(client, ["good film"]).json() == one
    assert predict(client, ["good film", "awful"]).json() == pair
    assert predict(client, [["good film"], ["awful"]]).json() == [one, other]
    assert predict(client, [["good film"], ["good film", "awful"]]).json() == [one, pair]
    assert predict(client, "good film", raw_scores=True).json() == of(model, "good film", function_to_apply="none")
    assert predict(client, "good film", truncate=True, unknown=1, truncation_direction="right").json() == one


def test_tei_says_how_long_things_took(client):
    headers = predict(client, "good film").headers
    assert int(headers["x-compute-tokens"]) == 4
    times = [int(headers[f"x-{name}-time"]) for name in ("compute", "queue", "tokenization", "inference")]
    assert 0 <= max(times[1:]) <= times[0] + 1


@pytest.mark.parametrize(
    ("inputs", "status", "kind"),
    [
        ([], 400, "Empty"),
        (["a", "b", "c"], 422, "Validation"),
        ([["a", "b", "c"]], 422, "Validation"),
        ([["a"], "b"], 422, "Validation"),
        ([[]], 422, "Validation"),
        (7, 422, "Validation"),
        (None, 422, "Validation"),
        ({"text": "a"}, 422, "Validation"),
        ([["a"]] * 5, 422, "Validation"),
        ("a" * 6000, 413, "Validation"),
        ([[1]], 422, "Validation"),
    ],
)
def test_tei_refuses_as_the_original_does(client, inputs, status, kind):
    answer = predict(client, inputs)
    assert (answer.status_code, answer.json()["error_type"]) == (status, kind) and answer.json()["error"]


def test_tei_cuts_long_texts_or_refuses_them(client):
    long = "good " * 300
    assert predict(client, long).json()[0]["truncated"] is True
    assert predict(client, long, truncate=False).status_code == 422
    assert predict(client, "good", truncate=False).status_code == 200
    assert predict(client, long, truncation_direction="left").status_code == 422


def test_tei_cuts_a_text_of_any_length_unless_it_is_told_not_to(served):
    client = served(max_characters=500)
    long = "good " * 300
    for more in ({}, {"truncate": True}, {"truncate": None}):
        assert predict(client, long, **more).json() == predict(client, "good " * 200, **more).json()
    refused = predict(client, long, truncate=False)
    assert refused.status_code == 422 and "a text may have 500" in refused.json()["error"]
    refused = predict(client, "good " * 100, truncate=True).json()
    assert refused == predict(client, "good " * 100).json() and "truncated" not in refused[0]


def test_tei_tells_what_it_serves(client):
    info = client.get("/info").json()
    assert info["model_id"] == "sentiment" and info["model_type"]["classifier"]["id2label"]["1"] == "positive"
    assert info["max_client_batch_size"] == 4 and info["max_input_length"] == 128 and info["auto_truncate"] is True


def test_vllm_gives_probabilities_with_their_labels(client, tiny_sentiment):
    answer = client.post(
        "/v1/classify", json={"model": "sentiment", "input": ["good film", "awful"], "priority": 0}
    ).json()
    assert (answer["object"], answer["model"], answer["labels"]) == ("list", "sentiment", ["negative", "positive"])
    expected = load(tiny_sentiment).engine.scores(["good film", "awful"])
    for index, one in enumerate(answer["data"]):
        assert one["index"] == index and one["num_classes"] == 2
        assert one["probs"] == pytest.approx(expected[index].tolist(), abs=2e-6)
        assert one["label"] == answer["labels"][int(np.argmax(one["probs"]))]
    assert answer["usage"]["total_tokens"] == 4 + 3
    (alone,) = client.post("/v1/classify", json={"input": "good film"}).json()["data"]
    # a batch of another size may be computed by another kernel, which rounds otherwise
    assert alone == answer["data"][0] | {"probs": pytest.approx(answer["data"][0]["probs"], abs=2e-6)}
    assert client.post("/v1/classify", json={"input": 5}).status_code == 400
    assert client.post("/v1/classify", json={"model": "nope", "input": "a"}).status_code == 404
    assert client.post("/v1/classify", json={"model": "topics", "input": "a"}).status_code == 400


def test_vllm_answers_at_both_paths_and_lets_only_harmless_fields_pass(client):
    body = {"input": "good film"}
    expected = client.post("/v1/classify", json=body).json()["data"]
    harmless = {"user": "me", "priority": 3, "request_id": "r", "cache_salt": "s", "add_special_tokens": True}
    answer = client.post("/classify", json=body | harmless | {"truncation_side": "right"})
    assert answer.json()["data"] == expected
    for change in ({"add_special_tokens": False}, {"truncation_side": "left"}, {"messages": []}, {"dimensions": 2}):
        answer = client.post("/classify", json=body | change)
        assert answer.status_code == 400 and next(iter(change)) in answer.json()["error"], change


def test_vllm_returns_logits_where_the_activation_is_turned_off(client, tiny_sentiment):
    logits = load(tiny_sentiment).engine.scores(["good film"], function="none")[0].tolist()
    scores = load(tiny_sentiment).engine.scores(["good film"])[0].tolist()
    for name in ("use_activation", "activation", "softmax"):
        for value, expected in ((False, logits), (True, scores), (None, scores)):
            (found,) = client.post("/classify", json={"input": "good film", name: value}).json()["data"]
            assert found["probs"] == pytest.approx(expected, abs=2e-6), (name, value)
    both = client.post("/classify", json={"input": "good film", "use_activation": True, "activation": False})
    assert both.status_code == 400 and "mean the same" in both.json()["error"]


def test_vllm_truncates_where_it_is_told_to(client, tiny_sentiment):
    long = "good film " * 100
    whole = client.post("/classify", json={"input": long, "truncate_prompt_tokens": -1}).json()["data"]
    assert whole == client.post("/classify", json={"input": long}).json()["data"] and whole[0]["truncated"] is True
    answer = client.post("/classify", json={"input": long, "truncate_prompt_tokens": 4}).json()
    expected = load(tiny_sentiment).engine.scores(["good film"])[0].tolist()  # four tokens with [CLS] and [SEP]
    assert answer["data"][0]["probs"] == pytest.approx(expected, abs=2e-6) and answer["usage"]["total_tokens"] == 4
    assert answer["data"][0]["truncated"] is True
    for tokens, sentence in ((0, "use 4 to 128"), (2, "use 4 to 128"), (129, "use 4 to 128"), (-2, "greater than")):
        refused = client.post("/classify", json={"input": long, "truncate_prompt_tokens": tokens})
        assert refused.status_code == 400 and sentence in refused.json()["error"]


QUESTIONS = {
    "tone": {
        "type": "choice",
        "instructions": "What is the tone?",
        "criteria": {"calm": None, "angry": "Shouts", "odd": None},
    },
    "alone": {"type": "choice", "criteria": {"only": None}},
    "urgency": {"type": "score", "criteria": ["Can wait", "This week", "Today"]},
    "spam": {"type": "noul", "instructions": "Is this message spam?"},
    "advert": {"type": "noul", "criteria": {"true": "Unsolicited ads", "false": "A real conversation"}},
}


def test_systemone_answers_typed_questions(client, tiny_topics):
    answer = client.post("/v1/systemone", json={"model": "topics", "state": "WIN a phone", "questions": QUESTIONS})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert list(found["answers"]) == list(QUESTIONS) and found["model"] == "topics"
    assert found["usage"]["input_tokens"] > 20 and found["usage"]["output_tokens"] == 0
    model = ZeroShotClassifier(tiny_topics)
    tone = model("WIN a phone", ["calm", "angry: Shouts", "odd"], hypothesis_template="What is the tone? {}")
    expected = dict(zip(tone["labels"], tone["scores"], strict=True))
    probabilities = found["answers"]["tone"]["probabilities"]
    assert list(probabilities) == ["calm", "angry", "odd"]
    assert list(probabilities.values()) == pytest.approx(
        [expected["calm"], expected["angry: Shouts"], expected["odd"]], abs=2e-6
    )
    assert set(found["answers"]["spam"]) == {"type", "noul"}
    advert = model("WIN a phone", ["Unsolicited ads", "A real conversation"])
    yes = dict(zip(advert["labels"], advert["scores"], strict=True))["Unsolicited ads"]
    assert found["answers"]["advert"]["noul"] == pytest.approx(yes, abs=2e-6)


def test_systemone_computes_as_transformers_does():
    from transformers.decision import DecisionConfig, parse_questions

    rng = np.random.default_rng(0)
    body = systemone.Body.model_validate({"model": "m", "state": "s", "questions": QUESTIONS})
    parsed = parse_questions(QUESTIONS, DecisionConfig())
    for (name, ours), theirs in zip(body.questions.items(), parsed, strict=True):
        many = 2 if ours.type == "noul" else len(ours.criteria)
        cases = [rng.dirichlet(np.ones(many) * sharp).tolist() for sharp in (0.1, 1, 10) for _ in range(20)]
        cases += [[1 / many] * many, [1.0] + [0.0] * (many - 1)]
        for probabilities in cases:
            expected, found = theirs.answer(probabilities), systemone.answer_of(ours, probabilities)
            assert expected.keys() == found.keys()
            for key, value in expected.items():
                numeric = isinstance(value, float) or key == "probabilities"
                assert found[key] == (pytest.approx(value) if numeric else value), (name, key)


@pytest.mark.parametrize(
    "change",
    [
        {"questions": {}},
        {"questions": {str(n): QUESTIONS["spam"] for n in range(65)}},
        {"state": 5},
        {"state": None},
        {"questions": {"a": {"type": "rank", "criteria": {}}}},
        {"questions": {"a": {"type": "choice"}}},
        {"questions": {"a": {"type": "choice", "criteria": {}}}},
        {"questions": {"a": {"type": "score", "criteria": {"x": 1}}}},
        {"questions": {"a": {"type": "noul", "criteria": {"maybe": "x"}}}},
        {"questions": {"a": QUESTIONS["spam"] | {"x": 1}}},
        {"model": None},
    ],
)
def test_systemone_refuses_a_bad_body_as_the_original_does(client, change):
    body = {"model": "topics", "state": "a", "questions": {"q": QUESTIONS["spam"]}} | change
    answer = client.post("/v1/systemone", json=body)
    assert answer.status_code == 422 and answer.json()["detail"][0]["loc"][0] == "body"


def test_systemone_has_no_limit_of_26_options_and_says_other_problems(client):
    many = {"type": "choice", "criteria": {f"option {n}": None for n in range(40)}}
    body = {"model": "topics", "state": {"a": [1, "b"]}, "questions": {"many": many}}
    assert len(client.post("/v1/systemone", json=body).json()["answers"]["many"]["probabilities"]) == 40
    unknown = client.post("/v1/systemone", json=body | {"model": "nope"})
    assert unknown.status_code == 404 and unknown.json()["detail"]["error_type"] == "not_found"
    assert "no model 'nope' is served" in unknown.json()["detail"]["message"]
    wrong = client.post("/v1/systemone", json=body | {"model": "sentiment"})
    (problem,) = wrong.json()["detail"]
    assert (wrong.status_code, problem["loc"]) == (422, ["body", "model"])
    assert "cannot classify by labels of your own" in problem["msg"]
    empty = {"model": "topics", "state": "a", "questions": {"q": {"type": "noul"}}}
    (problem,) = client.post("/v1/systemone", json=empty).json()["detail"]
    assert problem["loc"] == ["body", "questions", "q", "noul"] and "needs instructions" in problem["msg"]


def test_systemone_knows_the_alias_and_ignores_unknown_top_level_fields(client):
    body = {"model": "topics", "state": "WIN a phone", "questions": QUESTIONS}
    expected = client.post("/v1/systemone", json=body).json()
    assert client.post("/v1/systemone", json=body | {"model": "jev-latest", "seed": 7}).json() == expected


def test_systemone_is_certain_of_a_single_option(client):
    questions = {"alone": QUESTIONS["alone"], "level": {"type": "score", "criteria": ["Calm"]}}
    found = client.post("/v1/systemone", json={"model": "topics", "state": "a", "questions": questions}).json()
    assert found["answers"] == {
        "alone": {"type": "choice", "choice": "only", "confidence": 1.0, "probabilities": {"only": 1.0}},
        "level": {"type": "score", "score": 0.0, "legend": {"0": "Calm"}, "confidence": 1.0, "probabilities": {"0": 1}},
    }


def test_models_are_listed_for_clients_of_vllm_and_of_typed_questions(client, tiny_models):
    found = client.get("/v1/models").json()
    assert found["object"] == "list" and [one["id"] for one in found["data"]] == ["sentiment", "topics"]
    written = (tiny_models / "sentiment" / "model.safetensors").stat().st_mtime
    assert found["data"][0] | {"object": "model", "created": int(written), "max_model_len": 128} == found["data"][0]
    assert [one["name"] for one in found["models"]] == ["topics"]


def test_label_sets_may_differ_by_text(client, tiny_topics):
    texts, sets = ["the match", "a bank"], [["sports", "money"], ["film", "bank", "planet"]]
    answer = client.post("/models/topics", json={"inputs": texts, "parameters": {"candidate_labels": sets}}).json()
    for text, labels, found in zip(texts, sets, answer, strict=True):
        expected = ZeroShotClassifier(tiny_topics)(text, labels)
        assert [one["label"] for one in found] == expected["labels"]
        assert [one["score"] for one in found] == pytest.approx(expected["scores"], abs=2e-6)
    wrong = {"inputs": texts, "parameters": {"candidate_labels": sets[:1]}}
    assert client.post("/models/topics", json=wrong).status_code == 400


def test_a_cut_text_is_marked_in_its_answer(client):
    found = client.post("/models/sentiment", json={"inputs": ["good " * 300, "good"]}).json()
    marked = [[one.get("truncated", False) for one in row] for row in found]
    assert marked == [[True, True], [False, False]]


def test_special_tokens_templates_and_html_stay_text(client, tiny_sentiment, tiny_topics):
    odd = [
        "[SEP]",
        "{label}",
        "{0.__class__}",
        "<script>alert(1)</script>",
        "\x00\x07",
        "\u202e\ufeff",
        "[CLS] [MASK] [PAD]",
    ]
    for text, template in itertools.product(odd, ("{}", "{{}} {}", "{:>99999999} {}")):
        body = {"inputs": text, "parameters": {"candidate_labels": odd[:3], "hypothesis_template": template}}
        answer = client.post("/models/topics", json=body)
        expected = (
            ZeroShotClassifier(tiny_topics)(text, odd[:3], hypothesis_template=template) if template == "{}" else None
        )
        assert answer.status_code in (200, 400)
        if expected is not None:
            assert [one["label"] for one in answer.json()] == expected["labels"]


@pytest.mark.parametrize("number", ["1e999", "NaN", "-Infinity"])
def test_what_is_no_number_is_refused(client, number):
    question = '{"type": "score", "criteria": [[' + number + '], "b"]}'
    body = '{"model": "topics", "state": "a", "questions": {"q": ' + question + "}}"
    answer = client.post("/v1/systemone", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422 and "not JSON" in answer.json()["detail"][0]["msg"]


def test_any_name_can_be_sent_and_no_control_character_gets_into_a_header(client):
    odd = {"type": "choice", "criteria": {"\ud800": None, "{}": None}, "instructions": "{{}}"}
    body = json.dumps({"model": "topics", "state": "a", "questions": {"\ud800": odd}}).encode()
    answer = client.post("/v1/systemone", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (200, 422) and answer.json()
    answer = client.post("/models/sentiment", json={"inputs": "a", "\x00\n": 1})
    assert answer.status_code == 400 and answer.headers["X-Error-Message"].isprintable()

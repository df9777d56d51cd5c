"""The clients that people have already, unmodified, against a real server."""

from __future__ import annotations

import concurrent.futures
import json
import os
import signal
import subprocess
import sys
import urllib.request

import pytest

from service import Classifier, ZeroShotClassifier

LABELS = ["sports", "business", "food, drink"]
JSON = {"Content-Type": "application/json"}

CLIENT = """
import json, sys
from huggingface_hub import InferenceClient
from huggingface_hub.errors import BadRequestError, HfHubHTTPError

address = sys.argv[1]
sentiment = InferenceClient(base_url=f"{address}/models/sentiment")
topics = InferenceClient(base_url=f"{address}/models/topics")
labels = ["sports", "business", "food, drink"]
found = {}
found["best"] = [vars(one) for one in sentiment.text_classification("I loved it.")]
found["top"] = [vars(one) for one in sentiment.text_classification("I loved it.", top_k=1, function_to_apply="sigmoid")]
found["default"] = [vars(one) for one in InferenceClient(base_url=address).text_classification("I loved it.")]
found["one"] = [vars(one) for one in topics.zero_shot_classification("the match", labels)]
found["several"] = [
    vars(one)
    for one in topics.zero_shot_classification("the match", labels, multi_label=True, hypothesis_template="It is {}.")
]
try:
    topics.zero_shot_classification("the match", labels, hypothesis_template="no blank")
except BadRequestError as error:
    found["bad"] = str(error)
try:
    InferenceClient(base_url=f"{address}/models/nope").text_classification("a")
except HfHubHTTPError as error:
    found["missing"] = f"{error.response.status_code} {error}"
probe = InferenceClient(base_url=f"{address}/models/sentiment", provider="hf-inference")
found["info"] = probe.get_endpoint_info()
found["healthy"] = probe.health_check()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(server):
    """What huggingface_hub's own client makes of the server; offline mode would refuse even loopback."""
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, server.address],
        env=os.environ | {"HF_HUB_OFFLINE": "0"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def scores(rows):
    return {row["label"]: pytest.approx(row["score"], abs=2e-6) for row in rows}


def test_the_inference_client_classifies_text(found, tiny_sentiment):
    expected = Classifier(tiny_sentiment)("I loved it.", top_k=None)
    assert scores(found["best"]) == {one["label"]: one["score"] for one in expected}
    assert found["best"][0]["label"] == expected[0]["label"] and found["default"] == found["best"]
    (top,) = Classifier(tiny_sentiment)("I loved it.", top_k=1, function_to_apply="sigmoid")
    assert scores(found["top"]) == {top["label"]: top["score"]}


def test_the_inference_client_classifies_by_labels_of_its_own(found, tiny_topics):
    classify = ZeroShotClassifier(tiny_topics)
    expected = classify("the match", LABELS)
    assert [one["label"] for one in found["one"]] == expected["labels"]
    assert [one["score"] for one in found["one"]] == pytest.approx(expected["scores"], abs=2e-6)
    several = classify("the match", LABELS, multi_label=True, hypothesis_template="It is {}.")
    assert [one["score"] for one in found["several"]] == pytest.approx(several["scores"], abs=2e-6)


def test_the_inference_client_shows_our_sentences(found):
    assert "exactly one {} where the label goes" in found["bad"]
    assert found["missing"].startswith("404") and "the names are sentiment, topics" in found["missing"]


def test_the_inference_client_can_ask_what_is_served_and_whether_it_answers(found):
    assert found["healthy"] is True and found["info"]["labels"] == ["negative", "positive"]


def test_the_server_says_what_it_loads_and_answers_as_soon_as_the_default_model_is_there(server):
    (address,) = (line for line in server.lines if line.startswith("rehead answers at http://127.0.0.1:"))
    assert server.lines.index("loaded sentiment: binary, negative, positive") < server.lines.index(address)
    assert "loaded topics: zero-shot, any labels" in server.lines
    assert any(line.startswith("ready: sentiment, topics") for line in server.lines)


def get(address, timeout=30.0):
    with urllib.request.urlopen(address, timeout=timeout) as answer:
        return answer.status


def test_probes_answer_while_a_long_request_is_computed(server):
    words = " ".join(["good"] * 100)
    body = {
        "inputs": [f"{words} {index}" for index in range(100)],
        "parameters": {"candidate_labels": list("abcdefgh")},
    }
    request = urllib.request.Request(f"{server.address}/models/topics", json.dumps(body).encode(), JSON)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        long = pool.submit(lambda: json.load(urllib.request.urlopen(request, timeout=120)))
        answered = 0
        while not long.done():
            assert get(f"{server.address}/health", timeout=5) == 200
            answered += 1
        assert answered >= 2 and len(long.result()) == 100


@pytest.mark.slow
def test_ctrl_c_ends_the_server_at_once_and_without_a_traceback(start_server, tiny_models):
    running = start_server(tiny_models, "--default", "topics")
    # a page keeps a stream open for as long as it is shown
    stream = urllib.request.urlopen(f"{running.address}/gradio_api/heartbeat/abc", timeout=30)
    assert get(f"{running.address}/health") == 200
    assert running.stop(signal.SIGINT) == (130, "\n")  # click ends the line that ^C stands on
    stream.close()

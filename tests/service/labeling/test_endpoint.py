"""A teacher behind an OpenAI-compatible address: a real server on loopback."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread

import numpy as np
import pytest

from service.errors import BadRequest
from service.labeling.config import build
from service.labeling.endpoint import EndpointFailed, endpoint, parsed, prompt, seconds_to_wait

pytestmark = pytest.mark.fast

LABELS = ("sports", "business", "food, drink")


class Server:
    """Answers with the label that the text names; `faults` are sent first, as (status, headers)."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict, dict]] = []
        self.faults: list[tuple[int, dict[str, str]]] = []
        self.said: dict[str, str] = {}
        lock, owner = Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                text = body["messages"][-1]["content"]
                with lock:
                    owner.requests.append(({name.lower(): value for name, value in self.headers.items()}, body))
                    status, headers = owner.faults.pop(0) if owner.faults else (200, {})
                word = owner.said.get(text) or next((label for label in LABELS if label in text), "unsure")
                content = {"choices": [{"message": {"role": "assistant", "content": word}}]}
                data = json.dumps(content if status == 200 else {"error": {"message": "slow down"}}).encode()
                self.send_response(status)
                for name, value in {"content-length": str(len(data)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server():
    started = Server()
    yield started
    started.close()


@pytest.fixture
def teacher(server, monkeypatch):
    """Make teachers; `waits` of each holds the seconds that it would have waited."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    made = []

    def make(**settings):
        content = {"texts": "t.csv", "labels": list(LABELS), "out": "out"} | settings
        made.append(endpoint(build(content), url=server.url, model="tiny"))
        made[-1].waits = []
        made[-1].sleep = made[-1].waits.append
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_the_label_that_is_answered_is_the_likeliest_and_others_are_no_answer(server, teacher):
    one = teacher()
    first, second, third = one(["sports news", "about business", "nothing"])
    np.testing.assert_allclose(np.exp(first.logits), [0.9, 0.05, 0.05], atol=1e-6)
    assert second.logits.argmax() == 1
    assert third.logits is None
    assert (one.sent, one.unparsed) == (3, 1)
    headers, body = server.requests[0]
    assert headers["authorization"] == "Bearer sk-secret"
    assert (body["model"], body["temperature"]) == ("tiny", 0)
    assert body["messages"][0]["content"] == prompt(one.config)
    assert "- food, drink" in prompt(one.config)


def test_the_key_is_in_no_name_identity_or_estimate(teacher):
    one = teacher()
    assert "sk-secret" not in f"{one} {one.name} {one.identity} {one.announce(10, 100)}"


def test_the_estimate_states_requests_tokens_and_minutes(teacher, server):
    sentence = teacher(max_requests=900).announce(1200, 48_000)
    assert sentence.startswith("tiny at http://127.0.0.1")
    assert "1,200 requests, about" in sentence
    assert "4,800 received, about 5 minutes" in sentence
    assert "--max-requests is 900" in sentence
    assert server.requests == []


def test_a_busy_endpoint_is_tried_again_when_it_says(server, teacher):
    server.faults = [(429, {"retry-after": "7"}), (503, {})]
    one = teacher()
    assert one(["sports"])[0].logits.argmax() == 0
    assert one.waits == [7.0, 2.0]
    assert one.sent == 3


def test_an_endpoint_that_stays_busy_ends_the_run(server, teacher):
    server.faults = [(500, {})] * 6
    one = teacher()
    with pytest.raises(EndpointFailed, match=r"answered 500: .*slow down.*the same command continues from the cache"):
        one(["sports"])
    assert one.waits == [1, 2, 4, 8, 16]


def test_a_refusal_is_not_repeated(server, teacher):
    server.faults = [(401, {})]
    one = teacher()
    with pytest.raises(EndpointFailed, match="answered 401"):
        one(["sports"])
    assert len(server.requests) == 1


def test_no_more_requests_are_sent_than_allowed(server, teacher):
    one = teacher(max_requests=2)
    with pytest.raises(EndpointFailed, match="--max-requests 2 is used up"):
        one(["sports"] * 5)
    assert len(server.requests) == 2


def test_an_address_that_nothing_listens_at_is_reported(teacher, server):
    one = teacher()
    server.close()
    with pytest.raises(EndpointFailed, match="cannot be reached"):
        one(["sports"])


@pytest.mark.parametrize(
    ("answer", "places"),
    [
        ("sports", [0]),
        (' "Sports." ', [0]),
        ("- food,  drink", [2]),
        *(("", None), ("sports or business", None), ("sport", None), ("sports\nbusiness", None)),
        ("The label is sports", None),
    ],
)
def test_one_label_is_read_from_an_answer_and_nothing_is_guessed(answer, places):
    assert parsed(answer, LABELS, multi_label=False) == places


def test_several_labels_are_read_each_from_its_line():
    assert parsed("- sports\n- food, drink\n", LABELS, multi_label=True) == [0, 2]
    assert parsed("none", LABELS, multi_label=True) == []
    assert parsed("sports\nmaybe business", LABELS, multi_label=True) is None


def test_none_of_these_is_one_of_the_answers(server, teacher):
    one = teacher(none_of_these=True)
    server.said = {"odd": "none of these"}
    odd, usual = one(["odd", "sports"])
    assert odd.fit == pytest.approx(0.1)
    assert usual.fit > 0.9
    assert len(odd.logits) == 3
    assert usual.logits.argmax() == 0


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("3", 3.0), (None, 4.0), ("soon", 4.0), ("-5", 0.0), ("100000", 120.0), ("nan", 120.0)],
)
def test_the_wait_follows_the_header_within_bounds(header, seconds):
    assert seconds_to_wait(header, 2) == seconds


def test_a_date_as_wait_is_read():
    assert seconds_to_wait("Thu, 01 Jan 1970 00:00:00 GMT", 2) == 0
    assert seconds_to_wait("Fri, 01 Jan 2100 00:00:00 GMT", 2) == 120


@pytest.mark.parametrize("url", ["ftp://x/v1", "nonsense", "http://me:secret@host/v1", "http://host/v1?key=secret"])
def test_an_address_that_is_none_or_holds_a_key_is_refused(url):
    config = build({"texts": "t.csv", "labels": list(LABELS), "out": "out"})
    with pytest.raises(BadRequest, match="the teacher's address"):
        endpoint(config, url=url, model="m")


def test_an_endpoint_without_a_model_is_refused():
    config = build({"texts": "t.csv", "labels": list(LABELS), "out": "out"})
    with pytest.raises(BadRequest, match="--teacher-model"):
        endpoint(config, url="http://localhost/v1")

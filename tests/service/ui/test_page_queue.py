"""What Gradio's queue keeps: answers that nobody collects, and calls that wait."""

from __future__ import annotations

import asyncio
import json

import pytest
from gradio.server_messages import ProcessCompletedMessage, ProcessGeneratingMessage

from service.ui import page_queue, table_upload
from service.ui.page_queue import SESSION_BYTES, UNCOLLECTED, Messages, Sessions
from tests.support.waiting import until


def completed(size, event_id="a"):
    return ProcessCompletedMessage(output={"data": ["x" * size]}, success=True, event_id=event_id)


def generating(size, event_id="a"):
    return ProcessGeneratingMessage(output={"data": ["x" * size]}, success=True, event_id=event_id)


def collected(messages):
    return [messages.get_nowait() for _ in range(messages.qsize())]


@pytest.mark.fast
def test_a_session_keeps_answers_up_to_its_bound_and_then_says_so():
    messages = Messages(lambda size: True)
    for name in "abc":
        messages.put_nowait(completed(SESSION_BYTES // 2 - 1000, name))
    kept = collected(messages)
    assert [message.success for message in kept] == [True, True, False]
    assert kept[2].output == {"error": UNCOLLECTED} and kept[2].event_id == "c" and messages.bytes == 0
    messages.put_nowait(completed(10, "d"))
    assert collected(messages)[0].success


@pytest.mark.fast
def test_an_answer_whose_beginning_was_dropped_is_an_error():
    messages = Messages(lambda size: True)
    messages.put_nowait(generating(SESSION_BYTES + 1))
    messages.put_nowait(generating(10))  # a difference to the one before
    messages.put_nowait(completed(10))
    assert [message.output for message in collected(messages)] == [{"error": UNCOLLECTED}]


@pytest.mark.fast
def test_all_sessions_together_have_a_bound_and_the_oldest_without_a_listener_go_first(monkeypatch):
    monkeypatch.setattr(page_queue, "ALL_BYTES", 3_000_000)

    async def fill():
        sessions = Sessions(2000)
        for name in ("heard", "old", "new"):
            sessions[name] = asyncio.Queue()
            if name == "heard":
                listener = asyncio.ensure_future(sessions[name].get())
                await asyncio.sleep(0)
            else:
                sessions[name].put_nowait(completed(1_800_000))
        assert set(sessions) == {"heard", "new"}
        sessions["heard"].put_nowait(completed(100))
        assert (await listener).success
        assert sum(messages.bytes for messages in sessions.values()) < 3_000_000

    asyncio.run(fill())


def test_a_session_that_nobody_listens_to_is_dropped(served, monkeypatch):
    client = served()
    queue = queue_of(client)
    body = {
        "data": ["good film", "sentiment"],
        "fn_index": number_of(client, "classify_sentiment"),
        "session_hash": "alone",
    }
    assert client.post("/gradio_api/queue/join", json=body).status_code == 200
    messages = queue.pending_messages_per_session["alone"]
    until(lambda: messages.qsize() >= 3, "the answer is there")
    client.portal.call(lambda: queue.drop_forgotten(at_once=True))
    assert "alone" in queue.pending_messages_per_session
    monkeypatch.setattr(page_queue, "UNCOLLECTED_S", -1.0)
    client.portal.call(lambda: queue.drop_forgotten(at_once=True))
    assert not queue.pending_messages_per_session and not queue.pending_event_ids_session


def test_one_client_leaves_room_for_calls_of_others(served, monkeypatch):
    client = served()
    queue = queue_of(client)
    queue.max_size = 4
    monkeypatch.setattr(queue, "get_events", lambda: None)  # so that all calls wait
    number = number_of(client, "classify_sentiment")

    def join(session):
        body = {"data": ["good film", "sentiment"], "fn_index": number, "session_hash": session}
        return client.post("/gradio_api/queue/join", json=body)

    assert [join(f"s{call}").status_code for call in range(4)] == [200, 200, 200, 503]
    assert "try again" in join("s9").text


MALFORMED = [
    ("queue/join", [], "not an object"),
    ("queue/join", {"data": [], "fn_index": 99999, "session_hash": "a"}, "fn_index"),
    ("queue/join", {"data": [], "fn_index": "x", "session_hash": "a"}, "fn_index"),
    ("queue/join", {"data": 1, "fn_index": 0, "session_hash": "a"}, "data is not a list"),
    ("queue/join", {"data": [1] * 90, "fn_index": 0, "session_hash": "a"}, "data is not a list"),
    ("queue/join", {"data": [], "fn_index": 0, "session_hash": "a" * 65}, "session_hash"),
    ("queue/join", {"data": [], "fn_index": 0, "session_hash": {}}, "session_hash"),
    ("call/nope", {"data": []}, "no function 'nope'"),
    ("call/v2/nope", {}, "no function 'nope'"),
    ("call/v2/classify_topics", {}, "do not fit"),
    ("call/classify_topics", {"data": None}, "data is not a list"),
    ("run/nope", {"data": []}, "no function 'nope'"),
]


def test_a_malformed_call_gets_a_sentence(served):
    client = served()
    for route, body, sentence in MALFORMED:
        answer = client.post(f"/gradio_api/{route}", json=body)
        assert answer.status_code == 400 and sentence in answer.json()["error"], (route, body)


def test_the_values_of_a_call_are_bounded(served):
    client = served()
    answer = client.post("/gradio_api/call/classify_topics", json={"data": [[[]] * 20_001]})
    assert answer.status_code == 413 and "20000 values" in answer.json()["error"]


def test_long_names_of_columns_are_cut_and_still_select_their_column(served, tmp_path):
    client = served()
    names = [f"{number} " + "x" * 100_000 for number in range(30)]
    content = json.dumps(dict.fromkeys(names, "good film")).encode() + b"\n"
    path = client.post("/gradio_api/upload", files={"files": ("t.jsonl", content)}).json()[0]
    number = next(
        event["id"]
        for event in client.get("/config").json()["dependencies"]
        if [target[1] for target in event["targets"]] == ["upload"] and len(event["inputs"]) > 2
    )
    upload = {"path": path, "meta": {"_type": "gradio.FileData"}}
    body = {"data": [upload, None, None, "automatic"], "fn_index": number, "session_hash": "cut"}
    assert client.post("/gradio_api/queue/join", json=body).status_code == 200
    messages = queue_of(client).pending_messages_per_session["cut"]
    until(lambda: messages.qsize() >= 3, "the preview is there")
    answer = next(message.output for message in collected(messages) if hasattr(message, "output"))
    shown = answer["data"][0]["value"]["headers"]
    assert len(json.dumps(answer)) < 100_000 and all(len(name) <= 304 for name in shown)
    assert [choice[1] for choice in answer["data"][1]["choices"]] == shown
    options = table_upload.options_of()
    assert table_upload.column_of(table_upload.Path(path), shown[7], options) == names[7]


def queue_of(client):
    """The queue of the page of a client's server."""
    return client.app.routes[-1].app.get_blocks()._queue


def number_of(client, name):
    """The number of a function by its API name."""
    return next(event["id"] for event in client.get("/config").json()["dependencies"] if event["api_name"] == name)

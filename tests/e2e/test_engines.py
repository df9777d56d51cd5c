"""The same requests to both engines: one process of uvicorn, and two replicas of Ray Serve.

Tests of the wire, of limits and of errors come from the modules that hold them; here they meet real servers.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from tests.service.server.routes.test_dialects import (  # noqa: F401
    test_any_name_can_be_sent_and_no_control_character_gets_into_a_header,
    test_special_tokens_templates_and_html_stay_text,
    test_systemone_is_certain_of_a_single_option,
    test_tei_reads_one_text_one_pair_and_batches,
    test_tei_says_how_long_things_took,
    test_vllm_answers_at_both_paths_and_lets_only_harmless_fields_pass,
    test_vllm_gives_probabilities_with_their_labels,
    test_vllm_returns_logits_where_the_activation_is_turned_off,
    test_vllm_truncates_where_it_is_told_to,
    test_what_is_no_number_is_refused,
)
from tests.service.server.test_http import (  # noqa: F401
    test_a_body_over_the_limit_is_refused_in_json_whole_or_in_parts,
    test_a_body_that_is_no_json_object_is_refused,
    test_a_cut_text_is_told_in_a_header,
    test_a_path_or_hub_id_leads_nowhere,
    test_a_wrong_request_is_answered_with_a_sentence,
    test_lone_surrogates_are_read_and_never_sent_back,
    test_older_clients_get_the_shape_they_read,
    test_pairs_are_classified,
    test_parameters_of_text_classification_are_followed,
    test_text_classification_answers_a_list_for_each_text_best_first,
    test_truncation_max_length_and_return_all_scores_are_followed,
    test_zero_shot_answers_a_flat_list_best_first,
    test_zero_shot_parameters_are_followed,
)
from tests.support.waiting import until

pytestmark = pytest.mark.slow
ASK = {"inputs": "good film"}
PER_MINUTE, REPLICAS, CLIENTS = 200, 2, 6
KEYS = [f"key-of-a-client-{number:04}" for number in range(600)]
OPTIONS = (
    *("--max-body-bytes", "20000", "--max-texts", "8", "--max-labels", "4", "--max-tokens", "200"),
    *("--max-concurrent", "4", "--requests-per-minute", str(PER_MINUTE)),
)
PATH = "/models/sentiment"
unused_keys = itertools.cycle(KEYS[:200])
"""A test of its own key has the requests of a minute to itself."""


@pytest.fixture(scope="module", params=["local", "ray"])
def engine(request, start_server, tiny_models, tmp_path_factory):
    """Serve the tiny models; the server must exit with 0 on SIGTERM."""
    if request.param == "ray":
        pytest.importorskip("ray")
    folder = tmp_path_factory.mktemp("engine")
    (folder / "keys").write_text("".join(f"k{number} = {key}\n" for number, key in enumerate(KEYS)))
    extra = ("--engine", "ray", "--replicas", str(REPLICAS)) if request.param == "ray" else ()
    running = start_server(tiny_models, "--api-key-file", str(folder / "keys"), *OPTIONS, *extra)
    running.name = request.param
    yield running
    assert running.process.poll() is not None or running.stop(signal.SIGTERM, 120)[0] == 0


def connected(engine, key):
    return httpx.Client(base_url=engine.address, headers={"Authorization": f"Bearer {key}"}, timeout=60)


@pytest.fixture
def client(engine):
    """Return a client with a key that no other test has used in this minute."""
    with connected(engine, next(unused_keys)) as client:
        yield client


def metric(client, name):
    """Sums of a metric by its labels, over replicas."""
    found = re.findall(rf"^rehead_{name}(?:{{(.*?)}})? ([0-9.e+-]+)$", client.get("/metrics").text, re.MULTILINE)
    sums: dict[str, float] = {}
    for labels, value in found:
        shared = re.sub(r'replica="\w+",?', "", labels).rstrip(",")
        sums[shared] = sums.get(shared, 0.0) + float(value)
    return sums


def test_a_request_id_is_kept_or_made_and_sent_once(client):
    sent = client.post(PATH, json=ASK, headers={"X-Request-Id": "abc-1.2"}).headers
    assert sent.get_list("x-request-id") == ["abc-1.2"]
    for odd in ("", "a b", "x" * 200, "ü".encode(), b"\xff"):
        (made,) = client.get("/health", headers={"X-Request-Id": odd}).headers.get_list("x-request-id")
        assert re.fullmatch(r"[0-9a-f-]{32,36}", made)


def test_probes_and_descriptions_answer(client):
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/models/sentiment/health").json() == {"status": "ok", "models": ["sentiment"]}
    assert client.get("/models/sentiment/info").json()["labels"] == ["negative", "positive"]
    assert [entry["name"] for entry in client.get("/models").json()][:2] == ["sentiment", "topics"]
    assert client.get("/models/nope/health").status_code == 404


def test_a_key_is_needed_for_everything_but_probes(engine):
    with httpx.Client(base_url=engine.address, timeout=60) as client:
        for path in ("/health", "/health/live", "/health/ready"):
            assert client.get(path).status_code == client.head(path).status_code == 200
        for headers in ({}, {"Authorization": f"Bearer {KEYS[0]}x"}, {"X-API-Key": ""}):
            for path in ("/metrics", "/models", "/docs", "/openapi.json"):
                assert client.get(path, headers=headers).status_code == 401
            refused = client.post(PATH, json=ASK, headers=headers)
            assert refused.status_code == 401 and refused.headers["WWW-Authenticate"] == "Bearer"
            assert "send it as Authorization: Bearer KEY" in refused.json()["error"]
        assert client.post(PATH, json=ASK, headers={"X-API-Key": KEYS[0]}).status_code == 200


def test_hosts_are_free_with_a_key_and_foreign_origins_are_refused(client):
    assert client.post(PATH, json=ASK, headers={"Host": "other.example"}).status_code == 200
    refused = client.post(PATH, json=ASK, headers={"Origin": "https://evil.example"})
    assert refused.status_code == 403 and "is not allowed" in refused.json()["error"]


def test_a_client_cannot_direct_the_proxy(client):
    directions = {"x-request-timeout-seconds": "0.000001", "serve_multiplexed_model_id": "none", "x-session-id": "a"}
    assert client.post(PATH, json=ASK, headers=directions).status_code == 200


def test_a_key_has_its_requests_a_minute_in_all_and_no_more(engine):
    statuses: list[int] = []
    with connected(engine, KEYS[-1]) as client:
        while len(statuses) < 3 * PER_MINUTE and statuses[-30:] != [429] * 30:
            answer = client.post("/models/nope", json=ASK)
            statuses.append(answer.status_code)
        share = PER_MINUTE // (REPLICAS if engine.name == "ray" else 1)
        assert statuses.count(404) == PER_MINUTE and set(statuses) == {404, 429}
        assert f"rate limit of {share} requests a minute" in answer.json()["error"]
        assert answer.headers["RateLimit-Policy"] == f'"requests";q={share};w=60'
        assert 1 <= int(answer.headers["Retry-After"]) <= 60


def test_counts_are_what_the_client_counted(engine, client):
    named = f'code="200",model="sentiment",route="{"/models/{name}"}"'
    before = metric(client, "requests_total").get(named, 0)
    for _ in range(20):
        assert client.post(PATH, json=ASK).status_code == 200
    assert metric(client, "requests_total")[named] == before + 20
    assert metric(client, "waiting_tokens")['model="sentiment"'] == 0
    assert engine.name == "local" or metric(client, "replicas")[""] == REPLICAS


def test_too_many_requests_at_once_are_refused_in_a_sentence(engine):
    def ask(number):
        with connected(engine, KEYS[200 + number % 100]) as client:
            return [client.post(PATH, json={"inputs": [f"good film {number} {n}" for n in range(8)]}) for n in range(4)]

    with ThreadPoolExecutor(40) as pool:
        answers = [answer for some in pool.map(ask, range(40)) for answer in some]
    assert {answer.status_code for answer in answers} == {200, 429}
    for answer in answers:
        if answer.status_code == 429:
            assert int(answer.headers["Retry-After"]) >= 1 and answer.json()["error"]
            assert answer.json()["request_id"] == answer.headers["X-Request-Id"]


def test_the_api_is_described(engine, client):
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/models/{name}", "/predict", "/v1/classify", "/v1/systemone", "/health", "/metrics"} <= set(paths)
    assert ("Web UI" in client.get("/docs").text) is (engine.name == "local")
    assert client.get("/config").status_code == (200 if engine.name == "local" else 404)  # of the web UI


class Load:
    """Clients that send requests until the block ends; `answers` holds status, Retry-After and the error of each."""

    def __init__(self, engine):
        self.engine, self.answers, self.broken = engine, [], []
        self._keys, self._stop = itertools.cycle(KEYS[300:590]), threading.Event()

    def __enter__(self):
        self._pool = ThreadPoolExecutor(CLIENTS)
        self._clients = [self._pool.submit(self._send) for _ in range(CLIENTS)]
        until(lambda: len(self.answers) > 20, "the first answers")
        return self

    def _send(self):
        with httpx.Client(base_url=self.engine.address, timeout=60) as client:
            while not self._stop.is_set():
                try:
                    answer = client.post(PATH, json=ASK, headers={"X-API-Key": next(self._keys)})
                    self.answers.append((answer.status_code, answer.headers.get("Retry-After"), answer.text))
                except httpx.TransportError as error:
                    self.broken.append(error)
                    time.sleep(0.05)

    def __exit__(self, *error):
        self._stop.set()
        for client in self._clients:
            client.result(60)
        self._pool.shutdown()


@pytest.fixture
def on_ray(engine):
    if engine.name != "ray":
        pytest.skip("one process has no replicas")
    return engine


def replicas(client):
    return set(re.findall(r'replica="(\w+)"', client.get("/metrics").text))


CALL_WITHOUT_TOKEN = """
import sys
import grpc
from ray.serve.generated import serve_pb2, serve_pb2_grpc
try:
    channel = grpc.insecure_channel(f"127.0.0.1:{sys.argv[1]}")
    serve_pb2_grpc.ASGIServiceStub(channel).HandleRequest(serve_pb2.ASGIRequest(), timeout=30)
except grpc.RpcError as error:
    print(error.code())
"""


def test_ray_listens_on_loopback_or_asks_for_a_token_and_replicas_have_normal_priority(on_ray):
    processes = psutil.Process(on_ray.process.pid).children(recursive=True)
    listening = {
        connection.laddr: process
        for process in processes
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert len(listening) > 5  # Ray's own, and the proxy
    open_to_all = [address for address in listening if address.ip.removeprefix("::ffff:") != "127.0.0.1"]
    assert {address.ip for address in open_to_all} <= {"::"}
    for address in open_to_all:  # Ray binds this port of a replica to all addresses
        assert "ServeReplica" in " ".join(listening[address].cmdline())
        call = [sys.executable, "-c", CALL_WITHOUT_TOKEN, str(address.port)]
        assert subprocess.run(call, capture_output=True, text=True).stdout.strip() == "StatusCode.UNAUTHENTICATED"
    assert 8265 not in {address.port for address in listening}  # no dashboard
    named = [process for process in processes if "ServeReplica" in " ".join(process.cmdline())]
    assert [process.nice() for process in named] == [psutil.Process().nice()] * REPLICAS
    assert all(process.environ()["RAY_USAGE_STATS_ENABLED"] == "0" for process in named)


def test_a_killed_replica_loses_what_it_was_running_and_no_more(on_ray, client):
    before = replicas(client)
    pids = {int(pid) for pid in re.findall(r"ServeReplica:\S+ pid=(\d+)", "".join(on_ray.log))}
    with Load(on_ray) as load:
        os.kill(min(pids), signal.SIGKILL)
        begin, answered = time.monotonic(), len(load.answers)
        until(lambda: len(load.answers) > answered + 200, "answers after it")
    until(lambda: len(replicas(client)) == REPLICAS, "the new replica", every_s=0.5)
    back_s = time.monotonic() - begin
    assert not load.broken
    lost = [answer for answer in load.answers if answer[0] not in (200, 429)]
    print(f"{len(load.answers)} answers, {len(lost)} lost with the replica, capacity back after {back_s:.1f} s")
    assert len(lost) <= CLIENTS and all(answer[:2] == (503, "5") for answer in lost), lost
    assert all("the replica that ran this request ended" in answer[2] for answer in lost)
    assert len(replicas(client) & before) == REPLICAS - 1


def test_sigterm_answers_what_was_accepted_and_leaves_no_process(on_ray):
    (session,) = {path.parent for path in Path("/tmp/ray").glob(f"session_*_{on_ray.process.pid}/logs")}
    with Load(on_ray) as load:
        code, _ = on_ray.stop(signal.SIGTERM, 120)
    assert code == 0
    assert {answer[0] for answer in load.answers} <= {200, 429, 503} and 200 in {answer[0] for answer in load.answers}
    assert {answer[1] for answer in load.answers if answer[0] == 503} == {"5"}
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not [command for command in commands if session.name.encode() in command]

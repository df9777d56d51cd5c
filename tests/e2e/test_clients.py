"""Existing clients, unmodified: gradio_client, curl, huggingface.js, older releases of huggingface_hub, async.

Environment variables name clients with a separate installation: REHEAD_NODE_MODULES is a folder that contains
@huggingface/inference; REHEAD_OLD_HUB_PYTHONS are interpreters with older releases of huggingface_hub, separated by
colons; REHEAD_MCP_PYTHON is an interpreter with rehead and its extra mcp. Without a variable its tests are skipped.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import httpx
import pytest

from service import Classifier, ZeroShotClassifier

LABELS = ["sports", "business", "food, drink"]


def environment_variable(variable):
    """Return an environment variable; skip the test if it is not set."""
    if not os.environ.get(variable):
        pytest.skip(f"{variable} is not set")
    return os.environ[variable]


def scores(rows):
    return {row["label"]: pytest.approx(row["score"], abs=2e-6) for row in rows}


def scores_by_label(classifier, text, labels, **options):
    answer = classifier(text, labels, **options)
    return dict(zip(answer["labels"], answer["scores"], strict=True))


def run(command, **environment):
    done = subprocess.run(
        command, env=os.environ | {"HF_HUB_OFFLINE": "0", **environment}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


ASYNC = """
import asyncio, json, sys
from huggingface_hub import AsyncInferenceClient

async def main(address):
    sentiment = AsyncInferenceClient(base_url=f"{address}/models/sentiment")
    topics = AsyncInferenceClient(base_url=f"{address}/models/topics")
    first, *others = await asyncio.gather(
        topics.zero_shot_classification("the match", ["sports", "business", "food, drink"]),
        *(sentiment.text_classification(f"good film {n}") for n in range(40)),
    )
    print(json.dumps([[vars(label) for label in answer] for answer in (first, *others)]))

asyncio.run(main(sys.argv[1]))
"""


def test_the_async_inference_client_sends_many_requests_at_once(server, tiny_sentiment, tiny_topics):
    topic, *sentiments = run([sys.executable, "-c", ASYNC, server.address])
    assert scores(topic) == scores_by_label(ZeroShotClassifier(tiny_topics), "the match", LABELS)
    expected = Classifier(tiny_sentiment)([f"good film {n}" for n in range(40)], top_k=None)
    for answer, row in zip(sentiments, expected, strict=True):
        assert scores(answer) == {entry["label"]: entry["score"] for entry in row}


OLD = """
import json, sys, warnings
warnings.simplefilter("ignore")
import huggingface_hub
from huggingface_hub import InferenceClient

address, labels = sys.argv[1], ["sports", "business", "drink"]
def client(name):  # base_url exists since 0.24; before, an address is passed as the model
    return InferenceClient(model=f"{address}/models/{name}")

def plain(rows):
    return [{"label": row["label"], "score": row["score"]} for row in rows]

text = plain(client("sentiment").text_classification("I loved it."))
zero_shot = plain(client("topics").zero_shot_classification("the match", labels))
print(json.dumps({"release": huggingface_hub.__version__, "text": text, "zero_shot": zero_shot}))
"""


def test_older_releases_of_the_inference_client_get_the_shapes_they_read(server, tiny_sentiment, tiny_topics):
    pythons = environment_variable("REHEAD_OLD_HUB_PYTHONS").split(":")
    text = {entry["label"]: entry["score"] for entry in Classifier(tiny_sentiment)("I loved it.", top_k=None)}
    topics = scores_by_label(ZeroShotClassifier(tiny_topics), "the match", ["sports", "business", "drink"])
    for python in pythons:
        answers = run([python, "-c", OLD, server.address], PYTHONPATH="")
        assert int(answers["release"].split(".")[0]) < 1
        assert scores(answers["text"]) == text and scores(answers["zero_shot"]) == topics, answers["release"]


NODE = """
import { InferenceClient } from "@huggingface/inference";
const address = process.argv[2], labels = ["sports", "business", "food, drink"];
const sentiment = new InferenceClient().endpoint(`${address}/models/sentiment`);
const topics = new InferenceClient().endpoint(`${address}/models/topics`);
const text = await sentiment.textClassification({ inputs: "I loved it." });
const zeroShot = await topics.zeroShotClassification({ inputs: "the match", parameters: { candidate_labels: labels } });
console.log(JSON.stringify({ text, zeroShot }));
"""


def test_huggingface_js_classifies(server, tiny_sentiment, tiny_topics, tmp_path):
    modules = Path(environment_variable("REHEAD_NODE_MODULES"))
    (tmp_path / "node_modules").symlink_to(modules.resolve(), target_is_directory=True)
    (tmp_path / "classify.mjs").write_text(NODE, encoding="utf-8")
    answers = run([shutil.which("node"), str(tmp_path / "classify.mjs"), server.address])
    expected = Classifier(tiny_sentiment)("I loved it.", top_k=None)
    assert scores(answers["text"]) == {entry["label"]: entry["score"] for entry in expected}
    assert scores(answers["zeroShot"]) == scores_by_label(ZeroShotClassifier(tiny_topics), "the match", LABELS)


def test_gradio_client_calls_the_functions_of_the_page_within_the_same_limits(server, tiny_sentiment, tiny_topics):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from gradio_client itself
        from gradio_client import Client

        client = Client(server.address, verbose=False)
        names = set(client.view_api(return_format="dict")["named_endpoints"])
        assert names == {"/classify_sentiment", "/classify_topics"}
        expected = Classifier(tiny_sentiment)("I loved it.", top_k=None)
        answer = client.predict("I loved it.", api_name="/classify_sentiment")
        assert scores(answer) == {entry["label"]: entry["score"] for entry in expected}
        answer = client.predict("the match", LABELS, True, api_name="/classify_topics")
        assert scores(answer) == scores_by_label(ZeroShotClassifier(tiny_topics), "the match", LABELS, multi_label=True)
        for arguments, sentence in (
            (("a" * 20_001,), "a text may have 20000"),
            (("a", "../sentiment"), "no model '../sentiment' is served"),
            (("a", "topics"), "zero-shot model"),
        ):
            with pytest.raises(Exception, match=sentence):
                client.predict(*arguments, api_name="/classify_sentiment")
        client.close()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_commands_of_the_docs_page_work(server, tiny_sentiment):
    page = subprocess.run(["curl", "-s", f"{server.address}/docs"], capture_output=True, text=True, timeout=30).stdout
    import html
    import re
    import shlex

    commands = [html.unescape(block) for block in re.findall(r"<pre>(curl .*?)</pre>", page)]
    assert len(commands) >= 5
    for command in commands:
        words = shlex.split(command.replace("http://127.0.0.1:7860", server.address))
        done = subprocess.run([*words, "-sS", "--fail-with-body"], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        assert json.loads(done.stdout)


MCP = """
import asyncio, json, sys
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client

async def main(address):
    async with streamablehttp_client(f"{address}/gradio_api/mcp/") as (read, write, _):
        async with ClientSession(read, write) as session:
            await session.initialize()
            tools = [tool.name for tool in (await session.list_tools()).tools]
            result = await session.call_tool("classify_topics", {"text": "the match", "labels": ["sports", "business"]})
            print(json.dumps({"tools": tools, "text": result.content[0].text}))

asyncio.run(main(sys.argv[1]))
"""


def test_a_language_model_finds_the_tools(start_server, tiny_models):
    python = environment_variable("REHEAD_MCP_PYTHON")
    server = start_server(tiny_models, "--mcp", python=python)
    try:
        answer = run([python, "-c", MCP, server.address], PYTHONPATH="")
        address, headers = f"{server.address}/gradio_api/mcp/", {"Accept": "application/json, text/event-stream"}
        for method, params in (("tools/call", {"name": ["canary"]}), ("logging/setLevel", {"level": "canary"})):
            message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
            assert "Invalid request parameters" in httpx.post(address, json=message, headers=headers).text
        for name, sentence in (
            ("canary", "Unknown tool"),
            ("classify_topics", '"text":"there are 1001 candidate_labels'),
        ):
            tool = {"name": name, "arguments": {"text": "canary", "labels": [f"canary {n}" for n in range(1001)]}}
            message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": tool}
            assert sentence in httpx.post(address, json=message, headers=headers).text
        assert httpx.get(address, headers=headers).status_code == 405
        assert httpx.get(f"{address}</script>/gradio_api/mcp").status_code == 403
    finally:
        assert "canary" not in server.stop()[1]
    assert set(answer["tools"]) == {"classify_sentiment", "classify_topics"} and "sports" in answer["text"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_https_and_a_key(start_server, tiny_models, tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificate, is not installed")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem"]
    subject = ["-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, *subject], cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "keys").write_text("team = a-long-enough-key\n")
    files = ["--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem")]
    server = start_server(tiny_models, *files, "--api-key-file", str(tmp_path / "keys"))
    try:
        assert server.address.startswith("https://")
        curl = ["curl", "-s", "--cacert", str(tmp_path / "cert.pem"), "--json", '{"inputs": "a film"}', server.address]
        done = [subprocess.run([*curl, *key], capture_output=True, text=True, timeout=30).stdout
                for key in ([], ["-H", "Authorization: Bearer a-long-enough-key"])]  # fmt: skip
    finally:
        server.stop()
    assert "API key required" in json.loads(done[0])["error"] and len(json.loads(done[1])[0]) == 2

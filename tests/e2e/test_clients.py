"""More clients that people have already, unmodified: gradio_client, curl, huggingface.js, older releases, async.

Those that need an installation of their own are named by the environment: REHEAD_NODE_MODULES is a folder with
@huggingface/inference in it; REHEAD_OLD_HUB_PYTHONS are interpreters with older releases of huggingface_hub, colons
between them; REHEAD_MCP_PYTHON is one with rehead and its extra mcp. Their tests are skipped where it names none.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from service import Classifier, ZeroShotClassifier

LABELS = ["sports", "business", "food, drink"]


def named(variable):
    """What a variable of the environment names; skips where it names nothing."""
    if not os.environ.get(variable):
        pytest.skip(f"{variable} names none")
    return os.environ[variable]


def scores(rows):
    return {row["label"]: pytest.approx(row["score"], abs=2e-6) for row in rows}


def of_labels(classifier, text, labels, **options):
    found = classifier(text, labels, **options)
    return dict(zip(found["labels"], found["scores"], strict=True))


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
    one, *many = await asyncio.gather(
        topics.zero_shot_classification("the match", ["sports", "business", "food, drink"]),
        *(sentiment.text_classification(f"good film {n}") for n in range(40)),
    )
    print(json.dumps([[vars(label) for label in answer] for answer in (one, *many)]))

asyncio.run(main(sys.argv[1]))
"""


def test_the_async_inference_client_asks_many_at_once(server, tiny_sentiment, tiny_topics):
    one, *many = run([sys.executable, "-c", ASYNC, server.address])
    assert scores(one) == of_labels(ZeroShotClassifier(tiny_topics), "the match", LABELS)
    expected = Classifier(tiny_sentiment)([f"good film {n}" for n in range(40)], top_k=None)
    for found, wanted in zip(many, expected, strict=True):
        assert scores(found) == {each["label"]: each["score"] for each in wanted}


OLD = """
import json, sys, warnings
warnings.simplefilter("ignore")
import huggingface_hub
from huggingface_hub import InferenceClient

address, labels = sys.argv[1], ["sports", "business", "drink"]
def ask(name):  # base_url came with 0.24; before, an address was given as the model
    return InferenceClient(model=f"{address}/models/{name}")

def plain(rows):
    return [{"label": row["label"], "score": row["score"]} for row in rows]

text = plain(ask("sentiment").text_classification("I loved it."))
one = plain(ask("topics").zero_shot_classification("the match", labels))
print(json.dumps({"release": huggingface_hub.__version__, "text": text, "one": one}))
"""


def test_older_releases_of_the_inference_client_get_the_shapes_they_read(server, tiny_sentiment, tiny_topics):
    pythons = named("REHEAD_OLD_HUB_PYTHONS").split(":")
    text = {one["label"]: one["score"] for one in Classifier(tiny_sentiment)("I loved it.", top_k=None)}
    topics = of_labels(ZeroShotClassifier(tiny_topics), "the match", ["sports", "business", "drink"])
    for python in pythons:
        found = run([python, "-c", OLD, server.address], PYTHONPATH="")
        assert int(found["release"].split(".")[0]) < 1
        assert scores(found["text"]) == text and scores(found["one"]) == topics, found["release"]


NODE = """
import { InferenceClient } from "@huggingface/inference";
const address = process.argv[2], labels = ["sports", "business", "food, drink"];
const sentiment = new InferenceClient().endpoint(`${address}/models/sentiment`);
const topics = new InferenceClient().endpoint(`${address}/models/topics`);
const text = await sentiment.textClassification({ inputs: "I loved it." });
const one = await topics.zeroShotClassification({ inputs: "the match", parameters: { candidate_labels: labels } });
console.log(JSON.stringify({ text, one }));
"""


def test_huggingface_js_classifies(server, tiny_sentiment, tiny_topics, tmp_path):
    modules = Path(named("REHEAD_NODE_MODULES"))
    (tmp_path / "node_modules").symlink_to(modules.resolve(), target_is_directory=True)
    (tmp_path / "ask.mjs").write_text(NODE, encoding="utf-8")
    found = run([shutil.which("node"), str(tmp_path / "ask.mjs"), server.address])
    expected = Classifier(tiny_sentiment)("I loved it.", top_k=None)
    assert scores(found["text"]) == {one["label"]: one["score"] for one in expected}
    assert scores(found["one"]) == of_labels(ZeroShotClassifier(tiny_topics), "the match", LABELS)


def test_gradio_client_calls_the_functions_of_the_page_within_the_same_limits(server, tiny_sentiment, tiny_topics):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of gradio_client's own
        from gradio_client import Client

        client = Client(server.address, verbose=False)
        names = set(client.view_api(return_format="dict")["named_endpoints"])
        assert names == {"/classify_sentiment", "/classify_topics"}
        expected = Classifier(tiny_sentiment)("I loved it.", top_k=None)
        found = client.predict("I loved it.", api_name="/classify_sentiment")
        assert scores(found) == {one["label"]: one["score"] for one in expected}
        found = client.predict("the match", LABELS, True, api_name="/classify_topics")
        assert scores(found) == of_labels(ZeroShotClassifier(tiny_topics), "the match", LABELS, multi_label=True)
        for arguments, sentence in (
            (("a" * 20_001,), "a text may have 20000"),
            (("a", "../sentiment"), "no model '../sentiment' is served"),
            (("a", "topics"), "zero-shot model"),
        ):
            with pytest.raises(Exception, match=sentence):
                client.predict(*arguments, api_name="/classify_sentiment")
        client.close()


def test_curl_as_the_docs_say_it(server, tiny_sentiment):
    page = subprocess.run(["curl", "-s", f"{server.address}/docs"], capture_output=True, text=True, timeout=30).stdout
    import html
    import re
    import shlex

    commands = [html.unescape(one) for one in re.findall(r"<pre>(curl .*?)</pre>", page)]
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
            said = await session.call_tool("classify_topics", {"text": "the match", "labels": ["sports", "business"]})
            print(json.dumps({"tools": tools, "said": said.content[0].text}))

asyncio.run(main(sys.argv[1]))
"""


def test_a_language_model_finds_the_tools(start_server, tiny_models):
    python = named("REHEAD_MCP_PYTHON")
    server = start_server(tiny_models, "--mcp", python=python)
    try:
        found = run([python, "-c", MCP, server.address], PYTHONPATH="")
    finally:
        server.stop()
    assert set(found["tools"]) == {"classify_sentiment", "classify_topics"} and "sports" in found["said"]


def test_https_and_a_key(start_server, tiny_models, tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem"]
    subject = ["-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*made, *subject], cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "keys").write_text("team = a-long-enough-key\n")
    files = ["--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem")]
    server = start_server(tiny_models, *files, "--api-key-file", str(tmp_path / "keys"))
    try:
        assert server.address.startswith("https://")
        ask = ["curl", "-s", "--cacert", str(tmp_path / "cert.pem"), "--json", '{"inputs": "a film"}', server.address]
        done = [subprocess.run([*ask, *key], capture_output=True, text=True, timeout=30).stdout
                for key in ([], ["-H", "Authorization: Bearer a-long-enough-key"])]  # fmt: skip
    finally:
        server.stop()
    assert "API key required" in json.loads(done[0])["error"] and len(json.loads(done[1])[0]) == 2

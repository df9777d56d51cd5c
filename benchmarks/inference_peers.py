"""The contestants of benchmarks/inference.py, one process each: `inference_peers.py NAME JOB.json`.

A process loads its contestant, reads the number of a part of the texts from its input, classifies the part, and prints
the result as JSON. A contestant may time batch sizes on the warm-up texts before it reports that it is ready, and uses
the fastest.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

BATCH_SIZES = (8, 32, 64)
Answer = tuple[str, float]
"""The top label, and the margin of its score over the next."""

Call = Callable[[list[str]], list[Answer]]


def best_batch(call: Callable[[list[str], int], list[Answer]], warm_up: list[str]) -> tuple[Call, int]:
    """Return the call with the batch size that is fastest on the warm-up texts, and that size."""
    seconds = {}
    call(warm_up[:2], BATCH_SIZES[0])
    for size in BATCH_SIZES:
        start = time.perf_counter()
        call(warm_up, size)
        seconds[size] = time.perf_counter() - start
    best = min(seconds, key=lambda size: seconds[size])
    return lambda texts: call(texts, best), best


def margin(scores: Any) -> float:
    """Return the difference of the two highest scores."""
    first, second = sorted(scores, reverse=True)[:2]
    return float(first - second)


def pipeline(job: dict[str, Any], dtype: str) -> tuple[Call, int]:
    """Load the stock pipeline, with the length limit of rehead."""
    import torch
    from transformers import pipeline as make

    torch.set_num_threads(job["threads"])
    labels = job["labels"]
    task = "zero-shot-classification" if labels else "text-classification"
    pipe = make(task, model=job["model"], dtype=getattr(torch, dtype), device="cpu")
    pipe.tokenizer.model_max_length = job["max_length"]

    def call(texts: list[str], size: int) -> list[Answer]:
        if labels:
            answers = pipe(texts, labels, hypothesis_template=job["template"], batch_size=size)
            return [(answer["labels"][0], margin(answer["scores"])) for answer in answers]
        answers = pipe(texts, top_k=None, truncation=True, batch_size=size)
        return [(answer[0]["label"], margin([entry["score"] for entry in answer])) for answer in answers]

    return best_batch(call, job["warm_up"])


def rehead(job: dict[str, Any], **runtime: Any) -> tuple[Call, int]:
    """Load rehead with its defaults; `runtime` selects a backend, `shortlist` or `pairs` another way to compute."""
    from finetune.core.model_folder import read
    from service.inference.engine import Engine
    from service.schema import TextInput, ZeroShotRequest
    from service.settings import RuntimeSettings

    shortlist, pairs = runtime.pop("shortlist", None), runtime.pop("pairs", False)
    settings = RuntimeSettings.from_environment(threads=job["threads"], **runtime)
    engine = Engine.load(read(job["model"]), settings, log=lambda line: print(line, file=sys.stderr))
    if pairs:
        engine.backend.one_pass = False  # type: ignore[misc]
    question = ZeroShotRequest(tuple(job["labels"]), hypothesis_template=job["template"], shortlist=shortlist)

    def call(texts: list[str]) -> list[Answer]:
        if job["labels"]:
            answers = engine.zero_shot(texts, question)
        else:
            answers = engine.classify([TextInput(text) for text in texts])
        return [(answer.best.label, margin([entry.score for entry in answer.predictions])) for answer in answers]

    call(job["warm_up"])
    return call, 64


def gliclass(job: dict[str, Any], dtype: str) -> tuple[Call, int]:
    """Load GLiClass with random weights of the model's size: only its speed is compared."""
    import torch
    from gliclass import GLiClassModel, GLiClassModelConfig, ZeroShotClassificationPipeline
    from transformers import AutoConfig, AutoTokenizer

    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    tokenizer.add_tokens(["<<LABEL>>", "<<SEP>>"], special_tokens=True)
    body = AutoConfig.from_pretrained(job["model"])
    body.vocab_size = len(tokenizer)
    config = GLiClassModelConfig(
        encoder_config=body,
        encoder_model=job["model"],
        class_token_index=len(tokenizer) - 2,
        text_token_index=len(tokenizer) - 1,
        pooling_strategy="avg",
        class_token_pooling="average",
        architecture_type="uni-encoder",
        hidden_size=body.hidden_size,
        vocab_size=len(tokenizer),
    )
    model = GLiClassModel(config).to(getattr(torch, dtype)).eval()
    pipe = ZeroShotClassificationPipeline(
        model, tokenizer, classification_type="multi-label", device="cpu", progress_bar=False
    )
    # its sequence holds the labels as well: their tokens are added to the limit of the text
    own = len(tokenizer(" ".join(f"<<LABEL>>{label}" for label in job["labels"]))["input_ids"])

    def call(texts: list[str], size: int) -> list[Answer]:
        pipe(texts, job["labels"], threshold=0.0, batch_size=size)
        return [("", 0.0)] * len(texts)

    for part in (pipe, getattr(pipe, "pipe", None)):
        if part is not None and hasattr(part, "max_length"):
            part.max_length = min(512, job["max_length"] + own)
    return best_batch(call, job["warm_up"])


def cross_encoder(job: dict[str, Any], backend: str, dtype: str = "float32") -> tuple[Call, int]:
    """Load sentence-transformers' CrossEncoder on a runtime; it takes pairs, so the second text is empty."""
    import numpy as np
    import torch
    from scipy.special import softmax
    from sentence_transformers import CrossEncoder
    from transformers import AutoConfig

    torch.set_num_threads(job["threads"])
    names = AutoConfig.from_pretrained(job["model"]).id2label
    options: dict[str, Any] = {"dtype": getattr(torch, dtype)} if backend == "torch" else {}
    if backend == "openvino":
        options["ov_config"] = {
            "INFERENCE_PRECISION_HINT": {"bfloat16": "bf16", "float32": "f32"}[dtype],
            "INFERENCE_NUM_THREADS": job["threads"],
        }
    model = CrossEncoder(
        job["model"], backend=backend, model_kwargs=options, max_length=job["max_length"], device="cpu"
    )

    def call(texts: list[str], size: int) -> list[Answer]:
        pairs = [(text, "") for text in texts]
        scores = softmax(model.predict(pairs, batch_size=size, apply_softmax=False, convert_to_numpy=True), axis=1)
        return [(names[int(np.argmax(row))], margin(row)) for row in scores]

    return best_batch(call, job["warm_up"])


CONTESTANTS: dict[str, Callable[[dict[str, Any]], tuple[Call, int]]] = {
    "rehead": rehead,
    "rehead torch bfloat16": lambda job: rehead(job, backend="torch", precision="bfloat16"),
    "rehead torch float32": lambda job: rehead(job, backend="torch", precision="float32"),
    "rehead openvino float32": lambda job: rehead(job, backend="openvino", precision="float32"),
    "rehead openvino int8": lambda job: rehead(job, backend="openvino", precision="int8"),
    "rehead onnx float32": lambda job: rehead(job, backend="onnx", precision="float32"),
    "rehead shortlist 10": lambda job: rehead(job, shortlist=10),
    "rehead shortlist 20": lambda job: rehead(job, shortlist=20),
    "pairs float32": lambda job: rehead(job, backend="torch", precision="float32", pairs=True),
    "pipeline float32": lambda job: pipeline(job, "float32"),
    "pipeline bfloat16": lambda job: pipeline(job, "bfloat16"),
    "gliclass float32": lambda job: gliclass(job, "float32"),
    "gliclass bfloat16": lambda job: gliclass(job, "bfloat16"),
    "cross_encoder bfloat16": lambda job: cross_encoder(job, "torch", "bfloat16"),
    "cross_encoder openvino float32": lambda job: cross_encoder(job, "openvino", "float32"),
    "cross_encoder openvino bfloat16": lambda job: cross_encoder(job, "openvino", "bfloat16"),
    "cross_encoder onnx": lambda job: cross_encoder(job, "onnx"),
}


def main() -> None:
    """Load the contestant, report its batch size, and classify parts until the input ends."""
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries may print to stdout
    job = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    call, size = CONTESTANTS[sys.argv[1]](job)
    print(json.dumps({"batch_size": size}), file=answers, flush=True)
    for line in sys.stdin:
        texts = job["parts"][int(line)]
        top, seconds = [], []
        for chunk in [[text] for text in texts] if job["one_by_one"] else [texts]:
            start = time.perf_counter()
            top += call(chunk)
            seconds.append(time.perf_counter() - start)
        memory = psutil.Process().memory_info().rss // 2**20
        answer = {"seconds": sum(seconds), "each": seconds, "answers": top, "mb": memory}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()

"""Measure inference on a GPU: `python benchmarks/cuda.py --data DATA`.

Runs the workloads of inference.py on models of three sizes, and compares them with the stock pipeline and with the
rate that the card's matrix products would allow.

models/topics is used as it ships; the other models have random weights, in the sizes of models/sentiment, BERT-base and
BERT-large, and only their speed is measured. For models/topics the agreement with float32 is measured too. The pipeline
classifies the first texts of a workload in bfloat16 at its best batch size. Rates are medians of three calls,
tokenization included.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
import transformers
from inference import WORKLOADS, job_of, operations, tokens_per_text
from torch.profiler import ProfilerActivity, profile

from finetune.core.model_folder import read
from service.inference.engine import Engine
from service.schema import TextInput, ZeroShotRequest
from service.settings import RuntimeSettings

SIZES: dict[str, dict[str, int]] = {
    "small": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
}
ROWS = {"dbpedia14": 500, "titles": 4000, "banking77": 3000, "imdb topics": 4000, "sst2": 10000, "imdb": 5000}
PIPELINE_ROWS = {"dbpedia14": 200, "titles": 200, "banking77": 50, "imdb topics": 200, "sst2": 2000, "imdb": 500}
PIPELINE_BATCHES = (64, 256)


def matrix_rate(width: int) -> float:
    """Return the bfloat16 operations a second of `[65536, width] x [width, 4 * width]`."""
    left, right = (
        torch.randn(*shape, device="cuda", dtype=torch.bfloat16) for shape in ((65536, width), (width, 4 * width))
    )
    seconds = [_seconds(lambda: left @ right) for _ in range(20)]
    return 2 * 65536 * width * 4 * width / median(seconds[5:])


def _seconds(call: Callable[[], Any]) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def random_model(models: Path, size: str, task: str, folder: Path) -> Path:
    """Write a model folder of a size with random weights, and the settings of the shipped model of the task."""
    target = folder / f"{size}-{task}"
    shutil.copytree(models / task, target, ignore=shutil.ignore_patterns("*.safetensors"))
    config = transformers.AutoConfig.from_pretrained(str(models / task), **SIZES[size])
    torch.manual_seed(0)
    transformers.AutoModelForSequenceClassification.from_config(config).to(torch.bfloat16).save_pretrained(str(target))
    return target


def busy(call: Callable[[], Any]) -> float:
    """Return the seconds that the card computes for a call."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        call()
        torch.cuda.synchronize()
    return float(sum(event.self_device_time_total for event in profiled.key_averages())) / 1e6


def classifier_of(engine: Engine, job: dict[str, Any]) -> Callable[[Sequence[str]], list[str]]:
    """Return a function from texts to their top labels."""
    question = ZeroShotRequest(tuple(job["labels"]), hypothesis_template=job["template"])

    def classify(texts: Sequence[str]) -> list[str]:
        if job["labels"]:
            return [answer.best.label for answer in engine.zero_shot(texts, question)]
        return [answer.best.label for answer in engine.classify([TextInput(text) for text in texts])]

    return classify


def pipeline_rate(job: dict[str, Any], texts: list[str]) -> float:
    """Return the texts a second of the stock pipeline in bfloat16, at its best batch size."""
    labels = job["labels"]
    task = "zero-shot-classification" if labels else "text-classification"
    transformers.utils.logging.disable_progress_bar()
    pipe = transformers.pipeline(task, model=job["model"], dtype=torch.bfloat16, device="cuda")
    pipe.tokenizer.model_max_length = job["max_length"]

    def classify(chunk: list[str], size: int) -> Any:
        if labels:
            return pipe(chunk, labels, hypothesis_template=job["template"], batch_size=size)
        return pipe(chunk, truncation=True, top_k=None, batch_size=size)

    classify(texts[:8], 8)
    return max(len(texts) / _seconds(lambda size=size: classify(texts, size)) for size in PIPELINE_BATCHES)


def measure(name: str, size: str, job: dict[str, Any], rate: float, compare_float32: bool) -> list[Any]:
    """Return a row of the table."""
    folder = read(job["model"])
    texts = [text for part in job["parts"] for text in part]
    engine = Engine.load(folder, RuntimeSettings(backend="torch", precision="bfloat16"))
    classify = classifier_of(engine, job)
    classify(texts)
    round_s = []
    for _ in range(3):
        start = time.perf_counter()
        answers = classify(texts)
        round_s.append(time.perf_counter() - start)
    busy_s = busy(lambda: classify(texts))
    single_s = [_seconds(lambda text=text: classify([text])) for text in (texts * 220)[:220]][20:]
    backend: Any = engine.backend
    backend.unpadded, backend.is_padded = None, True
    padded = busy(lambda: classifier_of(Engine(folder, engine._runner.encoder, backend), job)(texts[:1000]))
    padded_costs = padded / len(texts[:1000]) * len(texts) / busy_s
    engine.close()
    agreement = ""
    if compare_float32:
        exact = Engine.load(folder, RuntimeSettings(backend="torch", precision="float32"))
        expected = classifier_of(exact, job)(texts[:1000])
        agreement = f"{sum(map(str.__eq__, expected, answers)) / len(expected):.3f}"
        exact.close()
    tokens, _ = tokens_per_text(job)
    config = json.loads((folder.path / "config.json").read_text(encoding="utf-8"))
    floor_s = operations(config, tokens, len(job["labels"]) or 1) / rate
    pipeline_texts_per_s = pipeline_rate(job, texts[: PIPELINE_ROWS[name]])
    texts_per_s = len(texts) / median(round_s)
    return [
        size,
        name,
        len(texts),
        round(tokens),
        f"{texts_per_s:,.0f}",
        f"{texts_per_s / pipeline_texts_per_s:.1f}",
        f"{texts_per_s * floor_s:.0%}",
        f"{busy_s / median(round_s):.0%}",
        f"{len(texts) / busy_s * floor_s:.0%}",
        f"{padded_costs:.1f}",
        f"{1000 * median(single_s):.1f}",
        f"{1000 * quantiles(single_s, n=100)[98]:.1f}",
        agreement,
    ]


def main() -> None:
    """Measure every size and workload, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data", help="folder of the labeled data")
    parser.add_argument("--models", default="models", help="folder with sentiment and topics")
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--fraction", type=float, default=1.0, help="fraction of each workload's rows to use")
    args = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    models = Path(args.models)
    print(
        f"{torch.cuda.get_device_name()}, {os.cpu_count()} cores, torch {torch.__version__}, transformers "
        f"{transformers.__version__}, Python {platform.python_version()}"
    )
    titles = ["model", "workload", "texts", "tokens", "texts/s", "x pipeline", "of matrix rate", "card busy"]
    titles += ["of matrix rate while busy", "padded costs the card", "one: p50 ms", "p99 ms", "as float32"]
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for size in args.sizes:
            rate = matrix_rate(SIZES[size]["hidden_size"])
            print(f"{size}: matrix rate {rate / 1e12:.0f} TFLOP/s", flush=True)
            for name, workload in WORKLOADS.items():
                task = "sentiment" if workload.labels is None else "topics"
                count = ROWS[name] if size == "small" else max(200, ROWS[name] // (3 if size == "base" else 8))
                job = job_of(replace(workload, rows=count), Path(args.data), models, args.fraction)
                shipped = size == "small" and task == "topics"
                folder = Path(temporary) / f"{size}-{task}"
                if not shipped and not folder.exists():
                    random_model(models, size, task, Path(temporary))
                job["model"] = str((models / task if shipped else folder).resolve())
                rows.append(measure(name, size, job, rate, shipped))
                print(f"| {' | '.join(map(str, rows[-1]))} |", flush=True)
    print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    print("\n".join(f"| {' | '.join(map(str, row))} |" for row in rows))


if __name__ == "__main__":
    main()

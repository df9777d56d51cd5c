"""Measures answering on a GPU: `python benchmarks/cuda.py --data DATA`.

Knows: the workloads of inference.py on models of three sizes, what the card's matrix rate
would allow, the stock pipeline.
Does not know: other peers, a machine without a GPU.

models/topics as it is; the other models have random weights, of the size of models/sentiment, BERT-base and BERT-large:
only speed is looked at, beside the agreement of models/topics with float32. The pipeline answers the first texts of a
workload at its best batch size in bfloat16. Rates are medians of three calls, tokenization included.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
import transformers
from torch.profiler import ProfilerActivity, profile

sys.path[0] = str(Path(__file__).parents[1])
from benchmarks.inference import WORKLOADS, job_of, operations, tokens_per_text
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
    """bfloat16 operations a second of `[65536, width] x [width, 4 * width]`."""
    one, other = (
        torch.randn(*shape, device="cuda", dtype=torch.bfloat16) for shape in ((65536, width), (width, 4 * width))
    )
    seconds = [_timed(lambda: one @ other) for _ in range(20)]
    return 2 * 65536 * width * 4 * width / median(seconds[5:])


def _timed(call: Callable[[], Any]) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def random_model(models: Path, size: str, task: str, folder: Path) -> Path:
    """A model folder of a size, with random weights; it cuts and asks as the shipped model of the task does."""
    made = folder / f"{size}-{task}"
    shutil.copytree(models / task, made, ignore=shutil.ignore_patterns("*.safetensors"))
    config = transformers.AutoConfig.from_pretrained(str(models / task), **SIZES[size])
    torch.manual_seed(0)
    transformers.AutoModelForSequenceClassification.from_config(config).to(torch.bfloat16).save_pretrained(str(made))
    return made


def busy(call: Callable[[], Any]) -> float:
    """Seconds that the card computes for a call."""
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        call()
        torch.cuda.synchronize()
    return float(sum(one.self_device_time_total for one in found.key_averages())) / 1e6


def asking(engine: Engine, job: dict[str, Any]) -> Callable[[Sequence[str]], list[str]]:
    """Texts to top labels."""
    question = ZeroShotRequest(tuple(job["labels"]), hypothesis_template=job["template"])

    def ask(texts: Sequence[str]) -> list[str]:
        if job["labels"]:
            return [one.best.label for one in engine.zero_shot(texts, question)]
        return [one.best.label for one in engine.classify([TextInput(text) for text in texts])]

    return ask


def pipeline_rate(job: dict[str, Any], texts: list[str]) -> float:
    """Texts a second of the stock pipeline in bfloat16, at its best batch size."""
    labels = job["labels"]
    task = "zero-shot-classification" if labels else "text-classification"
    transformers.utils.logging.disable_progress_bar()
    pipe = transformers.pipeline(task, model=job["model"], dtype=torch.bfloat16, device="cuda")
    pipe.tokenizer.model_max_length = job["max_length"]

    def ask(some: list[str], size: int) -> Any:
        if labels:
            return pipe(some, labels, hypothesis_template=job["template"], batch_size=size)
        return pipe(some, truncation=True, top_k=None, batch_size=size)

    ask(texts[:8], 8)
    return max(len(texts) / _timed(lambda size=size: ask(texts, size)) for size in PIPELINE_BATCHES)


def measured(name: str, size: str, job: dict[str, Any], rate: float, agree: bool) -> list[Any]:
    """A row of the table."""
    folder = read(job["model"])
    texts = [text for part in job["parts"] for text in part]
    engine = Engine.load(folder, RuntimeSettings(backend="torch", precision="bfloat16"))
    ask = asking(engine, job)
    ask(texts)
    rounds = []
    for _ in range(3):
        start = time.perf_counter()
        answers = ask(texts)
        rounds.append(time.perf_counter() - start)
    at_work = busy(lambda: ask(texts))
    ones = [_timed(lambda text=text: ask([text])) for text in (texts * 220)[:220]][20:]
    backend: Any = engine.backend
    backend.unpadded, backend.is_padded = None, True
    padded = busy(lambda: asking(Engine(folder, engine._runner.encoder, backend), job)(texts[:1000]))
    padded_costs = padded / len(texts[:1000]) * len(texts) / at_work
    engine.close()
    same = ""
    if agree:
        exact = Engine.load(folder, RuntimeSettings(backend="torch", precision="float32"))
        expected = asking(exact, job)(texts[:1000])
        same = f"{sum(map(str.__eq__, expected, answers)) / len(expected):.3f}"
        exact.close()
    once, _ = tokens_per_text(job)
    config = json.loads((folder.path / "config.json").read_text(encoding="utf-8"))
    least = operations(config, once, len(job["labels"]) or 1) / rate
    stock = pipeline_rate(job, texts[: PIPELINE_ROWS[name]])
    best = len(texts) / median(rounds)
    return [
        size,
        name,
        len(texts),
        round(once),
        f"{best:,.0f}",
        f"{best / stock:.1f}",
        f"{best * least:.0%}",
        f"{at_work / median(rounds):.0%}",
        f"{len(texts) / at_work * least:.0%}",
        f"{padded_costs:.1f}",
        f"{1000 * median(ones):.1f}",
        f"{1000 * quantiles(ones, n=100)[98]:.1f}",
        same,
    ]


def main() -> None:
    """Run, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data", help="folder of the labelled data")
    parser.add_argument("--models", default="models", help="folder with sentiment and topics")
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--share", type=float, default=1.0, help="part of each workload's rows")
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
                rows_wanted = ROWS[name] if size == "small" else max(200, ROWS[name] // (3 if size == "base" else 8))
                job = job_of(replace(workload, rows=rows_wanted), Path(args.data), models, args.share)
                shipped = size == "small" and task == "topics"
                made = Path(temporary) / f"{size}-{task}"
                if not shipped and not made.exists():
                    random_model(models, size, task, Path(temporary))
                job["model"] = str((models / task if shipped else made).resolve())
                rows.append(measured(name, size, job, rate, shipped))
                print(f"| {' | '.join(map(str, rows[-1]))} |", flush=True)
    print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    print("\n".join(f"| {' | '.join(map(str, row))} |" for row in rows))


if __name__ == "__main__":
    main()

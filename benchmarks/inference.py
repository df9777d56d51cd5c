"""Measure inference against its peers: `python benchmarks/inference.py --peer-python PYTHON`.

Runs the workloads, with one process per contestant (inference_peers.py), and reports medians, ratios, and the rate that
token counts and the CPU's matrix products would allow.

The rows of a workload are split into parts; the contestants compute each part in turn, and the median over its parts is
a contestant's rate. `--one` classifies text by text instead and reports the latency of single answers; `--agreement`
compares answers with those of float32 pairs under the same mask, without timing. `--append FILE` adds the tables to a
file. `--peer-python` needs gliclass, `--cross-encoder-python` sentence-transformers, optimum-intel and optimum-onnx.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import pandas as pd

SEED, THREADS = 0, 2
ELSEWHERE = {"gliclass": "peer_python", "cross_encoder": "cross_encoder_python"}


@dataclass(frozen=True)
class Workload:
    """Rows of a set and their candidate labels: () for those of the set, None for the labels of models/sentiment."""

    file: str
    rows: int
    parts: int
    labels: tuple[str, ...] | None = None
    contestants: tuple[str, ...] = ()


PIPELINES = ("pipeline float32", "pipeline bfloat16")
PEERS = ("gliclass float32", "gliclass bfloat16")
CROSS = ("cross_encoder bfloat16", "cross_encoder openvino float32", "cross_encoder openvino bfloat16")
FILM_TOPICS = "acting, plot, music, special effects, comedy, horror, romance, war, family, politics"
WORKLOADS = {
    "dbpedia14": Workload("dbpedia14/sample.parquet", 500, 5, (), ("rehead", *PIPELINES, *PEERS)),
    "titles": Workload("stackoverflow_titles/all.parquet", 2000, 5, (), ("rehead", *PIPELINES, *PEERS)),
    "banking77": Workload("banking77/train.parquet", 300, 5, (), ("rehead", "rehead shortlist 20", *PIPELINES, *PEERS)),
    "imdb topics": Workload(
        "imdb/train.parquet", 200, 5, tuple(FILM_TOPICS.split(", ")), ("rehead", *PIPELINES, *PEERS)
    ),
    "sst2": Workload("sst2/train.parquet", 5000, 5, None, ("rehead", *PIPELINES, *CROSS)),
    "imdb": Workload("imdb/train.parquet", 500, 5, None, ("rehead", *PIPELINES, *CROSS)),
}


def job_of(workload: Workload, data: Path, models: Path, fraction: float) -> dict[str, Any]:
    """Return the input of every contestant: texts in parts, labels as words, and the length limit."""
    table = pd.read_parquet(data / workload.file)
    table = table[~table.text.duplicated()].sample(frac=1, random_state=SEED)
    rows = max(workload.parts, round(workload.rows * fraction))
    texts, right = table.text[:rows].tolist(), table.label[:rows].astype(str)
    model = models / ("sentiment" if workload.labels is None else "topics")
    settings = json.loads((model / "classifier.json").read_text(encoding="utf-8"))
    labels = list(workload.labels or ())
    if workload.labels == ():
        spelled = {name: name.replace("_", " ").strip() for name in table.label.astype(str).unique()}
        labels, right = sorted(spelled.values()), right.map(spelled)
    size = -(-rows // workload.parts)
    return {
        "model": str(model.resolve()),
        "labels": labels,
        "template": settings.get("hypothesis_template"),
        "max_length": settings["max_length"],
        "parts": [texts[start : start + size] for start in range(0, rows, size)],
        "warm_up": table.text[rows : rows + max(4, min(64, rows // 20))].tolist(),
        "right": right.tolist() if workload.labels in ((), None) else None,
        "threads": THREADS,
        "one_by_one": False,
    }


@contextmanager
def started(name: str, job: Path, python: str) -> Iterator[Any]:
    """Start a contestant and yield a function that computes the part of a number."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), str(THREADS))
    command = [python, "-P", "-W", "ignore", str(Path(__file__).with_name("inference_peers.py")), name, str(job)]
    environment = os.environ | threads | {"PYTHONPATH": str(Path(__file__).parents[1]), "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        assert process.stdin and process.stdout

        def compute(part: int | None) -> dict[str, Any]:
            if part is not None:
                process.stdin.write(f"{part}\n")
                process.stdin.flush()
            line = process.stdout.readline()
            if not line:
                errors.seek(0)
                raise RuntimeError(f"{name} ended: {errors.read()[-1500:]}")
            return dict(json.loads(line))

        try:
            compute.batch_size = compute(None)["batch_size"]  # type: ignore[attr-defined]
            yield compute
        finally:
            process.stdin.close()
            process.wait()


def measure(workload: Workload, job: dict[str, Any], names: list[str], args: argparse.Namespace) -> dict[str, Any]:
    """Return seconds and answers of every contestant, part by part in turn; an error for one that did not start."""
    results: dict[str, Any] = {}
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        file = Path(folder) / "job.json"
        file.write_text(json.dumps(job), encoding="utf-8")
        running = {}
        for name in names:
            python = getattr(args, ELSEWHERE.get(name.split()[0], ""), sys.executable)
            try:
                running[name] = stack.enter_context(started(name, file, python))
            except RuntimeError as error:
                results[name] = {"error": str(error)}
                print(str(error)[-400:], file=sys.stderr)
        for part in range(len(job["parts"])):
            for name, compute in running.items():
                answer = compute(part)
                empty = {"seconds": [], "each": [], "answers": [], "batch_size": compute.batch_size}
                result = results.setdefault(name, empty)
                result["seconds"].append(answer["seconds"])
                result["each"] += answer["each"]
                result["answers"] += answer["answers"]
                result["mb"] = answer["mb"]
    return results


def matrix_rate() -> float:
    """Return the operations a second of a large matrix product in bfloat16, or in float32 where that is faster."""
    import torch

    torch.set_num_threads(THREADS)
    rates = []
    for dtype in (torch.bfloat16, torch.float32):
        left, right = torch.randn(4096, 1536).to(dtype), torch.randn(1536, 1536).to(dtype)
        seconds = []
        for _ in range(8):
            start = time.perf_counter()
            left @ right
            seconds.append(time.perf_counter() - start)
        rates.append(2 * 4096 * 1536 * 1536 / median(seconds[2:]))
    return max(rates)


def tokens_per_text(job: dict[str, Any]) -> tuple[float, float]:
    """Return the tokens per text without padding: in one pass for all labels, and in pairs."""
    from finetune.core.model_folder import read
    from finetune.core.tokenization import TextEncoder

    folder = read(job["model"])
    encoder = TextEncoder.load(folder.path, folder.config, max_length=job["max_length"])
    texts = [text for part in job["parts"] for text in part]
    if not job["labels"]:
        own = sum(map(len, encoder(texts))) / len(texts)
        return own, own
    ends = encoder.hypotheses([job["template"].replace("{}", label) for label in job["labels"]])
    own = sum(map(len, encoder.before_hypotheses(texts, max(map(len, ends))))) / len(texts)
    behind = sum(map(len, ends))
    return own - 1 + behind + len(ends), own * len(ends) + behind


def operations(config: dict[str, Any], tokens: float, firsts: float) -> float:
    """Return the operations of matrix products with weights.

    All layers count for every token, except that the last layer computes what follows keys and values only for the
    `firsts` first tokens.
    """
    width, inner = config["hidden_size"], config["intermediate_size"]
    after_keys = 2 * width * width + 2 * width * inner
    layer = 2 * width * width + after_keys
    return 2.0 * (tokens * (config["num_hidden_layers"] * layer - after_keys) + firsts * after_keys)


def report(name: str, job: dict[str, Any], results: dict[str, Any], rate: float) -> str:
    """Return a table of rates, and of their ratios to the best pipeline and to the float32 pipeline."""
    sizes = [len(part) for part in job["parts"]]
    rates = {
        contestant: median(size / seconds for size, seconds in zip(sizes, result["seconds"], strict=True))
        for contestant, result in results.items()
        if "seconds" in result
    }
    best = max((rate for contestant, rate in rates.items() if contestant.startswith("pipeline")), default=None)
    plain = rates.get("pipeline float32")
    once, pairs = tokens_per_text(job)
    config = json.loads((Path(job["model"]) / "config.json").read_text(encoding="utf-8"))
    least = operations(config, once, len(job["labels"]) or 1)
    lines = [
        f"{name}: {sum(sizes)} texts, {len(job['labels']) or 'own'} labels; {once:.0f} tokens a text, in pairs "
        f"{pairs:.0f}; at the matrix rate of {rate / 1e9:.0f} GFLOP/s {rate / least:.0f} texts/s",
        "",
        "| contestant | batch | texts/s | x best pipeline | x float32 pipeline | of matrix rate | accuracy | MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for contestant, value in rates.items():
        accuracy = ""
        if job["right"] and not contestant.startswith("gliclass"):
            top = [label for label, _ in results[contestant]["answers"]]
            accuracy = f"{sum(a == b for a, b in zip(top, job['right'], strict=True)) / len(top):.3f}"
        counted = contestant.startswith("rehead") and "shortlist" not in contestant
        of_matrix_rate = f"{value * least / rate:.0%}" if counted else ""
        ratios = [f"{value / reference:.2f}" if reference else "" for reference in (best, plain)]
        batch_size, mb = str(results[contestant]["batch_size"]), str(results[contestant]["mb"])
        cells = [contestant, batch_size, f"{value:.1f}", *ratios, of_matrix_rate, accuracy, mb]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def latencies(name: str, job: dict[str, Any], results: dict[str, Any]) -> str:
    """Return a table of the latency of single answers."""
    best = min(median(result["each"]) for contestant, result in results.items() if contestant.startswith("pipeline"))
    rows = sum(map(len, job["parts"]))
    lines = [
        f"{name}: {rows} texts one by one",
        "",
        "| contestant | p50 ms | p99 ms | of best pipeline |",
        "|---|---|---|---|",
    ]
    for contestant, result in results.items():
        if "each" in result:
            half, late = median(result["each"]), quantiles(result["each"], n=100)[98]
            lines.append(f"| {contestant} | {1000 * half:.1f} | {1000 * late:.1f} | {half / best:.2f} |")
    return "\n".join(lines)


def agreement(name: str, job: dict[str, Any], results: dict[str, Any]) -> str:
    """Return how often each contestant agrees with float32 pairs, on rows with a clear top label and on all."""
    reference = results["pairs float32"]["answers"]
    lines = [f"{name}: agreement with float32 pairs under the same mask", ""]
    for contestant in (name for name in results if "answers" in results[name] and name != "pairs float32"):
        rows = list(zip(results[contestant]["answers"], reference, strict=True))
        clear = [mine[0] == other[0] for mine, other in rows if other[1] > 0.02]
        tops = [[label for label, _ in results[key]["answers"]] for key in (contestant, "pairs float32")]
        accuracy = ""
        if job["right"]:
            accuracies = [sum(a == b for a, b in zip(top, job["right"], strict=True)) / len(rows) for top in tops]
            accuracy = f"; accuracy {accuracies[0]:.4f} against {accuracies[1]:.4f}"
        same = sum(mine[0] == other[0] for mine, other in rows) / len(rows)
        of_clear = sum(clear) / len(clear)
        lines.append(f"- {contestant}: {of_clear:.4f} of {len(clear)} clear rows, {same:.4f} of all{accuracy}")
    return "\n".join(lines)


def main() -> None:
    """Run the workloads, print their tables and write all results as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data", help="folder of the labeled data")
    parser.add_argument("--models", default="models", help="folder with sentiment and topics")
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=list(WORKLOADS))
    parser.add_argument("--contestants", nargs="+", help="default: those of each workload")
    parser.add_argument("--fraction", type=float, default=1.0, help="fraction of each workload's rows to use")
    parser.add_argument("--one", action="store_true", help="classify text by text, and report latencies")
    parser.add_argument("--append", type=Path, metavar="FILE", help="add the tables to this file")
    parser.add_argument("--agreement", action="store_true", help="compare answers, without timing")
    parser.add_argument("--template", help="default: the hypothesis template that the model records")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter with gliclass")
    parser.add_argument("--cross-encoder-python", default=sys.executable, help="interpreter with sentence-transformers")
    parser.add_argument("--out", help="write all results to this JSON file")
    args = parser.parse_args()
    rate = matrix_rate()
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    cpu = next((line.split(": ")[1] for line in info.splitlines() if "model name" in line), platform.processor())
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "openvino") if find_spec(name))
    tables = [f"## Run of {date.today()}", f"{cpu}, {THREADS} threads; Python {platform.python_version()}, {versions}"]
    print(tables[1], end="\n\n")
    everything: dict[str, Any] = {"cpu": cpu, "threads": THREADS, "matrix_rate": rate, "workloads": {}}
    for name in args.workloads:
        workload = WORKLOADS[name]
        job = job_of(workload, Path(args.data), Path(args.models), args.fraction)
        job["template"] = args.template or job["template"]
        if args.one:
            texts = [text for part in job["parts"] for text in part]
            job |= {"one_by_one": True, "parts": [texts[start : start + 25] for start in range(0, len(texts), 25)]}
        names = args.contestants or ["rehead"] if args.agreement else args.contestants or list(workload.contestants)
        results = measure(workload, job, [*names, "pairs float32"] if args.agreement else names, args)
        if args.agreement:
            tables.append(agreement(name, job, results))
        else:
            tables.append(latencies(name, job, results) if args.one else report(name, job, results, rate))
        print(tables[-1], end="\n\n", flush=True)
        everything["workloads"][name] = results
        if args.out:
            Path(args.out).write_text(json.dumps(everything), encoding="utf-8")
    if args.append:
        with args.append.open("a", encoding="utf-8") as file:
            file.write("\n" + "\n\n".join(tables) + "\n")


if __name__ == "__main__":
    main()

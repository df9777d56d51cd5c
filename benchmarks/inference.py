"""Measures answering against what a person would otherwise use: `python benchmarks/inference.py --peer-python PYTHON`.

Knows: the workloads, the turns, medians and ratios, what token counts and the processor's matrix rate would allow.
Does not know: how a contestant is loaded or called (inference_peers.py, a process each).

The rows of a workload are cut into parts; each contestant computes a part in its turn, and the median of its parts is
its rate. `--one` asks text by text instead and gives the times of single answers; `--agreement` compares answers with
those of float32 pairs under the same mask and times nothing. `--append FILE` adds the tables to a file.
Interpreters: one with gliclass, one with sentence-transformers and optimum-intel, optimum-onnx.
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
    """Rows of a set, and what they are asked; without labels, the labels of models/sentiment."""

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


def job_of(workload: Workload, data: Path, models: Path, share: float) -> dict[str, Any]:
    """What every contestant is given: texts in parts, labels in words, and how texts are cut."""
    table = pd.read_parquet(data / workload.file)
    table = table[~table.text.duplicated()].sample(frac=1, random_state=SEED)
    rows = max(workload.parts, round(workload.rows * share))
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
    """A contestant that is ready; call it with the number of a part."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), str(THREADS))
    command = [python, "-P", "-W", "ignore", str(Path(__file__).with_name("inference_peers.py")), name, str(job)]
    environment = os.environ | threads | {"PYTHONPATH": str(Path(__file__).parents[1]), "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        assert process.stdin and process.stdout

        def ask(part: int | None) -> dict[str, Any]:
            if part is not None:
                process.stdin.write(f"{part}\n")
                process.stdin.flush()
            line = process.stdout.readline()
            if not line:
                errors.seek(0)
                raise RuntimeError(f"{name} ended: {errors.read()[-1500:]}")
            return dict(json.loads(line))

        try:
            ask.batch_size = ask(None)["batch_size"]  # type: ignore[attr-defined]
            yield ask
        finally:
            process.stdin.close()
            process.wait()


def measured(workload: Workload, job: dict[str, Any], names: list[str], args: argparse.Namespace) -> dict[str, Any]:
    """Seconds and answers of every contestant, part by part in turns; a note for one that could not be started."""
    found: dict[str, Any] = {}
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
                found[name] = {"error": str(error)}
                print(str(error)[-400:], file=sys.stderr)
        for part in range(len(job["parts"])):
            for name, ask in running.items():
                answer = ask(part)
                one = found.setdefault(name, {"seconds": [], "each": [], "answers": [], "batch_size": ask.batch_size})
                one["seconds"].append(answer["seconds"])
                one["each"] += answer["each"]
                one["answers"] += answer["answers"]
                one["mb"] = answer["mb"]
    return found


def matrix_rate() -> float:
    """bfloat16 (or float32, where that is faster) operations a second of a large matrix product."""
    import torch

    torch.set_num_threads(THREADS)
    rates = []
    for dtype in (torch.bfloat16, torch.float32):
        one, other = torch.randn(4096, 1536).to(dtype), torch.randn(1536, 1536).to(dtype)
        seconds = []
        for _ in range(8):
            start = time.perf_counter()
            one @ other
            seconds.append(time.perf_counter() - start)
        rates.append(2 * 4096 * 1536 * 1536 / median(seconds[2:]))
    return max(rates)


def tokens_per_text(job: dict[str, Any]) -> tuple[float, float]:
    """Tokens that a text takes without padding: read once for all its labels, and in pairs."""
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
    """Of matrix products with weights: all layers for every token, but of the last layer what follows keys and values
    for the first tokens only."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    after_keys = 2 * width * width + 2 * width * inner
    layer = 2 * width * width + after_keys
    return 2.0 * (tokens * (config["num_hidden_layers"] * layer - after_keys) + firsts * after_keys)


def report(name: str, job: dict[str, Any], found: dict[str, Any], rate: float) -> str:
    """A table of rates, and of ratios to the pipeline's best and to its float32."""
    sizes = [len(part) for part in job["parts"]]
    rates = {
        who: median(size / seconds for size, seconds in zip(sizes, one["seconds"], strict=True))
        for who, one in found.items()
        if "seconds" in one
    }
    best = max((rate for who, rate in rates.items() if who.startswith("pipeline")), default=None)
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
    for who, value in rates.items():
        accuracy = ""
        if job["right"] and not who.startswith("gliclass"):
            top = [label for label, _ in found[who]["answers"]]
            accuracy = f"{sum(a == b for a, b in zip(top, job['right'], strict=True)) / len(top):.3f}"
        share = f"{value * least / rate:.0%}" if who.startswith("rehead") and "shortlist" not in who else ""
        ratios = [f"{value / other:.2f}" if other else "" for other in (best, plain)]
        cells = [who, str(found[who]["batch_size"]), f"{value:.1f}", *ratios, share, accuracy, str(found[who]["mb"])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def singles(name: str, job: dict[str, Any], found: dict[str, Any]) -> str:
    """A table of the times of single answers."""
    best = min(median(one["each"]) for who, one in found.items() if who.startswith("pipeline"))
    rows = sum(map(len, job["parts"]))
    lines = [
        f"{name}: {rows} texts one by one",
        "",
        "| contestant | p50 ms | p99 ms | of best pipeline |",
        "|---|---|---|---|",
    ]
    for who, one in found.items():
        if "each" in one:
            half, late = median(one["each"]), quantiles(one["each"], n=100)[98]
            lines.append(f"| {who} | {1000 * half:.1f} | {1000 * late:.1f} | {half / best:.2f} |")
    return "\n".join(lines)


def agreement(name: str, job: dict[str, Any], found: dict[str, Any]) -> str:
    """How often each names the label that float32 pairs name, on rows where that is clear, and on all."""
    reference = found["pairs float32"]["answers"]
    lines = [f"{name}: agreement with float32 pairs under the same mask", ""]
    for who in (one for one in found if "answers" in found[one] and one != "pairs float32"):
        rows = list(zip(found[who]["answers"], reference, strict=True))
        clear = [mine[0] == other[0] for mine, other in rows if other[1] > 0.02]
        right = {key: [label for label, _ in found[key]["answers"]] for key in (who, "pairs float32")}
        accuracy = ""
        if job["right"]:
            shares = [sum(a == b for a, b in zip(one, job["right"], strict=True)) / len(rows) for one in right.values()]
            accuracy = f"; accuracy {shares[0]:.4f} against {shares[1]:.4f}"
        same = sum(mine[0] == other[0] for mine, other in rows) / len(rows)
        lines.append(f"- {who}: {sum(clear) / len(clear):.4f} of {len(clear)} clear rows, {same:.4f} of all{accuracy}")
    return "\n".join(lines)


def main() -> None:
    """Run the workloads, print tables, write everything as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data", help="folder of the labelled data")
    parser.add_argument("--models", default="models", help="folder with sentiment and topics")
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=list(WORKLOADS))
    parser.add_argument("--contestants", nargs="+", help="instead of those of each workload")
    parser.add_argument("--share", type=float, default=1.0, help="part of each workload's rows")
    parser.add_argument("--one", action="store_true", help="ask text by text")
    parser.add_argument("--append", type=Path, metavar="FILE", help="add the tables to this file")
    parser.add_argument("--agreement", action="store_true", help="compare answers; nothing is timed")
    parser.add_argument("--template", help="instead of the one that the model records")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter with gliclass")
    parser.add_argument("--cross-encoder-python", default=sys.executable, help="interpreter with sentence-transformers")
    parser.add_argument("--out", help="JSON of everything")
    args = parser.parse_args()
    rate = matrix_rate()
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    cpu = next((line.split(": ")[1] for line in info.splitlines() if "model name" in line), platform.processor())
    versions = ", ".join(f"{one} {version(one)}" for one in ("torch", "transformers", "openvino") if find_spec(one))
    tables = [f"## Run of {date.today()}", f"{cpu}, {THREADS} threads; Python {platform.python_version()}, {versions}"]
    print(tables[1], end="\n\n")
    everything: dict[str, Any] = {"cpu": cpu, "threads": THREADS, "matrix_rate": rate, "workloads": {}}
    for name in args.workloads:
        workload = WORKLOADS[name]
        job = job_of(workload, Path(args.data), Path(args.models), args.share)
        job["template"] = args.template or job["template"]
        if args.one:
            texts = [text for part in job["parts"] for text in part]
            job |= {"one_by_one": True, "parts": [texts[start : start + 25] for start in range(0, len(texts), 25)]}
        names = args.contestants or ["rehead"] if args.agreement else args.contestants or list(workload.contestants)
        found = measured(workload, job, [*names, "pairs float32"] if args.agreement else names, args)
        if args.agreement:
            tables.append(agreement(name, job, found))
        else:
            tables.append(singles(name, job, found) if args.one else report(name, job, found, rate))
        print(tables[-1], end="\n\n", flush=True)
        everything["workloads"][name] = found
        if args.out:
            Path(args.out).write_text(json.dumps(everything), encoding="utf-8")
    if args.append:
        with args.append.open("a", encoding="utf-8") as file:
            file.write("\n" + "\n\n".join(tables) + "\n")


if __name__ == "__main__":
    main()

"""Compare training options on real tables: stock and custom heads, frozen bodies, gradual unfreezing, LoRA.

Each option is trained on the same rows and measured on the same held-out rows.

    python benchmarks/options.py --base topics --data ../shared/data
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from finetune.config.loading import build
from finetune.core import events
from finetune.run import train

MLP = {"name": "mlp", "hidden": [256], "activation": "gelu"}

OPTIONS: dict[str, dict[str, Any]] = {
    "stock head": {},
    "mlp head, mean pooling": {"model": {"head": MLP, "pooling": "mean"}},
    "frozen body, mlp head": {
        "model": {"head": MLP, "pooling": "mean", "freeze": "body"},
        "optim": {"lr": 1e-3},
    },
    "gradual unfreezing": {"model": {"unfreeze": {0: 0, 1: 3, 2: 6}}},
    "LoRA, rank 8": {"model": {"lora": {"rank": 8}}, "optim": {"lr": 1e-3}},
    "layer-wise decay 0.8": {"optim": {"layer_decay": 0.8}},
    "head at the body's rate": {"optim": {"head_lr": 1e-4}},
}

TABLES: dict[str, dict[str, Any]] = {
    "trec": {"train": {"path": "trec/train.parquet"}},
    "goemotions": {
        "train": {"path": "goemotions/train.parquet", "rows": 5000},
        "test": {"dev": {"path": "goemotions/dev.parquet", "rows": 2000}},
    },
    "banking77": {"train": {"path": "banking77/train.parquet"}},
}


def measure(base: str, data: Path, table: str, option: str, out: Path, epochs: float) -> dict[str, Any]:
    """Return the scores and the training seconds of one option on one table."""
    source = json.loads(json.dumps(TABLES[table]))
    source["train"]["path"] = str(data / source["train"]["path"])
    for test in source.get("test", {}).values():
        test["path"] = str(data / test["path"])
    settings = {"base": base, "out": str(out), "overwrite": True, "data": source, "tfidf_baseline": False}
    overrides = OPTIONS[option]
    config = build(settings | overrides | {"optim": {"epochs": epochs} | overrides.get("optim", {})})
    clock: list[float] = []
    trained: list[str] = []

    def on_event(event: Any) -> None:
        if isinstance(event, events.Started | events.Step | events.Evaluated):
            clock.append(time.perf_counter())
        if isinstance(event, events.Info) and event.text.startswith("training "):
            trained.append(event.text.partition(" of ")[0].removeprefix("training "))

    result = train(config, on_event=on_event)
    scores = next(iter(result.tests.values()), result.metrics)
    return {
        "table": table,
        "option": option,
        "trained weights": trained[0],
        "seconds": round(clock[-1] - clock[0]),
        "scores": {name: round(value, 4) for name, value in list(scores.items())[:4]},
    }


def main() -> None:
    """Measure every option on every table, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="topics", help="the model to start from")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the labeled data")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=["trec", "goemotions"])
    parser.add_argument("--options", nargs="+", choices=OPTIONS, default=list(OPTIONS))
    parser.add_argument("--epochs", type=float, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for table in args.tables:
            for option in args.options:
                result = measure(args.base, args.data, table, option, Path(folder) / "model", args.epochs)
                print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()

"""One measured run of benchmarks/finetune.py, in a process of its own: `python -P benchmarks/finetune_peers.py JOB`.

Knows: how each contestant trains, what its clock counts, and how held-out rows are scored.
Does not know: which rows they are, in which order runs are made, what is compared.

The clock runs from the first update to the end of the last and stands still while anything is scored or saved. What a
contestant tokenizes before training is outside it, what it tokenizes in its loop (sentence-transformers, SetFit) within.
`-P` keeps this folder off the path: benchmarks/finetune.py bears the package's name.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import transformers
from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback

MAX_LENGTH = 128
VERSIONED = ("torch", "transformers", "sentence-transformers", "setfit", "accelerate", "rehead")
Predict = Callable[[list[str]], Any]


class Run:
    """The rows of a run, its clock, and the held-out scores found on the way.

    Targets are `[N]` ids, or `[N, C]` zeros and ones where several labels may hold.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        self.job, self.names, self.several = job, job["names"], job["several"]
        self.folder, self.base = Path(job["folder"]), job["base"]
        self.texts, self.targets = self._rows("train")
        self.held_texts, self.held_targets = self._rows("dev")
        self.trained_rows, self.points = len(self.texts), []
        self.total_from_s = self.began_s = self.paused_s = self.paused_from_s = 0.0
        self.total_s: float | None = None
        self.final: dict[str, float] = {}

    def _rows(self, name: str) -> tuple[list[str], Any]:
        table = pd.read_parquet(self.folder / f"{name}.parquet")
        if self.several:
            return list(table.text), np.array([[label in held for label in self.names] for held in table.label]) * 1.0
        return list(table.text), np.array([self.names.index(label) for label in table.label])

    def begin(self) -> None:
        """Everything is imported: the total counts from here."""
        self.total_from_s = time.perf_counter()

    def end(self) -> None:
        """The contestant is done: the total counts to here, less what was paused."""
        self.total_s = time.perf_counter() - self.total_from_s - self.paused_s

    def start(self) -> None:
        self.began_s = time.perf_counter()

    def pause(self, ago_s: float = 0.0) -> None:
        self.paused_from_s = time.perf_counter() - ago_s

    def resume(self) -> None:
        self.paused_s += time.perf_counter() - self.paused_from_s

    def is_due(self, update: int, updates: int) -> bool:
        return update == updates or update % self.every(updates) == 0

    def every(self, updates: int) -> int:
        return math.ceil(updates / self.job["looks"])

    def add(self, update: int, updates: int, predict: Predict, more_s: float = 0.0) -> None:
        """Score the sample, and after the last update all held-out rows, while the clock is paused.

        Args:
            more_s: what a model that stopped here would still have to do.
        """
        seconds = self.paused_from_s - self.began_s - self.paused_s + more_s
        sample = self.job["sample"]
        found = predict(self.held_texts if update == updates else self.held_texts[:sample])
        scores = self.scored(found[:sample], self.held_targets[:sample])
        self.points.append({"update": update, "of": updates, "seconds": seconds, "scores": scores})
        if update == updates:
            self.final = self.scored(found, self.held_targets)

    def scored(self, found: Any, targets: Any) -> dict[str, float]:
        """Accuracy; or micro F1 at 0.5, and average precision, a mean over the labels that these rows hold."""
        if not self.several:
            return {"accuracy": float((found.argmax(axis=1) == targets).mean())}
        from sklearn.metrics import average_precision_score, f1_score

        held = targets.any(axis=0)
        return {
            "micro_f1": float(f1_score(targets, found >= 0.5, average="micro", zero_division=0)),
            "mAP": float(average_precision_score(targets[:, held], found[:, held], average="macro")),
        }


class Clock(TrainerCallback):
    """Starts, pauses and reads the clock of a transformers Trainer; `ready` makes the model fit to predict."""

    def __init__(self, run: Run, predict: Predict, ready: Callable[[], None] = lambda: None) -> None:
        self.run, self.predict, self.ready = run, predict, ready

    def on_train_begin(self, *args: Any, **rest: Any) -> None:
        self.run.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        if self.run.is_due(state.global_step, state.max_steps):
            self.run.pause()
            self.ready()
            took_s = time.perf_counter() - self.run.paused_from_s
            self.run.add(state.global_step, state.max_steps, self.predict, took_s)
            self.run.resume()


def probabilities(model: Any, tokenizer: Any, several: bool, texts: list[str]) -> Any:
    """Scores `[N, C]` of a sequence classifier in float32, whatever it was trained in."""
    order = np.argsort([len(text) for text in texts])
    found = np.zeros((len(texts), model.config.num_labels))
    model.eval()
    for some in np.array_split(order, math.ceil(len(order) / 64)):
        batch = tokenizer(
            [texts[row] for row in some], padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt"
        )
        with torch.no_grad():
            logits = model(**batch).logits.float()
        found[some] = (logits.sigmoid() if several else logits.softmax(dim=1)).numpy()
    return found


def lr_as_ours(width: int) -> float:
    """The project's default rate, so that what differs between it and `informed` is not the rate."""
    return 5e-5 * 768 / width


def plain(
    run: Run, *, batch_size: int, bf16: bool, lr: float | None = None, padding: bool | str = False, grouped: bool = False
) -> dict[str, Any]:
    """transformers' Trainer; `lr` None takes the project's."""
    from datasets import Dataset
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments, default_data_collator, set_seed

    run.begin()
    set_seed(run.job["seed"])
    tokenizer = AutoTokenizer.from_pretrained(run.base)
    kind = "multi_label_classification" if run.several else "single_label_classification"
    model = AutoModelForSequenceClassification.from_pretrained(
        run.base, num_labels=len(run.names), problem_type=kind, dtype="float32"
    )
    settings = {
        "per_device_train_batch_size": batch_size,
        "bf16": bf16,
        "learning_rate": lr or lr_as_ours(model.config.hidden_size),
        "train_sampling_strategy": "group_by_length" if grouped else "random",
    }
    encoded = tokenizer(run.texts, truncation=True, max_length=MAX_LENGTH, padding=padding)
    Trainer(
        model=model,
        args=TrainingArguments(**settings, **common(run)),
        train_dataset=Dataset.from_dict({**encoded, "labels": run.targets.tolist()}),
        data_collator=default_data_collator if padding else DataCollatorWithPadding(tokenizer),
        callbacks=[Clock(run, partial(probabilities, model, tokenizer, run.several))],
    ).train()
    return settings | {"padding": f"to {MAX_LENGTH}" if padding else "to the longest of a batch"}


def common(run: Run) -> dict[str, Any]:
    """What all Trainers are told: nothing that trains, only how long, the seed, and to write nothing."""
    return {
        "output_dir": str(run.folder / "output"),
        "num_train_epochs": run.job["epochs"],
        "seed": run.job["seed"],
        "use_cpu": True,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def cross_encoder(run: Run, *, bf16: bool = False, ours: bool = False) -> dict[str, Any]:
    """sentence-transformers' CrossEncoderTrainer; its losses take pairs, so the second text is empty."""
    from datasets import Dataset
    from sentence_transformers.cross_encoder import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.losses import CrossEntropyLoss

    class SeveralLabels(CrossEntropyLoss):
        """The library has no loss for several labels at once: its own with the mean of binary cross-entropies."""

        def forward(self, inputs: Any, labels: Any, **rest: Any) -> Any:
            return super().forward(inputs, torch.stack(list(labels)).float(), **rest)

    run.begin()
    transformers.set_seed(run.job["seed"])
    model = CrossEncoder(run.base, num_labels=len(run.names), device="cpu")
    settings: dict[str, Any] = {"per_device_train_batch_size": 32, "bf16": bf16}
    if ours:
        settings["learning_rate"] = lr_as_ours(model.config.hidden_size)
    args = CrossEncoderTrainingArguments(**settings, **common(run))
    loss = (SeveralLabels if run.several else CrossEntropyLoss)(model)
    if run.several:
        loss.ce_loss = torch.nn.BCEWithLogitsLoss()

    def predict(texts: list[str]) -> Any:
        activation = torch.nn.Sigmoid() if run.several else torch.nn.Identity()
        return model.predict([(text, "") for text in texts], activation_fn=activation, show_progress_bar=False)

    CrossEncoderTrainer(
        model=model,
        args=args,
        train_dataset=Dataset.from_dict(
            {"text": run.texts, "pair": [""] * len(run.texts), "label": run.targets.tolist()}
        ),
        loss=loss,
        callbacks=[Clock(run, predict)],
    ).train()
    return settings | {"learning_rate": args.learning_rate, "loss": type(loss).__name__}


def setfit(run: Run) -> dict[str, Any]:
    """SetFit's Trainer with its defaults. All pairs of n rows are n * n / 2: its guide limits them by `max_steps`, here
    so that as many texts pass through the encoder as for the others. A look fits the head, which its seconds include.
    """
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    run.begin()
    model = SetFitModel.from_pretrained(
        run.base, multi_target_strategy="one-vs-rest" if run.several else None, device="cpu"
    )
    args = TrainingArguments(
        output_dir=str(run.folder / "output"),
        seed=run.job["seed"],
        save_strategy="no",
        report_to="none",
        show_progress_bar=False,
    )
    args.max_steps = math.ceil(len(run.texts) * run.job["passes"] / 2 / args.embedding_batch_size)
    targets = run.targets.astype(int).tolist()
    fit = partial(model.fit, run.texts, targets, num_epochs=1, show_progress_bar=False)

    def predict(texts: list[str]) -> Any:
        found = model.predict_proba(texts, as_numpy=True, show_progress_bar=False)
        if run.several:
            return found
        spread = np.zeros((len(texts), len(run.names)))
        spread[:, model.model_head.classes_] = found
        return spread

    Trainer(
        model=model,
        args=args,
        train_dataset=Dataset.from_dict({"text": run.texts, "label": targets}),
        callbacks=[Clock(run, predict, fit)],
    ).train()
    shown = ("embedding_batch_size", "body_embedding_learning_rate", "sampling_strategy", "max_steps", "use_amp")
    return {name: getattr(args, name) for name in shown} | {"passes": run.job["passes"]}


def rehead(run: Run) -> dict[str, Any]:
    """The project with its defaults. Its own checkpoints are scored, the last for the final score, so that choosing the
    best one is no advantage; rows that are in no other table serve as its validation split.
    """
    from finetune import configfile
    from finetune.events import Evaluated, Event, Saved, Started
    from finetune.run import plan, train

    given = {
        "base": run.base,
        "out": str(run.folder / "model"),
        "data.train": [str(run.folder / "train.parquet")],
        "data.validation": [str(run.folder / "spare.parquet")],
        "data.text": "text",
        "data.label": "label",
        "optim.epochs": run.job["epochs"],
        "seed": run.job["seed"],
        "tfidf_baseline": False,
    }
    config = configfile.load(None, run.job["overrides"], **{key.replace(".", "__"): value for key, value in given.items()})
    planned = plan(config)
    updates = planned.regime.updates
    config = configfile.build(
        configfile.laid(config.model_dump(mode="json"), {"checkpoint.every_steps": run.every(updates)})
    )

    def predict(folder: Path, texts: list[str]) -> Any:
        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype="float32")
        found = probabilities(model, AutoTokenizer.from_pretrained(folder), run.several, texts)
        spread = np.zeros((len(texts), len(run.names)))
        spread[:, [run.names.index(model.config.id2label[column]) for column in range(found.shape[1])]] = found
        return spread

    def hear(event: Event) -> None:
        if isinstance(event, Started):
            run.trained_rows = event.rows
            run.start()
        elif isinstance(event, Evaluated):
            run.pause(event.metrics["runtime"])
        elif isinstance(event, Saved) and Path(event.path).name.startswith("checkpoint-"):
            run.add(int(event.path.rpartition("-")[2]), updates, partial(predict, Path(event.path)))
            run.resume()

    run.begin()
    result = train(config, on_event=hear)
    run.end()
    folder = run.scored(predict(result.path, run.held_texts), run.held_targets)
    optim = planned.config.optim.model_dump(mode="json", exclude_defaults=True)
    return {"optim": optim, "overrides": run.job["overrides"], "updates": updates, "score_of_the_folder": folder}


CONTESTANTS: dict[str, Callable[[Run], dict[str, Any]]] = {
    "run_classification": partial(plain, batch_size=8, lr=2e-5, bf16=False, padding="max_length"),
    "informed": partial(plain, batch_size=32, bf16=True),
    "grouped": partial(plain, batch_size=32, bf16=True, grouped=True),
    "cross_encoder": cross_encoder,
    "cross_encoder_bf16": partial(cross_encoder, bf16=True, ours=True),
    "setfit": setfit,
    "rehead": rehead,
}


def versions() -> dict[str, str]:
    """The versions of what is installed here."""
    found = {}
    for name in VERSIONED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def main() -> None:
    """Make the run that a job file describes, and write what was found beside it."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(job["threads"])
    transformers.utils.logging.set_verbosity_error()
    load, run = os.getloadavg()[0], Run(job)
    settings = CONTESTANTS[job["contestant"]](run)
    if run.total_s is None:
        run.end()
    seconds = run.points[-1]["seconds"]
    found = {
        "rows": run.trained_rows,
        "rows_per_s": run.trained_rows * job["epochs"] / seconds,
        "train_s": seconds,
        "total_s": run.total_s,
        "score": run.final,
        "curve": run.points,
        "settings": settings,
        "load_before": load,
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "versions": versions(),
    }
    Path(job["result"]).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()

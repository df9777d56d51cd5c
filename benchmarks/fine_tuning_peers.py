"""Make one measured run of benchmarks/fine_tuning.py in a separate process: `fine_tuning_peers.py JOB`.

Trains one contestant on the rows of JOB and writes its times and scores.

The clock runs from the first update to the end of the last and is paused while anything is scored or saved. Only
contestants that tokenize in their training loop (sentence-transformers, SetFit) are timed while they tokenize.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from functools import partial
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import transformers
from datasets import Dataset
from sklearn.metrics import average_precision_score, f1_score
from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback

MAX_LENGTH = 128
VERSIONED = ("torch", "transformers", "sentence-transformers", "setfit", "accelerate", "rehead")


class Run(TrainerCallback):
    """The rows of a run (targets: ids `[N]`, or 0 and 1 `[N, C]` for several labels); as a Trainer callback also its
    clock and scores. Contestants set `predict`, and `ready` if a model cannot predict in the middle of a run."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job, self.base, self.names, self.several = job, job["base"], job["names"], job["several"]
        self.texts, self.targets = self._rows("train")
        self.held_texts, self.held_targets = self._rows("dev")
        self.began_s, self.paused_s, self.trained_rows, self.curve, self.final = 0.0, 0.0, len(self.texts), [], {}
        self.predict, self.ready = (lambda texts: None), (lambda: None)
        self.trainer = {"output_dir": job["scratch"], "num_train_epochs": job["epochs"], "seed": job["seed"]}
        self.trainer |= {"use_cpu": True, "save_strategy": "no", "report_to": "none", "disable_tqdm": True}

    def _rows(self, name: str) -> tuple[list[str], Any]:
        table = pd.read_parquet(Path(self.job["folder"]) / f"{name}.parquet")
        if not self.several:
            return list(table.text), np.array([self.names.index(label) for label in table.label])
        return list(table.text), np.array([[float(name in held) for name in self.names] for held in table.label])

    def on_train_begin(self, *args: Any, **rest: Any) -> None:
        self.began_s = time.perf_counter() - self.paused_s  # pauses before training do not count

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        update, updates, since_s = state.global_step, state.max_steps, time.perf_counter()
        if update == updates or update % math.ceil(updates / self.job["evaluations"]) == 0:
            self.ready()
            self.evaluate(update, updates, since_s, time.perf_counter() - since_s)

    def evaluate(self, update: int, updates: int, since_s: float, ready_s: float = 0.0) -> None:
        """Score the sample of the held-out rows, or all of them after the last update.

        Training was paused at `since_s`; a run that stopped here would have taken `ready_s` more.
        """
        seconds, sample = since_s - self.began_s - self.paused_s + ready_s, self.job["sample"]
        outputs = self.predict(self.held_texts if update == updates else self.held_texts[:sample])
        scores = self.scored(outputs[:sample], self.held_targets[:sample])
        self.curve.append({"update": update, "of": updates, "seconds": seconds, "scores": scores})
        self.final = self.scored(outputs, self.held_targets) if update == updates else {}
        self.paused_s += time.perf_counter() - since_s

    def scored(self, outputs: Any, targets: Any) -> dict[str, float]:
        """Return accuracy; for several labels micro F1 at 0.5 and mAP, a mean over the labels that occur."""
        if not self.several:
            return {"accuracy": float((outputs.argmax(axis=1) == targets).mean())}
        held = targets.any(axis=0)
        precision = average_precision_score(targets[:, held], outputs[:, held], average="macro")
        return {"micro_f1": float(f1_score(targets, outputs >= 0.5, average="micro")), "mAP": float(precision)}


def probabilities(model: Any, tokenizer: Any, several: bool, texts: list[str]) -> Any:
    """Return scores `[N, C]` of a sequence classifier in float32, in whatever precision it was trained."""
    scores = np.zeros((len(texts), model.config.num_labels))
    model.eval()
    padded = {"padding": True, "truncation": True, "max_length": MAX_LENGTH, "return_tensors": "pt"}
    for chunk in np.array_split(np.argsort([len(text) for text in texts]), math.ceil(len(texts) / 64)):
        with torch.no_grad():
            logits = model(**tokenizer([texts[row] for row in chunk], **padded)).logits
        scores[chunk] = (logits.sigmoid() if several else logits.softmax(dim=1)).numpy()
    return scores


def plain(run: Run, *, lr: float | None = None, padding: str | bool = False, **settings: Any) -> dict[str, Any]:
    """Train with transformers' Trainer and its defaults, except `settings`; `lr` None selects rehead's default rate."""
    tokenizer = AutoTokenizer.from_pretrained(run.base)
    # transformers infers multi-label from the type of the targets: floats instead of whole numbers
    model = AutoModelForSequenceClassification.from_pretrained(run.base, num_labels=len(run.names), dtype="float32")
    settings["learning_rate"] = lr or 5e-5 * 768 / model.config.hidden_size
    settings["bf16"] = settings.get("bf16", False) and not run.job["float32"]
    encoded = tokenizer(run.texts, truncation=True, max_length=MAX_LENGTH, padding=padding)
    rows = Dataset.from_dict({**encoded, "labels": run.targets.tolist()})
    collate = transformers.default_data_collator if padding else transformers.DataCollatorWithPadding(tokenizer)
    args = transformers.TrainingArguments(**settings, **run.trainer)
    run.predict = partial(probabilities, model, tokenizer, run.several)
    transformers.Trainer(model, args, collate, rows, callbacks=[run]).train()
    shown = ("per_device_train_batch_size", "bf16", "learning_rate", "train_sampling_strategy")
    return {name: getattr(args, name) for name in shown} | {"padding": padding or "longest of a batch"}


def cross_encoder(run: Run, **settings: Any) -> dict[str, Any]:
    """Train with sentence-transformers' CrossEncoderTrainer.

    Its losses take pairs, so the second text is empty. It has no loss for several labels at once: for these its
    cross-entropy is replaced by a binary one.
    """
    from sentence_transformers.cross_encoder import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.losses import CrossEntropyLoss

    class Loss(CrossEntropyLoss):
        def forward(self, inputs: Any, labels: Any, **rest: Any) -> Any:
            return super().forward(inputs, torch.stack(list(labels)), **rest)

    act = torch.nn.Sigmoid() if run.several else torch.nn.Identity()
    model = CrossEncoder(run.base, num_labels=len(run.names), device="cpu", activation_fn=act)
    args, loss = CrossEncoderTrainingArguments(**settings, **run.trainer), Loss(model)
    loss.ce_loss = torch.nn.BCEWithLogitsLoss() if run.several else loss.ce_loss
    rows = {"text": run.texts, "pair": [""] * len(run.texts), "label": run.targets.tolist()}
    run.predict = lambda texts: model.predict([(text, "") for text in texts], show_progress_bar=False)
    CrossEncoderTrainer(model, args, Dataset.from_dict(rows), loss=loss, callbacks=[run]).train()
    return settings | {"bf16": args.bf16, "learning_rate": args.learning_rate}


def setfit(run: Run) -> dict[str, Any]:
    """Train with SetFit's Trainer and its defaults.

    n rows make n * n / 2 pairs. Its migration guide limits them by `max_steps`, here so that as many texts pass through
    the encoder as for the other contestants. The seconds of an evaluation include fitting the head.
    """
    from setfit import SetFitModel, Trainer, TrainingArguments

    kind = "one-vs-rest" if run.several else None
    model = SetFitModel.from_pretrained(run.base, multi_target_strategy=kind, device="cpu")
    arguments = {name: run.trainer[name] for name in ("output_dir", "seed", "save_strategy", "report_to")}
    args, targets = TrainingArguments(**arguments, show_progress_bar=False), run.targets.astype(int).tolist()
    args.max_steps = math.ceil(len(run.texts) * run.job["passes"] / 2 / args.embedding_batch_size)
    run.predict = partial(model.predict_proba, as_numpy=True, show_progress_bar=False)
    run.ready = partial(model.fit, run.texts, targets, num_epochs=1, show_progress_bar=False)
    Trainer(model, args, Dataset.from_dict({"text": run.texts, "label": targets}), callbacks=[run]).train()
    return {"max_steps": args.max_steps, "batch_size": args.batch_size, "body_learning_rate": args.body_learning_rate}


def rehead(run: Run) -> dict[str, Any]:
    """Train with rehead and its defaults.

    Its checkpoints are scored, the last one for the final score, so that selecting the best is no advantage. Its
    validation split is rows that no contestant trains on. The finished folder is scored as well.
    """
    from finetune.config import loading
    from finetune.core.events import Evaluated, Event, Saved, Started
    from finetune.prepare import prepare
    from finetune.run import train

    overrides, since_s, folder = run.job["overrides"], time.perf_counter(), run.job["folder"]
    options = {"base": run.base, "out": f"{run.job['scratch']}/model", "seed": run.job["seed"], "tfidf_baseline": False}
    options |= {"data__train": f"{folder}/train.parquet", "data__validation": f"{folder}/spare.parquet"}
    options |= {"data__text": "text", "data__label": "label", "optim__epochs": run.job["epochs"]}
    updates = prepare(loading.load(None, overrides, **options)).batch_plan.updates
    config = loading.load(
        None, overrides, **options, checkpoint__every_steps=math.ceil(updates / run.job["evaluations"])
    )
    run.paused_s += time.perf_counter() - since_s

    def predict(folder: str, texts: list[str]) -> Any:
        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype="float32")
        scores = pd.DataFrame(probabilities(model, AutoTokenizer.from_pretrained(folder), run.several, texts))
        return scores.rename(columns=model.config.id2label).reindex(columns=run.names, fill_value=0.0).to_numpy()

    def on_event(event: Event) -> None:
        nonlocal since_s
        if isinstance(event, Started):
            run.trained_rows = event.rows
            run.on_train_begin()
        elif isinstance(event, Evaluated):
            since_s = time.perf_counter() - event.metrics["runtime"]
        elif isinstance(event, Saved) and "checkpoint-" in Path(event.path).name:
            run.predict = partial(predict, event.path)
            run.evaluate(int(event.path.rpartition("-")[2]), updates, since_s)

    result, since_s = train(config, on_event=on_event), time.perf_counter()
    finished = run.scored(predict(str(result.path), run.held_texts), run.held_targets)
    run.paused_s += time.perf_counter() - since_s
    return {"overrides": overrides, "updates": updates, "score_of_folder": finished}


BATCH = {"per_device_train_batch_size": 32}
CONTESTANTS: dict[str, tuple[str, Any]] = {
    "run_classification": ("transformers", partial(plain, lr=2e-5, padding="max_length")),
    "informed": ("transformers", partial(plain, bf16=True, **BATCH)),
    "grouped": ("transformers", partial(plain, bf16=True, train_sampling_strategy="group_by_length", **BATCH)),
    "cross_encoder": ("sentence_transformers", partial(cross_encoder, **BATCH)),
    "cross_encoder_bf16": ("sentence_transformers", partial(cross_encoder, bf16=True, **BATCH)),
    "setfit": ("setfit", setfit),
    "rehead": ("finetune.run", rehead),
}


def main() -> None:
    """Make the run that a job file describes, and write its result."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(job["threads"])
    module, contestant = CONTESTANTS[job["contestant"]]
    import_module(module)  # imports are not timed
    transformers.set_seed(job["seed"])
    run, load, began_s = Run(job), os.getloadavg()[0], time.perf_counter()
    settings = contestant(run)
    total_s, train_s = time.perf_counter() - began_s - run.paused_s, run.curve[-1]["seconds"]
    score = run.final or sys.exit("the last update was not scored")
    result = {"rows": run.trained_rows, "rows_per_s": run.trained_rows * job["epochs"] / train_s, "train_s": train_s}
    result |= {"total_s": total_s, "score": score, "curve": run.curve, "settings": settings, "load_before": load}
    result |= {"threads": torch.get_num_threads(), "capability": torch.backends.cpu.get_cpu_capability()}
    result["versions"] = {item.name: item.version for item in metadata.distributions() if item.name in VERSIONED}
    Path(job["result"]).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()

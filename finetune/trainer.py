"""The one Trainer subclass, and TrainConfig -> TrainingArguments in one function.

Knows: how a batch becomes tensors, which mask it is seen under, how its loss is made, what is reported, what is saved.
Does not know: tables, label names, reports.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler

from finetune.artifact import sha256, write_json
from finetune.attention import shared_text_mask
from finetune.auxiliary import Term
from finetune.average import WeightAverage
from finetune.config import TrainConfig
from finetune.encoding import Encoded, TextEncoder
from finetune.errors import ConfigError, TrainingError
from finetune.events import Evaluated, Listener, Saved, Started, Step
from finetune.losses import Loss
from finetune.model import ATTENTION_DROPOUT
from finetune.reduce import reduce
from finetune.tokens import Tokens

STAMP = "stamp.json"
"""Hashes of a checkpoint's files: a resumed run refuses a checkpoint that is damaged or incomplete."""

FIRST_ESTIMATE = 5
"""Updates after which the time left is first reported."""

EAGER_UP_TO = 384
"""Under bfloat16 autocast on a CPU, batches padded to at most this many tokens train up to 1.4 times faster with
eager attention than with torch's CPU kernel for SDPA (torch 2.13); longer ones, and float32, do not."""

EAGER_WITH_DROPOUT_UP_TO = 512
"""The same with dropout on the attention weights, which that kernel cannot do: torch falls back to plain matrices."""

RESUMABLE = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")


class Examples(torch.utils.data.Dataset[dict[str, Any]]):
    """Tokens and targets, row by row, as `Collator` reads them."""

    def __init__(self, tokens: Tokens, targets: Any) -> None:
        self.tokens, self.targets = tokens, targets

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"row": self.tokens[index], "labels": self.targets[index]}


class Collator:
    """Encoded rows to padded tensors; `segments` travel along where the model's mask needs them."""

    def __init__(self, encoder: TextEncoder, *, with_segments: bool) -> None:
        self.encoder, self.with_segments = encoder, with_segments

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        arrays = self.encoder.pad([row["row"] for row in rows])
        if not self.with_segments:
            del arrays["segments"]
        batch = {name: torch.from_numpy(values) for name, values in arrays.items()}
        if "labels" in rows[0]:
            targets = np.asarray([row["labels"] for row in rows])
            kind = torch.float32 if targets.dtype.kind == "f" else torch.int64
            batch["labels"] = torch.as_tensor(targets, dtype=kind)
        return batch


def shared_text_bias(segments: Tensor, model: Any) -> Tensor:
    """The shared-text mask `[B, 1, L, L]` in the form that the model's attention takes as given."""
    allowed = torch.from_numpy(shared_text_mask(segments.cpu().numpy())).unsqueeze(1).to(segments.device)
    if model.config._attn_implementation == "sdpa":
        return allowed
    return torch.zeros(allowed.shape, device=segments.device).masked_fill(~allowed, torch.finfo(torch.float32).min)


class HeadTrainer(Trainer):
    """transformers' Trainer with our loss and reducer, auxiliary terms, and the two attention masks in turn.

    Args:
        loss: `(logits [B, C], targets) -> [B]`.
        terms: auxiliary terms; they are computed in batches under the shared-text mask only where `alternate`.
        alternate: even updates see the shared-text mask, odd ones the ordinary mask; evaluation sees the shared one.
        average: decay of the mean of the weights that is evaluated and kept; None for the weights themselves.
    """

    def __init__(
        self,
        *,
        loss: Loss,
        terms: Sequence[Term] = (),
        alternate: bool = False,
        average: float | None = None,
        **rest: Any,
    ) -> None:
        super().__init__(compute_loss_func=self._reduced, **rest)
        self._loss, self._terms, self._alternate = loss, list(terms), alternate
        self._average = WeightAverage(self.model, average) if average is not None else None
        if self._average is not None:
            self.add_callback(_Averaging(self._average))
        self._batch: dict[str, Tensor] = {}
        dropped = any(getattr(self.model.config, name, 0) for name in ATTENTION_DROPOUT)
        self._eager_up_to = EAGER_WITH_DROPOUT_UP_TO if dropped else EAGER_UP_TO
        self._may_choose = (
            self.args.bf16 and self.args.device.type == "cpu" and self.model.config._attn_implementation == "sdpa"
        )

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        rows = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return LengthGroupedSampler(rows, lengths=self.train_dataset.tokens.lengths.tolist())

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **rest: Any) -> Any:
        """The reduced loss of one batch; see `transformers.Trainer.compute_loss`."""
        self._batch = dict(inputs)
        self._choose_attention(inputs["input_ids"].shape[1])
        inputs = {name: value for name, value in inputs.items() if name != "segments"}
        if self._is_shared(model):
            inputs["attention_mask"] = shared_text_bias(self._batch["segments"], self.model)
        if self._wants_states(model):
            inputs["output_hidden_states"] = True
        return super().compute_loss(model, inputs, *args, **rest)

    def evaluate(self, *args: Any, **rest: Any) -> dict[str, float]:
        """The metrics of the weights that would be kept; see `transformers.Trainer.evaluate`."""
        with self._average.in_place() if self._average is not None else nullcontext():
            return dict(super().evaluate(*args, **rest))

    def _save_checkpoint(self, *args: Any, **rest: Any) -> None:
        super()._save_checkpoint(*args, **rest)
        if self._average is not None:
            self._average.save(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self._average is not None:
            self._average.load(Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        super()._load_best_model()
        if self._average is not None:
            self._average.load(Path(self.state.best_model_checkpoint))
            self._average.give()

    def _choose_attention(self, length: int) -> None:
        if self._may_choose:
            self.model.set_attn_implementation("eager" if length <= self._eager_up_to else "sdpa")

    def _is_shared(self, model: Any) -> bool:
        return self._alternate and (not model.training or self.state.global_step % 2 == 0)

    def _wants_states(self, model: Any) -> bool:
        return bool(self._terms) and model.training and (not self._alternate or self._is_shared(model))

    def _reduced(self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        losses = self._loss(outputs.logits, labels)
        if outputs.hidden_states is not None:
            # the Trainer's own autocast ends with the model's forward, and terms run bodies of their own
            with torch.autocast(labels.device.type, torch.bfloat16, enabled=self.args.bf16):
                added = [term(outputs.hidden_states[-1], self._batch) for term in self._terms]
            losses = losses + sum(added)
        return reduce(losses, labels, num_items_in_batch)


class _Averaging(TrainerCallback):
    def __init__(self, average: WeightAverage) -> None:
        self.average = average

    def on_optimizer_step(self, *args: Any, **rest: Any) -> None:
        self.average.update()


class Reporting(TrainerCallback):
    """Turns the Trainer's callbacks into our events, stamps checkpoints, and stops a run that diverges."""

    def __init__(self, listener: Listener, rows: int, validation_rows: int, per_epoch: int, best_by: str) -> None:
        self.listener, self.rows, self.validation_rows = listener, rows, validation_rows
        self.per_epoch, self.best_by = per_epoch, best_by
        self.began_s = 0.0
        self.paused_s = 0.0
        self.paused_from_s = 0.0
        self.first = 0
        self.best = -math.inf

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self.listener(Started(state.max_steps, self.per_epoch, self.rows, self.validation_rows))
        self.first = state.global_step
        self.best = state.best_metric if state.best_metric is not None else -math.inf
        self.began_s = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        if state.global_step == self.first + FIRST_ESTIMATE:
            control.should_log = True  # so that the time left is known early
        self.paused_from_s = time.perf_counter()

    def on_step_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        if state.global_step > self.first:  # evaluation and saving happen between step_end and step_begin
            self.paused_s += time.perf_counter() - self.paused_from_s

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:
        if not logs or "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]) or not math.isfinite(logs.get("grad_norm") or 0.0):
            raise TrainingError(
                f"the run diverged: the loss is {logs['loss']} at update {state.global_step}. "
                "Lower the learning rate (--lr) or clip harder (--set optim.max_grad_norm=0.5)"
            )
        took_s = max(time.perf_counter() - self.began_s - self.paused_s, 1e-9)
        done = state.global_step - self.first
        batch = args.train_batch_size * args.gradient_accumulation_steps
        left_s = took_s / done * (state.max_steps - state.global_step)
        rate = done * batch / took_s
        self.listener(
            Step(
                state.global_step,
                state.max_steps,
                state.epoch or 0.0,
                logs["loss"],
                logs["learning_rate"],
                rate,
                left_s,
            )
        )

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **rest: Any) -> None:
        found = {name.removeprefix("eval_"): value for name, value in (metrics or {}).items()}
        better = found.get(self.best_by, -math.inf) > self.best
        self.best = max(self.best, found.get(self.best_by, -math.inf))
        self.listener(Evaluated(state.global_step, state.epoch or 0.0, found, better))

    def on_save(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        stamp(folder)
        self.listener(Saved(str(folder)))


def stamp(folder: Path) -> None:
    """Record the hashes of a checkpoint's files beside them."""
    files = [file for file in sorted(folder.iterdir()) if file.is_file() and file.name != STAMP]
    write_json(folder / STAMP, {file.name: sha256(file) for file in files})


def last_good_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint whose files are all there and unchanged, or None."""
    import json

    found = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdecimal()]
    for path in sorted(found, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        if not (path / STAMP).is_file():
            continue
        hashes = json.loads((path / STAMP).read_text(encoding="utf-8"))
        whole = all(name in hashes for name in RESUMABLE)
        if whole and all((path / name).is_file() and sha256(path / name) == known for name, known in hashes.items()):
            return path
    return None


def use_bfloat16(precision: str) -> bool:
    """Whether training runs under bfloat16 autocast: asked for, or the processor multiplies it faster."""
    if precision != "auto":
        return precision == "bfloat16"
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.backends.cpu.get_cpu_capability().startswith("AVX512")) and bool(
        torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def updates_per_epoch(config: TrainConfig, rows: int) -> int:
    """Updates in one pass: batches, rounded up, over the batches of one update, rounded up."""
    return math.ceil(math.ceil(rows / config.optim.batch_size) / config.optim.accumulation)


def training_arguments(config: TrainConfig, folder: Path, rows: int, best_by: str) -> TrainingArguments:
    """The Trainer's arguments for a config. Beside what the config says, these differ from the Trainer's defaults:
    batches grouped by length, no filter over NaN losses, no external reporting, best model loaded at the end."""
    optim = config.optim
    if optim.lr is None:
        raise ConfigError("optim.lr is not resolved")
    total = max(1, math.ceil(updates_per_epoch(config, rows) * optim.epochs))
    every = config.checkpoint.every_steps
    when = "steps" if every else "epoch"
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=optim.epochs,
        per_device_train_batch_size=optim.batch_size,
        per_device_eval_batch_size=max(64, optim.batch_size),
        gradient_accumulation_steps=optim.accumulation,
        learning_rate=optim.lr,
        lr_scheduler_type=optim.schedule,
        warmup_steps=math.ceil(total * optim.warmup),
        weight_decay=optim.weight_decay,
        max_grad_norm=optim.max_grad_norm,
        eval_strategy=when,
        save_strategy=when,
        eval_steps=every,
        save_steps=every or 500,
        save_total_limit=config.checkpoint.keep,
        load_best_model_at_end=True,
        metric_for_best_model=f"eval_{best_by}",
        greater_is_better=True,
        bf16=use_bfloat16(config.precision),
        use_cpu=not torch.cuda.is_available(),
        seed=config.seed,
        data_seed=config.seed,
        logging_steps=max(1, min(50, total // 40)),
        logging_nan_inf_filter=False,
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to="none",
        disable_tqdm=True,
    )


def predict(model: Any, encoder: TextEncoder, rows: Sequence[Encoded], *, shared: bool, tokens: int = 8192) -> Any:
    """Logits `[N, C]` float32 in row order, computed in batches of like length of at most `tokens` padded tokens."""
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    found: Any = None
    model.eval()
    while order:
        size = max(1, tokens // len(rows[order[-1]]))
        chosen, order = order[-size:], order[:-size]
        batch = {
            name: torch.from_numpy(array).to(model.device)
            for name, array in encoder.pad([rows[i] for i in chosen]).items()
        }
        segments = batch.pop("segments")
        if shared:
            batch["attention_mask"] = shared_text_bias(segments, model)
        with torch.inference_mode():
            logits = model(**batch).logits.float().cpu().numpy()
        if found is None:
            found = np.zeros((len(rows), logits.shape[1]), dtype=np.float32)
        found[chosen] = logits
    return found

"""The one Trainer subclass: how a batch becomes tensors, under which mask it is computed, and how its loss is made."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate.data_loader import prepare_data_loader  # type: ignore[import-untyped]
from torch import Tensor
from transformers import Trainer

from finetune.config.training import TrainConfig
from finetune.core.attention_mask import shared_text_mask
from finetune.core.disk_space import CHECKPOINTS_ARE_WHOLE, checkpoint_bytes, writing
from finetune.core.events import Listener
from finetune.core.tokenization import Encoded, TextEncoder
from finetune.modeling.build import ATTENTION_DROPOUT
from finetune.modeling.cpu_kernels import eager_attention_for
from finetune.training import processes
from finetune.training.auxiliary_losses import Term
from finetune.training.callbacks import EmaCallback, FreezingCallback, GradientMonitorCallback
from finetune.training.checkpoints import Note, best_loss, stamp
from finetune.training.ema import EmaWeights
from finetune.training.losses import Loss
from finetune.training.optim import Parts, freeze, frozen_depths, optimizer_for, schedule_for
from finetune.training.out_of_memory import split
from finetune.training.private_methods import check_private_methods, overrides_private
from finetune.training.reduce import reduce
from finetune.training.samplers import Batches

EAGER_UP_TO = 384
"""Tokens up to which a batch trains faster (up to 1.4 times, torch 2.13) with eager attention than with torch's SDPA
kernel, under bfloat16 autocast on a CPU; longer batches, and float32, do not."""

EAGER_WITH_DROPOUT_UP_TO = 512
"""The same limit with dropout on the attention weights, which that kernel lacks: torch falls back to plain matrices."""


NOT_FOR_MODEL = ("segments", "weights", "padding")
"""Entries of a batch that the model itself does not read."""


def shared_text_bias(segments: Tensor, model: Any) -> Tensor:
    """Return the shared-text mask `[B, 1, L, L]`: boolean for SDPA, additive float32 for other attention."""
    allowed = torch.from_numpy(shared_text_mask(segments.cpu().numpy())).unsqueeze(1).to(segments.device)
    if model.config._attn_implementation == "sdpa":
        return allowed
    return torch.zeros(allowed.shape, device=segments.device).masked_fill(~allowed, torch.finfo(torch.float32).min)


PRIVATE_CALLS = ("_evaluate", "_determine_best_metric", "_get_learning_rate", "_load_rng_state", "_prepare_inputs")
"""Private methods of the Trainer that this package calls."""


@check_private_methods(calls=PRIVATE_CALLS)
class HeadTrainer(Trainer):
    """transformers' Trainer with our loss and reducer, batches, optimizer and schedule, auxiliary terms, alternating
    attention masks and gradient monitoring.

    Args:
        config: the run's config.
        parts: the layer of each weight of the model.
        batches: the rows of each batch.
        loss: `(logits [B, C], targets) -> [B]`.
        say: called with the events of gradient monitoring.
        terms: auxiliary terms; where `config` alternates masks, only under the shared-text mask.
        note: written into each checkpoint; holds in how many parts a batch is computed.

    Attributes:
        rows_at_once: rows of the last forward pass.
        is_evaluating: whether that pass belongs to an evaluation.
        loss_of_update: the loss of the update so far, of the rows of this process.
        norm_of_update: the gradients' norm before clipping; None until the Trainer has computed it.
    """

    def __init__(
        self,
        *,
        config: TrainConfig,
        parts: Parts,
        batches: Batches,
        loss: Loss,
        say: Listener = lambda event: None,
        terms: Sequence[Term] = (),
        note: Note | None = None,
        **rest: Any,
    ) -> None:
        super().__init__(compute_loss_func=self._reduced_loss, **rest)
        self.optimizer: Any = None
        self.lr_scheduler: Any = None
        self.config, self.parts, self.batches = config, parts, batches
        self._loss, self._terms = loss, list(terms)
        # even updates use the shared-text mask, odd ones the ordinary mask; evaluation uses the shared one
        self._alternate = config.zero_shot.attention == "alternate"
        decay = config.optim.ema_decay
        self._ema = EmaWeights(self.model, decay) if decay is not None else None
        if self._ema is not None:
            self.add_callback(EmaCallback(self._ema))
        if config.model.unfreeze or config.model.freeze != "none":
            self.add_callback(FreezingCallback(config, parts))
        self.gradient_monitoring = GradientMonitorCallback(self, say)
        self.add_callback(self.gradient_monitoring)
        self._batch: dict[str, Tensor] = {}
        self._losses_of_rows: Tensor | None = None
        self.note = note or Note()
        self.rows_at_once, self.is_evaluating = 0, False
        self.loss_of_update: Tensor | float = 0.0
        self.norm_of_update: Tensor | float | None = None
        dropped = any(getattr(self.model.config, name, 0) for name in ATTENTION_DROPOUT)
        self._eager_up_to = EAGER_WITH_DROPOUT_UP_TO if dropped else EAGER_UP_TO
        on_cpu = self.args.bf16 and self.args.device.type == "cpu"
        self._chooses_attention = on_cpu and self.model.config._attn_implementation == "sdpa"
        self._eager = eager_attention_for(self.model) if self._chooses_attention else "eager"

    def get_train_dataloader(self) -> Any:
        """Return a loader of the batches that `Batches` draws, each process its own."""
        loader = torch.utils.data.DataLoader(
            self.train_dataset,
            batch_sampler=self.batches,
            collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory,
        )
        if processes.count() == 1:
            return self.accelerator.prepare(loader)
        # accelerate would divide the batches once more
        return prepare_data_loader(
            loader, self.accelerator.device, num_processes=1, process_index=0, put_on_device=True
        )

    def create_optimizer(self, model: Any = None) -> Any:
        """Return the config's optimizer, with a learning rate for each part."""
        if self.optimizer is None:
            self.optimizer = optimizer_for(self.model if model is None else model, self.parts, self.config.optim)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Return the config's learning rate schedule."""
        if self.lr_scheduler is None:
            warmup = math.ceil(num_training_steps * self.config.optim.warmup)
            optimizer = self.optimizer if optimizer is None else optimizer
            self.lr_scheduler = schedule_for(
                optimizer,
                self.config.optim,
                warmup=warmup,
                updates=num_training_steps,
                lower_is_better=not self.args.greater_is_better,
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    @overrides_private
    def _load_optimizer_and_scheduler(self, checkpoint: Any) -> None:
        rates = ("initial_lr", "max_lr", "min_lr")  # the last two with schedule one_cycle
        fresh = [{name: group[name] for name in rates if name in group} for group in self.optimizer.param_groups]
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None or not hasattr(self.lr_scheduler, "base_lrs"):
            return
        # the rates of the config replace those of the checkpoint; they differ only if the config was changed
        for group, configured in zip(self.optimizer.param_groups, fresh, strict=True):
            group["lr"] *= configured["initial_lr"] / group["initial_lr"]
            group.update(configured)
        self.lr_scheduler.base_lrs = [configured["initial_lr"] for configured in fresh]

    @overrides_private
    def _run_epoch(self, *args: Any, **rest: Any) -> Any:
        # a run resumed from its last update must make none beyond it (transformers 5.24 makes one)
        self.control.should_training_stop |= self.state.global_step >= self.state.max_steps
        return None if self.control.should_training_stop else super()._run_epoch(*args, **rest)

    @overrides_private
    def _prepare_for_training(self, *args: Any, **rest: Any) -> Any:
        if processes.count() == 1:
            return super()._prepare_for_training(*args, **rest)
        unfreeze = self.config.model.unfreeze
        if unfreeze:
            # DDP averages the gradients only of weights that require one when it wraps the model; FreezingCallback
            # freezes those of the first epoch again
            frozen = [frozen_depths(self.config.model, self.parts, epoch) for epoch in (0, *unfreeze)]
            freeze(self.model, self.parts, set.intersection(*frozen))
        self.accelerator.ddp_handler.find_unused_parameters = bool(unfreeze) or self._has_unused_weights()
        with warnings.catch_warnings():
            # accelerate 1.15 passes DDP the argument that torch 2.13 has renamed to forward_sync_buffers
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            return super()._prepare_for_training(*args, **rest)

    def _has_unused_weights(self) -> bool:
        """Return whether a weight that is trained, such as that of an unused pooler, has no part in the loss."""
        rows: Any = self.train_dataset
        with self.compute_loss_context_manager():
            self.compute_loss(self.model, self._prepare_inputs(self.data_collator([rows[0]]))).backward()
        unused = any(weight.requires_grad and weight.grad is None for weight in self.model.parameters())
        self.model.zero_grad()
        self.loss_of_update = 0.0
        return unused

    @overrides_private
    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        # the labels of padding are not counted
        real = [{"labels": batch["labels"][: 0 if "padding" in batch else None]} for batch in batch_samples]
        return super()._get_num_items_in_batch(real, device)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Return the loss of a batch, computed in `note.batch_parts` parts; see
        `transformers.Trainer.training_step`."""
        self.is_evaluating = False
        loss: Any = 0.0
        for part in split(inputs, self.note.batch_parts):
            self.rows_at_once = len(part["labels"])
            loss = loss + super().training_step(model, part, num_items_in_batch)
        return cast("Tensor", loss)

    def prediction_step(self, model: Any, inputs: Any, *args: Any, **rest: Any) -> Any:
        """Return no loss, the logits and the loss of each row, and the labels: of several processes' losses, those of
        rows that were computed twice are left out only by row. See `transformers.Trainer.prediction_step`."""
        self.is_evaluating, self.rows_at_once = True, len(inputs["labels"])
        _, logits, labels = super().prediction_step(model, inputs, *args, **rest)
        return None, (logits, self._losses_of_rows), labels

    @overrides_private
    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        self.norm_of_update = norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        return norm

    @overrides_private
    def _determine_best_metric(self, metrics: Any, trial: Any) -> bool:
        """Of checkpoints that are equally good, the one with the lowest loss is the best."""
        better = bool(super()._determine_best_metric(metrics=metrics, trial=trial))
        if not better and metrics.get(self.args.metric_for_best_model) == self.state.best_metric:
            better = metrics.get("eval_loss", math.inf) < best_loss(self.state)
            if better:
                self.state.best_global_step = self.state.global_step
        return better

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **rest: Any) -> Any:
        """Return the reduced loss of one batch; see `transformers.Trainer.compute_loss`."""
        self._batch = dict(inputs)
        self._choose_attention(inputs["input_ids"].shape[1])
        inputs = {name: value for name, value in inputs.items() if name not in NOT_FOR_MODEL}
        if self._is_shared(model):
            inputs["attention_mask"] = shared_text_bias(self._batch["segments"], self.model)
        if self._needs_states(model):
            inputs["output_hidden_states"] = True
        return super().compute_loss(model, inputs, *args, **rest)

    def evaluate(self, *args: Any, **rest: Any) -> dict[str, float]:
        """Return the metrics of the weights that a checkpoint would keep; see `transformers.Trainer.evaluate`."""
        with self._ema.in_place() if self._ema is not None else nullcontext():
            return dict(super().evaluate(*args, **rest))

    def loss_of_rows(self, count: int) -> float:
        """Return the mean training loss of up to `count` training rows, spread over the table, without dropout."""
        rows: Any = self.train_dataset
        indices = np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)).tolist()
        total, size, training = 0.0, self.args.per_device_train_batch_size, self.model.training
        self.model.eval()
        for start in range(0, len(indices), size):
            part = indices[start : start + size]
            batch = self._prepare_inputs(self.data_collator([rows[index] for index in part]))
            with torch.no_grad(), self.compute_loss_context_manager():
                total += float(self.compute_loss(self.model, batch)) * len(part)
        self.model.train(training)
        self.loss_of_update = 0.0
        return total / len(indices)

    @overrides_private
    def _save_checkpoint(self, *args: Any, **rest: Any) -> None:
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        with writing(folder, self.checkpoint_bytes(), CHECKPOINTS_ARE_WHOLE):
            super()._save_checkpoint(*args, **rest)
            processes.wait()  # each process has written the states of its random generators
            if processes.is_main():
                if self._ema is not None:
                    self._ema.save(folder)
                stamp(folder, self.note)
        processes.wait()

    def checkpoint_bytes(self) -> int:
        """Return the approximate size of one checkpoint on disk, in bytes."""
        optim = self.config.optim
        return checkpoint_bytes(self.model, optim.optimizer.name, ema=optim.ema_decay is not None)

    @overrides_private
    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self._ema is not None:
            self._ema.load(Path(resume_from_checkpoint))

    @overrides_private
    def _load_best_model(self) -> None:
        super()._load_best_model()
        if self._ema is not None:
            self._ema.load(Path(self.state.best_model_checkpoint))
            self._ema.apply()

    def _choose_attention(self, length: int) -> None:
        if self._chooses_attention:
            self.model.set_attn_implementation(self._eager if length <= self._eager_up_to else "sdpa")

    def _is_shared(self, model: Any) -> bool:
        return self._alternate and (not model.training or self.state.global_step % 2 == 0)

    def _needs_states(self, model: Any) -> bool:
        return bool(self._terms) and model.training and (not self._alternate or self._is_shared(model))

    def _reduced_loss(self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        losses = self._loss(outputs.logits, labels)
        if "weights" in self._batch:
            losses = losses * self._batch["weights"].to(losses.device)
        if outputs.hidden_states is not None:
            # the Trainer's own autocast ends with the model's forward, and terms run encoders of their own
            with torch.autocast(labels.device.type, torch.bfloat16, enabled=self.args.bf16):
                added = [term(outputs.hidden_states[-1], self._batch) for term in self._terms]
            losses = losses + sum(added)
        self._losses_of_rows = losses.detach().float()
        if "padding" in self._batch:
            losses = losses * 0
        reduced = reduce(losses, labels, num_items_in_batch)
        self.loss_of_update = self.loss_of_update + reduced.detach()
        return reduced


def predict(model: Any, encoder: TextEncoder, rows: Sequence[Encoded], *, shared: bool, tokens: int = 8192) -> Any:
    """Return logits `[N, C]` float32 in row order, computed in batches of similar length of at most `tokens` padded
    tokens."""
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    results: Any = None
    model.eval()
    while order:
        size = max(1, tokens // len(rows[order[-1]]))
        part, order = order[-size:], order[:-size]
        batch = {
            name: torch.from_numpy(array).to(model.device)
            for name, array in encoder.pad([rows[i] for i in part]).items()
        }
        segments = batch.pop("segments")
        if shared:
            batch["attention_mask"] = shared_text_bias(segments, model)
        with torch.inference_mode():
            logits = model(**batch).logits.float().cpu().numpy()
        if results is None:
            results = np.zeros((len(rows), logits.shape[1]), dtype=np.float32)
        results[part] = logits
    return results

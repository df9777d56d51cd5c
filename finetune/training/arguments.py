"""The arguments of transformers' Trainer for a config, and the arithmetic that training runs in."""

from __future__ import annotations

import math
import time
from functools import cache
from pathlib import Path

import torch
from transformers import TrainingArguments

from finetune.config.training import TrainConfig
from finetune.core.device import torch_device
from finetune.core.errors import ConfigError
from finetune.evaluation.metrics import LOWER_IS_BETTER
from finetune.training import trackers

TRIALS, TRIAL_ROWS, TRIAL_WIDTH = 7, 1024, 768
"""Products that are timed in each arithmetic, and their size: that of a batch in a small encoder's layer."""

TRIAL_GAIN = 1.2
"""How much faster bfloat16 must be to be taken by `auto`."""


def use_bfloat16(precision: str, device: str) -> bool:
    """Return whether to compute under bfloat16 autocast: by its setting, or where it is faster on the device."""
    if precision != "auto":
        return precision == "bfloat16"
    kind = torch_device(device).type
    if kind == "mps":
        return False
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bfloat16_is_faster()


@cache
def bfloat16_is_faster() -> bool:
    """Return whether this processor multiplies matrices clearly faster in bfloat16 than in float32, measured once in a
    process where the instructions do not tell: with those of AVX-512, AMD's Zen 4 takes half the time, and Intel's
    Sapphire and Emerald Rapids without AMX 1.6 times as much."""
    if torch.cpu._is_amx_tile_supported():
        return True
    if not torch.cpu._is_avx512_bf16_supported():  # oneDNN emulates it, at a third of the rate of float32
        return False
    pairs = {
        dtype: (torch.ones(TRIAL_ROWS, TRIAL_WIDTH, dtype=dtype), torch.ones(TRIAL_WIDTH, TRIAL_WIDTH, dtype=dtype))
        for dtype in (torch.float32, torch.bfloat16)
    }
    seconds = dict.fromkeys(pairs, math.inf)
    for _ in range(TRIALS):
        for dtype, (states, weights) in pairs.items():
            begin = time.perf_counter()
            states @ weights
            seconds[dtype] = min(seconds[dtype], time.perf_counter() - begin)
    return seconds[torch.bfloat16] * TRIAL_GAIN < seconds[torch.float32]


def training_arguments(
    config: TrainConfig,
    folder: Path,
    *,
    rows: int,
    accumulation: int,
    updates: int,
    best_by: str,
    evaluation_parts: int = 1,
) -> TrainingArguments:
    """Return the Trainer's arguments for a config. Apart from the config, they differ from the Trainer's defaults in:
    no filter over NaN losses, no external reporting, best model loaded at the end.

    Args:
        rows, accumulation, updates: rows in a batch, batches in an update, updates of the whole run.
        best_by: the metric that chooses the best checkpoint.
        evaluation_parts: how many parts an evaluation batch is computed in, because of too little memory.
    """
    optim = config.optim
    every = config.checkpoint.every_steps
    device = torch_device(config.device).type
    strategy = "steps" if every else "epoch"
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=optim.epochs,
        per_device_train_batch_size=rows,
        per_device_eval_batch_size=max(1, max(64, min(rows, 256)) // evaluation_parts),
        gradient_accumulation_steps=accumulation,
        learning_rate=optim.lr or 0.0,
        max_grad_norm=optim.max_grad_norm,
        eval_strategy=strategy,
        save_strategy=strategy,
        eval_steps=every,
        save_steps=every or 500,
        load_best_model_at_end=True,
        metric_for_best_model=f"eval_{best_by}",
        greater_is_better=best_by not in LOWER_IS_BETTER,
        bf16=use_bfloat16(config.precision, config.device),
        use_cpu=device == "cpu",
        seed=config.seed,
        data_seed=config.seed,
        logging_steps=max(1, min(50, updates // 40)),
        logging_nan_inf_filter=False,
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_pin_memory=device == "cuda",
        report_to=trackers.left_to_transformers(config.report_to) or "none",
        disable_tqdm=True,
        ddp_broadcast_buffers=False,  # they are equal in all processes, and one of them holds all word embeddings
    )
    arguments.mixed_precision = "bf16" if arguments.bf16 else "no"  # not that of accelerate's config
    return on_one_device(arguments)


def on_one_device(arguments: TrainingArguments) -> TrainingArguments:
    """Return the arguments for one GPU in this process: with several in sight the Trainer would divide each batch
    among them by `nn.DataParallel`, slowly, and with another number of rows in a batch."""
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    if arguments.n_gpu > 1 or arguments.train_batch_size != arguments.per_device_train_batch_size:
        raise ConfigError(
            "this release of transformers spreads a process over several GPUs: set CUDA_VISIBLE_DEVICES=0"
        )
    return arguments

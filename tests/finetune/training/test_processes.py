"""Several processes train the model that one process with the same global batch trains."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import several_processes

from finetune.training.losses import FITS
from finetune.training.samplers import PADDING, Batches

SCRIPT = Path(several_processes.__file__)
WORDS = ["good great", "bad awful", "sports money game", "film", "loved", "hated it"]
TRAINED, VALIDATED = 17, 7
"""Rows; with batches of 8 over all processes, the last batch has one row, and some processes none."""


def torchrun(count: int, *command: str) -> list[str]:
    """Return the command that starts processes together."""
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", *command]


def text(index: int) -> str:
    return " ".join(WORDS[(index * 7 + step) % len(WORDS)] for step in range(1 + index * 5 % 6)) + f" {index}"


def data(label: Any, **more: Any) -> dict[str, list[dict[str, Any]]]:
    rows = [
        {"text": text(index), "label": label(index)} | {name: value(index) for name, value in more.items()}
        for index in range(TRAINED + VALIDATED)
    ]
    return {"train": rows[:TRAINED], "validation": rows[TRAINED:]}


LABELS = {
    "binary": lambda index: ["no", "yes"][index % 3 == 0],
    "multiclass": lambda index: "aabc"[index % 4],
    "multi_label": lambda index: [["a"], ["a", "b"], [], ["c"]][index % 4],
    "regression": lambda index: 0.5 + index % 5,
}
OPTIMIZERS = {"sgd": 0.05, "adamw": 1e-3}
VARIANTS: dict[str, dict[str, Any]] = {
    "ragged": {},
    "in_order": {"optim": {"group_by_length": False}},
    "tokens": {"optim": {"batch_tokens": 80}},
    "balanced": {"optim": {"sampler": "balanced"}},
    "accumulated": {"optim": {"accumulation": 2}},
    "full": {"optim": {"batch_size": "full"}},
    "ema": {"optim": {"ema_decay": 0.8}},
    "unfrozen": {"model": {"freeze": "body", "unfreeze": {1: 1, 2: 2}}, "optim": {"epochs": 3}},
    "frozen": {"model": {"freeze": "embeddings"}},
    "lora": {"model": {"lora": {"rank": 2, "dropout": 0.0}}},
    "head": {"model": {"head": {"name": "mlp", "dropout": 0.0, "norm": "layer"}, "pooling": "mean"}},
    "auxiliary": {"auxiliary": [{"name": "keep_embedding", "weight": 0.5}]},
    "weighted": {"data": {"weight": "weight"}},
    "clipped": {"optim": {"max_grad_norm": 0.05, "max_grad_value": 0.01}},
    "plateau": {"optim": {"schedule": {"name": "reduce_on_plateau"}, "epochs": 3}},
    "stopped": {"optim": {"early_stopping": 1, "epochs": 4}, "checkpoint": {"best_by": "loss"}},
}

WITH_ADAMW = ("ragged", "accumulated", "ema", "unfrozen", "lora")
FOUR = ("ragged", "tokens", "unfrozen")
"""Variants that are trained with AdamW too, and by four processes."""

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "not finite": ({"optim": {"lr": 1e30, "max_grad_norm": 0}}, "Diverged: "),
    "batch norm": ({"model": {"head": {"name": "mlp", "norm": "batch"}}}, "model.head.norm=layer"),
    "few shot": ({"few_shot": {"name": "auto"}}, "few_shot runs in one process, and 4 were started"),
    "auto batch": ({"optim": {"batch_size": "auto"}}, "optim.batch_size=auto runs in one process"),
    "auto base": ({"base": "auto"}, "base=auto runs in one process"),
}
"""Settings with which all processes stop alike, and what the error says."""


def laid(*contents: dict[str, Any]) -> dict[str, Any]:
    """Return nested settings laid over one another."""
    whole: dict[str, Any] = {}
    for content in contents:
        for key, value in content.items():
            nested = isinstance(value, dict) and isinstance(whole.get(key), dict) and "name" not in value
            whole[key] = laid(whole[key], value) if nested else value
    return whole


def cases(base: Path, folder: Path) -> list[dict[str, Any]]:
    """Return runs of both optimizers for each loss, of SGD with and without class weights, and for each variant."""
    common = {"base": str(base), "out": str(folder / "model"), "device": "cpu", "precision": "float32"}
    common |= {"gradients": {"auto_recover": False}}
    made = []
    for optimizer, lr in OPTIMIZERS.items():
        optim = {"optimizer": {"name": optimizer}, "lr": lr, "batch_size": 8, "epochs": 1}
        for loss, fit in FITS.items():
            task = fit.tasks[0]
            both = ["none", "balanced"] if optimizer == "sgd" else ["balanced"]
            for weights in ["none"] if task == "regression" else both:
                settings = {"loss": {"name": loss}, "class_weights": weights, "data": {"task": task}, "optim": optim}
                made.append(
                    {
                        "name": f"{optimizer} {loss} {weights}",
                        "config": laid(common, settings),
                        "data": data(LABELS[task]),
                    }
                )
        for name in VARIANTS if optimizer == "sgd" else WITH_ADAMW:
            variant = VARIANTS[name]
            more = {"weight": lambda index: 1 + index % 3} if name == "weighted" else {}
            made.append(
                {
                    "name": f"{optimizer} {name}",
                    "config": laid(common, {"optim": optim | {"epochs": 2}}, variant),
                    "data": data(LABELS["multiclass"], **more),
                }
            )
    return made


def for_each_process(case: dict[str, Any], count: int) -> dict[str, Any]:
    """Return the case with the rows and tokens of one of the processes that together have the same batch."""
    optim = case["config"]["optim"]
    each = {}
    if isinstance(optim["batch_size"], int):
        each["batch_size"] = optim["batch_size"] // count
    if "batch_tokens" in optim:
        each["batch_tokens"] = optim["batch_tokens"] // count
    return case | {"config": laid(case["config"], {"optim": each})}


@pytest.fixture(scope="module")
def still_base(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a base without dropout."""
    folder = tmp_path_factory.mktemp("still") / "base"
    shutil.copytree(tiny_base, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "classifier_dropout": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def results(folder: Path) -> Any:
    return json.loads((folder / "results.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_several_processes_train_what_one_process_with_the_same_batch_trains(
    still_base: Path, tmp_path: Path, count: int
) -> None:
    one, several = tmp_path / "one", tmp_path / "several"
    for folder in (one, several):
        folder.mkdir()
    wanted = cases(still_base, tmp_path)
    if count > 2:  # what depends on the number of processes
        wanted = [case for case in wanted if case["name"] in [f"sgd {name}" for name in FOUR]]
    divided = [for_each_process(case, count) for case in wanted]
    by_tokens = [case["name"].endswith("tokens") for case in wanted]
    undivided = [part | {"processes": count} for part, flag in zip(divided, by_tokens, strict=True) if flag]
    several_processes.run([*undivided, *(case for case, flag in zip(wanted, by_tokens, strict=True) if not flag)], one)
    refused = [
        {"name": name, "config": laid(divided[0]["config"], more), "data": divided[0]["data"]}
        for name, (more, _) in REFUSED.items()
        if count > 2
    ]
    (tmp_path / "cases.json").write_text(json.dumps([*divided, *refused]))
    done = subprocess.run(
        torchrun(count, str(SCRIPT), str(tmp_path / "cases.json"), str(several)), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    expected, computed = results(one), results(several)
    for case in refused:
        assert REFUSED[case["name"]][1] in computed[case["name"]]["error"]
    assert [name for name in expected if "error" in expected[name] or "error" in computed[name]] == []
    for name in expected:
        same(name, expected[name], computed[name])
        if name.startswith("sgd"):
            with np.load(one / f"{name}.npz") as mine, np.load(several / f"{name}.npz") as theirs:
                assert max(float(np.abs(mine[key] - theirs[key]).max()) for key in mine) < 1e-6, name


def same(name: str, expected: Any, computed: Any) -> None:
    """Require equal losses of all updates, and equal evaluations."""
    assert len(computed["losses"]) == len(expected["losses"]) > 1, name
    assert np.allclose(computed["losses"], expected["losses"], rtol=0, atol=1e-5), name
    assert np.allclose(computed["snapshots"], expected["snapshots"], rtol=1e-4, atol=1e-5), name
    assert len(computed["evaluations"]) == len(expected["evaluations"]), name
    for ours, theirs in zip(computed["evaluations"], expected["evaluations"], strict=True):
        shared = [key for key in theirs if not key.endswith(("runtime", "time"))]
        assert np.allclose([ours[key] for key in shared], [theirs[key] for key in shared], rtol=0, atol=1e-5), name


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize(("rows", "tokens"), [(2, None), (3, None), (1, 30)])
def test_the_processes_divide_every_batch_of_one_process(count: int, rows: int, tokens: int | None) -> None:
    lengths = np.arange(TRAINED) * 5 % 11 + 2

    def batches(processes: int, process: int) -> list[list[int]]:
        each = rows if processes > 1 else rows * count
        budget = tokens if tokens is None or processes > 1 else tokens * count
        return list(Batches(lengths, each, tokens=budget, seed=3, epochs=2, processes=processes, process=process))

    parts = [batches(count, process) for process in range(count)]
    assert len({len(part) for part in parts}) == 1
    together = [sorted(row for part in update for row in part if row != PADDING) for update in zip(*parts, strict=True)]
    assert sorted(row for update in together for row in update) == list(range(TRAINED)), "no row twice, none dropped"
    if tokens is None:
        assert together == [sorted(batch) for batch in batches(1, 0)]
        assert max(len(batch) for part in parts for batch in part) <= rows
    else:
        costs = [int(lengths[batch].max()) * len(batch) for part in parts for batch in part if batch != [PADDING]]
        assert max(costs) <= tokens

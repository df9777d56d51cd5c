"""Trains a list of small runs in one process group, and writes what each computed.

    torchrun --standalone --nproc-per-node 2 several_processes.py CASES.json OUT

A case is `{"name", "config", "data"}`; OUT gets `results.json` with the losses of all updates and evaluations, and
`NAME.npz` with the trained weights. Without torchrun it is the reference of one process. The reference of N processes
with a token budget has `"processes": N` too: how many rows fit depends on how they are divided.
"""

from __future__ import annotations

import gc
import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from finetune.prepare import Prepared, prepare
from finetune.training.batch_plan import BatchPlan
from finetune.training.samplers import Batches


class WholeBatches(Batches):
    """The batches that several processes divide, undivided."""

    def __iter__(self) -> Any:
        yield from self._drawn(self._epoch)


def silent(event: Any) -> None:
    pass


def run(cases: list[dict[str, Any]], out: Path) -> None:
    """Train each case, and write losses, metrics and weights; all processes must end with the same weights."""
    from finetune.core.quiet import quiet_transformers

    gc.freeze()  # accelerate collects garbage at each start of a training, among all that was imported
    with quiet_transformers():
        _run(cases, out)


def _run(cases: list[dict[str, Any]], out: Path) -> None:
    from finetune.config.loading import build
    from finetune.training import attempts, processes

    results = {}
    for case in cases:
        config = build(case["config"])
        processes.join(config.device, silent)
        try:
            prepared = undivided(prepare(config, case["data"]), case.get("processes", 1))
            trained = attempts.fit(prepared.config, prepared.attempt_inputs(out / "work", silent))
        except Exception as error:
            results[case["name"]] = {"error": f"{type(error).__name__}: {error}"}
            continue
        weights = {name: tensor.detach().numpy() for name, tensor in trained.model.state_dict().items()}
        digest = hashlib.sha256(b"".join(value.tobytes() for value in weights.values())).hexdigest()
        processes.require_equal("model", {"weights": digest})
        results[case["name"]] = {
            "losses": [entry["loss"] for entry in trained.history if "loss" in entry],
            "evaluations": [
                {key: value for key, value in entry.items() if key.startswith("eval_") and "per_second" not in key}
                for entry in trained.history
                if "eval_loss" in entry
            ],
            "snapshots": [[snapshot.loss, snapshot.norm] for snapshot in trained.snapshots],
        }
        if processes.is_main():
            np.savez(out / f"{case['name']}.npz", **weights)
    if processes.is_main():
        (out / "results.json").write_text(json.dumps(results))


def undivided(prepared: Prepared, count: int) -> Prepared:
    """Return a run with the batches that this number of processes has, each with the config's budget of tokens."""
    if count == 1:
        return prepared
    config, plan = prepared.config, prepared.batch_plan
    batches = WholeBatches(
        prepared.train.tokens.lengths,
        plan.batches.batch_size,
        tokens=config.optim.batch_tokens,
        seed=config.seed,
        epochs=int(config.optim.epochs),
        processes=count,
    )
    return replace(prepared, batch_plan=BatchPlan(batches, 1, len(batches), len(batches) * int(config.optim.epochs)))


def main() -> None:
    run(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
    from finetune.training import processes

    processes.leave()


if __name__ == "__main__":
    main()

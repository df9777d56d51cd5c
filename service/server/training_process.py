"""Child processes of `training_jobs`: `run FOLDER`; `report`, `corpus` and `ranking` of what standard input says;
`choices`."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from finetune.config import loading
from finetune.core import events
from finetune.core.errors import ReheadError
from service.labeling import config as distillation
from service.labeling.config import DistillConfig
from service.server import run_configs
from service.server.run_configs import RunConfig
from service.server.training_jobs import EVENTS, OUTPUT

LABELS_SHOWN = 20
SAMPLE_TEXTS = 16
"""Texts of a corpus that the server measures its teacher on."""

RANKED_ROWS = 1000
"""Rows that bases are ranked on: enough for a recommendation, in less than a minute."""

REPORT_BYTES, TRAIN_BYTES = 2**30, 2**34
"""Largest file that a child may write: a small compressed table can unpack to a very large one."""

NICE = 5
"""Niceness of the children: the server's answers go first."""


def _run(folder: Path) -> int:
    """Train or distill with the folder's configuration and write its events; return the exit code."""
    _limit_resources(TRAIN_BYTES)

    def terminate(number: int, frame: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second signal would not wait for the checkpoint
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, terminate)
    with (folder / EVENTS).open("a", encoding="utf-8", buffering=1) as stream:

        def record(event: events.Event) -> None:
            stream.write(json.dumps({"event": type(event).__name__, **asdict(event)}) + "\n")

        try:
            from finetune.core.allocator import keep_freed_memory
            from finetune.core.quiet import quiet

            keep_freed_memory()
            quiet()
            _made(run_configs.load(folder), record)
        except ReheadError as error:
            record(events.Failed(str(error)))
            return error.exit_code
        except KeyboardInterrupt:
            return 130
        except Exception as error:
            record(events.Failed(f"training failed ({type(error).__name__}); see {folder / OUTPUT}"))
            raise
    return 0


def _made(config: RunConfig, record: events.Listener) -> None:
    """Make the model of a run; the scores of a distillation, which a stopped one continues from, are deleted then."""
    if isinstance(config, DistillConfig):
        from service.labeling.distill import run

        run(config, on_event=record)
        shutil.rmtree(config.work, ignore_errors=True)
    else:
        from finetune.run import train

        train(config, on_event=record)


def _limit_resources(max_file_bytes: int) -> None:
    """Lower the priority of this process, and limit the size of the files it writes."""
    with suppress(ImportError, OSError, ValueError, AttributeError):  # not available on Windows
        import resource

        os.nice(NICE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))


def _report() -> dict[str, Any]:
    """Return the data report of the configuration on standard input, as `Jobs.data_report` describes it."""
    import yaml

    from finetune.core.quiet import quiet
    from finetune.prepare import prepare

    _limit_resources(REPORT_BYTES)
    quiet()
    prepared = prepare(loading.build(yaml.safe_load(sys.stdin.read())))
    splits, values = prepared.splits, prepared.splits.train.values
    several = [name for value in values if isinstance(value, list | tuple) for name in value]
    counts = Counter(several or [value for value in values if isinstance(value, str)])
    return {
        "task": splits.labels.task,
        "labels": dict(counts.most_common(LABELS_SHOWN)),
        "all_labels": len(counts),
        "rows": len(values),
        "validation_rows": len(splits.validation),
        "counts": splits.counts,
        "fit": str(prepared.tokenizer_report),
        "near": str(prepared.near_duplicates),
        "warnings": prepared.warnings,
        "updates": prepared.batch_plan.updates,
        "lr": prepared.config.optim.lr,
    }


def _corpus() -> dict[str, Any]:
    """Return the rows of the distillation on standard input, by what happens to them, and some of its texts."""
    import yaml

    from finetune.core.quiet import quiet
    from service.labeling.corpus import corpus_of

    _limit_resources(REPORT_BYTES)
    quiet()
    config = distillation.build(yaml.safe_load(sys.stdin.read()))
    corpus = corpus_of(config)
    count = len(corpus.texts)
    return {
        "counts": corpus.counts,
        "drawn": count,
        "measured": 0 if corpus.measured is None else len(corpus.measured),
        "sample": [corpus.texts[place] for place in range(0, count, -(-count // SAMPLE_TEXTS))],
    }


def _ranking() -> dict[str, Any]:
    """Return the bases on standard input, ranked for the table of the configuration there."""
    import yaml

    from finetune.bases import rank_bases
    from finetune.core.quiet import quiet

    _limit_resources(REPORT_BYTES)
    quiet()
    given = json.loads(sys.stdin.read())
    config = loading.build(yaml.safe_load(given["config"]))
    found = rank_bases(
        config.data.train[0].path,
        given["bases"],
        columns=config.data,
        rows=RANKED_ROWS,
        seed=config.seed,
        models_dir=config.models_dir,
    )
    return asdict(found)


def _choices() -> dict[str, dict[str, str]]:
    from finetune.config.choices import TABLES, sentences

    return {name: sentences(name) for name in TABLES}


def main() -> int:
    """Run the command of the arguments; return the exit code."""
    if sys.argv[1] == "run":
        return _run(Path(sys.argv[2]))
    try:
        content = QUERIES[sys.argv[1]]()
    except ReheadError as error:
        content = {"problem": str(error)}
    except OSError as error:
        if error.errno != errno.EFBIG:
            raise
        content = {"problem": f"the table unpacks to more than {REPORT_BYTES} bytes"}
    print(json.dumps(content))
    return 0


QUERIES: dict[str, Callable[[], dict[str, Any]]] = {
    "report": _report,
    "corpus": _corpus,
    "ranking": _ranking,
    "choices": _choices,
}


if __name__ == "__main__":
    sys.exit(main())

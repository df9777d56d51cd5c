"""The two kinds of runs that `training_jobs` starts, by their configurations: a training or a distillation.

What a run of one kind has and the other has not belongs here: where its table stands, what resumes it, and the folder
beside its model.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml

from finetune.config import loading
from finetune.config.training import TrainConfig
from finetune.core.errors import FinetuneError
from finetune.core.file_lock import is_held
from finetune.core.tables.text_file import suffix_of
from service.labeling import config as distillation
from service.labeling.config import DistillConfig

Kind = Literal["training", "distillation"]
RunConfig = TrainConfig | DistillConfig

FILES: Mapping[Kind, str] = {"training": "config.yaml", "distillation": "distillation.yaml"}
"""Kind -> the file of its configuration in a run's folder, which holds one of them."""

TABLE, LABELED = "table", "labeled"
RUN_IDENTITY = "run.json"
"""Identifies the run that checkpoints belong to, in its work folder (finetune/training/run_identity.py)."""


def kind_of(config: RunConfig) -> Kind:
    """Return the kind of a run."""
    return "distillation" if isinstance(config, DistillConfig) else "training"


def read(folder: Path) -> tuple[Kind, dict[str, Any]]:
    """Return the kind of a run and its configuration as its file holds it.

    Raises:
        FinetuneError: there is none, or it cannot be read.
    """
    kind: Kind = "distillation" if (folder / FILES["distillation"]).is_file() else "training"
    return kind, loading.read_yaml(folder / FILES[kind])


def load(folder: Path) -> RunConfig:
    """Return the configuration of a run.

    Raises:
        FinetuneError: there is none, or it cannot be read.
    """
    kind, content = read(folder)
    return build(kind, content)


def build(kind: Kind, content: Mapping[str, Any]) -> RunConfig:
    """Return the configuration of a run from plain dicts.

    Raises:
        ConfigError: an unknown key or a wrong value.
    """
    return distillation.build(content) if kind == "distillation" else loading.build(content)


def write(folder: Path, config: RunConfig) -> None:
    """Write the configuration of a run in place of another one."""
    for file in FILES.values():
        (folder / file).unlink(missing_ok=True)
    (folder / FILES[kind_of(config)]).write_text(dump(config), encoding="utf-8")


def dump(config: RunConfig) -> str:
    """Return the configuration of a run as YAML."""
    if isinstance(config, TrainConfig):
        return loading.dump(config)
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def table_of(config: RunConfig) -> Path:
    """Return the table of a run."""
    return Path(config.texts if isinstance(config, DistillConfig) else config.data.train[0].path)


def table_versions(config: RunConfig) -> list[tuple[int, int]]:
    """Return the modification times and sizes of a run's tables; those that cannot be read are left out."""
    labeled = config.validation if isinstance(config, DistillConfig) else None
    files = [file for file in (table_of(config), labeled and Path(labeled)) if file and file.is_file()]
    return [(file.stat().st_mtime_ns, file.stat().st_size) for file in files]


def with_copies(config: RunConfig, folder: Path) -> RunConfig:
    """Return a configuration that reads copies of its tables in a run's folder."""
    table = _copy(table_of(config), folder / TABLE)
    if isinstance(config, DistillConfig):
        labeled = config.validation and _copy(Path(config.validation), folder / LABELED)
        return config.model_copy(update={"texts": table, "validation": labeled})
    train = (config.data.train[0].model_copy(update={"path": table}),)
    return config.model_copy(update={"data": config.data.model_copy(update={"train": train})})


def _copy(source: Path, target: Path) -> str:
    return str(shutil.copyfile(source, target.with_name(target.name + suffix_of(source))))


def can_resume(folder: Path, config: RunConfig) -> bool:
    """Return whether a folder holds a stopped training with the same settings and the same table."""
    source = table_of(config)
    try:
        before = load(folder)
    except FinetuneError:
        return False
    if isinstance(config, DistillConfig) or isinstance(before, DistillConfig):
        return False
    table = table_of(before)
    ignored = {"data", "resume"}
    return (
        before.model_dump(exclude=ignored) == config.model_dump(exclude=ignored)
        and before.data.model_dump(exclude={"train"}) == config.data.model_dump(exclude={"train"})
        and table.is_file()
        and suffix_of(table) == suffix_of(source)
        and (checkpoints_of(Path(config.out)) / RUN_IDENTITY).is_file()
        and table.read_bytes() == source.read_bytes()
    )


def checkpoints_of(out: Path) -> Path:
    """Return the folder of a training's checkpoints (finetune/run.py)."""
    return out.with_name(f".{out.name}.run")


def scores_of(out: Path) -> Path:
    """Return the folder of a distillation's scores (`DistillConfig.work`)."""
    return out.with_name(f".{out.name}.distill")


def is_written(out: Path) -> bool:
    """Return whether a run of this or another process is writing a model."""
    return is_held(out) or is_held(scores_of(out))


def delete_work(out: Path) -> None:
    """Delete the checkpoints and the scores of a model's runs."""
    for work in (checkpoints_of(out), scores_of(out)):
        shutil.rmtree(work, ignore_errors=True)

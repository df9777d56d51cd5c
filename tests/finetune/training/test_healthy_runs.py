"""Ten healthy runs on different real tables from the real base raise no alarm: slow, by name."""

from pathlib import Path
from typing import Any

import pytest

from finetune.config.loading import build
from finetune.core import events
from finetune.prepare import prepare
from finetune.run import train

DATA = Path(__file__).parents[4] / "shared" / "data"

TABLES: dict[str, dict[str, Any]] = {
    "trec": {"path": "trec/train.parquet"},
    "sst2": {"path": "sst2/train.parquet"},
    "imdb": {"path": "imdb/train.parquet"},
    "goemotions": {"path": "goemotions/train.parquet"},
    "banking77": {"path": "banking77/train.parquet"},
    "snips": {"path": "snips/train.parquet"},
    "stsb": {"path": "stsb/train.parquet"},
    "query_wellformedness": {"path": "query_wellformedness/train.parquet"},
    "uci_sentences": {"path": "uci_sentences/all.parquet"},
    "dbpedia14": {"path": "dbpedia14/sample.parquet"},
}


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="the labeled data beside the project is not here")
@pytest.mark.parametrize("name", TABLES)
def test_a_healthy_run_raises_no_alarm(tmp_path: Path, name: str) -> None:
    source = {**TABLES[name], "rows": 1200}
    source["path"] = str(DATA / source["path"])
    heard: list[Any] = []
    settings = {"base": "topics", "out": str(tmp_path / "m"), "tfidf_baseline": False, "optim": {"epochs": 2}}
    settings |= {"data": {"train": source, "max_length": 64}, "gradients": {"every": 3}}
    of_data: list[Any] = []
    prepare(build(settings), emit=of_data.append)
    result = train(build(settings), on_event=heard.append)
    alarms = [event for event in heard if isinstance(event, events.Warned) and event not in of_data]
    assert alarms == []
    assert result.updates > 50

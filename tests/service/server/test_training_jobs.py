"""Training in a child process: a run from beginning to end, stopped and gone on with, and what is refused."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from finetune.config import loading
from finetune.core import events
from finetune.core.errors import CheckpointError, ConfigError
from finetune.training.run_lock import locked
from service.app import create_app
from service.errors import BadRequest, Overloaded
from service.labeling import report_files
from service.server.training_jobs import FOLDER, Jobs
from service.settings import ServeSettings
from tests.support import waiting


def write_table(file, rows=64):
    lines = [f"{('good', 'bad')[row % 2]} film {row},{('yes', 'no')[row % 2]}" for row in range(rows)]
    file.write_text("\n".join(["text,label", *lines]) + "\n")
    return file


@pytest.fixture
def jobs(tmp_path, tiny_base):
    (tmp_path / "models").mkdir()
    running = Jobs(tmp_path / "models", (str(tiny_base),))
    yield running
    running.close()


@pytest.fixture
def settings(tiny_base):
    return {"base": str(tiny_base), "optim.epochs": 2, "optim.batch_size": 8, "plots": False}


def until(jobs, name, wanted):
    waiting.until(lambda: wanted(jobs.job(name)), f"the run {name}", every_s=0.5)
    return jobs.job(name)


def test_a_run_tells_what_happens_and_leaves_a_model(jobs, settings, tmp_path):
    table = write_table(tmp_path / "films.csv")
    config = jobs.config("films", settings | {"loss.name": "focal", "loss.gamma": 3}, table)
    jobs.start("films", config)
    with pytest.raises(Overloaded, match="films is being trained, and one run trains at a time"):
        jobs.start("others", jobs.config("others", settings, table))
    job = until(jobs, "films", lambda job: job.state != "running")
    assert job.state == "finished" and jobs.latest() == job
    kinds = {type(one) for one in job.events}
    assert {events.Started, events.Step, events.GradientsRecorded, events.Evaluated, events.Finished} <= kinds
    assert job.config["loss"] == {"name": "focal", "gamma": 3}
    looked = next(one for one in job.events if isinstance(one, events.GradientsRecorded))
    assert set(looked.gradient) == set(looked.ratio) and all(value >= 0 for value in looked.gradient.values())
    from service import Classifier

    assert Classifier("films", models_dir=tmp_path / "models")("good film")[0]["label"] in ("yes", "no")
    with pytest.raises(BadRequest, match="there is a model 'films' already"):
        jobs.config("films", settings, table)


@pytest.mark.slow
def test_a_stopped_run_goes_on_from_its_checkpoint(jobs, settings, tmp_path):
    table = write_table(tmp_path / "films.csv")
    long = settings | {"optim.epochs": 400, "checkpoint.every_steps": 5}
    config = jobs.config("films", long, table)
    jobs.start("films", config)
    saved = until(jobs, "films", lambda job: any(isinstance(one, events.Saved) for one in job.events))
    assert saved.state == "running"
    jobs.stop("films")
    assert jobs.job("films").state == "stopped" and not (tmp_path / "models" / "films").exists()
    warned = [one.text for one in jobs.job("films").events if isinstance(one, events.Warned)]
    assert any(text.startswith("interrupted at update ") for text in warned), "the update it was in is saved"
    table = write_table(tmp_path / "uploaded_again.csv")
    jobs.start("films", jobs.config("films", long, table))
    job = until(jobs, "films", lambda job: any(isinstance(one, events.Step) for one in job.events))
    assert job.config["resume"] is True
    assert next(one for one in job.events if isinstance(one, events.Step)).update > 5
    jobs.stop("films")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="reads /proc, which this system does not have")
def test_a_run_ends_with_its_server(settings, tmp_path, tiny_base):
    table = write_table(tmp_path / "films.csv")
    program = (
        "import signal; from pathlib import Path; from service.server.training_jobs import Jobs\n"
        f"jobs = Jobs(Path({str(tmp_path / 'models')!r}), ({str(tiny_base)!r},))\n"
        f"config = jobs.config('films', {settings | {'optim.epochs': 5000}!r}, Path({str(table)!r}))\n"
        "jobs.start('films', config); print(jobs._running[1].pid, flush=True); signal.pause()"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    jobs = Jobs(tmp_path / "models", ())
    try:
        until(jobs, "films", lambda job: any(isinstance(one, events.Step) for one in job.events))
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        parent.stdout.close()
    waiting.until(lambda: not os.path.exists(f"/proc/{child}"), "the end of the run")  # noqa: PTH110 (no file)
    assert jobs.latest().state == "stopped"


def test_a_run_that_cannot_be_says_why(jobs, settings, tmp_path):
    table = write_table(tmp_path / "films.csv")
    jobs.start("films", jobs.config("films", settings | {"loss.name": "no_such_loss"}, table))
    job = until(jobs, "films", lambda job: job.state != "running")
    assert job.state == "failed" and "unknown loss 'no_such_loss'" in job.events[-1].text


def stopped_before(jobs, tmp_path, config):
    """Leave what a run with this configuration leaves that was stopped at a checkpoint."""
    folder, work = tmp_path / "models" / FOLDER / "films", tmp_path / "models" / ".films.run" / "checkpoint-5"
    folder.mkdir(parents=True)
    work.mkdir(parents=True)
    (work.parent / "run.json").write_text("{}")
    table = folder / f"table{Path(config.data.train[0].path).suffix}"
    table.write_bytes(Path(config.data.train[0].path).read_bytes())
    data = config.data.model_copy(update={"train": (config.data.train[0].model_copy(update={"path": str(table)}),)})
    (folder / "config.yaml").write_text(loading.dump(config.model_copy(update={"data": data})))
    return work


@pytest.mark.parametrize("changed", ["nothing", "rows", "suffix", "setting"])
def test_only_the_very_same_run_goes_on(jobs, settings, tmp_path, monkeypatch, changed):
    table = write_table(tmp_path / "films.csv")
    work = stopped_before(jobs, tmp_path, jobs.config("films", settings, table))
    monkeypatch.setattr("service.server.training_jobs._command", lambda *words: ["-c", ""])
    if changed == "rows":
        write_table(table, 66)
    elif changed == "suffix":
        table = table.rename(tmp_path / "films.tsv")
    more = {"seed": 3} if changed == "setting" else {}
    jobs.start("films", jobs.config("films", settings | more, table))
    same = changed == "nothing"
    assert jobs.job("films").config["resume"] is same and work.exists() is same
    begun = Path(jobs.job("films").config["data"]["train"][0]["path"])
    assert begun.suffix == table.suffix and begun.read_bytes() == table.read_bytes()


def test_a_run_that_a_command_is_making_is_not_touched(jobs, settings, tmp_path):
    table = write_table(tmp_path / "films.csv")
    config = jobs.config("films", settings, table)
    work = stopped_before(jobs, tmp_path, config)
    with locked(tmp_path / "models" / "films"), pytest.raises(Overloaded, match="another run is writing .*films"):
        jobs.start("films", jobs.config("films", settings | {"seed": 3}, table))
    assert work.exists()


def test_the_folders_of_old_runs_go(jobs, settings, tmp_path, monkeypatch):
    monkeypatch.setattr("service.server.training_jobs._command", lambda *words: ["-c", ""])
    monkeypatch.setattr("service.server.training_jobs.MAX_RUNS", 3)
    table = write_table(tmp_path / "films.csv")
    for name in ("one", "two", "three", "four"):
        jobs.start(name, jobs.config(name, settings, table))
        until(jobs, name, lambda job: job.state != "running")
    assert {file.name for file in (tmp_path / "models" / FOLDER).iterdir()} == {"two", "three", "four"}
    jobs.start("two", jobs.config("two", settings, table))  # the oldest of them, begun again, stays
    assert {file.name for file in (tmp_path / "models" / FOLDER).iterdir()} == {"two", "three", "four"}


def test_an_event_that_is_half_written_is_not_read_yet(jobs, tmp_path):
    folder = tmp_path / "models" / FOLDER / "films"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("base: a\nout: b\n")
    (folder / "events.jsonl").write_text(
        '{"event": "Info", "text": "a"}\n{"event": "Evaluated", "update": 1, "epoch": 1.0, "metrics": {"accuracy": 1.0}'
    )
    assert [type(one) for one in jobs.job("films").events] == [events.Info]


@pytest.mark.slow
def test_a_data_report_is_kept_until_its_table_changes(jobs, settings, tmp_path):
    table = write_table(tmp_path / "films.csv")
    config = jobs.config(None, settings, table)
    first = jobs.data_report(config)
    assert jobs.data_report(config) is first
    with table.open("a") as stream:
        stream.write("one more film,yes\n")
    assert jobs.data_report(config)["rows"] != first["rows"]


def test_one_table_is_looked_at_at_a_time_and_a_server_that_ends_does_not_wait(jobs, settings, tmp_path, monkeypatch):
    sleeping = ["-c", "import threading; threading.Event().wait()"]
    monkeypatch.setattr("service.server.training_jobs._command", lambda *words: sleeping)
    config = jobs.config(None, settings, write_table(tmp_path / "films.csv"))
    with ThreadPoolExecutor() as pool:
        first = pool.submit(jobs.data_report, config)
        waiting.until(lambda: jobs._queries, "the data report is being made")
        with pytest.raises(Overloaded, match="another data report is being made"):
            jobs.data_report(config)
        (child,) = jobs._queries
        jobs.close()
        with pytest.raises(RuntimeError, match="the training process exited with"):
            first.result()
    assert child.returncode == -signal.SIGKILL  # it did not sleep to its end


@pytest.mark.parametrize(
    ("name", "changed", "said"),
    [
        ("", {}, "a model's name consists of"),
        ("../films", {}, "a model's name consists of"),
        (".films", {}, "a model's name consists of"),
        ("films", {"base": "/etc"}, "base model '/etc' is not allowed"),
        ("films", {"base": "google/bert"}, "base model 'google/bert' is not allowed"),
    ],
)
def test_names_and_bases_that_are_not_offered_are_refused(jobs, settings, tmp_path, name, changed, said):
    with pytest.raises(BadRequest, match=said):
        jobs.config(name, settings | changed, tmp_path / "films.csv")


def test_bases_and_tables_that_are_not_there_are_said_when_the_server_starts(tmp_path, tiny_models, monkeypatch):
    monkeypatch.delenv("REHEAD_API_KEYS", raising=False)
    with pytest.raises(CheckpointError, match="holds no model"):
        Jobs(tmp_path, (str(tmp_path),))
    with pytest.raises(BadRequest, match="there is no folder .*none: set --tables"):
        create_app(ServeSettings(models=tiny_models, tables=tmp_path / "none"))


def test_settings_that_cannot_be_are_named(jobs, settings, tmp_path):
    with pytest.raises(ConfigError, match=r"optim\.epochs"):
        jobs.config("films", settings | {"optim.epochs": -1}, tmp_path / "films.csv")


def test_a_look_at_a_table_says_what_is_in_it(jobs, settings, tmp_path):
    table = write_table(tmp_path / "films.csv", 40)
    with table.open("a") as stream:
        stream.write(",yes\ngood film 0,yes\n")
    found = jobs.data_report(jobs.config("films", settings, table))
    assert found["task"] == "binary" and sum(found["labels"].values()) == found["rows"] == 36
    assert found["counts"]["empty_texts"] == 1 and found["counts"]["duplicates"] == 1
    assert found["updates"] == 2 * -(-36 // 8)
    assert not (tmp_path / "models" / FOLDER).exists()


def test_a_run_trains_on_the_device_of_the_server(jobs, settings, tmp_path, tiny_models):
    table = write_table(tmp_path / "films.csv", 40)
    assert jobs.config(None, settings, table).device == "auto"
    there = Jobs(tiny_models, jobs.bases, "cuda:1")
    assert there.config(None, settings, table).device == "cuda"
    assert there.config(None, settings | {"device": "cpu"}, table).device == "cpu"


@pytest.mark.slow
def test_bases_are_ranked_for_the_table(jobs, settings, tmp_path):
    found = jobs.ranking(jobs.config(None, settings, write_table(tmp_path / "films.csv", 40)))
    assert found["metric"] == "accuracy" and found["rows"] > 20
    assert {base["name"] for base in found["bases"]} <= set(jobs.bases)
    assert found["recommended"] in jobs.bases and found["recommended"] in found["recommendation"]


def test_choices_are_those_of_the_tables(jobs):
    from finetune.modeling.heads import HEADS
    from finetune.training.losses import LOSSES

    found = jobs.choices()
    assert list(found["losses"]) == list(LOSSES) and list(found["heads"]) == list(HEADS)
    assert all(sentence for table in found.values() for sentence in table.values())


LABELS = ["sports", "business", "science"]
WORDS = ("football match", "market money", "space planet")


def write_texts(file, rows=60):
    """Write short distinct texts about the labels, without labels."""
    lines = [f"the {WORDS[row % 3]} of text {row}" for row in range(rows)]
    file.write_text("\n".join(["text", *lines]) + "\n")
    return file


@pytest.fixture
def distilling(tmp_path, tiny_topics, tiny_sentiment):
    """Return the jobs of a server with a zero-shot model and another one."""
    (tmp_path / "models").mkdir()
    shutil.copytree(tiny_topics, tmp_path / "models" / "topics")
    shutil.copytree(tiny_sentiment, tmp_path / "models" / "sentiment")
    running = Jobs(tmp_path / "models")
    yield running
    running.close()


def distillation(jobs, table, name="news", **more):
    return jobs.distillation(name, {"teacher": "topics", "labels": LABELS, "text": "text"} | more, table)


def counted_scores(cache):
    """Return how many texts a run has scored so far."""
    with sqlite3.connect(cache) as database:
        return database.execute("SELECT count(*) FROM answers").fetchone()[0]


@pytest.mark.slow
def test_a_distillation_is_a_run_in_the_same_queue_and_leaves_a_model(distilling, settings, tmp_path):
    table = write_texts(tmp_path / "texts.csv")
    labeled = tmp_path / "answers.csv"
    answers = [f"the {WORDS[row % 3]} of answer {row},{LABELS[row % 3]}" for row in range(12)]
    labeled.write_text("\n".join(["text,label", *answers, "a text that nobody labeled,"]) + "\n")
    config = distillation(distilling, table, validation=str(labeled), none_of_these=True)
    report = distilling.data_report(config)
    assert (report["drawn"], report["measured"], report["counts"]["usable"]) == (60, 12, 60)
    assert len(report["sample"]) <= 16 and report["sample"][0] == "the football match of text 0"
    distilling.start("news", config)
    with pytest.raises(Overloaded, match="news is being trained, and one run trains at a time"):
        distilling.start("films", distilling.config("films", settings | {"base": "topics"}, table))
    job = until(distilling, "news", lambda job: job.state != "running")
    assert job.state == "finished", job.events[-1]
    assert distilling.latest("distillation") == job and distilling.latest() is None
    assert Path(job.config["texts"]).read_bytes() == table.read_bytes()
    kinds = [type(event) for event in job.events]
    assert kinds.index(events.Processed) < kinds.index(events.Started) < kinds.index(events.Finished)
    ends = [
        (event.verb, event.done)
        for event in job.events
        if isinstance(event, events.Processed) and event.done == event.rows
    ]
    assert ends[0] == ("scored", 60) and set(ends[1:]) <= {("embedded", 60)}  # by a second model, where it is installed
    report = report_files.report_of(tmp_path / "models" / "news")
    assert report["measured"]["rows"] == 12 and set(report["shares"]) == {*LABELS, "none of these"}
    assert not (tmp_path / "models" / ".news.distill").exists(), "the texts and scores of a finished run are deleted"
    with pytest.raises(BadRequest, match="there is a model 'news' already"):
        distillation(distilling, table)


@pytest.mark.slow
def test_a_stopped_distillation_continues_from_its_scores(distilling, tmp_path):
    table = write_texts(tmp_path / "texts.csv", 6000)
    cache = tmp_path / "models" / ".news.distill" / "scores.sqlite3"
    distilling.start("news", distillation(distilling, table))
    until(distilling, "news", lambda job: scored(job) >= 256)
    distilling.stop("news")
    assert distilling.job("news").state == "stopped" and not (tmp_path / "models" / "news").exists()
    before = counted_scores(cache)
    assert 256 <= before < 6000
    again = write_texts(tmp_path / "uploaded_again.csv", before)  # all of which were scored
    distilling.start("news", distillation(distilling, again))
    job = until(distilling, "news", lambda job: scored(job) == before)
    assert counted_scores(cache) == before
    until(distilling, "news", lambda job: f"{before:,} of {before:,} scores came from the cache" in told(job))
    assert job.config["texts"].endswith("table.csv")
    distilling.stop("news")


def scored(job):
    return max((event.done for event in job.events if isinstance(event, events.Processed)), default=0)


def told(job):
    return [event.text for event in job.events if isinstance(event, events.Info)]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="reads /proc, which this system does not have")
def test_a_distillation_ends_with_its_server(distilling, tmp_path):
    table = write_texts(tmp_path / "texts.csv", 20_000)
    program = (
        "import signal; from pathlib import Path; from service.server.training_jobs import Jobs\n"
        f"jobs = Jobs(Path({str(tmp_path / 'models')!r}))\n"
        f"settings = {{'teacher': 'topics', 'labels': {LABELS!r}, 'text': 'text'}}\n"
        f"jobs.start('news', jobs.distillation('news', settings, Path({str(table)!r})))\n"
        "print(jobs._running[1].pid, flush=True); signal.pause()"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    try:
        until(distilling, "news", lambda job: scored(job) > 0)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        parent.stdout.close()
    waiting.until(lambda: not os.path.exists(f"/proc/{child}"), "the end of the run")  # noqa: PTH110 (no file)
    assert distilling.latest("distillation").state == "stopped"


def test_a_distillation_that_cannot_be_says_why(distilling, tmp_path):
    table = write_texts(tmp_path / "texts.csv", 3)
    with pytest.raises(BadRequest, match="3 of 3 rows hold a text without a label"):
        distilling.data_report(distillation(distilling, table))
    distilling.start("news", distillation(distilling, table))
    job = until(distilling, "news", lambda job: job.state != "running")
    assert job.state == "failed" and "3 of 3 rows hold a text without a label" in job.events[-1].text


@pytest.mark.parametrize(
    "teacher",
    ["http://127.0.0.1:1/v1", "sentiment", "google/bert", "../topics", None, {"name": "endpoint", "url": "http://x"}],
)
def test_only_served_zero_shot_models_teach(distilling, tmp_path, teacher):
    with pytest.raises(BadRequest, match="is no zero-shot model of this server: use one of topics"):
        distillation(distilling, write_texts(tmp_path / "texts.csv"), teacher=teacher)


def test_a_student_starts_from_an_allowed_base(distilling, tmp_path, tiny_base):
    table = write_texts(tmp_path / "texts.csv")
    assert distillation(distilling, table).base == "topics"
    restricted = Jobs(tmp_path / "models", (str(tiny_base),))
    assert distillation(restricted, table).base == str(tiny_base)

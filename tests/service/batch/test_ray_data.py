"""Jobs on a real Ray of this machine: the rows of the local loop, whoever is killed, on local folders and on S3."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time

import psutil
import pytest

from finetune.core.tables.files import read_table, write_table
from service.batch.score_table import score

pytestmark = pytest.mark.slow
pytest.importorskip("ray", reason="ray is not installed: pip install 'rehead[ray]'")
FILES, ROWS = 8, 40
NO_RAY = "import sys; sys.modules['ray'] = None; from service.cli import main; sys.exit(main())"


@pytest.fixture
def inputs(tmp_path):
    for number in range(FILES):
        rows = [
            {"id": number * ROWS + row, "text": "" if row == 7 else f"a {('good', 'bad')[row % 2]} film {row}"}
            for row in range(ROWS)
        ]
        (tmp_path / "in").mkdir(exist_ok=True)
        write_table(tmp_path / "in" / f"{number}.parquet", rows)
    return tmp_path / "in"


def command(model, source, out, *options, program=("-m", "service.cli")):
    arguments = ["predict", str(model), str(source), "-o", str(out), "--engine", "ray", *options]
    return [sys.executable, *program, *arguments]


def run(*arguments, **options):
    return subprocess.run(command(*arguments, **options), capture_output=True, text=True, timeout=300)


def rows_of(folder):
    files = sorted(folder.glob("*.parquet"))
    return [row for file in files for row in read_table(file).rows]


def expected(model, inputs, tmp_path):
    rows = []
    for file in sorted(inputs.iterdir()):
        score(model, file, tmp_path / "local.parquet", overwrite=True)
        rows += read_table(tmp_path / "local.parquet").rows
    return rows


def same(rows, others):
    keys = ("id", "text", "prediction", "error")
    assert [[row[key] for key in keys] for row in rows] == [[row[key] for key in keys] for row in others]
    scores = [row["score"] or 0 for row in others]
    assert [row["score"] or 0 for row in rows] == pytest.approx(scores, abs=1e-5)


def test_a_job_has_the_rows_of_the_local_loop_in_order_and_continues_when_killed(tiny_sentiment, inputs, tmp_path):
    wanted = expected(tiny_sentiment, inputs, tmp_path)
    out, staging = tmp_path / "out", tmp_path / ".out.staging"
    driver = subprocess.Popen(
        command(tiny_sentiment, inputs, out, "--actors", "1"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 240
    while len(list(staging.glob("part-*.parquet"))) < 2 and driver.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    driver.kill()
    driver.communicate()
    done = {file.name: file.stat().st_mtime_ns for file in staging.glob("part-*.parquet")}
    assert 2 <= len(done) < FILES and not out.exists()

    finished = run(tiny_sentiment, inputs, out, "--actors", "1")
    assert finished.returncode == 0, finished.stderr
    printed = f"{FILES * ROWS} rows in {FILES} files, ([0-9]+) of them finished by an earlier run"
    resumed = re.search(printed, finished.stderr)
    # the actor outlives the driver for a moment, and may finish a file after they are listed
    assert resumed is not None and len(done) <= int(resumed[1]) <= FILES, finished.stderr
    assert f"{FILES} rows could not be scored" in finished.stderr
    same(rows_of(out), wanted)
    assert {name: (out / name).stat().st_mtime_ns for name in done} == done  # not scored again
    assert not staging.exists()
    again = run(tiny_sentiment, inputs, out)
    assert again.returncode == 2 and "exists already" in again.stderr


def test_an_actor_that_is_killed_is_replaced_and_no_row_is_lost_or_doubled(tiny_sentiment, inputs, tmp_path):
    out, staging = tmp_path / "out", tmp_path / ".out.staging"
    driver = subprocess.Popen(
        command(tiny_sentiment, inputs, out, "--actors", "1"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    killed: set[int] = set()
    deadline = time.monotonic() + 240
    while driver.poll() is None and time.monotonic() < deadline and not killed:
        if staging.is_dir() and len(list(staging.glob("part-*.parquet"))) >= 2:
            for child in psutil.Process(driver.pid).children(recursive=True):
                if "MapWorker" in " ".join(child.cmdline()):
                    killed.add(child.pid)
                    child.kill()
        time.sleep(0.02)
    _, printed = driver.communicate(timeout=240)
    assert killed and driver.returncode == 0, printed
    same(rows_of(out), expected(tiny_sentiment, inputs, tmp_path))


def test_files_of_different_columns_are_refused_by_name(tiny_sentiment, inputs, tmp_path):
    write_table(inputs / "9.parquet", [{"id": "one", "text": "a film"}])
    refused = run(tiny_sentiment, inputs, tmp_path / "out", "--actors", "1")
    assert refused.returncode == 2 and "different columns (id: int64, id: string)" in refused.stderr
    assert "Traceback" not in refused.stderr and not (tmp_path / "out").exists()


def test_a_cluster_that_does_not_answer_is_said_at_once(tiny_sentiment, inputs, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    refused = run(tiny_sentiment, inputs, tmp_path / "out", "--address", address)
    assert refused.returncode == 1 and f"no Ray cluster answers at {address}" in refused.stderr


def test_without_ray_the_error_has_the_install_line(tiny_sentiment, inputs, tmp_path):
    refused = run(tiny_sentiment, inputs, tmp_path / "out", program=("-c", NO_RAY))
    assert refused.returncode == 2
    assert refused.stderr.strip() == "error: Ray is not installed: pip install 'rehead[ray]'"


def test_an_object_store_is_read_and_written(tiny_sentiment, inputs, tmp_path, monkeypatch):
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    server = pytest.importorskip("moto.server", reason="moto is not installed")
    started = server.ThreadedMotoServer(port=0)
    started.start()
    try:
        port = started.get_host_and_port()[1]
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        import s3fs

        store = s3fs.S3FileSystem()
        store.mkdir("bucket")
        for file in inputs.iterdir():
            store.put_file(str(file), f"bucket/in/{file.name}")
        done = run(tiny_sentiment, "s3://bucket/in/*.parquet", "s3://bucket/out", "--actors", "1")
        assert done.returncode == 0, done.stderr
        store.invalidate_cache()
        names = sorted(path.rpartition("/")[2] for path in store.find("bucket") if "/in/" not in path)
        assert names == ["_SUCCESS", *(f"part-{number:06d}.parquet" for number in range(FILES))]
        store.get("bucket/out/", f"{tmp_path}/fetched/", recursive=True)
        same(rows_of(tmp_path / "fetched"), expected(tiny_sentiment, inputs, tmp_path))
    finally:
        started.stop()


MAP_BATCHES = """
import sys
import ray
from service.batch.batch_scorer import BatchScorer
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
scored = ray.data.read_parquet(sys.argv[2]).map_batches(
    BatchScorer,
    fn_constructor_args=(sys.argv[1],),
    compute=ray.data.ActorPoolStrategy(size=1),
    batch_size=64,
    batch_format="pyarrow",
)
scored.write_parquet(sys.argv[3])
"""


def test_map_batches_drives_the_class(tiny_sentiment, inputs, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # loopback only
    program = [sys.executable, "-c", MAP_BATCHES, str(tiny_sentiment), str(inputs), str(tmp_path / "out")]
    finished = subprocess.run(program, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr
    rows = sorted(rows_of(tmp_path / "out"), key=lambda row: row["id"])
    same(rows, expected(tiny_sentiment, inputs, tmp_path))

"""The output folder of a job on several machines: complete or not there, continued, and never at the cost of others."""

from __future__ import annotations

import uuid

import fsspec
import pyarrow
import pyarrow.parquet
import pytest

from service.batch.output_folder import OutputFolder
from service.errors import BadRequest


@pytest.fixture(params=["file", "memory"])
def root(request, tmp_path):
    return str(tmp_path) if request.param == "file" else f"memory://{uuid.uuid4().hex}"


@pytest.fixture
def part(tmp_path):
    table = pyarrow.table({"text": ["a", "b"], "error": pyarrow.array([None, "empty"], pyarrow.string())})
    pyarrow.parquet.write_table(table, tmp_path / "scored.parquet")
    return tmp_path / "scored.parquet"


def names(address):
    system, path = fsspec.core.url_to_fs(address)
    return sorted(found.rpartition("/")[2] for found in system.find(path)) if system.exists(path) else None


def test_it_appears_once_it_is_complete_with_its_parts_alone(root, part):
    out = OutputFolder(f"{root}/out")
    out.check(["model", 2], overwrite=False)
    assert out.begin(["model", 2]) == {}
    out.add(1, part)
    out.add(1, part)  # by an actor that was started again
    assert out.attempt("run", 0) == 1 and out.attempt("run", 0) == 2 and out.attempt("other", 0) == 1
    assert names(f"{root}/out") is None
    out.add(0, part)
    out.finish()
    parts = ["part-000000.parquet", "part-000001.parquet"]
    assert names(f"{root}/out") == parts if "://" not in root else ["_SUCCESS", *parts]
    assert names(f"{root}/.out.staging") is None


def test_the_same_job_continues_and_another_one_starts_afresh(root, part):
    OutputFolder(f"{root}/out").begin(["model", 2])
    OutputFolder(f"{root}/out").add(1, part)
    again = OutputFolder(f"{root}/out")
    finished = again.begin(["model", 2])
    assert list(finished) == [1]
    assert again.read(finished[1]) == (["text: string", "error: string"], 2, 1)
    assert again.begin(["another model", 2]) == {} and again.begin(["model", 2]) == {}


def test_a_job_that_was_stopped_while_it_copied_its_output_goes_on(root, part):
    out = OutputFolder(f"{root}/out")
    out.begin(["model", 2])
    out.add(0, part)
    system, path = fsspec.core.url_to_fs(f"{root}/out")
    system.makedirs(path, exist_ok=True)
    system.put_file(str(part), f"{path}/part-000000.parquet")
    with pytest.raises(BadRequest, match="exists already"):
        out.check(["another model", 2], overwrite=False)
    out.check(["model", 2], overwrite=False)
    assert list(out.begin(["model", 2])) == [0]
    out.finish()
    assert "part-000000.parquet" in names(f"{root}/out") and names(f"{root}/.out.staging") is None


def test_other_files_are_never_replaced(root, part):
    system, path = fsspec.core.url_to_fs(f"{root}/out")
    system.makedirs(path, exist_ok=True)
    system.put_file(str(part), f"{path}/part-000000.parquet")
    with pytest.raises(BadRequest, match="exists already: name another folder, or pass --overwrite"):
        OutputFolder(f"{root}/out").check(["model", 2], overwrite=False)
    OutputFolder(f"{root}/out").check(["model", 2], overwrite=True)
    system.put_file(str(part), f"{path}/thesis.parquet")
    with pytest.raises(BadRequest, match="holds other files"):
        OutputFolder(f"{root}/out").check(["model", 2], overwrite=True)


def test_a_file_is_no_output(root, part):
    with pytest.raises(BadRequest, match="writes a folder of Parquet files"):
        OutputFolder(f"{root}/out.csv").check(["model", 2], overwrite=True)
    with pytest.raises(BadRequest, match="is a file: name a folder"):
        system, path = fsspec.core.url_to_fs(f"{root}/out")
        system.makedirs(path.rpartition("/")[0], exist_ok=True)
        system.put_file(str(part), path)
        OutputFolder(f"{root}/out").check(["model", 2], overwrite=True)

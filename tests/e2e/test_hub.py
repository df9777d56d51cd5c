"""Models by their Hub id, and `rehead push`: huggingface_hub's client against a local server with the Hub's routes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import hub as local_hub
import pytest


@pytest.fixture
def hub():
    server = local_hub.start()
    yield server
    server.shutdown()
    server.server_close()


def rehead(address, home, *arguments, token=local_hub.TOKEN):
    environment = os.environ | {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_TOKEN": token, "HF_HOME": str(home)}
    command = [sys.executable, "-m", "service.cli", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_a_model_is_downloaded_by_its_id_and_later_loaded_without_the_hub(hub, tiny_sentiment, tmp_path):
    hub.models["org/tiny"] = tiny_sentiment
    first = rehead(hub.address, tmp_path, "predict", "org/tiny", "a film", "--json")
    assert first.returncode == 0, first.stderr
    unreachable = rehead("http://127.0.0.1:1", tmp_path, "predict", "org/tiny", "a film", "--json")
    assert unreachable.stdout == first.stdout and '"score"' in first.stdout
    by_path = rehead(hub.address, tmp_path, "predict", tiny_sentiment, "a film", "--json")
    assert by_path.stdout == first.stdout


def test_an_unavailable_model_is_one_sentence(hub, tiny_sentiment, tmp_path):
    hub.models["org/pickled"] = shutil.copytree(tiny_sentiment, tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").rename(tmp_path / "pickled" / "pytorch_model.bin")
    pickled = rehead(hub.address, tmp_path, "predict", "org/pickled", "a film")
    missing = rehead(hub.address, tmp_path, "predict", "org/nothing", "a film")
    unreachable = rehead("http://127.0.0.1:1", tmp_path, "predict", "org/nothing", "a film")
    for done, sentence in (
        (pickled, "'org/pickled' on the Hub has no safetensors weights"),
        (missing, "nor a model on the Hub: "),
        (unreachable, "and the Hub cannot be reached, and the cache does not have it"),
    ):
        assert done.returncode == 2 and sentence in done.stderr
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_dataset_is_read_by_its_id_configuration_revision_and_split(hub, tiny_base, tmp_path):
    hub.models["datasets/org/reviews"] = folder = tmp_path / "reviews"
    parts = {"en": "train", "de": "train", "de_held": "validation"}
    card = "".join(
        f"- config_name: {name[:2]}\n  data_files:\n" * (name != "de_held")
        + f"  - split: {split}\n    path: {name}.csv\n"
        for name, split in parts.items()
    )
    folder.mkdir()
    (folder / "README.md").write_text(f"---\nconfigs:\n{card}---\n")
    for size, name in enumerate(parts, start=1):
        lines = [f"{name} text {index},{'pn'[index % 2]}" for index in range(10 * size)]
        (folder / f"{name}.csv").write_text("\n".join(["text,label", *lines]))

    def counts(spec):
        done = rehead(hub.address, tmp_path, "finetune", spec, "--base", tiny_base, "--out", "o", "--dry-run")
        assert done.returncode == 0, done.stderr
        return {line[2:].split(":")[0]: line.rpartition(" ")[2] for line in done.stdout.splitlines() if line[:1] == "#"}

    whole = counts("org/reviews:de@v1")
    assert (whole["train"], whole["validation"]) == ("20", "30")
    assert "/datasets/org/reviews/resolve/v1/README.md" in hub.requested
    part = counts("org/reviews:de#train[:10]")
    assert (part["rows read"], part["train"], part["validation"]) == ("10", "9", "1")
    missing = rehead(hub.address, tmp_path, "finetune", "org/none", "--base", tiny_base, "--out", "o", "--dry-run")
    assert missing.returncode == 2 and missing.stderr.count("\n") == 1
    assert "org/none: there is no such file, and the dataset cannot be loaded from the Hub" in missing.stderr


def test_push_uploads_the_folder_and_its_card_but_no_texts(hub, tiny_sentiment, tmp_path):
    folder = shutil.copytree(tiny_sentiment, tmp_path / "mine")
    (folder / "README.md").write_text("---\nlibrary_name: transformers\n---\n# mine\n")
    (folder / "report").mkdir()
    (folder / "report" / "errors.csv").write_text("text\nsecret\n")
    (folder / "report" / "confusion_matrix.png").write_bytes(b"png")
    done = rehead(hub.address, tmp_path, "push", folder, "me/mine", "--private", "--message", "first")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"is at {hub.address}/me/mine (aaaaaaa)\n")
    assert hub.created["name"] == "mine" and hub.created["organization"] == "me" and hub.message == "first"
    assert hub.created.get("private") is True or hub.created.get("visibility") == "private"
    assert hub.files["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert b"# mine" in hub.files["README.md"] and "report/confusion_matrix.png" in hub.files
    assert "report/errors.csv" not in hub.files
    assert rehead(hub.address, tmp_path, "push", folder, "me/mine", "--with-texts").returncode == 0
    assert hub.files["report/errors.csv"] == b"text\nsecret\n"


PUSH = """
import sys
import rehead
print(rehead.load(sys.argv[1]).push_to_hub("me/mine", private=True, commit_message="from Python"))
try:
    rehead.load(sys.argv[1]).push_to_hub("mine")
except rehead.BadRequest as error:
    print(error)
"""


def test_a_loaded_classifier_uploads_its_folder(hub, tiny_sentiment, tmp_path):
    environment = {"HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "HF_TOKEN": local_hub.TOKEN}
    done = subprocess.run(
        [sys.executable, "-c", PUSH, tiny_sentiment],
        env=os.environ | environment | {"HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    address, problem = done.stdout.splitlines()
    assert address == f"{hub.address}/me/mine" and "write OWNER/NAME" in problem
    assert hub.files["model.safetensors"] == (tiny_sentiment / "model.safetensors").read_bytes()
    assert hub.message == "from Python"


def test_a_rejected_upload_and_a_bad_name_are_one_sentence(hub, tiny_sentiment, tmp_path):
    refused = rehead(hub.address, tmp_path, "push", tiny_sentiment, "me/mine", token="hf_wrong")
    assert refused.returncode == 2 and refused.stderr.count("\n") <= 2
    assert "the Hub refused me/mine (401" in refused.stderr and "hf auth login" in refused.stderr
    wrong = rehead(hub.address, tmp_path, "push", tiny_sentiment, "mine")
    assert wrong.returncode == 2 and "write OWNER/NAME" in wrong.stderr
    assert hub.files == {}

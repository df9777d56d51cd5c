"""Models of the Hugging Face Hub, brought to this disk.

Knows: which files of a model are wanted, what to do where the Hub cannot be reached.
Does not know: what a model folder holds (artifact.py), how a model is uploaded (`rehead push`).
"""

from __future__ import annotations

from dataclasses import replace
from os import PathLike
from pathlib import Path

from finetune.core.errors import CheckpointError
from finetune.core.model_folder import Location, served

HUB_FILES = ("*.json", "model*.safetensors", "vocab*", "merges.txt", "*.model", "tokenizer*")
"""What is downloaded of a model on the Hub."""

HUB_TIMEOUT_S = 10.0


def fetched(
    location: Location, models_dir: str | PathLike[str] | None = "models", *, revision: str | None = None
) -> Location:
    """`location` with its files on this disk: a Hub id is downloaded, or taken from the cache where the Hub cannot be
    reached; others stay as they are.

    Args:
        models_dir: the folder of named models, for what is said where there is no such model.
        revision: branch, tag or commit on the Hub.

    Raises:
        CheckpointError: the Hub has no such model, or only pickles of it, or cannot be reached and nothing is cached.
    """
    if location.kind != "hub":
        return location
    import huggingface_hub.errors as hub
    from huggingface_hub import HfApi, snapshot_download

    name = location.name
    known = ", ".join(served(models_dir)) or "none"
    where = f"no model {name!r}: it is neither a folder nor a served name (served: {known})"
    info, reached = None, False
    try:
        # asked once and briefly: a download would try again and again before it gives up
        info = HfApi(library_name="rehead").model_info(name, revision=revision, timeout=HUB_TIMEOUT_S)
        reached = True
    except (hub.RepositoryNotFoundError, hub.RevisionNotFoundError, hub.HFValidationError) as error:
        first = " ".join(str(error).split())[:160]
        raise CheckpointError(f"{where}, and the Hub does not give it: {first}") from error
    except (hub.OfflineModeIsEnabled, hub.HTTPError, OSError):
        pass  # what is in the cache will do
    if info is not None and not any((file.rfilename or "").endswith(".safetensors") for file in info.siblings or ()):
        raise CheckpointError(
            f"{name!r} on the Hub has no safetensors weights, and pickles are not loaded: "
            "take a revision that holds them (--set model.revision=refs/pr/N, where the Hub's converter opened one), "
            "or download the model and convert it"
        )
    try:
        path = snapshot_download(name, revision=revision, allow_patterns=list(HUB_FILES), local_files_only=not reached)
    except (hub.HfHubHTTPError, hub.LocalEntryNotFoundError, hub.HTTPError, OSError) as error:
        why = "the download failed" if reached else "the Hub cannot be reached now, nor is it in the cache"
        raise CheckpointError(f"{where}, and {why}") from error
    return replace(location, path=Path(path))

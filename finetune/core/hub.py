"""Download models from the Hugging Face Hub, or find them in its cache."""

from __future__ import annotations

import difflib
from dataclasses import replace
from os import PathLike
from pathlib import Path

from finetune.core.errors import CheckpointError
from finetune.core.model_folder import Location, served

HUB_FILES = ("*.json", "model*.safetensors", "vocab*", "merges.txt", "*.model", "tokenizer*")
"""Files that are downloaded."""

HUB_TIMEOUT_S = 10.0


def download(
    location: Location, models_dir: str | PathLike[str] | None = "models", *, revision: str | None = None
) -> Location:
    """Return `location` with the path of its files, downloading a Hub id.

    Without a connection the cache is used. Locations on disk are returned unchanged.

    Args:
        models_dir: the folder of named models, which the error lists.
        revision: branch, tag or commit on the Hub.

    Raises:
        CheckpointError: the Hub has no such model, or no safetensors of it, or cannot be reached and the cache does not
            have it.
    """
    if location.kind != "hub":
        return location
    import huggingface_hub.errors as hub
    from huggingface_hub import snapshot_download

    name = location.name
    names = list(served(models_dir))
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    known = ", ".join(names) or "none"
    where = f"no model {name!r}: {hint}it is neither a folder nor a served name (served: {known})"
    files = _files_on_hub(name, revision, where)
    reached = files is not None
    if files is not None and not any(file.endswith(".safetensors") for file in files):
        raise CheckpointError(
            f"{name!r} on the Hub has no safetensors weights, and pickles are not loaded: "
            "name a revision that has them (--set model.revision=refs/pr/N, if the Hub's converter opened a pull "
            "request), or download the model and convert it"
        )
    try:
        path = snapshot_download(name, revision=revision, allow_patterns=list(HUB_FILES), local_files_only=not reached)
    except (hub.HfHubHTTPError, hub.LocalEntryNotFoundError, hub.HTTPError, OSError) as error:
        why = "the download failed" if reached else "the Hub cannot be reached, and the cache does not have it"
        raise CheckpointError(f"{where}, and {why}") from error
    return replace(location, path=Path(path))


def _files_on_hub(name: str, revision: str | None, where: str) -> list[str] | None:
    """Return the names of a model's files; None if the Hub cannot be reached.

    Raises:
        CheckpointError: there is no such model or revision.
    """
    import huggingface_hub.errors as hub
    from huggingface_hub import HfApi

    try:
        # one short request: snapshot_download would retry for a long time before it fails
        info = HfApi(library_name="rehead").model_info(name, revision=revision, timeout=HUB_TIMEOUT_S)
    except (hub.RepositoryNotFoundError, hub.RevisionNotFoundError, hub.HFValidationError) as error:
        first = " ".join(str(error).split())[:160]
        raise CheckpointError(f"{where}, nor a model on the Hub: {first}") from error
    except (hub.OfflineModeIsEnabled, hub.HTTPError, OSError):
        return None  # the cache is used
    return [file.rfilename or "" for file in info.siblings or ()]

"""Upload of a model folder to the Hub."""

from __future__ import annotations

import re
from typing import NamedTuple

from finetune.core.model_folder import ModelFolder
from service.errors import BadRequest

TEXTS = ("report/errors.csv", "report/label_errors.csv", "report/near_duplicates.csv")
"""Files with texts of the data; uploaded with `with_texts` only."""

MESSAGE = "Upload a model trained with rehead"


class Uploaded(NamedTuple):
    """Where a folder was uploaded: the address of the repository, and the commit."""

    address: str
    commit: str


def upload(
    folder: ModelFolder, repo: str, *, private: bool = False, with_texts: bool = False, message: str = MESSAGE
) -> Uploaded:
    """Upload a model folder, card and all, as the repository `repo` (OWNER/NAME), which is created if it is new.

    Raises:
        BadRequest: the name is invalid, nobody is logged in, or the Hub refused or cannot be reached; says which.
    """
    import huggingface_hub.errors as hub
    from huggingface_hub import HfApi

    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise BadRequest(f"{repo!r} is no repository name: write OWNER/NAME")
    api = HfApi(library_name="rehead")
    try:
        address = api.create_repo(repo, private=private or None, exist_ok=True)
        done = api.upload_folder(
            repo_id=repo,
            folder_path=folder.path,
            commit_message=message,
            ignore_patterns=None if with_texts else list(TEXTS),
        )
    except hub.HFValidationError as error:
        raise BadRequest(f"{repo!r} is no repository name: write OWNER/NAME") from error
    except ValueError as error:  # the Hub's check of the card's metadata
        reason = " ".join(str(error).split())
        raise BadRequest(
            f"the Hub refused the model card ({reason[:300]}): correct {folder.path / 'README.md'}"
        ) from error
    except hub.LocalTokenNotFoundError as error:
        raise BadRequest(
            "you are not logged in to the Hub", hint="log in with `hf auth login`, or set HF_TOKEN"
        ) from error
    except hub.HfHubHTTPError as error:
        code = error.response.status_code if error.response is not None else "no"
        hint = "log in with `hf auth login`, or set HF_TOKEN to a token that may write there"
        first = str(error).strip().splitlines()[0]
        raise BadRequest(
            f"the Hub refused {repo} ({code}: {first[:200]})", hint=hint if code in (401, 403) else ""
        ) from error
    except (hub.HTTPError, ConnectionError, TimeoutError) as error:  # ConnectionError: offline mode too
        raise BadRequest(f"the Hub cannot be reached ({type(error).__name__}); nothing was uploaded") from error
    except OSError as error:
        raise BadRequest(f"the folder of {folder.path} cannot be read: {error}") from error
    return Uploaded(str(address), str(done.oid))

"""`rehead push`: a model folder to the Hub."""

from __future__ import annotations

import re

import click

from service.errors import BadRequest

TEXTS = ("report/errors.csv", "report/near_duplicates.csv")
"""Files with texts of the data; uploaded with --with-texts only."""


@click.command()
@click.argument("model")
@click.argument("repo")
@click.option("--private", is_flag=True, help="Make the repository private, if it is new.")
@click.option("--with-texts", is_flag=True, help=f"Also upload the tables of texts ({', '.join(TEXTS)}).")
@click.option("--message", default="Upload a model trained with rehead", show_default=True, help="Commit message.")
@click.option("--models", "models_dir", default="models", show_default=True, help="Folder of served names.")
def command(model: str, repo: str, private: bool, with_texts: bool, message: str, models_dir: str) -> None:
    """Upload the folder of MODEL, card and all, to the Hub as REPO (OWNER/NAME).

    Log in first with `hf auth login`, or set HF_TOKEN.
    """
    import huggingface_hub.errors as hub
    from huggingface_hub import HfApi

    from service.inference.model_store import resolve

    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise BadRequest(f"{repo!r} is no repository name: write OWNER/NAME")
    folder = resolve(model, models_dir)
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
        raise BadRequest(f"the folder of {model} cannot be read: {error}") from error
    click.echo(f"{folder.path} is at {address} ({done.oid[:7]})")

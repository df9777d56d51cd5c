"""Files of candidate labels: YAML or JSON with descriptions and trees, or text with a name on each line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from service.errors import BadRequest
from service.inference.label_parsing import Labels, labels_of

SUFFIXES = (".yaml", ".yml", ".json")
MAX_BYTES = 10_000_000


def read_labels(path: Path) -> Labels:
    """Return the labels in a file; .yaml, .yml and .json may hold descriptions and trees.

    Raises:
        BadRequest: the file is missing, not UTF-8, too large, no YAML, or its labels cannot be used.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadRequest(f"the label file {path} has more than {MAX_BYTES} bytes")
        content = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise BadRequest(f"there is no label file {path}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise BadRequest(f"the label file {path} cannot be read as UTF-8 text ({error})") from error
    if path.suffix.lower() in SUFFIXES:
        labels = _parsed(path, content)
    else:
        labels = [line.strip() for line in content.splitlines() if line.strip()]
    if not labels:
        raise BadRequest(f"the label file {path} has no label")
    try:
        return labels_of(labels)
    except BadRequest as error:
        raise BadRequest(f"{path}: {error}") from error


class _Loader(yaml.CBaseLoader if yaml.__with_libyaml__ else yaml.BaseLoader):  # type: ignore[misc]
    """Reads every scalar as text (`no` and `007` are labels), and refuses repeated keys and aliases."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Return a mapping.

        Raises:
            ConstructorError: a key stands there twice.
        """
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the label {key.value!r} is there twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_scalar(self, node: Any) -> Any:
        """Return a scalar as text, and an empty one, `~` or `null` as None."""
        return None if not node.style and node.value in ("", "~", "null") else super().construct_scalar(node)


def _parsed(path: Path, content: str) -> Any:
    try:
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(content)):
            raise BadRequest(f"the label file {path} has an alias (*name): write its content out")
        labels = yaml.load(content, Loader=_Loader)
    except yaml.YAMLError as error:
        lines = " ".join(str(error).split())
        raise BadRequest(f"the label file {path} cannot be read as YAML ({lines})") from error
    except RecursionError as error:
        raise BadRequest(f"the label file {path} is nested too deep") from error
    if isinstance(labels, str):
        raise BadRequest(
            f"the label file {path} holds one text: write a list (- name on each line) or a mapping (name: description)"
        )
    return labels

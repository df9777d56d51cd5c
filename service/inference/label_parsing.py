"""Candidate labels as people write them: names, descriptions, phrasings, examples and trees."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from service.errors import BadRequest
from service.inference import zero_shot
from service.schema import LabelText

FIELDS = ("name", "description", "phrasings", "examples", "children")
SEPARATOR = " > "
MAX_DEPTH = 16
MAX_LABELS = 100_000
"""Nodes of a label file; a request of a server has its own, smaller limit."""

Node = tuple[tuple[str, ...], LabelText, bool]
"""Path of a label, what describes it, and whether it has children."""


class Labels(NamedTuple):
    """Labels as a request holds them.

    Attributes:
        names: the labels to choose from; those of a tree as paths, `science > space`.
        texts: the labels that are described, by name or path; also those above others.
    """

    names: tuple[str, ...]
    texts: tuple[tuple[str, LabelText], ...] = ()

    @property
    def words(self) -> list[str]:
        """Every text of the descriptions."""
        return [word for _, text in self.texts for word in (text.description, *text.phrasings, *text.examples) if word]

    def map(self, change: Callable[[str], str]) -> Labels:
        """Return the labels with every text changed."""
        texts = (
            (
                change(name),
                LabelText(
                    change(text.description), tuple(map(change, text.phrasings)), tuple(map(change, text.examples))
                ),
            )
            for name, text in self.texts
        )
        return Labels(tuple(map(change, self.names)), tuple(texts))


def labels_of(labels: Any) -> Labels:
    """Return the labels in a list, a mapping of names to descriptions, or a string with commas.

    An item of a list is a name, or a mapping with `name` and optionally `description`, `phrasings`, `examples` and
    `children`. A value of a mapping is a description, None, such a mapping without `name`, or the labels below it.

    Raises:
        BadRequest: no label, an empty or repeated one, an unknown key, or a value of the wrong type.
    """
    is_described = isinstance(labels, list | tuple) and any(isinstance(label, Mapping) for label in labels)
    if not isinstance(labels, Mapping) and not is_described:
        return _checked([((name,), LabelText(), False) for name in zero_shot.parse_labels(labels)])
    return _checked(list(_nodes(labels, ())))


def _nodes(labels: Any, above: tuple[str, ...]) -> Iterator[Node]:
    if len(above) >= MAX_DEPTH:
        raise BadRequest(f"the labels below {above[0]!r} are nested {MAX_DEPTH} levels deep or more: use fewer levels")
    if isinstance(labels, Mapping):
        for name, value in labels.items():
            yield from _node(name, _fields_of(name, value), above)
        return
    if not isinstance(labels, list | tuple):
        raise BadRequest(f"the labels{_below(above)} must be a list or a mapping, not {type(labels).__name__}")
    for place, item in enumerate(labels, start=1):
        if isinstance(item, str):
            yield from _node(item, {}, above)
        elif isinstance(item, Mapping) and "name" in item:
            yield from _node(item["name"], {key: value for key, value in item.items() if key != "name"}, above)
        elif isinstance(item, Mapping) and item and not any(key in FIELDS for key in item):
            yield from _nodes(item, above)
        else:
            wrong = "has no name" if isinstance(item, Mapping) else f"is {type(item).__name__}"
            raise BadRequest(
                f"label {place}{_below(above)} {wrong}: a label is a string, or an object with name, description, "
                "phrasings and examples"
            )


def _node(name: Any, fields: Mapping[str, Any], above: tuple[str, ...]) -> Iterator[Node]:
    if not isinstance(name, str):
        raise BadRequest(f"the label {name!r}{_below(above)} must be a string, not {type(name).__name__}: quote it")
    for key in fields:
        if key not in FIELDS[1:]:
            raise BadRequest(f"unknown key {key!r} in the label {name!r}: use {', '.join(FIELDS)}")
    description = fields.get("description")
    if description is not None and not isinstance(description, str):
        raise BadRequest(f"description of the label {name!r} must be a string, not {type(description).__name__}")
    text = LabelText(
        (description or "").strip(), _strings(name, "phrasings", fields), _strings(name, "examples", fields)
    )
    path = (*above, name.strip())
    children = fields.get("children")
    yield path, text, bool(children)
    if children:
        yield from _nodes(children, path)


def _fields_of(name: Any, value: Any) -> Mapping[str, Any]:
    """Return the fields of a label from the value that stands under its name."""
    if value is None or isinstance(value, str):
        return {"description": value}
    if isinstance(value, Mapping):
        known = sum(key in FIELDS for key in value)
        if known and known < len(value):
            strange = next(str(key) for key in value if key not in FIELDS)
            raise BadRequest(
                f"the label {name!r} has the key {strange!r} beside {', '.join(FIELDS[1:])}: put labels below it under "
                "children"
            )
        return value if known else {"children": value}
    if isinstance(value, list | tuple):
        return {"children": value}
    raise BadRequest(f"the label {name!r} has a value of type {type(value).__name__}: give a description or an object")


def _strings(name: str, key: str, fields: Mapping[str, Any]) -> tuple[str, ...]:
    values = fields.get(key)
    if values is None:
        return ()
    if not isinstance(values, list | tuple) or not all(isinstance(value, str) and value.strip() for value in values):
        raise BadRequest(f"{key} of the label {name!r} must be a list of strings that are not empty")
    return tuple(value.strip() for value in values)


def _checked(nodes: Sequence[Node]) -> Labels:
    """Return the labels of all nodes.

    Raises:
        BadRequest: none, too many, an empty or repeated one.
    """
    if len(nodes) > MAX_LABELS:
        raise BadRequest(f"there are {len(nodes)} labels or more, and the limit is {MAX_LABELS}")
    names = zero_shot.parse_labels([_joined(path) for path, _, is_inner in nodes if not is_inner])
    texts: dict[str, LabelText] = {}
    for path, text, _ in nodes:
        if text == LabelText():
            continue
        key = _joined(path)
        if key in texts:
            raise BadRequest(f"the label {key!r} is described twice")
        texts[key] = text
    return Labels(names, tuple(texts.items()))


def _joined(path: tuple[str, ...]) -> str:
    """Return a path in one string, empty where its last part is empty, so that it is refused."""
    return SEPARATOR.join(path) if path[-1] else ""


def _below(above: tuple[str, ...]) -> str:
    return f" below {SEPARATOR.join(above)!r}" if above else ""

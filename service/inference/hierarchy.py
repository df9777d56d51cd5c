"""Labels in a tree (`science > space`), scored level by level with a beam."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

from service.errors import BadRequest
from service.inference.label_parsing import MAX_DEPTH, SEPARATOR
from service.inference.steps import Steps
from service.schema import Answer, ZeroShotRequest

MAX_BEAM = 1000
BETWEEN = re.compile(r"\s+>\s+")

Path = tuple[str, ...]
Flat = Callable[[Sequence[str], Sequence[ZeroShotRequest]], Steps[list[Answer]]]
"""The steps to scores of labels without a tree, one request for each text."""


@dataclass(frozen=True)
class Tree:
    """The labels of a request.

    Attributes:
        leaves: paths of the labels to choose from.
        children: paths below each path; those of the highest level are below the empty one.
        requests: the request that scores the children of a path, where there are several or each is scored alone.
    """

    leaves: tuple[Path, ...]
    children: dict[Path, tuple[Path, ...]]
    requests: dict[Path, ZeroShotRequest]


def scored(texts: Sequence[str], requests: Sequence[ZeroShotRequest], flat: Flat) -> Steps[list[Answer]]:
    """Return the steps to an answer for each text; labels without a tree are left to `flat`.

    Raises:
        BadRequest: a tree or its beam cannot be used.
    """
    trees = {id(request): is_tree(request) for request in requests}
    rows: dict[bool, list[int]] = {False: [], True: []}
    for row, request in enumerate(requests):
        rows[trees[id(request)]].append(row)
    answers: dict[int, Answer] = {}
    for steps, part in ((flat, rows[False]), (partial(_levels, flat=flat), rows[True])):
        if part or not requests:
            parts = yield from steps([texts[row] for row in part], [requests[row] for row in part])
            answers.update(zip(part, parts, strict=True))
    return [answers[row] for row in range(len(texts))]


def _levels(texts: Sequence[str], requests: Sequence[ZeroShotRequest], *, flat: Flat) -> Steps[list[Answer]]:
    """Return the steps to an answer for each text, each level of all texts in one call of `flat`.

    The score of a label is the product of the scores along its path. Below each level the `beam` best labels are
    followed; labels that are not reached score 0. Unless several labels may be true, scores are divided by their sum.
    """
    trees = [tree_of(request) for request in requests]
    reached: list[dict[Path, float]] = [{(): 1.0} for _ in texts]
    scores: list[dict[Path, float]] = [{} for _ in texts]
    truncated = [False] * len(texts)
    while True:
        work = [(row, path) for row, front in enumerate(reached) for path in front]
        if not work:
            break
        asked = [item for item in work if item[1] in trees[item[0]].requests]
        answers = yield from flat([texts[row] for row, _ in asked], [trees[row].requests[path] for row, path in asked])
        by_item = dict(zip(asked, answers, strict=True))
        below: list[dict[Path, float]] = [{} for _ in texts]
        for row, path in work:
            answer = by_item.get((row, path))
            own = (1.0,) if answer is None else answer.scores
            truncated[row] |= answer is not None and answer.truncated
            for child, score in zip(trees[row].children[path], own, strict=True):
                goal = below if child in trees[row].children else scores
                goal[row][child] = reached[row][path] * score
        reached = [_best(front, request.beam) for front, request in zip(below, requests, strict=True)]
    return [
        _answer(request, tree, row, cut)
        for request, tree, row, cut in zip(requests, trees, scores, truncated, strict=True)
    ]


def is_tree(request: ZeroShotRequest) -> bool:
    """Return whether a request has labels below others; none has with `beam` 0.

    Raises:
        BadRequest: `beam` is no whole number from 0.
    """
    if isinstance(request.beam, bool) or not isinstance(request.beam, int) or not 0 <= request.beam <= MAX_BEAM:
        raise BadRequest(f"beam must be a whole number from 0 to {MAX_BEAM}, not {request.beam!r}")
    return bool(request.beam) and any(len(path_of(name)) > 1 for name in request.labels)


def path_of(name: str) -> Path:
    """Return the parts of a label: one, or several where it is written `a > b`."""
    return tuple(BETWEEN.split(name.strip())) if ">" in name else (name,)


@lru_cache(maxsize=256)
def tree_of(request: ZeroShotRequest) -> Tree:
    """Return the tree of a request's labels.

    Raises:
        BadRequest: a label has others below it and is one to choose too, or there is a shortlist.
    """
    if request.shortlist is not None:
        raise BadRequest("shortlist does not go with labels in a tree, which beam shortens: leave one of them out")
    if request.profile is not None:
        raise BadRequest("a profile does not go with labels in a tree: leave one of them out, or set beam to 0")
    leaves = tuple(map(path_of, request.labels))
    _check(leaves)
    below: dict[Path, dict[Path, None]] = {}
    for path in leaves:
        for depth in range(len(path)):
            below.setdefault(path[:depth], {})[path[: depth + 1]] = None
    described = {path_of(name): text for name, text in request.texts}
    children = {path: tuple(own) for path, own in below.items()}
    requests = {}
    for path, own in children.items():
        if len(own) > 1 or request.multi_label:
            texts = [(child[-1], described.get(child)) for child in own]
            names = tuple(child[-1] for child in own)
            named = tuple((name, text) for name, text in texts if text is not None)
            requests[path] = replace(request, labels=names, texts=named)
    return Tree(leaves, children, requests)


def _check(leaves: Sequence[Path]) -> None:
    """Raise BadRequest where a label has others below it, or is nested too deep."""
    seen = set(leaves)
    for path in leaves:
        if len(path) > MAX_DEPTH:
            raise BadRequest(f"the label {SEPARATOR.join(path)[:40]!r} has {len(path)} levels, more than {MAX_DEPTH}")
        above = next((path[:depth] for depth in range(1, len(path)) if path[:depth] in seen), None)
        if above is not None:
            name = SEPARATOR.join(above)
            raise BadRequest(
                f"the label {name!r} has labels below it, so that it is no answer itself: leave it out, or add "
                f"'{name}{SEPARATOR}other'"
            )
    if len(seen) < len(leaves):
        raise BadRequest("two labels are the same path")


def _best(front: dict[Path, float], beam: int) -> dict[Path, float]:
    """Return the labels with the highest scores, the first of equals."""
    return {path: front[path] for path in sorted(front, key=lambda path: -front[path])[:beam]}


def _answer(request: ZeroShotRequest, tree: Tree, scores: dict[Path, float], truncated: bool) -> Answer:
    values = [scores.get(path, 0.0) for path in tree.leaves]
    total = sum(values)
    if not request.multi_label and total > 0:
        values = [value / total for value in values]
    return Answer(request.labels, tuple(values), truncated)

"""Measure how sure models are: `python benchmarks/calibration.py profiles --data ../shared/data`.

profiles: accuracy and calibration error of zero-shot models without and with a profile from other, unlabeled texts.
    Its defaults were chosen on trec, banking77 and snips; the other sets are only measured.
scope: how well out-of-scope texts of clinc150 are separated from others, by several scores; `--model` is fine-tuned on
    clinc150/train without its out-of-scope rows, and the shipped model `topics` scores the ten domains.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import rehead
from finetune.core.tables.files import read_table
from finetune.data.nli_pairs import spelled_out
from finetune.evaluation.intervals import wilson
from finetune.evaluation.metrics import brier, calibration_error
from service.inference import zero_shot
from service.inference.profile import profiled
from service.profiling import STRENGTH, biases_of, estimated_priors

SEED = 0
OUT_OF_SCOPE = "oos"
FALSE_ALARMS = 0.05
CHOSEN_ON = {"trec": "trec/train", "snips": "snips/train", "banking77": "banking77/train"}
MEASURED = {"dbpedia14": "dbpedia14/sample", "stackoverflow_titles": "stackoverflow_titles/all"}
LANGUAGES = ("eng_Latn", "deu_Latn", "swh_Latn", "zho_Hans")


def sets(data: Path, rows: int) -> Any:
    """Yield the name of each set, the model for it, texts and labels; `rows` drawn with the seed."""
    for name, file in (CHOSEN_ON | MEASURED).items():
        table = read_table(data / f"{file}.parquet").rows
        picked = np.random.default_rng(SEED).permutation(len(table))[:rows]
        yield name, "topics", [table[place]["text"] for place in picked], [table[place]["label"] for place in picked]
    table = read_table(data / "sib200/dev.parquet").rows
    for language in LANGUAGES:
        part = [row for row in table if row["lang"] == language]
        picked = np.random.default_rng(SEED).permutation(len(part))[:rows]
        yield (
            f"sib200 {language}",
            "topics-multilingual",
            *zip(*((part[i]["text"], part[i]["label"]) for i in picked), strict=True),
        )


def profiles(args: argparse.Namespace) -> None:
    """Print a row for each set, where each half of the texts is measured with the profile of the other half."""
    models: dict[str, Any] = {}
    print("| set | rows | labels | accuracy | 95% | with profile | 95% | estimated | ECE | with profile | estimated |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for name, model, texts, labels in sets(args.data, args.rows):
        models.setdefault(model, rehead.ZeroShotClassifier(model, models_dir=None))
        names = sorted(set(labels))
        targets = np.array([names.index(label) for label in labels])
        plain = models[model].predict_proba(list(texts), [spelled_out(label) for label in names])
        print(row_of(name, plain, targets), flush=True)


def row_of(name: str, plain: Any, targets: Any) -> str:
    """Return a row of the table of profiles."""
    results = [plain, crossed(plain, estimate=False), crossed(plain, estimate=True)]
    cells = [name, f"{len(targets):,}", str(plain.shape[1])]
    for scores in results[:2]:
        right = int((scores.argmax(axis=1) == targets).sum())
        low, high = wilson(right, len(targets))
        cells += [f"{right / len(targets):.3f}", f"{low:.3f} to {high:.3f}"]
    cells += [f"{(results[2].argmax(axis=1) == targets).mean():.3f}"]
    cells += [f"{calibration_error(scores, targets):.3f}" for scores in results]
    return f"| {' | '.join(cells)} |"


def crossed(scores: Any, *, estimate: bool) -> Any:
    """Return the scores of each half of the texts with the profile of the other half."""
    halves = np.random.default_rng(SEED).permutation(len(scores)) % 2
    result = np.empty_like(scores)
    for half in (0, 1):
        known = scores[halves != half]
        priors = estimated_priors(known) if estimate else np.full(scores.shape[1], 1 / scores.shape[1])
        result[halves == half] = profiled(scores[halves == half], STRENGTH * biases_of(known, priors), 1.0)
    return result


def picked(rows: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Return rows in scope, drawn with the seed."""
    inside = [row for row in rows if row["label"] != OUT_OF_SCOPE]
    return [inside[place] for place in np.random.default_rng(SEED).permutation(len(inside))[:count]]


def scope(args: argparse.Namespace) -> None:
    """Print a row for each model and score."""
    rows = read_table(args.data / "clinc150/val.parquet").rows
    rows = [row for row in rows if row["label"] == OUT_OF_SCOPE] + picked(rows, args.rows)
    outside = np.array([row["label"] == OUT_OF_SCOPE for row in rows])
    texts = [row["text"] for row in rows]
    print(f"clinc150/val: {len(rows):,} rows, {outside.sum()} of them out of scope")
    print("| model | score | AUROC | recall at 5% false alarms | 95% |\n|---|---|---|---|---|")
    model = rehead.ZeroShotClassifier("topics", models_dir=None)
    domains = sorted({spelled_out(row["domain"]) for row in rows if row["label"] != OUT_OF_SCOPE})
    recorded, nli = model.folder.settings.zero_shot, model.folder.labels.nli
    raw = model.engine.raw_scores(texts, domains, recorded.hypothesis_template, "both", recorded.attention)
    options = {"roles": nli, "scorer": recorded.scorer, "fusion": recorded.fusion, "multi_label": False}
    collapsed = zero_shot.collapse(raw.logits, raw.cosine, **options)
    entailed = raw.logits[..., nli.entailment] - raw.logits[..., nli.contradiction]
    _scores_of_scope(
        "zero-shot, 10 domains",
        outside,
        {
            "highest score": collapsed.max(axis=1),
            "highest entailment minus contradiction": entailed.max(axis=1),
            "energy of entailment": _energy(entailed),
            "highest cosine with a label": raw.cosine.max(axis=1),
        },
    )
    if args.model is None:
        return
    tuned = rehead.load(args.model)
    logits = tuned.engine.scores(texts, function="none")
    scores = tuned.folder.settings.scores(logits)
    inside = ~outside
    truth = np.array([tuned.labels.index(row["label"]) for row in rows if row["label"] != OUT_OF_SCOPE])
    print(
        f"fine-tuned: accuracy in scope {(scores[inside].argmax(axis=1) == truth).mean():.3f}, calibration error "
        f"{calibration_error(scores[inside], truth):.3f}, Brier score {brier(scores[inside], truth):.3f}"
    )
    _scores_of_scope(
        "fine-tuned, 150 intents",
        outside,
        {
            "highest score": scores.max(axis=1),
            "highest logit": logits.max(axis=1),
            "energy of logits": _energy(logits),
        },
    )
    sets = tuned.folder.settings.prediction_sets
    if sets is not None:
        members = (scores >= sets.lowest_score).sum(axis=1)
        covered = scores[inside][np.arange(inside.sum()), truth] >= sets.lowest_score
        print(
            f"prediction sets, coverage {sets.coverage:g}: {covered.mean():.3f} in scope hold the true intent; empty: "
            f"{(members[inside] == 0).mean():.3f} in scope, {(members[outside] == 0).mean():.3f} out of scope; not one "
            f"label: {(members[inside] != 1).mean():.3f} in scope, {(members[outside] != 1).mean():.3f} out of scope"
        )


def _energy(logits: Any) -> Any:
    highest = logits.max(axis=1)
    return highest + np.log(np.exp(logits - highest[:, None]).sum(axis=1))


def _scores_of_scope(model: str, outside: Any, scores: dict[str, Any]) -> None:
    from sklearn.metrics import roc_auc_score

    for name, values in scores.items():
        bound = np.quantile(values[~outside], FALSE_ALARMS)
        caught = int((values[outside] < bound).sum())
        low, high = wilson(caught, int(outside.sum()))
        area = roc_auc_score(outside, -values)
        print(f"| {model} | {name} | {area:.3f} | {caught / outside.sum():.2f} | {low:.2f} to {high:.2f} |", flush=True)


def main() -> None:
    """Run one of the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["profiles", "scope"])
    parser.add_argument("--data", type=Path, required=True, help="the folder of the sets")
    parser.add_argument("--rows", type=int, default=1500, help="rows of each set")
    parser.add_argument("--model", help="a model fine-tuned on clinc150/train without its out-of-scope rows")
    args = parser.parse_args()
    profiles(args) if args.what == "profiles" else scope(args)


if __name__ == "__main__":
    main()
